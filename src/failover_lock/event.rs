//! Events → alarm transitions: what arrives, reduced to what the decision needs.
//!
//! An alarm reaches the function through SNS, with or without a queue, as a direct alarm action, or through
//! EventBridge, and each spells it differently. Only the fields that decide are read, so that an alarm
//! without a description, or with fields that AWS adds tomorrow, is read as well.

use std::collections::BTreeMap;

use aws_lambda_events::eventbridge::EventBridgeEvent;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use thiserror::Error;

use super::alarm::{
    AlarmState, AlarmTransition, Composite, Dimensions, HoldsBack, Metric, Triggering, tells_recovery,
};
use super::datapoint::{self, Datapoint};
use super::health_check::{HealthCheckId, InvalidId};
use crate::program::text::{Quoted, brief};

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

/// Reads a message. One that cannot be read is ours if it may be about a health check.
fn message(text: &str) -> Result<Message, Malformed> {
    match known(text) {
        Err(Malformed::Unreadable { what, source }) if !may_be_about_a_check(text) => {
            Ok(Message::Foreign(format!("{what}, not about a health check: {}", brief(&source))))
        }
        read => read,
    }
}

/// Whether a text that cannot be read names Route 53's metrics, or an alarm over others; one that breaks off may have named them.
fn may_be_about_a_check(text: &str) -> bool {
    let names = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let is_whole = serde_json::from_str::<IgnoredAny>(text).is_ok();
    names(&["Route53", "AlarmRule", "alarmRule"]) || (!is_whole && names(&["AlarmName", "alarmName"]))
}

fn known(text: &str) -> Result<Message, Malformed> {
    let parts: Parts = parse("the alarm's message", text)?;
    let has = |keys: &[&str]| keys.iter().any(|key| parts.contains_key(*key));
    if has(&["AlarmName", "NewStateValue", "Trigger"]) {
        parse::<Notification>("the alarm's message", text)?.transition().map(Message::Alarm)
    } else if let Some(data) = parts.get("alarmData") {
        parse::<AlarmData>("alarmData", data.get())?.transition().map(Message::Alarm)
    } else if has(&["detail-type"]) {
        let event: EventBridgeEvent<Box<RawValue>> = parse("the EventBridge event", text)?;
        match (event.source.as_str(), event.detail_type.as_str()) {
            (
                "aws.cloudwatch",
                "CloudWatch Alarm State Change" | "CloudWatch Alarm Contributor State Change",
            ) => parse::<AlarmData>("detail", event.detail.get())?.transition().map(Message::Alarm),
            (source, detail_type) => {
                Ok(Message::Foreign(format!("{} from {}", Quoted(detail_type), Quoted(source))))
            }
        }
    } else if let Some(inner) = parts.get("Message") {
        // What SNS hands to queues and web servers, around the same text.
        match parse::<String>("the SNS notification", inner.get()) {
            Ok(inner) => enveloped(&inner),
            Err(_) => Ok(Message::Foreign("an object whose Message is no text".to_owned())),
        }
    } else if has(&["healthCheckId", "force", "dryRun"]) {
        Err(Malformed::RestoreRequest)
    } else {
        let keys: Vec<&str> = parts.keys().take(8).map(String::as_str).collect();
        Ok(Message::Foreign(match keys.as_slice() {
            [] => "an empty object".to_owned(),
            _ => format!("an object with the keys {}", Quoted(&keys.join(", "))),
        }))
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

/// An alarm as CloudWatch writes it to SNS.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Notification {
    alarm_name: String,
    new_state_value: AlarmState,
    new_state_reason: Option<String>,
    state_change_time: DateTime<Utc>,
    trigger: Option<Trigger>,
    alarm_rule: Option<String>,
    triggering_children: Option<Vec<TriggeringChild>>,
    alarm_contributor_attributes: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct TriggeringChild {
    #[serde(rename = "Arn", alias = "arn")]
    arn: String,
    #[serde(rename = "State", alias = "state")]
    state: Option<ChildState>,
}

#[derive(Deserialize)]
struct ChildState {
    #[serde(rename = "Value", alias = "value")]
    value: AlarmState,
    /// Of any form, so that one that cannot be read costs no more than itself.
    #[serde(rename = "Timestamp", alias = "timestamp")]
    timestamp: Option<serde_json::Value>,
}

/// One metric, or with metric math several.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Trigger {
    namespace: Option<String>,
    metric_name: Option<String>,
    dimensions: Option<Dimensions>,
    comparison_operator: Option<String>,
    period: Option<i64>,
    metrics: Option<Vec<MetricQuery>>,
}

/// An alarm as CloudWatch hands it to Lambda (`alarmData`) and to EventBridge (`detail`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AlarmData {
    alarm_name: String,
    state: State,
    configuration: Configuration,
    alarm_contributor: Option<Contributor>,
    mute_detail: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Contributor {
    attributes: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    value: AlarmState,
    timestamp: DateTime<Utc>,
    reason: Option<String>,
    reason_data: Option<String>,
    actions_suppressed_by: Option<String>,
}

/// What `reasonData` of a composite alarm holds, as JSON in a string.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CompositeReason {
    triggering_alarms: Vec<TriggeringChild>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    metrics: Option<Vec<MetricQuery>>,
    alarm_rule: Option<String>,
}

/// A metric, or an expression over others, which carries no metric.
#[derive(Deserialize)]
struct MetricQuery {
    #[serde(rename = "metricStat", alias = "MetricStat")]
    metric_stat: Option<MetricStat>,
    #[serde(alias = "Expression")]
    expression: Option<String>,
    /// Of a query; a metric has its own.
    #[serde(alias = "Period")]
    period: Option<i64>,
}

#[derive(Deserialize)]
struct MetricStat {
    #[serde(alias = "Metric")]
    metric: Metric,
    #[serde(alias = "Period")]
    period: Option<i64>,
}

/// What the shapes have in common.
struct Change {
    alarm: String,
    state: AlarmState,
    changed_at: DateTime<Utc>,
    breaching: Option<Datapoint>,
}

// === impl Notification ===

impl Notification {
    fn transition(self) -> Result<AlarmTransition, Malformed> {
        let period =
            self.trigger.as_ref().and_then(|trigger| trigger.period.or(period(trigger.metrics.as_deref())));
        let change = Change {
            alarm: kept(&self.alarm_name),
            state: self.new_state_value,
            changed_at: self.state_change_time,
            breaching: datapoint::newest(None, self.new_state_reason.as_deref(), period),
        };
        if self.alarm_rule.is_some() {
            let children = self.triggering_children.unwrap_or_default();
            return Ok(change.of_composite(&self.alarm_name, &children));
        }
        let mut metrics = Vec::new();
        let mut comparison = None;
        if let Some(trigger) = self.trigger {
            comparison = trigger.comparison_operator;
            metrics.extend(trigger.metrics.into_iter().flatten().map(MetricQuery::metric));
            if trigger.metric_name.is_some() {
                metrics.push(Metric {
                    namespace: trigger.namespace,
                    name: trigger.metric_name,
                    dimensions: trigger.dimensions,
                    ..Metric::default()
                });
            }
        }
        let holds_back = tells_recovery(comparison.as_deref(), &metrics).then_some(HoldsBack::Recovery);
        let contributor = self.alarm_contributor_attributes.as_ref();
        Ok(AlarmTransition { holds_back, ..change.of_metrics(metrics, contributor)? })
    }
}

// === impl AlarmData ===

impl AlarmData {
    fn transition(self) -> Result<AlarmTransition, Malformed> {
        let State { value, timestamp, reason, reason_data, actions_suppressed_by } = self.state;
        let data = reason_data.as_deref();
        let change = Change {
            alarm: kept(&self.alarm_name),
            state: value,
            changed_at: timestamp,
            breaching: datapoint::newest(
                data,
                reason.as_deref(),
                period(self.configuration.metrics.as_deref()),
            ),
        };
        let holds_back = if self.mute_detail.is_some() {
            Some(HoldsBack::Muted)
        } else {
            actions_suppressed_by.filter(|by| !by.is_empty()).map(|_| HoldsBack::Suppressed)
        };
        if self.configuration.alarm_rule.is_some() {
            // Free text where a person has set the state.
            let reason = data.and_then(|text| serde_json::from_str(text).ok());
            let children =
                reason.map_or(Vec::new(), |CompositeReason { triggering_alarms }| triggering_alarms);
            return Ok(AlarmTransition { holds_back, ..change.of_composite(&self.alarm_name, &children) });
        }
        let metrics: Vec<_> =
            self.configuration.metrics.into_iter().flatten().map(MetricQuery::metric).collect();
        let comparison_unknown = tells_recovery(Some("GreaterThan"), &metrics);
        let contributor =
            self.alarm_contributor.as_ref().and_then(|contributor| contributor.attributes.as_ref());
        let transition = change.of_metrics(metrics, contributor)?;
        Ok(AlarmTransition { holds_back, comparison_unknown, ..transition })
    }
}

// === impl Change ===

impl Change {
    fn of_metrics(
        self,
        metrics: Vec<Metric>,
        contributor: Option<&BTreeMap<String, String>>,
    ) -> Result<AlarmTransition, Malformed> {
        let watched = watched(&self.alarm, metrics, contributor);
        let health_checks = match self.state {
            AlarmState::Alarm => watched?,
            // Nothing will be done for it: what it watches is reported if it can be read.
            AlarmState::Ok | AlarmState::InsufficientData => watched.unwrap_or_default(),
        };
        Ok(self.of(health_checks, None))
    }

    fn of_composite(self, name: &str, children: &[TriggeringChild]) -> AlarmTransition {
        // A rule may also wait for one to be OK, whose check has not failed.
        let went_off = |child: &&TriggeringChild| {
            child.state.as_ref().is_none_or(|state| state.value == AlarmState::Alarm)
        };
        // arn:aws:cloudwatch:us-east-1:123456789012:alarm:NAME; a name may hold colons.
        let triggers = children.iter().filter(went_off).filter_map(|child| {
            let (_, name) = child.arn.split_once(":alarm:")?;
            let timestamp = child.state.as_ref().and_then(|state| state.timestamp.clone());
            let changed_at = timestamp.and_then(|timestamp| serde_json::from_value(timestamp).ok());
            Some(Triggering { name: name.to_owned(), changed_at })
        });
        let triggered_by = triggers.collect();
        let composite = Composite { name: name.to_owned(), triggered_by };
        self.of(Vec::new(), Some(composite))
    }

    fn of(self, health_checks: Vec<HealthCheckId>, composite: Option<Composite>) -> AlarmTransition {
        let Self { alarm, state, changed_at, breaching } = self;
        AlarmTransition {
            alarm,
            state,
            changed_at,
            health_checks,
            composite,
            breaching,
            child: None,
            holds_back: None,
            comparison_unknown: false,
        }
    }
}

/// The longest period of an alarm's metrics, in seconds.
fn period(metrics: Option<&[MetricQuery]>) -> Option<i64> {
    let period_of =
        |query: &MetricQuery| query.metric_stat.as_ref().and_then(|metric| metric.period).or(query.period);
    metrics?.iter().filter_map(period_of).max()
}

fn kept(alarm: &str) -> String {
    alarm.chars().take(255).collect()
}

/// The checks whose health the metrics tell; for an alarm on a query, the one that its contributor names.
pub(super) fn watched(
    alarm: &str,
    metrics: Vec<Metric>,
    contributor: Option<&BTreeMap<String, String>>,
) -> Result<Vec<HealthCheckId>, Malformed> {
    let mut ids = Vec::new();
    for metric in metrics {
        let id = if metric.queries_health() {
            let named = contributor.and_then(|attributes| attributes.get(super::alarm::DIMENSION)).cloned();
            let query = metric.expression.unwrap_or_default();
            named.ok_or_else(|| Malformed::Query { alarm: alarm.to_owned(), query })?
        } else if metric.is_health() {
            let named = metric.dimensions.unwrap_or_default().health_check_id;
            let metric = metric.name.unwrap_or_default();
            named.ok_or_else(|| Malformed::NoHealthCheck { alarm: alarm.to_owned(), metric })?
        } else {
            continue;
        };
        let id = HealthCheckId::try_from(id)
            .map_err(|source| Malformed::InvalidId { alarm: alarm.to_owned(), source })?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

// === impl MetricQuery ===

impl MetricQuery {
    fn metric(self) -> Metric {
        let metric = self.metric_stat.map(|stat| stat.metric).unwrap_or_default();
        Metric { expression: self.expression, ..metric }
    }
}
