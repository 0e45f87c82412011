//! `failoverctl approve`: the second person's part of an operation with `--require-approval`.

use aws_config::Region;
use chrono::TimeDelta;
use clap::Args;
use serde_json::json;

use super::approval::{Approval, Plan, is_one_person};
use super::clock;
use super::context::SHORTLY;
use super::error::{Ended, Error};
use super::screen::say;
use super::session::Common;
use super::sts::{self, VALID};
use super::text::time;

/// Approve another person's plan, with your own credentials.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  failoverctl approve 'latch release app: INC-1234 | 123456789012 eu-central-1 \
    arn:aws:sts::123456789012:assumed-role/Operator/jane 2026-11-28T14:00:00Z 0123456789abcdef'"
)]
pub(super) struct Arguments {
    /// The plan, as the other person's command prints it.
    plan: String,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let Arguments { plan, yes } = arguments;
    let plan: Plan = plan.parse().map_err(Error::Gate)?;
    let session = common.session_in(Some(Region::new(plan.region.clone()))).await?;
    let screen = &session.screen;
    let Plan { what, account, by, at, .. } = &plan;
    let question = format!("Approve this: {what}? {by} asks for it since {at}, in account {account}.");
    if screen.ask(&question, yes).await? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    let until = clock::now() + TimeDelta::from_std(VALID).unwrap_or_default();
    let (caller, signature) = sts::sign_for(&session.aws, &plan.to_string(), SHORTLY).await?;
    let arn = caller.arn.unwrap_or_default();
    if is_one_person(&arn, by) {
        return Err(Error::Gate(format!("{arn} asks for it: a second person has to approve")));
    }
    let plan_line = plan.to_string();
    let approval = Approval { plan, signature }.to_string();
    say(&format!("approved as {arn}, until {}: give this to the person who asks for it", time(until)));
    let found = json!({ "plan": plan_line, "by": arn, "until": time(until), "token": approval });
    screen.show("approval", &found, || approval.clone() + "\n").await?;
    Ok(Ended::Well)
}
