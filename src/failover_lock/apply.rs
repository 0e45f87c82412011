//! The effect: does to a health check what was decided about it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tracing::warn;

use super::FailoverLock;
use super::alarm::AlarmTransition;
use super::decide::{self, Decision, Reason, Seen};
use super::error::Error;
use super::health_check::{HealthCheck, HealthCheckId};
use super::outcome::{Outcome, Verdict};
use crate::remote::aws::Failure;
use crate::remote::deadline::Deadline;

/// What is good to know never holds up a lock: reading it gets at most this long, and never more
/// than half of the time that is left.
const GOOD_TO_KNOW: Duration = Duration::from_secs(2);
/// Writing down what was done is tried for so long: the lock stands without it, and `reconcile` makes
/// up for what is missing.
const NOTING: Duration = Duration::from_secs(10);

/// Asks for the secondary's health where a lock would be set and one is named.
pub(super) async fn interlocked(
    system: &FailoverLock,
    id: &HealthCheckId,
    decision: Decision,
    deadline: Deadline,
) -> Decision {
    let secondary = match (&decision, system.config.secondaries.get(id)) {
        (Decision::Lock { .. }, Some(secondary)) => {
            let healthy = system.route53.is_healthy(secondary, shortly(deadline)).await;
            or_warn(id, healthy, "taking the secondary for healthy")
        }
        _ => None,
    };
    decide::interlock(decision, secondary)
}

/// Does what was decided about a check as it was read.
pub(super) async fn act(
    system: &FailoverLock,
    transition: &AlarmTransition,
    id: &HealthCheckId,
    seen: &Seen<'_>,
    decision: Decision,
    deadline: Deadline,
) -> Result<Outcome, Error> {
    let FailoverLock { config, route53, .. } = system;
    let Seen { check, notes } = seen;
    let previous_path = check.and_then(HealthCheck::path);
    let on_locked_path = |outcome, version| Outcome {
        previous_path: previous_path.map(str::to_owned),
        path: Some(config.locked_path.as_str().to_owned()),
        version,
        alarm: Some(transition.alarm.clone()),
        ..Outcome::new(Some(id), outcome)
    };
    match decision {
        Decision::Ignore(reason) => Ok(not_locked(transition, Some(id), Verdict::Ignored, reason)),
        Decision::Defer(reason) => Ok(not_locked(transition, Some(id), Verdict::Deferred, reason)),
        Decision::AlreadyLocked => {
            // Without the note of this alarm, a lock that is undone by hand later would look like
            // one that was never set. Where no alarm is noted, `reconcile` sees to it.
            if notes.alarm_changed_at.is_some()
                && !decide::is_noted(transition.changed_at, notes)
                && !config.dry_run
            {
                note_alarm(system, id, transition.changed_at, deadline).await;
            }
            Ok(on_locked_path(Verdict::AlreadyLocked, check.map(|check| check.version)))
        }
        Decision::Lock { version } if config.dry_run => Ok(on_locked_path(Verdict::WouldLock, version)),
        Decision::Lock { version } => {
            if let Some(path) = previous_path.filter(|path| *path != config.healthy_path.as_str()) {
                warn!(healthCheckId = %id, path, "locking a check that is on neither path of this function; a restore sets HEALTHY_PATH");
            }
            let locked = route53.set_path(id, &config.locked_path, version, deadline).await?;
            let result = route53.note_lock(id, transition, notes, deadline.within(NOTING)).await;
            or_warn(id, result, "the lock stands, its tags are missing");
            // A check that could not be read before is seen here for the first time.
            decide::can_hold(&locked).map_err(Error::LockedBlindly)?;
            Ok(on_locked_path(Verdict::Locked, Some(locked.version)))
        }
    }
}

pub(super) async fn note_alarm(
    system: &FailoverLock,
    id: &HealthCheckId,
    changed_at: DateTime<Utc>,
    deadline: Deadline,
) {
    let result = system.route53.note_alarm(id, changed_at, deadline.within(NOTING)).await;
    or_warn(id, result, "the lock stands, the alarm that found it is not noted");
}

pub(super) fn shortly(deadline: Deadline) -> Deadline {
    deadline.within(GOOD_TO_KNOW.min(deadline.left() / 2))
}

pub(super) fn or_warn<T>(id: &HealthCheckId, result: Result<T, Failure>, consequence: &str) -> Option<T> {
    result.map_err(|failure| warn!(healthCheckId = %id, error = %failure, "{consequence}")).ok()
}

pub(super) fn not_locked(
    transition: &AlarmTransition,
    id: Option<&HealthCheckId>,
    outcome: Verdict,
    reason: Reason,
) -> Outcome {
    Outcome { reason: Some(reason), alarm: Some(transition.alarm.clone()), ..Outcome::new(id, outcome) }
}
