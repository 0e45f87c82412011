//! What earlier ticks of a process have seen: a check's record is read again, and written again where that was refused, only
//! if the check has changed, or after [`FRESH`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::health_check::{HealthCheck, HealthCheckId};
use super::record::Record;
use super::view;

/// How long what is recorded on a check counts as read, if the check has not changed.
const FRESH: Duration = Duration::from_mins(20);

/// What earlier ticks of this process have seen of the checks' records, by version.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    records: Arc<Mutex<BTreeMap<HealthCheckId, Entry>>>,
    /// The versions of checks whose lock could not be recorded, for a reason that lasts, and since when.
    unrecordable: Arc<Mutex<BTreeMap<HealthCheckId, (i64, Instant)>>>,
}

#[derive(Clone, Debug)]
struct Entry {
    version: i64,
    read: Instant,
    tags: Tagged,
}

/// What a check's tags say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tagged {
    /// It is guarded, and this is recorded on it.
    Guarded(Box<Record>),
    /// It is not guarded.
    NotGuarded,
}

// === impl Known ===

impl Known {
    /// What is known of a check's record. Before a check in service is locked for an alarm, it is always read.
    pub fn get(&self, check: &HealthCheck, quiet: bool) -> Option<Tagged> {
        let known = held(&self.records);
        let entry = known.get(&check.id).filter(|entry| entry.version == check.version)?;
        if entry.read.elapsed() >= FRESH {
            return None;
        }
        let usable = match &entry.tags {
            Tagged::Guarded(record) => quiet || view::is_out(check, record),
            Tagged::NotGuarded => true,
        };
        usable.then(|| entry.tags.clone())
    }

    /// Whether a lock that this check has may be recorded, as far as is known.
    pub fn can_record(&self, check: &HealthCheck) -> bool {
        let unrecordable = held(&self.unrecordable);
        unrecordable
            .get(&check.id)
            .is_none_or(|(version, since)| *version != check.version || since.elapsed() >= FRESH)
    }

    /// A lock that this check has cannot be recorded: not every tick tries.
    pub fn cannot_record(&self, check: &HealthCheck) {
        held(&self.unrecordable).insert(check.id.clone(), (check.version, Instant::now()));
    }

    /// Its record is not known any more: it was written.
    pub fn forget(&self, id: &HealthCheckId) {
        held(&self.records).remove(id);
    }

    pub fn put(&self, check: &HealthCheck, tags: Tagged) {
        let mut known = held(&self.records);
        let fresh = known.get(&check.id).is_some_and(|entry| {
            entry.version == check.version && entry.read.elapsed() < FRESH && entry.tags == tags
        });
        if !fresh {
            // Spread over time, so that what is read at once at the start is not read at once again.
            let spread = FRESH.mul_f64(fastrand::f64() / 2.0);
            let read = Instant::now().checked_sub(spread).unwrap_or_else(Instant::now);
            let entry = Entry { version: check.version, read, tags };
            known.insert(check.id.clone(), entry);
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
