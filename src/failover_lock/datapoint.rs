//! The datapoints that an alarm's reason names: what made it change its state.

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use serde::Deserialize;

/// What `reasonData` of a metric alarm holds, as JSON in a string.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricReason {
    start_date: Option<DateTime<Utc>>,
    period: Option<i64>,
    recent_datapoints: Option<Vec<serde::de::IgnoredAny>>,
    evaluated_datapoints: Option<Vec<Evaluated>>,
}

#[derive(Deserialize)]
struct Evaluated {
    timestamp: DateTime<Utc>,
}

/// A datapoint of an alarm's metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datapoint {
    /// When it began, which is the time that CloudWatch gives it.
    pub began: DateTime<Utc>,
    /// When it ended: the alarm's period later.
    pub ended: DateTime<Utc>,
}

/// The period of an alarm whose message does not say it: the shortest of Route 53's metrics.
const PERIOD: i64 = 60;

/// The newest datapoint that made an alarm change, by its reason in words or in data, and its period in seconds. The words
/// name those alone that breach; the data names all that were evaluated, and does not say which of them breach.
pub(super) fn newest(data: Option<&str>, words: Option<&str>, period: Option<i64>) -> Option<Datapoint> {
    let began = words.and_then(newest_in).or_else(|| data.and_then(newest_of))?;
    let period = TimeDelta::try_seconds(period.unwrap_or(PERIOD))?;
    Some(Datapoint { began, ended: began.checked_add_signed(period)? })
}

/// When the newest datapoint began that a state's reason names: `… datapoints [0.0 (21/11/26 02:35:00)] was …`,
/// day first.
fn newest_in(reason: &str) -> Option<DateTime<Utc>> {
    let times = reason.split('(').filter_map(|part| {
        let (time, _) = part.split_once(')')?;
        NaiveDateTime::parse_from_str(time, "%d/%m/%y %H:%M:%S").ok()
    });
    times.max().map(|time| time.and_utc())
}

/// The same, from the reason's data in JSON.
fn newest_of(reason_data: &str) -> Option<DateTime<Utc>> {
    let reason: MetricReason = serde_json::from_str(reason_data).ok()?;
    let evaluated = reason.evaluated_datapoints.unwrap_or_default();
    if let Some(newest) = evaluated.iter().map(|point| point.timestamp).max() {
        return Some(newest);
    }
    let points = i64::try_from(reason.recent_datapoints?.len()).ok()?;
    let later = TimeDelta::try_seconds(reason.period?.checked_mul((points - 1).max(0))?)?;
    reason.start_date?.checked_add_signed(later)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_names_its_datapoints() {
        let newest = Some("2026-11-21T02:36:00Z".parse().unwrap());
        let text = "Threshold Crossed: 2 out of the last 2 datapoints [0.0 (21/11/26 02:36:00), 0.0 (21/11/26 02:35:00)] were less than the threshold (1.0) (minimum 1 datapoint for OK -> ALARM transition).";
        assert_eq!(newest_in(text), newest);
        assert_eq!(newest_in("set by a person (drill)"), None);
        let start = r#"{"version":"1.0","queryDate":"2026-11-21T02:37:15.490+0000","startDate":"2026-11-21T02:35:00.000+0000","period":60,"recentDatapoints":[0.0,0.0],"threshold":1.0}"#;
        assert_eq!(newest_of(start), newest);
        let evaluated = r#"{"evaluatedDatapoints":[{"timestamp":"2026-11-21T02:36:00.000+0000","value":0.0},{"timestamp":"2026-11-21T02:35:00.000+0000"}]}"#;
        assert_eq!(newest_of(evaluated), newest);
        assert_eq!(newest_of("free text"), None);
        for period in [100_000_000_000_000_i64, i64::MAX, -100_000_000_000_000, i64::MIN] {
            let of_no_time = format!(
                r#"{{"startDate":"2026-11-21T02:35:00Z","period":{period},"recentDatapoints":[0,0,0]}}"#
            );
            assert_eq!(newest_of(&of_no_time), None, "{period}");
        }
        let ended =
            |data, period| super::newest(data, Some(text), period).map(|point| point.ended.to_rfc3339());
        assert_eq!(ended(Some(start), None).as_deref(), Some("2026-11-21T02:37:00+00:00"));
        // The newest one that was evaluated is well.
        let m_of_n = r#"{"evaluatedDatapoints":[{"timestamp":"2026-11-21T02:40:00.000+0000","value":1.0},{"timestamp":"2026-11-21T02:36:00.000+0000","value":0.0}]}"#;
        assert_eq!(ended(Some(m_of_n), None).as_deref(), Some("2026-11-21T02:37:00+00:00"));
        assert_eq!(ended(Some("free text"), Some(300)).as_deref(), Some("2026-11-21T02:41:00+00:00"));
        assert_eq!(ended(None, Some(i64::MAX)), None);
    }
}
