//! `failoverctl fence status`: the sites behind an accelerator, and those that were taken out.

use std::collections::{BTreeMap, BTreeSet};

use aws_config::Region;
use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;

use super::region_of;
use crate::cli::clock;
use crate::cli::error::{Ended, Error};
use crate::cli::function;
use crate::cli::screen::{Mood, Row, say, table};
use crate::cli::session::{Session, patience, shortly};
use crate::cli::text::{plain, time};
use crate::site_fence::accelerator::Accelerator;
use crate::site_fence::config;
use crate::site_fence::decide;
use crate::site_fence::pauses::Pauses;
use crate::site_fence::site::{EndpointGroup, Owner, Site};
use crate::site_fence::view::{Sight, View};

/// Show the sites behind an accelerator, and which of them were taken out.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl fence status a1234567890abcdef.awsglobalaccelerator.com")]
pub(super) struct Arguments {
    /// The accelerator's DNS name or ARN; by default every accelerator of the account.
    accelerator: Option<String>,
    /// The function whose variable names the sites of endpoints that have no tag.
    #[arg(long, value_name = "NAME", default_value = "site-fence")]
    function: String,
}

/// The function's variable that names endpoints' sites.
const SITES: &str = "ACCELERATOR_SITE_ENDPOINTS";

/// A site, or endpoints of an unknown site, behind an accelerator.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    accelerator: String,
    /// `None` for endpoints whose site is unknown.
    pub site: Option<String>,
    /// Its endpoints in service.
    pub endpoints: Vec<InService>,
    /// When it was taken out, and the site that reported it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fenced_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reporter: Option<Site>,
    /// Until when no report about it, or from it, takes a site out, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_until: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_reason: Option<String>,
    /// Whether it is noted as taken out.
    pub noted: bool,
    /// Whether no other site behind the accelerator is known.
    alone: bool,
    /// The listeners that send traffic to none of its endpoints.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    without_traffic: BTreeSet<String>,
}

/// An endpoint in service, with the values for a command by hand.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InService {
    group: String,
    id: String,
    weight: i32,
    healthy: bool,
}

pub(super) async fn run(
    session: &Session,
    region: Option<Region>,
    arguments: Arguments,
) -> Result<Ended, Error> {
    let Arguments { accelerator, function } = arguments;
    let (accelerator, function) = (accelerator.as_deref(), function.as_str());
    // Where it names a site, that counts, and not the load balancer's tag.
    let aws = region_of(session, region, function);
    let variables = function::variables(&aws, function, shortly()).await;
    let unread = variables.as_ref().err().map(ToString::to_string);
    let named = variables.ok().flatten().and_then(|variables| variables.get(SITES).cloned());
    let (sites, unread) = match named.map(|named| config::sites(&named)) {
        Some(Err(invalid)) => (BTreeMap::new(), Some(invalid)),
        Some(Ok(sites)) => (sites, unread),
        None => (BTreeMap::new(), unread),
    };
    if let Some(why) = &unread {
        say(&format!("which endpoints {function} names as a site's in {SITES} is not known: {why}"));
    }
    let view = View::new(&session.aws, sites);
    let accelerators: Vec<_> = match accelerator {
        None => view.accelerators.all(patience()).await?,
        Some(name) => view.accelerators.named(name, patience()).await?.into_iter().collect(),
    };
    if accelerators.is_empty() {
        return Err(Error::NoAccelerator(accelerator.map(str::to_owned)));
    }
    let mut found = Vec::new();
    let mut is_served = true;
    for accelerator in &accelerators {
        let sight = view.look(accelerator, patience()).await?;
        for listener in unserved(&sight.groups) {
            say(&format!("{listener} has no healthy endpoint whose weight and traffic dial are above 0"));
            is_served = false;
        }
        found.extend(statuses(&sight, accelerator));
    }
    session.screen.show_in_context("sites", &found, || text(&found)).await?;
    // Without a healthy site an accelerator sends its traffic nowhere good.
    let serves = |accelerator: &str| {
        found.iter().any(|status| status.accelerator == accelerator && status.healthy() > 0)
    };
    let is_bad = unread.is_some()
        || !is_served
        || found.iter().any(|status| status.mood() == Mood::Wrong || !serves(&status.accelerator));
    Ok(if is_bad { Ended::NotWell } else { Ended::Well })
}

/// The listeners that send traffic to no healthy endpoint.
pub(super) fn unserved(groups: &[EndpointGroup]) -> BTreeSet<&str> {
    let serves = |group: &&EndpointGroup| {
        group.endpoints.iter().any(|endpoint| endpoint.healthy && group.sends_to(endpoint))
    };
    let good: BTreeSet<_> = groups.iter().filter(serves).map(EndpointGroup::listener).collect();
    groups.iter().map(EndpointGroup::listener).filter(|listener| !good.contains(listener)).collect()
}

pub(super) fn statuses(sight: &Sight, accelerator: &Accelerator) -> Vec<Status> {
    let mut found: BTreeMap<Option<String>, Status> = BTreeMap::new();
    for (group, endpoint) in
        sight.groups.iter().flat_map(|group| group.endpoints.iter().map(move |endpoint| (group, endpoint)))
    {
        let site = match &endpoint.owner {
            Owner::Site(site) => Some(site.clone()),
            Owner::Unknown | Owner::Gone => None,
        };
        entry(&mut found, accelerator, site).endpoints.push(InService {
            group: group.arn.clone(),
            id: endpoint.id.clone(),
            weight: endpoint.weight,
            healthy: endpoint.healthy,
        });
    }
    for (site, note) in sight.notes.iter() {
        let status = entry(&mut found, accelerator, Some(site.as_str().to_owned()));
        status.noted = true;
        if let Some(by) = &note.by {
            (status.fenced_at, status.reporter) = (Some(by.at), by.reporter.clone());
        }
    }
    let pauses = Pauses::read(&sight.tags, clock::now());
    for status in found.values_mut() {
        let Some(Ok(site)) = status.site.as_deref().map(str::parse::<Site>) else { continue };
        let pause = pauses.of(&site).cloned();
        status.paused_until = pause.as_ref().map(|pause| pause.until);
        status.pause_reason = pause.map(|pause| pause.reason);
        let listeners = decide::without_traffic(&site, &[], &sight.groups);
        status.without_traffic = listeners.into_iter().map(str::to_owned).collect();
    }
    if found.keys().flatten().count() == 1 {
        for status in found.values_mut() {
            status.alone = status.site.is_some();
        }
    }
    found.into_values().collect()
}

fn entry<'a>(
    found: &'a mut BTreeMap<Option<String>, Status>,
    accelerator: &Accelerator,
    site: Option<String>,
) -> &'a mut Status {
    found.entry(site.clone()).or_insert_with(|| Status {
        accelerator: accelerator.dns_name.clone(),
        site,
        endpoints: Vec::new(),
        fenced_at: None,
        reporter: None,
        paused_until: None,
        pause_reason: None,
        noted: false,
        alone: false,
        without_traffic: BTreeSet::new(),
    })
}

fn text(found: &[Status]) -> String {
    let rows: Vec<_> = found
        .iter()
        .map(|status| {
            let cells = [
                plain(&status.accelerator),
                status.site.as_deref().map_or_else(|| "?".to_owned(), plain),
                format!("{}/{}", status.healthy(), status.endpoints.len()),
                status.words(),
            ];
            Row { cells, mood: status.mood(), below: String::new() }
        })
        .collect();
    table(["ACCELERATOR", "SITE", "HEALTHY", "STATE"], &rows)
}

// === impl Status ===

impl Status {
    fn healthy(&self) -> usize {
        self.endpoints.iter().filter(|endpoint| endpoint.healthy).count()
    }

    pub fn mood(&self) -> Mood {
        if self.site.is_none() {
            Mood::Unknown
        } else if !self.endpoints.is_empty() && self.healthy() == 0
            // Rejoined, and of no use.
            || self.noted && !self.without_traffic.is_empty()
        {
            Mood::Wrong
        } else if self.endpoints.is_empty()
            || self.noted
            || self.alone
            || self.paused_until.is_some()
            || !self.without_traffic.is_empty()
        {
            Mood::Warn
        } else {
            Mood::Ok
        }
    }

    pub fn words(&self) -> String {
        let paused = self.paused_until.map(|until| {
            let reason = self.pause_reason.as_deref().unwrap_or_default();
            format!("; paused until {}: {}", time(until), plain(reason))
        });
        self.place() + &paused.unwrap_or_default()
    }

    fn place(&self) -> String {
        let since = match (&self.fenced_at, &self.reporter) {
            (Some(at), Some(reporter)) => format!(" since {}, reported by {reporter}", time(*at)),
            (Some(at), None) => format!(" since {}, taken out by a person", time(*at)),
            (None, _) => String::new(),
        };
        if self.site.is_none() {
            "their site is unknown: tag their load balancers, or name them in ACCELERATOR_SITE_ENDPOINTS"
                .to_owned()
        } else if self.endpoints.is_empty() {
            if self.fenced_at.is_some() && self.reporter.is_none() {
                format!("out{since}")
            } else {
                format!("fenced{since}")
            }
        } else if self.noted {
            let serves = self.service();
            format!("{}, though noted as fenced{since}: rejoin it", serves.as_deref().unwrap_or("in service"))
        } else if let Some(serves) = self.service() {
            serves
        } else if self.alone {
            "in service; no other site is known".to_owned()
        } else {
            "in service".to_owned()
        }
    }

    /// What is wrong with how it serves.
    fn service(&self) -> Option<String> {
        if self.healthy() == 0 {
            Some("in service, not healthy".to_owned())
        } else if !self.without_traffic.is_empty() {
            let ids = self.without_traffic.iter().map(|arn| arn.rsplit('/').next().unwrap_or(arn));
            let ids: Vec<_> = ids.map(plain).collect();
            Some(format!("gets no traffic: its weight or traffic dial is 0 (listener {})", ids.join(", ")))
        } else {
            None
        }
    }
}
