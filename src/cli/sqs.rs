//! SQS in failoverctl's terms: the only place that knows its SDK.

use aws_config::SdkConfig;
use aws_sdk_sqs::Client;

use super::session::if_there;
use crate::remote::aws::{Call, Failure, send};
use crate::remote::deadline::Deadline;

/// Whether there is a queue of this name.
pub(super) async fn exists(aws: &SdkConfig, queue: &str, deadline: Deadline) -> Result<bool, Failure> {
    let client = Client::new(aws);
    let found = deadline.persist(async |time| {
        send(Call::new("sqs:GetQueueUrl", "the queue"), time, client.get_queue_url().queue_name(queue).send())
            .await
    });
    Ok(if_there(found.await)?.is_some())
}
