//! The binary `site-fence` as Lambda runs it: behind the Runtime API, with variables, logs and a deadline.

use std::time::Duration;

use crate::support;
use crate::support::accelerator::{Accelerator, Fault, Group};
use crate::support::lambda::Function;
use crate::support::program::says_its_version;
use crate::support::recorded;
use crate::support::sites::{DNS_NAME, INFINISPAN_PASSWORD, LABEL, PASSWORD, REGION, Sites, alert};
use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(20);

async fn start(handler: &str, sites: &Sites, changes: &[(&'static str, &str)]) -> Function {
    let mut variables = sites.variables();
    variables.extend(changes.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Function::start_program("site-fence", handler, &variables).await
}

#[tokio::test]
async fn a_webhook_fences_and_a_request_rejoins_and_both_are_logged_and_counted() {
    let sites = Sites::start().await;
    let fence = start("fence", &sites, &[]).await;
    let answer = fence.invoke(alert("site-a", "site-b"), TIMEOUT).await.unwrap();
    assert_eq!((&answer["statusCode"], &answer["body"]), (&json!(204), &Value::Null));
    let answer = fence.invoke(alert("site-b", "site-a"), TIMEOUT).await.unwrap();
    assert_eq!(answer["statusCode"], 204);
    let answer = fence.invoke(recorded("alertmanager/missing-site.json"), TIMEOUT).await.unwrap();
    assert_eq!(answer["statusCode"], 400);
    let rejoin = start("rejoin", &sites, &[]).await;
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b", "reason": "INC-1" }).to_string();
    let answer = rejoin.invoke(request, TIMEOUT).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "rejoined");
    assert_eq!(sites.in_service().len(), 2);

    let lines = [fence.stop().await, rejoin.stop().await].concat();
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = |what: &str| lines.iter().filter(|line| line["message"] == what).collect::<Vec<_>>();
    let decisions: Vec<_> = said("decided").iter().map(|line| line["decision"].clone()).collect();
    assert_eq!(decisions, ["remove_endpoints", "refuse", "take_offline", "add_endpoints"]);
    let done = said("done");
    let outcomes: Vec<_> = done.iter().map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes, ["fenced", "refused", "failed", "already_fenced", "rejoined"]);
    assert_eq!(
        (&done[0]["site"], &done[0]["reporter"], &done[0]["accelerator"]),
        (&json!("site-b"), &json!("site-a"), &json!(DNS_NAME))
    );
    assert!(done[1]["detail"].as_str().unwrap().starts_with("site-a reported site-b at "), "{}", done[1]);
    assert_eq!(done[2]["errorType"], "MalformedAlert");
    assert!(done[0]["span"]["requestId"].is_string(), "{}", done[0]);

    let mut counted = Vec::new();
    for line in lines.iter().filter(|line| !line["_aws"].is_null()) {
        let directive = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(directive["Namespace"], "SiteFence");
        assert_eq!(directive["Dimensions"], json!([[], ["FunctionName"]]));
        assert!(line["FunctionName"].is_string(), "{line}");
        counted.push(directive["Metrics"][0]["Name"].as_str().unwrap());
    }
    assert_eq!(counted, ["Fenced", "Refused", "Failed", "AlreadyFenced", "Rejoined"]);
}

#[tokio::test]
async fn a_site_that_is_out_counts_as_fenced_although_the_call_after_that_fails() {
    let sites = Sites::start().await;
    let fence = start("fence", &sites, &[]).await;
    let then = Fault::meddle(|accelerators| {
        accelerators
            .fail_always("ListEndpointGroups", Fault::Error("AccessDeniedException", "not authorized"));
    });
    sites.accelerators.fail("RemoveEndpoints", then);
    let answer = fence.invoke(alert("site-a", "site-b"), TIMEOUT).await.unwrap();
    assert_eq!(answer["statusCode"], 503, "{answer}");
    let lines = fence.stop().await;
    let counts = |name: &str| lines.iter().any(|line| line.contains(&format!(r#"{{"Name":"{name}""#)));
    assert!(counts("Fenced") && counts("Failed"), "{lines:#?}");
}

#[tokio::test]
async fn a_site_that_is_out_counts_as_fenced_although_it_would_be_refused_after_that() {
    let sites = Sites::start().await;
    let fence = start("fence", &sites, &[]).await;
    // The answer is lost, and before the next look someone notes the reporter as out.
    let [a, _] = sites.both();
    let meddle = Fault::meddle(move |ga| {
        let before = Accelerator::new(LABEL);
        let tags = ga.tags(&before.arn);
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let left = before.listener([Group::new(REGION, [a.clone()])]);
        let left = tags.iter().fold(left, |left, (key, value)| left.tagged(key, value));
        ga.put(left.tagged("site-fence:site-a", &format!("{now} +person")));
    });
    sites.accelerators.fail("RemoveEndpoints", Fault::CloseAfter);
    sites.accelerators.fail("ListTagsForResource", Fault::meddle(|_| {}));
    sites.accelerators.fail("ListTagsForResource", meddle);
    let answer = fence.invoke(alert("site-a", "site-b"), TIMEOUT).await.unwrap();
    assert_eq!(answer["statusCode"], 503, "{answer}");
    let said = answer.to_string();
    assert!(
        said.contains("the site is out of the accelerator") && said.contains("reporter_was_fenced"),
        "{said}"
    );
    let lines = fence.stop().await;
    let counts = |name: &str| lines.iter().any(|line| line.contains(&format!(r#"{{"Name":"{name}""#)));
    assert!(counts("Fenced") && counts("Failed"), "{lines:#?}");
}

#[tokio::test]
async fn no_secret_is_logged_whatever_the_request() {
    let sites = Sites::start().await;
    let fence = start("fence", &sites, &[("RUST_LOG", "trace")]).await;
    let mut answers = Vec::new();
    for entry in std::fs::read_dir("events/alertmanager").unwrap() {
        let event = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        answers.push(format!("{:?}", fence.invoke(event, TIMEOUT).await));
    }
    sites.secret("infinispan-password", "another one").await;
    sites.a.set_online("site-b", "work", true);
    answers.push(format!("{:?}", fence.invoke(alert("site-a", "site-b"), TIMEOUT).await));
    let encoded = "YWxlcnRtYW5hZ2VyOmV4YW1wbGUtcGFzc3dvcmQ=";
    for line in fence.stop().await.iter().chain(&answers) {
        for secret in [PASSWORD, encoded, INFINISPAN_PASSWORD, "another one", "changeme"] {
            assert!(!line.contains(secret), "{secret}: {line}");
        }
        // An SDK's own lines are long, and are absent in a release build.
        let is_ours = !line.contains("\"target\":\"aws_") && !line.contains("TRACE");
        assert!(!is_ours || line.len() < 4000, "{} bytes in one line: {line}", line.len());
    }
}

#[tokio::test]
async fn a_call_that_hangs_is_answered_before_the_deadline() {
    let sites = Sites::start().await;
    sites.accelerators.fail_always("ListListeners", support::accelerator::Fault::Hang);
    let fence = start("fence", &sites, &[]).await;
    let answer = fence.invoke(alert("site-a", "site-b"), Duration::from_secs(3)).await.unwrap();
    assert_eq!(answer["statusCode"], 503);
    let body = answer["body"].as_str().unwrap();
    assert!(body.contains("globalaccelerator:ListListeners: no answer within"), "{body}");
}

#[tokio::test]
async fn an_invalid_setting_stops_the_start_and_is_named() {
    let sites = Sites::start().await;
    for (handler, change, said) in [
        ("lambda.handler", ("DRY_RUN", "true"), "set it to fence or rejoin"),
        ("fence", ("INFINISPAN_SITE_ENDPOINTS", "a=b"), "INFINISPAN_SITE_ENDPOINTS: expected value"),
        ("fence", ("WEBHOOK_USER", ""), "WEBHOOK_USER: it is empty"),
        ("rejoin", ("FENCE_TABLE", "arn:x"), "FENCE_TABLE: \"arn:x\" is neither a table's name nor its ARN"),
        (
            "rejoin",
            ("AWS_ENDPOINT_URL_DYNAMODB", "x"),
            "AWS_ENDPOINT_URL_DYNAMODB: \"x\" is not an http or https URL",
        ),
    ] {
        let (status, lines) = start(handler, &sites, &[change]).await.ended().await;
        assert!(!status.success(), "{change:?}");
        let line: Value = serde_json::from_str(lines.last().expect("it says why")).unwrap();
        assert!(line["error"].as_str().unwrap().contains(said), "{line}");
    }
    let given = sites.variables();
    let without = given.iter().filter(|(name, _)| !name.starts_with("WEBHOOK"));
    let without: Vec<_> = without.map(|(name, value)| (*name, value.as_str())).collect();
    let (_, lines) = Function::start_program("site-fence", "fence", &without).await.ended().await;
    assert!(lines.last().unwrap().contains("fence accepts no alerts without them"), "{lines:?}");
}

#[test]
fn it_says_its_version_without_an_event() {
    says_its_version("site-fence");
}
