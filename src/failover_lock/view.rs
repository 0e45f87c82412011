//! The observation: what `lock`, `reconcile` and `restore` read before they decide.
//!
//! What is good to know never holds up a lock: it is read for a short time, and a failure to read it is a
//! warning that says what is assumed instead.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join3;
use futures_util::stream::{self, StreamExt as _};
use tracing::warn;

use super::FailoverLock;
use super::alarm::HoldsBack;
use super::decide::{self, Health};
use super::health_check::{HealthCheck, HealthCheckId};
use super::record::{Intent, InvalidRecord, RESTORED_AT, Record};
use super::route53::{Checkers, MOST_TAGGED};
use crate::remote::aws::Failure;
use crate::remote::deadline::{Deadline, MayPass as _};

/// Reading what is good to know gets at most this long, and never more than half of the time that is left.
const GOOD_TO_KNOW: Duration = Duration::from_secs(2);

/// How many pages are read at once: Route 53 allows an account a burst of 50 calls and 10 a second after it.
const PAGES_AT_ONCE: usize = 5;

/// A check's tags, by key.
pub(super) type Tags = BTreeMap<String, String>;

/// The tags of these checks, ten at a time. A check that is missing in the answer is read by itself.
pub(super) async fn tags_of(
    system: &FailoverLock,
    ids: &[HealthCheckId],
    deadline: Deadline,
) -> BTreeMap<HealthCheckId, Tags> {
    if ids.len() < 2 {
        return BTreeMap::new();
    }
    let pages = ids.chunks(MOST_TAGGED).map(|ids| async move {
        let tags = system.route53.tags_of(ids, deadline).await;
        tags.unwrap_or_else(|failure| {
            warn!(error = %failure, "reading the tags check by check");
            BTreeMap::new()
        })
    });
    stream::iter(pages).buffer_unordered(PAGES_AT_ONCE).concat().await.into_iter().collect()
}

/// What is recorded in these tags of a check.
pub(super) fn record(
    system: &FailoverLock,
    tags: &Tags,
    check: &HealthCheck,
) -> Result<Record, InvalidRecord> {
    let (path, locked_path) = (check.path().unwrap_or_default(), system.config.locked_path.as_str());
    Record::read(tags, path, check.version, locked_path, system.clock.now())
}

/// What is recorded in these tags; a tag that cannot be read counts as none. `check` is `None` if it could not be read.
pub(super) fn valid_record(
    system: &FailoverLock,
    id: &HealthCheckId,
    tags: &Tags,
    check: Option<&HealthCheck>,
) -> Record {
    let (path, version) = check.map_or(("", 0), |check| (check.path().unwrap_or_default(), check.version));
    let (locked_path, now) = (system.config.locked_path.as_str(), system.clock.now());
    let (record, invalid) = Record::read_without_invalid(tags, path, version, locked_path, now);
    if let Some(invalid) = invalid {
        warn!(healthCheckId = %id, error = %invalid, "this tag counts as none");
    }
    record
}

/// Whether a check is this function's to restore and to report: it has the tag of `GUARDED_TAG`, or this function
/// has locked it and it was not restored since. It is locked only with its tag.
pub(super) fn guards(system: &FailoverLock, tags: &Tags, check: &HealthCheck, record: &Record) -> bool {
    let of = record.lock.as_ref().filter(|lock| lock.version.is_some()).and_then(|lock| lock.of.clone());
    let is_own = || of.is_some() && of == system.config.guarded_tag.as_ref().map(ToString::to_string);
    system.config.guards_tagged(tags) || (is_own() && is_out(check, record))
}

/// Whether a check is on the locked path, and no lock on record stands there.
pub(super) fn is_unrecorded(system: &FailoverLock, check: &HealthCheck, record: &Record) -> bool {
    check.path() == Some(system.config.locked_path.as_str()) && !is_out(check, record)
}

/// Whether a check is meant to be out of service.
pub(super) fn is_out(check: &HealthCheck, record: &Record) -> bool {
    record.intent(check.path().unwrap_or_default(), check.version) == Intent::Out
}

/// Whether a lock that was set is on record, and no restore has undone it.
pub(super) fn stands(check: &HealthCheck, record: &Record) -> bool {
    record.stands(check.path().unwrap_or_default(), check.version)
}

/// Whether `lock` need not read a check's tags: no restore and no lock that was set is recorded on it, since each changes
/// the check as well, and it is not guarded by a tag. A lock that waits may be.
pub(super) fn was_never_ours(system: &FailoverLock, check: &HealthCheck) -> bool {
    let locked = check.path() == Some(system.config.locked_path.as_str());
    check.was_never_changed() && !locked && system.config.guarded_tag.is_none()
}

/// What Route 53's checkers find of a check now.
pub(super) async fn health(system: &FailoverLock, id: &HealthCheckId, deadline: Deadline) -> Health {
    let checkers = Box::pin(system.route53.checkers(id, shortly(deadline))).await;
    let checkers = or_warn(id, checkers, "not knowing whether Route 53's checkers find it healthy");
    checkers.map_or(Health::Unknown, Checkers::verdict)
}

/// Whether the secondary of a check is healthy; `None` if it has none, or if that could not be read.
///
/// Route 53's own verdict is its metric, which knows about inverted, disabled and calculated checks. Where
/// there is none, what the checkers report counts.
pub(super) async fn secondary_is_healthy(
    system: &FailoverLock,
    id: &HealthCheckId,
    deadline: Deadline,
) -> Option<bool> {
    let secondary = system.config.secondaries.get(id)?;
    let deadline = shortly(deadline);
    let verdict = system.cloudwatch.verdict(secondary, deadline);
    let reports = system.route53.is_healthy(secondary, deadline);
    match Box::pin(join3(verdict, reports, is_just_locked(system, secondary, deadline))).await {
        (_, _, true) => Some(false),
        (Ok(Some(healthy)), _, _) => Some(healthy),
        (_, reports, _) => {
            let healthy = or_warn(id, reports, "taking the secondary for healthy")?;
            Some(healthy || !Box::pin(counts_its_checkers(system, secondary, deadline)).await)
        }
    }
}

/// Whether Route 53's verdict on a check is certainly what its checkers find: not, if it is inverted or disabled.
async fn counts_its_checkers(system: &FailoverLock, id: &HealthCheckId, deadline: Deadline) -> bool {
    let check = system.route53.health_check(id, deadline).await;
    let check = or_warn(id, check, "taking the secondary for healthy");
    check.is_some_and(|check| !check.inverted && !check.disabled)
}

/// Whether a secondary that is a primary itself was locked so short a time ago that Route 53's verdict may not show it yet.
async fn is_just_locked(system: &FailoverLock, secondary: &HealthCheckId, deadline: Deadline) -> bool {
    if !system.config.guards(secondary) {
        return false;
    }
    let read = async {
        let check = system.route53.health_check(secondary, deadline).await?;
        if check.path() != Some(system.config.locked_path.as_str()) {
            return Ok(false);
        }
        let record =
            record(system, &system.route53.tags(secondary, deadline).await?, &check).unwrap_or_default();
        let at = record.lock.filter(|lock| lock.is_of(check.version)).map(|lock| lock.at);
        Ok(at.is_some_and(|at| system.clock.now() - at < decide::MUST_FAIL.max(check.turns_within)))
    };
    or_warn(secondary, read.await, "taking the secondary for one that was not just locked").unwrap_or(false)
}

/// Makes a restore by hand whose time is in the future unreadable for good, so that it does not come into force then: no one
/// knows what it is about.
pub(super) async fn void(
    system: &FailoverLock,
    check: &HealthCheck,
    tags: &Tags,
    future: &InvalidRecord,
    deadline: Deadline,
) {
    if future.key == RESTORED_AT && !system.config.dry_run && guards(system, tags, check, &Record::default())
    {
        let text = format!("in the future when it was read: {}", future.text);
        let voided = system.route53.tag(&check.id, RESTORED_AT, text, Vec::new(), deadline).await;
        or_warn(&check.id, voided, "the restore by hand counts from its time on");
    }
}

/// Whether a mute rule holds an alarm's actions back now: not, if AWS refuses to say.
///
/// # Errors
/// It could not be read. Someone may be at work on the primary, and the next tick comes in a minute.
pub(super) async fn is_muted(
    system: &FailoverLock,
    id: &HealthCheckId,
    alarm: &str,
    deadline: Deadline,
) -> Result<bool, Failure> {
    match Box::pin(system.cloudwatch.is_muted(alarm, deadline)).await {
        Err(failure) if !failure.may_pass() => {
            warn!(healthCheckId = %id, error = %failure, "taking the alarm for one that is not muted");
            Ok(false)
        }
        muted => muted,
    }
}

/// What CloudWatch says against a lock, for an alarm whose message lacks its comparison.
pub(super) async fn holds_back(
    system: &FailoverLock,
    id: &HealthCheckId,
    alarm: &str,
    deadline: Deadline,
) -> Option<HoldsBack> {
    let recovery = Box::pin(system.cloudwatch.goes_off_on_recovery(alarm, shortly(deadline))).await;
    let recovery = or_warn(id, recovery, "taking the alarm for one that goes off on a failure")?;
    recovery.then_some(HoldsBack::Recovery)
}

pub(super) fn shortly(deadline: Deadline) -> Deadline {
    deadline.within(GOOD_TO_KNOW.min(deadline.left() / 2))
}

pub(super) fn or_warn<T>(id: &HealthCheckId, result: Result<T, Failure>, consequence: &str) -> Option<T> {
    result.map_err(|failure| warn!(healthCheckId = %id, error = %failure, "{consequence}")).ok()
}
