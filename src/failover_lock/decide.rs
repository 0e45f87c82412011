//! What to do: pure functions from what was seen to a decision with its reason.

use chrono::{DateTime, SubsecRound, Utc};
use serde::Serialize;
use thiserror::Error;

use super::alarm::{Alarm, AlarmState, AlarmTransition};
use super::config::Config;
use super::health_check::{HealthCheck, HealthCheckId};
use super::notes::Notes;
use crate::program::text::Quoted;

/// Whether a transition is about a health check that this function guards.
#[derive(Debug, PartialEq, Eq)]
pub enum Concern {
    /// Nothing to do with this function.
    None(Reason),
    /// Read this check and decide.
    Check(HealthCheckId),
}

/// What to do about a check that an alarm is about.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Leave it alone.
    Ignore(Reason),
    /// The lock stands.
    AlreadyLocked,
    /// Not now.
    Defer(Reason),
    /// Set the locked path, on the version that was read.
    Lock {
        /// `None` where the check could not be read.
        version: Option<i64>,
    },
}

/// Why an alarm does not lock, or not yet; why a check is unprotected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub enum Reason {
    /// It changed to OK or to `INSUFFICIENT_DATA`.
    NotInAlarm,
    /// It watches nothing that tells a health check's health.
    NotAHealthCheckAlarm,
    /// It watches checks that are not this function's.
    NotGuarded,
    /// A person has switched the check back since.
    OlderThanRestore,
    /// The secondary is not healthy either, so Route 53 answers with the primary.
    SecondaryUnhealthy,
    /// It was locked for the alarm that is still in ALARM, and somebody has set the path back.
    UndoneByHand,
    /// Its alarms have their actions off, or none of them leads to `lock`.
    ActionsDisabled,
    /// No metric alarm watches its health.
    NoAlarm,
    /// Its alarm is in ALARM, and its path is neither of the two: somebody has set it.
    ForeignPath,
}

/// What is known of a check when the decision falls.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The check; `None` where reading it is not permitted.
    pub check: Option<&'a HealthCheck>,
    /// What is noted on it; nothing where that cannot be read.
    pub notes: Notes,
}

/// What `reconcile` finds of a check.
#[derive(Debug, PartialEq, Eq)]
pub enum Finding<'a> {
    /// The next alarm will lock it.
    Armed,
    /// It is locked.
    LockStands {
        /// An alarm that the notes do not know yet: note it, so that a lock that is undone by hand
        /// is told from one that was never set.
        unnoted: Option<&'a Alarm>,
    },
    /// This alarm asked for a lock and none was ever set: its notification was lost, failed, or the
    /// lock was deferred.
    NeverLocked(&'a Alarm),
    /// Nothing will lock it.
    Unprotected(Reason),
}

/// The alarm watches several guarded checks, and which one failed it does not say.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("the alarm watches several health checks ({}) and does not say which failed: give each check an alarm of its own, or name exactly one of them in GUARDED_HEALTH_CHECKS", list(.0))]
pub struct Ambiguous(pub Vec<HealthCheckId>);

/// No lock can hold on this check, whatever its path.
#[derive(Debug, PartialEq, Eq, Error)]
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

/// What to do about a request to switch back.
#[derive(Debug, PartialEq, Eq)]
pub enum SwitchBack {
    /// It stands on the healthy path.
    AlreadyRestored,
    /// It is locked: set the healthy path.
    Restore,
}

/// Why a check is not switched back.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Not one of `GUARDED_HEALTH_CHECKS`.
    #[error(
        "it is not in this function's GUARDED_HEALTH_CHECKS: add it there, or ask the function that guards it"
    )]
    NotGuarded,
    /// It requests no path.
    #[error("its type {} requests no path, so failover-lock never locked it", Quoted(.0))]
    NoPath(String),
    /// Somebody else has changed the path.
    #[error("its path is {}, neither the locked nor the healthy one: somebody changed it: find out why, and set the locked path to have it restored from there", Quoted(.0))]
    ForeignPath(String),
    /// The primary does not answer as a healthy one does.
    #[error(
        "the primary is not healthy: {0}. Its alarm is in ALARM already and would not fire again, so it would stand unprotected. Mend the primary first; if only Route 53's checkers can reach it, or you mean it, repeat with \"force\": true (failoverctl: --force)"
    )]
    Unhealthy(String),
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
    match guarded.as_slice() {
        [] => Ok(Concern::None(Reason::NotGuarded)),
        [id] => Ok(Concern::Check(id.clone())),
        _ => Err(Ambiguous(guarded)),
    }
}

/// Decides about a check whose alarm went off.
///
/// # Errors
/// No lock can hold on the check.
pub fn lock(transition: &AlarmTransition, seen: &Seen<'_>, config: &Config) -> Result<Decision, CannotHold> {
    if is_older(transition.changed_at, seen.notes.restored_at) {
        return Ok(Decision::Ignore(Reason::OlderThanRestore));
    }
    let Some(check) = seen.check else {
        return Ok(Decision::Lock { version: None });
    };
    if can_hold(check)? == config.locked_path.as_str() {
        return Ok(Decision::AlreadyLocked);
    }
    Ok(Decision::Lock { version: Some(check.version) })
}

/// Decides about a check on `path` by the alarms on it as they stand, not by one's change.
///
/// Of several alarms in ALARM the newest decides: whoever undid a lock by hand, or switched back,
/// has seen the older ones.
#[must_use]
pub fn reconcile<'a>(path: &str, alarms: &'a [Alarm], notes: &Notes, config: &Config) -> Finding<'a> {
    let leads_to_lock = |alarm: &&Alarm| match &config.alarm_actions {
        None => alarm.actions_enabled,
        Some(ours) => alarm.actions_enabled && alarm.actions.iter().any(|action| ours.contains(action)),
    };
    let acting: Vec<_> = alarms.iter().filter(leads_to_lock).collect();
    let in_alarm = acting.iter().filter(|alarm| alarm.state == AlarmState::Alarm);
    let newest = in_alarm.max_by_key(|alarm| alarm.changed_at).copied();
    if path == config.locked_path.as_str() {
        return Finding::LockStands { unnoted: newest.filter(|alarm| !is_noted(alarm.changed_at, notes)) };
    }
    match newest {
        Some(alarm) if is_older(alarm.changed_at, notes.restored_at) => {
            Finding::Unprotected(Reason::OlderThanRestore)
        }
        Some(alarm) if is_noted(alarm.changed_at, notes) => Finding::Unprotected(Reason::UndoneByHand),
        Some(_) if path != config.healthy_path.as_str() => Finding::Unprotected(Reason::ForeignPath),
        Some(alarm) => Finding::NeverLocked(alarm),
        None if alarms.is_empty() => Finding::Unprotected(Reason::NoAlarm),
        None if acting.is_empty() => Finding::Unprotected(Reason::ActionsDisabled),
        None => Finding::Armed,
    }
}

/// Whether the notes know an alarm that changed at `changed_at`, or a later one.
#[must_use]
pub fn is_noted(changed_at: DateTime<Utc>, notes: &Notes) -> bool {
    notes.alarm_changed_at.is_some_and(|noted| !is_older(noted, Some(changed_at)))
}

/// Whether `time` is from before `other`, in whole seconds, which is what tags and some alarms have:
/// within one second nobody can tell which came first, and then a lock is set.
fn is_older(time: DateTime<Utc>, other: Option<DateTime<Utc>>) -> bool {
    other.is_some_and(|other| time.trunc_subsecs(0) < other.trunc_subsecs(0))
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

/// Decides about a check that a person wants back.
///
/// # Errors
/// Why it stays as it is.
pub fn switch_back(check: &HealthCheck, config: &Config) -> Result<SwitchBack, Refusal> {
    match check.path() {
        None => Err(Refusal::NoPath(check.check_type.clone())),
        Some(path) if path == config.healthy_path.as_str() => Ok(SwitchBack::AlreadyRestored),
        Some(path) if path == config.locked_path.as_str() => Ok(SwitchBack::Restore),
        Some(path) => Err(Refusal::ForeignPath(path.to_owned())),
    }
}

// === impl Reason ===

impl From<Reason> for &'static str {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::NotInAlarm => "not_in_alarm",
            Reason::NotAHealthCheckAlarm => "not_a_health_check_alarm",
            Reason::NotGuarded => "not_guarded",
            Reason::OlderThanRestore => "older_than_restore",
            Reason::SecondaryUnhealthy => "secondary_unhealthy",
            Reason::UndoneByHand => "undone_by_hand",
            Reason::ActionsDisabled => "actions_disabled",
            Reason::NoAlarm => "no_alarm",
            Reason::ForeignPath => "foreign_path",
        }
    }
}

fn list(ids: &[HealthCheckId]) -> String {
    ids.iter().take(10).map(HealthCheckId::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_18_percent_of_the_checkers_make_a_check_healthy() {
        for (passing, reporting, healthy) in
            [(0, 16, false), (2, 16, false), (3, 16, true), (18, 100, false), (19, 100, true)]
        {
            assert_eq!(is_healthy(passing, reporting), healthy, "{passing} of {reporting}");
        }
    }

    #[test]
    fn only_a_lock_waits_for_the_secondary_and_only_one_that_is_known_to_be_unhealthy() {
        let lock = || Decision::Lock { version: Some(1) };
        assert_eq!(interlock(lock(), Some(false)), Decision::Defer(Reason::SecondaryUnhealthy));
        assert_eq!(interlock(lock(), Some(true)), lock());
        assert_eq!(interlock(lock(), None), lock());
        assert_eq!(interlock(Decision::AlreadyLocked, Some(false)), Decision::AlreadyLocked);
    }
}
