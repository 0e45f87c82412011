//! What to do: pure functions from what was seen to a decision with its reason.
//!
//! What is meant ([`Record`]) is compared with what is (the check's path and version); alarms are evidence.

use std::collections::BTreeSet;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use thiserror::Error;

use super::alarm::{Alarm, AlarmState, AlarmTransition, Failing};
use super::config::Config;
use super::datapoint::Datapoint;
use super::health_check::{HealthCheck, HealthCheckId};
use super::reason::Reason;
use super::record::{Intent, Record, Restore};
use crate::program::text::Quoted;

pub use self::restore::{Refusal, Release, restore};

mod restore;
#[cfg(test)]
mod tests;

/// How long Route 53's checkers and CloudWatch may take after a change of the path until the alarm shows it.
const SETTLED: TimeDelta = TimeDelta::minutes(3);
/// How long a lock may stand while every alarm is OK: the same, and the alarm's own evaluation.
pub(super) const MUST_FAIL: TimeDelta = TimeDelta::minutes(5);
/// How long a new alarm may be without data.
const DATA_COMES: TimeDelta = TimeDelta::minutes(10);
/// How much earlier than an alarm's change a datapoint may have ended that made it change at once.
const PROMPT: TimeDelta = TimeDelta::minutes(5);

/// Whether a transition is about a health check that this function guards.
#[derive(Debug, PartialEq, Eq)]
pub enum Concern {
    /// Nothing to do with this function.
    None(Reason),
    /// Read this check and decide.
    Check(HealthCheckId),
}

/// What to do about a check that an alarm is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Leave it alone.
    Ignore(Reason),
    /// The lock stands, and this alarm is known.
    AlreadyLocked,
    /// The lock stands, and this alarm is newer: update the check without changing its path, so that a restore
    /// that is under way meets a conflict; then record the alarm.
    Touch {
        /// The version that was read.
        version: i64,
    },
    /// Not now: the lock is recorded, and set when the secondary is healthy.
    Defer(Reason),
    /// Set the locked path, on the version that was read.
    Lock {
        /// `None` if the check could not be read.
        version: Option<i64>,
    },
}

/// What is known of a check when an alarm arrives.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The check; `None` if it could not be read.
    pub check: Option<&'a HealthCheck>,
    /// What is recorded on it; nothing if that could not be read.
    pub record: &'a Record,
    /// What Route 53's checkers find.
    pub health: Health,
    /// The present time.
    pub now: DateTime<Utc>,
}

/// What Route 53's checkers find of a check now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// They have not been asked.
    Unasked,
    /// They could not be asked.
    Unknown,
    /// It is healthy.
    Healthy,
    /// It is unhealthy.
    Unhealthy,
}

/// What is decided, or what has to be asked first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// Ask Route 53's checkers, then decide again.
    AskCheckers,
    /// This is decided.
    Done(T),
}

/// What `reconcile` knows of a check.
#[derive(Debug)]
pub struct Standing<'a> {
    /// The check's path.
    pub path: &'a str,
    /// The check's version.
    pub version: i64,
    /// What is recorded on it.
    pub record: &'a Record,
    /// When this process first saw this version of it on the locked path; what is not on record is not older, as far as is known.
    pub seen_locked: DateTime<Utc>,
    /// The alarms on its health.
    pub alarms: &'a [Alarm],
    /// What Route 53's checkers find.
    pub health: Health,
    /// How long they need to change their verdict.
    pub turns_within: TimeDelta,
    /// The present time.
    pub now: DateTime<Utc>,
}

/// What `reconcile` finds of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding<'a> {
    /// The next alarm will lock it.
    Armed,
    /// It is locked.
    LockStands {
        /// An alarm that the record does not know yet. It is recorded, so that a lock that is undone by hand
        /// is told from a new failure.
        unknown: Option<&'a Alarm>,
        /// Whether the lock itself is not on record as it is: it was set by hand, its function could not record it, the check
        /// has changed since, or no stack owns it.
        unrecorded: bool,
    },
    /// This alarm asks for a lock, and none was set for it: its notification was lost, failed, or was
    /// the same as before a restore.
    NeverLocked(&'a Alarm),
    /// The record asks for a lock: it waited for the secondary, or it was undone and is to be set again.
    Recorded,
    /// Nothing will lock it, or it is not as it is meant to be.
    Unprotected(Reason),
}

/// The alarm watches several guarded checks, and does not say which one failed.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("the alarm watches several health checks ({}) and does not say which failed: give each check an alarm of its own. If exactly one of them is named in GUARDED_HEALTH_CHECKS, that one is locked, whichever has failed", list(.0))]
pub struct Ambiguous(pub Vec<HealthCheckId>);

/// No lock can hold on this check, whatever its path.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CannotHold {
    /// It requests no path.
    #[error("its type {} requests no path, so there is none to lock: failover-lock works on HTTP, HTTPS, HTTP_STR_MATCH and HTTPS_STR_MATCH", Quoted(.0))]
    NoPath(String),
    /// Unhealthy counts as healthy.
    #[error(
        "it is inverted: a path that fails would force the failed site in. Use a check that is not inverted"
    )]
    Inverted,
    /// It is not checking.
    #[error("it is disabled, so Route 53 takes it for healthy whatever its path. Enable it")]
    Disabled,
}

/// Finds the one guarded check that a transition is about, before anything is read.
///
/// # Errors
/// The transition names several guarded checks.
pub fn concern(transition: &AlarmTransition, config: &Config) -> Result<Concern, Ambiguous> {
    match transition.state {
        AlarmState::Ok | AlarmState::InsufficientData => return Ok(Concern::None(Reason::NotInAlarm)),
        AlarmState::Alarm => {}
    }
    if transition.health_checks.is_empty() {
        return Ok(Concern::None(Reason::NotAHealthCheckAlarm));
    }
    let guarded: Vec<_> = transition.health_checks.iter().filter(|id| config.guards(id)).cloned().collect();
    match (guarded.as_slice(), transition.holds_back) {
        ([], _) => Ok(Concern::None(Reason::NotGuarded)),
        (_, Some(holds_back)) => Ok(Concern::None(holds_back.into())),
        ([id], None) => Ok(Concern::Check(id.clone())),
        _ => Err(Ambiguous(guarded)),
    }
}

/// Decides about a check whose alarm went off.
///
/// # Errors
/// No lock can hold on the check.
pub fn lock(
    transition: &AlarmTransition,
    seen: &Seen<'_>,
    config: &Config,
) -> Result<Step<Decision>, CannotHold> {
    let AlarmTransition { changed_at, breaching, .. } = *transition;
    let Some(check) = seen.check else {
        // Which path it has is not known: a restore that was begun may not have taken place.
        let done = seen.record.restore.as_ref().filter(|restore| restore.done.is_some());
        let older = |restore| older_than(restore, changed_at, breaching, seen.health, TimeDelta::zero());
        return Ok(match done.map(older) {
            Some(None) => Step::AskCheckers,
            Some(Some(true)) => Step::Done(Decision::Ignore(Reason::OlderThanRestore)),
            Some(Some(false)) | None => Step::Done(Decision::Lock { version: None }),
        });
    };
    let (path, version) = (check.path().unwrap_or_default(), check.version);
    if let Some(restore) = seen.record.restored(path, version) {
        match older_than(restore, changed_at, breaching, seen.health, check.turns_within) {
            Some(true) => return Ok(Step::Done(Decision::Ignore(Reason::OlderThanRestore))),
            Some(false) => {}
            None => return Ok(Step::AskCheckers),
        }
        match transition.child.map(|child| shows_lock(restore, child, seen, check.turns_within)) {
            Some(Some(true)) => return Ok(Step::Done(Decision::Ignore(Reason::OlderThanRestore))),
            Some(Some(false)) | None => {}
            Some(None) => return Ok(Step::AskCheckers),
        }
    }
    let known = seen.record.intent(path, version) == Intent::Out && is_known(changed_at, seen.record);
    let was_set = seen.record.lock.as_ref().is_some_and(|lock| lock.version.is_some());
    let locked = seen.record.is_locked(can_hold(check)?, version, config.locked_path.as_str());
    Ok(Step::Done(match (locked, known) {
        (true, true) => Decision::AlreadyLocked,
        (true, false) => Decision::Touch { version },
        // This alarm was answered, and someone has set the path back since: it is no new failure.
        (false, true) if was_set && !config.relock_undone => Decision::Ignore(Reason::UndoneByHand),
        (false, _) => Decision::Lock { version: Some(version) },
    }))
}

/// Whether an alarm is from before a restore: it changed earlier, or its breaching datapoints show the lock.
/// `None` if only Route 53's checkers can tell: the datapoints are from the time in which they turn, or from before the restore
/// although the alarm changed long after them.
fn older_than(
    restore: &Restore,
    changed_at: DateTime<Utc>,
    breaching: Option<Datapoint>,
    health: Health,
    turns_within: TimeDelta,
) -> Option<bool> {
    if is_older(changed_at, restore.seen) {
        return Some(true);
    }
    let Some(breaching) = breaching else { return Some(false) };
    let done = restore.done.unwrap_or(restore.seen);
    if breaching.began < done && changed_at - breaching.ended <= PROMPT {
        Some(true)
    } else if breaching.began < done + turns_within {
        match health {
            Health::Unasked => None,
            Health::Healthy => Some(true),
            Health::Unhealthy | Health::Unknown => Some(false),
        }
    } else {
        Some(false)
    }
}

/// Whether what is behind a composite alarm that changed after a restore only shows the lock: the composite alarm may also
/// have changed for another of its conditions. `None` if only Route 53's checkers can tell whether the check has failed anew.
fn shows_lock(restore: &Restore, child: Failing, seen: &Seen<'_>, turns_within: TimeDelta) -> Option<bool> {
    let is_prompt = child.breaching.is_none_or(|it| child.changed_at - it.ended <= PROMPT);
    let older = older_than(restore, child.changed_at, child.breaching, Health::Healthy, turns_within);
    if older != Some(true) || !is_prompt {
        return Some(false);
    }
    match seen.health {
        // The checkers may still show the lock themselves.
        _ if seen.now < restore.newest() + turns_within => Some(true),
        Health::Unasked => None,
        Health::Healthy => Some(true),
        Health::Unhealthy | Health::Unknown => Some(false),
    }
}

/// Decides about a check by what is recorded and by its alarms as they stand, not by one's change.
#[must_use]
pub fn reconcile<'a>(seen: &Standing<'a>, config: &Config) -> Step<Finding<'a>> {
    let Standing { path, version, record, alarms, health, turns_within, .. } = *seen;
    let acting: Vec<_> = alarms.iter().filter(|alarm| leads_to_lock(alarm, config)).collect();
    let in_alarm = acting.iter().filter(|alarm| alarm.state == AlarmState::Alarm);
    // Of several alarms in ALARM the newest decides: who restored has seen the older ones.
    let newest = in_alarm.max_by_key(|alarm| alarm.changed_at).copied();
    let all_are = |state| !acting.is_empty() && acting.iter().all(|alarm| alarm.state == state);
    let locked = record.is_locked(path, version, config.locked_path.as_str());
    let done = Step::Done;
    let is_ok = |alarm: &Alarm| alarm.state == AlarmState::Ok;
    let all_ok = alarms.iter().all(is_ok);
    // Whether the checkers are to say if a lock holds: if no alarm tells of a failure, also those with their actions off, or one
    // that leads to a lock is OK.
    let may_be_healthy = |one_ok: bool| {
        alarms.iter().all(|alarm| alarm.state != AlarmState::Alarm)
            || (one_ok && acting.iter().any(|alarm| is_ok(alarm)))
    };
    let must_fail = MUST_FAIL.max(turns_within);
    let holds = || match health {
        Health::Unasked => Some(Step::AskCheckers),
        Health::Unhealthy => None,
        Health::Unknown if !all_ok => None,
        Health::Unknown | Health::Healthy => Some(done(Finding::Unprotected(Reason::LockDoesNotHold))),
    };
    match (record.intent(path, version), &record.lock) {
        (Intent::Out, Some(lock)) if locked => {
            let unknown = newest.filter(|alarm| !is_known(alarm.changed_at, record));
            // Once the newest in ALARM is on record. A dry run records nothing.
            let is_recorded = unknown.is_none() || config.dry_run;
            let follows = config.dry_run || lock.is_of(version);
            if may_be_healthy(is_recorded)
                && follows
                && seen.now - lock.at >= must_fail
                && let Some(step) = holds()
            {
                return step;
            }
            // Someone has changed the check since, or set it back and locked it again: the record follows, so that the next
            // change is told from this one. A person's lock becomes that of the stack which finds it.
            let owner = config.guarded_tag.as_ref().filter(|_| !config.dry_run);
            let is_nobodys = owner.is_some_and(|tag| lock.can_be_owned_by(tag.to_string()));
            done(Finding::LockStands { unknown, unrecorded: lock.version != Some(version) || is_nobodys })
        }
        _ if locked => {
            // Since when it stands is not known: the next tick has it on record, if it can be recorded.
            let since = alarms.iter().filter(|alarm| is_ok(alarm)).map(|alarm| alarm.changed_at).max();
            if may_be_healthy(true)
                && since.is_some_and(|since| seen.now - since.max(seen.seen_locked) >= must_fail)
                && let Some(step) = holds()
            {
                return step;
            }
            done(Finding::LockStands { unknown: newest, unrecorded: true })
        }
        (Intent::Out, Some(lock)) => match newest {
            // A failure that is newer than the lock was not undone by anyone.
            Some(alarm) if !is_known(alarm.changed_at, record) => done(Finding::NeverLocked(alarm)),
            _ if lock.version.is_none() || config.relock_undone => done(Finding::Recorded),
            _ => done(Finding::Unprotected(Reason::UndoneByHand)),
        },
        (Intent::In | Intent::Out, _) => {
            let restored = record.restored(path, version);
            if path != config.healthy_path.as_str() && !restored.is_some_and(|restore| restore.has_set(path))
            {
                return done(Finding::Unprotected(Reason::ForeignPath));
            }
            match newest {
                Some(alarm) => in_service(alarm, restored, seen),
                None if alarms.is_empty() => done(Finding::Unprotected(Reason::NoAlarm)),
                None if acting.is_empty() && alarms.iter().any(|alarm| alarm.never_goes_off) => {
                    done(Finding::Unprotected(Reason::NeverGoesOff))
                }
                None if acting.is_empty() => done(Finding::Unprotected(Reason::ActionsDisabled)),
                None if all_are(AlarmState::InsufficientData)
                    && acting.iter().all(|alarm| seen.now - alarm.changed_at >= DATA_COMES) =>
                {
                    done(Finding::Unprotected(Reason::NoData))
                }
                None if config.dry_run => done(Finding::Unprotected(Reason::DryRun)),
                None => done(Finding::Armed),
            }
        }
    }
}

/// Whether an alarm can go off, and its actions lead to `lock`.
#[must_use]
pub fn leads_to_lock(alarm: &Alarm, config: &Config) -> bool {
    let ours = config.alarm_actions.as_ref();
    !alarm.never_goes_off
        && alarm.actions_enabled
        && ours.is_none_or(|ours| alarm.actions.iter().any(|action| ours.contains(action)))
}

/// Whether mute rules, which hold these alarms back, leave none that leads to a lock and has data.
#[must_use]
pub fn are_held_back(
    alarms: &[Alarm],
    muted: &BTreeSet<String>,
    config: &Config,
    now: DateTime<Utc>,
) -> bool {
    let (held, heard): (Vec<_>, Vec<_>) = alarms
        .iter()
        .filter(|alarm| leads_to_lock(alarm, config))
        .partition(|alarm| muted.contains(&alarm.name));
    let is_silent =
        |alarm: &&Alarm| alarm.state == AlarmState::InsufficientData && now - alarm.changed_at >= DATA_COMES;
    !held.is_empty() && heard.iter().all(is_silent)
}

/// A check in service whose alarm is in ALARM: the notification was lost, or the alarm is not about what is now.
fn in_service<'a>(alarm: &'a Alarm, restored: Option<&Restore>, seen: &Standing<'_>) -> Step<Finding<'a>> {
    let Standing { health, turns_within, now, .. } = *seen;
    let ask_unless =
        |finding| if health == Health::Unasked { Step::AskCheckers } else { Step::Done(finding) };
    if let Some(restore) = restored {
        let older = older_than(restore, alarm.changed_at, alarm.breaching, Health::Healthy, turns_within);
        if older == Some(true) {
            // It cannot fire again until it has been OK. Whether the primary has failed anew, Route 53 knows.
            let waits = now - restore.newest() < SETTLED.max(turns_within);
            return match health {
                _ if waits => Step::Done(Finding::Unprotected(Reason::OlderThanRestore)),
                Health::Unhealthy => Step::Done(Finding::NeverLocked(alarm)),
                _ => ask_unless(Finding::Unprotected(Reason::OlderThanRestore)),
            };
        }
    }
    if alarm.configured_at.is_some_and(|configured_at| configured_at > alarm.changed_at) {
        // Its actions may have been off when it went off: someone was at work on the primary, and may still be. Without a verdict,
        // the next tick asks again.
        return match health {
            Health::Unhealthy => Step::Done(Finding::NeverLocked(alarm)),
            _ => ask_unless(Finding::Unprotected(Reason::EnabledInAlarm)),
        };
    }
    Step::Done(Finding::NeverLocked(alarm))
}

/// Whether the record of the lock knows an alarm that changed at `changed_at`, or a later one.
#[must_use]
pub fn is_known(changed_at: DateTime<Utc>, record: &Record) -> bool {
    let known = record.lock.as_ref().and_then(|lock| lock.alarm);
    known.is_some_and(|known| !is_older(known, changed_at))
}

/// Whether `time` is from before `other`, in whole seconds, which is what some alarms have: within one
/// second no one can tell which came first, and then a lock is set.
fn is_older(time: DateTime<Utc>, other: DateTime<Utc>) -> bool {
    time.trunc_subsecs(0) < other.trunc_subsecs(0)
}

/// Holds a lock back while the secondary is known not to be healthy: with both unhealthy, Route 53
/// answers with the primary whatever its health, and writes go on there.
#[must_use]
pub fn interlock(decision: Decision, secondary_healthy: Option<bool>) -> Decision {
    match (decision, secondary_healthy) {
        (Decision::Lock { .. }, Some(false)) => Decision::Defer(Reason::SecondaryUnhealthy),
        (decision, _) => decision,
    }
}

/// Whether a check is healthy when `passing` of `reporting` checkers find it so: Route 53 wants more
/// than 18 %.
#[must_use]
pub fn is_healthy(passing: usize, reporting: usize) -> bool {
    passing * 100 > reporting * 18
}

/// The path of a check that a lock can hold on.
///
/// # Errors
/// Why none can.
pub fn can_hold(check: &HealthCheck) -> Result<&str, CannotHold> {
    let path = check.path().ok_or_else(|| CannotHold::NoPath(check.check_type.clone()))?;
    if check.inverted {
        return Err(CannotHold::Inverted);
    }
    if check.disabled {
        return Err(CannotHold::Disabled);
    }
    Ok(path)
}

// === impl CannotHold ===

impl From<&CannotHold> for Reason {
    fn from(cannot: &CannotHold) -> Self {
        match cannot {
            CannotHold::NoPath(_) => Self::NoPath,
            CannotHold::Inverted => Self::Inverted,
            CannotHold::Disabled => Self::Disabled,
        }
    }
}

fn list(ids: &[HealthCheckId]) -> String {
    ids.iter().take(10).map(HealthCheckId::as_str).collect::<Vec<_>>().join(", ")
}
