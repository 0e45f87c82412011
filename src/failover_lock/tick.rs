//! What the checks of one tick of `reconcile` have in common.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::health_check::HealthCheckId;

/// What the checks of a tick have in common.
#[derive(Default)]
pub(super) struct Tick {
    /// Once a call was turned away as often as it may be tried, this tick sets no more locks.
    gives_way: AtomicBool,
    /// The checks that this tick locks.
    locks: Mutex<BTreeSet<HealthCheckId>>,
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
