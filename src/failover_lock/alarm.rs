//! A CloudWatch alarm: what it watches, how it stands, and what speaks against a lock.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::datapoint::Datapoint;
use super::health_check::HealthCheckId;

/// The namespace of Route 53's metrics.
pub(crate) const NAMESPACE: &str = "AWS/Route53";
/// The metrics of a check's health; others, for example `TimeToFirstByte`, are about its latency.
pub(crate) const METRICS: [&str; 2] = ["HealthCheckStatus", "HealthCheckPercentageHealthy"];
/// The dimension that names the check.
pub(crate) const DIMENSION: &str = "HealthCheckId";
/// The units in which a check's health may be reported. An alarm with another one has no data.
pub(super) const UNITS: [&str; 3] = ["None", "Percent", "Count"];

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
    /// The newest datapoint that made it change, if the message says so.
    pub breaching: Option<Datapoint>,
    /// For a composite alarm: the alarm behind it that is on the check's health.
    pub child: Option<Failing>,
    /// What its message says against a lock.
    pub holds_back: Option<HoldsBack>,
    /// Whether its message lacks the comparison of a plain metric alarm, so that CloudWatch has to be asked
    /// whether it goes off on a failure or on a recovery.
    pub comparison_unknown: bool,
}

/// Why an alarm in ALARM does not ask for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldsBack {
    /// A mute rule holds its actions back.
    Muted,
    /// A suppressor alarm holds its actions back.
    Suppressed,
    /// It goes off when a check is healthy, or healthier than expected.
    Recovery,
}

/// A composite alarm, as far as its message describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composite {
    /// Its name.
    pub name: String,
    /// The alarms that set it off; not every message has them.
    pub triggered_by: Vec<Triggering>,
}

/// An alarm that set a composite alarm off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Triggering {
    /// Its name.
    pub name: String,
    /// When it changed, if the message says so.
    pub changed_at: Option<DateTime<Utc>>,
}

/// How an alarm finds one health check failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Since when it is in ALARM.
    pub changed_at: DateTime<Utc>,
    /// The newest datapoint that made it change, if CloudWatch says so.
    pub breaching: Option<Datapoint>,
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
    /// The newest datapoint that made it change, if CloudWatch says so.
    pub breaching: Option<Datapoint>,
    /// When its configuration last changed, its actions included.
    pub configured_at: Option<DateTime<Utc>>,
    /// Whether the health of a check never crosses its threshold, or the alarm never sees it.
    pub never_goes_off: bool,
    /// Whether its actions are on.
    pub actions_enabled: bool,
    /// What it does when it goes to ALARM, as ARNs. None does not mean that no one is notified:
    /// EventBridge is.
    pub actions: Vec<String>,
}

/// The states of a CloudWatch alarm.
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
    /// Whether its dimensions or its unit make it another metric than the one that Route 53 reports. A message does not say.
    #[serde(skip)]
    pub is_never_reported: bool,
}

/// The value of the dimension `HealthCheckId`, wherever it stands: SNS lists `{"name","value"}`
/// (emulators `{"Name","Value"}`), the others have a map.
#[derive(Debug, Default)]
pub(super) struct Dimensions {
    pub health_check_id: Option<String>,
}

// === impl Metric ===

impl Metric {
    /// Whether it is a health check's health.
    pub fn is_health(&self) -> bool {
        self.namespace.as_deref() == Some(NAMESPACE)
            && self.name.as_deref().is_some_and(|name| METRICS.contains(&name))
    }

    /// Whether it is a query over health checks' health: `SELECT MIN(HealthCheckStatus) FROM "AWS/Route53" …`.
    pub fn queries_health(&self) -> bool {
        let Some(query) = &self.expression else { return false };
        // The namespace as a whole: `AWS/Route53Resolver` is another one.
        let is_part = |c: char| c.is_alphanumeric() || c == '/' || c == '_';
        let mut words = query.split(|c| !is_part(c));
        words.any(|word| word == NAMESPACE)
            && query.split(|c| !is_part(c)).any(|word| METRICS.contains(&word))
    }

    /// Whether it is such a query with a contributor for each check: `… GROUP BY HealthCheckId`.
    pub fn queries_each_check(&self) -> bool {
        let query = self.expression.as_deref().unwrap_or_default().to_uppercase();
        let grouped = query.split_once("GROUP BY").is_some_and(|(_, by)| by.contains("HEALTHCHECKID"));
        grouped && self.queries_health()
    }

    /// Whether its query is restricted to some checks: `… WHERE HealthCheckId = '…' …`, or to the first ones of an order.
    pub fn is_restricted(&self) -> bool {
        let query = self.expression.as_deref().unwrap_or_default().to_uppercase();
        query.split_whitespace().any(|word| ["WHERE", "LIMIT"].contains(&word))
    }

    /// Whether it is a query for the health itself, which is high while a check is healthy, whichever of these functions
    /// is applied.
    fn is_health_by_query(&self) -> bool {
        self.applies(&["MIN", "MAX", "AVG", "SUM"])
    }

    /// Whether it is a query that only counts the values of the health.
    fn counts_health(&self) -> bool {
        self.applies(&["COUNT"])
    }

    /// Whether it is a query that applies one of these functions to the health.
    fn applies(&self, functions: &[&str]) -> bool {
        let query = self.expression.as_deref().unwrap_or_default().to_uppercase();
        let function = query.trim_start().strip_prefix("SELECT").map(str::trim_start);
        self.queries_health()
            && function.is_some_and(|text| functions.iter().any(|name| text.starts_with(&format!("{name}("))))
    }

    /// Whether it is the band of an anomaly detection.
    fn is_band(&self) -> bool {
        self.expression.as_deref().is_some_and(|text| text.trim_start().starts_with("ANOMALY_DETECTION_BAND"))
    }
}

/// Whether a query that is restricted to some checks names this one as one of them, and not as one that it leaves out.
pub(super) fn is_named(id: &str, query: &str) -> bool {
    let excludes = query.contains("!=") || query.to_uppercase().split_whitespace().any(|word| word == "NOT");
    query.contains(id) && !excludes
}

/// Whether an alarm with this comparison, over these metrics, goes off when a health check is healthy, or
/// healthier than expected: both metrics are high then. Only of plain metrics, with or without a band of expected
/// values, and of queries for them, is that known; another expression may mean anything.
pub(super) fn tells_recovery(comparison: Option<&str>, metrics: &[Metric]) -> bool {
    let is_plain =
        |metric: &Metric| metric.expression.is_none() || metric.is_band() || metric.is_health_by_query();
    let is_health = |metric: &Metric| metric.is_health() || metric.is_health_by_query();
    comparison.is_some_and(|comparison| comparison.starts_with("GreaterThan"))
        && metrics.iter().all(is_plain)
        && metrics.iter().any(is_health)
}

/// Whether an alarm with this comparison and threshold, over these metrics, never goes off: of plain metrics, and of queries
/// for them, no statistic is below 0, and no count below 1.
pub(super) fn never_goes_off(
    comparison: Option<&str>,
    threshold: Option<f64>,
    statistic: Option<&str>,
    metrics: &[Metric],
) -> bool {
    let is_plain = |metric: &Metric| metric.expression.is_none() && metric.is_health();
    let counts = statistic == Some("SampleCount") || metrics.iter().any(Metric::counts_health);
    let least = if counts { 1.0 } else { 0.0 };
    let below_all = match comparison {
        Some("LessThanThreshold") => threshold.is_some_and(|threshold| threshold <= least),
        Some("LessThanOrEqualToThreshold") => threshold.is_some_and(|threshold| threshold < least),
        _ => false,
    };
    let is_known =
        |metric: &Metric| is_plain(metric) || metric.is_health_by_query() || metric.counts_health();
    below_all && metrics.iter().all(is_known)
}

/// Whether an alarm over these metrics sees no check's health, because Route 53 reports none of those that it names.
pub(super) fn sees_no_health(metrics: &[Metric]) -> bool {
    let mut health = metrics.iter().filter(|metric| metric.is_health()).peekable();
    health.peek().is_some() && health.all(|metric| metric.is_never_reported)
}

// === impl Dimensions ===

impl Dimensions {
    fn add<E: serde::de::Error>(&mut self, name: &str, value: String) -> Result<(), E> {
        if name == DIMENSION && self.health_check_id.replace(value).is_some() {
            return Err(E::custom("two dimensions HealthCheckId on one metric"));
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Dimension {
    #[serde(alias = "Name")]
    name: String,
    #[serde(alias = "Value")]
    value: String,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Metric {
        let name = METRICS[0].to_owned();
        Metric { namespace: Some(NAMESPACE.to_owned()), name: Some(name), ..Metric::default() }
    }

    fn query(text: &str) -> Metric {
        Metric { expression: Some(text.to_owned()), ..Metric::default() }
    }

    #[test]
    fn a_query_is_about_health_if_it_names_the_namespace_and_a_metric_as_a_whole() {
        for (text, is_ours) in [
            (r#"SELECT MIN(HealthCheckStatus) FROM "AWS/Route53" GROUP BY HealthCheckId"#, true),
            (r#"SELECT MIN(HealthCheckStatus) FROM SCHEMA("AWS/Route53", HealthCheckId)"#, true),
            (r#"SELECT SUM(InboundQueryVolume) FROM "AWS/Route53Resolver" GROUP BY EndpointId"#, false),
            (r#"SELECT AVG(TimeToFirstByte) FROM "AWS/Route53""#, false),
            ("m1 < 1", false),
        ] {
            assert_eq!(query(text).queries_health(), is_ours, "{text}");
        }
    }

    #[test]
    fn a_query_watches_the_checks_that_it_names_and_not_those_that_it_leaves_out() {
        let of = |condition: &str| {
            format!(r#"SELECT MIN(HealthCheckStatus) FROM SCHEMA("AWS/Route53", HealthCheckId) {condition}"#)
        };
        for (condition, restricted, named) in [
            ("GROUP BY HealthCheckId", false, false),
            ("WHERE HealthCheckId = 'abc' GROUP BY HealthCheckId", true, true),
            ("WHERE HealthCheckId != 'abc' GROUP BY HealthCheckId", true, false),
            ("WHERE NOT HealthCheckId = 'abc' GROUP BY HealthCheckId", true, false),
            ("GROUP BY HealthCheckId ORDER BY MIN() ASC LIMIT 1", true, false),
        ] {
            assert_eq!(query(&of(condition)).is_restricted(), restricted, "{condition}");
            assert_eq!(is_named("abc", &of(condition)), named, "{condition}");
        }
    }

    #[test]
    fn an_alarm_never_goes_off_below_a_threshold_that_no_health_is_below() {
        let by_query = |function: &str| {
            query(&format!(
                r#"SELECT {function}(HealthCheckStatus) FROM "AWS/Route53" GROUP BY HealthCheckId"#
            ))
        };
        let (below, up_to, plain) = ("LessThanThreshold", "LessThanOrEqualToThreshold", Some("Minimum"));
        for (comparison, threshold, statistic, metrics, never) in [
            (below, Some(0.0), plain, vec![health()], true),
            (below, Some(0.1), plain, vec![health()], false),
            (up_to, Some(0.0), plain, vec![health()], false),
            (up_to, Some(-0.1), plain, vec![health()], true),
            (below, None, plain, vec![health()], false),
            ("GreaterThanThreshold", Some(0.0), plain, vec![health()], false),
            (below, Some(0.0), plain, vec![health(), query("m1 - 1")], false),
            (below, Some(0.0), None, vec![by_query("MIN")], true),
            (below, Some(1.0), None, vec![by_query("MIN")], false),
            (below, Some(1.0), Some("SampleCount"), vec![health()], true),
            (up_to, Some(1.0), Some("SampleCount"), vec![health()], false),
            (below, Some(1.0), None, vec![by_query("COUNT")], true),
            (below, Some(2.0), None, vec![by_query("COUNT")], false),
        ] {
            let found = never_goes_off(Some(comparison), threshold, statistic, &metrics);
            assert_eq!(found, never, "{comparison} {threshold:?} {statistic:?} {metrics:?}");
        }
    }

    #[test]
    fn only_a_plain_metric_or_a_band_that_is_exceeded_is_a_recovery() {
        let band = || query("ANOMALY_DETECTION_BAND(m1, 2)");
        for (comparison, metrics, recovery) in [
            ("GreaterThanOrEqualToThreshold", vec![health()], true),
            ("GreaterThanUpperThreshold", vec![health(), band()], true),
            ("LessThanThreshold", vec![health()], false),
            ("LessThanLowerThreshold", vec![health(), band()], false),
            ("LessThanLowerOrGreaterThanUpperThreshold", vec![health(), band()], false),
            ("GreaterThanThreshold", vec![health(), query("1 - m1")], false),
            (
                "GreaterThanThreshold",
                vec![query(r#"SELECT MIN(HealthCheckStatus) FROM "AWS/Route53" GROUP BY HealthCheckId"#)],
                true,
            ),
            ("LessThanThreshold", vec![query(r#"SELECT MIN(HealthCheckStatus) FROM "AWS/Route53""#)], false),
            (
                "GreaterThanThreshold",
                vec![query(r#"SELECT COUNT(HealthCheckStatus) FROM "AWS/Route53""#)],
                false,
            ),
        ] {
            assert_eq!(tells_recovery(Some(comparison), &metrics), recovery, "{comparison}");
        }
        assert!(!tells_recovery(None, &[health()]));
    }
}
