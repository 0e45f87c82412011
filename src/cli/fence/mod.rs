//! `failoverctl fence`: the sites behind an accelerator, those that were taken out, and their rejoining.

mod out;
mod rejoin;
mod status;

use std::time::Duration;

use aws_config::{Region, SdkConfig};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::error::{Ended, Error};
use super::function;
use super::session::{Common, Session};
use super::text::plain;
use crate::site_fence::site::Site;

/// The function's own timeout, and the time of its start.
const INVOCATION: Duration = Duration::from_secs(70);

/// Show the sites behind AWS Global Accelerator, and rejoin one that site-fence has taken out.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(status::Arguments),
    Rejoin(rejoin::Arguments),
    Out(out::Arguments),
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let region = common.own_region();
    let session = common.session_in(region.clone()).await?;
    match arguments.command {
        Command::Status(arguments) => status::run(&session, region, arguments).await,
        Command::Rejoin(arguments) => rejoin::run(common, &session, region, arguments).await,
        Command::Out(arguments) => out::run(&session, region, arguments).await,
    }
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
