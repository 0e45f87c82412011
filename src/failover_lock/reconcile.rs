//! Holds every guarded check against its alarms as they stand: level instead of edge.
//!
//! CloudWatch acts once, on an alarm's change. Where that one notification is lost, or the lock could
//! not be set, this sets it within one period of the schedule; and it tells of checks that nothing
//! would lock.

use futures_util::stream::{self, StreamExt};
use tracing::{info, warn};

use super::FailoverLock;
use super::alarm::{Alarm, AlarmState, AlarmTransition};
use super::apply::{act, interlocked, note_alarm};
use super::decide::{self, Decision, Finding, Seen};
use super::error::{Error, FailedRecord};
use super::health_check::HealthCheckId;
use super::notes::Notes;
use super::outcome::{Outcome, Verdict};
use crate::remote::deadline::Deadline;

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

/// Reads the check and its alarms, decides, acts; and starts again when somebody else changed the
/// check meanwhile. Unlike `lock`, it has another try in a minute: what cannot be read is an error,
/// and never a lock in doubt, which would undo what a person has just done.
async fn reconcile_check(
    system: &FailoverLock,
    id: &HealthCheckId,
    deadline: Deadline,
) -> Result<Outcome, Error> {
    let FailoverLock { config, route53, cloudwatch } = system;
    let read_decide_act = async |_| {
        let check = route53.health_check(id, deadline).await?;
        let path = decide::can_hold(&check)?;
        let alarms = cloudwatch.alarms_on(id, deadline).await?;
        // On most days nothing is locked and nothing is wrong, and the notes decide nothing.
        let is_quiet = path == config.healthy_path.as_str()
            && alarms.iter().all(|alarm| alarm.state != AlarmState::Alarm);
        let notes = if is_quiet { Notes::default() } else { route53.notes(id, deadline).await? };

        let finding = decide::reconcile(path, &alarms, &notes, config);
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
                    note_alarm(system, id, alarm.changed_at, deadline).await;
                }
                Ok(outcome(Verdict::AlreadyLocked))
            }
            Finding::NeverLocked(alarm) => {
                let lock = Decision::Lock { version: Some(check.version) };
                let decision = interlocked(system, id, lock, deadline).await;
                act(
                    system,
                    &transition(alarm, id),
                    id,
                    &Seen { check: Some(&check), notes },
                    decision,
                    deadline,
                )
                .await
            }
            Finding::Unprotected(reason) => {
                Ok(Outcome { reason: Some(reason), ..outcome(Verdict::Unprotected) })
            }
        }
    };
    deadline.persist(read_decide_act).await
}

fn transition(alarm: &Alarm, id: &HealthCheckId) -> AlarmTransition {
    AlarmTransition {
        alarm: alarm.name.clone(),
        state: alarm.state,
        changed_at: alarm.changed_at,
        health_checks: vec![id.clone()],
        composite: None,
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
