//! What the programs do before their first event: logs, configuration lookup, AWS clients.

use std::env;

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region};
use aws_sdk_route53::config::SharedHttpClient;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use thiserror::Error;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// Where configuration is looked up: a variable's name to its value. Tests pass a map.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// `RUST_LOG` does not hold log directives.
#[derive(Debug, Error)]
#[error("RUST_LOG: {0}; it takes a level (error, warn, info, debug, trace) or target=level pairs")]
pub struct InvalidLogLevel(#[from] tracing_subscriber::filter::ParseError);

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

/// What AWS clients are made from: endpoint and credentials as the environment gives them, TLS by
/// rustls with *ring*, no retries. `load` it.
///
/// Route 53's control plane, its metrics and so their alarms are in us-east-1 for every commercial
/// Region that a function may run in; other partitions keep their own Region.
#[must_use]
pub fn aws_config() -> ConfigLoader {
    let region = environment("AWS_REGION").filter(|name| is_other_partition(name));
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(region.unwrap_or_else(|| "us-east-1".to_owned())))
        .http_client(http_client())
        // Retries are this crate's own (`Deadline::persist`): they know the invocation's deadline,
        // and an update whose answer was lost must be told from one that never arrived.
        .retry_config(RetryConfig::disabled())
}

/// HTTP with TLS by rustls and *ring*, for AWS's clients and whatever finds their credentials.
#[must_use]
pub fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
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
