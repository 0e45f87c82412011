//! The record of intent: whether a health check is meant to be out of service, in two tags of the check.
//!
//! | tag | written by | example |
//! |---|---|---|
//! | `failover-lock:out` | `lock`, `reconcile` | `v=8 at=2026-01-05T10:02:11Z alarm=2026-01-05T10:02:07.490Z of=failover before=/health/v2 by=shop-primary` |
//! | `failover-lock:in` | `restore` | `v=9 seen=2026-01-05T11:30:02.120Z done=2026-01-05T11:30:05Z to=/health/v2 by=disk replaced` |
//!
//! `v` is the version of the check that the writer's own update made. `UpdateHealthCheck` with the version that
//! was read succeeds once, so each version has exactly one maker: a check with a later version, on another path
//! than the record says, was changed by someone else. That needs no clocks and no alarm. A lock that waits for the
//! secondary has made none: it is `v=0`, with the version that was read as `on`, and `undone=1` over one that was undone.

use std::collections::BTreeMap;
use std::fmt::Write;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use thiserror::Error;

pub use self::cause::{BY_HAND, FOUND, found_for, is_by_hand, is_found};
pub use self::restore::EARLIER;
pub use self::room::{fits_beside, has_no_room, removed, takes_no_lock};

use self::fields::{Fields, escaped, milliseconds, seconds, with_reason};
use super::health_check::HealthCheck;
use crate::program::text::Quoted;

mod cause;
mod fields;
mod restore;
mod room;
#[cfg(test)]
mod tests;

/// The tag of the newest lock.
pub const OUT: &str = "failover-lock:out";
/// The tag of the newest restore.
pub const IN: &str = "failover-lock:in";
/// The tag of a restore in the former record, which a person may still write by hand.
pub const RESTORED_AT: &str = "failover-lock:restored-at";
/// The other tags of the former record.
const LOCKED_AT: &str = "failover-lock:locked-at";
const ALARM_CHANGED_AT: &str = "failover-lock:alarm-changed-at";
const ALARM: &str = "failover-lock:alarm";
/// The former record's tags, which the first write of this record removes.
pub const FORMER: [&str; 4] = [RESTORED_AT, LOCKED_AT, ALARM_CHANGED_AT, ALARM];

/// How long after its beginning a restore may have taken place: `reconcile` completes its record within a minute or two.
const LAPSES: TimeDelta = TimeDelta::minutes(5);
/// How long after its tag a restore by hand may take place. An older tag was abandoned: it may not turn a change of the
/// path by someone else into a restore.
pub const BY_HAND_LAPSES: TimeDelta = TimeDelta::minutes(30);
/// How long after that a tick may see first that it took place.
const BY_HAND_UNSEEN: TimeDelta = TimeDelta::minutes(5);
/// How far the clocks of two functions may be apart.
const CLOCK_SKEW: TimeDelta = TimeDelta::minutes(1);
/// [The characters that a tag's value may have][1].
///
/// [1]: https://docs.aws.amazon.com/Route53/latest/APIReference/API_Tag.html
const LONGEST: usize = 256;
/// The characters that there are for the fields before the free text.
const FIELDS: usize = LONGEST - " by=".len();
/// What stands for the version of a lock that waits.
pub const WAITS: i64 = 0;
/// What stands for a path from before that does not fit; a path begins with `/`.
const TOO_LONG: &str = "-";
/// The end of a restored path that does not fit; a path has no such character.
pub const CUT: char = '…';

/// The page at which failoverctl's drill lets a check fail. It is in service nowhere.
pub const DRILL: &str = "/failoverctl-drill-no-such-page";

/// What is recorded on a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The newest lock.
    pub lock: Option<Lock>,
    /// The newest restore, done or begun.
    pub restore: Option<Restore>,
    /// When a person wrote the tag of a restore by hand that is not on record as done: it counts once the path is set
    /// back, within [`BY_HAND_LAPSES`].
    pub by_hand: Option<DateTime<Utc>>,
    /// Whether tags of the former record are there.
    pub former: bool,
}

/// A lock, or the decision to set one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The version that the update made; `None` as long as the lock waits for the secondary.
    pub version: Option<i64>,
    /// Whether its version was found: not the update of who has recorded it has made it, but another's, perhaps a person's.
    pub found: bool,
    /// For a lock that waits: whether one that was set before it has been undone, and no restore has ended that.
    pub undone: bool,
    /// For a lock that waits: the version of the check that was read when it was decided.
    pub on: Option<i64>,
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// When the newest alarm changed that asked for it.
    pub alarm: Option<DateTime<Utc>>,
    /// The `GUARDED_TAG` of the function that recorded it, if it has one.
    pub of: Option<String>,
    /// The path before.
    pub before: Before,
    /// The name of the alarm, or the reason of the person, that first asked for it.
    pub by: String,
}

/// The path that a check had before its lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Before {
    /// It was not seen.
    #[default]
    Unknown,
    /// It does not fit into the tag.
    TooLong,
    /// This one.
    Path(String),
}

/// A restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The version that the update makes.
    pub version: i64,
    /// When the check was read: alarms that changed earlier are harmless.
    pub seen: DateTime<Utc>,
    /// When the path had been set; `None` until then. Of a restore that has found it set: as the restore before has it, or
    /// [`EARLIER`].
    pub done: Option<DateTime<Utc>>,
    /// The path that is set; one that does not fit into the tag ends in [`CUT`].
    pub to: String,
    /// For one that begins where there is no room for two tags: the lock whose tag it takes the place of, by its version,
    /// [`WAITS`] for one that waits, and its newest alarm.
    pub over: Option<(i64, Option<DateTime<Utc>>)>,
    /// A person's reason.
    pub by: String,
    /// Whether it only began, and so long ago that it did not take place: who made its version later made the same
    /// one by chance.
    pub lapsed: bool,
}

/// Whether a check is meant to be in service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// It is.
    In,
    /// It was locked, and no one has restored it.
    Out,
}

/// A tag of this system that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the tag {key} holds {}, which is not what failover-lock writes, or a future time", Quoted(.text))]
pub struct InvalidRecord {
    /// The tag's key.
    pub key: &'static str,
    /// Its value.
    pub text: String,
    /// Whether it holds a time in the future, as it does for a clock that is behind.
    pub is_future: bool,
}

// === impl Record ===

impl Record {
    /// Reads the record in the tags of a check on `path` at `version`, at the time `now`.
    ///
    /// # Errors
    /// A tag of this system cannot be read.
    pub fn read(
        tags: &BTreeMap<String, String>,
        path: &str,
        version: i64,
        locked_path: &str,
        now: DateTime<Utc>,
    ) -> Result<Self, InvalidRecord> {
        let tag = |key| tags.get(key).map(|text| Fields { key, text, now });
        let restore = tag(IN).map(|fields| fields.restore()).transpose()?;
        let lock = tag(OUT).map(|fields| fields.lock()).transpose()?;
        let lock = lock.or_else(|| restore.as_ref().and_then(Restore::replaced));
        let time = |key| tag(key).map(|fields| fields.time(fields.text)).transpose();
        let former = FORMER.iter().any(|key| tags.contains_key(*key));
        let mut record = Self { lock, restore, by_hand: None, former };
        let (locked_at, alarm, restored_at) = (time(LOCKED_AT)?, time(ALARM_CHANGED_AT)?, time(RESTORED_AT)?);
        let is_fresh = |at: &DateTime<Utc>| now - *at <= BY_HAND_LAPSES + BY_HAND_UNSEEN;
        // Over the record of a former version it is how its functions restored.
        let is_former = locked_at.or(alarm).is_some();
        let is_by_hand = record.lock.is_some() || (!is_former && restored_at.as_ref().is_some_and(is_fresh));

        // By a former version of this program, before this one or after it.
        if let Some(at) = locked_at.or(alarm).filter(|at| record.newest().is_none_or(|newest| newest < *at)) {
            // The former record knows no version: whether the lock stands is read from the path.
            let version = Some(if path == locked_path { version } else { version - 1 });
            let (before, by) = (Before::Unknown, tags.get(ALARM).cloned().unwrap_or_default());
            record.lock = Some(Lock {
                version,
                found: false,
                undone: false,
                on: None,
                at,
                alarm,
                of: None,
                before,
                by,
            });
        }
        // A restore in the former record, or one that a person wrote by hand: newer than what is recorded.
        let restored_at = restored_at.filter(|at| record.newest().is_none_or(|newest| newest <= *at));
        let counts = |at: &DateTime<Utc>| {
            !is_by_hand || (is_fresh(at) && record.may_be_restored_by_hand(path, version))
        };
        if record.is_locked(path, version, locked_path) {
            record.by_hand = restored_at;
        } else if let Some(at) = restored_at.filter(counts) {
            let by = "by hand".to_owned();
            // `reconcile` completes one that it sees in time.
            let (done, to) = (Some(at).filter(|_| !is_by_hand), path.to_owned());
            record.restore = Some(Restore { version, seen: at, done, to, over: None, by, lapsed: false });
            record.by_hand = Some(at).filter(|_| is_by_hand);
            if let Some(lock) = &mut record.lock {
                lock.version = lock.version.map(|locked| locked.min(version - 1));
            }
        }
        Ok(record)
    }

    /// Whether a restore by hand that is found on `path` at `version` may be of the newest lock.
    fn may_be_restored_by_hand(&self, path: &str, version: i64) -> bool {
        let Some(lock) = &self.lock else { return true };
        // Of a lock that no one has recorded, for example one by hand, it shows only that the check has changed since the
        // restore of the lock that is on record.
        let is_over = |restore: &Restore| restore.done.is_some() && lock.version < Some(restore.version);
        let is_later = self.restore.as_ref().is_some_and(|it| is_over(it) && it.version < version);
        // Of a lock that was set back and set again the tag may be older than the second one.
        let is_next = lock.version.is_none_or(|locked| locked.saturating_add(1) == version);
        is_later || (is_next && self.intent(path, version) == Intent::Out)
    }

    /// Reads the record without the tags that cannot be read. Returns the first of these as well.
    #[must_use]
    pub fn read_without_invalid(
        tags: &BTreeMap<String, String>,
        path: &str,
        version: i64,
        locked_path: &str,
        now: DateTime<Utc>,
    ) -> (Self, Option<InvalidRecord>) {
        let (mut valid, mut first) = (tags.clone(), None);
        loop {
            match Self::read(&valid, path, version, locked_path, now) {
                // The first write removes those of the former record, readable or not.
                Ok(record) => {
                    let former = FORMER.iter().any(|key| tags.contains_key(*key));
                    return (Self { former, ..record }, first);
                }
                Err(invalid) => {
                    valid.remove(invalid.key);
                    first = first.or(Some(invalid));
                }
            }
        }
    }

    /// When the newest alarm changed for which a lock was set; not one that waits.
    #[must_use]
    pub fn newest_alarm(&self) -> Option<DateTime<Utc>> {
        self.lock.as_ref().filter(|lock| lock.version.is_some())?.alarm
    }

    /// When the newest lock or restore was recorded, in whole seconds.
    fn newest(&self) -> Option<DateTime<Utc>> {
        let locked_at = self.lock.as_ref().map(|lock| lock.at);
        locked_at.max(self.restore.as_ref().map(|restore| restore.seen)).map(|at| at.trunc_subsecs(0))
    }

    /// The restore, if the check on `path` at `version` shows that it took place.
    #[must_use]
    pub fn restored(&self, path: &str, version: i64) -> Option<&Restore> {
        let is_this = |restore: &Restore| restore.version == version && restore.has_set(path);
        let took_place = |restore: &&Restore| restore.done.is_some() || (!restore.lapsed && is_this(restore));
        self.restore.as_ref().filter(took_place)
    }

    /// Whether the check, on `path` at `version`, is meant to be in service.
    #[must_use]
    pub fn intent(&self, path: &str, version: i64) -> Intent {
        let Some(lock) = &self.lock else { return Intent::In };
        let undone = |restore: &Restore| {
            let saw = |alarm: DateTime<Utc>| alarm.trunc_subsecs(0) < restore.seen.trunc_subsecs(0);
            let saw = lock.alarm.is_none_or(saw);
            match (lock.version, lock.on) {
                // One that has only begun may have ended there, and someone else have made the version that it names:
                // it does not undo a lock for an alarm that it has not seen.
                (Some(locked), _) => restore.version > locked && (restore.done.is_some() || saw),
                // A lock that waits has made no version. A restore that made a later one than it was decided on undoes
                // it, unless its alarm is newer than what the restore saw.
                (None, Some(on)) => restore.version > on && saw,
                (None, None) => restore.seen >= lock.at,
            }
        };
        if self.restored(path, version).is_some_and(undone) { Intent::In } else { Intent::Out }
    }

    /// What a restore has seen, of a request that was made at `asked`: one that was made later may have ended before it.
    #[must_use]
    pub fn seen_at_least(&self, asked: DateTime<Utc>) -> DateTime<Utc> {
        let done = self.restore.as_ref().filter(|restore| restore.done.is_some());
        done.map_or(asked, |restore| restore.seen.max(asked))
    }

    /// Whether a lock that was set is on record, and no restore has undone it, whatever the path of the check is now.
    #[must_use]
    pub fn stands(&self, path: &str, version: i64) -> bool {
        let was_set = self.lock.as_ref().is_some_and(Lock::was_set);
        was_set && self.intent(path, version) == Intent::Out
    }

    /// Whether a check on `path` at `version` is locked: it is on the locked path, or no one has changed it since its lock,
    /// whose function had another `LOCKED_PATH`.
    #[must_use]
    pub fn is_locked(&self, path: &str, version: i64, locked_path: &str) -> bool {
        path == locked_path || self.lock.as_ref().is_some_and(|lock| lock.version == Some(version))
    }

    /// Whether the newest version that the record knows is this one, so that no one else has changed the check.
    /// A restore that has only begun does not count: a second one may have made the version that it names.
    #[must_use]
    pub fn is_newest(&self, version: i64) -> bool {
        self.newest_version() == Some(version)
    }

    /// Whether it knows a version that was made after this one, so that the check was read before it.
    #[must_use]
    pub fn is_ahead_of(&self, version: i64) -> bool {
        self.newest_version() > Some(version)
    }

    /// Whether a restore of the check at this version has begun, and may still be under way.
    #[must_use]
    pub fn is_being_restored(&self, version: i64) -> bool {
        let begun = self.restore.as_ref().filter(|restore| restore.done.is_none() && !restore.lapsed);
        begun.is_some_and(|restore| restore.version > version)
    }

    /// The newest version that a lock or a restore which is done has made.
    fn newest_version(&self) -> Option<i64> {
        let locked = self.lock.as_ref().and_then(|lock| lock.version);
        let restored = self.restore.as_ref().filter(|restore| restore.done.is_some());
        locked.max(restored.map(|restore| restore.version))
    }

    /// What is recorded of a check that was never changed: a lock that waits. Each lock that was set and each restore changes
    /// the check, so that another record is of tags that were copied from another check.
    #[must_use]
    pub fn of_one_never_changed(self) -> Self {
        let first = HealthCheck::FIRST_VERSION;
        let waits = |lock: &Lock| lock.version.is_none() && lock.on.is_none_or(|on| on == first);
        Self { lock: self.lock.filter(waits), ..Self::default() }
    }

    /// Whether nothing is recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock.is_none() && self.restore.is_none()
    }
}

// === impl Lock ===

impl Lock {
    /// This lock as it is recorded on a check that was read on `path` at `version`. Of a lock that stands it keeps
    /// who set it, when, and the path from before.
    #[must_use]
    pub fn over(self, record: Option<&Record>, path: Option<&str>, version: i64, locked_path: &str) -> Self {
        let present = path.unwrap_or_default();
        let is_out = |record: &&Record| record.intent(present, version) == Intent::Out;
        let standing = record.filter(is_out).and_then(|record| record.lock.as_ref());
        let is_locked =
            record.map_or(present == locked_path, |record| record.is_locked(present, version, locked_path));
        let before = match path {
            Some(path) if !is_locked && path != DRILL => Before::Path(path.to_owned()),
            // The lock that stands knows, or the restore before it.
            _ => match (standing, record.and_then(|record| record.restored(present, version))) {
                (Some(lock), _) => lock.before.clone(),
                (None, Some(restore)) if restore.to.starts_with('/') && restore.to != locked_path => {
                    restore.before()
                }
                (None, _) => Before::Unknown,
            },
        };
        let kept = standing.filter(|lock| is_locked && lock.is_of(version));
        let made = standing.is_some_and(|lock| lock.version == self.version && !lock.found);
        let is_undone = standing.is_some_and(Lock::was_set) && !is_locked;
        Self {
            found: self.found && !made,
            undone: self.version.is_none() && is_undone,
            at: kept.map_or(self.at, |lock| lock.at),
            alarm: self.alarm.max(standing.and_then(|lock| lock.alarm)),
            // A person's lock over that of a stack leaves it the stack's, which reports it and may restore it.
            of: self.of.or_else(|| standing.and_then(|lock| lock.of.clone())),
            // A person's reason to keep it out takes the place of an alarm.
            by: standing
                .filter(|lock| kept.is_some() || (is_locked && is_by_hand(&lock.by) && is_found(&self.by)))
                .filter(|lock| !lock.by.is_empty() && (!is_by_hand(&self.by) || is_by_hand(&lock.by)))
                .map_or(self.by, |lock| lock.by.clone()),
            before,
            ..self
        }
    }

    /// Whether it was set, or one before it that no restore has ended.
    pub(super) fn was_set(&self) -> bool {
        self.version.is_some() || self.undone
    }

    /// Whether it is taken for the lock that a check at `version` has. A change of another attribute makes one version; to be
    /// set back and locked again makes two, as do two changes between two ticks.
    #[must_use]
    pub fn is_of(&self, version: i64) -> bool {
        self.version.is_some_and(|locked| locked.saturating_add(1) >= version)
    }

    /// Whether this alarm is its cause: its name would be recorded as it is, cut to what fits and without some characters.
    #[must_use]
    pub fn is_by(&self, alarm: &str) -> bool {
        !self.by.is_empty() && Self { by: alarm.to_owned(), ..self.clone() }.tag() == self.tag()
    }

    /// Whether it stands for this alarm: that is its cause, or was in ALARM when a lock was found that no function had recorded.
    #[must_use]
    pub fn answers(&self, alarm: &str) -> bool {
        self.is_by(alarm) || self.is_by(&found_for(alarm))
    }

    /// Whether no function with a `GUARDED_TAG` has recorded it, and this tag fits into the record beside the path from before.
    #[must_use]
    pub fn can_be_owned_by(&self, tag: String) -> bool {
        let owned = Self { of: Some(tag), ..self.clone() };
        let fits = |owner: String| owned.path_field(owner.len()) == self.path_field(0);
        self.of.is_none() && owned.owner_field().is_some_and(fits)
    }

    /// The characters that there are for the fields before the free text, of which the beginning says what has set the lock.
    fn room(&self) -> usize {
        let beginning = cause::beginning(&self.by).map_or(0, str::len);
        FIELDS - beginning
    }

    /// What the tag's value begins with.
    fn start(&self) -> String {
        let how = match (self.found, self.undone) {
            (true, _) => " found=1",
            (false, true) => " undone=1",
            (false, false) => "",
        };
        let mut text = format!("v={}{how} at={}", self.version.unwrap_or(WAITS), seconds(self.at));
        if let Some(on) = self.on {
            let _ = write!(text, " on={on}");
        }
        if let Some(alarm) = self.alarm {
            let _ = write!(text, " alarm={}", milliseconds(alarm));
        }
        text
    }

    /// The path from before as the tag's value has it, beside an owner of so many characters.
    fn path_field(&self, owner: usize) -> Option<String> {
        let before = match &self.before {
            Before::Unknown => return None,
            Before::TooLong => TOO_LONG.to_owned(),
            Before::Path(path) => escaped(path),
        };
        let fits = self.start().len() + owner + " before=".len() + before.len() <= self.room();
        Some(format!(" before={}", if fits { &before } else { TOO_LONG }))
    }

    /// The `GUARDED_TAG` as the tag's value has it, if it fits. A path has to give way: without its owner, a lock whose check
    /// loses its tag would be no one's; without its path, a restore asks for it.
    fn owner_field(&self) -> Option<String> {
        let owner = self.of.as_deref().map(|of| format!(" of={}", escaped(of)))?;
        let path = " before=".len() + TOO_LONG.len();
        (self.start().len() + owner.len() + path <= self.room()).then_some(owner)
    }

    /// The tag's value.
    #[must_use]
    pub fn tag(&self) -> String {
        let (mut text, owner) = (self.start(), self.owner_field().unwrap_or_default());
        text += &owner;
        text.extend(self.path_field(owner.len()));
        with_reason(text, &self.by)
    }
}
