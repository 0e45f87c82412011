//! Counts in CloudWatch's [embedded metric format]: log lines from which CloudWatch makes metrics.
//!
//! [embedded metric format]: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html

use std::time::SystemTime;

use serde_json::json;

/// Returns a line that counts 1 in the metric `name`, once in total and once for the dimension.
pub(crate) fn count(namespace: &str, name: &str, dimension: Option<(&str, &str)>, now: SystemTime) -> String {
    let milliseconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut line = json!({ name: 1 });
    let mut dimensions = json!([[]]);
    if let Some((name, value)) = dimension {
        line[name] = json!(value);
        dimensions = json!([[], [name]]);
    }
    let metrics = json!([{ "Name": name, "Unit": "Count" }]);
    let directive = json!({ "Namespace": namespace, "Dimensions": dimensions, "Metrics": metrics });
    // Embedded metrics have whole milliseconds, which always fit a u64.
    line["_aws"] = json!({ "Timestamp": u64::try_from(milliseconds).ok(), "CloudWatchMetrics": [directive] });
    line.to_string()
}
