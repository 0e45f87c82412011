//! `failoverctl fence rejoin`: bring a site back that was taken out.

use aws_config::Region;
use clap::Args;
use serde_json::json;

use super::{Change, change};
use crate::cli::error::{Ended, Error};
use crate::cli::gates::Gates;
use crate::cli::report;
use crate::cli::session::{Common, Session};
use crate::site_fence::site::Site;

/// Rejoin a site, once the sites are synchronised: into Infinispan's replication, then into the accelerator.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl fence rejoin site-b --accelerator \
    a1234567890abcdef.awsglobalaccelerator.com --region eu-west-1 --reason 'synchronised, INC-1234'")]
pub(super) struct Arguments {
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
    #[command(flatten)]
    gates: Gates,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    report: report::Options,
}

/// Invokes the function: it has the password of Infinispan, and reaches it.
pub(super) async fn run(
    common: &Common,
    session: &Session,
    region: Option<Region>,
    arguments: Arguments,
) -> Result<Ended, Error> {
    let Arguments { site, accelerator, function, force, reason, dry_run, gates, yes, report } = arguments;
    let rejoin = Change {
        command: "fence rejoin",
        question: format!(
            "Are the sites synchronised? Rejoining {site} to {accelerator} sends traffic to it again."
        ),
        request: json!({ "accelerator": accelerator, "site": site, "force": force, "reason": reason, "dryRun": dry_run }),
        done: ["rejoined", "already_rejoined"],
        would: "would_rejoin",
        site: site.as_str(),
        accelerator: &accelerator,
        function: &function,
        dry_run,
        yes,
        gates: &gates,
        report: &report,
    };
    change(common, session, region, rejoin).await
}
