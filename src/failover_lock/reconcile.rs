//! Compares every guarded check with what is recorded on it and with its alarms as they stand.
//!
//! CloudWatch acts once, on an alarm's change. If that one notification is lost, or the lock could not be set,
//! `reconcile` sets it within one period of the schedule. It reports checks that nothing would lock, and
//! locks that were undone or do not hold, for as long as that is so.
//!
//! Calls are made by the page where many checks are guarded, and what is recorded is read again only if the
//! check has changed or some time has passed: Route 53 allows a whole account ten calls a second.

use std::collections::BTreeMap;

use futures_util::stream::{self, StreamExt};
use tracing::{info, warn};

use super::FailoverLock;
use super::alarm::{Alarm, AlarmState};
use super::apply::{Cause, Target, act, completed, without_abandoned};
use super::decide::{self, Decision, Finding, Health, Standing, Step};
use super::error::{Error, FailedRecord};
use super::follow::{Unrecorded, follow};
use super::health_check::{HealthCheck, HealthCheckId};
use super::known::Tagged;
use super::notes::{reminder, restored};
use super::outcome::{Outcome, Verdict};
use super::reason::Reason;
use super::record::{self, Record};
use super::tick::{Tick, hear};
use super::view::{self, Tags};
use crate::remote::aws::{Failure, Kind};
use crate::remote::deadline::{Deadline, MayPass};

/// How many checks are worked on at once. One that does not answer holds up one place.
const AT_ONCE: usize = 32;
/// Up to so many checks are read one by one, which needs no permission to list others.
const FEW: usize = 10;
/// A call is tried so often in one tick: the next one comes in a minute, and a person's restore goes first.
const TRIES: u32 = 3;

/// A check as this tick sees it.
struct Look {
    id: HealthCheckId,
    /// `None` if it was not listed: it is read by itself, so that one that does not answer holds up no other.
    check: Option<HealthCheck>,
    /// As far as they could be read, and why not all of them; `None` if they were not read with those of all the others.
    alarms: Option<(Vec<Alarm>, Option<Failure>)>,
}

/// What is recorded on a check.
struct OnRecord<'a> {
    record: &'a Record,
    /// `None` if they were not read in this tick.
    tags: Option<&'a Tags>,
    /// Whether this tick has recorded that the check was restored by hand.
    is_restored_now: bool,
}

/// Looks at every guarded check.
pub(super) async fn reconcile(
    system: &FailoverLock,
    deadline: Deadline,
) -> Vec<Result<Outcome, FailedRecord>> {
    let deadline = deadline.with_tries(TRIES);
    let looks = match look(system, deadline).await {
        Ok(looks) => looks,
        // Not a failure, here and below: others need the calls more, and the next tick comes in a minute.
        Err(failure) if failure.kind() == Kind::Throttled => {
            warn!(error = %failure, decision = "defer", "decided");
            return match &system.config.guarded {
                Some(ids) => ids.iter().map(|id| throttled(Some(id))).map(Ok).collect(),
                None => vec![Ok(throttled(None))],
            };
        }
        Err(failure) => return vec![Err(FailedRecord::of(None, failure))],
    };
    let tags = view::tags_of(system, &unknown_records(system, &looks), deadline).await;
    let tick = Tick::default();
    let checks = looks.into_iter().enumerate().map(async |(place, look)| {
        let id = look.id.clone();
        let result = match reconcile_check(system, look, tags.get(&id), &tick, deadline).await {
            Err(Error::Aws(failure) | Error::AlarmsUnread(failure)) if failure.kind() == Kind::Throttled => {
                // No one else waits for CloudWatch's limit.
                if failure.is_of("route53") {
                    tick.give_way();
                }
                warn!(healthCheckId = %id, error = %failure, decision = "defer", "decided");
                Ok(Some(Outcome { undone: tick.has_undone(&id), ..throttled(Some(&id)) }))
            }
            result => result,
        };
        let failed = |error| FailedRecord {
            undone: tick.has_undone(&id),
            ..FailedRecord::of(Some(id.clone()), error)
        };
        (place, result.map_err(failed).transpose())
    });
    let mut results: Vec<_> = stream::iter(checks).buffer_unordered(AT_ONCE).collect().await;
    hear(&mut results, tick.muted(system, deadline).await);
    follow(system, tick.into_unrecorded(), deadline).await;
    results.sort_by_key(|(place, _)| *place);
    let results: Vec<_> = results.into_iter().filter_map(|(_, result)| result).collect();
    if results.is_empty() {
        return vec![Err(FailedRecord::of(None, Error::NothingGuarded))];
    }
    results
}

/// Reads the guarded checks, and where there are many their alarms, by the page. What cannot be read by the page
/// is read check by check.
async fn look(system: &FailoverLock, deadline: Deadline) -> Result<Vec<Look>, Failure> {
    let FailoverLock { config, route53, cloudwatch, .. } = system;
    let by_name: Option<Vec<_>> = config.guarded.as_ref().map(|ids| ids.iter().cloned().collect());
    let is_few = by_name.as_ref().is_some_and(|ids| ids.len() <= FEW);
    let mut listed = BTreeMap::new();
    if !is_few {
        match route53.health_checks(deadline).await {
            Ok(checks) => listed.extend(checks.into_iter().map(|check| (check.id.clone(), check))),
            Err(failure) if by_name.is_none() || failure.kind() == Kind::Throttled => return Err(failure),
            Err(failure) => warn!(error = %failure, "reading the health checks one by one"),
        }
    }
    let mut alarms = None;
    if !is_few {
        match cloudwatch.all_alarms(deadline).await {
            Ok(found) => alarms = Some(found),
            Err(failure) => warn!(error = %failure, "reading the alarms check by check"),
        }
    }
    let ids = by_name.unwrap_or_else(|| {
        let mut ids: Vec<_> = listed.keys().filter(|id| config.guards(id)).cloned().collect();
        // Where one is deleted that is locked, and another made in its place, its site is back.
        ids.extend(system.known.out().into_iter().filter(|id| !listed.contains_key(id)));
        ids
    });
    let looks = ids.into_iter().map(|id| {
        let alarms = alarms.as_ref().map(|found| found.read_on(&id));
        Look { check: listed.remove(&id), alarms, id }
    });
    Ok(looks.collect())
}

/// The checks whose record is not known.
fn unknown_records(system: &FailoverLock, looks: &[Look]) -> Vec<HealthCheckId> {
    let is_unknown = |look: &&Look| {
        let Some(check) = &look.check else { return false };
        let quiet = matches!(&look.alarms, Some((alarms, None)) if !is_in_alarm(alarms));
        system.known(check, quiet).is_none()
    };
    looks.iter().filter(is_unknown).map(|look| look.id.clone()).collect()
}

/// Decides about a check, acts; and reads it and starts again when someone else changed it meanwhile. Unlike
/// `lock`, it has another try in a minute: what cannot be read is an error, and never a lock in doubt, which would
/// undo what a person has just done. `None` if it is not guarded.
async fn reconcile_check(
    system: &FailoverLock,
    look: Look,
    tags: Option<&Tags>,
    tick: &Tick,
    deadline: Deadline,
) -> Result<Option<Outcome>, Error> {
    let FailoverLock { config, route53, cloudwatch, .. } = system;
    let Look { id, check, alarms } = look;
    let (mut check, mut tags) = match check {
        Some(check) => (check, tags.cloned()),
        None => (route53.health_check(&id, deadline).await?, None),
    };
    let (alarms, unread) = match alarms {
        Some(alarms) => alarms,
        None => cloudwatch.alarms_of(&id, config, deadline).await?,
    };
    let mut tries = 0;
    loop {
        tries += 1;
        let last = tries >= TRIES;
        let found = (alarms.as_slice(), unread.as_ref());
        match decide_and_act(system, &check, found, tags.as_ref(), last, tick, deadline).await {
            Err(conflict) if conflict.may_pass() && tries < TRIES => {
                check = route53.health_check(&id, deadline).await?;
                tags = None;
            }
            result => return result,
        }
    }
}

async fn decide_and_act(
    system: &FailoverLock,
    check: &HealthCheck,
    (alarms, unread): (&[Alarm], Option<&Failure>),
    tags: Option<&Tags>,
    last: bool,
    tick: &Tick,
    deadline: Deadline,
) -> Result<Option<Outcome>, Error> {
    let id = &check.id;
    let quiet = !is_in_alarm(alarms);
    let (record, tags) = match recorded(system, check, quiet, tags, tick.may_act(), deadline).await? {
        Some((Tagged::Guarded(record), tags)) => (record, tags),
        Some((Tagged::NotGuarded, _)) => return Ok(None),
        None => return Ok(Some(throttled(Some(id)))),
    };
    let path = match decide::can_hold(check) {
        Ok(path) => path,
        Err(cannot) => {
            warn!(healthCheckId = %id, error = %cannot, decision = "report", "decided");
            let is_lock = record.lock.is_some() && system.config.is_locked(check);
            let undone = is_lock || view::stands(check, &record);
            let notes = restored(system, check, &record, false);
            return Ok(Some(Outcome { notes, undone, ..unprotected(check, Reason::from(&cannot)) }));
        }
    };
    if record.is_ahead_of(check.version) && !last {
        // Someone has changed the check since it was read.
        return Err(Error::Stale);
    }
    let (record, is_restored_now) = completed(system, check, path, record, deadline).await;
    let record = without_abandoned(system, check, record, deadline).await;
    let first_seen = system.known.locked_since(check, system.config.is_locked(check), system.clock.now());
    let seen_locked =
        if tags.as_ref().is_some_and(record::takes_no_lock) { record::EARLIER } else { first_seen };
    let is_locked = record.is_locked(path, check.version, system.config.locked_path.as_str());
    let is_undone = view::stands(check, &record) && !is_locked;
    tick.undone(id, is_undone);
    let mut acting = alarms.to_vec();
    let mut muted = false;
    let finding = loop {
        let seen = Standing {
            path,
            version: check.version,
            record: &record,
            seen_locked,
            alarms: &acting,
            health: Health::Unasked,
            turns_within: check.turns_within,
            now: system.clock.now(),
        };
        let finding = decided(system, id, seen, deadline).await;
        match finding {
            Finding::Recorded => {
                let muted = is_recorded_muted(system, id, &record, alarms, deadline).await?;
                break if muted { Finding::Unprotected(Reason::ActionsMuted) } else { finding };
            }
            // Of several alarms the newest decides that is not muted.
            Finding::NeverLocked(alarm) if view::is_muted(system, id, &alarm.name, deadline).await? => {
                let name = alarm.name.clone();
                acting.retain(|alarm| alarm.name != name);
                muted = true;
            }
            Finding::NeverLocked(_)
            | Finding::LockStands { .. }
            | Finding::Unprotected(Reason::UndoneByHand | Reason::ForeignPath) => break finding,
            _ if muted => break Finding::Unprotected(Reason::ActionsMuted),
            finding => break finding,
        }
    };
    if let Some(unread) = unread.filter(|_| rests_on_all_alarms(&finding)) {
        return Err(Error::AlarmsUnread(unread.again()));
    }
    log_finding(id, &finding);
    let on_record = OnRecord { record: &record, tags: tags.as_ref(), is_restored_now };
    if finding == Finding::Armed {
        tick.armed(id, alarms);
    }
    let outcome = conclude(system, check, on_record, finding, tick, deadline).await?;
    let does_not_hold = outcome.reason == Some(Reason::LockDoesNotHold);
    let undone = does_not_hold || is_undone && outcome.outcome != Verdict::Locked;
    Ok(Some(Outcome { undone, ..outcome }))
}

/// Whether a finding rests on what no alarm says: one that could not be read may say it.
fn rests_on_all_alarms(finding: &Finding<'_>) -> bool {
    match finding {
        Finding::Armed => true,
        Finding::Unprotected(reason) => matches!(
            reason,
            Reason::NoAlarm
                | Reason::ActionsDisabled
                | Reason::ActionsMuted
                | Reason::NeverGoesOff
                | Reason::NoData
                | Reason::DryRun
        ),
        Finding::LockStands { .. } | Finding::NeverLocked(_) | Finding::Recorded => false,
    }
}

/// Does what a finding asks for.
async fn conclude(
    system: &FailoverLock,
    check: &HealthCheck,
    on_record: OnRecord<'_>,
    finding: Finding<'_>,
    tick: &Tick,
    deadline: Deadline,
) -> Result<Outcome, Error> {
    let FailoverLock { config, known, .. } = system;
    let OnRecord { record, tags, is_restored_now } = on_record;
    let (id, now) = (&check.id, system.clock.now());
    let target = Target { id, check: Some(check), record: Some(record), tags };
    let to_follow = |unknown: Option<&Alarm>| {
        if !config.dry_run && !tags.is_some_and(record::takes_no_lock) {
            let found = |by| Cause { alarm: by, changed_at: unknown.map(|alarm| alarm.changed_at) };
            let cause = match unknown {
                Some(alarm) if view::is_unrecorded(system, check, record) => {
                    found(record::found_for(&alarm.name))
                }
                Some(alarm) => alarm.into(),
                None => found(record::FOUND.to_owned()),
            };
            tick.follow(Unrecorded { check: check.clone(), record: Box::new(record.clone()), cause });
        }
    };
    let cause = match finding {
        Finding::Armed => {
            known.put(check, Tagged::Guarded(Box::new(record.clone())));
            let notes = restored(system, check, record, is_restored_now);
            return Ok(Outcome { notes, ..outcome(check, Verdict::Armed) });
        }
        Finding::LockStands { unknown: None, unrecorded: false } => {
            // Read between a lock's update and its record, it would be kept as it is not any more.
            if record.is_newest(check.version) {
                known.put(check, Tagged::Guarded(Box::new(record.clone())));
            }
            let notes = reminder(record.lock.as_ref().map(|lock| lock.at), now);
            return Ok(Outcome { notes, ..outcome(check, Verdict::AlreadyLocked) });
        }
        Finding::LockStands { unknown, .. } => {
            to_follow(unknown);
            // One that cannot be recorded stands about as long as its alarm.
            let notes = reminder(unknown.map(|alarm| alarm.changed_at), now);
            return Ok(Outcome { notes, ..outcome(check, Verdict::AlreadyLocked) });
        }
        Finding::Unprotected(reason) => {
            let is_behind = record.lock.as_ref().is_some_and(|lock| lock.version != Some(check.version));
            if reason == Reason::LockDoesNotHold && is_behind {
                to_follow(None);
            }
            let notes = restored(system, check, record, is_restored_now);
            return Ok(Outcome { notes, ..unprotected(check, reason) });
        }
        Finding::NeverLocked(alarm) => Cause::from(alarm),
        Finding::Recorded => recorded_cause(record),
    };
    if !tick.may_act() {
        return Ok(throttled(Some(id)));
    }
    if !tags.is_none_or(|tags| config.guards_tagged(tags)) {
        return Ok(unprotected(check, Reason::UndoneByHand));
    }
    let lock = Decision::Lock { version: Some(check.version) };
    let decision = match decide::interlock(lock, view::secondary_is_healthy(system, id, deadline).await) {
        Decision::Lock { .. } if !tick.may_lock(id, config.secondaries.get(id)) => {
            Decision::Defer(Reason::SecondaryUnhealthy)
        }
        decision => decision,
    };
    act(system, &cause, target, decision, deadline).await
}

/// What `reconcile` finds of a check, after asking Route 53's checkers where only they can tell.
async fn decided<'a>(
    system: &FailoverLock,
    id: &HealthCheckId,
    mut seen: Standing<'a>,
    deadline: Deadline,
) -> Finding<'a> {
    loop {
        match decide::reconcile(&seen, &system.config) {
            Step::AskCheckers => seen.health = view::health(system, id, deadline).await,
            Step::Done(finding) => return finding,
        }
    }
}

/// What a check's tags say, and the tags if they were read now; `None` if they would have to be read and may not be.
async fn recorded(
    system: &FailoverLock,
    check: &HealthCheck,
    quiet: bool,
    tags: Option<&Tags>,
    may_call: bool,
    deadline: Deadline,
) -> Result<Option<(Tagged, Option<Tags>)>, Error> {
    if let Some(known) = system.known(check, quiet) {
        return Ok(Some((known, None)));
    }
    let tags = match tags {
        Some(tags) => tags.clone(),
        None if !may_call => return Ok(None),
        None => system.route53.tags(&check.id, deadline).await?,
    };
    let record = match view::record(system, &tags, check) {
        Err(future) if future.is_future => {
            view::void(system, check, &tags, &future, deadline).await;
            return Err(future.into());
        }
        Ok(record) if quiet && view::was_never_ours(system, check) => record.of_one_never_changed(),
        record => record?,
    };
    if !view::guards(system, &tags, check, &record) {
        system.known.put(check, Tagged::NotGuarded);
        return Ok(Some((Tagged::NotGuarded, None)));
    }
    Ok(Some((Tagged::Guarded(Box::new(record)), Some(tags))))
}

/// Whether mute rules hold back the alarm for which a lock on record was decided, or, where that alarm is none on the check
/// any more, each of those that are.
///
/// # Errors
/// They could not be read.
async fn is_recorded_muted(
    system: &FailoverLock,
    id: &HealthCheckId,
    record: &Record,
    alarms: &[Alarm],
    deadline: Deadline,
) -> Result<bool, Failure> {
    let by = recorded_cause(record).alarm;
    // No rule mutes a person.
    if record::is_by_hand(&by) {
        return Ok(false);
    }
    // A tag takes neither all characters of a name nor its length.
    let is_cause = |alarm: &&Alarm| record.lock.as_ref().is_some_and(|lock| lock.answers(&alarm.name));
    let causes: Vec<_> = alarms.iter().filter(is_cause).collect();
    if causes.is_empty() && view::is_muted(system, id, &by, deadline).await? {
        return Ok(true);
    }
    let causes = if causes.is_empty() { alarms.iter().collect() } else { causes };
    for alarm in &causes {
        if !view::is_muted(system, id, &alarm.name, deadline).await? {
            return Ok(false);
        }
    }
    Ok(!causes.is_empty())
}

/// Why a lock on record was decided.
fn recorded_cause(record: &Record) -> Cause {
    let lock = record.lock.as_ref();
    let alarm = lock.map(|lock| lock.by.clone()).unwrap_or_default();
    Cause { alarm, changed_at: lock.and_then(|lock| lock.alarm) }
}

fn outcome(check: &HealthCheck, verdict: Verdict) -> Outcome {
    let path = check.path().map(str::to_owned);
    Outcome { path, version: Some(check.version), ..Outcome::new(Some(&check.id), verdict) }
}

fn unprotected(check: &HealthCheck, reason: Reason) -> Outcome {
    Outcome { reason: Some(reason), ..outcome(check, Verdict::Unprotected) }
}

fn throttled(id: Option<&HealthCheckId>) -> Outcome {
    Outcome { reason: Some(Reason::Throttled), ..Outcome::new(id, Verdict::Deferred) }
}

fn is_in_alarm(alarms: &[Alarm]) -> bool {
    alarms.iter().any(|alarm| alarm.state == AlarmState::Alarm)
}

fn log_finding(id: &HealthCheckId, finding: &Finding<'_>) {
    let decided = |decision: &str| info!(healthCheckId = %id, decision, "decided");
    match finding {
        Finding::Armed => decided("leave_armed"),
        Finding::LockStands { .. } => decided("leave_locked"),
        Finding::Recorded => {
            warn!(healthCheckId = %id, decision = "lock", "decided");
        }
        Finding::NeverLocked(alarm) => {
            warn!(healthCheckId = %id, alarm = alarm.name, changedAt = alarm.changed_at.to_rfc3339(), decision = "lock", "decided");
        }
        Finding::Unprotected(reason) => {
            warn!(healthCheckId = %id, decision = "report", reason = <&str>::from(*reason), "decided");
        }
    }
}

// === impl FailoverLock ===

impl FailoverLock {
    /// What is known of a check's record from an earlier tick, unless it can have changed without the check.
    fn known(&self, check: &HealthCheck, quiet: bool) -> Option<Tagged> {
        let waits = self.config.secondaries.contains_key(&check.id);
        if waits { None } else { self.known.get(check, quiet) }
    }
}

// === impl Cause ===

impl From<&Alarm> for Cause {
    fn from(alarm: &Alarm) -> Self {
        Self { alarm: alarm.name.clone(), changed_at: Some(alarm.changed_at) }
    }
}
