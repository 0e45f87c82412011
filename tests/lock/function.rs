//! The binary as Lambda runs it: behind the Runtime API, with variables, logs and a deadline.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use crate::support;
use crate::support::lambda::Function;
use crate::support::lock::{CHANGED_AT, LOCKED, PRIMARY, alarm, delivered, message};
use crate::support::primary::Primary;
use crate::support::program::says_its_version;
use crate::support::route53::{Check, Fault, Route53};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(20);

async fn start(handler: &str, route53: &Route53) -> Function {
    Function::start(handler, &[("AWS_ENDPOINT_URL", &route53.url())]).await
}

async fn with_check(check: Check) -> Route53 {
    let route53 = Route53::start().await;
    route53.put(PRIMARY, check);
    route53
}

#[tokio::test]
async fn an_alarm_locks_and_a_request_restores() {
    let primary = Primary::start("/lb-check").await;
    let route53 = with_check(Check::new("HTTP", primary.address.port())).await;
    let lock = start("lock", &route53).await;
    let answer = lock.invoke(alarm(), TIMEOUT).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "locked");
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
    let restore = start("restore", &route53).await;
    let answer = restore.invoke(json!({ "healthCheckId": PRIMARY }).to_string(), TIMEOUT).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "restored");
    assert_eq!(route53.check(PRIMARY).path(), "/lb-check");
}

#[tokio::test]
async fn bad_input_is_an_error_that_names_it_and_the_next_event_is_served() {
    let route53 = with_check(Check::new("HTTP", 80)).await;
    let function = start("lock", &route53).await;
    let deep = format!(r#"{{"Route53":0,"AlarmName":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let long =
        json!({ "Records": [{ "Sns": { "Message": format!("{{\"Route53\":0,\"AlarmName\":{}", "x".repeat(256 * 1024)) } }] }).to_string();
    let mut many = String::new();
    for key in 0..20_000 {
        let _ = write!(many, r#""key{key}":"","#);
    }
    let other_service = json!({ "Records": [{ "eventSource": "aws:s3", "s3": {} }] }).to_string();
    for (event, said) in [
        (&b""[..], "the event is not JSON: EOF"),
        (b"{", "the event is not JSON: EOF"),
        (b"\xff\xfe", "the event is not JSON: expected value"),
        (b"\"\xff\"", "the event is not JSON: invalid unicode"),
        (b"null", "the event cannot be read: invalid type: null"),
        (b"5", "the event cannot be read: invalid type: integer"),
        (b"[]", "the event cannot be read: invalid type: sequence"),
        (b"{}", "an empty object is not a CloudWatch alarm"),
        (br#"{"Records":{}}"#, "the list of records cannot be read: invalid type: map"),
        (br#"{"Records":[]}"#, "an event without records"),
        (br#"{"Records":[5]}"#, "record 1: the SNS record cannot be read: invalid type: integer"),
        (br#"{"Records":[{}]}"#, "a record without Sns"),
        (
            br#"{"Records":[{"Sns":{"Message":{}}}]}"#,
            "record 1: the SNS record cannot be read: invalid type: map",
        ),
        (other_service.as_bytes(), r#"record 1: a record from "aws:s3" is not a CloudWatch alarm"#),
        (br#"{"healthCheckId":"x"}"#, "this is a request to restore"),
        (delivered(&[&message("", "ALARM", CHANGED_AT)]).as_bytes(), "\"\" is not a health check id"),
        (delivered(&[&message(PRIMARY, "BROKEN", CHANGED_AT)]).as_bytes(), "unknown variant `BROKEN`"),
        (delivered(&[&message(PRIMARY, "ALARM", "noon")]).as_bytes(), "the alarm's message cannot be read"),
        (delivered(&[&deep]).as_bytes(), "the alarm's message cannot be read"),
        (deep.as_bytes(), "the alarm's message cannot be read"),
        (long.as_bytes(), "the alarm's message cannot be read"),
        (format!("{{{many}\"end\":0}}").as_bytes(), "is not a CloudWatch alarm"),
    ] {
        let shown = String::from_utf8_lossy(&event[..event.len().min(80)]);
        let error = function.invoke(event.to_vec(), TIMEOUT).await.expect_err(&shown);
        let text = error["errorMessage"].as_str().unwrap();
        assert_eq!(error["errorType"], "MalformedEvent", "{shown}");
        assert!(text.contains(said), "{shown}: {text}");
        assert!(text.len() < 1000, "{shown}: {} bytes", text.len());
    }
    assert_eq!(route53.calls(), [""; 0]);
    let answer = function.invoke(alarm(), TIMEOUT).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "locked");
}

#[tokio::test]
async fn an_error_has_a_type_that_an_alarm_can_name() {
    let route53 = with_check(Check::new("HTTP", 80).with("Inverted", "true")).await;
    let lock = start("lock", &route53).await;
    let restore = start("restore", &route53).await;
    let second = |event| lock.invoke(event, TIMEOUT);
    assert_eq!(second("{}".to_owned()).await.unwrap_err()["errorType"], "MalformedEvent");
    assert_eq!(second(alarm()).await.unwrap_err()["errorType"], "LockCannotHold");
    let two = support::recorded("sns/metric-math-two-checks.json");
    assert_eq!(second(two).await.unwrap_err()["errorType"], "AmbiguousAlarm");
    assert_eq!(restore.invoke("{}", TIMEOUT).await.unwrap_err()["errorType"], "BadRequest");
    route53.put(PRIMARY, Check::new("HTTP", 80).with("ResourcePath", "/elsewhere"));
    let request = json!({ "healthCheckId": PRIMARY }).to_string();
    assert_eq!(restore.invoke(request, TIMEOUT).await.unwrap_err()["errorType"], "RestoreRefused");
    route53.fail_always("GetHealthCheck", Fault::Error(404, "NoSuchHealthCheck", "gone"));
    assert_eq!(second(alarm()).await.unwrap_err()["errorType"], "NoSuchHealthCheck");
}

#[tokio::test]
async fn a_route_53_that_never_answers_is_an_error_before_the_deadline() {
    for operation in ["GetHealthCheck", "UpdateHealthCheck"] {
        let route53 = with_check(Check::new("HTTP", 80)).await;
        route53.fail_always(operation, Fault::Hang);
        let function = start("lock", &route53).await;
        let end = SystemTime::now() + Duration::from_secs(3);
        let error = function.invoke(alarm(), Duration::from_secs(3)).await.unwrap_err();
        assert!(SystemTime::now() < end, "Lambda had ended the invocation by then");
        let text = error["errorMessage"].as_str().unwrap();
        assert!(text.contains(PRIMARY) && text.contains(&format!("{operation}: no answer within")), "{text}");
        assert_eq!(error["errorType"], "AwsUnavailable");
    }
}

#[tokio::test]
async fn what_cannot_be_used_stops_the_start_and_is_named() {
    for (handler, variables, said) in [
        (
            "lambda.handler",
            &[][..],
            r#"_HANDLER: "lambda.handler" is not a handler of this function: set it to lock, restore or reconcile"#,
        ),
        ("lock", &[("LOCKED_PATH", "/lb-check")], "LOCKED_PATH: it equals HEALTHY_PATH"),
        ("lock", &[("GUARDED_HEALTH_CHECKS", "")], "GUARDED_HEALTH_CHECKS"),
        ("restore", &[("DRY_RUN", "perhaps")], "DRY_RUN"),
        ("lock", &[("RUST_LOG", "lock=shout")], "RUST_LOG: \"lock=shout\" is invalid"),
        ("lock", &[("RUST_LOG", "inof")], "RUST_LOG: \"inof\" is invalid"),
        ("lock", &[("AWS_CA_BUNDLE", "/no/such.pem")], "AWS_CA_BUNDLE: \"/no/such.pem\": No such file"),
        (
            "lock",
            &[("AWS_CA_BUNDLE", "Cargo.toml")],
            "AWS_CA_BUNDLE: \"Cargo.toml\": it holds no certificate",
        ),
        (
            "lock",
            &[("AWS_USE_FIPS_ENDPOINT", "yes")],
            "AWS_USE_FIPS_ENDPOINT: \"yes\" is neither true nor false",
        ),
        (
            "reconcile",
            &[],
            "GUARDED_HEALTH_CHECKS, GUARDED_TAG: reconcile works on the health checks that one of them names",
        ),
    ] {
        let (status, lines) = Function::start(handler, variables).await.ended().await;
        assert!(!status.success(), "{variables:?}");
        let line: Value = serde_json::from_str(lines.last().expect("it says why")).unwrap();
        assert_eq!(line["level"], "ERROR");
        assert!(line["error"].as_str().unwrap().contains(said), "{line}");
    }
}

#[tokio::test]
async fn each_record_leaves_two_lines_that_can_be_searched_and_none_holds_the_event() {
    let route53 = with_check(Check::new("HTTP", 80)).await;
    let variables = [("AWS_ENDPOINT_URL", route53.url()), ("RUST_LOG", "trace".to_owned())];
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let function = Function::start("lock", &variables).await;
    let secret = message(PRIMARY, "ALARM", CHANGED_AT).replace("null", "\"s3cret description\"");
    function.invoke(delivered(&[&secret]), TIMEOUT).await.unwrap();
    let other = message("../x", "ALARM", CHANGED_AT);
    function.invoke(delivered(&[&other]), TIMEOUT).await.unwrap_err();
    let lines = function.stop().await;
    assert!(!lines.iter().any(|line| line.contains("s3cret")), "{lines:#?}");

    let lines: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let configured = "HEALTHY_PATH=/lb-check LOCKED_PATH=/lb-check-failed-over GUARDED_HEALTH_CHECKS=(unset) \
        SECONDARY_HEALTH_CHECKS=(unset) ALARM_ACTIONS=(unset) DRY_RUN=false";
    assert_eq!((&lines[0]["message"], &lines[0]["config"]), (&"starting".into(), &configured.into()));
    assert!(
        lines[0]["version"].as_str().is_some_and(|version| version.starts_with(env!("CARGO_PKG_VERSION"))),
        "{}",
        lines[0]
    );
    let said = |what: &str| lines.iter().filter(|line| line["message"] == what).collect::<Vec<_>>();
    let [decided] = said("decided")[..] else { panic!("{lines:#?}") };
    assert_eq!((&decided["healthCheckId"], &decided["decision"]), (&PRIMARY.into(), &"lock".into()));
    assert_eq!((&decided["alarm"], &decided["state"]), (&"primary-unhealthy".into(), &"ALARM".into()));
    let [done, failed] = said("done")[..] else { panic!("{lines:#?}") };
    assert_eq!((&done["outcome"], &done["path"]), (&"locked".into(), &LOCKED.into()));
    assert!(done["span"]["requestId"].is_string(), "{done}");
    assert_eq!((&failed["level"], &failed["errorType"]), (&"ERROR".into(), &"MalformedEvent".into()));
}

#[tokio::test]
async fn outcomes_are_counted_in_the_embedded_metric_format() {
    let primary = Primary::start("/lb-check").await;
    let route53 = with_check(Check::new("HTTP", primary.address.port())).await;
    let url = route53.url();
    let variables = [("AWS_ENDPOINT_URL", url.as_str()), ("GUARDED_HEALTH_CHECKS", PRIMARY)];
    let request = json!({ "healthCheckId": PRIMARY }).to_string();
    let mut counted = Vec::new();
    for (handler, event) in [
        ("reconcile", support::recorded("eventbridge/scheduled.json")),
        ("lock", support::recorded("sns/other-service-alarm.json")),
        ("lock", alarm()),
        ("lock", alarm()),
        ("lock", "{}".to_owned()),
        ("restore", request.clone()),
        // Restored already: nothing happened that is worth counting.
        ("restore", request),
        // It tells of every restore, also of one by hand.
        ("reconcile", support::recorded("eventbridge/scheduled.json")),
    ] {
        let function = Function::start(handler, &variables).await;
        let _ = function.invoke(event, TIMEOUT).await;
        for line in function.stop().await {
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["_aws"].is_null() {
                continue;
            }
            let directive = &line["_aws"]["CloudWatchMetrics"][0];
            assert_eq!(directive["Namespace"], "FailoverLock");
            assert!(line["_aws"]["Timestamp"].is_u64(), "{line}");
            let name = directive["Metrics"][0]["Name"].as_str().unwrap();
            assert_eq!(directive["Metrics"], json!([{ "Name": name, "Unit": "Count" }]));
            assert_eq!(line[name], 1);
            let of_check = line["HealthCheckId"] == PRIMARY;
            let dimensions = if of_check { json!([[], ["HealthCheckId"]]) } else { json!([[]]) };
            assert_eq!(directive["Dimensions"], dimensions);
            counted.push((name.to_owned(), of_check));
        }
    }
    let counted: Vec<_> = counted.iter().map(|(name, of_check)| (name.as_str(), *of_check)).collect();
    assert_eq!(
        counted,
        [
            ("Unprotected", true),
            ("Ignored", false),
            ("Locked", true),
            ("AlreadyLocked", true),
            // It names no check, and only one is guarded.
            ("Failed", true),
            ("Restored", true),
            ("Unprotected", true),
            ("Restored", true),
        ]
    );
}

#[tokio::test]
async fn hostile_input_never_fills_the_log() {
    let route53 = with_check(Check::new("HTTP", 80)).await;
    let function = start("lock", &route53).await;
    let long = "x".repeat(150_000);
    for message in [
        message(&long, "ALARM", CHANGED_AT),
        message(PRIMARY, &long, CHANGED_AT),
        message(PRIMARY, "ALARM", &long),
    ] {
        let error = function.invoke(delivered(&[&message]), TIMEOUT).await.unwrap_err();
        assert!(error["errorMessage"].as_str().unwrap().len() < 1000, "{error}");
    }
    let longest = function.stop().await.into_iter().map(|line| line.len()).max();
    assert!(longest < Some(2000), "{longest:?} bytes in one line");
}

#[tokio::test]
async fn what_is_done_in_doubt_is_a_warning() {
    let route53 = with_check(Check::new("HTTP", 80).with("ResourcePath", "/elsewhere").changed()).await;
    let denied = Fault::Error(403, "AccessDenied", "not authorized");
    route53.fail_always("ListTagsForResource", denied.clone());
    route53.fail_always("ChangeTagsForResource", denied.clone());
    let function = start("lock", &route53).await;
    function.invoke(alarm(), TIMEOUT).await.unwrap();
    route53.put(PRIMARY, Check::new("HTTP", 80));
    route53.fail("GetHealthCheck", denied);
    function.invoke(alarm(), TIMEOUT).await.unwrap();
    let lines = function.stop().await;
    let lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let warnings: Vec<_> = lines.filter(|line| line["level"] == "WARN").collect();
    for (what, of) in [
        ("locking a check that is on neither path of this function; a restore sets this path again", 1),
        ("taking the alarm for newer than the last restore", 2),
        ("the lock could not be recorded; reconcile records it if the path shows it", 2),
        ("locking without reading the check first", 1),
    ] {
        assert_eq!(
            warnings.iter().filter(|line| line["message"] == what).count(),
            of,
            "{what}: {warnings:#?}"
        );
    }
}

#[test]
fn it_says_its_version_without_an_event() {
    says_its_version("failover-lock");
}
