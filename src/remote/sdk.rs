//! The SDKs' configuration: which AWS a program calls, with which credentials and at which endpoints.

use std::collections::BTreeMap;
use std::ffi::OsString;

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{
    ProvideCredentials, Result as Provided, SharedCredentialsProvider, future,
};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};
use hyper::Uri;
use hyper::header::HeaderValue;
use thiserror::Error;

use super::https::Https;
use crate::program::variables::{Lookup, boolean, environment, given};

/// The services that the programs and their sources of credentials call, as the SDKs name them.
const SERVICES: [&str; 16] = [
    "CloudWatch",
    "CloudWatch Logs",
    "DynamoDB",
    "Elastic Load Balancing v2",
    "EventBridge",
    "Global Accelerator",
    "Lambda",
    "Route 53",
    "S3",
    "Secrets Manager",
    "Signin",
    "SNS",
    "SQS",
    "SSO",
    "SSO OIDC",
    "STS",
];

/// One of the SDKs' own variables, or of a profile's settings, is invalid.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("{0}: {1}")]
pub struct InvalidSetting(String, String);

/// Reads the configuration of a Lambda function from its environment alone: keys, Region, and of the
/// [SDKs' variables][1] those for endpoints. A function has no profiles or other sources of keys, and a search
/// for them would make a cold start longer. An empty variable counts as unset. `services` are the services that
/// are called, as the SDKs name them, for example `Route 53`.
///
/// [1]: https://docs.aws.amazon.com/sdkref/latest/guide/environment-variables.html
///
/// # Errors
/// A variable is not a URL, or neither true nor false.
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

/// The configuration of a program that a person runs, to be completed with [`load`]: from the environment, from
/// profiles, and from the SDK's other sources.
#[must_use]
pub fn aws_config(http_client: SharedHttpClient) -> ConfigLoader {
    aws_config::defaults(BehaviorVersion::latest())
        .region(region(environment("AWS_REGION")))
        .http_client(http_client)
        // Retries are this crate's own (`Deadline::persist`): they know the invocation's deadline,
        // and an update whose answer was lost must be distinguished from one that never arrived.
        .retry_config(RetryConfig::disabled())
}

/// Refuses endpoint variables that are empty, before [`load`]: the SDKs panic at them.
///
/// # Errors
/// Names the variable.
pub fn no_endpoint_is_empty(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(), InvalidSetting> {
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let variables: BTreeMap<_, _> = variables.map(|(name, value)| (text(name), text(value))).collect();
    let lookup = |name: &str| variables.get(name).cloned();
    if flag(&lookup, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")? == Some(true) {
        return Ok(());
    }
    match variables.iter().find(|(name, url)| name.starts_with("AWS_ENDPOINT_URL") && url.is_empty()) {
        Some((name, _)) => {
            Err(InvalidSetting(name.clone(), "it is empty: unset it, or set it to a URL".to_owned()))
        }
        None => Ok(()),
    }
}

/// Loads a configuration whose credentials can be sent, and whose profile has no empty endpoint: the SDKs panic at a key
/// id, and at an endpoint, that cannot be used.
///
/// # Errors
/// Names the endpoint.
pub async fn load(loader: ConfigLoader) -> Result<SdkConfig, InvalidSetting> {
    let aws = loader.load().await;
    if let Some(of) = empty_endpoint(&aws) {
        let problem = "it is empty in the profile: remove the line, or set it to a URL".to_owned();
        return Err(InvalidSetting(of, problem));
    }
    Ok(match aws.credentials_provider() {
        Some(credentials) => aws.into_builder().credentials_provider(sendable(credentials)).build(),
        None => aws,
    })
}

/// Returns the name of an endpoint that is empty.
fn empty_endpoint(aws: &SdkConfig) -> Option<String> {
    const ENDPOINT: &str = "endpoint_url";
    // One that the program was given precedes those of a profile.
    let services = aws.service_config().filter(|_| !aws.get_origin(ENDPOINT).is_client_config())?;
    let is_empty = |service: &&str| {
        let key = ServiceConfigKey::builder().service_id(service).env("AWS_ENDPOINT_URL").profile(ENDPOINT);
        key.build().is_ok_and(|key| services.load_config(key).is_some_and(|url| url.is_empty()))
    };
    let empty: Vec<_> = SERVICES.into_iter().filter(is_empty).collect();
    let service = empty.first()?;
    // The profile's own endpoint is that of every service.
    let is_common = empty.len() == SERVICES.len();
    Some(if is_common { ENDPOINT.to_owned() } else { format!("{ENDPOINT} of {service}") })
}

/// Credentials of which those that no request can carry are an error, and asked for again.
pub fn sendable(credentials: impl ProvideCredentials + 'static) -> SharedCredentialsProvider {
    SharedCredentialsProvider::new(Sendable(SharedCredentialsProvider::new(credentials)))
}

/// Returns the Region of Route 53's control plane, its metrics and so their alarms: us-east-1 for every
/// commercial Region that a function may run in; other partitions keep their own Region.
pub(crate) fn region(own: Option<String>) -> Region {
    let region = own.filter(|name| is_other_partition(name));
    Region::new(region.unwrap_or_else(|| "us-east-1".to_owned()))
}

/// Credentials from a source in which anything may stand.
#[derive(Debug)]
struct Sendable(SharedCredentialsProvider);

impl ProvideCredentials for Sendable {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async { can_be_sent(self.0.provide_credentials().await?) })
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.0.fallback_on_interrupt().and_then(|credentials| can_be_sent(credentials).ok())
    }
}

/// Also a session token, and an account id, which is a part of some hosts' names, would be called a failure of the network,
/// and stay in use.
fn can_be_sent(credentials: Credentials) -> Provided {
    let is_header = |text: &str| HeaderValue::from_str(text).is_ok();
    let is_account = |id: &str| id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_digit());
    let what = if !is_header(credentials.access_key_id()) {
        "the access key id has a character that no request can carry, perhaps a line break at its end"
    } else if !credentials.session_token().is_none_or(is_header) {
        "the session token has a character that no request can carry, perhaps a line break at its end"
    } else if !credentials.account_id().is_none_or(|id| is_account(id.as_str())) {
        "the account id does not have 12 digits"
    } else {
        return Ok(credentials);
    };
    Err(CredentialsError::invalid_configuration(format!("{what}: correct it where it is stored")))
}

/// The endpoint URLs of single services, which take precedence over the common one.
#[derive(Debug)]
struct ServiceUrls(Vec<(&'static str, String)>);

impl LoadServiceConfig for ServiceUrls {
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        let url = self.0.iter().find(|(service, _)| *service == key.service_id())?;
        (key.env() == "AWS_ENDPOINT_URL").then(|| url.1.clone())
    }
}

fn url(lookup: Lookup<'_>, name: &str) -> Result<Option<String>, InvalidSetting> {
    let Some(text) = given(lookup, name) else { return Ok(None) };
    match text.parse::<Uri>() {
        Ok(url) if matches!(url.scheme_str(), Some("http" | "https")) => Ok(Some(text)),
        _ => Err(InvalidSetting(
            name.to_owned(),
            format!("{text:?} is not an http or https URL, for example https://example.com:443"),
        )),
    }
}

fn flag(lookup: Lookup<'_>, name: &str) -> Result<Option<bool>, InvalidSetting> {
    let flag = given(lookup, name).map(|text| boolean(&text)).transpose();
    flag.map_err(|problem| InvalidSetting(name.to_owned(), problem))
}

fn is_other_partition(region: &str) -> bool {
    ["cn-", "us-gov-", "us-iso", "eu-isoe-", "eusc-"].iter().any(|prefix| region.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_that_no_request_can_carry_are_named() {
        let of = |key: &str, token: Option<&str>, account: Option<&str>| {
            let credentials =
                Credentials::builder().access_key_id(key).secret_access_key("x\n").provider_name("test");
            let credentials = match token {
                Some(token) => credentials.session_token(token),
                None => credentials,
            };
            let credentials = match account {
                Some(account) => credentials.account_id(account),
                None => credentials,
            };
            can_be_sent(credentials.build()).map(drop).map_err(|error| format!("{error:?}"))
        };
        assert_eq!(of("AKID", Some("token"), Some("123456789012")), Ok(()));
        for (key, token, account, said) in [
            ("AKID\n", None, None, "access key id"),
            ("AK\u{7f}ID", None, None, "access key id"),
            ("AKID", Some("to\nken"), None, "session token"),
            ("AKID", Some("token\n"), None, "session token"),
            ("AKID", None, Some(""), "account id"),
            ("AKID", None, Some("12 34"), "account id"),
        ] {
            assert!(of(key, token, account).unwrap_err().contains(said), "{key:?} {token:?} {account:?}");
        }
    }

    /// The result of `function_aws` with these variables.
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
    fn an_invalid_setting_is_named() {
        for (name, text, said) in [
            (
                "AWS_ENDPOINT_URL",
                "localhost:4566",
                "\"localhost:4566\" is not an http or https URL, for example https://example.com:443",
            ),
            (
                "AWS_ENDPOINT_URL_CLOUDWATCH",
                "https://",
                "\"https://\" is not an http or https URL, for example https://example.com:443",
            ),
            ("AWS_USE_DUALSTACK_ENDPOINT", "yes", "\"yes\" is neither true nor false"),
        ] {
            assert_eq!(aws(&[(name, text)]).unwrap_err(), format!("{name}: {said}"));
        }
    }

    #[test]
    fn an_empty_endpoint_is_named_unless_endpoints_are_ignored() {
        const EMPTY: (&str, &str) = ("AWS_ENDPOINT_URL_STS", "");
        let check = |variables: &[(&str, &str)]| {
            let variables =
                variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
            no_endpoint_is_empty(variables).map_err(|error| error.to_string())
        };
        let said = "AWS_ENDPOINT_URL_STS: it is empty: unset it, or set it to a URL".to_owned();
        assert_eq!(check(&[("AWS_ENDPOINT_URL", "http://127.0.0.1:4566"), EMPTY]), Err(said));
        assert_eq!(check(&[("AWS_PROFILE", ""), ("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")]), Ok(()));
        assert_eq!(check(&[EMPTY, ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")]), Ok(()));
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
