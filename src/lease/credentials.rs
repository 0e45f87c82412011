//! The credentials of a lease-keeper: from every source that the AWS SDKs name, and of the configuration's role.
//!
//! The SDK loads temporary credentials again before they expire. But it reads the files of profiles only once: after
//! their keys are rotated, or a line is corrected, only a new [`Source::load`] finds the change.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_config::identity::IdentityCache;
use aws_config::sts::AssumeRoleProvider;
use aws_config::{Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use tokio::time::timeout;
use tracing::warn;

use super::config::Config;
use super::descendants::OfLibrary;
use crate::remote::aws::chain;
use crate::remote::sdk::{self, InvalidSetting};

/// Where a process has its credentials from.
#[derive(Clone, Debug)]
pub struct Source {
    region: Region,
    role: Option<String>,
    session: String,
    time: Duration,
    http: SharedHttpClient,
    /// The credentials that were loaded last.
    last: Last,
}

type Last = Arc<Mutex<Option<Credentials>>>;

/// Credentials that are loaded in time. A call ends after half a period: a load that ends before it is named in the
/// call's failure, and the credentials are then read anew. A `credential_process` that still runs then is killed: the
/// SDK leaves it alone.
#[derive(Debug)]
struct InTime {
    credentials: SharedCredentialsProvider,
    time: Duration,
    /// Those that were loaded last, also before they were read anew.
    last: Last,
}

// === impl Source ===

impl Source {
    /// The source for this configuration. The HTTP client serves the SDK's calls for credentials as well.
    #[must_use]
    pub fn new(config: &Config, http: SharedHttpClient) -> Self {
        let (region, role) = (Region::new(config.region.clone()), config.role.clone());
        let (session, time) = (session(&config.me.name), config.period * 2 / 5);
        Self { region, role, session, time, http, last: Last::default() }
    }

    /// The credentials that were loaded last.
    pub(super) fn last(&self) -> Option<Credentials> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Their access key.
    pub(super) fn key(&self) -> Option<String> {
        self.last().map(|last| last.access_key_id().to_owned())
    }

    /// Returns AWS with these credentials. Files and variables are read as they are now.
    ///
    /// # Errors
    /// The profile has an empty endpoint.
    pub async fn load(&self) -> Result<SdkConfig, InvalidSetting> {
        let mut aws = sdk::load(sdk::aws_config(self.http.clone()).region(self.region.clone())).await?;
        if let Some(role) = &self.role {
            let role = AssumeRoleProvider::builder(role).session_name(&self.session);
            let role = role.region(self.region.clone()).configure(&aws).build().await;
            aws = aws.into_builder().credentials_provider(sdk::sendable(role)).build();
        }
        let (time, last) = (self.time, self.last.clone());
        let in_time = |credentials| SharedCredentialsProvider::new(InTime { credentials, time, last });
        let credentials = aws.credentials_provider().map(in_time);
        let cache = IdentityCache::lazy().load_timeout(self.time * 2).build();
        let mut aws = aws.into_builder().identity_cache(cache);
        aws.set_credentials_provider(credentials);
        Ok(aws.build())
    }
}

/// Returns the name of the role's session, which the owner of the role sees in the trail: with characters that STS
/// allows, and not more of them.
fn session(candidate: &str) -> String {
    const LONGEST: usize = 64;
    let is_allowed = |character: char| character.is_ascii_alphanumeric() || "_+=,.@-".contains(character);
    let name = format!("lease-keeper-{candidate}");
    name.chars().map(|character| if is_allowed(character) { character } else { '-' }).take(LONGEST).collect()
}

// === impl InTime ===

impl ProvideCredentials for InTime {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            // The limit holds although the call for which they are loaded may be given up.
            let error = match tokio::spawn(load(self.credentials.clone(), self.time)).await {
                Ok(Some(Ok(loaded))) => {
                    *self.last() = Some(loaded.clone());
                    return Ok(loaded);
                }
                Ok(Some(Err(error))) => error,
                Ok(None) => CredentialsError::provider_timed_out(self.time),
                Err(error) => CredentialsError::unhandled(error),
            };
            // They are loaded anew some time before they expire. Those of an instance are accepted longer than they say, and
            // the SDK uses them when its metadata service answers with an error: no answer is the same.
            let is_late = matches!(error, CredentialsError::ProviderTimedOut(_));
            let is_valid = |last: &Credentials| last.expiry().is_none_or(|expiry| expiry > SystemTime::now());
            let Some(last) = self.last().clone().filter(|last| is_late || is_valid(last)) else {
                return Err(error);
            };
            warn!(error = %chain(&error), "the credentials cannot be loaded: the last ones are used");
            Ok(last)
        })
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.last().clone()
    }
}

impl InTime {
    fn last(&self) -> MutexGuard<'_, Option<Credentials>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns `None` if they were not loaded in time.
async fn load(credentials: SharedCredentialsProvider, time: Duration) -> Option<provider::Result> {
    let started = OfLibrary::from_now();
    let loaded = timeout(time, credentials.provide_credentials()).await.ok();
    if loaded.is_none() {
        started.kill();
    }
    loaded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_the_candidates_name_as_far_as_sts_allows() {
        assert_eq!(session("site-a"), "lease-keeper-site-a");
        assert_eq!(session("Zürich/pod 1:x@y"), "lease-keeper-Z-rich-pod-1-x@y");
        assert_eq!(session(&"é".repeat(100)), format!("lease-keeper-{}", "-".repeat(51)));
    }

    /// Answers in turn: with credentials that last so long, with an error, or not at all.
    #[derive(Debug)]
    struct Answers(Mutex<Vec<Option<Result<Duration, ()>>>>);

    impl ProvideCredentials for Answers {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let next = self.0.lock().unwrap().remove(0);
            future::ProvideCredentials::new(async move {
                match next {
                    Some(Ok(time)) => {
                        let expiry = Some(SystemTime::now() + time);
                        Ok(Credentials::new(format!("{time:?}"), "secret", None, expiry, "test"))
                    }
                    Some(Err(())) => Err(CredentialsError::provider_error("500")),
                    None => std::future::pending().await,
                }
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_credentials_are_used_where_no_others_can_be_loaded() {
        let (valid, over) = (Duration::from_mins(5), Duration::ZERO);
        for (answers, used) in [
            (vec![Some(Ok(valid)), Some(Err(()))], Some("300s")),
            (vec![Some(Ok(valid)), None], Some("300s")),
            // Those of an instance are accepted longer than they say.
            (vec![Some(Ok(over)), None], Some("0ns")),
            (vec![Some(Ok(over)), Some(Err(()))], None),
            (vec![Some(Ok(over)), Some(Ok(valid))], Some("300s")),
        ] {
            let credentials = SharedCredentialsProvider::new(Answers(Mutex::new(answers.clone())));
            let time = Duration::from_secs(6);
            let provider = InTime { credentials, time, last: Last::default() };
            provider.provide_credentials().await.unwrap();
            let second = provider.provide_credentials().await.ok();
            assert_eq!(second.as_ref().map(Credentials::access_key_id), used, "{answers:?}");
        }
        let none = Answers(Mutex::new(vec![None]));
        let (credentials, time) = (SharedCredentialsProvider::new(none), Duration::from_secs(6));
        let provider = InTime { credentials, time, last: Last::default() };
        assert!(provider.provide_credentials().await.is_err());
    }
}
