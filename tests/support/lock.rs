//! failover-lock as a test sets it up, and the alarms that it receives.

use std::time::Duration;

use failover::failover_lock::config::Config;
use failover::failover_lock::error::InvocationError;
use failover::failover_lock::{FailoverLock, Handler};
use failover::lambda::Report as _;
use failover::remote::deadline::Deadline;
use serde_json::{Value, json};

use super::aws::aws_at;
use super::route53::Route53;

/// The health check of the documented alarm.
pub const PRIMARY: &str = "233e180f-f023-45a3-954e-415303f21eab";
/// When the documented alarm changed, in `events/`.
pub const CHANGED_AT: &str = "2026-11-21T02:36:15.490+0000";
pub const LOCKED: &str = "/lb-check-failed-over";

/// The system as these variables set it up, on this Route 53.
pub async fn system(route53: &Route53, variables: &[(&str, &str)]) -> FailoverLock {
    system_at(&route53.url(), variables).await
}

/// The same, wherever AWS is.
pub async fn system_at(url: &str, variables: &[(&str, &str)]) -> FailoverLock {
    let lookup =
        |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let config = Config::read(&lookup).expect("the test's variables are valid");
    FailoverLock::new(config, &aws_at(url).await)
}

/// A function of the system, with a third of the time that Lambda would give it.
pub async fn invoke(system: &FailoverLock, handler: Handler, event: &str) -> Result<Value, InvocationError> {
    invoke_within(system, handler, event, Duration::from_secs(20)).await
}

/// The same, with so much time.
pub async fn invoke_within(
    system: &FailoverLock,
    handler: Handler,
    event: &str,
    time: Duration,
) -> Result<Value, InvocationError> {
    system.handle(handler, event, Deadline::after(time)).await.into_answer().map(|answer| json!(answer))
}

/// One invocation of a system that these variables set up on this Route 53: its answer, or its error.
pub async fn run(
    route53: &Route53,
    variables: &[(&str, &str)],
    handler: Handler,
    event: &str,
) -> Result<Value, String> {
    invoke(&system(route53, variables).await, handler, event).await.map_err(|error| error.to_string())
}

/// The documented alarm's message.
pub fn message(health_check_id: &str, state: &str, changed_at: &str) -> String {
    json!({
        "AlarmName": "primary-unhealthy",
        "AlarmDescription": null,
        "NewStateValue": state,
        "StateChangeTime": changed_at,
        "Trigger": {
            "Namespace": "AWS/Route53",
            "MetricName": "HealthCheckStatus",
            "Dimensions": [{ "value": health_check_id, "name": "HealthCheckId" }],
        },
    })
    .to_string()
}

/// The event in which SNS delivers these messages.
pub fn delivered(messages: &[&str]) -> String {
    let records: Vec<_> = messages
        .iter()
        .map(|message| json!({ "EventSource": "aws:sns", "Sns": { "Message": message } }))
        .collect();
    json!({ "Records": records }).to_string()
}

/// The documented alarm going off, as SNS delivers it.
pub fn alarm() -> String {
    delivered(&[&message(PRIMARY, "ALARM", CHANGED_AT)])
}
