//! What the programs do before their first event: logs, configuration lookup, AWS clients.

use std::env;

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_sdk_route53::config::{SharedCredentialsProvider, SharedHttpClient};
use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};
use hyper::Uri;
use thiserror::Error;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::https::Https;

/// Where configuration is looked up: a variable's name to its value. Tests pass a map.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// `RUST_LOG` does not hold log directives.
#[derive(Debug, Error)]
#[error("RUST_LOG: {0:?} cannot be used; it takes a level (error, warn, info, debug) or target=level pairs")]
pub struct InvalidLogLevel(String);

/// One of the SDKs' own variables cannot be used.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("{0}: {1}")]
pub struct InvalidSetting(String, String);

/// The process's environment. Bytes that are not UTF-8 come out as U+FFFD, which no variable allows.
#[must_use]
pub fn environment(name: &str) -> Option<String> {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// Starts JSON log lines on standard output or wherever else, at the level that `RUST_LOG` gives (default `info`).
///
/// `lambda_runtime` is kept at `debug`: its `trace` level prints whole events.
///
/// # Errors
/// `RUST_LOG` cannot be read; logging at `info` is on nevertheless, so that this can be logged.
pub fn start_logging(
    lookup: Lookup<'_>,
    output: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
) -> Result<(), InvalidLogLevel> {
    let (targets, error) = match lookup("RUST_LOG").map_or(Ok(Targets::default()), directives) {
        Ok(targets) => (targets, None),
        Err(error) => (Targets::default(), Some(error)),
    };
    let unset = targets == Targets::default();
    let targets = if unset { Targets::new().with_default(LevelFilter::INFO) } else { targets };
    let quiet = targets.default_level().unwrap_or(LevelFilter::OFF).min(LevelFilter::DEBUG);
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_span_list(false)
        .with_writer(output)
        .with_filter(targets.with_target("lambda_runtime", quiet));
    // A second call in one process keeps the first one's subscriber.
    let _ = tracing_subscriber::registry().with(lines).try_init();
    error.map_or(Ok(()), Err)
}

/// Log directives. A word alone has to be a level: taken for a target, it would silence all others.
fn directives(text: String) -> Result<Targets, InvalidLogLevel> {
    let is_whole = |part: &str| part.contains('=') || part.trim().parse::<LevelFilter>().is_ok();
    match text.parse() {
        Ok(targets) if text.is_empty() || text.split(',').all(is_whole) => Ok(targets),
        _ => Err(InvalidLogLevel(text)),
    }
}

/// AWS as a function in Lambda finds it, by the variables of its environment alone: keys, Region, and of the
/// [SDKs' variables][1] those for endpoints. Profiles and other sources of keys are not for functions in
/// their own runtime, and looking for them would make a cold start longer. An empty variable counts as unset.
/// `services` are those that are called, as the SDKs name them, for example `Route 53`.
///
/// [1]: https://docs.aws.amazon.com/sdkref/latest/guide/environment-variables.html
///
/// # Errors
/// A variable is no URL, or neither true nor false.
pub fn function_aws(
    lookup: Lookup<'_>,
    https: &Https,
    services: &[&'static str],
) -> Result<SdkConfig, InvalidSetting> {
    let ignored = flag(lookup, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")? == Some(true);
    let url = |name: &str| if ignored { Ok(None) } else { url(lookup, name) };
    let mut urls = Vec::new();
    for service in services {
        let variable = format!("AWS_ENDPOINT_URL_{}", service.to_uppercase().replace(' ', "_"));
        urls.extend(url(&variable)?.map(|url| (*service, url)));
    }
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(region(lookup("AWS_REGION")))
        .http_client(https.client())
        .retry_config(RetryConfig::disabled())
        .credentials_provider(SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new()))
        .service_config(ServiceUrls(urls));
    config.set_endpoint_url(url("AWS_ENDPOINT_URL")?);
    config.set_use_fips(flag(lookup, "AWS_USE_FIPS_ENDPOINT")?);
    config.set_use_dual_stack(flag(lookup, "AWS_USE_DUALSTACK_ENDPOINT")?);
    Ok(config.build())
}

/// AWS as a program that a person runs finds it: by the environment, profiles, and what else the SDK looks
/// at. `load` it.
#[must_use]
pub fn aws_config(http_client: SharedHttpClient) -> ConfigLoader {
    aws_config::defaults(BehaviorVersion::latest())
        .region(region(environment("AWS_REGION")))
        .http_client(http_client)
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

/// The URLs of single services, which go before the one of all.
#[derive(Debug)]
struct ServiceUrls(Vec<(&'static str, String)>);

impl LoadServiceConfig for ServiceUrls {
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        let url = self.0.iter().find(|(service, _)| *service == key.service_id())?;
        (key.env() == "AWS_ENDPOINT_URL").then(|| url.1.clone())
    }
}

/// One of the SDKs' own variables; empty, it counts as unset.
pub(crate) fn given(lookup: Lookup<'_>, name: &str) -> Option<String> {
    lookup(name).filter(|text| !text.is_empty())
}

fn url(lookup: Lookup<'_>, name: &str) -> Result<Option<String>, InvalidSetting> {
    let Some(text) = given(lookup, name) else { return Ok(None) };
    match text.parse::<Uri>() {
        Ok(url) if matches!(url.scheme_str(), Some("http" | "https")) => Ok(Some(text)),
        _ => Err(InvalidSetting(
            name.to_owned(),
            format!("{text:?} is no URL of http or https, like https://example.com:443"),
        )),
    }
}

fn flag(lookup: Lookup<'_>, name: &str) -> Result<Option<bool>, InvalidSetting> {
    let Some(text) = given(lookup, name) else { return Ok(None) };
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(Some(true)),
        "false" => Ok(Some(false)),
        _ => Err(InvalidSetting(name.to_owned(), format!("{text:?} is neither true nor false"))),
    }
}

fn is_other_partition(region: &str) -> bool {
    ["cn-", "us-gov-", "us-iso", "eu-isoe-", "eusc-"].iter().any(|prefix| region.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `function_aws` makes of these variables.
    fn aws(variables: &[(&str, &str)]) -> Result<SdkConfig, String> {
        let lookup =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        function_aws(&lookup, &Https::new(&|_| None).unwrap(), &["CloudWatch"])
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_sdks_own_variables_say_which_endpoints() {
        const ALL: (&str, &str) = ("AWS_ENDPOINT_URL", "http://127.0.0.1:4566");
        let config = aws(&[ALL, ("AWS_USE_FIPS_ENDPOINT", "TRUE"), ("AWS_REGION", "cn-north-1")]).unwrap();
        assert_eq!((config.endpoint_url(), config.use_fips()), (Some(ALL.1), Some(true)));
        assert_eq!(config.region().map(Region::as_ref), Some("cn-north-1"));
        let config = aws(&[ALL, ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")]).unwrap();
        assert_eq!((config.endpoint_url(), config.use_dual_stack()), (None, None));
        let config = aws(&[("AWS_ENDPOINT_URL", ""), ("AWS_USE_DUALSTACK_ENDPOINT", "")]).unwrap();
        assert_eq!((config.endpoint_url(), config.use_dual_stack()), (None, None));
    }

    #[test]
    fn a_setting_that_cannot_be_used_is_named() {
        for (name, text, said) in [
            (
                "AWS_ENDPOINT_URL",
                "localhost:4566",
                "\"localhost:4566\" is no URL of http or https, like https://example.com:443",
            ),
            (
                "AWS_ENDPOINT_URL_CLOUDWATCH",
                "https://",
                "\"https://\" is no URL of http or https, like https://example.com:443",
            ),
            ("AWS_USE_DUALSTACK_ENDPOINT", "1", "\"1\" is neither true nor false"),
        ] {
            assert_eq!(aws(&[(name, text)]).unwrap_err(), format!("{name}: {said}"));
        }
    }

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
