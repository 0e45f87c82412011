//! What the function `restore` does, and what it refuses.

use std::time::Duration;

use crate::support;
use crate::support::lock::{LOCKED, PRIMARY, alarm, delivered, message};
use crate::support::primary::Primary;
use crate::support::route53::{Check, Fault, Route53};
use chrono::{DateTime, Utc};
use failover::failover_lock::Handler;
use failover::lambda::Report as _;
use failover::remote::deadline::Deadline;
use serde_json::{Value, json};

/// A primary that is up, and its health check, which is locked.
async fn locked() -> (Primary, Route53) {
    let primary = Primary::start("/lb-check").await;
    let route53 = Route53::start().await;
    route53.put(PRIMARY, Check::new("HTTP", primary.address.port()).with("ResourcePath", LOCKED));
    (primary, route53)
}

fn request() -> String {
    json!({ "healthCheckId": PRIMARY, "reason": "sites synchronised" }).to_string()
}

async fn restore(route53: &Route53, request: &str) -> Result<Value, String> {
    restore_with(route53, &[], request).await
}

async fn restore_with(route53: &Route53, variables: &[(&str, &str)], request: &str) -> Result<Value, String> {
    support::lock::run(route53, variables, Handler::Restore, request).await
}

fn writes(route53: &Route53) -> Vec<String> {
    let calls = route53.calls().into_iter();
    calls.filter(|call| call.starts_with("Update") || call.starts_with("Change")).collect()
}

#[tokio::test]
async fn a_locked_check_with_a_healthy_primary_is_restored_and_recorded_before_and_after() {
    let (_primary, route53) = locked().await;
    let answer = restore(&route53, &request()).await.unwrap();
    assert_eq!(
        answer,
        json!({ "outcomes": [{
            "healthCheckId": PRIMARY,
            "outcome": "restored",
            "previousPath": LOCKED,
            "path": "/lb-check",
            "version": 2,
        }]})
    );
    let writes = writes(&route53);
    let record = format!("ChangeTagsForResource {PRIMARY} Key=failover-lock:in Value=v=2 seen=");
    assert!(writes[0].starts_with(&record) && !writes[0].contains("done="), "{writes:?}");
    assert_eq!(writes[1], format!("UpdateHealthCheck {PRIMARY} HealthCheckVersion=1 ResourcePath=/lb-check"));
    assert!(writes[2].starts_with(&record) && writes[2].contains("Z done=2"), "{writes:?}");
    assert!(writes[2].ends_with("to=/lb-check by=sites synchronised") && writes.len() == 3, "{writes:?}");
}

#[tokio::test]
async fn after_a_restore_older_alarms_are_harmless_and_newer_ones_lock_again() {
    let (_primary, route53) = locked().await;
    restore(&route53, &request()).await.unwrap();
    let system = support::lock::system(&route53, &[]).await;
    let late = support::lock::invoke(&system, Handler::Lock, &alarm()).await.unwrap();
    assert_eq!(late["outcomes"][0]["reason"], "older_than_restore");
    let newer = delivered(&[&message(PRIMARY, "ALARM", "2099-01-01T00:00:00.000+0000")]);
    let locked = support::lock::invoke(&system, Handler::Lock, &newer).await.unwrap();
    assert_eq!(locked["outcomes"][0]["outcome"], "locked");
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
}

#[tokio::test]
async fn a_primary_that_is_not_healthy_stays_locked_unless_forced() {
    let (primary, route53) = locked().await;
    primary.set_up(false);
    let error = restore(&route53, &request()).await.unwrap_err();
    for said in [PRIMARY, "/lb-check answers 503", "its alarm is in ALARM already", r#""force": true"#] {
        assert!(error.to_lowercase().contains(&said.to_lowercase()), "{said}: {error}");
    }
    assert_eq!(writes(&route53), [""; 0]);
    let forced = json!({ "healthCheckId": PRIMARY, "force": true }).to_string();
    let answer = restore(&route53, &forced).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "restored");
    assert_eq!(route53.check(PRIMARY).path(), "/lb-check");
}

#[tokio::test]
async fn a_check_that_is_not_locked_keeps_its_path() {
    let (_primary, route53) = locked().await;
    route53.put(PRIMARY, Check::new("HTTP", 80));
    let answer = restore(&route53, &request()).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "already_restored");
    // It is on record all the same, on a version of its own: alarms from before are harmless.
    assert_eq!((route53.check(PRIMARY).path(), route53.check(PRIMARY).version), ("/lb-check", 2));
    let late = support::lock::run(&route53, &[], Handler::Lock, &alarm()).await.unwrap();
    assert_eq!(late["outcomes"][0]["reason"], "older_than_restore");
    let before = writes(&route53);
    for (check, said) in [
        (Check::new("HTTP", 80).with("ResourcePath", "/elsewhere"), r#"its path is "/elsewhere", neither"#),
        (Check::new("TCP", 443).without("ResourcePath"), r#"its type "TCP" requests no path"#),
    ] {
        route53.put(PRIMARY, check);
        for request in [request(), json!({ "healthCheckId": PRIMARY, "force": true }).to_string()] {
            let error = restore(&route53, &request).await.unwrap_err();
            assert!(error.contains(said) && error.contains(PRIMARY), "{error}");
        }
    }
    assert_eq!(writes(&route53), before);
}

#[tokio::test]
async fn who_restores_a_check_that_does_not_follow_its_primary_is_told() {
    for (element, reason) in [("Inverted", "inverted"), ("Disabled", "disabled")] {
        let (primary, route53) = locked().await;
        let check =
            Check::new("HTTP", primary.address.port()).with("ResourcePath", LOCKED).with(element, "true");
        route53.put(PRIMARY, check);
        let answer = restore(&route53, &request()).await.unwrap();
        let outcome = &answer["outcomes"][0];
        assert_eq!((&outcome["outcome"], &outcome["reason"]), (&"restored".into(), &reason.into()));
    }
}

#[tokio::test]
async fn only_a_guarded_check_is_switched_back_and_a_single_one_need_not_be_named() {
    let (_primary, route53) = locked().await;
    let error =
        restore_with(&route53, &[("GUARDED_HEALTH_CHECKS", "another")], &request()).await.unwrap_err();
    assert!(
        error.contains("not in this function's GUARDED_HEALTH_CHECKS") && error.contains(PRIMARY),
        "{error}"
    );
    let why = json!({ "reason": "sites synchronised" }).to_string();
    let one = [("GUARDED_HEALTH_CHECKS", PRIMARY)];
    for (variables, request) in [
        (&[][..], why.as_str()),
        (&[("GUARDED_HEALTH_CHECKS", "a,b")], &why),
        // An empty payload is any machine's.
        (&one, "{}"),
        (&one, r#"{"reason":" "}"#),
        (&one, r#"{"force":true}"#),
    ] {
        let error = restore_with(&route53, variables, request).await.unwrap_err();
        assert!(error.contains("healthCheckId is missing"), "{error}");
    }
    assert_eq!(route53.calls(), [""; 0]);
    let answer = restore_with(&route53, &one, &why).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "restored");
}

#[tokio::test]
async fn a_request_that_is_from_a_machine_or_is_invalid_is_refused() {
    let (_primary, route53) = locked().await;
    for (request, said) in [
        (alarm().as_str(), "only a person's request"),
        (&support::recorded("sns/keycloak-ok.json"), "only a person's request"),
        (&support::recorded("cloudwatch/alarm-action-ok.json"), "only a person's request"),
        (&support::recorded("eventbridge/scheduled.json"), "only a person's request"),
        (&json!({ "healthcheckId": PRIMARY }).to_string(), "unknown field `healthcheckId`"),
        (&json!({ "healthCheckId": PRIMARY, "Force": true }).to_string(), "unknown field `Force`"),
        (&json!({ "healthCheckId": PRIMARY, "force": "true" }).to_string(), "expected a boolean"),
        (&json!({ "healthCheckId": "../hostedzone/Z1" }).to_string(), "not a health check id"),
        (&json!({ "healthCheckId": 5 }).to_string(), "expected a string"),
        ("[]", "invalid type: sequence"),
        ("null", "invalid type: null"),
        ("", "EOF"),
    ] {
        let error = restore_with(&route53, &[("GUARDED_HEALTH_CHECKS", PRIMARY)], request).await.unwrap_err();
        assert!(error.contains(said), "{request}: {error}");
        assert!(said.contains("person") || error.starts_with("the request cannot be read: "), "{error}");
        assert!(said.contains("person") || error.contains("It takes {\"healthCheckId\"?"), "{error}");
    }
    assert_eq!(route53.calls(), [""; 0]);
}

#[tokio::test]
async fn a_dry_run_asks_the_primary_and_writes_nothing() {
    let dry = json!({ "healthCheckId": PRIMARY, "dryRun": true }).to_string();
    for (variables, request) in [(&[][..], dry), (&[("DRY_RUN", "true")], request())] {
        let (primary, route53) = locked().await;
        let answer = restore_with(&route53, variables, &request).await.unwrap();
        assert_eq!(answer["outcomes"][0]["outcome"], "would_restore");
        primary.set_up(false);
        assert!(restore_with(&route53, variables, &request).await.is_err());
        assert_eq!(writes(&route53), [""; 0]);
        // Of a check in service, that it is meant to be would be recorded.
        let route53 = Route53::start().await;
        route53.put(PRIMARY, Check::new("HTTP", 80));
        let answer = restore_with(&route53, variables, &request).await.unwrap();
        assert_eq!(answer["outcomes"][0]["outcome"], "would_restore");
        assert_eq!(writes(&route53), [""; 0]);
    }
}

#[tokio::test]
async fn a_check_that_changed_since_the_person_saw_it_is_not_restored() {
    let (_primary, route53) = locked().await;
    let seen = |version: i64| {
        json!({ "healthCheckId": PRIMARY, "reason": "sites synchronised", "version": version }).to_string()
    };
    let error = restore(&route53, &seen(7)).await.unwrap_err();
    assert!(error.contains("it was changed since it was looked at (version 7 then, 1 now)"), "{error}");
    assert_eq!(writes(&route53), [""; 0]);
    // The answer to its own update is lost: that is no change by another.
    route53.fail("UpdateHealthCheck", Fault::CloseAfter);
    let answer = restore(&route53, &seen(1)).await.unwrap();
    let outcome = answer["outcomes"][0]["outcome"].as_str().unwrap();
    assert!(outcome.ends_with("restored"), "{answer}");
    // Another changes it between its record and its update.
    let (_primary, route53) = locked().await;
    route53.fail("UpdateHealthCheck", Fault::Meddle(LOCKED));
    let error = restore(&route53, &seen(1)).await.unwrap_err();
    assert!(error.contains("it was changed since it was looked at (version 1 then, 2 now)"), "{error}");
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
}

#[tokio::test]
async fn without_the_tag_the_path_is_not_restored() {
    let (_primary, route53) = locked().await;
    route53.fail_always("ChangeTagsForResource", Fault::Error(403, "AccessDenied", "not authorized"));
    let error = restore(&route53, &request()).await.unwrap_err();
    assert!(error.contains("Grant the caller's role route53:ChangeTagsForResource"), "{error}");
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
}

#[tokio::test]
async fn a_check_that_someone_changes_meanwhile_is_not_restored_until_a_person_has_looked_again() {
    let (_primary, route53) = locked().await;
    route53.fail("UpdateHealthCheck", Fault::Meddle(LOCKED));
    let error = restore(&route53, &request()).await.unwrap_err();
    assert!(error.contains("it was changed since it was looked at (version 1 then, 2 now)"), "{error}");
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
    assert_eq!(restore(&route53, &request()).await.unwrap()["outcomes"][0]["version"], 3);
    let (_primary, route53) = locked().await;
    route53.fail("UpdateHealthCheck", Fault::Meddle("/elsewhere"));
    let error = restore(&route53, &request()).await.unwrap_err();
    assert!(error.contains("/elsewhere"), "{error}");
    assert_eq!(route53.check(PRIMARY).path(), "/elsewhere");
}

#[tokio::test]
async fn a_restore_whose_answer_was_lost_has_one_effect() {
    let (_primary, route53) = locked().await;
    route53.fail("UpdateHealthCheck", Fault::CloseAfter);
    let answer = restore(&route53, &request()).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "restored");
    assert_eq!(route53.check(PRIMARY).version, 2);
}

/// Whether it took place is not known: that is told, and what is recorded of it stays.
#[tokio::test]
async fn a_restore_whose_answer_was_lost_and_that_cannot_be_read_is_told_and_stays_on_record() {
    let (_primary, route53) = locked().await;
    route53.fail("UpdateHealthCheck", Fault::CloseAfter);
    let update = route53.hold("UpdateHealthCheck");
    let request = request();
    let (error, ()) = tokio::join!(restore(&route53, &request), async {
        update.reached().await;
        route53.fail_always("GetHealthCheck", Fault::Error(403, "AccessDenied", "not authorized"));
        update.release();
    });
    let error = error.unwrap_err();
    assert!(error.contains("The change may have been made all the same"), "{error}");
    let check = route53.check(PRIMARY);
    assert_eq!(check.path(), "/lb-check");
    assert!(check.tags.contains_key("failover-lock:in"), "{:?}", check.tags);
}

/// An alarm that changes after the request was made is newer than it.
#[tokio::test]
async fn a_restore_that_starts_again_has_still_seen_no_more_than_its_request() {
    let (_primary, route53) = locked().await;
    let reads = [(); 2].map(|()| route53.hold("ListTagsForResource"));
    let request = json!({ "healthCheckId": PRIMARY, "reason": "synchronised", "force": true }).to_string();
    let (answer, later) = tokio::join!(restore(&route53, &request), async {
        reads[0].reached().await;
        reads[0].release();
        // Before its record is written, someone else changes a tag.
        reads[1].reached().await;
        route53.tag(PRIMARY, "owner", Some("sre"));
        let later = Utc::now();
        reads[1].release();
        later
    });
    assert_eq!(answer.unwrap()["outcomes"][0]["outcome"], "restored");
    let record = &route53.check(PRIMARY).tags["failover-lock:in"];
    let seen = record.split(' ').find_map(|part| part.strip_prefix("seen=")).unwrap();
    assert!(seen.parse::<DateTime<Utc>>().unwrap() < later, "{record} {later}");
}

#[tokio::test]
async fn a_restore_whose_answer_was_lost_does_not_take_a_later_change_for_its_own() {
    let (_primary, route53) = locked().await;
    route53.fail("UpdateHealthCheck", Fault::CloseAfter);
    route53.fail("UpdateHealthCheck", Fault::Meddle("/lb-check"));
    let answer = restore(&route53, &request()).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "already_restored");
    let check = route53.check(PRIMARY);
    let record = &check.tags["failover-lock:in"];
    assert!(record.starts_with(&format!("v={} ", check.version)) && record.contains(" done="), "{record}");
}

#[tokio::test]
async fn the_primary_is_asked_as_its_health_check_says() {
    let (_primary, route53) = locked().await;
    let port = route53.check(PRIMARY).config["Port"].clone();
    let locked = |kind| Check::new(kind, port.parse().unwrap()).with("ResourcePath", LOCKED);
    for (check, said) in [
        (locked("HTTP_STR_MATCH").with("SearchString", "status: UP"), r#"do not contain "status: UP""#),
        (locked("HTTPS"), "no connection to 127.0.0.1"),
        (
            locked("HTTPS").with("FullyQualifiedDomainName", "-- no name --"),
            r#"the domain name "-- no name --""#,
        ),
        (
            locked("HTTP").without("IPAddress").with("FullyQualifiedDomainName", "primary.invalid"),
            "primary.invalid has no IPv4",
        ),
    ] {
        route53.put(PRIMARY, check);
        let error = restore(&route53, &request()).await.unwrap_err();
        assert!(error.contains(said), "{error}");
        assert_eq!(route53.check(PRIMARY).path(), LOCKED);
    }
}

#[tokio::test]
async fn a_primary_that_never_answers_is_told_before_the_deadline() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (_primary, route53) = locked().await;
    route53
        .put(PRIMARY, Check::new("HTTP", silent.local_addr().unwrap().port()).with("ResourcePath", LOCKED));
    let system = support::lock::system(&route53, &[]).await;
    let report = system.handle(Handler::Restore, &request(), Deadline::after(Duration::from_secs(1))).await;
    let error = report.into_answer().unwrap_err().to_string();
    assert!(error.contains("no answer in the time that the invocation had"), "{error}");
}

#[tokio::test]
async fn a_check_without_room_for_the_tag_is_not_restored_and_says_so() {
    let (_primary, route53) = locked().await;
    let full =
        (0..10).fold(route53.check(PRIMARY), |check, number| check.tagged(&format!("team:{number}"), "x"));
    route53.put(PRIMARY, full);
    let error = restore(&route53, &request()).await.unwrap_err();
    assert!(error.contains("10 tags") && error.contains("remove a tag"), "{error}");
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
}
