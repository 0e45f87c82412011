//! Passwords in Secrets Manager: the only place that knows its SDK.

use aws_config::{Region, SdkConfig};
use aws_sdk_secretsmanager::Client;
use tokio::sync::Mutex;

use crate::aws::{Call, Failure, send};
use crate::deadline::Deadline;

const GET: Call = Call("secretsmanager:GetSecretValue");

/// Secrets Manager in one Region.
#[derive(Debug)]
pub struct Secrets(Client);

/// A secret that is read once, and again when it does not fit any more.
#[derive(Default)]
pub struct Kept(Mutex<Option<String>>);

// === impl Secrets ===

impl Secrets {
    /// Secrets Manager by this configuration, which must not retry by itself, in this Region.
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
        output.secret_string.ok_or_else(|| Failure::refused(GET, format!("{id} holds bytes, and no text")))
    }
}

// === impl Kept ===

impl Kept {
    /// Whether the secret fits: as it was read before, or else as it is now. A rotation needs no new start.
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
        if kept.as_deref().is_some_and(&fits) {
            return Ok(true);
        }
        let secret = secrets.read(id, deadline).await?;
        let fits = fits(&secret);
        *kept = Some(secret);
        Ok(fits)
    }
}
