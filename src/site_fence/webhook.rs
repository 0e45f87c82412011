//! Alertmanager's [webhook][1], version 4, as a Lambda function URL passes it on.
//!
//! [1]: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config

use std::collections::BTreeMap;

use aws_lambda_events::lambda_function_urls::{LambdaFunctionUrlRequest, LambdaFunctionUrlResponse};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use hyper::StatusCode;
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use thiserror::Error;

use super::auth::{Credentials, Denied};
use super::site::{InvalidSite, Site};
use crate::program::text::{Quoted, brief};

/// A request to the function's URL. It has no `Debug`: its headers must not be logged.
pub struct Request(LambdaFunctionUrlRequest);

/// What Alertmanager sends: the body of a request, or the message of a topic.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    version: Option<String>,
    /// Its alerts, each as it arrived.
    pub alerts: Vec<Box<RawValue>>,
    /// How many alerts were left out because of the receiver's `max_alerts`.
    #[serde(default, rename = "truncatedAlerts")]
    pub truncated: u64,
}

/// The content of an alert: one site no longer sees the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accusation {
    /// The site that is reported as offline.
    pub site: Site,
    /// The site that reports it.
    pub reporter: Site,
    /// A DNS name of the accelerator of both sites.
    pub accelerator: String,
    /// When the alert began to fire; `None` if the sender does not report a time.
    pub began: Option<DateTime<Utc>>,
    /// Whether its message was delivered so late that it may be over.
    pub is_late: bool,
}

/// An event that cannot be read: correct its sender.
#[derive(Debug, Error)]
pub enum Malformed {
    /// Not JSON.
    #[error("the event is not JSON: {0}")]
    NotJson(String),
    /// An event that is not from a function URL. Nothing of it is shown: it may hold a header.
    #[error("the event is not a request to a function URL: see its line {}, column {}", .0.line(), .0.column())]
    NotARequest(serde_json::Error),
    /// A body that cannot be decoded.
    #[error("the body cannot be decoded: {0}")]
    Encoding(&'static str),
    /// A body that is not a webhook.
    #[error("the body is not an Alertmanager webhook: {}", brief(.0))]
    NotAWebhook(serde_json::Error),
    /// A webhook of another version.
    #[error("the body is not an Alertmanager webhook of version 4: its version is {}", Quoted(.0))]
    Version(String),
    /// Alertmanager left alerts out.
    #[error("{0} alerts were left out: remove max_alerts from Alertmanager's receiver")]
    Truncated(u64),
    /// An alert that cannot be read.
    #[error("the alert cannot be read: {}", brief(.0))]
    Alert(serde_json::Error),
    /// A label that is missing.
    #[error("the alert has no label {0}: add it to the Prometheus rule")]
    NoLabel(&'static str),
    /// A label whose value is not a site's name.
    #[error("label {0}: {1}")]
    Label(&'static str, InvalidSite),
    /// A label whose value is not a DNS name.
    #[error("label accelerator: {} is not a DNS name", Quoted(.0))]
    Accelerator(String),
    /// A message of another topic than the function's.
    #[error("the message is from the topic {}, and ALERT_TOPIC is {}: set it to the topic of the alerts", Quoted(.0), .1.as_deref().unwrap_or("not set"))]
    Topic(String, Option<String>),
    /// A record that is not a message of a topic.
    #[error("the record is not a message of an SNS topic: see its line {}, column {}", .0.line(), .0.column())]
    NotAMessage(serde_json::Error),
    /// An event of SNS without a message.
    #[error("the event has no records: an SNS event has one for each message")]
    NoMessage,
    /// A site that reports itself.
    #[error(
        "labels site and reporter are both {0}: a site cannot report itself: correct the Prometheus rule"
    )]
    Itself(Site),
}

/// An alert of a webhook.
#[derive(Deserialize)]
pub struct Alert {
    /// Whether it is still firing; each alert of a webhook has its own status.
    pub status: Status,
    #[serde(default, rename = "startsAt")]
    starts_at: Option<String>,
    labels: BTreeMap<String, String>,
}

/// An alert's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The rule's condition is true.
    Firing,
    /// The rule's condition is no longer true.
    Resolved,
}

// === impl Accusation ===

impl Accusation {
    /// Whether another one is of the same reporter about the same site, whenever it began.
    #[must_use]
    pub fn is_about_the_same(&self, other: &Self) -> bool {
        (&self.site, &self.reporter, &self.accelerator) == (&other.site, &other.reporter, &other.accelerator)
    }
}

// === impl Request ===

impl Request {
    /// Reads an event.
    ///
    /// # Errors
    /// The event is not from a function URL.
    pub fn read(event: &str) -> Result<Self, Malformed> {
        serde_json::from_str(event).map(Self).map_err(Malformed::NotARequest)
    }

    /// Returns the request's credentials.
    ///
    /// # Errors
    /// The request has no usable credentials.
    pub fn credentials(&self) -> Result<Credentials, Denied> {
        Credentials::read(self.0.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes))
    }

    /// Whether its method is POST.
    #[must_use]
    pub fn is_post(&self) -> bool {
        self.0.request_context.http.method.as_deref() == Some("POST")
    }

    /// Reads the body.
    ///
    /// # Errors
    /// The body is not a webhook of version 4.
    pub fn webhook(&self) -> Result<Webhook, Malformed> {
        let body = self.0.body.as_deref().unwrap_or_default();
        let decoded;
        let body = if self.0.is_base64_encoded {
            decoded = STANDARD
                .decode(body)
                .map_err(|_| Malformed::Encoding("it is marked as base64 but is not"))?;
            str::from_utf8(&decoded).map_err(|_| Malformed::Encoding("it is not UTF-8"))?
        } else {
            body
        };
        let webhook = Webhook::read(body)?;
        if webhook.version.is_none() {
            return Err(Malformed::Version(String::new()));
        }
        Ok(webhook)
    }
}

// === impl Webhook ===

impl Webhook {
    /// Reads the text of a webhook. The one that Amazon's guide has for SNS states no version.
    ///
    /// # Errors
    /// The text is not a webhook of version 4.
    pub fn read(text: &str) -> Result<Self, Malformed> {
        let webhook: Self = serde_json::from_str(text).map_err(Malformed::NotAWebhook)?;
        match webhook.version.as_deref() {
            None | Some("4") => Ok(webhook),
            Some(other) => Err(Malformed::Version(other.to_owned())),
        }
    }
}

// === impl Alert ===

impl Alert {
    /// Reads an alert.
    ///
    /// # Errors
    /// The alert has no status or no labels.
    pub fn read(alert: &RawValue) -> Result<Self, Malformed> {
        serde_json::from_str(alert.get()).map_err(Malformed::Alert)
    }

    /// The name of its rule.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.labels.get("alertname").map(String::as_str)
    }

    /// Reads the site that sends it.
    ///
    /// # Errors
    /// The label is missing or invalid.
    pub fn reporter(&self) -> Result<Site, Malformed> {
        self.site("reporter")
    }

    /// Reads the accelerator that it names.
    ///
    /// # Errors
    /// The label is missing or invalid.
    pub fn accelerator(&self) -> Result<String, Malformed> {
        let name = self.label("accelerator")?;
        let is_name = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
        if name.is_empty() || name.len() > 255 || !is_name(&name) {
            return Err(Malformed::Accelerator(name));
        }
        Ok(name)
    }

    /// Reads the accusation in its labels.
    ///
    /// # Errors
    /// A label is missing or invalid.
    pub fn accusation(&self) -> Result<Accusation, Malformed> {
        let (site, reporter) = (self.site("site")?, self.reporter()?);
        if site == reporter {
            return Err(Malformed::Itself(site));
        }
        let accelerator = self.accelerator()?;
        let began = self.starts_at.as_deref().and_then(instant);
        Ok(Accusation { site, reporter, accelerator, began, is_late: false })
    }

    fn site(&self, name: &'static str) -> Result<Site, Malformed> {
        self.label(name)?.try_into().map_err(|error| Malformed::Label(name, error))
    }

    fn label(&self, name: &'static str) -> Result<String, Malformed> {
        self.labels.get(name).cloned().ok_or(Malformed::NoLabel(name))
    }
}

/// Reads a time as JSON has it, or as a template shows it that does not format it: `2021-05-26 09:12:33.1 +0000 UTC`.
fn instant(text: &str) -> Option<DateTime<Utc>> {
    let shown = || DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f %z %Z").map(|time| time.to_utc());
    text.parse().or_else(|_| shown()).ok()
}

/// Returns an answer over HTTP.
#[must_use]
pub fn answer(status: StatusCode, body: Option<&Value>) -> LambdaFunctionUrlResponse {
    let mut answer = LambdaFunctionUrlResponse::default();
    answer.status_code = status.as_u16().into();
    answer.body = body.map(Value::to_string);
    let header: Option<(HeaderName, &str)> = match status {
        StatusCode::UNAUTHORIZED => Some((WWW_AUTHENTICATE, r#"Basic realm="site-fence", charset="UTF-8""#)),
        StatusCode::METHOD_NOT_ALLOWED => Some((ALLOW, "POST")),
        _ => None,
    };
    let body = body.map(|_| (CONTENT_TYPE, "application/json"));
    for (name, value) in header.into_iter().chain(body) {
        answer.headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}
