//! The errors, and the operator's next step for each.

use std::fmt;

use lambda_runtime::Diagnostic;
use thiserror::Error;
use tracing::error;

use super::cloudwatch::Unresolved;
use super::decide::{Ambiguous, CannotHold, Refusal};
use super::event::Malformed;
use super::health_check::HealthCheckId;
use super::record::InvalidRecord;
use super::request::BadRequest;
use crate::program::text::Quoted;
use crate::remote::aws::{Failure, Kind};
use crate::remote::deadline::MayPass;

/// Why one record, or one request, failed.
#[derive(Debug, Error)]
pub enum Error {
    /// This function cannot read the message: correct its sender.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The alarm watches several checks: give each check its own alarm.
    #[error(transparent)]
    Ambiguous(#[from] Ambiguous),
    /// No lock can hold on the check: change the check.
    #[error(transparent)]
    CannotHold(#[from] CannotHold),
    /// A tag of this system on the check cannot be read: correct the tag.
    #[error("{0}. Delete the tag, then restore or lock the check")]
    Record(#[from] InvalidRecord),
    /// There is no room for the tag that records a restore: remove another tag.
    #[error(
        "a health check has at most 10 tags, and this one has no room for failover-lock:in, without which the next tick of reconcile would lock again: remove a tag of your own, then repeat the request"
    )]
    NoRoom,
    /// A lock that waits for the secondary could not be recorded, and would be forgotten.
    #[error("the secondary is not healthy either, and that the lock waits for it could not be recorded: {0}")]
    NotDeferred(#[source] Failure),
    /// No health check has the tag of `GUARDED_TAG`: correct it, or the checks' tags.
    #[error(
        "no health check of this account has the tag of GUARDED_TAG, so nothing is guarded: correct GUARDED_TAG, or tag the health checks"
    )]
    NothingGuarded,
    /// The check was changed while it was being read.
    #[error("the health check was changed while it was being read")]
    Stale,
    /// Whether the check is guarded could not be read.
    #[error("whether the check has the tag of GUARDED_TAG could not be read: {0}")]
    NotSeen(String),
    /// The request to restore cannot be read: correct it.
    #[error(transparent)]
    BadRequest(#[from] BadRequest),
    /// The check stays locked, for the reason given.
    #[error("not restored: {0}")]
    Refused(#[from] Refusal),
    /// The health checks behind a composite alarm cannot be found.
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
    /// Not all alarms on the check could be read, and what was read says nothing about it.
    #[error("whether an alarm protects it, or asks for a lock, is not known: {0}")]
    AlarmsUnread(#[source] Failure),
    /// A call to AWS failed.
    #[error(transparent)]
    Aws(#[from] Failure),
}

/// Why an invocation failed: all of its failed records.
///
/// As the function's error, it makes Lambda retry and then send the whole event to the failure destination. The
/// retry finds finished records already done.
pub struct InvocationError {
    /// How many records the invocation had.
    pub records: usize,
    /// The failed records; at least one.
    pub failed: Vec<FailedRecord>,
}

/// One record that failed.
#[derive(Debug)]
pub struct FailedRecord {
    /// Its position in the event, from 1; `None` for a person's request.
    pub record: Option<usize>,
    /// The alarm, if it could be read from the record.
    pub alarm: Option<String>,
    /// The health check, if it was found.
    pub health_check_id: Option<HealthCheckId>,
    /// The cause.
    pub error: Error,
    /// Whether the lock of the check was found undone.
    pub undone: bool,
}

// === impl Error ===

impl Error {
    /// The error's type in the function's answer, stable so that alarms can name it.
    #[must_use]
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "MalformedEvent",
            Self::Ambiguous(_) => "AmbiguousAlarm",
            Self::CannotHold(_) => "LockCannotHold",
            Self::NotSeen(_) => "AwsUnavailable",
            Self::Record(_) => "RecordUnreadable",
            Self::NoRoom => "AwsRefused",
            Self::Stale => "HealthCheckKeepsChanging",
            Self::NothingGuarded => "NothingGuarded",
            Self::BadRequest(_) => "BadRequest",
            Self::Refused(_) => "RestoreRefused",
            Self::Unresolved(Unresolved::Failed(failure))
            | Self::NotDeferred(failure)
            | Self::AlarmsUnread(failure)
            | Self::Aws(failure) => match failure.kind() {
                Kind::Throttled | Kind::Unclear => "AwsUnavailable",
                Kind::Conflict => "HealthCheckKeepsChanging",
                Kind::NotFound => "NoSuchHealthCheck",
                Kind::Denied => "AccessDenied",
                Kind::Refused => "AwsRefused",
            },
            Self::Unresolved(_) => "CompositeAlarm",
        }
    }
}

impl MayPass for Error {
    /// Every call has been repeated as long as that could help. If another caller has changed the check, it helps to
    /// read it and decide again.
    fn may_pass(&self) -> bool {
        match self {
            Self::Aws(failure) => failure.kind() == Kind::Conflict,
            Self::Stale => true,
            _ => false,
        }
    }
}

// === impl InvocationError ===

impl InvocationError {
    /// The type of the first record's error.
    #[must_use]
    pub fn error_type(&self) -> &'static str {
        self.failed.first().map_or("Failed", |failed| failed.error.error_type())
    }
}

impl From<InvocationError> for Diagnostic {
    fn from(error: InvocationError) -> Self {
        let error_message = format!("{error} (docs/runbook.md#error-types-of-failover-lock)");
        Self { error_type: error.error_type().to_owned(), error_message }
    }
}

/// Writes the message: the runtime logs an invocation's error with its `Debug`, and a derived one would contain
/// texts of the event.
impl fmt::Debug for InvocationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for InvocationError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.failed.first().map(|failed| &failed.error as _)
    }
}

impl fmt::Display for InvocationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 20;
        if self.records > 1 {
            let others = if self.failed.len() < self.records { ", the others were handled" } else { "" };
            write!(f, "{} of {} records failed{others}: ", self.failed.len(), self.records)?;
        }
        for (i, failed) in self.failed.iter().take(SHOWN).enumerate() {
            write!(f, "{}{failed}", if i > 0 { "; " } else { "" })?;
        }
        if self.failed.len() > SHOWN {
            write!(f, "; and {} more, see the log", self.failed.len() - SHOWN)?;
        }
        Ok(())
    }
}

// === impl FailedRecord ===

impl FailedRecord {
    /// What failed without a record of an event: a health check, or what is asked for all of them.
    pub(super) fn of(health_check_id: Option<HealthCheckId>, error: impl Into<Error>) -> Self {
        Self { record: None, alarm: None, health_check_id, error: error.into(), undone: false }
    }

    pub(super) fn log(&self) {
        error!(
            alarm = self.alarm,
            healthCheckId = self.health_check_id.as_ref().map(HealthCheckId::as_str),
            outcome = "failed",
            errorType = self.error.error_type(),
            error = %self.error,
            "done"
        );
    }
}

impl fmt::Display for FailedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.record.map(|record| format!("record {record}"));
        let alarm = self.alarm.as_ref().map(|alarm| format!("alarm {}", Quoted(alarm)));
        let check = self.health_check_id.as_ref().map(|id| format!("health check {id}"));
        for part in [record, alarm, check].into_iter().flatten() {
            write!(f, "{part}: ")?;
        }
        write!(f, "{}", self.error)
    }
}
