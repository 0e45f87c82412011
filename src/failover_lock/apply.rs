//! The effect: does to a health check what was decided about it, then records it.
//!
//! The path first: a lock waits for no note. What a lost record costs is little, because the path on its
//! new version shows the lock and `reconcile` records it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::sleep;
use tracing::{info, warn};

use super::FailoverLock;
use super::decide::{self, Decision};
use super::error::Error;
use super::health_check::{HealthCheck, HealthCheckId};
use super::outcome::{Note, Outcome, Verdict};
use super::reason::Reason;
use super::record::{self, BY_HAND_LAPSES, Before, Lock, Record, Restore};
use super::view::{self, Tags, or_warn};
use crate::remote::aws::{Failure, Kind};
use crate::remote::deadline::Deadline;

/// Recording what was done is tried for so long: the lock stands without it, and `reconcile` makes
/// up for what is missing.
const RECORDING: Duration = Duration::from_secs(10);

/// How long the record of another execution's lock may take after its update, and how often it is looked for.
pub(super) const OTHERS: Duration = Duration::from_secs(4);
const LOOK: Duration = Duration::from_millis(500);

/// Why a check is locked.
#[derive(Clone, Debug)]
pub(super) struct Cause {
    /// The alarm's name.
    pub alarm: String,
    /// When it changed, if that is known.
    pub changed_at: Option<DateTime<Utc>>,
}

/// Where a lock stands that is recorded.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stands {
    /// Nowhere yet: it waits for the secondary.
    Waits,
    /// At the version that the update of who records it has made.
    Made(i64),
    /// At a version that another may have made.
    Found(i64),
}

/// A check as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub id: &'a HealthCheckId,
    /// `None` if it could not be read.
    pub check: Option<&'a HealthCheck>,
    /// `None` if it could not be read.
    pub record: Option<&'a Record>,
    /// `None` if they were not read.
    pub tags: Option<&'a Tags>,
}

/// Does what was decided about a check as it was read.
pub(super) async fn act(
    system: &FailoverLock,
    cause: &Cause,
    target: Target<'_>,
    decision: Decision,
    deadline: Deadline,
) -> Result<Outcome, Error> {
    let FailoverLock { config, route53, .. } = system;
    let Target { id, check, .. } = target;
    let path = check.and_then(HealthCheck::path);
    let on_locked_path = |outcome, version| Outcome {
        previous_path: path.map(str::to_owned),
        path: Some(config.locked_path.as_str().to_owned()),
        version,
        alarm: Some(cause.alarm.clone()),
        ..Outcome::new(Some(id), outcome)
    };
    match decision {
        Decision::Ignore(reason) => Ok(cause.not_locked(Some(id), Verdict::Ignored, reason)),
        Decision::Defer(reason) if config.dry_run => {
            // Nothing is on record, and so nothing waits.
            let deferred = cause.not_locked(Some(id), Verdict::Deferred, reason);
            Ok(Outcome { notes: Some(Note::DryRun), ..deferred })
        }
        Decision::Defer(reason) => {
            // A lock that waits is recorded, so that it is not forgotten when the alarm is OK first.
            // Without its record it would be: then this invocation fails, and the alarm comes again.
            if !target.waits_for(cause) {
                Box::pin(record(system, cause, target, Stands::Waits, deadline))
                    .await
                    .map_err(Error::NotDeferred)?;
            }
            Ok(cause.not_locked(Some(id), Verdict::Deferred, reason))
        }
        Decision::AlreadyLocked => {
            let outcome = on_locked_path(Verdict::AlreadyLocked, check.map(|check| check.version));
            Ok(Outcome { path: outcome.previous_path.clone(), ..outcome })
        }
        Decision::Touch { version } if config.dry_run => {
            Ok(on_locked_path(Verdict::AlreadyLocked, Some(version)))
        }
        Decision::Touch { version } => {
            let set = route53.set_path(id, &config.locked_path, Some(version), deadline).await?;
            let version = set.check.version;
            if set.perhaps_by_another {
                record_lock(system, cause, target.unread(), Stands::Found(version), deadline).await;
            } else {
                record_lock(system, cause, target, Stands::Made(version), deadline).await;
            }
            Ok(on_locked_path(Verdict::AlreadyLocked, Some(version)))
        }
        Decision::Lock { version } if config.dry_run => Ok(on_locked_path(Verdict::WouldLock, version)),
        Decision::Lock { version } => {
            if let Some(path) = path.filter(|path| *path != config.healthy_path.as_str()) {
                warn!(healthCheckId = %id, path, "locking a check that is on neither path of this function; a restore sets this path again");
            }
            // Without a version, no conflict shows a restore between two tries: the caller looks for one before the next.
            let patience = if version.is_some() { deadline } else { deadline.with_tries(1) };
            let set = route53.set_path(id, &config.locked_path, version, patience).await?;
            let locked = set.check;
            let version = locked.version;
            if set.perhaps_by_another {
                // What another one has recorded was not read. A person wants it out, whoever was first.
                let by_hand = record::is_by_hand(&cause.alarm);
                let by = if by_hand { cause.alarm.clone() } else { record::found_for(&cause.alarm) };
                let found = Cause { alarm: by, ..cause.clone() };
                record_lock(system, &found, target.unread(), Stands::Found(version), deadline).await;
            } else {
                record_lock(system, cause, target, Stands::Made(version), deadline).await;
            }
            // A check that could not be read before is seen here for the first time.
            if let Err(cannot) = decide::can_hold(&locked) {
                warn!(healthCheckId = %id, error = %cannot, "the path was set without reading the check first, and no lock holds on it: set its path back by hand");
                let reason = Some(Reason::from(&cannot));
                return Ok(Outcome { reason, ..on_locked_path(Verdict::LockedInVain, Some(locked.version)) });
            }
            Ok(on_locked_path(Verdict::Locked, Some(version)))
        }
    }
}

/// Records a lock that was set, best effort.
async fn record_lock(
    system: &FailoverLock,
    cause: &Cause,
    target: Target<'_>,
    stands: Stands,
    deadline: Deadline,
) {
    let result = Box::pin(record(system, cause, target, stands, deadline.within(RECORDING))).await;
    or_warn(target.id, result, "the lock could not be recorded; reconcile records it if the path shows it");
}

/// Records a lock.
async fn record(
    system: &FailoverLock,
    cause: &Cause,
    target: Target<'_>,
    stands: Stands,
    deadline: Deadline,
) -> Result<(), Failure> {
    let Target { id, check, record, .. } = target;
    let version = stands.version();
    let again = match (check, record) {
        (Some(check), Some(read)) if view::is_unrecorded(system, check, read) => {
            let again = recorded_by_another(system, check, deadline).await;
            if again.as_ref().is_some_and(|(record, _)| record.restore != read.restore) {
                info!(healthCheckId = %id, "a restore is on record since: this lock is not recorded over it");
                return Ok(());
            }
            again
        }
        (_, Some(_)) => None,
        // Without the record that stands, a new one would lose the path from before.
        (_, None) => match system.route53.tags(id, deadline.within(deadline.left() / 2)).await {
            Ok(tags) => Some((view::valid_record(system, id, &tags, check), tags)),
            Err(failure) if may_record_unread(system, check, version, &failure) => None,
            Err(failure) => return Err(failure),
        },
    };
    let is_this = |lock: &Lock| lock.version == version && lock.before != Before::Unknown;
    let on_record = again.as_ref().and_then(|(record, _)| record.lock.as_ref());
    let by_hand = record::is_by_hand(&cause.alarm);
    if target.record.is_none() && version.is_some() && on_record.is_some_and(is_this) && !by_hand {
        info!(healthCheckId = %id, "another execution has recorded this lock");
        return Ok(());
    }
    let target = again.as_ref().map_or(target, |(record, tags)| Target {
        record: Some(record),
        tags: Some(tags),
        ..target
    });
    write(system, cause, target, stands, deadline).await
}

/// Whether a lock that made this version is recorded although the tags could not be read: none can ever be read, there is
/// no other record, or the path from before was seen.
fn may_record_unread(
    system: &FailoverLock,
    check: Option<&HealthCheck>,
    version: Option<i64>,
    failure: &Failure,
) -> bool {
    let path = check.and_then(HealthCheck::path);
    failure.kind() == Kind::Denied
        || version == Some(HealthCheck::FIRST_VERSION + 1)
        || path.is_some_and(|path| path != system.config.locked_path.as_str())
}

/// Records a lock over what is on record.
pub(super) async fn write(
    system: &FailoverLock,
    cause: &Cause,
    target: Target<'_>,
    stands: Stands,
    deadline: Deadline,
) -> Result<(), Failure> {
    let Target { id, check, record, tags } = target;
    let version = stands.version();
    let config = &system.config;
    let now = system.clock.now();
    let on = check.map(|check| check.version).filter(|_| version.is_none());
    // A restore by hand that is under way is of this lock: it is not recorded as a newer one.
    let is_under_way = |at: &DateTime<Utc>| Some(*at) > cause.changed_at && now - *at <= BY_HAND_LAPSES;
    let by_hand = record.and_then(|record| record.by_hand).filter(is_under_way);
    let lock = Lock {
        version,
        found: matches!(stands, Stands::Found(_)),
        undone: false,
        on,
        at: by_hand.map_or(now, |by_hand| by_hand.min(now)),
        // A message may claim a future time; it is not recorded.
        alarm: cause.changed_at.map(|at| at.min(now)),
        of: config.guarded_tag.as_ref().map(ToString::to_string),
        before: Before::Unknown,
        by: cause.alarm.clone(),
    };
    let (path, read) = (check.and_then(HealthCheck::path), check.map_or(0, |check| check.version));
    let lock = lock.over(record, path, read, config.locked_path.as_str());
    // Where there is no room for two tags, the newer one replaces the other: a lock needs no restore's.
    let full = tags.is_some_and(|tags| record::has_no_room(tags, record::OUT));
    // A restore by hand of a check that has changed since its lock may have been used up by that, and a person's lock ends
    // one, whatever the clock that wrote its tag.
    let has_changed = record.and_then(|record| record.lock.as_ref()?.version).is_some_and(|it| it < read);
    let ends_restores = has_changed || record::is_by_hand(&cause.alarm);
    let since = if ends_restores { Some(DateTime::<Utc>::MAX_UTC) } else { cause.changed_at };
    let removed = record::removed(record, since, full.then_some(record::IN));
    system.route53.record_lock(id, &lock, removed, deadline).await
}

/// Waits for the record of a lock that another execution may just have set: it alone knows the path from before.
async fn recorded_by_another(
    system: &FailoverLock,
    check: &HealthCheck,
    deadline: Deadline,
) -> Option<(Record, Tags)> {
    let end = deadline.within(OTHERS);
    loop {
        sleep(LOOK).await;
        let tags = system.route53.tags(&check.id, view::shortly(deadline)).await.ok()?;
        let record = view::record(system, &tags, check).ok()?;
        if !view::is_unrecorded(system, check, &record) || end.left() < LOOK {
            return Some((record, tags));
        }
    }
}

/// The record, with a restore that took place on record as done: it is recognised by its version for some minutes only. And
/// whether it was one by hand.
pub(super) async fn completed(
    system: &FailoverLock,
    check: &HealthCheck,
    path: &str,
    mut record: Box<Record>,
    deadline: Deadline,
) -> (Box<Record>, bool) {
    let by_hand = record.by_hand.is_some();
    // The tag alone does not undo a lock that waits: the path that is set after it does. Nor does a restore that has only
    // begun undo one for an alarm that it has not seen.
    let undoes = !view::is_out(check, &record);
    let begun = record.restored(path, check.version).filter(|restore| restore.done.is_none() && undoes);
    let Some(begun) = begun.filter(|_| !system.config.dry_run) else { return (record, false) };
    // When the path was set by hand is not known: after the tag.
    let at = if by_hand { begun.seen } else { system.clock.now() };
    let done = Restore { done: Some(at), over: None, ..begun.clone() };
    let removed = record::removed(Some(&record), Some(done.seen), None);
    let result = system.route53.record_restore(&check.id, &done, removed, deadline).await;
    let recorded = or_warn(
        &check.id,
        result,
        "the path is restored, and not on record as done: the next tick tries again",
    );
    if recorded.is_some() {
        (record.restore, record.by_hand) = (Some(done), None);
    }
    (record, by_hand && recorded.is_some())
}

/// The record, without a restore by hand that was not finished: its tag is removed, so that a later change of the path by
/// someone else counts as none.
pub(super) async fn without_abandoned(
    system: &FailoverLock,
    check: &HealthCheck,
    mut record: Box<Record>,
    deadline: Deadline,
) -> Box<Record> {
    let is_old = |at: &DateTime<Utc>| system.clock.now() - *at > BY_HAND_LAPSES;
    let path = check.path().unwrap_or_default();
    let is_locked = record.is_locked(path, check.version, system.config.locked_path.as_str());
    if is_locked && !system.config.dry_run && record.by_hand.as_ref().is_some_and(is_old) {
        warn!(healthCheckId = %check.id, "a restore by hand was not finished: its tag is removed");
        let removed = system.route53.remove_tag(&check.id, record::RESTORED_AT, deadline).await;
        if or_warn(&check.id, removed, "its tag stays: the next tick tries again").is_some() {
            record.by_hand = None;
        }
    }
    record
}

// === impl Cause ===

impl Cause {
    pub fn not_locked(&self, id: Option<&HealthCheckId>, outcome: Verdict, reason: Reason) -> Outcome {
        Outcome { reason: Some(reason), alarm: Some(self.alarm.clone()), ..Outcome::new(id, outcome) }
    }
}

// === impl Stands ===

impl Stands {
    /// The version; `None` for a lock that waits.
    fn version(self) -> Option<i64> {
        match self {
            Self::Waits => None,
            Self::Made(version) | Self::Found(version) => Some(version),
        }
    }
}

// === impl Target ===

impl Target<'_> {
    /// The same, as if nothing recorded on it had been read.
    fn unread(self) -> Self {
        Self { record: None, tags: None, ..self }
    }

    /// Whether it is on record that a lock waits for this alarm.
    fn waits_for(self, cause: &Cause) -> bool {
        let waits = |record: &&Record| record.lock.as_ref().is_some_and(|lock| lock.version.is_none());
        let record = self.record.filter(waits);
        record.is_some_and(|record| cause.changed_at.is_none_or(|at| decide::is_known(at, record)))
    }
}
