//! `failoverctl fence`: the sites behind an accelerator, those that were taken out, and their rejoining.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_config::{Region, SdkConfig};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};

use super::error::{Ended, Error};
use super::function::{self, Function};
use super::screen::{Mood, Row, plain, table, time};
use super::session::{Common, Session, patience, shortly};
use crate::site_fence::accelerator::Accelerator;
use crate::site_fence::config;
use crate::site_fence::notes::Notes;
use crate::site_fence::site::{Owner, Site};
use crate::site_fence::view::View;

/// The function's own timeout, and the time of its start.
const INVOCATION: Duration = Duration::from_secs(70);

/// Show the sites behind AWS Global Accelerator, and rejoin one that site-fence has taken out.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Fence,
}

#[derive(Debug, Subcommand)]
enum Fence {
    /// Show the sites behind an accelerator, and which of them were taken out.
    #[command(after_help = "Example:\n  failoverctl fence status a1234567890abcdef.awsglobalaccelerator.com")]
    Status {
        /// The accelerator's DNS name or ARN; by default every accelerator of the account.
        accelerator: Option<String>,
        /// The function whose variable names the sites of endpoints that have no tag.
        #[arg(long, value_name = "NAME", default_value = "site-fence")]
        function: String,
    },
    Rejoin(Rejoin),
    Out(Out),
}

/// Take a site out of the accelerator for maintenance: its endpoints are noted with their weights, and `rejoin` adds them
/// again. Replication stays as it is.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl fence out site-b --accelerator \
    a1234567890abcdef.awsglobalaccelerator.com --region eu-west-1 --reason 'new nodes, CHG-1234'")]
struct Out {
    /// The site.
    site: Site,
    /// The accelerator's DNS name or ARN.
    #[arg(long, value_name = "NAME")]
    accelerator: String,
    /// The function that takes it out. A name is searched for in --region, by default in the environment's Region.
    #[arg(long, value_name = "NAME", default_value = "site-fence")]
    function: String,
    /// The reason, for the function's log.
    #[arg(long)]
    reason: Option<String>,
    /// Show what would be done, change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
}

/// Rejoin a site, once the sites are synchronised: into Infinispan's replication, then into the accelerator.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl fence rejoin site-b --accelerator \
    a1234567890abcdef.awsglobalaccelerator.com --region eu-west-1 --reason 'synchronised, INC-1234'")]
struct Rejoin {
    /// The site.
    site: Site,
    /// The accelerator's DNS name or ARN.
    #[arg(long, value_name = "NAME")]
    accelerator: String,
    /// The function that rejoins it. A name is searched for in --region, by default in the environment's Region.
    #[arg(long, value_name = "NAME", default_value = "site-rejoin")]
    function: String,
    /// Add it to the accelerator even if Infinispan of the other site does not answer, or refuses.
    #[arg(long)]
    force: bool,
    /// The reason, for the function's log.
    #[arg(long)]
    reason: Option<String>,
    /// Show what would be done, change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
}

/// A site, or endpoints of an unknown site, behind an accelerator.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    accelerator: String,
    /// `None` for endpoints whose site is unknown.
    site: Option<String>,
    /// Its endpoints in service.
    endpoints: Vec<InService>,
    /// When it was taken out, and the site that reported it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fenced_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reporter: Option<Site>,
    /// Whether it is noted as taken out.
    noted: bool,
    /// Whether no other site behind the accelerator is known.
    alone: bool,
}

/// An endpoint in service, with the values for a command by hand.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InService {
    group: String,
    id: String,
    weight: i32,
    healthy: bool,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let session = match common.own_region() {
        Some(region) => common.session_in(region).await?,
        None => common.session().await?,
    };
    match arguments.command {
        Fence::Status { accelerator, function } => {
            status(&session, common.own_region(), accelerator.as_deref(), &function).await
        }
        Fence::Rejoin(arguments) => rejoin(&session, common.own_region(), arguments).await,
        Fence::Out(arguments) => take_out(&session, common.own_region(), arguments).await,
    }
}

async fn status(
    session: &Session,
    region: Option<Region>,
    accelerator: Option<&str>,
    function: &str,
) -> Result<Ended, Error> {
    // Optional: most load balancers have a tag.
    let aws = region_of(session, region, function);
    let function = Function::of(&aws, function, shortly()).await.ok().flatten().unwrap_or_default();
    let sites = function.variables.get("ACCELERATOR_SITE_ENDPOINTS").map(|map| config::sites(map));
    let view = View::new(&session.aws, sites.and_then(Result::ok).unwrap_or_default());
    let accelerators: Vec<_> = match accelerator {
        None => view.accelerators.all(patience()).await?,
        Some(name) => view.accelerators.named(name, patience()).await?.into_iter().collect(),
    };
    if accelerators.is_empty() {
        return Err(Error::NoAccelerator(accelerator.map(str::to_owned)));
    }
    let mut found = Vec::new();
    for accelerator in &accelerators {
        found.extend(look_at(&view, accelerator).await?);
    }
    session.screen.show_in_context("sites", &found, || text(&found)).await?;
    let is_bad = found.iter().any(|status| matches!(status.mood(), Mood::Wrong));
    Ok(if is_bad { Ended::NotWell } else { Ended::Well })
}

async fn look_at(view: &View, accelerator: &Accelerator) -> Result<Vec<Status>, Error> {
    let sight = view.look(accelerator, patience()).await?;
    let notes = Notes::read(&accelerator.arn, &sight.tags);
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
    for (site, note) in notes.iter() {
        let status = entry(&mut found, accelerator, Some(site.as_str().to_owned()));
        status.noted = true;
        if let Some(by) = &note.by {
            (status.fenced_at, status.reporter) = (Some(by.at), by.reporter.clone());
        }
    }
    if found.keys().flatten().count() == 1 {
        for status in found.values_mut() {
            status.alone = status.site.is_some();
        }
    }
    Ok(found.into_values().collect())
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
        noted: false,
        alone: false,
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

/// Invokes the function: it has the password of Infinispan, and reaches it.
async fn rejoin(session: &Session, region: Option<Region>, arguments: Rejoin) -> Result<Ended, Error> {
    let Rejoin { site, accelerator, function, force, reason, dry_run, yes } = arguments;
    let question =
        format!("Are the sites synchronised? Rejoining {site} to {accelerator} sends traffic to it again.");
    if session.screen.ask(&question, yes || dry_run).await? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    let request = json!({ "accelerator": accelerator, "site": site, "force": force, "reason": reason, "dryRun": dry_run });
    let outcome = invoke(session, region, &function, &request).await?;
    show(session, &site, &outcome).await?;
    Ok(match outcome["outcome"].as_str() {
        Some("rejoined" | "already_rejoined" | "would_rejoin") => Ended::Well,
        _ => Ended::NotWell,
    })
}

/// Invokes the function: it waits for reports that are handled at the same time.
async fn take_out(session: &Session, region: Option<Region>, arguments: Out) -> Result<Ended, Error> {
    let Out { site, accelerator, function, reason, dry_run, yes } = arguments;
    let question =
        format!("No traffic of {accelerator} will reach {site} until it is rejoined. Take it out?");
    if session.screen.ask(&question, yes || dry_run).await? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    let request = json!({ "takeOut": site, "accelerator": accelerator, "reason": reason, "dryRun": dry_run });
    let outcome = invoke(session, region, &function, &request).await?;
    show(session, &site, &outcome).await?;
    Ok(match outcome["outcome"].as_str() {
        Some("taken_out" | "already_out" | "would_take_out") => Ended::Well,
        _ => Ended::NotWell,
    })
}

async fn invoke(
    session: &Session,
    region: Option<Region>,
    function: &str,
    request: &Value,
) -> Result<Value, Error> {
    let aws = region_of(session, region, function);
    let answer = function::invoke(&aws, function, request, INVOCATION).await?;
    Ok(answer["outcomes"][0].clone())
}

/// AWS in the Region of a function: that of its ARN, or else this one.
fn region_of(session: &Session, region: Option<Region>, function: &str) -> SdkConfig {
    match region {
        Some(region) if !function.contains(':') => session.aws.to_builder().region(region).build(),
        _ => session.aws_of(function),
    }
}

async fn show(session: &Session, site: &Site, outcome: &Value) -> Result<(), Error> {
    let show = || {
        let word = |key: &str| outcome[key].as_str().map(plain);
        let reason = word("reason").map(|reason| format!(": {reason}")).unwrap_or_default();
        let detail = word("detail").map(|detail| format!(" ({detail})")).unwrap_or_default();
        format!("{site}: {}{reason}{detail}\n", word("outcome").unwrap_or_default())
    };
    session.screen.show("outcomes", &[outcome], show).await
}

// === impl Status ===

impl Status {
    fn healthy(&self) -> usize {
        self.endpoints.iter().filter(|endpoint| endpoint.healthy).count()
    }

    fn mood(&self) -> Mood {
        if self.site.is_none() {
            Mood::Unknown
        } else if !self.endpoints.is_empty() && self.healthy() == 0 {
            Mood::Wrong
        } else if self.endpoints.is_empty() || self.noted || self.alone {
            Mood::Warn
        } else {
            Mood::Ok
        }
    }

    fn words(&self) -> String {
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
            format!("in service, though noted as fenced{since}: rejoin it")
        } else if self.healthy() == 0 {
            "in service, not healthy".to_owned()
        } else if self.alone {
            "in service; no other site is known".to_owned()
        } else {
            "in service".to_owned()
        }
    }
}
