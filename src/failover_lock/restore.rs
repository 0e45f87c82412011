//! Switches a locked check back, when a person says so.

use serde::Deserialize;
use thiserror::Error;
use tokio::time::timeout;
use tracing::info;

use super::alarm::{self, Parts};
use super::config::Config;
use super::decide::{self, Refusal, SwitchBack};
use super::error::{Error, FailedRecord};
use super::health_check::{HealthCheck, HealthCheckId};
use super::outcome::{Outcome, Verdict};
use super::{FailoverLock, probe};
use crate::program::text::brief;
use crate::remote::deadline::Deadline;

/// What a person asks for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// The check; may be left out where exactly one is guarded.
    pub health_check_id: Option<HealthCheckId>,
    /// Switch back without asking the primary first.
    #[serde(default)]
    pub force: bool,
    /// Why, for the log.
    pub reason: Option<String>,
    /// Say what would be done, change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// A request that cannot be read.
#[derive(Debug, Error)]
pub enum BadRequest {
    /// Not JSON, a misspelt field, a value of another type.
    #[error(
        "the request cannot be read: {}. It takes {{\"healthCheckId\"?, \"force\"?, \"reason\"?, \"dryRun\"?}}",
        brief(.0)
    )]
    Unreadable(#[from] serde_json::Error),
    /// Only people switch back.
    #[error("this is an event of SNS, an alarm or a schedule: only a person's request switches back")]
    MachineMade,
    /// It does not say which check.
    #[error("healthCheckId is missing, and GUARDED_HEALTH_CHECKS does not name exactly one check")]
    WhichCheck,
}

/// Handles one request.
pub(super) async fn restore(
    system: &FailoverLock,
    request: &str,
    deadline: Deadline,
) -> Result<Outcome, FailedRecord> {
    let failed = |health_check_id, error| FailedRecord { record: None, alarm: None, health_check_id, error };
    let request = Request::read(request).map_err(|error| failed(None, error.into()))?;
    let id = request.which(&system.config).map_err(|error| failed(None, error.into()))?;
    restore_check(system, &request, &id, deadline).await.map_err(|error| failed(Some(id), error))
}

/// Reads the check, decides, asks the primary, acts; and starts again when somebody else changed
/// the check meanwhile.
async fn restore_check(
    system: &FailoverLock,
    request: &Request,
    id: &HealthCheckId,
    deadline: Deadline,
) -> Result<Outcome, Error> {
    let FailoverLock { config, route53, .. } = system;
    if !config.guards(id) {
        return Err(Refusal::NotGuarded.into());
    }
    let read_decide_act = async |_| {
        let check = route53.health_check(id, deadline).await?;
        let decision = decide::switch_back(&check, config)?;
        info!(
            healthCheckId = %id,
            decision = match decision {
                SwitchBack::AlreadyRestored => "leave_restored",
                SwitchBack::Restore => "restore",
            },
            force = request.force,
            reason = request.reason,
            "decided"
        );
        let outcome = |outcome, version| Outcome {
            previous_path: check.path().map(str::to_owned),
            path: Some(config.healthy_path.as_str().to_owned()),
            version: Some(version),
            ..Outcome::new(Some(id), outcome)
        };
        match decision {
            SwitchBack::AlreadyRestored => Ok(outcome(Verdict::AlreadyRestored, check.version)),
            SwitchBack::Restore => {
                if !request.force {
                    ask_primary(&check, config, deadline).await?;
                }
                if config.dry_run || request.dry_run {
                    return Ok(outcome(Verdict::WouldRestore, check.version));
                }
                // First the tag, then the path: an alarm from before that is delivered in between
                // must not lock again, and if only one of the two can be done, it is the harmless one.
                route53.note_restore(id, deadline).await?;
                let restored =
                    route53.set_path(id, &config.healthy_path, Some(check.version), deadline).await?;
                Ok(outcome(Verdict::Restored, restored.version))
            }
        }
    };
    deadline.persist(read_decide_act).await
}

async fn ask_primary(check: &HealthCheck, config: &Config, deadline: Deadline) -> Result<(), Refusal> {
    let endpoint = check.endpoint.as_ref().ok_or_else(|| Refusal::NoPath(check.check_type.clone()))?;
    let unhealthy =
        match timeout(deadline.left(), probe::ask(&check.id, endpoint, &config.healthy_path)).await {
            Ok(Ok(status)) => {
                info!(healthCheckId = %check.id, status = status.as_u16(), "the primary is healthy");
                return Ok(());
            }
            Ok(Err(unhealthy)) => unhealthy.to_string(),
            Err(_) => "it gave no answer in the time that the invocation had".to_owned(),
        };
    Err(Refusal::Unhealthy(unhealthy))
}

// === impl Request ===

impl Request {
    fn read(text: &str) -> Result<Self, BadRequest> {
        let parts: Parts = serde_json::from_str(text)?;
        if alarm::is_machine_made(&parts) {
            return Err(BadRequest::MachineMade);
        }
        Ok(serde_json::from_str(text)?)
    }

    fn which(&self, config: &Config) -> Result<HealthCheckId, BadRequest> {
        match (&self.health_check_id, &config.guarded) {
            (Some(id), _) => Ok(id.clone()),
            (None, Some(guarded)) if guarded.len() == 1 => {
                guarded.first().cloned().ok_or(BadRequest::WhichCheck)
            }
            (None, _) => Err(BadRequest::WhichCheck),
        }
    }
}
