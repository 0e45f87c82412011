//! `failoverctl fence out`: take a site out for maintenance.

use aws_config::Region;
use clap::Args;
use serde_json::json;

use super::{Change, change};
use crate::cli::error::{Ended, Error};
use crate::cli::gates::Gates;
use crate::cli::report;
use crate::cli::session::{Common, Session};
use crate::site_fence::site::Site;

/// Take a site out of the accelerator for maintenance: its endpoints are noted with their weights, and `rejoin` adds them
/// again. Replication stays as it is.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl fence out site-b --accelerator \
    a1234567890abcdef.awsglobalaccelerator.com --region eu-west-1 --reason 'new nodes, CHG-1234'")]
pub(super) struct Arguments {
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
    #[command(flatten)]
    gates: Gates,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    report: report::Options,
}

/// Invokes the function: it waits for reports that are handled at the same time.
pub(super) async fn run(
    common: &Common,
    session: &Session,
    region: Option<Region>,
    arguments: Arguments,
) -> Result<Ended, Error> {
    let Arguments { site, accelerator, function, reason, dry_run, gates, yes, report } = arguments;
    let out = Change {
        command: "fence out",
        question: format!("No traffic of {accelerator} will reach {site} until it is rejoined. Take it out?"),
        request: json!({ "takeOut": site, "accelerator": accelerator, "reason": reason, "dryRun": dry_run }),
        done: ["taken_out", "already_out"],
        would: "would_take_out",
        site: site.as_str(),
        accelerator: &accelerator,
        function: &function,
        dry_run,
        yes,
        gates: &gates,
        report: &report,
    };
    change(common, session, region, out).await
}
