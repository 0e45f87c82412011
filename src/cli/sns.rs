//! SNS in failoverctl's terms: the only place that knows its SDK.

use aws_config::SdkConfig;
use aws_sdk_sns::Client;

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

/// Which messages a subscriber gets, if not all.
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

/// The filter of a confirmed subscription.
pub(super) async fn filter(
    aws: &SdkConfig,
    subscription: &str,
    deadline: Deadline,
) -> Result<Option<Filter>, Failure> {
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
    Ok(policy.map(|policy| Filter { policy, is_on_text }))
}
