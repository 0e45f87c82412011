//! Restores a locked check, when a person says so.

use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, Utc};
use tokio::time::timeout;
use tracing::{info, warn};

use super::decide::{self, Refusal, Release};
use super::error::{Error, FailedRecord};
use super::health_check::{HealthCheck, HealthCheckId, ResourcePath};
use super::outcome::{Outcome, Verdict};
use super::reason::Reason;
use super::record::{self, Lock, Record, Restore};
use super::request::Request;
use super::view::{self, Tags, or_warn};
use super::{FailoverLock, probe};
use crate::remote::aws::Kind;
use crate::remote::deadline::{Deadline, MayPass as _};

/// The longest pause before a call is made again.
const SOON: Duration = Duration::from_millis(200);

/// What a person has to do: after some minutes the path counts as set back by someone else.
const NOT_RECORDED: &str = "the path is restored, and not on record as done: repeat the request";

/// Handles one request.
pub(super) async fn restore(
    system: &FailoverLock,
    request: &str,
    deadline: Deadline,
) -> Result<Outcome, FailedRecord> {
    let request = Request::read(request).map_err(|error| FailedRecord::of(None, error))?;
    let id = request.which(&system.config).map_err(|error| FailedRecord::of(None, error))?;
    restore_check(system, &request, &id, deadline).await.map_err(|error| FailedRecord::of(Some(id), error))
}

/// Reads the check, decides, asks the primary, acts; and starts again when someone changed the check meanwhile who has
/// recorded that.
async fn restore_check(
    system: &FailoverLock,
    request: &Request,
    id: &HealthCheckId,
    deadline: Deadline,
) -> Result<Outcome, Error> {
    let FailoverLock { config, route53, .. } = system;
    // A person is waiting: where others meet Route 53's limit, these calls come again sooner.
    let deadline = deadline.with_pauses(SOON);
    if !config.guards(id) {
        return Err(Refusal::NotGuarded.into());
    }
    // An alarm that changes from here on is newer than the request, also where it has to start again.
    let seen = system.clock.now();
    let mut looked_at = None;
    let read_decide_act = async |_| {
        let check = route53.health_check(id, deadline).await?;
        let Recorded { record, tags, invalid } = recorded(system, request, &check, seen, deadline).await?;
        let seen = record.seen_at_least(seen);
        let (first, known) = *looked_at.get_or_insert((check.version, record.newest_alarm()));
        if let Some(seen) = request.version.filter(|seen| *seen != first) {
            return Err(Refusal::Changed { seen, now: first }.into());
        }
        let asked = request.path.as_ref().map(ResourcePath::as_str);
        let decision = decide::restore(&check, &record, asked, config)?;
        let is_told = request.version.is_none() && shows_change(&record, first, check.version, known);
        if first != check.version && !is_told && matches!(decision, Release::Restore(_)) {
            return Err(Refusal::Changed { seen: first, now: check.version }.into());
        }
        log_decision(id, request, &decision);
        let dry_run = config.dry_run || request.dry_run;
        let outcome = |outcome, to: &str, version| Outcome {
            previous_path: check.path().map(str::to_owned),
            path: Some(to.to_owned()),
            version: Some(version),
            // Then the path is not what decides.
            reason: decide::can_hold(&check).err().map(|cannot| Reason::from(&cannot)),
            ..Outcome::new(Some(id), outcome)
        };
        // Where there is no room for two tags, the newer one replaces the other.
        let full = record::has_no_room(&tags, record::IN) && tags.contains_key(record::OUT);
        let mut removed = record::removed(Some(&record), Some(seen), full.then_some(record::OUT));
        let unreadable = invalid.filter(|key| !removed.iter().any(|known| known == key));
        removed.extend(unreadable.map(str::to_owned));
        if record::has_no_room(&tags, record::IN) && !full {
            return Err(Error::NoRoom);
        }
        let (to, verdict) = match &decision {
            Release::AlreadyRestored => {
                (resource_path(check.path().unwrap_or_default())?, Verdict::AlreadyRestored)
            }
            Release::Restore(path) => (resource_path(path)?, Verdict::Restored),
        };
        if verdict == Verdict::Restored && !request.force {
            ask_primary(&check, &to, deadline).await?;
        }
        if dry_run {
            // Nothing is recorded either.
            return Ok(outcome(Verdict::WouldRestore, to.as_str(), check.version));
        }
        // The primary may have taken its time: what others have recorded meanwhile is not overwritten.
        if matches!(route53.tags(id, deadline).await, Ok(now) if now != tags) {
            return Err(Error::Stale);
        }
        // First the record, then the path: an alarm from before that is delivered in between must not lock again, and if
        // only one of the two can be done, it is the harmless one. The lock's tag stays until the path is set. Where there
        // is no room for both tags, the restore's keeps the lock's version and alarm, by which a set-back by hand is told.
        // A check in service is on record as restored, then gets a new version on the same path: a lock that is under way
        // meets a conflict, and decides again with what is recorded here.
        let restore = Restore {
            version: check.version + 1,
            seen,
            done: None,
            to: to.as_str().to_owned(),
            over: None,
            by: request.reason.clone().unwrap_or_default(),
            lapsed: false,
        };
        let undoes = verdict == Verdict::Restored || view::is_out(&check, &record);
        let fits = record::fits_beside(&tags, record::IN);
        let replaced = if fits { Vec::new() } else { removed.clone() };
        let lock = record.lock.as_ref().map(|lock| (lock.version.unwrap_or(record::WAITS), lock.alarm));
        // A try before this one may have taken the place of the lock's tag already.
        let alone = !fits || !tags.contains_key(record::OUT);
        let beginning = Restore { over: lock.filter(|_| alone), ..restore.clone() };
        let begins = undoes && (fits || lock.is_some());
        // Only a restore that changes the path makes the datapoints before it those of the lock.
        let set_before = || record.set_before(check.path().unwrap_or_default(), check.version, seen);
        if begins {
            route53.record_restore(id, &beginning, replaced.clone(), deadline).await?;
        } else if !undoes {
            let restore = Restore { version: check.version, done: Some(set_before()), ..restore.clone() };
            route53.record_restore(id, &restore, removed.clone(), deadline).await?;
        }
        let restored = match route53.set_path(id, &to, Some(check.version), deadline).await {
            // This answer was lost, and another has changed it since: whether this update took place is not known.
            Ok(later) if later.check.version > restore.version => return Err(Error::Stale),
            Ok(restored) => restored.check,
            Err(failure) => {
                if begins && !failure.may_pass() && !failure.may_be_done() {
                    // It certainly did not take place.
                    let undone = route53.forget_restore(id, &beginning, &tags, &replaced, deadline).await;
                    or_warn(id, undone, "the restore that failed stays on record as begun, and lapses");
                }
                return Err(failure.into());
            }
        };
        let at = if verdict == Verdict::AlreadyRestored { set_before() } else { system.clock.now() };
        let done = Restore { done: Some(at), ..restore };
        let recorded = route53.record_restore(id, &done, removed, deadline).await;
        if verdict == Verdict::AlreadyRestored {
            // The record is all that it was for.
            recorded?;
        } else if or_warn(id, recorded, NOT_RECORDED).is_none() {
            let restored = outcome(verdict, to.as_str(), restored.version);
            return Ok(Outcome { reason: Some(Reason::NotRecorded), ..restored });
        }
        Ok(outcome(verdict, to.as_str(), restored.version))
    };
    deadline.persist(read_decide_act).await
}

/// Whether the record shows that a lock for an alarm newer than the one `known` first, and nothing else, has changed the check since
/// its `first` version: that is the failure which this restore ends. Who has locked it and is not on record yet may have done so for
/// a newer alarm; a person does not mean that failure, and a tick that finds a person's change records it for the alarm from before.
fn shows_change(record: &Record, first: i64, version: i64, known: Option<DateTime<Utc>>) -> bool {
    let is_alarms = |lock: &Lock| {
        lock.alarm > known && !lock.found && !record::is_by_hand(&lock.by) && !record::is_found(&lock.by)
    };
    let is_recorded = |lock: &Lock| lock.version == Some(version) && is_alarms(lock);
    version == first + 1 && record.lock.as_ref().is_some_and(is_recorded)
}

/// A check's tags, and what is recorded in them.
#[derive(Default)]
struct Recorded {
    record: Record,
    tags: Tags,
    /// The key of a tag that cannot be read, and goes with the restore.
    invalid: Option<&'static str>,
}

/// What is recorded on the check. A tag that cannot be read counts as none: a restore replaces it.
async fn recorded(
    system: &FailoverLock,
    request: &Request,
    check: &HealthCheck,
    seen: DateTime<Utc>,
    deadline: Deadline,
) -> Result<Recorded, Error> {
    let FailoverLock { config, route53, .. } = system;
    let id = &check.id;
    let tags = match route53.tags(id, deadline).await {
        Ok(tags) => tags,
        // The record is needed for the path from before, and the request names one.
        Err(denied)
            if denied.kind() == Kind::Denied && request.path.is_some() && config.guarded_tag.is_none() =>
        {
            warn!(healthCheckId = %id, error = %denied, "restoring without reading what is recorded");
            return Ok(Recorded::default());
        }
        Err(failure) => return Err(failure.into()),
    };
    let (path, locked_path) = (check.path().unwrap_or_default(), config.locked_path.as_str());
    let now = system.clock.now();
    let (record, invalid) = Record::read_without_invalid(&tags, path, check.version, locked_path, now);
    // The restore's own is replaced.
    let key = invalid.as_ref().map(|invalid| invalid.key).filter(|key| *key != record::IN);
    match invalid {
        Some(future) if future.is_future && !(request.force && request.path.is_some()) => {
            return Err(Refusal::Future(future).into());
        }
        Some(invalid) => {
            warn!(healthCheckId = %id, error = %invalid, "this tag counts as none");
        }
        None => {}
    }
    if !view::guards(system, &tags, check, &record) {
        return Err(Refusal::NotGuarded.into());
    }
    // A lock that waits is undone if its alarm is older in whole seconds.
    let is_newer = |lock: &Lock, alarm: DateTime<Utc>| match lock.version {
        Some(_) => alarm > seen,
        None => alarm.trunc_subsecs(0) >= seen.trunc_subsecs(0),
    };
    if let Some(lock) = &record.lock
        && let Some(alarm) = lock.alarm.filter(|alarm| is_newer(lock, *alarm))
    {
        return Err(Refusal::NewerAlarm(alarm, lock.by.clone()).into());
    }
    Ok(Recorded { record, tags, invalid: key })
}

/// Asks the primary at `path` as Route 53's checkers would ask it.
async fn ask_primary(check: &HealthCheck, path: &ResourcePath, deadline: Deadline) -> Result<(), Refusal> {
    let endpoint = check.endpoint.as_ref().ok_or_else(|| Refusal::NoPath(check.check_type.clone()))?;
    let unhealthy = match timeout(deadline.left(), probe::ask(&check.id, endpoint, path)).await {
        Ok(Ok(status)) => {
            info!(healthCheckId = %check.id, path = %path, status = status.as_u16(), "the primary is healthy");
            return Ok(());
        }
        Ok(Err(unhealthy)) => unhealthy.to_string(),
        Err(_) => "it gave no answer in the time that the invocation had".to_owned(),
    };
    Err(Refusal::Unhealthy(unhealthy))
}

fn log_decision(id: &HealthCheckId, request: &Request, decision: &Release) {
    let decision = match decision {
        Release::AlreadyRestored => "leave_restored",
        Release::Restore(_) => "restore",
    };
    info!(healthCheckId = %id, decision, force = request.force, reason = request.reason, "decided");
}

fn resource_path(path: &str) -> Result<ResourcePath, Refusal> {
    ResourcePath::try_from(path.to_owned()).map_err(|_| Refusal::InvalidPath(path.to_owned()))
}
