//! Rejoins a site, when a person requests it.

use tracing::{info, warn};

use super::SiteFence;
use super::accelerator::Accelerator;
use super::decide::{self, Reason, Seen};
use super::error::Error;
use super::infinispan::State;
use super::notes::{Note, Noted, Notes};
use super::outcome::{About, Failed, Outcome, Verdict};
use super::request::{BadRequest, Request};
use super::site::{Owner, Site, is_in_service};
use crate::remote::deadline::Deadline;

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

/// Brings the site back into replication, then into the accelerator; its notes are removed last.
async fn bring_back(system: &SiteFence, request: &Request, deadline: Deadline) -> Result<Outcome, Error> {
    let name = &request.accelerator;
    let accelerator = system.view.accelerators.named(name, deadline).await?;
    let accelerator = accelerator.ok_or_else(|| Error::NoSuchAccelerator(name.clone()))?;
    let mut back = Back { system, request, accelerator, changed: false, detail: None, deadline };
    let stays = deadline.persist(async |_| back.enter_service().await).await?;
    let Back { accelerator, mut changed, detail, .. } = back;
    let keys = match stays {
        Ok(keys) => keys,
        Err(outcome) => return Ok(Outcome { detail, ..outcome }),
    };
    // The site is in service from here on, so that a report about the other site counts again.
    if let Some(table) = &system.table {
        table.clear(&accelerator.arn, &request.site, deadline).await?;
    }
    if !keys.is_empty() {
        system.view.accelerators.untag(&accelerator, keys, deadline).await?;
        changed = true;
    }
    Ok(Outcome { detail, ..outcome(if changed { Verdict::Rejoined } else { Verdict::AlreadyRejoined }) })
}

/// The rejoining of a site.
struct Back<'a> {
    system: &'a SiteFence,
    request: &'a Request,
    accelerator: Accelerator,
    /// Whether anything was changed.
    changed: bool,
    /// Details for people.
    detail: Option<String>,
    deadline: Deadline,
}

impl Back<'_> {
    /// Reads the accelerator, decides, brings replication online, and adds the endpoints. Returns the keys of the
    /// tags that are left to remove, or the outcome if the site stays out.
    async fn enter_service(&mut self) -> Result<Result<Vec<String>, Outcome>, Error> {
        let Self { system, request, ref accelerator, deadline, .. } = *self;
        let Request { site, force, .. } = request;
        let sight = system.view.look(accelerator, deadline).await?;
        self.detail = None;
        let notes = Notes::read(&accelerator.arn, &sight.tags);
        let decision = decide::rejoin(site, &Seen { groups: &sight.groups, notes: &notes });
        self.log_decision(&decision);
        let mut missing = match decision {
            Ok(missing) => missing,
            Err(reason) => return Ok(Err(outcome(Verdict::Refused).because(reason))),
        };
        // A cluster that was rebuilt has other load balancers.
        let ids = missing.iter().map(|noted| noted.id.as_str()).collect();
        let owners = system.view.owners(accelerator, ids, deadline).await?;
        let is_gone = |noted: &Noted| owners.get(&noted.id) == Some(&Owner::Gone);
        let gone: Vec<_> =
            missing.iter().filter(|noted| is_gone(noted)).map(|noted| noted.id.as_str()).collect();
        if !gone.is_empty() {
            self.detail =
                Some(format!("load balancers that no longer exist were left out: {}", gone.join(", ")));
            missing.retain(|noted| !is_gone(noted));
            if missing.is_empty() && !is_in_service(site, &sight.groups) {
                return Ok(Err(outcome(Verdict::Refused).because(Reason::NothingNoted)));
            }
        }
        let mut keys = Note::keys(site, &sight.tags);
        let dry_run = system.config.dry_run || request.dry_run;
        let would = match self.online(notes.of(site), dry_run).await {
            Ok(changed) => changed,
            Err(error) if *force => {
                warn!(%site, error = %error, "rejoining the site without replication, as requested");
                let detail = self.detail.take().map(|detail| format!("; {detail}")).unwrap_or_default();
                self.detail = Some(format!("not replicated to: {error}{detail}"));
                // The note stays, so that the status shows it.
                keys.clear();
                false
            }
            Err(error) => return Err(error),
        };
        if dry_run {
            let is_back = !would && missing.is_empty() && keys.is_empty();
            let verdict = if is_back { Verdict::AlreadyRejoined } else { Verdict::WouldRejoin };
            return Ok(Err(outcome(verdict)));
        }
        self.changed |= would;
        if !missing.is_empty() {
            system.view.accelerators.add(&missing, deadline).await?;
            self.changed = true;
        }
        Ok(Ok(keys))
    }

    /// Makes the other site replicate to this one again. Returns whether that is a change, or in a dry run would be.
    async fn online(&self, note: Option<&Note>, dry_run: bool) -> Result<bool, Error> {
        let Self { system, request: Request { site, .. }, deadline, .. } = self;
        // Half of the time is kept for the steps after this one.
        let deadline = deadline.within(deadline.left() / 2);
        let other = other_site(system, site, note)?;
        let password = system.infinispan_password(deadline).await?;
        if dry_run {
            return Ok(system.infinispan.state(&other, site, &password, deadline).await? != State::Online);
        }
        Ok(system.infinispan.set(&other, site, State::Online, &password, deadline).await?)
    }

    fn log_decision(&self, decision: &Result<Vec<&Noted>, Reason>) {
        let Request { site, accelerator, force, reason, .. } = self.request;
        info!(
            %site,
            accelerator,
            decision = match decision {
                Err(_) => "refuse",
                Ok(missing) if missing.is_empty() => "bring_online",
                Ok(_) => "add_endpoints",
            },
            force,
            reason,
            "decided"
        );
    }
}

/// The site that replicates to `site`: the site that reported it, or else the only other one.
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
