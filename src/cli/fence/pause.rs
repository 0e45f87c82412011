//! `failoverctl fence pause` and `failoverctl fence resume`: planned work, during which no report takes a site out.

use aws_config::Region;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::json;

use super::{Change, change};
use crate::cli::error::{Ended, Error};
use crate::cli::gates::Gates;
use crate::cli::pause::Length;
use crate::cli::report;
use crate::cli::screen::say;
use crate::cli::session::{Common, Session};
use crate::site_fence::site::Site;

/// Pause the reports about a site and from it for planned work: they take no site out until then.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl fence pause site-b --accelerator \
    a1234567890abcdef.awsglobalaccelerator.com --region eu-west-1 --for 2h --reason 'upgrade, CHG-1234'")]
pub(super) struct Pause {
    #[command(flatten)]
    sites: Sites,
    /// For how long: minutes, hours or days, for example 90m, 2h or 1d; at most 15 days.
    #[arg(long = "for", value_name = "TIME")]
    length: Length,
    /// The reason, for those who find the pause.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    reason: String,
}

/// End the pause of a site, or of all sites.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl fence resume site-b --accelerator \
    a1234567890abcdef.awsglobalaccelerator.com --region eu-west-1")]
pub(super) struct Resume {
    #[command(flatten)]
    sites: Sites,
}

/// Which sites, and how.
#[derive(Debug, Args)]
struct Sites {
    /// The site.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    site: Option<Site>,
    /// All sites behind the accelerator.
    #[arg(long)]
    all: bool,
    /// The accelerator's DNS name or ARN.
    #[arg(long, value_name = "NAME")]
    accelerator: String,
    /// The function that receives the reports. A name is searched for in --region, by default in the environment's Region.
    #[arg(long, value_name = "NAME", default_value = "site-fence")]
    function: String,
    /// Show what would be done, change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    report: report::Options,
    /// There are none: no traffic moves.
    #[arg(skip)]
    gates: Gates,
}

pub(super) async fn pause(
    common: &Common,
    session: &Session,
    region: Option<Region>,
    arguments: Pause,
) -> Result<Ended, Error> {
    let Pause { sites, length, reason } = arguments;
    let Length(minutes) = length;
    let name = sites.name();
    let question =
        format!("Pause {name} for {length}? No report about it, or from it, takes a site out then.");
    let pause = Change {
        command: "fence pause",
        done: ["paused"; 2],
        would: "would_pause",
        ..sites.change(name, question, minutes, Some(&reason))
    };
    let ended = change(common, session, region, pause).await?;
    if ended == Ended::Well && !sites.dry_run {
        say(
            "the alarm site-paused stands until failoverctl fence resume, also when the pause has ended by itself",
        );
    }
    Ok(ended)
}

pub(super) async fn resume(
    common: &Common,
    session: &Session,
    region: Option<Region>,
    Resume { sites }: Resume,
) -> Result<Ended, Error> {
    let name = sites.name();
    let question = format!("End the pause of {name}? From then on reports take a site out again.");
    let resume = Change {
        command: "fence resume",
        done: ["resumed", "not_paused"],
        would: "would_resume",
        ..sites.change(name, question, 0, None)
    };
    change(common, session, region, resume).await
}

// === impl Sites ===

impl Sites {
    fn name(&self) -> &str {
        self.site.as_ref().map_or("all sites", Site::as_str)
    }

    /// What the function is asked for: a pause of so many minutes, or its end.
    fn change<'a>(
        &'a self,
        name: &'a str,
        question: String,
        minutes: i64,
        reason: Option<&str>,
    ) -> Change<'a> {
        let Self { site, all: _, accelerator, function, dry_run, yes, report, gates } = self;
        Change {
            command: "",
            site: name,
            accelerator,
            question,
            function,
            request: json!({
                "pauseMinutes": minutes, "site": site, "accelerator": accelerator, "reason": reason, "dryRun": dry_run
            }),
            done: [""; 2],
            would: "",
            dry_run: *dry_run,
            yes: *yes,
            gates,
            report,
        }
    }
}
