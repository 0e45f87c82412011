//! What the programs do before their first event: logs, configuration lookup, AWS clients.

use std::env;

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_sdk_route53::config::SharedCredentialsProvider;
use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};
use thiserror::Error;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::failover_lock::health_check::Quoted;
use crate::https::Https;

/// Where configuration is looked up: a variable's name to its value. Tests pass a map.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// `RUST_LOG` does not hold log directives.
#[derive(Debug, Error)]
#[error("RUST_LOG: {0}; it takes a level (error, warn, info, debug, trace) or target=level pairs")]
pub struct InvalidLogLevel(#[from] tracing_subscriber::filter::ParseError);

/// A variable is neither true nor false.
#[derive(Debug, Error)]
#[error("{0}: {1}")]
pub struct InvalidFlag(&'static str, String);

/// The process's environment. Bytes that are not UTF-8 come out as U+FFFD, which no variable allows.
#[must_use]
pub fn environment(name: &str) -> Option<String> {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// Starts JSON log lines on standard output, at the level that `RUST_LOG` gives (default `info`).
///
/// `lambda_runtime` is kept at `debug`: its `trace` level prints whole events.
///
/// # Errors
/// `RUST_LOG` cannot be read; logging at `info` is on nevertheless, so that this can be logged.
pub fn start_logging(lookup: Lookup<'_>) -> Result<(), InvalidLogLevel> {
    let (targets, error) = match lookup("RUST_LOG").map_or(Ok(Targets::default()), |text| text.parse()) {
        Ok(targets) => (targets, None),
        Err(error) => (Targets::default(), Some(InvalidLogLevel(error))),
    };
    let unset = targets == Targets::default();
    let targets = if unset { Targets::new().with_default(LevelFilter::INFO) } else { targets };
    let quiet = targets.default_level().unwrap_or(LevelFilter::OFF).min(LevelFilter::DEBUG);
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_span_list(false)
        .with_filter(targets.with_target("lambda_runtime", quiet));
    // A second call in one process keeps the first one's subscriber.
    let _ = tracing_subscriber::registry().with(lines).try_init();
    error.map_or(Ok(()), Err)
}

/// AWS as a function in Lambda finds it, by the variables of its environment alone: credentials, Region,
/// `AWS_ENDPOINT_URL` for all services or, with its name, for one, `AWS_USE_FIPS_ENDPOINT` and
/// `AWS_USE_DUALSTACK_ENDPOINT`. There are no profiles there, and no other source of credentials; looking
/// for them would make a cold start longer.
///
/// # Errors
/// A variable is neither true nor false.
pub fn function_aws(https: &Https) -> Result<SdkConfig, InvalidFlag> {
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(region(environment("AWS_REGION")))
        .http_client(https.client())
        .retry_config(RetryConfig::disabled())
        .credentials_provider(SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new()))
        .service_config(Environment);
    config.set_endpoint_url(environment("AWS_ENDPOINT_URL"));
    config.set_use_fips(flag("AWS_USE_FIPS_ENDPOINT")?);
    config.set_use_dual_stack(flag("AWS_USE_DUALSTACK_ENDPOINT")?);
    Ok(config.build())
}

/// AWS as a program that a person runs finds it: by the environment, profiles, and what else the SDK looks
/// at. `load` it.
#[must_use]
pub fn aws_config(https: &Https) -> ConfigLoader {
    aws_config::defaults(BehaviorVersion::latest())
        .region(region(environment("AWS_REGION")))
        .http_client(https.client())
        // Retries are this crate's own (`Deadline::persist`): they know the invocation's deadline,
        // and an update whose answer was lost must be told from one that never arrived.
        .retry_config(RetryConfig::disabled())
}

/// Route 53's control plane, its metrics and so their alarms are in us-east-1 for every commercial
/// Region that a function may run in; other partitions keep their own Region.
fn region(own: Option<String>) -> Region {
    let region = own.filter(|name| is_other_partition(name));
    Region::new(region.unwrap_or_else(|| "us-east-1".to_owned()))
}

/// What the environment says for one service.
#[derive(Debug)]
struct Environment;

impl LoadServiceConfig for Environment {
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        let service = key.service_id().to_uppercase().replace(' ', "_");
        environment(&format!("{}_{service}", key.env()))
    }
}

fn flag(name: &'static str) -> Result<Option<bool>, InvalidFlag> {
    let value = environment(name).map(|text| boolean(&text)).transpose();
    value.map_err(|cause| InvalidFlag(name, cause))
}

/// A variable's text as a truth value.
///
/// # Errors
/// It is neither.
pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{} is neither true nor false", Quoted(text))),
    }
}

fn is_other_partition(region: &str) -> bool {
    ["cn-", "us-gov-", "us-iso", "eu-isoe-", "eusc-"].iter().any(|prefix| region.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::is_other_partition;

    #[test]
    fn only_other_partitions_have_a_control_plane_of_their_own() {
        for region in ["us-east-1", "eu-west-1", "ap-southeast-4", "mx-central-1"] {
            assert!(!is_other_partition(region), "{region}");
        }
        for region in [
            "cn-north-1",
            "us-gov-west-1",
            "us-iso-east-1",
            "us-isob-east-1",
            "eu-isoe-west-1",
            "eusc-de-east-1",
        ] {
            assert!(is_other_partition(region), "{region}");
        }
    }
}
