//! What Lambda has set for a function beside its configuration: its URL, the weights of its alias, and what becomes of failures.

use aws_config::SdkConfig;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::types::FunctionUrlAuthType;

use super::LIVE;
use crate::cli::session::if_there;
use crate::remote::aws::{Call, Failure, send};
use crate::remote::deadline::Deadline;

/// The other versions to which the alias `live` of a function sends a part of its invocations.
pub(in crate::cli) async fn other_versions(
    aws: &SdkConfig,
    name: &str,
    deadline: Deadline,
) -> Result<Vec<String>, Failure> {
    let client = Client::new(aws);
    let found = deadline
        .persist(async |time| {
            let request = client.get_alias().function_name(name).name(LIVE);
            send(Call::new("lambda:GetAlias", "the alias"), time, request.send()).await
        })
        .await;
    let weights = if_there(found)?.and_then(|alias| alias.routing_config?.additional_version_weights);
    Ok(weights.unwrap_or_default().into_keys().collect())
}

/// The URL of the function of this name, and whether it lets callers in without a signature; `None` if it has none.
pub(in crate::cli) async fn url(
    aws: &SdkConfig,
    name: &str,
    deadline: Deadline,
) -> Result<Option<(String, bool)>, Failure> {
    let client = Client::new(aws);
    let found = deadline
        .persist(async |time| {
            let request = client.get_function_url_config().function_name(name);
            send(Call::new("lambda:GetFunctionUrlConfig", "the function"), time, request.send()).await
        })
        .await;
    Ok(if_there(found)?.map(|found| (found.function_url, found.auth_type == FunctionUrlAuthType::None)))
}

/// What Lambda does with an event of another service that a function has not handled; `None` for its default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct OnFailure {
    /// How often it is tried again.
    pub retries: Option<i32>,
    /// For how many seconds.
    pub seconds: Option<i32>,
    /// The ARN of what the event is sent to then.
    pub destination: Option<String>,
}

/// That of the function of this name, invoked by this version or alias; `None` if none is set.
pub(in crate::cli) async fn on_failure(
    aws: &SdkConfig,
    name: &str,
    qualifier: &str,
    deadline: Deadline,
) -> Result<Option<OnFailure>, Failure> {
    let client = Client::new(aws);
    let found = deadline
        .persist(async |time| {
            let request = client.get_function_event_invoke_config().function_name(name).qualifier(qualifier);
            send(Call::new("lambda:GetFunctionEventInvokeConfig", "the function"), time, request.send()).await
        })
        .await;
    Ok(if_there(found)?.map(|found| OnFailure {
        retries: found.maximum_retry_attempts,
        seconds: found.maximum_event_age_in_seconds,
        destination: found.destination_config.and_then(|to| to.on_failure?.destination),
    }))
}
