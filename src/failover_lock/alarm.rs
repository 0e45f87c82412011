//! Messages → alarm transitions: what arrives, reduced to what the decision needs.
//!
//! An alarm reaches the function through SNS, as a direct alarm action, or through EventBridge, and
//! each spells it differently. Only the fields that decide are read, so that an alarm without a
//! description, or with fields that AWS adds tomorrow, is read as well.

use std::collections::BTreeMap;
use std::fmt;

use aws_lambda_events::eventbridge::EventBridgeEvent;
use chrono::{DateTime, Utc};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use super::health_check::{HealthCheckId, InvalidId};
use crate::program::text::{Quoted, brief};

/// Where Route 53 publishes its metrics.
pub(crate) const NAMESPACE: &str = "AWS/Route53";
/// The metrics that tell a check's health; others, as `TimeToFirstByte`, tell its latency.
pub(crate) const METRICS: [&str; 2] = ["HealthCheckStatus", "HealthCheckPercentageHealthy"];
/// The dimension that names the check.
pub(crate) const DIMENSION: &str = "HealthCheckId";

/// An alarm's change from one state to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlarmTransition {
    /// The alarm's name; CloudWatch allows 255 characters, and no more are kept.
    pub alarm: String,
    /// The state that it changed to.
    pub state: AlarmState,
    /// When it changed, by CloudWatch's clock.
    pub changed_at: DateTime<Utc>,
    /// The health checks whose *health* it watches, each once, in the message's order. Empty for an
    /// alarm on anything else, a health check's latency included, and for a composite alarm.
    pub health_checks: Vec<HealthCheckId>,
    /// For a composite alarm, which names no health check: where to look for what is behind it.
    pub composite: Option<Composite>,
}

/// A metric alarm on a check's health, as it stands now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: AlarmState,
    /// When its state last changed.
    pub changed_at: DateTime<Utc>,
    /// Whether its actions are on.
    pub actions_enabled: bool,
    /// What it does when it goes to ALARM, as ARNs. None does not mean that nothing hears of it:
    /// EventBridge does.
    pub actions: Vec<String>,
}

/// A composite alarm, as its message tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composite {
    /// Its name.
    pub name: String,
    /// The alarms, by name, whose going off made it go off; a message need not tell.
    pub triggered_by: Vec<String>,
}

/// A metric that an alarm watches, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Metric {
    #[serde(alias = "Namespace")]
    pub namespace: Option<String>,
    #[serde(alias = "MetricName")]
    pub name: Option<String>,
    #[serde(alias = "Dimensions")]
    pub dimensions: Option<Dimensions>,
    /// A metric math expression or a query, which carries no metric of its own.
    #[serde(skip)]
    pub expression: Option<String>,
}

/// The value of the dimension `HealthCheckId`, wherever it stands: SNS lists `{"name","value"}`
/// (emulators `{"Name","Value"}`), the others have a map.
#[derive(Debug, Default)]
pub(super) struct Dimensions {
    health_check_id: Option<String>,
}

/// The states that a CloudWatch alarm has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AlarmState {
    /// The metric is within its threshold.
    Ok,
    /// The metric is beyond its threshold.
    Alarm,
    /// There is too little data to tell.
    InsufficientData,
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
    /// It is JSON, of something else.
    #[error(
        "{0} is not a CloudWatch alarm: send SNS notifications, alarm actions or EventBridge alarm state changes here"
    )]
    Foreign(String),
    /// A request to switch back was sent to the function that locks.
    #[error(
        "this is a request to restore; this function locks, send it to the one with the handler `restore`"
    )]
    RestoreRequest,
    /// The alarm is on a health check's metric, and says of no health check.
    #[error("the alarm {} is on {metric} without a dimension HealthCheckId", Quoted(.alarm))]
    NoHealthCheck {
        /// The alarm's name.
        alarm: String,
        /// The metric's name.
        metric: String,
    },
    /// The alarm is on a query over Route 53's metrics, which may be any health check's.
    #[error("the alarm {} is on the query {}, which does not say of which health check: put it on the metric of one", Quoted(.alarm), Quoted(.query))]
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

/// Reads every transition that an event carries, in its order; each SNS record stands alone.
///
/// An alarm's message without the envelope that it came in is read too, so that one that was kept
/// from a queue or an e-mail can be handed in again.
///
/// # Errors
/// The event as a whole cannot be read. What is wrong with a single record stands in its place.
pub fn transitions(event: &str) -> Result<Vec<Result<AlarmTransition, Malformed>>, Malformed> {
    if event.trim().is_empty() {
        return Err(Malformed::Foreign("an empty text".to_owned()));
    }
    let parts: Parts = parse("the event", event)?;
    let Some(records) = parts.get("Records") else {
        return Ok(vec![message(event)]);
    };
    let records: Vec<&RawValue> = parse("the list of records", records.get())?;
    if records.is_empty() {
        return Err(Malformed::Foreign("an event without records".to_owned()));
    }
    Ok(records.into_iter().map(|record| sns_record(record.get())).collect())
}

/// Whether `event` looks like something that a machine sends rather than a person.
pub(super) fn is_machine_made(event: &BTreeMap<String, &RawValue>) -> bool {
    ["Records", "source", "detail-type", "alarmData", "AlarmName"].iter().any(|key| event.contains_key(*key))
}

pub(super) type Parts<'a> = BTreeMap<String, &'a RawValue>;

fn parse<'a, T: Deserialize<'a>>(what: &'static str, text: &'a str) -> Result<T, Malformed> {
    serde_json::from_str(text).map_err(|source| Malformed::Unreadable { what, source })
}

fn sns_record(text: &str) -> Result<AlarmTransition, Malformed> {
    let record: Record = parse("the SNS record", text)?;
    match record.sns {
        Some(sns) => message(&sns.message),
        None => Err(Malformed::Foreign(match record.event_source {
            Some(source) => format!("a record from {}", Quoted(&source)),
            None => "a record without Sns".to_owned(),
        })),
    }
}

fn message(text: &str) -> Result<AlarmTransition, Malformed> {
    let parts: Parts = parse("the alarm's message", text)?;
    let has = |keys: &[&str]| keys.iter().any(|key| parts.contains_key(*key));
    if has(&["AlarmName", "NewStateValue", "Trigger"]) {
        parse::<Notification>("the alarm's message", text)?.transition()
    } else if let Some(data) = parts.get("alarmData") {
        parse::<AlarmData>("alarmData", data.get())?.transition()
    } else if has(&["detail-type"]) {
        let event: EventBridgeEvent<Box<RawValue>> = parse("the EventBridge event", text)?;
        match (event.source.as_str(), event.detail_type.as_str()) {
            ("aws.cloudwatch", "CloudWatch Alarm State Change") => {
                parse::<AlarmData>("detail", event.detail.get())?.transition()
            }
            (source, detail_type) => {
                Err(Malformed::Foreign(format!("{} from {}", Quoted(detail_type), Quoted(source))))
            }
        }
    } else if let Some(inner) = parts.get("Message") {
        // What SNS hands to queues and web servers, around the same text.
        message(&parse::<String>("the SNS notification", inner.get())?)
    } else if has(&["healthCheckId", "force", "dryRun"]) {
        Err(Malformed::RestoreRequest)
    } else {
        let keys: Vec<&str> = parts.keys().take(8).map(String::as_str).collect();
        Err(Malformed::Foreign(match keys.as_slice() {
            [] => "an empty object".to_owned(),
            _ => format!("an object with the keys {}", Quoted(&keys.join(", "))),
        }))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Record {
    #[serde(alias = "eventSource")]
    event_source: Option<String>,
    sns: Option<Sns>,
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
    state_change_time: DateTime<Utc>,
    trigger: Option<Trigger>,
    alarm_rule: Option<String>,
    triggering_children: Option<Vec<TriggeringChild>>,
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
}

/// One metric, or with metric math several.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Trigger {
    namespace: Option<String>,
    metric_name: Option<String>,
    dimensions: Option<Dimensions>,
    comparison_operator: Option<String>,
    metrics: Option<Vec<MetricQuery>>,
}

/// An alarm as CloudWatch hands it to Lambda (`alarmData`) and to EventBridge (`detail`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AlarmData {
    alarm_name: String,
    state: State,
    configuration: Configuration,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    value: AlarmState,
    timestamp: DateTime<Utc>,
    reason_data: Option<String>,
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
}

#[derive(Deserialize)]
struct MetricStat {
    #[serde(alias = "Metric")]
    metric: Metric,
}

#[derive(Deserialize)]
struct Dimension {
    #[serde(alias = "Name")]
    name: String,
    #[serde(alias = "Value")]
    value: String,
}

// === impl Notification ===

impl Notification {
    fn transition(self) -> Result<AlarmTransition, Malformed> {
        let (alarm, state, changed_at) = (self.alarm_name, self.new_state_value, self.state_change_time);
        if self.alarm_rule.is_some() {
            let children = self.triggering_children.unwrap_or_default();
            return Ok(AlarmTransition::of_composite(&alarm, state, changed_at, &children));
        }
        let mut metrics = Vec::new();
        if let Some(trigger) = self.trigger {
            metrics.extend(trigger.metrics.into_iter().flatten().map(MetricQuery::metric));
            if !trigger.comparison_operator.as_deref().is_some_and(tells_recovery) {
                metrics.push(Metric {
                    namespace: trigger.namespace,
                    name: trigger.metric_name,
                    dimensions: trigger.dimensions,
                    expression: None,
                });
            }
        }
        AlarmTransition::of_metrics(&alarm, state, changed_at, metrics)
    }
}

// === impl AlarmData ===

impl AlarmData {
    fn transition(self) -> Result<AlarmTransition, Malformed> {
        let (alarm, state, changed_at) = (self.alarm_name, self.state.value, self.state.timestamp);
        if self.configuration.alarm_rule.is_some() {
            // Free text where a person has set the state.
            let reason = self.state.reason_data.and_then(|text| serde_json::from_str(&text).ok());
            let children =
                reason.map_or(Vec::new(), |CompositeReason { triggering_alarms }| triggering_alarms);
            return Ok(AlarmTransition::of_composite(&alarm, state, changed_at, &children));
        }
        let metrics = self.configuration.metrics.into_iter().flatten().map(MetricQuery::metric).collect();
        AlarmTransition::of_metrics(&alarm, state, changed_at, metrics)
    }
}

// === impl AlarmTransition ===

impl AlarmTransition {
    fn of_metrics(
        alarm: &str,
        state: AlarmState,
        changed_at: DateTime<Utc>,
        metrics: Vec<Metric>,
    ) -> Result<Self, Malformed> {
        let alarm = kept(alarm);
        let health_checks = match state {
            AlarmState::Alarm => watched(&alarm, metrics)?,
            // Nothing will be done for it: what it watches is told where it can be read.
            AlarmState::Ok | AlarmState::InsufficientData => watched(&alarm, metrics).unwrap_or_default(),
        };
        Ok(Self { alarm, state, changed_at, health_checks, composite: None })
    }

    fn of_composite(
        alarm: &str,
        state: AlarmState,
        changed_at: DateTime<Utc>,
        children: &[TriggeringChild],
    ) -> Self {
        // A rule may also wait for one to be OK, whose check has not failed.
        let went_off = |child: &&TriggeringChild| {
            child.state.as_ref().is_none_or(|state| state.value == AlarmState::Alarm)
        };
        // arn:aws:cloudwatch:us-east-1:123456789012:alarm:NAME; a name may hold colons.
        let names = children.iter().filter(went_off).filter_map(|child| child.arn.split_once(":alarm:"));
        let triggered_by = names.map(|(_, name)| name.to_owned()).collect();
        let composite = Some(Composite { name: alarm.to_owned(), triggered_by });
        Self { alarm: kept(alarm), state, changed_at, health_checks: Vec::new(), composite }
    }
}

fn kept(alarm: &str) -> String {
    alarm.chars().take(255).collect()
}

/// Whether an alarm with this operator goes off when a health check turns healthy: both metrics are
/// high then.
pub(super) fn tells_recovery(comparison_operator: &str) -> bool {
    comparison_operator.starts_with("GreaterThan")
}

/// The checks whose health the metrics tell.
pub(super) fn watched(alarm: &str, metrics: Vec<Metric>) -> Result<Vec<HealthCheckId>, Malformed> {
    let mut ids = Vec::new();
    for metric in metrics {
        if let Some(query) = metric.expression.filter(|expression| expression.contains(NAMESPACE)) {
            return Err(Malformed::Query { alarm: alarm.to_owned(), query });
        }
        let ours = metric.namespace.as_deref() == Some(NAMESPACE);
        let Some(name) = metric.name.filter(|name| ours && METRICS.contains(&name.as_str())) else {
            continue;
        };
        let id = metric
            .dimensions
            .unwrap_or_default()
            .health_check_id
            .ok_or_else(|| Malformed::NoHealthCheck { alarm: alarm.to_owned(), metric: name.clone() })?;
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

// === impl Dimensions ===

impl Dimensions {
    /// The dimensions of an alarm that was looked up.
    pub fn of_health_check(health_check_id: Option<String>) -> Self {
        Self { health_check_id }
    }

    fn add<E: serde::de::Error>(&mut self, name: &str, value: String) -> Result<(), E> {
        if name == DIMENSION && self.health_check_id.replace(value).is_some() {
            return Err(E::custom("two dimensions HealthCheckId on one metric"));
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Dimensions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListOrMap;

        impl<'de> Visitor<'de> for ListOrMap {
            type Value = Dimensions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list or a map of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Dimensions, A::Error> {
                let mut dimensions = Dimensions::default();
                while let Some(Dimension { name, value }) = list.next_element()? {
                    dimensions.add(&name, value)?;
                }
                Ok(dimensions)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Dimensions, A::Error> {
                let mut dimensions = Dimensions::default();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    dimensions.add(&name, value)?;
                }
                Ok(dimensions)
            }
        }

        deserializer.deserialize_any(ListOrMap)
    }
}

// === impl AlarmState ===

impl fmt::Display for AlarmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "OK",
            Self::Alarm => "ALARM",
            Self::InsufficientData => "INSUFFICIENT_DATA",
        })
    }
}
