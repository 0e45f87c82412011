//! `failoverctl restore`: the function's own code, run by an operator.

use std::time::Duration;

use clap::{Args, value_parser};
use futures_util::future::join;
use serde_json::json;

use super::error::{Ended, Error};
use super::guard::Options;
use super::name::{self, Named};
use super::seen;
use super::session::{Common, YEAR, patience, shortly};
use super::state::text;
use super::status;
use crate::failover_lock::Handler;

/// Restore a locked health check, once the sites are synchronised.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  failoverctl restore primary --reason 'synchronised, INC-1234' --wait\n  failoverctl restore \
    233e180f-f023-45a3-954e-415303f21eab --dry-run"
)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option")]
pub(super) struct Arguments {
    /// The primary's health check, by its id or its tag Name.
    #[arg(value_name = "CHECK")]
    check: Named,
    /// Restore without asking the primary whether it is healthy.
    #[arg(long)]
    force: bool,
    /// The path to set; the one from before, if it is left out.
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// The reason; it is recorded on the health check.
    #[arg(long)]
    reason: Option<String>,
    /// Ask the primary and show what would be done, change nothing.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Wait until the check is armed again: healthy by Route 53's checkers, and its alarm OK.
    #[arg(long)]
    wait: bool,
    /// How many seconds to wait.
    #[arg(long, value_name = "SECONDS", default_value_t = 900, requires = "wait", value_parser = value_parser!(u64).range(..=YEAR))]
    timeout: u64,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    options: Options,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let Arguments { check, force, path, reason, dry_run, wait, timeout, yes, options } = arguments;
    let guard = options.guard(common).await?;
    let id = check.find(&guard).await?;
    let tags = guard.route53.tags(&id, shortly());
    let (check, tags) = join(guard.route53.health_check(&id, patience()), tags).await;
    let (check, title) = (check?, name::title(&id, tags.ok().as_ref()));
    // What changes while the question is open was not decided about.
    let version = check.version;
    let asks = check.endpoint.as_ref().map(seen::watches).unwrap_or_default();
    let question = format!("Are the sites synchronised? Restoring {title} brings traffic to {asks} again.");
    let screen = &guard.session.screen;
    if screen.ask(&question, yes || dry_run).await? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    let request = json!({ "healthCheckId": id, "force": force, "path": path, "reason": reason, "dryRun": dry_run, "version": version });
    let outcome = guard.handle(Handler::Restore, &request.to_string()).await?;
    screen.show("outcomes", &[&outcome], || text(&outcome)).await?;
    if wait {
        status::until_armed(&guard, &id, Duration::from_secs(timeout)).await?;
    }
    Ok(Ended::Well)
}
