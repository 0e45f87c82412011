//! The result of a tick: its answer, its log lines and its metrics.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use lambda_runtime::Diagnostic;
use serde::Serialize;
use serde_json::json;
use thiserror::Error;
use tracing::{info, warn};

use crate::lambda;
use crate::lambda::metrics::{self, Metric};

/// The state of a latch after a look: the first of these that fits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// A bucket is invisible, no bucket answers, or the clock is off, for this cause.
    Failed(String),
    /// Too few name servers answer, or they have contradicted each other for a minute.
    Blind,
    /// The name servers contradict each other.
    Unsettled,
    /// A person is releasing the latch, or was until a moment ago.
    Holding,
    /// There is an object, and Route 53 answers the primary all the same.
    NotHolding,
    /// There is an object in some buckets only.
    Half,
    /// There is an object in every bucket.
    Locked,
    /// The objects would be written, were this not a dry run.
    WouldLock,
    /// Route 53 answers the standby, which is not known to be healthy.
    StandbyUnhealthy,
    /// The primary is healthy and out of service, and there is no object: a latch check is wrong.
    LatchSuspect,
    /// The primary serves, and a failover would be reported, and not locked.
    DryRun,
    /// A failover locks.
    Armed,
}

/// A latch after a tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its name.
    pub latch: String,
    /// Its state after the last look.
    pub state: State,
    /// Whether there is an object in any bucket.
    pub standing: Option<bool>,
    /// How often this tick's looks set the lock.
    pub locked: u32,
    /// Whether an object that stood at the tick before is gone, and no hold was seen.
    pub opened: bool,
    /// In how many looks a lock was due, and no object was seen afterwards.
    pub missed: u32,
    /// Whether the watcher is in a dry run.
    pub is_dry_run: bool,
    /// The longest time between the starts of two looks.
    pub look_gap: Duration,
}

/// The result of a tick.
#[derive(Debug)]
pub struct Report {
    pub(super) outcomes: Vec<Outcome>,
    /// The result of the event that writes the `control` object, by bucket.
    pub(super) control: Option<BTreeMap<String, Result<&'static str, String>>>,
}

/// A tick's answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The state of each latch.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub latches: BTreeMap<String, State>,
    /// What became of the `control` object in each bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<BTreeMap<String, &'static str>>,
}

/// A tick in which nothing was seen, or a `control` object that could not be written.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("{}", .0.iter().map(|(name, cause)| format!("{name}: {cause}")).collect::<Vec<_>>().join("; "))]
pub struct InvocationError(pub Vec<(String, String)>);

// === impl State ===

impl State {
    /// Its name in answers, log lines and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Failed(_) => "failed",
            Self::Blind => "blind",
            Self::Unsettled => "unsettled",
            Self::Holding => "holding",
            Self::NotHolding => "not_holding",
            Self::Half => "half",
            Self::Locked => "locked",
            Self::WouldLock => "would_lock",
            Self::StandbyUnhealthy => "standby_unhealthy",
            Self::LatchSuspect => "latch_suspect",
            Self::DryRun => "dry_run",
            Self::Armed => "armed",
        }
    }

    /// The cause of a failure.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        match self {
            Self::Failed(cause) => Some(cause),
            Self::Blind
            | Self::Unsettled
            | Self::Holding
            | Self::NotHolding
            | Self::Half
            | Self::Locked
            | Self::WouldLock
            | Self::StandbyUnhealthy
            | Self::LatchSuspect
            | Self::DryRun
            | Self::Armed => None,
        }
    }
}

impl Serialize for State {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

// === impl Outcome ===

impl Outcome {
    /// A latch of this name in this state.
    #[must_use]
    pub(super) fn new(latch: &str, state: State) -> Self {
        Self {
            latch: latch.to_owned(),
            state,
            standing: None,
            locked: 0,
            opened: false,
            missed: 0,
            is_dry_run: false,
            look_gap: Duration::ZERO,
        }
    }

    /// The outcome of this look and a later one.
    pub(super) fn then(self, last: Self) -> Self {
        Self {
            locked: self.locked + last.locked,
            opened: self.opened || last.opened,
            missed: self.missed + last.missed,
            look_gap: self.look_gap.max(last.look_gap),
            ..last
        }
    }

    /// Writes the line `done`.
    pub(super) fn log(&self) {
        let (latch, state) = (&self.latch, self.state.name());
        let look_gap = self.look_gap.as_secs_f64();
        let (standing, missed) = (self.standing, self.missed);
        if let Some(cause) = self.state.cause() {
            warn!(latch, state, standing, missed, lookGap = look_gap, cause, "done");
        } else {
            info!(latch, state, standing, missed, lookGap = look_gap, "done");
        }
    }

    /// The metrics of namespace `FailoverLatch`, each 0 when not so; without `Standing` as long as that is not known.
    #[must_use]
    pub fn metrics(&self) -> Vec<Metric> {
        let one = |name, holds: bool| Metric::count(name, u32::from(holds));
        let is = |name, state: &State| one(name, self.state == *state);
        let mut metrics = vec![
            is("Armed", &State::Armed),
            Metric::count("Locked", self.locked),
            is("Half", &State::Half),
            is("NotHolding", &State::NotHolding),
            is("Blind", &State::Blind),
            is("Holding", &State::Holding),
            one("Opened", self.opened),
            Metric::count("Missed", self.missed),
            one("DryRun", self.is_dry_run),
            is("Suspect", &State::LatchSuspect),
            one("Failed", self.state.cause().is_some()),
            Metric { name: "LookGap", value: json!(self.look_gap.as_secs_f64()), unit: "Seconds" },
        ];
        metrics.extend(self.standing.map(|standing| one("Standing", standing)));
        metrics
    }
}

// === impl Report ===

impl lambda::Report for Report {
    type Answer = Answer;
    type Error = InvocationError;

    /// Any event is a tick, whatever it contains; a Runtime API that sends no JSON is broken.
    fn not_json(cause: String) -> Self {
        let control = BTreeMap::from([("event".to_owned(), Err(cause))]);
        Self { outcomes: Vec::new(), control: Some(control) }
    }

    fn metrics(&self, _function: &str, now: SystemTime) -> impl Iterator<Item = String> {
        self.outcomes.iter().map(move |outcome| {
            metrics::line("FailoverLatch", &[&[("Latch", &outcome.latch)]], &outcome.metrics(), now)
        })
    }

    /// # Errors
    /// Every latch failed, or the `control` object could not be written to a bucket; each is named.
    fn into_answer(self) -> Result<Answer, InvocationError> {
        let mut failed = Vec::new();
        let mut control = BTreeMap::new();
        for (bucket, result) in self.control.iter().flatten() {
            match result {
                Ok(done) => drop(control.insert(bucket.clone(), *done)),
                Err(cause) => failed.push((bucket.clone(), cause.clone())),
            }
        }
        if failed.is_empty() && !self.outcomes.is_empty() {
            failed.extend(
                self.outcomes
                    .iter()
                    .filter_map(|outcome| Some((outcome.latch.clone(), outcome.state.cause()?.to_owned()))),
            );
            if failed.len() < self.outcomes.len() {
                failed.clear();
            }
        }
        if !failed.is_empty() {
            return Err(InvocationError(failed));
        }
        let latches = self.outcomes.into_iter().map(|outcome| (outcome.latch, outcome.state)).collect();
        Ok(Answer { latches, control: self.control.map(|_| control) })
    }
}

// === impl InvocationError ===

impl From<InvocationError> for Diagnostic {
    fn from(error: InvocationError) -> Self {
        Self { error_type: "AllFailed".to_owned(), error_message: format!("{error} (docs/latch.md#states)") }
    }
}
