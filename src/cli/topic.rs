//! What a topic's policy says of an alarm that publishes there. CloudWatch does it as a service: an alarm that the policy shuts
//! out goes off, and no one is notified.
//!
//! The rules are IAM's: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html>.

use serde_json::Value;

use super::findings::Findings;
use super::function::matches;
use super::session::patience;
use super::sns;
use super::text::quoted;
use crate::remote::arn::Arn;
use crate::remote::aws::Kind;

const CLOUDWATCH: &str = "cloudwatch.amazonaws.com";
const PUBLISH: &str = "sns:Publish";

/// Whether an alarm may publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lets {
    Yes,
    No,
    /// It depends on a condition that is not known here.
    Perhaps,
}

/// Checks whether the alarm of this ARN may publish to a topic, and says so where it may not, or may not be able to. A
/// topic that does not exist is no finding of this.
pub(super) async fn accepts(
    aws: &aws_config::SdkConfig,
    topic: &str,
    alarm: &str,
    findings: &mut Findings,
) -> bool {
    const NAME: &str = "topic";
    let policy = match sns::policy(aws, topic, patience()).await {
        Ok(policy) => policy,
        Err(failure) if failure.kind() == Kind::NotFound => return true,
        Err(failure) => {
            findings.unknown(NAME, &failure);
            return true;
        }
    };
    match lets_publish(&serde_json::from_str(&policy).unwrap_or_default(), topic, alarm) {
        Lets::Yes => true,
        Lets::No => {
            let said =
                format!("the policy of {topic} does not let CloudWatch publish {alarm}: no one gets it");
            let see = format!(
                "add the statement of docs/lock.md#slack-and-pagerduty to what this prints: aws sns get-topic-attributes \
                 --region {} --topic-arn {} --query Attributes.Policy --output text",
                Arn::parse(topic).map_or("", |arn| arn.region),
                quoted(topic)
            );
            findings.wrong(NAME, said, see);
            false
        }
        Lets::Perhaps => {
            findings.warn(
                NAME,
                format!(
                    "whether the policy of {topic} lets CloudWatch publish {alarm} depends on a condition that was not judged: \
                     failoverctl drill shows it"
                ),
            );
            true
        }
    }
}

/// What the policy of a topic says of this alarm.
fn lets_publish(policy: &Value, topic: &str, alarm: &str) -> Lets {
    let statements = match &policy["Statement"] {
        Value::Array(statements) => statements.iter().collect(),
        Value::Object(_) => vec![&policy["Statement"]],
        _ => Vec::new(),
    };
    let (mut allowed, mut denied) = (Some(false), Some(false));
    for statement in statements {
        let which = match statement["Effect"].as_str() {
            Some("Allow") => &mut allowed,
            Some("Deny") => &mut denied,
            _ => continue,
        };
        *which = either(*which, applies(statement, topic, alarm));
    }
    match (allowed, denied) {
        (_, Some(true)) | (Some(false), _) => Lets::No,
        (Some(true), Some(false)) => Lets::Yes,
        _ => Lets::Perhaps,
    }
}

/// Whether one of two is so; `None` if that is not known.
fn either(one: Option<bool>, other: Option<bool>) -> Option<bool> {
    if one == Some(true) || other == Some(true) { Some(true) } else { Some(one? || other?) }
}

/// Whether a statement is about this request; `None` if that depends on what is not known.
fn applies(statement: &Value, topic: &str, alarm: &str) -> Option<bool> {
    let is_action = |pattern: &str| matches(&pattern.to_lowercase(), &PUBLISH.to_lowercase());
    let is_topic = |pattern: &str| matches(pattern, topic);
    let fits = |name: &str, not: &str, is: &dyn Fn(&str) -> bool| {
        if statement[name].is_null() && !statement[not].is_null() {
            !texts(&statement[not]).any(is)
        } else {
            texts(&statement[name]).any(is)
        }
    };
    let is_principal = if statement["Principal"].is_null() && !statement["NotPrincipal"].is_null() {
        !is_cloudwatch(&statement["NotPrincipal"])
    } else {
        is_cloudwatch(&statement["Principal"])
    };
    if !is_principal
        || !fits("Action", "NotAction", &is_action)
        || !fits("Resource", "NotResource", &is_topic)
    {
        return Some(false);
    }
    let conditions = statement["Condition"].as_object().into_iter().flatten();
    let conditions = conditions.flat_map(|(operator, keys)| {
        keys.as_object()
            .into_iter()
            .flatten()
            .map(move |(key, values)| (operator.as_str(), key.as_str(), values))
    });
    let held: Vec<_> =
        conditions.map(|(operator, key, values)| holds(operator, key, values, alarm)).collect();
    // One that does not hold decides.
    if held.contains(&Some(false)) {
        Some(false)
    } else {
        held.into_iter().try_fold(true, |all, one| Some(all && one?))
    }
}

/// Whether a principal is everyone, or CloudWatch. An account, or its roles, is not.
fn is_cloudwatch(principal: &Value) -> bool {
    principal == "*"
        || texts(&principal["AWS"]).any(|who| who == "*")
        || texts(&principal["Service"]).any(|service| service == CLOUDWATCH)
}

/// Whether a condition holds for what CloudWatch sends.
fn holds(operator: &str, key: &str, values: &Value, alarm: &str) -> Option<bool> {
    let account = Arn::parse(alarm).map_or("", |arn| arn.account);
    let found = match key.to_lowercase().as_str() {
        "aws:sourcearn" => alarm,
        // The older name is in the policy that SNS gives a new topic.
        "aws:sourceaccount" | "aws:sourceowner" => account,
        "aws:securetransport" | "aws:principalisawsservice" => "true",
        "aws:principalservicename" => CLOUDWATCH,
        _ => return None,
    };
    let operator = operator.strip_suffix("IfExists").unwrap_or(operator);
    let any = |is: &dyn Fn(&str) -> bool| texts(values).any(is);
    match operator {
        "StringEquals" => Some(any(&|value| value == found)),
        "StringNotEquals" => Some(!any(&|value| value == found)),
        "Bool" | "StringEqualsIgnoreCase" => Some(any(&|value| value.eq_ignore_ascii_case(found))),
        "ArnEquals" | "ArnLike" | "StringLike" => Some(any(&|value| matches(value, found))),
        "ArnNotEquals" | "ArnNotLike" | "StringNotLike" => Some(!any(&|value| matches(value, found))),
        _ => None,
    }
}

/// A text, a list of texts, or a truth value, which a policy may have without quotes.
fn texts(value: &Value) -> impl Iterator<Item = &str> {
    let of = |value| match value {
        &Value::Bool(true) => Some("true"),
        &Value::Bool(false) => Some("false"),
        value => value.as_str(),
    };
    let list = value.as_array().map(Vec::as_slice);
    list.unwrap_or(std::slice::from_ref(value)).iter().filter_map(of)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TOPIC: &str = "arn:aws:sns:us-east-1:123456789012:people";
    const ALARM: &str = "arn:aws:cloudwatch:us-east-1:123456789012:alarm:failover-locked";

    fn lets(statements: &Value) -> Lets {
        lets_publish(&json!({ "Statement": statements }), TOPIC, ALARM)
    }

    fn allow(principal: &Value, condition: &Value) -> Value {
        json!({ "Effect": "Allow", "Principal": principal, "Action": "sns:Publish", "Resource": TOPIC, "Condition": condition })
    }

    fn deny(principal: &Value, condition: &Value) -> Value {
        json!({ "Effect": "Deny", "Principal": principal, "Action": "sns:*", "Resource": "*", "Condition": condition })
    }

    #[test]
    fn a_policy_lets_cloudwatch_publish_or_shuts_it_out() {
        let (everyone, none) = (json!({ "AWS": "*" }), json!({}));
        let (service, account) =
            (json!({ "Service": CLOUDWATCH }), json!({ "AWS": "arn:aws:iam::123456789012:root" }));
        let mine = |key: &str| json!({ "StringEquals": { key: "123456789012" } });
        let tls = json!({ "Bool": { "aws:SecureTransport": "false" } });
        let alarms = |of: &str| json!({ "ArnLike": { "aws:SourceArn": format!("arn:aws:cloudwatch:us-east-1:{of}:alarm:*") } });
        let other = json!({ "StringEquals": { "aws:SourceVpce": "vpce-1" } });
        for (statements, expected) in [
            // What SNS gives a new topic.
            (json!([allow(&everyone, &mine("AWS:SourceOwner"))]), Lets::Yes),
            (json!(allow(&service, &none)), Lets::Yes),
            (json!([allow(&service, &alarms("123456789012")), deny(&json!("*"), &tls)]), Lets::Yes),
            (
                json!([allow(
                    &json!({ "Service": ["events.amazonaws.com", CLOUDWATCH] }),
                    &mine("aws:SourceAccount")
                )]),
                Lets::Yes,
            ),
            // What shuts it out.
            (json!([allow(&account, &none)]), Lets::No),
            (json!([allow(&json!({ "Service": "events.amazonaws.com" }), &none)]), Lets::No),
            (json!([allow(&service, &alarms("999999999999"))]), Lets::No),
            (json!([allow(&everyone, &none), deny(&service, &none)]), Lets::No),
            (
                json!([
                    allow(&everyone, &none),
                    deny(&json!("*"), &json!({ "StringNotEquals": { "aws:SourceAccount": "999999999999" } }))
                ]),
                Lets::No,
            ),
            (
                json!([allow(&everyone, &none), { "Effect": "Deny", "NotPrincipal": account, "NotAction": "sns:Subscribe", "Resource": "*" }]),
                Lets::No,
            ),
            (json!([]), Lets::No),
            // What is not known here.
            (json!([allow(&everyone, &other)]), Lets::Perhaps),
            (json!([allow(&everyone, &none), deny(&json!("*"), &other)]), Lets::Perhaps),
            (json!([allow(&everyone, &other), allow(&service, &none)]), Lets::Yes),
        ] {
            assert_eq!(lets(&statements), expected, "{statements}");
        }
        let elsewhere = json!({ "Effect": "Allow", "Principal": "*", "Action": ["SNS:Publish"], "Resource": format!("{TOPIC}-2") });
        assert_eq!(lets(&json!([elsewhere])), Lets::No);
    }
}
