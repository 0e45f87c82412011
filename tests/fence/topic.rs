//! Alerts through an SNS topic, for senders that sign their requests.

use std::time::Duration;

use failover::lambda::Report as _;
use failover::remote::deadline::Deadline;
use failover::site_fence::{Handler, SiteFence};
use serde_json::{Value, json};

use crate::support::sites::{
    ALONE, DNS_NAME, Sites, alert, alert_since, body, notification, notification_of, outcomes, rejoin,
    take_out,
};
use chrono::{TimeDelta, Utc};

const TOPIC: &str = "arn:aws:sns:us-east-1:000000000000:alerts";
const CHANGES: [(&str, &str); 3] =
    [("ALERT_TOPIC", TOPIC), ("WEBHOOK_USER", ""), ("WEBHOOK_USER_SECRET", "")];

/// The function's answer, or the error for which Lambda invokes it again.
async fn invoke(system: &SiteFence, event: &str) -> Result<Value, String> {
    let report = system.handle(Handler::Fence, event, Deadline::after(Duration::from_secs(20))).await;
    report.into_answer().map_err(|error| error.to_string())
}

#[tokio::test]
async fn an_alert_through_the_topic_fences_and_needs_no_password() {
    let sites = Sites::start().await;
    let system = sites.system(&CHANGES);
    let event = notification(TOPIC, &body(&alert("site-a", "site-b")));
    let answer = invoke(&system, &event).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "fenced");
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
    assert_eq!(sites.a.status("site-b"), "offline");
    // The function's URL lets no one in without a user.
    assert!(
        sites
            .system(&CHANGES)
            .handle(Handler::Fence, &alert("site-a", "site-b"), Deadline::after(Duration::from_secs(5)))
            .await
            .results()
            .is_empty()
    );
}

#[tokio::test]
async fn the_message_of_amazons_guide_is_read_with_its_time() {
    let sites = Sites::start().await;
    let system = sites.system(&CHANGES);
    // As the template of Amazon Managed Service for Prometheus's guide renders it: no version, and Go's own form of times.
    let labels = json!({ "alertname": "SiteOffline", "site": "site-b", "reporter": "site-a",
        "accelerator": "a1234567890abcdef.awsglobalaccelerator.com" });
    let alert = |starts_at: &str| json!({ "status": "firing", "labels": labels, "startsAt": starts_at });
    let message = json!({ "receiver": "default", "status": "firing", "alerts": [alert("2026-01-05 09:12:33.123456789 +0000 UTC")] });
    let answer = invoke(&system, &notification(TOPIC, &message.to_string())).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "fenced");
    crate::support::sites::rejoin(
        &system,
        &json!({ "accelerator": labels["accelerator"], "site": "site-b" }),
    )
    .await
    .unwrap();
    // The time was read: the same alert is from before the rejoin.
    let answer = invoke(&system, &notification(TOPIC, &message.to_string())).await.unwrap();
    assert_eq!(answer["outcomes"][0]["reason"], "older_than_rejoin");
}

/// SNS and Lambda deliver for hours. If the sites are still disconnected then, Alertmanager's newer messages are about it.
#[tokio::test]
async fn a_message_that_was_delivered_late_is_acted_on_only_if_it_is_still_true() {
    let sites = Sites::start().await;
    let system = sites.system(&CHANGES);
    let began = Utc::now() - TimeDelta::hours(1);
    let message = body(&alert_since(began, "site-a", "site-b"));
    let late = notification_of(Utc::now() - TimeDelta::minutes(11), TOPIC, &message);
    let on_time = notification_of(Utc::now() - TimeDelta::minutes(9), TOPIC, &message);
    assert_eq!(invoke(&system, &late).await.unwrap()["outcomes"][0]["reason"], "seen_again");
    let alone = sites.system(&[&CHANGES[..], &ALONE].concat());
    let error = invoke(&alone, &late).await.unwrap_err();
    assert!(error.contains("delivered_late"), "{error}");
    assert_eq!(sites.in_service().len(), 2);
    // A person has taken it out meanwhile, and its replication goes on.
    assert_eq!(take_out(&system, "site-b").await, "taken_out");
    assert_eq!(invoke(&system, &late).await.unwrap()["outcomes"][0]["reason"], "seen_again");
    assert_eq!(invoke(&alone, &late).await.unwrap()["outcomes"][0]["outcome"], "already_fenced");
    assert_eq!(sites.a.status("site-b"), "online");
    rejoin(&system, &json!({ "accelerator": DNS_NAME, "site": "site-b" })).await.unwrap();
    sites.a.cut_off(true);
    assert_eq!(invoke(&system, &late).await.unwrap()["outcomes"][0]["outcome"], "fenced");
    let sites = Sites::start().await;
    let alone = sites.system(&[&CHANGES[..], &ALONE].concat());
    assert_eq!(invoke(&alone, &on_time).await.unwrap()["outcomes"][0]["outcome"], "fenced");
}

#[tokio::test]
async fn what_is_not_finished_is_an_error_that_lambda_tries_again_and_names_every_alert() {
    let sites = Sites::start().await;
    let system = sites.system(&CHANGES);
    sites.accelerators.set_health(&sites.balancer_a, "UNHEALTHY");
    let error = invoke(&system, &notification(TOPIC, &body(&alert("site-a", "site-b")))).await.unwrap_err();
    assert!(error.contains("reporter_unhealthy") && error.contains("site-b"), "{error}");
    let other = "arn:aws:sns:us-east-1:000000000000:other";
    for (event, said) in [
        (notification(other, "{}"), "ALERT_TOPIC is arn:aws:sns:us-east-1:000000000000:alerts"),
        (notification(TOPIC, "[FIRING:1] SiteOffline"), "not an Alertmanager webhook"),
        (json!({ "Records": [{ "s3": {} }] }).to_string(), "not a message of an SNS topic"),
        (json!({ "Records": [] }).to_string(), "the event has no records"),
    ] {
        let error = invoke(&system, &event).await.unwrap_err();
        assert!(error.contains(said), "{error}");
    }
    assert_eq!(sites.in_service().len(), 2);
}

#[tokio::test]
async fn without_alert_topic_no_message_of_a_topic_is_acted_on() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let event = notification(TOPIC, &body(&alert("site-a", "site-b")));
    assert!(invoke(&system, &event).await.unwrap_err().contains("ALERT_TOPIC is not set"));
    assert_eq!(sites.in_service().len(), 2);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
}
