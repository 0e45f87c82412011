//! A person's request to rejoin a site.

use serde::Deserialize;
use thiserror::Error;

use super::site::Site;
use crate::program::text::brief;

/// What a person asks for.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// The accelerator's DNS name or ARN.
    pub accelerator: String,
    /// The site to bring back.
    pub site: Site,
    /// Bring the site into the accelerator although Infinispan of the other site does not answer, or refuses.
    #[serde(default)]
    pub force: bool,
    /// Why, for the log.
    pub reason: Option<String>,
    /// Say what would be done, change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// A request that cannot be read.
#[derive(Debug, Error)]
pub enum BadRequest {
    /// Not JSON, a misspelt field, a value of another type; what machines send is that, too.
    #[error(
        "the request cannot be read: {}. It takes {{\"accelerator\", \"site\", \"force\"?, \"reason\"?, \"dryRun\"?}}",
        brief(.0)
    )]
    Unreadable(#[from] serde_json::Error),
    /// Where replication to the site was switched off is not known.
    #[error(
        "which site replicates to {0} is not noted, and INFINISPAN_SITE_ENDPOINTS does not name exactly one other site"
    )]
    WhichOther(Site),
}
