//! What earlier ticks of a process have read: a check's record is read again only if the check has changed, or after
//! [`FRESH`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::health_check::{HealthCheck, HealthCheckId};
use super::record::Record;
use super::view;

/// How long what is recorded on a check counts as read, if the check has not changed.
const FRESH: Duration = Duration::from_mins(20);

/// What was read of the checks' records, by version, in earlier ticks of this process.
#[derive(Clone, Debug, Default)]
pub(super) struct Known(Arc<Mutex<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    records: BTreeMap<HealthCheckId, Entry>,
    /// When a check was first seen on the locked path, and at which version.
    locked: BTreeMap<HealthCheckId, (i64, DateTime<Utc>)>,
    /// For which alarm a locked check was last given a new version, and which one.
    touched: BTreeMap<HealthCheckId, (DateTime<Utc>, i64)>,
}

#[derive(Clone, Debug)]
struct Entry {
    version: i64,
    read: Instant,
    tags: Tagged,
    /// Whether it is guarded and meant to be out of service.
    is_out: bool,
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
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a check's record. Before a check in service is locked for an alarm, it is always read.
    pub fn get(&self, check: &HealthCheck, quiet: bool) -> Option<Tagged> {
        let memory = self.memory();
        let entry = memory.records.get(&check.id).filter(|entry| entry.version == check.version)?;
        if entry.read.elapsed() >= FRESH {
            return None;
        }
        let usable = match &entry.tags {
            Tagged::Guarded(record) => quiet || view::is_out(check, record),
            Tagged::NotGuarded => true,
        };
        usable.then(|| entry.tags.clone())
    }

    /// The checks that are meant to be out of service.
    pub fn out(&self) -> Vec<HealthCheckId> {
        self.memory().records.iter().filter(|(_, entry)| entry.is_out).map(|(id, _)| id.clone()).collect()
    }

    /// Since when this process has seen this version of the check on the locked path: now, if it is not, or was not before.
    pub fn locked_since(&self, check: &HealthCheck, is_locked: bool, now: DateTime<Utc>) -> DateTime<Utc> {
        let locked = &mut self.memory().locked;
        let known = locked.remove(&check.id).filter(|(version, _)| is_locked && *version == check.version);
        let since = known.map_or(now, |(_, since)| since);
        if is_locked {
            locked.insert(check.id.clone(), (check.version, since));
        }
        since
    }

    /// The new version that a locked check was given for an alarm that changed then: once is enough, also if the alarm cannot be
    /// recorded.
    pub fn touched(&self, id: &HealthCheckId, alarm: DateTime<Utc>) -> Option<i64> {
        self.memory().touched.get(id).filter(|(at, _)| *at == alarm).map(|(_, version)| *version)
    }

    /// Notes that it was given this one.
    pub fn set_touched(&self, id: &HealthCheckId, alarm: DateTime<Utc>, version: i64) {
        self.memory().touched.insert(id.clone(), (alarm, version));
    }

    /// Its record is not known any more: it was written.
    pub fn forget(&self, id: &HealthCheckId) {
        self.memory().records.remove(id);
    }

    pub fn put(&self, check: &HealthCheck, tags: Tagged) {
        let known = &mut self.memory().records;
        let fresh = known.get(&check.id).is_some_and(|entry| {
            entry.version == check.version && entry.read.elapsed() < FRESH && entry.tags == tags
        });
        if !fresh {
            // Spread over time, so that what is read at once at the start is not read at once again.
            let spread = FRESH.mul_f64(fastrand::f64() / 2.0);
            let read = Instant::now().checked_sub(spread).unwrap_or_else(Instant::now);
            let is_out = matches!(&tags, Tagged::Guarded(record) if view::is_out(check, record));
            let entry = Entry { version: check.version, read, tags, is_out };
            known.insert(check.id.clone(), entry);
        }
    }
}
