//! Events → alarm transitions: what arrives, reduced to what the decision needs.
//!
//! An alarm reaches the function through SNS, with or without a queue, as a direct alarm action, or through
//! EventBridge, and each spells it differently. Only the fields that decide are read, so that an alarm
//! without a description, or with fields that AWS adds tomorrow, is read as well.

use std::collections::BTreeMap;

use aws_lambda_events::eventbridge::EventBridgeEvent;
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

pub(super) use self::shapes::watched;
use self::shapes::{AlarmData, Notification};
use super::alarm::AlarmTransition;
use super::health_check::InvalidId;
use crate::program::text::{Quoted, brief};

mod shapes;

/// A record of an event.
#[derive(Debug)]
pub struct Record {
    /// Its message in a queue, for a record of SQS.
    pub message_id: Option<String>,
    /// What it holds.
    pub message: Result<Message, Malformed>,
}

/// What arrives, as far as it can be read.
#[derive(Debug)]
pub enum Message {
    /// An alarm changed its state.
    Alarm(AlarmTransition),
    /// It is not about an alarm: topics and event buses are shared.
    Foreign(String),
}

/// A message that no transition can be read from.
#[derive(Debug, Error)]
pub enum Malformed {
    /// It is not JSON, or a field that the decision needs is missing or of another type.
    #[error("{what} cannot be read: {}. It has to be an alarm as CloudWatch writes it", brief(.source))]
    Unreadable {
        /// The part that was being read.
        what: &'static str,
        /// Where and why reading stopped.
        source: serde_json::Error,
    },
    /// The invocation's payload is not JSON at all.
    #[error("the event is not JSON: {0}")]
    NotJson(String),
    /// It is JSON, of something else, and came in no envelope.
    #[error(
        "{0} is not a CloudWatch alarm: send SNS notifications, alarm actions or EventBridge alarm state changes here"
    )]
    Foreign(String),
    /// A request to restore was sent to the function that locks.
    #[error(
        "this is a request to restore; this function locks, send it to the one with the handler `restore`"
    )]
    RestoreRequest,
    /// The alarm is on a health check's metric, and names no health check.
    #[error("the alarm {} is on {metric} without a dimension HealthCheckId", Quoted(.alarm))]
    NoHealthCheck {
        /// The alarm's name.
        alarm: String,
        /// The metric's name.
        metric: String,
    },
    /// The alarm is on a query over health checks' metrics, and does not say which one failed.
    #[error("the alarm {} is on the query {}, and its message does not say which health check failed: group the query by HealthCheckId", Quoted(.alarm), Quoted(.query))]
    Query {
        /// The alarm's name.
        alarm: String,
        /// The query.
        query: String,
    },
    /// The alarm names a health check that cannot exist.
    #[error("the alarm {} names a health check that cannot exist: {source}", Quoted(.alarm))]
    InvalidId {
        /// The alarm's name.
        alarm: String,
        /// The text that is no identifier.
        source: InvalidId,
    },
}

/// Reads every record that an event carries, in its order; each stands alone.
///
/// An alarm's message without the envelope that it came in is read as well, so that one that was kept
/// from a queue or an e-mail can be handed in again.
///
/// # Errors
/// The event as a whole cannot be read. What is wrong with a single record stands in its place.
pub fn records(event: &str) -> Result<Vec<Record>, Malformed> {
    if event.trim().is_empty() {
        return Err(Malformed::Foreign("an empty text".to_owned()));
    }
    let parts: Parts = parse("the event", event)?;
    let Some(records) = parts.get("Records") else {
        return match message(event)? {
            // Nothing but an alarm is handed to this function without an envelope.
            Message::Foreign(what) if !parts.contains_key("detail-type") => Err(Malformed::Foreign(what)),
            message => Ok(vec![Record { message_id: None, message: Ok(message) }]),
        };
    };
    let records: Vec<&RawValue> = parse("the list of records", records.get())?;
    if records.is_empty() {
        return Err(Malformed::Foreign("an event without records".to_owned()));
    }
    Ok(records.into_iter().map(|record| Record::read(record.get())).collect())
}

/// Whether `event` looks like something that a machine sends rather than a person.
pub(super) fn is_machine_made(event: &BTreeMap<String, &RawValue>) -> bool {
    ["Records", "source", "detail-type", "alarmData", "AlarmName"].iter().any(|key| event.contains_key(*key))
}

pub(super) type Parts<'a> = BTreeMap<String, &'a RawValue>;

fn parse<'a, T: Deserialize<'a>>(what: &'static str, text: &'a str) -> Result<T, Malformed> {
    serde_json::from_str(text).map_err(|source| Malformed::Unreadable { what, source })
}

// === impl Record ===

impl Record {
    fn read(text: &str) -> Self {
        let envelope: Envelope = match parse("the SNS record", text) {
            Ok(envelope) => envelope,
            Err(error) => return Self { message_id: None, message: Err(error) },
        };
        let message = match (envelope.sns, envelope.body) {
            (Some(sns), _) => enveloped(&sns.message),
            (None, Some(body)) => enveloped(&body),
            // It came from neither a topic nor a queue: another service is wired to this function.
            (None, None) => Err(Malformed::Foreign(match envelope.event_source {
                Some(source) => format!("a record from {}", Quoted(&source)),
                None => "a record without Sns".to_owned(),
            })),
        };
        Self { message_id: envelope.message_id, message }
    }
}

/// A message in the envelope of a topic or a queue, which others may share: what is no alarm is not ours.
fn enveloped(text: &str) -> Result<Message, Malformed> {
    match message(text) {
        Err(Malformed::RestoreRequest) => Ok(Message::Foreign("an object of another system".to_owned())),
        read => read,
    }
}

/// Reads a message. One that cannot be read is ours if it names health checks, or an alarm over others; one that breaks off may
/// have named them.
fn message(text: &str) -> Result<Message, Malformed> {
    let ours = ["Route53", "HealthCheck", "AlarmRule", "alarmRule"].iter().any(|word| text.contains(word));
    let begins_so =
        text.trim_start().strip_prefix('{').is_some_and(|rest| rest.trim_start().starts_with('"'));
    match known(text) {
        // Of a text in this one, that is decided already.
        Err(Unread { within: false, error: Malformed::Unreadable { what, source } })
            if !(ours || begins_so && source.is_eof()) =>
        {
            Ok(Message::Foreign(format!("{what}, not about a health check: {}", brief(&source))))
        }
        read => read.map_err(|unread| unread.error),
    }
}

/// Why a message cannot be read: it, or one within it.
struct Unread {
    within: bool,
    error: Malformed,
}

impl From<Malformed> for Unread {
    fn from(error: Malformed) -> Self {
        Self { within: false, error }
    }
}

fn known(text: &str) -> Result<Message, Unread> {
    let parts: Parts = parse("the alarm's message", text)?;
    let has = |keys: &[&str]| keys.iter().any(|key| parts.contains_key(*key));
    if has(&["AlarmName", "NewStateValue", "Trigger"]) {
        Ok(Message::Alarm(parse::<Notification>("the alarm's message", text)?.transition()?))
    } else if let Some(data) = parts.get("alarmData") {
        Ok(Message::Alarm(parse::<AlarmData>("alarmData", data.get())?.transition()?))
    } else if has(&["detail-type"]) {
        let event: EventBridgeEvent<Box<RawValue>> = parse("the EventBridge event", text)?;
        match (event.source.as_str(), event.detail_type.as_str()) {
            (
                "aws.cloudwatch",
                "CloudWatch Alarm State Change" | "CloudWatch Alarm Contributor State Change",
            ) => Ok(Message::Alarm(parse::<AlarmData>("detail", event.detail.get())?.transition()?)),
            (source, detail_type) => {
                Ok(Message::Foreign(format!("{} from {}", Quoted(detail_type), Quoted(source))))
            }
        }
    } else if let Some(inner) = parts.get("Message") {
        // What SNS hands to queues and web servers, around the same text.
        let inner = parse::<String>("the SNS notification", inner.get())?;
        enveloped(&inner).map_err(|error| Unread { within: true, error })
    } else if has(&["healthCheckId", "force", "dryRun"]) {
        Err(Malformed::RestoreRequest.into())
    } else {
        let keys: Vec<&str> = parts.keys().take(8).map(String::as_str).collect();
        let what = match keys.as_slice() {
            [] => "an empty object".to_owned(),
            _ => format!("an object with the keys {}", Quoted(&keys.join(", "))),
        };
        // An alarm about a health check, in an envelope that is not known; but none that Lambda sends of an event that has failed, which
        // people's topic may bring back here.
        if !has(&["requestPayload"]) && text.contains("Route53") && text.contains("HealthCheckStatus") {
            return Err(Malformed::Foreign(what).into());
        }
        Ok(Message::Foreign(what))
    }
}

/// A record of SNS, or of SQS.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Envelope {
    #[serde(alias = "eventSource")]
    event_source: Option<String>,
    sns: Option<Sns>,
    #[serde(alias = "messageId")]
    message_id: Option<String>,
    #[serde(alias = "body")]
    body: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Sns {
    message: String,
}
