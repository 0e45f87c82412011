//! `failoverctl restore`: the function's own code, run by an operator.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::error::{Ended, Error};
use super::guard::Options;
use super::screen::ask;
use super::session::{Common, patience};
use super::state::text;
use super::status;
use crate::failover_lock::Handler;
use crate::failover_lock::health_check::HealthCheckId;

/// Restore a locked health check, once the sites are synchronised.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  failoverctl restore 233e180f-f023-45a3-954e-415303f21eab --reason 'synchronised, INC-1234' --wait"
)]
pub(super) struct Arguments {
    /// The primary's health check.
    id: HealthCheckId,
    /// Restore without asking the primary whether it is healthy.
    #[arg(long)]
    force: bool,
    /// The path to set; the one from before, if it is left out.
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// The reason; it is recorded on the health check.
    #[arg(long)]
    reason: Option<String>,
    /// Wait until the check is armed again: healthy by Route 53's checkers, and its alarm OK.
    #[arg(long)]
    wait: bool,
    /// How many seconds to wait.
    #[arg(long, value_name = "SECONDS", default_value_t = 900, requires = "wait")]
    timeout: u64,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    options: Options,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let Arguments { id, force, path, reason, wait, timeout, yes, options } = arguments;
    let guard = options.guard(common).await?;
    let check = guard.route53.health_check(&id, patience()).await?;
    let asks = check.endpoint.as_ref().map(status::watches).unwrap_or_default();
    let question = format!("Are the sites synchronised? Restoring {id} brings traffic to {asks} again.");
    if ask(&question, yes)? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    let request = json!({ "healthCheckId": id, "force": force, "path": path, "reason": reason });
    let outcome = guard.handle(Handler::Restore, &request.to_string()).await?;
    guard.session.screen.show(&outcome, || text(&outcome))?;
    if wait {
        status::until_armed(&guard, &id, Duration::from_secs(timeout)).await?;
    }
    Ok(Ended::Well)
}
