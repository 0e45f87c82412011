//! How a health check stands: locked, armed, or why neither.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::screen::{Mood, paint, time};
use crate::failover_lock::alarm::{Alarm, AlarmState};
use crate::failover_lock::config::Config;
use crate::failover_lock::decide::{self, Finding, Reason};
use crate::failover_lock::health_check::{HealthCheck, HealthCheckId};
use crate::failover_lock::notes::{ALARM, LOCKED_AT};
use crate::failover_lock::outcome::{Outcome, Verdict};
use crate::failover_lock::route53::notes;
use crate::remote::aws::Failure;

/// How a health check stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// The next alarm locks it.
    Armed,
    /// It is locked.
    Locked {
        /// When a function or a person locked it.
        since: Option<DateTime<Utc>>,
        /// The alarm it was locked for.
        by: Option<String>,
    },
    /// Its alarm is in ALARM, and no lock was set for it: `reconcile` is to set it within a minute.
    Overdue {
        /// The alarm.
        by: String,
    },
    /// Nothing would lock it.
    Unprotected {
        /// Why.
        reason: Reason,
    },
    /// Its path is neither the healthy nor the locked one.
    ForeignPath,
    /// It could not be seen.
    Unknown {
        /// Why.
        why: String,
    },
    /// No lock can hold on it.
    CannotBeLocked {
        /// Why.
        why: String,
    },
}

// === impl State ===

impl State {
    /// The state of a check with these alarms and tags.
    ///
    /// # Errors
    /// A tag of this system holds no time that has passed.
    pub fn of(
        check: &HealthCheck,
        alarms: &[Alarm],
        tags: &BTreeMap<String, String>,
        config: &Config,
    ) -> Result<Self, Failure> {
        let path = match decide::can_hold(check) {
            Ok(path) => path,
            Err(why) => return Ok(Self::CannotBeLocked { why: why.to_string() }),
        };
        if path == config.locked_path.as_str() {
            let restored_at = notes(tags)?.restored_at;
            let since = tags.get(LOCKED_AT).and_then(|at| at.parse::<DateTime<Utc>>().ok());
            // Tags from before the last switch-back are another lock's.
            let since = since.filter(|at| restored_at.is_none_or(|restored| restored <= *at));
            let by = since.and_then(|_| tags.get(ALARM).cloned());
            return Ok(Self::Locked { since, by });
        }
        if path != config.healthy_path.as_str() {
            return Ok(Self::ForeignPath);
        }
        Ok(match decide::reconcile(path, alarms, &notes(tags)?, config) {
            Finding::Armed | Finding::LockStands { .. } => Self::Armed,
            Finding::NeverLocked(alarm) => Self::Overdue { by: alarm.name.clone() },
            Finding::Unprotected(reason) => Self::Unprotected { reason },
        })
    }

    /// How good that is.
    #[must_use]
    pub fn mood(&self) -> Mood {
        match self {
            Self::Armed => Mood::Ok,
            Self::Locked { .. } => Mood::Warn,
            Self::Unknown { .. } => Mood::Unknown,
            Self::Overdue { .. }
            | Self::Unprotected { .. }
            | Self::ForeignPath
            | Self::CannotBeLocked { .. } => Mood::Wrong,
        }
    }

    /// The state in a line of words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Armed => "armed".to_owned(),
            Self::Locked { since, by } => {
                let Some(since) = since else {
                    return "locked by its path alone: nobody noted when and why".to_owned();
                };
                let by = match by.as_deref() {
                    Some(by) if by.starts_with(BY_HAND) => format!(" {by}"),
                    Some(alarm) => format!(" by alarm {alarm}"),
                    None => String::new(),
                };
                format!("locked since {}{by}", time(*since))
            }
            Self::Overdue { by } => format!("not locked, though alarm {by} is in ALARM"),
            Self::Unprotected { reason } => format!("unprotected: {}", why(*reason)),
            Self::ForeignPath => "foreign path: neither the healthy nor the locked one".to_owned(),
            Self::Unknown { why } => format!("unknown: {why}"),
            Self::CannotBeLocked { why } => format!("cannot be locked: {why}"),
        }
    }
}

/// How the note of a lock begins that a person has set.
pub const BY_HAND: &str = "by hand: ";

/// A reason in words.
#[must_use]
pub fn why(reason: Reason) -> &'static str {
    match reason {
        Reason::NotInAlarm => "the alarm did not go to ALARM",
        Reason::NotAHealthCheckAlarm => "the alarm does not watch a health check's health",
        Reason::NotGuarded => "the health check is not guarded",
        Reason::OlderThanRestore => "the alarm went off before the last switch-back",
        Reason::SecondaryUnhealthy => {
            "the secondary is unhealthy, too: Route 53 answers with the primary anyway"
        }
        Reason::UndoneByHand => {
            "it was locked for the alarm that still stands, and somebody set the path back"
        }
        Reason::ActionsDisabled => "its alarms have their actions off, or none that leads to lock",
        Reason::NoAlarm => "no metric alarm watches its health",
        Reason::ForeignPath => "its path is neither the healthy nor the locked one",
    }
}

/// The alarm that matters most: one that acts, and among those one in ALARM.
#[must_use]
pub fn foremost(alarms: &[Alarm]) -> Option<&Alarm> {
    alarms.iter().max_by_key(|alarm| (alarm.actions_enabled, alarm.state == AlarmState::Alarm))
}

/// An outcome in a line of words.
pub(super) fn text(outcome: &Outcome) -> String {
    let id = outcome.health_check_id.as_ref().map_or("no health check", HealthCheckId::as_str);
    let path = match (&outcome.previous_path, &outcome.path) {
        (Some(before), Some(now)) if before != now => format!(" ({before} → {now})"),
        (_, Some(now)) => format!(" ({now})"),
        _ => String::new(),
    };
    let (words, mood) = match outcome.outcome {
        Verdict::Locked => ("locked", Mood::Ok),
        Verdict::WouldLock => ("would be locked", Mood::Ok),
        Verdict::AlreadyLocked => ("is locked already", Mood::Ok),
        Verdict::Ignored => ("ignored", Mood::Warn),
        Verdict::Deferred => ("deferred", Mood::Warn),
        Verdict::Restored => ("restored", Mood::Ok),
        Verdict::WouldRestore => ("would be restored", Mood::Ok),
        Verdict::AlreadyRestored => ("is restored already", Mood::Ok),
        Verdict::Armed => ("armed", Mood::Ok),
        Verdict::Unprotected => ("unprotected", Mood::Wrong),
    };
    let reason = outcome.reason.map(|reason| format!(": {}", why(reason))).unwrap_or_default();
    format!("{id}: {}{path}{reason}\n", paint(words, mood))
}
