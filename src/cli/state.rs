//! How a health check stands: locked, armed, or why neither.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::screen::{Mood, paint, time};
use crate::failover_lock::alarm::{Alarm, AlarmState};
use crate::failover_lock::config::Config;
use crate::failover_lock::decide::{self, Finding, Health, Standing, Step};
use crate::failover_lock::health_check::{HealthCheck, HealthCheckId};
use crate::failover_lock::outcome::{Outcome, Verdict};
use crate::failover_lock::reason::Reason;
use crate::failover_lock::record::Record;

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
    /// The state of a check with these alarms and tags, by `reconcile`'s own decision.
    #[must_use]
    pub fn of(
        check: &HealthCheck,
        alarms: &[Alarm],
        tags: &BTreeMap<String, String>,
        health: Health,
        config: &Config,
    ) -> Self {
        let path = match decide::can_hold(check) {
            Ok(path) => path,
            Err(why) => return Self::CannotBeLocked { why: why.to_string() },
        };
        let locked_path = config.locked_path.as_str();
        let record = match Record::read(tags, path, check.version, locked_path, Utc::now()) {
            // Tags that were copied from another check: each lock and each restore changes the check.
            Ok(_) if check.was_never_changed() && path != locked_path => Record::default(),
            Ok(record) => record,
            Err(why) => return Self::Unknown { why: why.to_string() },
        };
        let standing = |health| Standing {
            path,
            version: check.version,
            record: &record,
            alarms,
            health,
            turns_within: check.turns_within,
            now: Utc::now(),
        };
        let finding = match decide::reconcile(&standing(Health::Unasked), config) {
            Step::Done(finding) => finding,
            Step::AskCheckers => match decide::reconcile(&standing(health), config) {
                Step::Done(finding) => finding,
                Step::AskCheckers => Finding::Armed,
            },
        };
        match finding {
            Finding::Armed => Self::Armed,
            Finding::LockStands { unrecorded: true, .. } => Self::Locked { since: None, by: None },
            Finding::LockStands { .. } => {
                let lock = record.lock.as_ref();
                let by = lock.map(|lock| lock.by.clone()).filter(|by| !by.is_empty());
                Self::Locked { since: lock.map(|lock| lock.at), by }
            }
            Finding::NeverLocked(alarm) => Self::Overdue { by: alarm.name.clone() },
            Finding::Recorded => {
                Self::Overdue { by: record.lock.as_ref().map(|lock| lock.by.clone()).unwrap_or_default() }
            }
            Finding::Unprotected(Reason::ForeignPath) => Self::ForeignPath,
            Finding::Unprotected(reason) => Self::Unprotected { reason },
        }
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
                    return "locked by its path alone: no tag notes when and why".to_owned();
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
        Reason::OlderThanRestore => "the alarm is from before the last restore",
        Reason::ActionsMuted => "a mute rule holds its alarm's actions back",
        Reason::ActionsSuppressed => "a suppressor holds its alarm's actions back",
        Reason::RecoveryAlarm => "the alarm goes off when the check is healthy",
        Reason::SecondaryUnhealthy => {
            "the secondary is also unhealthy: Route 53 answers with the primary anyway"
        }
        Reason::Throttled => "Route 53's limit is used up: the next tick tries again",
        Reason::UndoneByHand => "it was locked, and its path was set back without a restore",
        Reason::LockDoesNotHold => {
            "it is on the locked path, and its alarms and checkers do not find it unhealthy"
        }
        Reason::DryRun => "the function is in a dry run, and locks nothing",
        Reason::EnabledInAlarm => "its alarm's actions were turned on while it was in ALARM",
        Reason::NoData => "its alarms have no data",
        Reason::NoPath => "its type requests no path",
        Reason::Inverted => "it is inverted",
        Reason::Disabled => "it is disabled",
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
        Verdict::LockedInVain => ("its path was set, and no lock holds on it", Mood::Wrong),
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
