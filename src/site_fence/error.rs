//! The errors, and the operator's next step for each.

use std::fmt;

use hyper::StatusCode;
use lambda_runtime::Diagnostic;
use thiserror::Error;

use super::decide::Reason;
use super::infinispan;
use super::request::BadRequest;
use super::webhook::Malformed;
use crate::program::text::Quoted;
use crate::remote::aws::{Failure, Kind};
use crate::remote::deadline::MayPass;

/// Why an alert, or a request, failed.
#[derive(Debug, Error)]
pub enum Error {
    /// The alert cannot be read: correct its sender.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The request to rejoin a site cannot be read: correct it.
    #[error(transparent)]
    BadRequest(#[from] BadRequest),
    /// No accelerator of the account has this DNS name: correct the label, or the request.
    #[error("no accelerator of this account has the DNS name or ARN {}: correct the name", Quoted(.0))]
    NoSuchAccelerator(String),
    /// Another execution has claimed the accelerator, and may still run.
    #[error(
        "FENCE_TABLE: {first}, and this may still be under way until {ends}. Wait for the next try: the claim ends by itself"
    )]
    OtherReport {
        /// The claim in the table.
        first: String,
        /// The time by which its execution has ended.
        ends: String,
        /// Whether the execution is likely to end in a moment.
        may_pass: bool,
    },
    /// By the record in the table, or by the accelerator's note, a site was taken out or rejoined less than a minute ago.
    #[error(
        "{record}, and Global Accelerator may still show what was before, until {until}. Wait for the next try"
    )]
    JustChanged {
        /// What was done.
        record: String,
        /// The time until which that is waited for.
        until: String,
    },
    /// A person has rejoined the site while its endpoints were being removed, and these of them may not be in service.
    #[error(
        "a person has rejoined the site while its endpoints were being removed, and these may not be in service: {0}: if \
         failoverctl fence status shows fewer, repeat the rejoin"
    )]
    Rejoined(String),
    /// The other sites left the accelerator while the site was being removed: on another report, or by a person's hand.
    #[error(
        "no site is left in the accelerator, or in one of its listeners: rejoin the one with the newest data, failoverctl fence rejoin; \
         while the sites do not see each other, that needs --force"
    )]
    NobodyLeft,
    /// Alerts of a topic that failed, or were refused for a reason that may pass.
    #[error("these alerts are not finished: {0}")]
    Unfinished(String),
    /// A call to Infinispan failed.
    #[error(transparent)]
    Infinispan(#[from] infinispan::Failure),
    /// The site was removed from the accelerator, and replication to it was not switched off.
    #[error("the site is out of the accelerator, and replication to it is not off: {0}")]
    Replicating(#[source] infinispan::Failure),
    /// The site was removed from the accelerator, and what comes after that failed.
    #[error("the site is out of the accelerator; after that: {0}")]
    Removed(#[source] Box<Error>),
    /// A look after the removal shows what would have refused it.
    #[error("a look shows {}, which would have refused it", <&str>::from(*.0))]
    Refused(Reason),
    /// The removal of endpoints failed: what it was decided from may have changed.
    #[error(transparent)]
    Removal(Failure),
    /// A call to AWS failed.
    #[error(transparent)]
    Aws(#[from] Failure),
}

/// Why an invocation failed as a whole.
pub struct InvocationError(pub(super) Error);

// === impl Error ===

impl Error {
    /// The error's type in the function's answer and log, stable so that alarms can name it.
    #[must_use]
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "MalformedAlert",
            Self::BadRequest(_) => "BadRequest",
            Self::NoSuchAccelerator(_) => "NoSuchAccelerator",
            Self::OtherReport { .. } | Self::JustChanged { .. } | Self::Rejoined(_) => "OtherReport",
            Self::NobodyLeft => "NobodyLeft",
            Self::Refused(_) => "Refused",
            Self::Removed(error) => error.error_type(),
            Self::Unfinished(_) => "Unfinished",
            Self::Infinispan(failure) | Self::Replicating(failure) => failure.error_type(),
            Self::Aws(failure) | Self::Removal(failure) => match failure.kind() {
                Kind::Throttled | Kind::Unclear => "AwsUnavailable",
                Kind::Conflict => "KeepsChanging",
                Kind::NotFound => "NoSuchResource",
                Kind::Denied => "AccessDenied",
                Kind::Refused => "AwsRefused",
            },
        }
    }

    /// The status for Alertmanager: after 4xx it drops the alert, after 5xx it sends the alert again.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) | Self::BadRequest(_) | Self::NoSuchAccelerator(_) => StatusCode::BAD_REQUEST,
            Self::OtherReport { .. }
            | Self::JustChanged { .. }
            | Self::Rejoined(_)
            | Self::NobodyLeft
            | Self::Refused(_)
            | Self::Unfinished(_)
            | Self::Infinispan(_)
            | Self::Replicating(_)
            | Self::Removed(_)
            | Self::Removal(_)
            | Self::Aws(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl MayPass for Error {
    /// Every call but a removal has been repeated as long as that could help. After a removal, and if another caller has
    /// changed the accelerator, it helps to read it and decide again.
    fn may_pass(&self) -> bool {
        match self {
            Self::Aws(failure) => failure.kind() == Kind::Conflict,
            Self::Removal(failure) => failure.kind() == Kind::Conflict || failure.may_pass(),
            Self::OtherReport { may_pass, .. } => *may_pass,
            _ => false,
        }
    }
}

// === impl InvocationError ===

impl From<InvocationError> for Diagnostic {
    fn from(error: InvocationError) -> Self {
        let error_message = format!("{error} (docs/runbook.md#error-types-of-site-fence)");
        Self { error_type: error.0.error_type().to_owned(), error_message }
    }
}

/// Writes the message: the runtime logs an invocation's error with its `Debug`.
impl fmt::Debug for InvocationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for InvocationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for InvocationError {}
