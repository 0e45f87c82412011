//! What is seen of a health check, and which part of it could not be.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::state::State;
use crate::failover_lock::alarm::AlarmState;
use crate::failover_lock::health_check::{Endpoint, HealthCheckId};
use crate::failover_lock::route53::Checkers;

/// The state of a health check. A part that could not be read is `None`, and in `unknown`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    pub health_check_id: HealthCheckId,
    /// Its tag `Name`.
    pub name: Option<String>,
    /// Its endpoint, for example `https://primary.example.com:443`.
    pub watches: Option<String>,
    pub path: Option<String>,
    #[serde(flatten)]
    pub state: State,
    /// The alarm on its health; the one in ALARM, if there is one.
    pub alarm: Option<AlarmNow>,
    /// Its checkers, if they have reported and may be read.
    pub checkers: Option<Checkers>,
    /// Whether an alarm watches its health, or it has ever been locked or restored.
    pub guarded: Option<bool>,
    pub unknown: Vec<Unread>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AlarmNow {
    pub name: String,
    pub state: AlarmState,
    pub since: DateTime<Utc>,
}

/// A part of what is known about a health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Part {
    /// Its configuration: endpoint and path.
    Check,
    Tags,
    Alarms,
    /// Its alarms on metric math and queries, where the plain ones could be read.
    Queries,
    /// For which checks an alarm on a query is in ALARM.
    Contributors,
    /// Whether a mute rule holds its alarms' actions back.
    MuteRules,
    Checkers,
}

/// A part that could not be read, and why.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Unread {
    pub what: Part,
    pub why: String,
    /// Whether another look may succeed.
    #[serde(skip)]
    pub may_pass: bool,
}

/// What Route 53's checkers find of a health check, in words.
pub(super) fn counted(checkers: Checkers) -> String {
    format!("{} of {} checkers find it healthy", checkers.healthy, checkers.total)
}

/// The URL that a health check requests, without its path.
pub(super) fn watches(endpoint: &Endpoint) -> String {
    let scheme = if endpoint.https { "https" } else { "http" };
    let host = endpoint.domain_name.as_deref().or(endpoint.ip_address.as_deref()).unwrap_or("?");
    format!("{scheme}://{host}:{}", endpoint.port)
}
