//! What a topic's policy says of an alarm that publishes there. CloudWatch does it as a service: an alarm that the policy shuts
//! out goes off, and no one is notified.

use super::findings::Findings;
use super::policy::{self, Lets, Request};
use super::session::patience;
use super::sns;
use super::text::quoted;
use crate::remote::arn::Arn;
use crate::remote::aws::Kind;

const CLOUDWATCH: &str = "cloudwatch.amazonaws.com";
const PUBLISH: &str = "sns:Publish";

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
    match lets_publish(&policy, topic, alarm) {
        Lets::Yes => true,
        Lets::No | Lets::Denied(_) => {
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
fn lets_publish(policy: &str, topic: &str, alarm: &str) -> Lets {
    let request = Request { service: CLOUDWATCH, action: PUBLISH, resource: Some(topic), source: alarm };
    policy::lets(&policy::statements(policy), request)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const TOPIC: &str = "arn:aws:sns:us-east-1:123456789012:people";
    const ALARM: &str = "arn:aws:cloudwatch:us-east-1:123456789012:alarm:failover-locked";

    fn lets(statements: &Value) -> Lets {
        match lets_publish(&json!({ "Statement": statements }).to_string(), TOPIC, ALARM) {
            Lets::Denied(_) => Lets::No,
            lets => lets,
        }
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
