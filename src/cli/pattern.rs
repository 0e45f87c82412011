//! Whether a message passes a filter: a subscription's policy, or a pattern of the mapping by which Lambda polls a queue. Both
//! have the form of EventBridge's patterns.
//!
//! <https://docs.aws.amazon.com/sns/latest/dg/sns-subscription-filter-policies.html>,
//! <https://docs.aws.amazon.com/lambda/latest/dg/invocation-eventfiltering.html>

use serde_json::{Map, Value};

/// Whether a message passes; `None` if that depends on what is not known here. In the message, `null` is a value that is
/// there, and not known.
pub(super) fn passes(pattern: &Value, message: &Value) -> Option<bool> {
    let Value::Object(pattern) = pattern else { return None };
    let none = Map::new();
    let message = message.as_object().unwrap_or(&none);
    all(pattern.iter().map(|(key, wanted)| match wanted {
        Value::Array(patterns) if key == "$or" => {
            any(patterns.iter().map(|one| passes(one, &message.clone().into())))
        }
        Value::Object(_) => match message.get(key) {
            Some(Value::Null) => None,
            // In a part that is not there, all is absent.
            found => passes(wanted, found.unwrap_or(&Value::Null)),
        },
        Value::Array(wanted) => any(wanted.iter().map(|one| fits(one, message.get(key)))),
        _ => None,
    }))
}

/// Whether one of several is so; `None` if that is not known.
pub(super) fn any(each: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    each.reduce(|one, other| match (one, other) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (one, other) => Some(one? || other?),
    })
    .unwrap_or(Some(false))
}

/// Whether all of them are.
fn all(each: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    any(each.map(|one| one.map(|one| !one))).map(|one| !one)
}

/// Whether a field has a value that is wanted.
fn fits(wanted: &Value, found: Option<&Value>) -> Option<bool> {
    if let Some(exists) = wanted.get("exists").and_then(Value::as_bool) {
        return Some(exists == found.is_some());
    }
    let Some(found) = found else { return Some(false) };
    if found.is_null() {
        return None;
    }
    let Value::Object(wanted) = wanted else { return Some(wanted == found) };
    let (Some((operator, operand)), 1) = (wanted.iter().next(), wanted.len()) else { return None };
    let text = found.as_str().unwrap_or_default();
    match (operator.as_str(), operand) {
        ("prefix", Value::String(start)) => Some(text.starts_with(start)),
        ("suffix", Value::String(end)) => Some(text.ends_with(end)),
        ("equals-ignore-case", Value::String(other)) => Some(text.eq_ignore_ascii_case(other)),
        ("anything-but", Value::Array(others)) => Some(!others.contains(found)),
        ("anything-but", Value::String(_) | Value::Number(_)) => Some(operand != found),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_passes_a_pattern_by_what_is_known_of_it() {
        let message = json!({ "AlarmName": "failover-locked", "NewStateValue": "ALARM", "Region": null,
            "Trigger": { "Period": 60 } });
        for (pattern, expected) in [
            (json!({}), Some(true)),
            (json!({ "NewStateValue": ["OK", "ALARM"] }), Some(true)),
            (json!({ "NewStateValue": ["OK"] }), Some(false)),
            (json!({ "severity": ["page"] }), Some(false)),
            (json!({ "severity": [{ "anything-but": "page" }] }), Some(false)),
            (json!({ "severity": ["page", { "exists": false }] }), Some(true)),
            (json!({ "Region": [{ "exists": true }] }), Some(true)),
            (json!({ "Region": ["US East (N. Virginia)"] }), None),
            (json!({ "Region": ["US East (N. Virginia)"], "severity": ["page"] }), Some(false)),
            (json!({ "AlarmName": [{ "prefix": "failover-" }] }), Some(true)),
            (json!({ "AlarmName": [{ "suffix": "-set" }] }), Some(false)),
            (json!({ "AlarmName": [{ "equals-ignore-case": "Failover-Locked" }] }), Some(true)),
            (json!({ "AlarmName": [{ "anything-but": ["failover-locked"] }] }), Some(false)),
            (json!({ "AlarmName": [{ "wildcard": "failover-*" }] }), None),
            (json!({ "Trigger": { "Period": [60] } }), Some(true)),
            (json!({ "Trigger": { "Metric": [{ "exists": false }] } }), Some(true)),
            (json!({ "body": { "severity": ["page"] } }), Some(false)),
            (json!({ "$or": [{ "severity": ["page"] }, { "NewStateValue": ["ALARM"] }] }), Some(true)),
            (json!({ "$or": [{ "severity": ["page"] }, { "NewStateValue": ["OK"] }] }), Some(false)),
            (json!(null), None),
        ] {
            assert_eq!(passes(&pattern, &message), expected, "{pattern}");
        }
    }
}
