//! Alertmanager's messages through an SNS topic.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::webhook::Malformed;

/// A message of a topic.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Notification {
    /// The ARN of its topic.
    pub topic_arn: String,
    /// Its text.
    pub message: String,
    /// When it was published. What is no time does not make it late.
    timestamp: Option<String>,
}

/// Twice Alertmanager's documented `repeat_interval`: if an alert lasts so long, newer messages are about it.
const LATE: TimeDelta = TimeDelta::minutes(10);

impl Notification {
    /// Whether it was delivered so late that its alerts may be over.
    pub(super) fn is_late(&self) -> bool {
        let published = self.timestamp.as_deref().and_then(|time| time.parse::<DateTime<Utc>>().ok());
        published.is_some_and(|published| Utc::now() - published > LATE)
    }
}

/// Reads an event of SNS: a result for each of its records. `None` if the event is something else; that of a function URL has
/// no field `Records`, and its clients cannot add one.
pub(super) fn read(event: &str) -> Option<Vec<Result<Notification, Malformed>>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Event {
        records: Vec<Box<RawValue>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Record {
        sns: Notification,
    }
    let event: Event = serde_json::from_str(event).ok()?;
    let notification = |record: &RawValue| {
        let record: Record = serde_json::from_str(record.get()).map_err(Malformed::NotAMessage)?;
        Ok(record.sns)
    };
    if event.records.is_empty() {
        return Some(vec![Err(Malformed::NoMessage)]);
    }
    Some(event.records.iter().map(|record| notification(record)).collect())
}
