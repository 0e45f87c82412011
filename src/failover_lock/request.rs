//! A person's request to restore a health check.

use serde::Deserialize;
use thiserror::Error;

use super::config::Config;
use super::event::{self, Parts};
use super::health_check::{HealthCheckId, ResourcePath};
use crate::program::text::brief;

/// What a person asks for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// The check; may be left out where exactly one is guarded.
    pub health_check_id: Option<HealthCheckId>,
    /// Switch back without asking the primary first.
    #[serde(default)]
    pub force: bool,
    /// The path to set; the one from before, if it is left out.
    pub path: Option<ResourcePath>,
    /// The check's version that the person has seen: what changed since then was not decided about.
    pub version: Option<i64>,
    /// Why, for the record.
    pub reason: Option<String>,
    /// Say what would be done, change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// A request that cannot be read.
#[derive(Debug, Error)]
pub enum BadRequest {
    /// Not JSON, a misspelt field, a value of another type.
    #[error(
        "the request cannot be read: {}. It takes {{\"healthCheckId\"?, \"force\"?, \"path\"?, \"version\"?, \"reason\"?, \"dryRun\"?}}",
        brief(.0)
    )]
    Unreadable(#[from] serde_json::Error),
    /// Only people switch back.
    #[error("this is an event of SNS, an alarm or a schedule: only a person's request switches back")]
    MachineMade,
    /// It says neither which check nor why.
    #[error(
        "healthCheckId is missing, and so is a reason: name the check, or give a reason where exactly one is guarded"
    )]
    Empty,
    /// It does not say which check.
    #[error("healthCheckId is missing, and GUARDED_HEALTH_CHECKS does not name exactly one check")]
    WhichCheck,
}

// === impl Request ===

impl Request {
    pub(super) fn read(text: &str) -> Result<Self, BadRequest> {
        let parts: Parts = serde_json::from_str(text)?;
        if event::is_machine_made(&parts) {
            return Err(BadRequest::MachineMade);
        }
        Ok(serde_json::from_str(text)?)
    }

    pub(super) fn which(&self, config: &Config) -> Result<HealthCheckId, BadRequest> {
        let has_reason = self.reason.as_ref().is_some_and(|reason| !reason.trim().is_empty());
        match &self.health_check_id {
            Some(id) => Ok(id.clone()),
            // An empty payload is what a machine sends that was not meant to send anything.
            None if !has_reason => Err(BadRequest::Empty),
            None => config.only().cloned().ok_or(BadRequest::WhichCheck),
        }
    }
}
