//! SNS in failoverctl's terms: the only place that knows its SDK.

use aws_config::SdkConfig;
use aws_sdk_sns::Client;
use serde_json::{Value, json};

use super::function::alarm_arn;
use super::pattern;
use crate::remote::arn::Arn;
use crate::remote::aws::{Call, Failure, pages, send};
use crate::remote::deadline::Deadline;

/// A subscriber of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subscription {
    /// `lambda`, `email`, …
    pub protocol: String,
    /// A function's ARN, an address, …
    pub endpoint: String,
    /// Its ARN, once it has been confirmed.
    pub arn: Option<String>,
}

/// What is known of a confirmed subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    /// Which messages the subscriber gets, if not all.
    pub filter: Option<Filter>,
    /// Whether it gets them without the envelope.
    pub is_raw: bool,
    /// Whether those that cannot be delivered are kept in a queue.
    pub has_dead_letters: bool,
}

/// Which messages a subscriber gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    /// The policy, as JSON.
    pub policy: String,
    /// Whether it is about the message's text, and not its attributes.
    pub is_on_text: bool,
}

/// The subscriptions of a topic.
pub(super) async fn subscriptions(
    aws: &SdkConfig,
    topic: &str,
    deadline: Deadline,
) -> Result<Vec<Subscription>, Failure> {
    let client = Client::new(aws);
    pages(deadline, async |time, token| {
        let request = client.list_subscriptions_by_topic().topic_arn(topic).set_next_token(token);
        let page = send(Call::new("sns:ListSubscriptionsByTopic", "the topic"), time, request.send()).await?;
        let subscriptions = page.subscriptions().iter().map(|one| Subscription {
            protocol: one.protocol().unwrap_or_default().to_owned(),
            endpoint: one.endpoint().unwrap_or_default().to_owned(),
            // Until it is confirmed, its ARN is `PendingConfirmation`.
            arn: one.subscription_arn().filter(|arn| Arn::parse(arn).is_some()).map(str::to_owned),
        });
        Ok((subscriptions.collect(), page.next_token))
    })
    .await
}

/// The policy of a topic, as JSON.
pub(super) async fn policy(aws: &SdkConfig, topic: &str, deadline: Deadline) -> Result<String, Failure> {
    let client = Client::new(aws);
    let output = deadline.persist(async |time| {
        let request = client.get_topic_attributes().topic_arn(topic);
        send(Call::new("sns:GetTopicAttributes", "the topic"), time, request.send()).await
    });
    let attributes = output.await?.attributes.unwrap_or_default();
    Ok(attributes.get("Policy").cloned().unwrap_or_default())
}

/// The attributes of a confirmed subscription.
pub(super) async fn attributes(
    aws: &SdkConfig,
    subscription: &str,
    deadline: Deadline,
) -> Result<Attributes, Failure> {
    let client = Client::new(aws);
    let output = deadline
        .persist(async |time| {
            let request = client.get_subscription_attributes().subscription_arn(subscription);
            send(Call::new("sns:GetSubscriptionAttributes", "the topic"), time, request.send()).await
        })
        .await?;
    let attribute = |name: &str| output.attributes().and_then(|all| all.get(name)).cloned();
    let policy = attribute("FilterPolicy").filter(|policy| !policy.is_empty() && policy != "{}");
    let is_on_text = attribute("FilterPolicyScope").as_deref() == Some("MessageBody");
    Ok(Attributes {
        filter: policy.map(|policy| Filter { policy, is_on_text }),
        is_raw: attribute("RawMessageDelivery").as_deref() == Some("true"),
        has_dead_letters: attribute("RedrivePolicy")
            .is_some_and(|policy| policy.contains("deadLetterTargetArn")),
    })
}

/// The text of a message of this alarm, as [`pattern::passes`] takes it.
pub(super) fn message(topic: &str, alarm: &str) -> Value {
    json!({
        "AlarmName": alarm, "AlarmDescription": null, "AWSAccountId": Arn::parse(topic).map(|arn| arn.account),
        "AlarmConfigurationUpdatedTimestamp": null, "NewStateValue": "ALARM", "NewStateReason": null,
        "StateChangeTime": null, "Region": null, "AlarmArn": alarm_arn(topic, alarm), "OldStateValue": null,
        "OKActions": null, "AlarmActions": null, "InsufficientDataActions": null, "Trigger": null,
    })
}

// === impl Filter ===

impl Filter {
    /// Whether a message of this text passes; `None` if that is not known. An alarm's message has no attributes.
    pub fn passes(&self, message: &Value) -> Option<bool> {
        let policy = serde_json::from_str(&self.policy).unwrap_or_default();
        pattern::passes(&policy, if self.is_on_text { message } else { &Value::Null })
    }
}

// === impl Attributes ===

impl Attributes {
    /// The body of a message of this alarm in a queue.
    pub fn in_queue(&self, topic: &str, alarm: &str) -> Value {
        if self.is_raw {
            return message(topic, alarm);
        }
        json!({
            "Type": "Notification", "MessageId": null, "TopicArn": topic, "Subject": null, "Message": null,
            "Timestamp": null, "SignatureVersion": null, "Signature": null, "SigningCertURL": null, "UnsubscribeURL": null,
        })
    }
}
