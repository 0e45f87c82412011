//! Sets a lock for each alarm that asks for one.

use futures_util::future::join_all;
use tracing::{info, warn};

use super::FailoverLock;
use super::alarm::{self, AlarmState, AlarmTransition};
use super::apply::{act, interlocked, not_locked, or_warn, shortly};
use super::cloudwatch::Unresolved;
use super::decide::{self, Concern, Decision, Seen};
use super::error::{Error, FailedRecord};
use super::health_check::HealthCheckId;
use super::notes::Notes;
use super::outcome::{Outcome, Verdict};
use crate::remote::aws::Kind;
use crate::remote::deadline::Deadline;

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
