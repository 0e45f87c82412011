//! Route 53 in this system's words. The SDK is named here and nowhere else.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_route53::Client;
use aws_sdk_route53::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_route53::types::{self, HealthCheckType, Tag, TagResourceType};
use chrono::{DateTime, SecondsFormat, Utc};
use thiserror::Error;
use tokio::time::timeout;

use super::alarm::AlarmTransition;
use super::decide;
use super::health_check::{Endpoint, HealthCheck, HealthCheckId, Quoted, ResourcePath};
use crate::deadline::{Deadline, MayPass};

/// The tag that a restore leaves: alarms that changed before it are harmless.
pub const RESTORED_AT: &str = "failover-lock:restored-at";
/// The tag that says when the check was locked.
pub const LOCKED_AT: &str = "failover-lock:locked-at";
/// The tag that says when the alarm that locked it changed.
pub const ALARM_CHANGED_AT: &str = "failover-lock:alarm-changed-at";
/// The tag that names the alarm that locked it.
pub const ALARM: &str = "failover-lock:alarm";

/// Route 53's health checks.
#[derive(Clone, Debug)]
pub struct Route53 {
    client: Client,
}

/// A call to Route 53 that did not succeed.
#[derive(Debug, Error)]
#[error("{call}: {cause}{}", .kind.advice(*call))]
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
    /// The check has changed since it was read.
    Conflict,
    /// There is no such health check.
    NotFound,
    /// The function's role may not.
    Denied,
    /// It was understood and refused, and would be again.
    Refused,
}

/// The calls that are made, by their names in IAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Reads a check.
    GetHealthCheck,
    /// Reads what its checkers report.
    GetHealthCheckStatus,
    /// Sets its path.
    UpdateHealthCheck,
    /// Reads its tags.
    ListTagsForResource,
    /// Sets tags.
    ChangeTagsForResource,
}

// === impl Route53 ===

impl Route53 {
    /// Route 53 by this configuration, which must not retry by itself.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        Self { client: Client::new(config) }
    }

    /// Reads a check.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn health_check(&self, id: &HealthCheckId, deadline: Deadline) -> Result<HealthCheck, Failure> {
        let call = Call::GetHealthCheck;
        deadline
            .persist(async |time| {
                let request = self.client.get_health_check().health_check_id(id.as_str());
                let output = send(call, time, request.send()).await?;
                output.health_check.map(|check| read(id, check)).ok_or_else(|| Failure::empty(call))
            })
            .await
    }

    /// Whether Route 53's checkers find a check healthy now.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline, or no checker has reported.
    pub async fn is_healthy(&self, id: &HealthCheckId, deadline: Deadline) -> Result<bool, Failure> {
        let call = Call::GetHealthCheckStatus;
        let output = deadline
            .persist(async |time| {
                let request = self.client.get_health_check_status().health_check_id(id.as_str());
                send(call, time, request.send()).await
            })
            .await?;
        let reports =
            output.health_check_observations().iter().filter_map(|seen| seen.status_report()?.status());
        let reports: Vec<_> = reports.collect();
        if reports.is_empty() {
            return Err(Failure::refused(call, "no checker has reported".to_owned()));
        }
        // A report reads "Success: HTTP Status Code 200, OK" or "Failure: …".
        let passing = reports.iter().filter(|status| status.starts_with("Success")).count();
        Ok(decide::is_healthy(passing, reports.len()))
    }

    /// Reads when the check was last switched back; `None` for never.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline, or the tag holds no time.
    pub async fn restored_at(
        &self,
        id: &HealthCheckId,
        deadline: Deadline,
    ) -> Result<Option<DateTime<Utc>>, Failure> {
        let call = Call::ListTagsForResource;
        let output = deadline
            .persist(async |time| {
                let request =
                    self.client.list_tags_for_resource().resource_type(TagResourceType::Healthcheck);
                send(call, time, request.resource_id(id.as_str()).send()).await
            })
            .await?;
        let tags = output.resource_tag_set.and_then(|set| set.tags).unwrap_or_default();
        let tag = tags.iter().find(|tag| tag.key() == Some(RESTORED_AT)).and_then(Tag::value);
        tag.map(|value| {
            let no_time = format!("the tag {RESTORED_AT} holds {}, which is no time", Quoted(value));
            value.parse().map_err(|_| Failure::refused(call, no_time))
        })
        .transpose()
    }

    /// Points a check at `path`, if it still has `version`, and returns it as it stands then.
    ///
    /// An update whose answer was lost is made again with the same version, and so has one effect:
    /// where the first one arrived, the second finds another version, and the check is read to see
    /// whether it is as this update leaves it.
    ///
    /// Without a `version` the path is set whatever the check has become.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline; with [`Kind::Conflict`] somebody else
    /// has changed the check.
    pub async fn set_path(
        &self,
        id: &HealthCheckId,
        path: &ResourcePath,
        version: Option<i64>,
        deadline: Deadline,
    ) -> Result<HealthCheck, Failure> {
        let call = Call::UpdateHealthCheck;
        let mut may_have_arrived = false;
        let result = deadline
            .persist(async |time| {
                let request = self.client.update_health_check().health_check_id(id.as_str());
                let request = request.resource_path(path.as_str()).set_health_check_version(version);
                let result = send(call, time, request.send())
                    .await
                    .and_then(|output| output.health_check.ok_or_else(|| Failure::empty(call)));
                may_have_arrived |= matches!(&result, Err(failure) if failure.kind == Kind::Unclear);
                result
            })
            .await;
        let check = match result {
            Ok(check) => read(id, check),
            Err(conflict) if conflict.kind == Kind::Conflict && may_have_arrived => {
                let check = self.health_check(id, deadline).await?;
                if check.path() != Some(path.as_str()) || Some(check.version - 1) != version {
                    return Err(conflict);
                }
                check
            }
            Err(failure) => return Err(failure),
        };
        if check.path() == Some(path.as_str()) {
            return Ok(check);
        }
        let cause = match check.path() {
            Some(other) => format!("Route 53 accepted the path {path} and answers with {}", Quoted(other)),
            None => {
                format!("Route 53 accepted the path {path} for a check of type {}", Quoted(&check.check_type))
            }
        };
        Err(Failure::refused(call, cause))
    }

    /// Notes on a check which alarm locked it and when, for people and for `reconcile`.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn note_lock(
        &self,
        id: &HealthCheckId,
        transition: &AlarmTransition,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let tags = [
            (LOCKED_AT, Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true)),
            (ALARM_CHANGED_AT, transition.changed_at.to_rfc3339_opts(SecondsFormat::Millis, true)),
            (ALARM, tag_value(&transition.alarm)),
        ];
        self.tag(id, &tags, deadline).await
    }

    /// Notes on a check that it is being switched back now, which makes older alarms harmless.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn note_restore(&self, id: &HealthCheckId, deadline: Deadline) -> Result<(), Failure> {
        self.tag(id, &[(RESTORED_AT, Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true))], deadline).await
    }

    async fn tag(
        &self,
        id: &HealthCheckId,
        tags: &[(&str, String)],
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let tags: Vec<_> =
            tags.iter().map(|(key, value)| Tag::builder().key(*key).value(value).build()).collect();
        deadline
            .persist(async |time| {
                let request =
                    self.client.change_tags_for_resource().resource_type(TagResourceType::Healthcheck);
                let request = request.resource_id(id.as_str()).set_add_tags(Some(tags.clone()));
                send(Call::ChangeTagsForResource, time, request.send()).await
            })
            .await?;
        Ok(())
    }
}

/// A tag's value holds at most 256 letters, digits, spaces and `_ . : / = + - @`; an alarm's name
/// may hold others, which become `_`.
fn tag_value(text: &str) -> String {
    let fits = |c: char| c.is_alphanumeric() || " _.:/=+-@".contains(c);
    text.chars().take(256).map(|c| if fits(c) { c } else { '_' }).collect()
}

fn read(id: &HealthCheckId, check: types::HealthCheck) -> HealthCheck {
    let version = check.health_check_version;
    let config = check.health_check_config;
    let check_type = config.as_ref().map(|config| config.r#type.clone());
    let https = matches!(check_type, Some(HealthCheckType::Https | HealthCheckType::HttpsStrMatch));
    let http = matches!(check_type, Some(HealthCheckType::Http | HealthCheckType::HttpStrMatch));
    HealthCheck {
        id: id.clone(),
        version,
        check_type: check_type.map_or_else(String::new, |name| name.as_str().to_owned()),
        inverted: config.as_ref().and_then(|config| config.inverted).unwrap_or(false),
        disabled: config.as_ref().and_then(|config| config.disabled).unwrap_or(false),
        endpoint: config.filter(|_| http || https).map(|config| Endpoint {
            // Without a path Route 53 requests the root.
            path: config.resource_path.filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned()),
            https,
            ip_address: config.ip_address,
            domain_name: config.fully_qualified_domain_name,
            port: config.port.and_then(|port| port.try_into().ok()).unwrap_or(if https { 443 } else { 80 }),
            sni: config.enable_sni.unwrap_or(https),
            search_string: config.search_string,
        }),
    }
}

async fn send<T, E>(
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
        Err(_) => Err(Failure {
            call,
            kind: Kind::Unclear,
            cause: format!("no answer within {:.1} s", time.as_secs_f64()),
            source: None,
        }),
    }
}

// === impl Failure ===

impl Failure {
    /// What it means for whoever called.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    fn refused(call: Call, cause: String) -> Self {
        Self { call, kind: Kind::Refused, cause, source: None }
    }

    fn empty(call: Call) -> Self {
        let cause = "the answer holds no health check".to_owned();
        Self { call, kind: Kind::Unclear, cause, source: None }
    }

    fn from_sdk<E>(call: Call, error: SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let status = error.raw_response().map(|response| response.status().as_u16());
        let (code, message) = match &error {
            SdkError::ServiceError(service) => (service.err().code(), service.err().message()),
            _ => (None, None),
        };
        let kind = Kind::of(code, status);
        let cause = match (status, code) {
            (Some(status), Some(code)) => {
                format!("{code} (HTTP {status}): {}", message.unwrap_or("no message"))
            }
            (Some(status), None) => format!("HTTP {status}, in a form that Route 53 does not use"),
            (None, _) => chain(&error),
        };
        Self { call, kind, cause: cause.chars().take(500).collect(), source: Some(Box::new(error)) }
    }
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
    /// Route 53 names its errors by code and throttles with HTTP 400; a gateway before it answers
    /// with a bare status.
    fn of(code: Option<&str>, status: Option<u16>) -> Self {
        match (code, status) {
            (Some("Throttling" | "ThrottlingException" | "PriorRequestNotComplete"), _) | (_, Some(429)) => {
                Self::Throttled
            }
            (Some("HealthCheckVersionMismatch"), _) | (None, Some(409)) => Self::Conflict,
            (Some("NoSuchHealthCheck"), _) | (None, Some(404)) => Self::NotFound,
            (Some("AccessDenied" | "AccessDeniedException"), _) | (None, Some(403)) => Self::Denied,
            (Some("ServiceUnavailable" | "RequestTimeout"), _)
            | (_, None | Some(200..=299 | 408 | 500..=599)) => Self::Unclear,
            _ => Self::Refused,
        }
    }

    /// What an operator does next.
    fn advice(self, call: Call) -> String {
        match self {
            Self::Throttled | Self::Unclear => {
                ". Route 53 gave no usable answer in the time that the invocation had".into()
            }
            Self::Denied => format!(". Grant the function's role route53:{call} on the health check"),
            Self::Conflict => ". Somebody else keeps changing the check: find out who".into(),
            Self::NotFound => ". Point the alarm, or the request, at a health check that exists".into(),
            Self::Refused => String::new(),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// An error and its causes in one line; each often repeats the one below it.
fn chain(error: &dyn StdError) -> String {
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
