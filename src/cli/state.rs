//! How a health check stands: locked, armed, or why neither.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::clock;
use super::mute::PAUSE;
use super::screen::{Mood, paint};
use super::text::{ago, plain, time};
use crate::failover_lock::alarm::{Alarm, AlarmState};
use crate::failover_lock::cloudwatch::MuteRule;
use crate::failover_lock::config::Config;
use crate::failover_lock::decide::{self, Finding, Health, Standing, Step};
use crate::failover_lock::health_check::{HealthCheck, HealthCheckId};
use crate::failover_lock::outcome::{Outcome, Verdict};
use crate::failover_lock::reason::Reason;
use crate::failover_lock::record::{self, Intent, Record};

/// How a health check stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// The next alarm locks it, as far as its path, its tags and its alarms show it. Whether the alarm reaches `lock` is
    /// what `failoverctl doctor` looks at.
    Armed,
    /// It is locked.
    Locked {
        /// When a function or a person locked it.
        since: Option<DateTime<Utc>>,
        /// The alarm it was locked for.
        by: Option<String>,
        /// Whether its tags record the lock; `None` if they could not be read.
        #[serde(skip)]
        recorded: Option<bool>,
    },
    /// Its alarm is in ALARM, and no lock was set for it: `reconcile` is to set it within a minute.
    Overdue {
        /// The alarm.
        by: String,
    },
    /// An alarm has asked for a lock, which waits until the secondary is healthy.
    Deferred {
        /// When.
        since: DateTime<Utc>,
        /// The alarm.
        by: String,
    },
    /// Nothing would lock it.
    Unprotected {
        /// Why.
        reason: Reason,
    },
    /// A person has paused its alarms, with `failoverctl pause`.
    Paused {
        /// Until when.
        #[serde(skip_serializing_if = "Option::is_none")]
        until: Option<DateTime<Utc>>,
        /// Why, and who.
        why: String,
    },
    /// Its path is neither the healthy nor the locked one.
    ForeignPath,
    /// What was seen does not show its state.
    Unknown {
        /// What was seen, and what was not.
        why: String,
        /// When it was locked by its record, if only its path could not be read.
        #[serde(skip_serializing_if = "Option::is_none")]
        since: Option<DateTime<Utc>>,
        /// The alarm it was locked for by its record.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// No lock can hold on it.
    CannotBeLocked {
        /// Why.
        why: String,
    },
}

/// What was read of a check.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The check.
    pub check: &'a HealthCheck,
    /// Its alarms, as far as they could be read.
    pub alarms: &'a [Alarm],
    /// Whether all of them could be read.
    pub all_alarms: bool,
    /// The mute rules, which hold actions back; `None` if they could not be read.
    pub rules: Option<&'a [MuteRule]>,
    /// Its tags, if they could be read.
    pub tags: Option<&'a BTreeMap<String, String>>,
    /// What Route 53's checkers find.
    pub health: Health,
}

// === impl Seen ===

impl Seen<'_> {
    /// The rules that hold back this alarm, which leads to a lock.
    fn rules_on(&self, alarm: &Alarm, config: &Config) -> impl Iterator<Item = &MuteRule> {
        let leads = decide::leads_to_lock(alarm, config);
        self.rules.unwrap_or_default().iter().filter(move |rule| leads && rule.alarms.contains(&alarm.name))
    }

    fn is_muted(&self, alarm: &Alarm, config: &Config) -> bool {
        self.rules_on(alarm, config).next().is_some()
    }

    /// The state of a check whose alarms are held back: paused, if a rule that does so is a pause of this check.
    fn held_back(&self, config: &Config) -> State {
        let own = format!("{PAUSE}{}-", self.check.id);
        let rules = self.alarms.iter().flat_map(|alarm| self.rules_on(alarm, config));
        let last = rules.filter(|rule| rule.name.starts_with(&own)).max_by_key(|rule| rule.until);
        let Some(pause) = last else { return State::Unprotected { reason: Reason::ActionsMuted } };
        // It ends as soon as one of its alarms leads to a lock again.
        let end = |alarm: &Alarm| {
            let ends = self.rules_on(alarm, config).map(|rule| rule.until);
            ends.max_by_key(|end| end.unwrap_or(DateTime::<Utc>::MAX_UTC)).flatten()
        };
        let muted = self.alarms.iter().filter(|alarm| self.is_muted(alarm, config));
        State::Paused { until: muted.filter_map(end).min(), why: pause.description.clone() }
    }
}

// === impl State ===

impl State {
    /// The state of a check, by `reconcile`'s own decision, and whether mute rules hold back all of its alarms. Where alarms
    /// or tags could not be read, only what the others show is a state; else it is unknown.
    #[must_use]
    pub fn of(seen: &Seen<'_>, config: &Config) -> Self {
        let Seen { check, all_alarms, tags, health, .. } = *seen;
        let path = match decide::can_hold(check) {
            Ok(path) => path,
            Err(why) => return Self::CannotBeLocked { why: why.to_string() },
        };
        let locked_path = config.locked_path.as_str();
        let none = BTreeMap::new();
        let record = match Record::read(tags.unwrap_or(&none), path, check.version, locked_path, clock::now())
        {
            Ok(record) if check.was_never_changed() && path != locked_path => record.of_one_never_changed(),
            Ok(record) => record,
            Err(why) => return Self::unknown(why.to_string()),
        };
        // Whether a lock holds, a muted alarm shows as well.
        let is_locked = record.is_locked(path, check.version, locked_path);
        let muted = |alarm: &Alarm| seen.is_muted(alarm, config);
        // Its notification was held back, and `reconcile` does not make up for that.
        let one_held_back = seen.alarms.iter().any(|alarm| muted(alarm) && alarm.state == AlarmState::Alarm);
        let is_heard = |alarm: &&Alarm| is_locked || !muted(alarm);
        let alarms: Vec<_> = seen.alarms.iter().filter(is_heard).cloned().collect();
        let is_muted = alarms.len() < seen.alarms.len();
        let standing = |health| Standing {
            path,
            version: check.version,
            record: &record,
            // Where there is no room for a record, this look is not the first one.
            seen_locked: if tags.is_some_and(record::takes_no_lock) { record::EARLIER } else { clock::now() },
            alarms: &alarms,
            health,
            turns_within: check.turns_within,
            now: clock::now(),
        };
        let finding = match decide::reconcile(&standing(Health::Unasked), config) {
            Step::Done(finding) => finding,
            Step::AskCheckers => match decide::reconcile(&standing(health), config) {
                Step::Done(finding) => finding,
                Step::AskCheckers => Finding::Armed,
            },
        };
        let is_recorded = record.stands(path, check.version);
        let locked = || {
            let lock = record.lock.as_ref();
            let by = lock.map(|lock| lock.by.clone()).filter(|by| !by.is_empty());
            Self::Locked { since: lock.map(|lock| lock.at), by, recorded: Some(true) }
        };
        let by_path = |recorded| Self::Locked { since: None, by: None, recorded };
        let is_void = || {
            all_alarms
                && health == Health::Healthy
                && alarms.iter().all(|alarm| alarm.state == AlarmState::Ok)
        };
        // As far as its alarms go.
        let is_unwatched = |reason| {
            use Reason::{ActionsDisabled, NeverGoesOff, NoAlarm, NoData};
            matches!(reason, NoAlarm | ActionsDisabled | NeverGoesOff | NoData)
        };
        match finding {
            // When it was set is not known.
            Finding::LockStands { .. } if (!is_recorded || tags.is_none()) && is_void() => {
                let why = "it is on the locked path, it is not known since when, and its checkers and alarms find it \
                           healthy: if they still do after five minutes, the lock does not hold";
                Self::unknown(why.to_owned())
            }
            Finding::LockStands { .. } if tags.is_none() => by_path(None),
            Finding::LockStands { .. } if !is_recorded => by_path(Some(false)),
            Finding::LockStands { .. } => locked(),
            // Neither its alarms nor its checkers were seen to find it healthy.
            Finding::Unprotected(Reason::LockDoesNotHold) if !all_alarms && health != Health::Healthy => {
                locked()
            }
            Finding::Unprotected(reason) if is_muted && is_unwatched(reason) => seen.held_back(config),
            Finding::Unprotected(reason) if !all_alarms && is_unwatched(reason) => {
                Self::unknown(format!("it asks for {path}; whether an alarm would lock it could not be read"))
            }
            Finding::Armed | Finding::Unprotected(Reason::ForeignPath) if tags.is_none() => {
                let why = format!("it asks for {path}; whether it was locked or restored could not be read");
                Self::unknown(why)
            }
            Finding::Armed if one_held_back => seen.held_back(config),
            Finding::Armed if seen.rules.is_none() => {
                let why = format!(
                    "it asks for {path}; whether a mute rule holds its alarms back could not be read"
                );
                Self::unknown(why)
            }
            Finding::Armed => Self::Armed,
            Finding::NeverLocked(alarm) if seen.rules.is_none() => Self::unknown(format!(
                "its alarm {} is in ALARM, and it is not locked; whether a mute rule holds that back could not be read",
                alarm.name
            )),
            Finding::NeverLocked(alarm) => Self::Overdue { by: alarm.name.clone() },
            Finding::Recorded => record.lock.as_ref().map_or(Self::Armed, |lock| {
                if seen.alarms.iter().any(|alarm| muted(alarm) && lock.answers(&alarm.name)) {
                    seen.held_back(config)
                } else {
                    Self::Deferred { since: lock.at, by: lock.by.clone() }
                }
            }),
            Finding::Unprotected(Reason::ForeignPath) => Self::ForeignPath,
            Finding::Unprotected(reason) => Self::Unprotected { reason },
        }
    }

    /// The state of a check that could not be read, with what its tags record.
    #[must_use]
    pub fn unread(why: String, tags: Option<&BTreeMap<String, String>>, config: &Config) -> Self {
        let read = |tags| Record::read(tags, "", 0, config.locked_path.as_str(), clock::now()).ok();
        let record = tags.and_then(read).filter(|record| record.intent("", 0) == Intent::Out);
        let lock = record.and_then(|record| record.lock);
        let by = lock.as_ref().map(|lock| lock.by.clone()).filter(|by| !by.is_empty());
        Self::Unknown { why, since: lock.map(|lock| lock.at), by }
    }

    fn unknown(why: String) -> Self {
        Self::Unknown { why, since: None, by: None }
    }

    /// How good that is.
    #[must_use]
    pub fn mood(&self) -> Mood {
        match self {
            Self::Armed => Mood::Ok,
            Self::Locked { .. } | Self::Paused { .. } => Mood::Warn,
            Self::Unknown { .. } => Mood::Unknown,
            Self::Overdue { .. }
            | Self::Deferred { .. }
            | Self::Unprotected { .. }
            | Self::ForeignPath
            | Self::CannotBeLocked { .. } => Mood::Wrong,
        }
    }

    /// The state in a word or two.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Armed => "armed",
            Self::Locked { .. } => "locked",
            Self::Overdue { .. } => "not locked",
            Self::Deferred { .. } => "deferred",
            Self::Unprotected { .. } => "unprotected",
            Self::Paused { .. } => "paused",
            Self::ForeignPath => "foreign path",
            Self::Unknown { .. } => "unknown",
            Self::CannotBeLocked { .. } => "cannot be locked",
        }
    }

    /// The rest of the sentence that begins with the name: since when, by which alarm, why.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        Some(match self {
            Self::Armed => return None,
            Self::Locked { since: Some(since), by, .. } => format!("{}{}", ago(*since), whose(by.as_deref())),
            Self::Locked { recorded: Some(_), .. } => {
                "by its path alone: no tag records when and why".to_owned()
            }
            Self::Locked { recorded: None, .. } => "by its path: when and why could not be read".to_owned(),
            Self::Overdue { by } => format!("though alarm {} is in ALARM", plain(by)),
            Self::Deferred { since, by } => format!(
                "a lock{} waits since {} until the secondary is healthy",
                whose(Some(by)),
                time(*since)
            ),
            // The runbook knows it by its key.
            Self::Unprotected { reason } => format!("{} ({})", why(*reason), <&str>::from(*reason)),
            Self::Paused { until, why } => {
                let until = until.map(|until| format!("until {}: ", time(until))).unwrap_or_default();
                format!("{until}{}", plain(why))
            }
            Self::ForeignPath => "neither the healthy nor the locked one".to_owned(),
            Self::Unknown { why, since, by } => {
                let since = since.map(|at| format!(". Its tags say: locked {}", ago(at)));
                let by = since.as_ref().map(|_| whose(by.as_deref()));
                format!("{}{}{}", plain(why), since.unwrap_or_default(), by.unwrap_or_default())
            }
            Self::CannotBeLocked { why } => plain(why),
        })
    }

    /// The state as what follows "it is" or "it".
    #[must_use]
    pub fn clause(&self) -> String {
        match self {
            Self::CannotBeLocked { .. } => self.words(),
            _ => format!("is {}", self.words()),
        }
    }

    /// The state in a line of words.
    #[must_use]
    pub fn words(&self) -> String {
        let after = match self {
            Self::Locked { .. } | Self::Paused { .. } => " ",
            Self::Overdue { .. } => ", ",
            Self::Armed
            | Self::Deferred { .. }
            | Self::Unprotected { .. }
            | Self::ForeignPath
            | Self::Unknown { .. }
            | Self::CannotBeLocked { .. } => ": ",
        };
        self.detail()
            .map_or_else(|| self.name().to_owned(), |detail| self.name().to_owned() + after + &detail)
    }
}

/// Who asked for a lock: an alarm, or a person.
fn whose(by: Option<&str>) -> String {
    match by {
        Some(by) if record::is_by_hand(by) || record::is_found(by) => format!(" {}", plain(by)),
        Some(alarm) => format!(" by alarm {}", plain(alarm)),
        None => String::new(),
    }
}

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
        Reason::NeverGoesOff => {
            "its alarms never go off: a threshold, dimension, unit or evaluation is wrong"
        }
        Reason::NoPath => "its type requests no path",
        Reason::Inverted => "it is inverted",
        Reason::Disabled => "it is disabled",
        Reason::NotRecorded => "that is not on record as done: repeat the command within five minutes",
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
        (Some(before), Some(now)) if before != now => format!(" ({} → {})", plain(before), plain(now)),
        (_, Some(now)) => format!(" ({})", plain(now)),
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
