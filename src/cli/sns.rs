//! SNS in failoverctl's words: the only place that knows its SDK.

use aws_config::SdkConfig;
use aws_sdk_sns::Client;

use crate::remote::aws::{Call, Failure, send};
use crate::remote::deadline::Deadline;

/// Who gets what a topic is told.
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
    let mut subscriptions = Vec::new();
    let mut page: Option<String> = None;
    loop {
        let output = deadline
            .persist(async |time| {
                let request =
                    client.list_subscriptions_by_topic().topic_arn(topic).set_next_token(page.clone());
                send(Call("sns:ListSubscriptionsByTopic"), time, request.send()).await
            })
            .await?;
        subscriptions.extend(output.subscriptions().iter().map(|one| Subscription {
            protocol: one.protocol().unwrap_or_default().to_owned(),
            endpoint: one.endpoint().unwrap_or_default().to_owned(),
            is_confirmed: one.subscription_arn().is_some_and(|arn| arn.starts_with("arn:")),
        }));
        page = output.next_token;
        if page.is_none() {
            return Ok(subscriptions);
        }
    }
}
