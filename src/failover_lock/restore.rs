//! Switches a locked check back, when a person says so.

use tokio::time::timeout;
use tracing::info;

use super::config::Config;
use super::decide::{self, Refusal, SwitchBack};
use super::error::{Error, FailedRecord};
use super::health_check::{HealthCheck, HealthCheckId};
use super::outcome::{Outcome, Verdict};
use super::request::Request;
use super::{FailoverLock, probe};
use crate::remote::deadline::Deadline;

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
