//! What the checks of one tick of `reconcile` have in common.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::follow::Unrecorded;
use super::health_check::HealthCheckId;

/// What the checks of a tick have in common.
#[derive(Default)]
pub(super) struct Tick {
    /// Once a call was turned away as often as it may be tried, this tick sets no more locks.
    gives_way: AtomicBool,
    /// The checks that this tick locks.
    locks: Mutex<BTreeSet<HealthCheckId>>,
    /// The locks that it records.
    unrecorded: Mutex<Vec<Unrecorded>>,
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
