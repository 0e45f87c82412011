//! CloudWatch's logs in failoverctl's words: the only place that knows their SDK.

use aws_config::SdkConfig;
use aws_sdk_cloudwatchlogs::Client;
use chrono::{DateTime, Utc};

use super::{NAME, if_there, part};
use crate::remote::aws::{Call, Failure, send};
use crate::remote::deadline::Deadline;

/// When the function of this ARN, in the Region that `aws` is in, first logged `message` about `about` since then.
pub(super) async fn first(
    aws: &SdkConfig,
    arn: &str,
    message: &str,
    about: &str,
    since: DateTime<Utc>,
    deadline: Deadline,
) -> Result<Option<DateTime<Utc>>, Failure> {
    let name = part(arn, NAME);
    let client = Client::new(aws);
    let mut page: Option<String> = None;
    loop {
        let output = deadline
            .persist(async |time| {
                let request = client.filter_log_events().log_group_name(format!("/aws/lambda/{name}"));
                let request = request.start_time(since.timestamp_millis()).set_next_token(page.clone());
                send(Call("logs:FilterLogEvents"), time, request.send()).await
            })
            .await;
        let Some(output) = if_there(output)? else { return Ok(None) };
        let said = format!("\"message\":\"{message}\"");
        let mut lines = output.events().iter().filter_map(|event| event.message().zip(event.timestamp()));
        if let Some((_, at)) = lines.find(|(line, _)| line.contains(&said) && line.contains(about)) {
            return Ok(DateTime::from_timestamp_millis(at));
        }
        page = output.next_token;
        if page.is_none() {
            return Ok(None);
        }
    }
}
