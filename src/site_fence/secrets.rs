//! Passwords in Secrets Manager: the only place that knows its SDK.

use std::time::Duration;

use aws_config::{Region, SdkConfig};
use aws_sdk_secretsmanager::Client;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::remote::aws::{Call, Failure, send};
use crate::remote::deadline::Deadline;

const GET: Call = Call::new("secretsmanager:GetSecretValue", "the secret");

/// Secrets Manager in one Region.
#[derive(Debug)]
pub struct Secrets(Client);

/// A secret that is kept, and read again if it does not fit or was read long ago.
#[derive(Default)]
pub struct Kept(Mutex<Option<(Instant, String)>>);

/// The time for which a secret that fits is not read again.
const TRUSTED: Duration = Duration::from_mins(1);
/// The time for which a secret that does not fit is not read again: any client may send a wrong password, often.
const REFUSED: Duration = Duration::from_secs(5);
/// The time for which reading the secret may delay the next request.
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
        output.secret_string.ok_or_else(|| {
            Failure::refused(GET, format!("{id} holds bytes, not text: store the password as text"))
        })
    }
}

// === impl Kept ===

impl Kept {
    /// Whether the secret fits. A rotation needs no restart: after a minute the old password no longer fits.
    ///
    /// # Errors
    /// As [`Secrets::read`].
    pub async fn fits(
        &self,
        secrets: &Secrets,
        id: &str,
        fits: impl Fn(&str) -> bool,
        deadline: Deadline,
    ) -> Result<bool, Failure> {
        let mut kept = self.0.lock().await;
        let known = kept.as_ref().map(|(read, secret)| (read.elapsed(), fits(secret)));
        if let Some((age, fits)) = known
            && age < if fits { TRUSTED } else { REFUSED }
        {
            return Ok(fits);
        }
        let secret = secrets.read(id, deadline.within(READING)).await?;
        let fits = fits(&secret);
        *kept = Some((Instant::now(), secret));
        Ok(fits)
    }
}
