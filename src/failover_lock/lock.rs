//! Sets a lock for each alarm that asks for one.

use std::time::Duration;

use futures_util::future::join_all;
use tracing::{info, warn};

use super::alarm::{self, AlarmTransition};
use super::decide::{self, Concern, Decision, IgnoreReason, Seen};
use super::error::{Error, FailedRecord};
use super::health_check::HealthCheckId;
use super::route53::Kind;
use super::{FailoverLock, Outcome, Verdict};
use crate::deadline::Deadline;

/// Tags never hold up a lock: reading them gets at most this long, and never more than half of the
/// time that is left.
const FOR_TAGS: Duration = Duration::from_secs(2);

/// Handles every record of an event, all at once, so that none waits for another's slow answer.
pub(super) async fn lock(
    system: &FailoverLock,
    event: &str,
    deadline: Deadline,
) -> Vec<Result<Outcome, FailedRecord>> {
    let transitions = alarm::transitions(event).unwrap_or_else(|error| vec![Err(error)]);
    let records = transitions.into_iter().zip(1..).map(async |(transition, record)| {
        let failed = |alarm, health_check_id, error| FailedRecord {
            record: Some(record),
            alarm,
            health_check_id,
            error,
        };
        let transition = transition.map_err(|error| failed(None, None, error.into()))?;
        let alarm = || Some(transition.alarm.clone());
        match decide::concern(&transition, &system.config)
            .map_err(|error| failed(alarm(), None, error.into()))?
        {
            Concern::None(reason) => {
                let id = transition.health_checks.first().filter(|_| transition.health_checks.len() == 1);
                decided(&transition, id, "ignore", Some(reason));
                Ok(ignored(&transition, id, reason))
            }
            Concern::Check(id) => lock_check(system, &transition, &id, deadline)
                .await
                .map_err(|error| failed(alarm(), Some(id), error)),
        }
    });
    join_all(records).await
}

/// Reads the check, decides, acts; and starts again when somebody else changed the check meanwhile.
async fn lock_check(
    system: &FailoverLock,
    transition: &AlarmTransition,
    id: &HealthCheckId,
    deadline: Deadline,
) -> Result<Outcome, Error> {
    let FailoverLock { config, route53 } = system;
    let read_decide_act = async |_| {
        let check = match route53.health_check(id, deadline).await {
            Ok(check) => Some(check),
            Err(denied) if denied.kind() == Kind::Denied => {
                warn!(healthCheckId = %id, error = %denied, "locking without reading the check first");
                None
            }
            Err(failure) => return Err(failure.into()),
        };
        // Read after the check: a restore sets its tag before its path, so that whoever has seen
        // the path restored sees the tag.
        let for_tags = deadline.within(FOR_TAGS.min(deadline.left() / 2));
        let restored_at = route53.restored_at(id, for_tags).await.unwrap_or_else(|failure| {
            warn!(healthCheckId = %id, error = %failure, "taking the alarm for newer than the last restore");
            None
        });

        let seen = Seen { check: check.as_ref(), restored_at };
        let decision = decide::lock(transition, &seen, config)?;
        let previous_path = check.as_ref().and_then(|check| check.path()).map(str::to_owned);
        let outcome = |outcome, path: &str, version| Outcome {
            health_check_id: Some(id.clone()),
            outcome,
            reason: None,
            previous_path: previous_path.clone(),
            path: Some(path.to_owned()),
            version,
            alarm: Some(transition.alarm.clone()),
        };
        let locked_path = &config.locked_path;
        match decision {
            Decision::Ignore(reason) => {
                decided(transition, Some(id), "ignore", Some(reason));
                Ok(ignored(transition, Some(id), reason))
            }
            Decision::AlreadyLocked => {
                decided(transition, Some(id), "leave_locked", None);
                Ok(outcome(Verdict::AlreadyLocked, locked_path.as_str(), check.map(|check| check.version)))
            }
            Decision::Lock { version } => {
                decided(transition, Some(id), "lock", None);
                if let Some(path) =
                    previous_path.as_deref().filter(|path| *path != config.healthy_path.as_str())
                {
                    warn!(healthCheckId = %id, path, "the check is on neither path of this function; locking it all the same");
                }
                if config.dry_run {
                    return Ok(outcome(Verdict::WouldLock, locked_path.as_str(), version));
                }
                let locked = route53.set_path(id, locked_path, version, deadline).await?;
                if let Err(failure) = route53.note_lock(id, transition, deadline).await {
                    warn!(healthCheckId = %id, error = %failure, "the lock stands, its tags are missing");
                }
                // A check that could not be read before is seen here for the first time.
                decide::can_hold(&locked)?;
                Ok(outcome(Verdict::Locked, locked_path.as_str(), Some(locked.version)))
            }
        }
    };
    deadline.persist(read_decide_act).await
}

fn decided(
    transition: &AlarmTransition,
    id: Option<&HealthCheckId>,
    decision: &str,
    reason: Option<IgnoreReason>,
) {
    info!(
        alarm = transition.alarm,
        state = %transition.state,
        changedAt = %transition.changed_at.to_rfc3339(),
        healthCheckId = id.map(HealthCheckId::as_str),
        decision,
        reason = reason.map(<&str>::from),
        "decided"
    );
}

fn ignored(transition: &AlarmTransition, id: Option<&HealthCheckId>, reason: IgnoreReason) -> Outcome {
    Outcome {
        health_check_id: id.cloned(),
        outcome: Verdict::Ignored,
        reason: Some(reason),
        previous_path: None,
        path: None,
        version: None,
        alarm: Some(transition.alarm.clone()),
    }
}
