//! The shapes in which CloudWatch writes an alarm, and what each says of a transition.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::alarm::{
    AlarmState, AlarmTransition, Composite, DIMENSION, Dimensions, HoldsBack, Metric, Triggering,
    tells_recovery,
};
use super::super::datapoint::{self, Datapoint};
use super::super::health_check::HealthCheckId;
use super::Malformed;

/// An alarm as CloudWatch writes it to SNS.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Notification {
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
pub(super) struct AlarmData {
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
    pub(super) fn transition(self) -> Result<AlarmTransition, Malformed> {
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
    pub(super) fn transition(self) -> Result<AlarmTransition, Malformed> {
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
pub(in crate::failover_lock) fn watched(
    alarm: &str,
    metrics: Vec<Metric>,
    contributor: Option<&BTreeMap<String, String>>,
) -> Result<Vec<HealthCheckId>, Malformed> {
    let mut ids = Vec::new();
    for metric in metrics {
        let id = if metric.queries_health() {
            let named = contributor.and_then(|attributes| attributes.get(DIMENSION)).cloned();
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
