//! `failoverctl doctor --fix`: runs the commands that repair what was found, with the AWS CLI.

use std::process::Stdio;

use tokio::process::Command;

use crate::cli::error::{Ended, Error};
use crate::cli::findings::Plan;
use crate::cli::screen::{Screen, say};
use crate::cli::session::Common;
use crate::cli::text::plain;

/// Shows the plan, and asks whether to run its commands.
pub(super) async fn is_agreed(screen: &Screen, plan: &Plan, dry_run: bool, yes: bool) -> Result<bool, Error> {
    let context = screen.line().await;
    if !context.is_empty() {
        say(context.trim_end());
    }
    for (place, (found, command)) in plan.commands.iter().enumerate() {
        say(&format!("{}. {found}\n   {}", place + 1, plain(command)));
    }
    for (found, remedy) in &plan.by_hand {
        say(&format!("by hand: {found}\n   {}", plain(remedy)));
    }
    let count = plan.commands.len();
    if count == 0 {
        say("there is nothing that a command repairs");
        return Ok(false);
    }
    if dry_run {
        return Ok(false);
    }
    let question = format!("Run {count} of these commands, in this order?");
    Ok(screen.ask(&question, yes).await? == Ended::Well)
}

/// Runs the commands of the plan, each also if one before it has failed.
///
/// # Errors
/// Names each that has failed.
pub(super) async fn carry_out(common: &Common, plan: &Plan) -> Result<(), Error> {
    let mut failed = Vec::new();
    for (place, (_, command)) in plan.commands.iter().enumerate() {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).env("AWS_PAGER", "").stdin(Stdio::null());
        common.hand_on(&mut shell);
        let output = shell.output().await?;
        let number = place + 1;
        if output.status.success() {
            say(&format!("{number}. done"));
        } else {
            let said = plain(String::from_utf8_lossy(&output.stderr).trim());
            failed.push(format!("command {number} of {} has failed: {said}", plan.commands.len()));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Error::Fix(failed.join("; "))) }
}
