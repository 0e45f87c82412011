//! The result of an invocation: its answer, its error, its log lines and its metrics.

use std::time::SystemTime;

use serde::Serialize;
use tracing::info;

use super::error::{FailedRecord, InvocationError};
use super::event::Malformed;
use super::health_check::HealthCheckId;
use super::reason::Reason;
use crate::lambda;
use crate::lambda::metrics::{self, Metric};

/// The result of an invocation: an outcome or a failure for each record, in the event's order.
#[derive(Debug)]
pub struct Report {
    pub(super) results: Vec<Result<Outcome, FailedRecord>>,
    /// For an event of a queue: the message of each record.
    pub(super) messages: Option<Vec<Option<String>>>,
    /// The check that a record without one is counted for: the only one that is guarded.
    pub(super) only: Option<HealthCheckId>,
}

/// An invocation's answer: an outcome for each record, in the event's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The outcomes.
    pub outcomes: Vec<Outcome>,
    /// For an event of a queue: the messages to deliver again, as [Lambda expects them][1].
    ///
    /// [1]: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
    #[serde(rename = "batchItemFailures", skip_serializing_if = "Option::is_none")]
    pub batch_item_failures: Option<Vec<BatchItemFailure>>,
}

/// A message of a queue that could not be handled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchItemFailure {
    /// Its `messageId`.
    pub item_identifier: String,
}

/// The outcome of one record or request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The check that it was about; `null` if an alarm is about no check, or about several.
    pub health_check_id: Option<HealthCheckId>,
    /// What was done.
    pub outcome: Verdict,
    /// Why no change was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The path before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_path: Option<String>,
    /// The path now, in a dry run the one that would be set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The check's version now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// The alarm's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
    /// What else is counted.
    #[serde(skip)]
    pub(super) notes: Option<Note>,
    /// Whether a lock on record was undone, or does not hold.
    #[serde(skip)]
    pub(super) undone: bool,
}

/// What a tick counts beside its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// The check has been locked for another whole day.
    LockedForDays,
    /// The check was restored since the tick before.
    Restored,
    /// A lock that would wait is not on record.
    DryRun,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub enum Verdict {
    /// The check points at the locked path now.
    Locked,
    /// The check would be locked, were this not a dry run.
    WouldLock,
    /// The check was already locked.
    AlreadyLocked,
    /// The path was set without reading the check first, and no lock holds on the check.
    LockedInVain,
    /// The alarm requests no action.
    Ignored,
    /// The lock waits for the secondary.
    Deferred,
    /// The check requests the path from before its lock again.
    Restored,
    /// The check would be restored, were this not a dry run.
    WouldRestore,
    /// The check was already restored.
    AlreadyRestored,
    /// The next alarm will lock it.
    Armed,
    /// Nothing will lock it, for the reason given.
    Unprotected,
}

// === impl Report ===

impl Report {
    /// The result of each record.
    #[must_use]
    pub fn into_results(self) -> Vec<Result<Outcome, FailedRecord>> {
        self.results
    }
}

impl lambda::Report for Report {
    type Answer = Answer;
    type Error = InvocationError;

    /// The result of an invocation whose payload is not JSON, for this cause.
    fn not_json(cause: String) -> Self {
        let failed = FailedRecord::of(None, Malformed::NotJson(cause));
        failed.log();
        Self { results: vec![Err(failed)], messages: None, only: None }
    }

    /// The invocation's answer, if every record was done.
    ///
    /// # Errors
    /// Names every record that failed; the others were handled all the same.
    fn into_answer(self) -> Result<Answer, InvocationError> {
        let records = self.results.len();
        let mut outcomes = Vec::new();
        let mut failed = Vec::new();
        let batch_item_failures = self.messages.map(|messages| {
            let failed = messages.into_iter().zip(&self.results).filter(|(_, result)| result.is_err());
            let failed = failed.filter_map(|(message, _)| message);
            failed.map(|item_identifier| BatchItemFailure { item_identifier }).collect()
        });
        for result in self.results {
            match result {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) => failed.push(error),
            }
        }
        // A queue delivers again only the messages that the answer names. If every message failed, an error has the
        // same effect, and a queue that does not expect such an answer also understands it.
        if failed.is_empty() || (batch_item_failures.is_some() && !outcomes.is_empty()) {
            Ok(Answer { outcomes, batch_item_failures })
        } else {
            Err(InvocationError { records, failed })
        }
    }

    /// A line in the embedded metric format for each record that counts in the namespace `FailoverLock`.
    fn metrics(&self, _function: &str, now: SystemTime) -> impl Iterator<Item = String> {
        let line = move |name, id: Option<&HealthCheckId>| {
            let by_check = id.map(|id| [("HealthCheckId", id.as_str())]);
            let by: [&[_]; 2] = [&[], by_check.as_ref().map_or(&[], |by_check| by_check)];
            let by = if by_check.is_some() { &by[..] } else { &by[..1] };
            metrics::line("FailoverLock", by, &[Metric::count(name, 1)], now)
        };
        self.results.iter().flat_map(move |result| match result {
            Ok(outcome) => {
                let id = outcome.health_check_id.as_ref();
                let note = outcome.notes.and_then(|note| match note {
                    Note::LockedForDays => Some("LockedForDays"),
                    Note::Restored => Some("Restored"),
                    Note::DryRun => None,
                });
                let undone = outcome.undone.then_some("Undone");
                let names = outcome.metric().into_iter().chain(note).chain(undone);
                names.map(|name| line(name, id)).collect::<Vec<_>>()
            }
            Err(failed) => {
                let id = failed.health_check_id.as_ref().or(self.only.as_ref());
                let names = ["Failed"].into_iter().chain(failed.undone.then_some("Undone"));
                names.map(|name| line(name, id)).collect()
            }
        })
    }
}

// === impl Outcome ===

impl Outcome {
    pub(super) fn new(id: Option<&HealthCheckId>, outcome: Verdict) -> Self {
        Self {
            health_check_id: id.cloned(),
            outcome,
            reason: None,
            previous_path: None,
            path: None,
            version: None,
            alarm: None,
            notes: None,
            undone: false,
        }
    }

    fn metric(&self) -> Option<&'static str> {
        match self.outcome {
            Verdict::Locked => Some("Locked"),
            Verdict::AlreadyLocked => Some("AlreadyLocked"),
            Verdict::LockedInVain => Some("LockedInVain"),
            Verdict::Ignored => Some("Ignored"),
            // Nothing was seen of the check.
            Verdict::Deferred if self.reason == Some(Reason::Throttled) => Some("Throttled"),
            // In a dry run, a failure locks nothing.
            Verdict::Deferred if self.notes == Some(Note::DryRun) => Some("Unprotected"),
            Verdict::Deferred => Some("Deferred"),
            Verdict::Restored => Some("Restored"),
            Verdict::Unprotected | Verdict::WouldLock => Some("Unprotected"),
            Verdict::WouldRestore | Verdict::AlreadyRestored | Verdict::Armed => None,
        }
    }

    pub(super) fn log(&self) {
        info!(
            alarm = self.alarm,
            healthCheckId = self.health_check_id.as_ref().map(HealthCheckId::as_str),
            outcome = <&str>::from(self.outcome),
            reason = self.reason.map(<&str>::from),
            previousPath = self.previous_path,
            path = self.path,
            version = self.version,
            "done"
        );
    }
}

// === impl Verdict ===

impl From<Verdict> for &'static str {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Locked => "locked",
            Verdict::WouldLock => "would_lock",
            Verdict::AlreadyLocked => "already_locked",
            Verdict::LockedInVain => "locked_in_vain",
            Verdict::Ignored => "ignored",
            Verdict::Deferred => "deferred",
            Verdict::Restored => "restored",
            Verdict::WouldRestore => "would_restore",
            Verdict::AlreadyRestored => "already_restored",
            Verdict::Armed => "armed",
            Verdict::Unprotected => "unprotected",
        }
    }
}
