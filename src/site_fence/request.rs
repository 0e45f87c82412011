//! A person's requests: to rejoin a site, to take one out, and to pause the reports.

use chrono::TimeDelta;
use serde::Deserialize;
use serde::de::IgnoredAny;
use thiserror::Error;

use super::pauses::LONGEST;
use super::site::Site;
use crate::program::text::without_value;

/// A person's request to rejoin a site.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// The accelerator's DNS name or ARN.
    pub accelerator: String,
    /// The site to rejoin.
    pub site: Site,
    /// Whether to bring the site into the accelerator even if Infinispan of the other site does not answer, or
    /// refuses.
    #[serde(default)]
    pub force: bool,
    /// The reason, for the log.
    pub reason: Option<String>,
    /// Whether to report what would be done, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// A person's request to take a site out of the accelerator, for maintenance.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TakeOut {
    /// The site.
    pub take_out: Site,
    /// The accelerator's DNS name or ARN.
    pub accelerator: String,
    /// The reason, for the log.
    pub reason: Option<String>,
    /// Whether to report what would be done, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

impl TakeOut {
    /// Reads a direct invocation; `None` if the event is something else. The events of a function URL have no field
    /// `takeOut`, and its clients cannot add one.
    #[must_use]
    pub fn read(event: &str) -> Option<Result<Self, BadRequest>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Field {
            take_out: Option<IgnoredAny>,
        }
        serde_json::from_str::<Field>(event).ok()?.take_out?;
        Some(serde_json::from_str(event).map_err(BadRequest::TakeOut))
    }
}

/// A person's request to pause the reports about a site and from it, for planned work, or to end that.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pause {
    /// For how many minutes; 0 ends the pause.
    pub pause_minutes: u32,
    /// The site; all sites, if it is left out.
    pub site: Option<Site>,
    /// The accelerator's DNS name or ARN.
    pub accelerator: String,
    /// The reason, for those who find the pause.
    pub reason: Option<String>,
    /// Whether to report what would be done, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

impl Pause {
    /// Reads a direct invocation, as [`TakeOut::read`] does.
    #[must_use]
    pub fn read(event: &str) -> Option<Result<Self, BadRequest>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Field {
            pause_minutes: Option<IgnoredAny>,
        }
        serde_json::from_str::<Field>(event).ok()?.pause_minutes?;
        Some(serde_json::from_str(event).map_err(BadRequest::Pause))
    }

    /// How long it is to last.
    ///
    /// # Errors
    /// It is longer than a pause may be.
    pub fn length(&self) -> Result<TimeDelta, BadRequest> {
        let length = TimeDelta::minutes(self.pause_minutes.into());
        if length <= LONGEST { Ok(length) } else { Err(BadRequest::TooLong) }
    }
}

/// A request that cannot be read.
#[derive(Debug, Error)]
pub enum BadRequest {
    /// Not JSON, a misspelt or missing field, or a value of another type, which is not shown: an event of a machine is also
    /// unreadable, and it may hold a header.
    #[error(
        "the request cannot be read: {}. It takes {{\"accelerator\", \"site\", \"force\"?, \"reason\"?, \"dryRun\"?}}",
        without_value(.0)
    )]
    Unreadable(#[from] serde_json::Error),
    /// The same for a request to take a site out.
    #[error(
        "the request cannot be read: {}. It takes {{\"takeOut\", \"accelerator\", \"reason\"?, \"dryRun\"?}}",
        without_value(.0)
    )]
    TakeOut(serde_json::Error),
    /// The same for a request to pause.
    #[error(
        "the request cannot be read: {}. It takes {{\"pauseMinutes\", \"site\"?, \"accelerator\", \"reason\"?, \"dryRun\"?}}",
        without_value(.0)
    )]
    Pause(serde_json::Error),
    /// A pause that would be forgotten.
    #[error("a pause lasts for 15 days at most: \"pauseMinutes\" is more than 21600")]
    TooLong,
    /// The site whose replication was switched off is unknown.
    #[error(
        "no other site of INFINISPAN_SITE_ENDPOINTS is in service, the one that replicated to {0} is not noted, and not \
         exactly one other is named: bring the other site into service first"
    )]
    WhichOther(Site),
}
