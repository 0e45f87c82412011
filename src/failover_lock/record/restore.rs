//! A restore: what it has set, and since when.

use std::fmt::Write;

use chrono::{DateTime, TimeDelta, Utc};

use super::fields::{escaped_within, milliseconds, with_reason};
use super::{Before, CUT, FIELDS, Intent, Lock, Record, Restore, WAITS};

/// How long after a lock its own datapoints may make an alarm go off. Longer, and a failure from before the restore would count as
/// the lock's.
const RECENT: TimeDelta = TimeDelta::minutes(10);

/// When a path had been set that was not seen to be set.
pub const EARLIER: DateTime<Utc> = DateTime::UNIX_EPOCH;

// === impl Record ===

impl Record {
    /// When the path of a check in service had been set, as far as that is on record, for a restore that has `seen` it so. Who
    /// has undone a lock has not said when: of one that is recent, just now.
    #[must_use]
    pub fn set_before(&self, path: &str, version: i64, seen: DateTime<Utc>) -> DateTime<Utc> {
        let is_recent = |lock: &Lock| lock.was_set() && seen - lock.at < RECENT;
        if self.intent(path, version) == Intent::Out && self.lock.as_ref().is_some_and(is_recent) {
            return seen;
        }
        let known = self.restored(path, version).filter(|_| self.intent(path, version) == Intent::In);
        known.map_or(EARLIER, |restore| restore.done.unwrap_or(restore.seen))
    }
}

// === impl Restore ===

impl Restore {
    /// Whether this is the path that it has set, as far as it is on record.
    #[must_use]
    pub fn has_set(&self, path: &str) -> bool {
        match self.to.strip_suffix(CUT) {
            Some(start) => path.len() > start.len() && path.starts_with(start),
            None => self.to == path,
        }
    }

    /// When it was done, or found nothing to do.
    #[must_use]
    pub fn newest(&self) -> DateTime<Utc> {
        self.done.map_or(self.seen, |done| done.max(self.seen))
    }

    /// The path that it has set, if all of it is on record.
    fn path(&self) -> Option<&str> {
        Some(self.to.as_str()).filter(|to| !to.is_empty() && !to.ends_with(CUT))
    }

    /// The path from before a lock on what it has set.
    #[must_use]
    pub fn before(&self) -> Before {
        self.path().map_or(Before::TooLong, |path| Before::Path(path.to_owned()))
    }

    /// The lock whose tag this one took the place of, as far as it is known.
    pub(super) fn replaced(&self) -> Option<Lock> {
        let (version, alarm) = self.over?;
        let version = Some(version).filter(|version| *version > WAITS);
        // One that waits was decided on the version that this restore has read, or on one before it.
        let on = if version.is_none() { Some(self.version.saturating_sub(1)) } else { None };
        let (before, by) = (self.before(), String::new());
        Some(Lock { version, found: false, undone: false, on, at: self.seen, alarm, of: None, before, by })
    }

    /// The tag's value.
    #[must_use]
    pub fn tag(&self) -> String {
        let mut text = format!("v={} seen={}", self.version, milliseconds(self.seen));
        if let Some(done) = self.done {
            let _ = write!(text, " done={}", milliseconds(done));
        }
        if let Some((version, alarm)) = self.over {
            let _ = write!(text, " over={version}");
            if let Some(alarm) = alarm {
                let _ = write!(text, " alarm={}", milliseconds(alarm));
            }
        }
        let room = FIELDS.saturating_sub(text.len() + " to=".len());
        let _ = write!(text, " to={}", escaped_within(&self.to, room));
        with_reason(text, &self.by)
    }
}
