//! CloudWatch's logs in failoverctl's terms: the only place that knows their SDK.

use aws_config::SdkConfig;
use aws_sdk_cloudwatchlogs::Client;
use chrono::{DateTime, Utc};

use super::function;
use super::session::if_there;
use crate::remote::aws::{Call, Failure, pages, send};
use crate::remote::deadline::Deadline;

/// Whether there is a log group of this name.
pub(super) async fn exists(aws: &SdkConfig, group: &str, deadline: Deadline) -> Result<bool, Failure> {
    let client = Client::new(aws);
    let found = pages(deadline, async |time, token| {
        let request = client.describe_log_groups().log_group_name_prefix(group).set_next_token(token);
        let page = send(Call::new("logs:DescribeLogGroups", "the log groups"), time, request.send()).await?;
        let names = page.log_groups.unwrap_or_default().into_iter().filter_map(|one| one.log_group_name);
        Ok((names.collect(), page.next_token))
    });
    Ok(found.await?.iter().any(|name: &String| name == group))
}

/// Returns when the function of this ARN, in the Region of `aws`, first logged `message` about `about` after `since`.
pub(super) async fn first(
    aws: &SdkConfig,
    arn: &str,
    message: &str,
    about: &str,
    since: DateTime<Utc>,
    deadline: Deadline,
) -> Result<Option<DateTime<Utc>>, Failure> {
    let (name, _) = function::name(arn);
    let client = Client::new(aws);
    let said = format!("\"message\":\"{message}\"");
    let lines = pages(deadline, async |time, token| {
        let request = client.filter_log_events().log_group_name(format!("/aws/lambda/{name}"));
        let request = request.start_time(since.timestamp_millis()).set_next_token(token);
        let page = send(Call::new("logs:FilterLogEvents", "the log group"), time, request.send()).await?;
        let lines = page.events().iter().filter_map(|event| event.message().zip(event.timestamp()));
        let lines = lines.filter(|(line, _)| line.contains(&said) && line.contains(about));
        Ok((lines.map(|(_, at)| at).collect(), page.next_token))
    });
    let lines: Vec<i64> = if_there(lines.await)?.unwrap_or_default();
    Ok(lines.first().and_then(|at| DateTime::from_timestamp_millis(*at)))
}
