//! Brings a site back, when a person says so.

use serde::Deserialize;
use thiserror::Error;
use tracing::info;

use super::SiteFence;
use super::accelerator::Accelerator;
use super::decide::{self, Seen};
use super::error::Error;
use super::infinispan::State;
use super::notes::{Note, Notes};
use super::outcome::{About, Failed, Outcome, Verdict};
use super::site::Site;
use crate::deadline::Deadline;
use crate::text::brief;

/// What a person asks for.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// The accelerator's DNS name or ARN.
    pub accelerator: String,
    /// The site to bring back.
    pub site: Site,
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
        "the request cannot be read: {}. It takes {{\"accelerator\", \"site\", \"reason\"?, \"dryRun\"?}}",
        brief(.0)
    )]
    Unreadable(#[from] serde_json::Error),
    /// Where replication to the site was switched off is not known.
    #[error(
        "which site replicates to {0} is not noted, and INFINISPAN_SITE_ENDPOINTS does not name exactly one other site"
    )]
    WhichOther(Site),
}

/// Handles one request.
pub(super) async fn rejoin(system: &SiteFence, request: &str, deadline: Deadline) -> Result<Outcome, Failed> {
    let failed = |about, error: Error| Failed { about, error };
    let request: Request = serde_json::from_str(request)
        .map_err(|error| failed(About::default(), BadRequest::from(error).into()))?;
    let about = About {
        site: Some(request.site.clone()),
        reporter: None,
        accelerator: Some(request.accelerator.clone()),
    };
    let outcome = bring_back(system, &request, deadline).await;
    outcome.map(|outcome| Outcome { about: about.clone(), ..outcome }).map_err(|error| failed(about, error))
}

/// Brings the site back into replication, then into the accelerator; what tells of its absence goes last.
async fn bring_back(system: &SiteFence, request: &Request, deadline: Deadline) -> Result<Outcome, Error> {
    let name = &request.accelerator;
    let accelerator = system.view.accelerators.named(name, deadline).await?;
    let accelerator = accelerator.ok_or_else(|| Error::NoSuchAccelerator(name.clone()))?;
    let mut changed = false;
    let back = deadline
        .persist(async |_| bring_into_service(system, request, &accelerator, &mut changed, deadline).await)
        .await?;
    let keys = match back {
        Back::In { keys } => keys,
        Back::Stays(outcome) => return Ok(outcome),
    };
    // The site is in service from here on, so that a report about the other one counts again.
    if let Some(table) = &system.table {
        table.clear(&accelerator.arn, &request.site, deadline).await?;
    }
    if !keys.is_empty() {
        system.view.accelerators.untag(&accelerator, keys, deadline).await?;
        changed = true;
    }
    Ok(outcome(if changed { Verdict::Rejoined } else { Verdict::AlreadyRejoined }))
}

/// Where a site is after it was to be brought into service.
enum Back {
    /// In service; these tags are left of its absence.
    In {
        keys: Vec<String>,
    },
    Stays(Outcome),
}

/// Looks, decides, brings online, adds.
async fn bring_into_service(
    system: &SiteFence,
    request: &Request,
    accelerator: &Accelerator,
    changed: &mut bool,
    deadline: Deadline,
) -> Result<Back, Error> {
    let Request { site, .. } = request;
    let sight = system.view.look(accelerator, deadline).await?;
    let notes = Notes::read(&accelerator.arn, &sight.tags);
    let decision = decide::rejoin(site, &Seen { groups: &sight.groups, notes: &notes });
    info!(
        %site,
        accelerator = request.accelerator,
        decision = match &decision {
            Err(_) => "refuse",
            Ok(missing) if missing.is_empty() => "bring_online",
            Ok(_) => "add_endpoints",
        },
        reason = request.reason,
        "decided"
    );
    let missing = match decision {
        Ok(missing) => missing,
        Err(reason) => return Ok(Back::Stays(outcome(Verdict::Refused).because(reason))),
    };
    let other = other_site(system, site, notes.of(site))?;
    let keys = Note::keys(site, &sight.tags);
    let password = system.infinispan_password(deadline).await?;
    if system.config.dry_run || request.dry_run {
        let state = system.infinispan.state(&other, site, &password, deadline).await?;
        let is_back = missing.is_empty() && keys.is_empty() && state == State::Online;
        let verdict = if is_back { Verdict::AlreadyRejoined } else { Verdict::WouldRejoin };
        return Ok(Back::Stays(outcome(verdict)));
    }
    *changed |= system.infinispan.set(&other, site, State::Online, &password, deadline).await?;
    if !missing.is_empty() {
        system.view.accelerators.add(&missing, deadline).await?;
        *changed = true;
    }
    Ok(Back::In { keys })
}

/// The site that replicates to `site`: the one that reported it, or else the only other one.
fn other_site(system: &SiteFence, site: &Site, note: Option<&Note>) -> Result<Site, BadRequest> {
    if let Some((_, reporter)) = note.and_then(|note| note.by.as_ref()) {
        return Ok(reporter.clone());
    }
    let mut others = system.config.endpoints.keys().filter(|other| *other != site);
    match (others.next(), others.next()) {
        (Some(other), None) => Ok(other.clone()),
        _ => Err(BadRequest::WhichOther(site.clone())),
    }
}

fn outcome(verdict: Verdict) -> Outcome {
    Outcome::new(About::default(), verdict)
}
