//! Sets a lock for each alarm that asks for one.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use tracing::{info, warn};

use super::FailoverLock;
use super::alarm::{self, AlarmState, AlarmTransition};
use super::cloudwatch::Unresolved;
use super::decide::{self, Concern, Decision, Notes, Reason, Seen};
use super::error::{Error, FailedRecord};
use super::health_check::{HealthCheck, HealthCheckId};
use super::outcome::{Outcome, Verdict};
use crate::remote::aws::{Failure, Kind};
use crate::remote::deadline::Deadline;

/// What is good to know never holds up a lock: reading it gets at most this long, and never more
/// than half of the time that is left.
const GOOD_TO_KNOW: Duration = Duration::from_secs(2);
/// Writing down what was done is tried for so long: the lock stands without it, and `reconcile` makes
/// up for what is missing.
const NOTING: Duration = Duration::from_secs(10);

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
        let mut transition = transition.map_err(|error| failed(None, None, error.into()))?;
        if let Err(error) = look_up(system, &mut transition, deadline).await {
            return Err(failed(Some(transition.alarm), None, error.into()));
        }
        let alarm = || Some(transition.alarm.clone());
        let concern = decide::concern(&transition, &system.config);
        match concern.map_err(|error| failed(alarm(), None, error.into()))? {
            Concern::None(reason) => {
                let id = match transition.health_checks.as_slice() {
                    [id] => Some(id),
                    _ => None,
                };
                log_decision(&transition, id, &Decision::Ignore(reason));
                Ok(not_locked(&transition, id, Verdict::Ignored, reason))
            }
            Concern::Check(id) => lock_check(system, &transition, &id, deadline)
                .await
                .map_err(|error| failed(alarm(), Some(id), error)),
        }
    });
    join_all(records).await
}

/// Finds the health checks behind a composite alarm that went off.
async fn look_up(
    system: &FailoverLock,
    transition: &mut AlarmTransition,
    deadline: Deadline,
) -> Result<(), Unresolved> {
    if let Some(composite) = transition.composite.as_ref().filter(|_| transition.state == AlarmState::Alarm) {
        transition.health_checks = system.cloudwatch.health_checks_behind(composite, deadline).await?;
    }
    Ok(())
}

/// Reads the check, decides, acts; and starts again when somebody else changed the check meanwhile.
async fn lock_check(
    system: &FailoverLock,
    transition: &AlarmTransition,
    id: &HealthCheckId,
    deadline: Deadline,
) -> Result<Outcome, Error> {
    let FailoverLock { config, route53, .. } = system;
    let read_decide_act = async |_| {
        let check = match route53.health_check(id, deadline).await {
            Ok(check) => Some(check),
            Err(denied) if denied.kind() == Kind::Denied => {
                warn!(healthCheckId = %id, error = %denied, "locking without reading the check first");
                None
            }
            Err(failure) => return Err(failure.into()),
        };
        let notes = match &check {
            // It was never switched back either: whatever notes a restore changes the check, too. Each
            // call counts where many checks fail over and meet Route 53's limit.
            Some(check) if check.was_never_changed() && check.path() != Some(config.locked_path.as_str()) => {
                Notes::default()
            }
            // Read after the check: a restore sets its tag before its path, so that whoever has seen
            // the path restored sees the tag.
            _ => or_warn(
                id,
                route53.notes(id, shortly(deadline)).await,
                "taking the alarm for newer than the last restore",
            )
            .unwrap_or_default(),
        };
        let seen = Seen { check: check.as_ref(), notes };
        let decision = decide::lock(transition, &seen, config)?;
        let decision = interlocked(system, id, decision, deadline).await;
        log_decision(transition, id.into(), &decision);
        act(system, transition, id, &seen, decision, deadline).await
    };
    deadline.persist(read_decide_act).await
}

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

fn shortly(deadline: Deadline) -> Deadline {
    deadline.within(GOOD_TO_KNOW.min(deadline.left() / 2))
}

fn or_warn<T>(id: &HealthCheckId, result: Result<T, Failure>, consequence: &str) -> Option<T> {
    result.map_err(|failure| warn!(healthCheckId = %id, error = %failure, "{consequence}")).ok()
}

fn not_locked(
    transition: &AlarmTransition,
    id: Option<&HealthCheckId>,
    outcome: Verdict,
    reason: Reason,
) -> Outcome {
    Outcome { reason: Some(reason), alarm: Some(transition.alarm.clone()), ..Outcome::new(id, outcome) }
}

fn log_decision(transition: &AlarmTransition, id: Option<&HealthCheckId>, decision: &Decision) {
    let (decision, reason) = match decision {
        Decision::Ignore(reason) => ("ignore", Some(*reason)),
        Decision::Defer(reason) => ("defer", Some(*reason)),
        Decision::AlreadyLocked => ("leave_locked", None),
        Decision::Lock { .. } => ("lock", None),
    };
    info!(
        alarm = transition.alarm,
        state = %transition.state,
        changedAt = transition.changed_at.to_rfc3339(),
        healthCheckId = id.map(HealthCheckId::as_str),
        decision,
        reason = reason.map(<&str>::from),
        "decided"
    );
}
