//! Calls to AWS: how one is made, and what its failure means.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use thiserror::Error;
use tokio::time::timeout;

use super::deadline::{Deadline, MayPass};

/// An SDK's error.
type SdkError<E> = result::SdkError<E, HttpResponse>;

/// A call to AWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name in IAM, for example `route53:GetHealthCheck`.
    action: &'static str,
    /// What it reads or changes, in words, for example `the health check`.
    noun: &'static str,
}

/// A call that did not succeed.
#[derive(Debug, Error)]
#[error("{call}: {cause}{}", advice(*.call, *.kind))]
pub struct Failure {
    call: Call,
    kind: Kind,
    cause: String,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What a failure means for whoever called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It was turned away before anything happened; it may pass.
    Throttled,
    /// No answer, or none that can be understood; it may have happened, and it may pass.
    Unclear,
    /// What it was to change has changed since it was read.
    Conflict,
    /// What it names does not exist.
    NotFound,
    /// The function's role may not.
    Denied,
    /// It was understood and refused, and would be again.
    Refused,
}

/// Makes a call once, for at most `time`.
///
/// # Errors
/// The call failed, or gave no answer in time.
pub async fn send<T, E>(
    call: Call,
    time: Duration,
    request: impl Future<Output = Result<T, SdkError<E>>>,
) -> Result<T, Failure>
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    // An SDK call's future is large and deeply nested: boxed, callers' futures stay small.
    match timeout(time, Box::pin(request)).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(Failure::from_sdk(call, error)),
        Err(_) => Err(Failure::unclear(call, format!("no answer within {:.1} s", time.as_secs_f64()))),
    }
}

/// Reads a list page by page.
///
/// `read` gets the time that it may take and a page's token, `None` for the first page. It returns the
/// page's items and the token of the next page.
///
/// # Errors
/// A page could not be read before the deadline.
pub async fn pages<T, Token: Clone>(
    deadline: Deadline,
    mut read: impl AsyncFnMut(Duration, Option<Token>) -> Result<(Vec<T>, Option<Token>), Failure>,
) -> Result<Vec<T>, Failure> {
    let mut items = Vec::new();
    let mut token = None;
    loop {
        let (page, next) = deadline.persist(async |time| read(time, token.clone()).await).await?;
        items.extend(page);
        if next.is_none() {
            return Ok(items);
        }
        token = next;
    }
}

// === impl Failure ===

impl Failure {
    /// What it means for whoever called.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// An answer that cannot be what it was meant to be.
    #[must_use]
    pub fn unclear(call: Call, cause: String) -> Self {
        Self { call, kind: Kind::Unclear, cause, source: None }
    }

    /// An answer that says no.
    #[must_use]
    pub fn refused(call: Call, cause: String) -> Self {
        Self { call, kind: Kind::Refused, cause, source: None }
    }

    fn from_sdk<E>(call: Call, error: SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let (code, message) = match &error {
            SdkError::ServiceError(service) => (service.err().code(), service.err().message()),
            _ => (None, None),
        };
        let never_sent = match &error {
            SdkError::ConstructionFailure(_) => true,
            SdkError::DispatchFailure(failure) => failure.is_user(),
            _ => false,
        };
        let status = error.raw_response().map(|response| response.status().as_u16());
        let kind = if never_sent { Kind::Refused } else { Kind::of(code, status) };
        let cause = cause(status, code, message, &error);
        Self { call, kind, cause, source: Some(Box::new(error)) }
    }
}

/// What happened, in one line that is not too long for a log.
fn cause(status: Option<u16>, code: Option<&str>, message: Option<&str>, error: &dyn StdError) -> String {
    let cause = match (status, code) {
        (Some(status), Some(code)) => {
            let message = message.unwrap_or("no message").trim_end_matches('.');
            format!("{code} (HTTP {status}): {message}")
        }
        (Some(status), None) => format!("HTTP {status} with a body that is not the API's"),
        (None, _) => chain(error),
    };
    cause.chars().take(500).collect()
}

impl MayPass for Failure {
    fn may_pass(&self) -> bool {
        match self.kind {
            Kind::Throttled | Kind::Unclear => true,
            Kind::Conflict | Kind::NotFound | Kind::Denied | Kind::Refused => false,
        }
    }
}

// === impl Kind ===

impl Kind {
    /// The APIs name their errors by code, and some throttle, or fail inside, with HTTP 400; a gateway
    /// before them answers with a bare status.
    fn of(code: Option<&str>, status: Option<u16>) -> Self {
        match (code, status) {
            (
                Some(
                    "Throttling"
                    | "ThrottlingException"
                    | "Throttled"
                    | "PriorRequestNotComplete"
                    | "TransactionInProgressException"
                    | "ProvisionedThroughputExceededException"
                    | "RequestLimitExceeded"
                    | "ReplicatedWriteConflictException",
                ),
                _,
            )
            | (_, Some(429)) => Self::Throttled,
            (
                Some(
                    "HealthCheckVersionMismatch"
                    | "EndpointNotFoundException"
                    | "EndpointAlreadyExistsException"
                    | "ConflictException"
                    | "ConditionalCheckFailedException",
                ),
                _,
            )
            | (None, Some(409)) => Self::Conflict,
            (
                Some(
                    "NoSuchHealthCheck"
                    | "ResourceNotFoundException"
                    | "NotFound"
                    | "LoadBalancerNotFound"
                    | "AcceleratorNotFoundException"
                    | "ListenerNotFoundException"
                    | "EndpointGroupNotFoundException",
                ),
                _,
            )
            | (None, Some(404)) => Self::NotFound,
            (Some("AccessDenied" | "AccessDeniedException" | "AuthorizationError"), _)
            | (None, Some(403)) => Self::Denied,
            (Some("ServiceUnavailable" | "RequestTimeout" | "InternalServiceErrorException"), _)
            | (_, None | Some(200..=299 | 408 | 500..=599)) => Self::Unclear,
            _ => Self::Refused,
        }
    }
}

/// What an operator does next.
fn advice(call: Call, kind: Kind) -> String {
    match kind {
        Kind::Throttled => ". AWS turned the call away for as long as there was time".to_owned(),
        Kind::Unclear if call.changes() => {
            format!(". It may have been done all the same: look at {}", call.noun)
        }
        Kind::Unclear => ". AWS gave no usable answer for as long as there was time".to_owned(),
        Kind::Denied => format!(". Grant the caller's role {call}"),
        Kind::Conflict => format!(". Something else keeps changing {}: find out what", call.noun),
        Kind::NotFound => format!(". Check that {} exists", call.noun),
        Kind::Refused => ". Trying again does not help".to_owned(),
    }
}

// === impl Call ===

impl Call {
    /// The call of this name in IAM, which reads or changes `noun`.
    #[must_use]
    pub const fn new(action: &'static str, noun: &'static str) -> Self {
        Self { action, noun }
    }

    fn changes(self) -> bool {
        // IAM's names begin with what they do.
        [":Update", ":Change", ":Set", ":Add", ":Remove", ":Tag", ":Untag", ":Put", ":Delete"]
            .iter()
            .any(|verb| self.action.contains(verb))
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.action)
    }
}

/// An error and its causes in one line; each often repeats the one below it.
#[must_use]
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failure_means_is_read_from_its_code_and_else_from_its_status() {
        for (code, status, kind) in [
            (Some("Throttling"), 400, Kind::Throttled),
            (Some("ThrottlingException"), 400, Kind::Throttled),
            (Some("PriorRequestNotComplete"), 400, Kind::Throttled),
            (None, 429, Kind::Throttled),
            (Some("HealthCheckVersionMismatch"), 409, Kind::Conflict),
            (None, 409, Kind::Conflict),
            (Some("NoSuchHealthCheck"), 404, Kind::NotFound),
            (None, 404, Kind::NotFound),
            (Some("NotFound"), 404, Kind::NotFound),
            (Some("AuthorizationError"), 403, Kind::Denied),
            (Some("Throttled"), 429, Kind::Throttled),
            (Some("AccessDenied"), 403, Kind::Denied),
            (Some("AccessDeniedException"), 400, Kind::Denied),
            (None, 403, Kind::Denied),
            (Some("ServiceUnavailable"), 400, Kind::Unclear),
            (Some("RequestTimeout"), 400, Kind::Unclear),
            (Some("InternalFailure"), 500, Kind::Unclear),
            (Some("InternalServiceErrorException"), 400, Kind::Unclear),
            (Some("TransactionInProgressException"), 400, Kind::Throttled),
            (Some("EndpointNotFoundException"), 400, Kind::Conflict),
            (Some("EndpointGroupNotFoundException"), 400, Kind::NotFound),
            (Some("ConditionalCheckFailedException"), 400, Kind::Conflict),
            (Some("LoadBalancerNotFound"), 400, Kind::NotFound),
            (None, 200, Kind::Unclear),
            (None, 408, Kind::Unclear),
            (None, 502, Kind::Unclear),
            (None, 599, Kind::Unclear),
            (Some("InvalidInput"), 400, Kind::Refused),
            (Some("ExpiredToken"), 403, Kind::Refused),
            (None, 400, Kind::Refused),
            (None, 302, Kind::Refused),
        ] {
            assert_eq!(Kind::of(code, Some(status)), kind, "{code:?} {status}");
        }
        assert_eq!(Kind::of(None, None), Kind::Unclear);
    }
}
