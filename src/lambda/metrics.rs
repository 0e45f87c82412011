//! Metrics in CloudWatch's [embedded metric format]: log lines from which CloudWatch makes metrics.
//!
//! [embedded metric format]: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html

use std::time::SystemTime;

use serde_json::{Value, json};

/// A value of a metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// The metric's name.
    pub name: &'static str,
    /// The value, a number.
    pub value: Value,
    /// CloudWatch's name for the unit.
    pub unit: &'static str,
}

/// A dimension by which values are kept apart: its name and its value.
pub(crate) type Dimension<'a> = (&'a str, &'a str);

/// Returns a line with these values, once for each set of dimensions: the empty one is the total.
pub(crate) fn line(namespace: &str, by: &[&[Dimension<'_>]], values: &[Metric], now: SystemTime) -> String {
    let milliseconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let dimensions: Vec<Vec<_>> =
        by.iter().map(|dimensions| dimensions.iter().map(|(name, _)| *name).collect()).collect();
    let names: Vec<Value> =
        values.iter().map(|metric| json!({ "Name": metric.name, "Unit": metric.unit })).collect();
    let directive = json!({ "Namespace": namespace, "Dimensions": dimensions, "Metrics": names });
    // Embedded metrics have whole milliseconds, which always fit a u64.
    let mut line = json!({
        "_aws": { "Timestamp": u64::try_from(milliseconds).ok(), "CloudWatchMetrics": [directive] }
    });
    for (name, value) in by.iter().copied().flatten() {
        line[*name] = json!(value);
    }
    for metric in values {
        line[metric.name] = metric.value.clone();
    }
    line.to_string()
}

// === impl Metric ===

impl Metric {
    /// So many occurrences.
    pub(crate) fn count(name: &'static str, count: u32) -> Self {
        Self { name, value: json!(count), unit: "Count" }
    }
}
