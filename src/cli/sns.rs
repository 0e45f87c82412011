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
    /// Whether it has been confirmed.
    pub is_confirmed: bool,
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
            is_confirmed: one.subscription_arn().is_some_and(|arn| Arn::parse(arn).is_some()),
        });
        Ok((subscriptions.collect(), page.next_token))
    })
    .await
}
