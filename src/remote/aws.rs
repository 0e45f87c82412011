//! Calls to AWS: how a call is made, and what its failure means.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
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
    /// The resource that it reads or changes, for example `the health check`.
    noun: &'static str,
}

/// A call that did not succeed.
#[derive(Debug, Error)]
#[error("{call}: {cause}{}{}", advice(*.call, *.kind, *.credentials), earlier(*.call, *.kind, *.may_be_done))]
pub struct Failure {
    call: Call,
    kind: Kind,
    /// Whether this try, or one before it, may have done the call.
    may_be_done: bool,
    /// Whether AWS does not accept the credentials, or none could be loaded.
    credentials: bool,
    cause: String,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What a failure means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// AWS turned the call away before it did anything; a retry may help.
    Throttled,
    /// There was no answer, or an unreadable one: the call may have been done, and a retry may help.
    Unclear,
    /// The resource that the call was to change has changed since it was read.
    Conflict,
    /// The resource that the call names does not exist.
    NotFound,
    /// The caller's role does not allow the call.
    Denied,
    /// AWS understood the call and refused it, and would refuse it again.
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
    /// What the failure means for the caller.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it is of a call of this service, by its name in IAM.
    #[must_use]
    pub fn is_of(&self, service: &str) -> bool {
        self.call.action.split(':').next() == Some(service)
    }

    /// What AWS said, or what happened, without advice to the owner of the credentials.
    #[must_use]
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// Whether the call may succeed with other credentials: AWS does not accept these, their role does not allow the
    /// call, or none could be loaded.
    #[must_use]
    pub fn may_pass_with_other_credentials(&self) -> bool {
        self.credentials || self.kind == Kind::Denied
    }

    /// Whether AWS does not accept the credentials, or none could be loaded.
    #[must_use]
    pub fn blames_credentials(&self) -> bool {
        self.credentials
    }

    /// A failure of kind [`Kind::Unclear`]: the answer is missing or unreadable.
    #[must_use]
    pub fn unclear(call: Call, cause: String) -> Self {
        Self { call, kind: Kind::Unclear, may_be_done: true, credentials: false, cause, source: None }
    }

    /// The same failure once more, without its source.
    #[must_use]
    pub fn again(&self) -> Self {
        let Self { call, kind, may_be_done, credentials, .. } = *self;
        Self { call, kind, may_be_done, credentials, cause: self.cause.clone(), source: None }
    }

    /// A failure of kind [`Kind::Refused`].
    #[must_use]
    pub fn refused(call: Call, cause: String) -> Self {
        Self { call, kind: Kind::Refused, may_be_done: false, credentials: false, cause, source: None }
    }

    /// Whether this is AWS's error with this code.
    #[must_use]
    pub fn is_error(&self, code: &str) -> bool {
        self.cause.strip_prefix(code).is_some_and(|rest| rest.starts_with(' '))
    }

    /// Whether the API does not know the call, as an emulator does that is older than it.
    #[must_use]
    pub fn is_unknown_call(&self) -> bool {
        const CODES: [&str; 4] =
            ["UnknownOperation", "InvalidAction", "NotImplemented", "UnsupportedOperation"];
        self.kind == Kind::Refused && !self.credentials && CODES.iter().any(|code| self.cause.contains(code))
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
        let credentials = code.is_some_and(blames_credentials) || has_no_credentials(&error);
        let cause = cause(status, code, message, &error);
        let may_be_done = kind == Kind::Unclear;
        Self { call, kind, may_be_done, credentials, cause, source: Some(Box::new(error)) }
    }
}

/// Whether AWS refuses credentials with this error code: they are unknown, expired, or do not fit the signature.
fn blames_credentials(code: &str) -> bool {
    [
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "InvalidToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    ]
    .contains(&code)
}

/// Whether the call was not sent because no credentials could be loaded.
fn has_no_credentials(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<CredentialsError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// Describes what happened, in one line that fits a log.
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

    fn may_be_done(&self) -> bool {
        self.may_be_done
    }

    fn after_one_that_may_be_done(self) -> Self {
        Self { may_be_done: true, ..self }
    }
}

// === impl Kind ===

impl Kind {
    /// Reads the kind from the error code, and otherwise from the status: some APIs throttle, or fail inside, with
    /// HTTP 400, and a gateway in front of them answers with a status alone.
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
                    | "AWS.SimpleQueueService.NonExistentQueue"
                    | "QueueDoesNotExist"
                    | "LoadBalancerNotFound"
                    | "NoSuchEntity"
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

/// The operator's next step.
fn advice(call: Call, kind: Kind, credentials: bool) -> String {
    match kind {
        Kind::Unclear | Kind::Refused if credentials => {
            ". Check the credentials of this program, and the machine's clock".to_owned()
        }
        Kind::Throttled => ". AWS throttled the call until the time was used up".to_owned(),
        Kind::Unclear if call.changes() => {
            format!(". The change may have been made all the same: check {}", call.noun)
        }
        Kind::Unclear => ". AWS gave no usable answer until the time was used up".to_owned(),
        Kind::Denied => format!(". Grant the caller's role {call}"),
        Kind::Conflict => format!(". Another caller keeps changing {}: find it in CloudTrail", call.noun),
        Kind::NotFound => format!(". Check that {} exists", call.noun),
        Kind::Refused => ". A retry does not help".to_owned(),
    }
}

/// What an operator has to know of the tries before.
fn earlier(call: Call, kind: Kind, may_be_done: bool) -> String {
    if !may_be_done || kind == Kind::Unclear || !call.changes() {
        return String::new();
    }
    format!(". A try before this one had no answer, and may have made the change: check {}", call.noun)
}

// === impl Call ===

impl Call {
    /// A call with this name in IAM, which reads or changes `noun`.
    #[must_use]
    pub const fn new(action: &'static str, noun: &'static str) -> Self {
        Self { action, noun }
    }

    fn changes(self) -> bool {
        // IAM's action names begin with a verb.
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

/// Writes an error and its causes in one line; an error often repeats its cause.
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
    // Some of the SDKs' errors contain the request that could not be made, with what it was to carry.
    let dump = ["Request {", "SdkBody", "Some(b\""].iter().filter_map(|start| text.find(start)).min();
    if let Some(at) = dump {
        text.truncate(at);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_an_error_contains_is_not_told() {
        let error = std::io::Error::other(
            "invalid URI: Request { body: SdkBody { inner: Some(b\"WebIdentityToken=secret\") } }",
        );
        assert_eq!(chain(&error), "invalid URI: …");
    }

    #[test]
    fn the_kind_of_a_failure_is_read_from_its_code_and_otherwise_from_its_status() {
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
