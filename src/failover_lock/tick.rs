//! What the checks of one tick of `reconcile` have in common.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::OnceCell;
use tracing::warn;

use super::FailoverLock;
use super::alarm::Alarm;
use super::decide;
use super::follow::Unrecorded;
use super::health_check::HealthCheckId;
use super::view;
use crate::remote::deadline::Deadline;

/// What the checks of a tick have in common.
#[derive(Default)]
pub(super) struct Tick {
    /// Once a call was turned away as often as it may be tried, this tick sets no more locks.
    gives_way: AtomicBool,
    /// The checks that this tick locks.
    locks: Mutex<BTreeSet<HealthCheckId>>,
    /// The locks that it records.
    unrecorded: Mutex<Vec<Unrecorded>>,
    /// The alarms whose actions mute rules hold back.
    muted: OnceCell<BTreeSet<String>>,
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

    /// Whether mute rules hold back all of these alarms that lead to a lock, so that nothing would: not, if that cannot be read.
    pub async fn are_muted(&self, system: &FailoverLock, alarms: &[Alarm], deadline: Deadline) -> bool {
        let mut leading =
            alarms.iter().filter(|alarm| decide::leads_to_lock(alarm, &system.config)).peekable();
        if leading.peek().is_none() {
            return false;
        }
        let read = async || match system.cloudwatch.mute_rules(view::shortly(deadline)).await {
            Ok(rules) => rules.into_iter().flat_map(|rule| rule.alarms).collect(),
            Err(failure) => {
                warn!(error = %failure, "taking the alarms for ones that are not muted");
                BTreeSet::new()
            }
        };
        let muted = self.muted.get_or_init(|| Box::pin(read())).await;
        leading.all(|alarm| muted.contains(&alarm.name))
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
