//! `failoverctl fence`: the sites behind an accelerator, those that were taken out, their rejoining, and pauses.

mod doctor;
mod out;
mod pause;
mod rejoin;
mod status;

use std::time::Duration;

use aws_config::{Region, SdkConfig};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::error::{Ended, Error};
use super::function;
use super::gates::{Ask, Gates};
use super::report;
use super::session::{Common, Session};
use super::text::plain;
use super::timeline::{Source, Timeline};

/// The function's own timeout, and the time of its start.
const INVOCATION: Duration = Duration::from_secs(70);

/// Show the sites behind AWS Global Accelerator, check what fences them, take one out, rejoin it, and pause site-fence.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(status::Arguments),
    Doctor(doctor::Arguments),
    Rejoin(rejoin::Arguments),
    Out(out::Arguments),
    Pause(pause::Pause),
    Resume(pause::Resume),
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let region = common.own_region();
    let session = common.session_in(region.clone()).await?;
    match arguments.command {
        Command::Status(arguments) => status::run(&session, region, arguments).await,
        Command::Doctor(arguments) => Box::pin(doctor::run(&session, region, arguments)).await,
        Command::Rejoin(arguments) => rejoin::run(common, &session, region, arguments).await,
        Command::Out(arguments) => out::run(common, &session, region, arguments).await,
        Command::Pause(arguments) => pause::pause(common, &session, region, arguments).await,
        Command::Resume(arguments) => pause::resume(common, &session, region, arguments).await,
    }
}

/// What a function is to do with a site.
struct Change<'a> {
    /// The command.
    command: &'static str,
    /// The site, or all of them.
    site: &'a str,
    accelerator: &'a str,
    question: String,
    /// The function, and what it is asked for.
    function: &'a str,
    request: Value,
    /// The outcomes after which it is done.
    done: [&'a str; 2],
    /// The outcome of a dry run.
    would: &'a str,
    dry_run: bool,
    yes: bool,
    gates: &'a Gates,
    report: &'a report::Options,
}

/// Asks, and invokes the function.
async fn change(
    common: &Common,
    session: &Session,
    region: Option<Region>,
    change: Change<'_>,
) -> Result<Ended, Error> {
    let Change { command, site, accelerator, dry_run, report, .. } = change;
    let subject = format!("{site} behind {}", plain(accelerator));
    let steps = async |timeline: &mut _, shown: &mut _| {
        steps(common, session, region, &change, timeline, shown).await
    };
    report.of(&session.screen, (command, &subject, dry_run), steps).await
}

async fn steps(
    common: &Common,
    session: &Session,
    region: Option<Region>,
    change: &Change<'_>,
    timeline: &mut Timeline,
    shown: &mut Result<(), Error>,
) -> Result<Ended, Error> {
    let Change {
        command,
        site,
        accelerator,
        question,
        function,
        request,
        done,
        would,
        dry_run,
        yes,
        gates,
        ..
    } = change;
    let given = request["reason"].as_str();
    let what = format!(
        "{command} {site} --accelerator {accelerator} --function {function}{}: {}",
        if request["force"] == true { " --force" } else { "" },
        given.unwrap_or("no reason")
    );
    let asked = Ask { question, yes: *yes, dry_run: *dry_run, what };
    let Some(passed) = gates.ask(common, session, &asked, timeline).await? else {
        return Ok(Ended::NotWell);
    };
    let mut request = request.clone();
    request["reason"] = json!(passed.reason(given));
    let answer = invoke(session, region, function, &request).await;
    // An answer may be lost after it was done.
    let is_untouched = matches!(answer, Err(Error::Aws(_) | Error::Function { may_be_done: false, .. }));
    timeline.changed = !dry_run && !is_untouched;
    let answer = answer?;
    let outcome = answer["outcome"].as_str().unwrap_or_default();
    if outcome == *would || ["refused", "not_paused"].contains(&outcome) || outcome.starts_with("already_") {
        timeline.changed = answer["changed"] == true;
    }
    let line = line(site, &answer);
    timeline.add(Source::Function, format!("{}: {}", function::name(function).0, line.trim_end()));
    *shown = session.screen.show("outcomes", &[&answer], || line).await;
    // A function in a dry run does nothing.
    let is_well = done.contains(&outcome) || *dry_run && outcome == *would;
    // Another pause than the one that was ended.
    let is_paused = *command == "fence resume" && answer["detail"].is_string();
    let is_well = is_well && !is_paused;
    Ok(if is_well { Ended::Well } else { Ended::NotWell })
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

/// The outcome in a line of words.
fn line(site: &str, outcome: &Value) -> String {
    let word = |key: &str| outcome[key].as_str().map(plain);
    let reason = word("reason").map(|reason| format!(": {reason}")).unwrap_or_default();
    let detail = word("detail").map(|detail| format!(" ({detail})")).unwrap_or_default();
    format!("{site}: {}{reason}{detail}\n", word("outcome").unwrap_or_default())
}
