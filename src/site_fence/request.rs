//! A person's request to rejoin a site.

use serde::Deserialize;
use thiserror::Error;

use super::site::Site;
use crate::program::text::brief;

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

/// A request that cannot be read.
#[derive(Debug, Error)]
pub enum BadRequest {
    /// Not JSON, a misspelt field, or a value of another type; an event of a machine is also unreadable.
    #[error(
        "the request cannot be read: {}. It takes {{\"accelerator\", \"site\", \"force\"?, \"reason\"?, \"dryRun\"?}}",
        brief(.0)
    )]
    Unreadable(#[from] serde_json::Error),
    /// The site whose replication was switched off is unknown.
    #[error(
        "the site that replicates to {0} is not noted, and INFINISPAN_SITE_ENDPOINTS does not name exactly one other \
                 site: set INFINISPAN_SITE_ENDPOINTS to both sites"
    )]
    WhichOther(Site),
}
