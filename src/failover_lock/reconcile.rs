//! Holds every guarded check against its alarms as they stand: level instead of edge.
//!
//! CloudWatch acts once, on an alarm's change. Where that one notification is lost, or the lock could
//! not be set, this sets it within one period of the schedule; and it tells of checks that nothing
//! would lock.

use futures_util::stream::{self, StreamExt};
use tracing::{info, warn};

use super::alarm::{AlarmState, AlarmTransition};
use super::decide::{self, Alarm, Finding, Notes};
use super::error::{Error, FailedRecord};
use super::health_check::HealthCheckId;
use super::lock::{lock_check, or_warn};
use super::{FailoverLock, Outcome, Verdict};
use crate::deadline::Deadline;

/// Route 53 allows an account a burst of 50 calls and 10 a second after it.
const AT_ONCE: usize = 10;

/// Looks at every guarded check.
pub(super) async fn reconcile(
    system: &FailoverLock,
    deadline: Deadline,
) -> Vec<Result<Outcome, FailedRecord>> {
    let guarded = system.config.guarded.iter().flatten();
    let checks = guarded.map(async |id| {
        let failed =
            |error| FailedRecord { record: None, alarm: None, health_check_id: Some(id.clone()), error };
        reconcile_check(system, id, deadline).await.map_err(failed)
    });
    stream::iter(checks).buffered(AT_ONCE).collect().await
}

async fn reconcile_check(
    system: &FailoverLock,
    id: &HealthCheckId,
    deadline: Deadline,
) -> Result<Outcome, Error> {
    let FailoverLock { config, route53, cloudwatch } = system;
    let check = route53.health_check(id, deadline).await?;
    let path = decide::can_hold(&check)?;
    let is_locked = path == config.locked_path.as_str();
    let alarms = cloudwatch.alarms_on(id, deadline).await?;
    // On most days nothing is locked and nothing is wrong, and the notes decide nothing.
    let notes = if is_locked || alarms.iter().any(|alarm| alarm.state == AlarmState::Alarm) {
        route53.notes(id, deadline).await?
    } else {
        Notes::default()
    };

    let finding = decide::reconcile(is_locked, &alarms, &notes);
    log_finding(id, &finding);
    let outcome = |outcome| Outcome {
        path: Some(path.to_owned()),
        version: Some(check.version),
        ..Outcome::new(Some(id), outcome)
    };
    match finding {
        Finding::Armed => Ok(outcome(Verdict::Armed)),
        Finding::LockStands { unnoted } => {
            if let Some(alarm) = unnoted.filter(|_| !config.dry_run) {
                let result = route53.note_alarm(id, alarm, deadline).await;
                or_warn(id, result, "the lock stands, the alarm that found it is not noted");
            }
            Ok(outcome(Verdict::AlreadyLocked))
        }
        Finding::NeverLocked(alarm) => lock_check(system, &transition(alarm, id), id, deadline).await,
        Finding::Unprotected(reason) => Ok(Outcome { reason: Some(reason), ..outcome(Verdict::Unprotected) }),
    }
}

fn transition(alarm: &Alarm, id: &HealthCheckId) -> AlarmTransition {
    AlarmTransition {
        alarm: alarm.name.clone(),
        state: alarm.state,
        changed_at: alarm.changed_at,
        health_checks: vec![id.clone()],
        look_up: Vec::new(),
    }
}

fn log_finding(id: &HealthCheckId, finding: &Finding<'_>) {
    let decided = |decision: &str| info!(healthCheckId = %id, decision, "decided");
    match finding {
        Finding::Armed => decided("leave_armed"),
        Finding::LockStands { .. } => decided("leave_locked"),
        Finding::NeverLocked(alarm) => {
            warn!(healthCheckId = %id, alarm = alarm.name, changedAt = alarm.changed_at.to_rfc3339(), decision = "lock", "decided");
        }
        Finding::Unprotected(reason) => {
            warn!(healthCheckId = %id, decision = "report", reason = <&str>::from(*reason), "decided");
        }
    }
}
