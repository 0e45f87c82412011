//! What the checks of one tick of `reconcile` have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tracing::warn;

use super::FailoverLock;
use super::alarm::Alarm;
use super::decide;
use super::error::FailedRecord;
use super::follow::Unrecorded;
use super::health_check::HealthCheckId;
use super::outcome::{Outcome, Verdict};
use super::reason::Reason;
use crate::remote::aws::Failure;
use crate::remote::deadline::{Deadline, MayPass as _};

/// What became of a check, and its place among the others; `None` if it is not guarded.
pub(super) type Placed = (usize, Option<Result<Outcome, FailedRecord>>);

/// What the checks of a tick have in common.
#[derive(Default)]
pub(super) struct Tick {
    /// Once a call was turned away as often as it may be tried, this tick sets no more locks.
    gives_way: AtomicBool,
    /// The checks that this tick locks.
    locks: Mutex<BTreeSet<HealthCheckId>>,
    /// The locks that it records.
    unrecorded: Mutex<Vec<Unrecorded>>,
    /// The checks whose lock was undone, as this tick has found them.
    undone: Mutex<BTreeSet<HealthCheckId>>,
    /// The checks that are armed, with their alarms.
    armed: Mutex<BTreeMap<HealthCheckId, Vec<Alarm>>>,
}

// === impl Tick ===

impl Tick {
    /// From now on, this tick sets no more locks.
    pub fn give_way(&self) {
        self.gives_way.store(true, Ordering::Relaxed);
    }

    pub fn may_act(&self) -> bool {
        !self.gives_way.load(Ordering::Relaxed)
    }

    /// At its end, this tick records this lock.
    pub fn follow(&self, unrecorded: Unrecorded) {
        self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner).push(unrecorded);
    }

    /// The locks to record: none where others need the calls more.
    pub fn into_unrecorded(self) -> Vec<Unrecorded> {
        if !self.may_act() {
            return Vec::new();
        }
        self.unrecorded.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whether the lock of a check was undone, whatever becomes of that.
    pub fn undone(&self, id: &HealthCheckId, is_undone: bool) {
        let mut undone = self.undone.lock().unwrap_or_else(PoisonError::into_inner);
        if is_undone {
            undone.insert(id.clone());
        } else {
            undone.remove(id);
        }
    }

    /// Whether this tick has found the lock of a check undone.
    pub fn has_undone(&self, id: &HealthCheckId) -> bool {
        self.undone.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    /// This check is armed, as far as no mute rule holds these alarms back.
    pub fn armed(&self, id: &HealthCheckId, alarms: &[Alarm]) {
        let alarms = alarms.to_vec();
        self.armed.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), alarms);
    }

    /// Those checks of `armed` of which mute rules hold every alarm back that would lock. Asked for last, because it may take a
    /// while.
    ///
    /// # Errors
    /// The rules could not be read. Where AWS refuses to say, there are none.
    pub async fn muted(
        &self,
        system: &FailoverLock,
        deadline: Deadline,
    ) -> Result<BTreeSet<HealthCheckId>, Failure> {
        let armed = std::mem::take(&mut *self.armed.lock().unwrap_or_else(PoisonError::into_inner));
        if armed.is_empty() {
            return Ok(BTreeSet::new());
        }
        // The locks that were found have to be recorded yet.
        let deadline = deadline.within(deadline.left() / 2);
        let rules = match Box::pin(system.cloudwatch.mute_rules(deadline)).await {
            Err(failure) if !failure.may_pass() => {
                warn!(error = %failure, "taking the alarms for ones that are not muted");
                Vec::new()
            }
            rules => rules?,
        };
        let muted: BTreeSet<_> = rules.into_iter().flat_map(|rule| rule.alarms).collect();
        let now = system.clock.now();
        let is_muted = |alarms: &[Alarm]| decide::are_held_back(alarms, &muted, &system.config, now);
        Ok(armed.into_iter().filter(|(_, alarms)| is_muted(alarms)).map(|(id, _)| id).collect())
    }

    /// Whether a check may be locked beside its secondary: of two that are each other's one stays in service.
    pub fn may_lock(&self, id: &HealthCheckId, secondary: Option<&HealthCheckId>) -> bool {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        let may_lock = secondary.is_none_or(|secondary| !locks.contains(secondary));
        if may_lock {
            locks.insert(id.clone());
        }
        may_lock
    }
}

/// Takes in which checks that are armed have their alarms held back. If that could not be read, none of them is known to be
/// armed.
pub(super) fn hear(results: &mut Vec<Placed>, muted: Result<BTreeSet<HealthCheckId>, Failure>) {
    let armed = |result: &Option<Result<Outcome, FailedRecord>>| {
        let outcome = result.as_ref().and_then(|result| result.as_ref().ok());
        let armed = outcome.filter(|outcome| outcome.outcome == Verdict::Armed);
        armed.and_then(|outcome| outcome.health_check_id.clone())
    };
    match muted {
        Ok(muted) => {
            for (_, result) in results {
                if armed(result).is_some_and(|id| muted.contains(&id))
                    && let Some(Ok(outcome)) = result
                {
                    (outcome.outcome, outcome.reason) = (Verdict::Unprotected, Some(Reason::ActionsMuted));
                }
            }
        }
        Err(failure) => {
            results.retain(|(_, result)| armed(result).is_none());
            results.push((usize::MAX, Some(Err(FailedRecord::of(None, failure)))));
        }
    }
}
