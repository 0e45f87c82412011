//! Secrets in Secrets Manager: the only place that knows its SDK.

use std::time::Duration;

use aws_config::{Region, SdkConfig};
use aws_sdk_secretsmanager::Client;
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

use crate::remote::aws::{Call, Failure, send};
use crate::remote::deadline::{Deadline, MayPass as _};

const GET: Call = Call::new("secretsmanager:GetSecretValue", "the secret");

/// Secrets Manager in one Region.
#[derive(Clone, Debug)]
pub struct Secrets(Client);

/// A password in a secret, which is kept between invocations.
pub struct Password {
    secrets: Secrets,
    id: String,
    kept: Mutex<Option<Kept>>,
}

/// A password as it was read.
struct Kept {
    text: String,
    read: Instant,
    /// When reading it again failed.
    failed: Option<Instant>,
}

/// The time for which a password that fits is not read again.
const TRUSTED: Duration = Duration::from_mins(1);
/// The time for which a password that does not fit is not read again: any client may send a wrong one, often. The same
/// after reading has failed.
const REFUSED: Duration = Duration::from_secs(5);
/// The time for which a password that was read is used while Secrets Manager does not answer.
const STALE: Duration = Duration::from_hours(1);
/// The time for which reading the secret may delay a request that has another password to go on with, or the next request.
const READING: Duration = Duration::from_secs(5);

// === impl Secrets ===

impl Secrets {
    /// Secrets Manager with this configuration, which must not retry by itself, in this Region.
    #[must_use]
    pub fn new(aws: &SdkConfig, region: &str) -> Self {
        let region = Region::new(region.to_owned());
        Self(Client::new(&aws.to_builder().region(region).build()))
    }

    /// Reads a secret's text.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline, or the secret holds no text.
    pub async fn read(&self, id: &str, deadline: Deadline) -> Result<String, Failure> {
        let output = deadline
            .persist(async |time| send(GET, time, self.0.get_secret_value().secret_id(id).send()).await)
            .await?;
        output
            .secret_string
            .ok_or_else(|| Failure::refused(GET, format!("{id} holds bytes, not text: store it as text")))
    }
}

// === impl Password ===

impl Password {
    /// The password in this secret.
    #[must_use]
    pub fn new(secrets: Secrets, id: &str) -> Self {
        Self { secrets, id: id.to_owned(), kept: Mutex::default() }
    }

    /// Returns the password as it is now; or as it was up to an hour ago if it cannot be read now.
    ///
    /// # Errors
    /// As [`Secrets::read`], or the secret holds more than a password.
    pub async fn get(&self, deadline: Deadline) -> Result<String, Failure> {
        let mut kept = self.kept.lock().await;
        self.read_again(&mut kept, |_| true, deadline).await?;
        Ok(kept.as_ref().map(|kept| kept.text.clone()).unwrap_or_default())
    }

    /// Whether the password is used as it was read before, because it could not be read again since.
    pub async fn is_stale(&self) -> bool {
        self.kept.lock().await.as_ref().is_some_and(|kept| kept.failed.is_some())
    }

    /// Whether the password fits. A rotation needs no restart: after a minute the old password no longer fits, except
    /// while the new one cannot be read.
    ///
    /// # Errors
    /// As [`Password::get`].
    pub async fn fits(&self, fits: impl Fn(&str) -> bool, deadline: Deadline) -> Result<bool, Failure> {
        let mut kept = self.kept.lock().await;
        if let Some(kept) = &*kept {
            let fits = fits(&kept.text);
            if kept.read.elapsed() < if fits { TRUSTED } else { REFUSED } {
                return Ok(fits);
            }
        }
        self.read_again(&mut kept, &fits, deadline.within(READING)).await?;
        Ok(kept.as_ref().is_some_and(|kept| fits(&kept.text)))
    }

    /// Reads the password. If this fails, the one that is kept stays in use, if it is `usable` and not too old.
    async fn read_again(
        &self,
        kept: &mut Option<Kept>,
        usable: impl Fn(&str) -> bool,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let known = kept.as_ref().filter(|kept| kept.read.elapsed() < STALE && usable(&kept.text));
        let is_known = known.is_some();
        let failed = kept.as_ref().and_then(|kept| kept.failed);
        if failed.is_some_and(|failed| failed.elapsed() < REFUSED) {
            // Strangers must not keep the executions waiting for a service that does not answer.
            return if is_known {
                Ok(())
            } else {
                Err(Failure::unclear(GET, format!("{} could not be read some seconds ago", self.id)))
            };
        }
        let deadline = if is_known { deadline.within(READING) } else { deadline };
        let read = async {
            let text = self.secrets.read(&self.id, deadline).await?;
            match more_than_a_password(&text) {
                Some(why) => Err(Failure::refused(GET, format!("{} {why}", self.id))),
                None => Ok(text),
            }
        };
        match (read.await, kept.as_mut()) {
            (Ok(text), _) => *kept = Some(Kept { text, read: Instant::now(), failed: None }),
            (Err(failure), Some(kept)) if is_known && failure.may_pass() => {
                let age = kept.read.elapsed().as_secs();
                warn!(secret = self.id, error = %failure, ageSeconds = age, "using the password as it was read before");
                kept.failed = Some(Instant::now());
            }
            (Err(failure), kept) => {
                if let Some(kept) = kept {
                    kept.failed = Some(Instant::now());
                }
                return Err(failure);
            }
        }
        Ok(())
    }
}

/// The operator's next step if a secret's text is more than a password: each is invisible where it is shown, and fits
/// nowhere.
fn more_than_a_password(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("is empty: store the password in it")
    } else if text.chars().any(char::is_control) {
        Some(
            "holds a line break or another control character: store the password alone, for example with printf %s instead of echo",
        )
    } else if serde_json::from_str::<Map<String, Value>>(text).is_ok() {
        Some("holds a JSON object: store the password alone, as text")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_one_line_of_text_and_no_json_object() {
        for fits in ["s3cret", "{s3cret}", "\"quoted\"", "a b", "ключ"] {
            assert_eq!(more_than_a_password(fits), None, "{fits}");
        }
        for (text, said) in [
            ("", "is empty"),
            ("s3cret\n", "line break"),
            ("s3\tcret", "control character"),
            (r#"{"username":"a","password":"b"}"#, "JSON object"),
        ] {
            assert!(more_than_a_password(text).is_some_and(|why| why.contains(said)), "{text:?}");
        }
    }
}
