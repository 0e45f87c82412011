//! `failoverctl latch attach` and `detach`: which check the application's PRIMARY record refers to.

use clap::Args;
use serde::Serialize;

use super::File;
use super::s3::Hands;
use super::zone::{self, Checks, Incomplete, Zone};
use crate::cli::error::{Ended, Error};
use crate::cli::screen::{ask, say};
use crate::cli::session::Common;
use crate::latch::config::Latch;
use crate::latch::seen::{Record, Verdict};
use crate::latch::view;

/// Attach a latch: the application's PRIMARY record and the sentinel `_serving` refer to it, in one change.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  failoverctl latch attach app\n\nThe code that manages the record has to name the same check: \
    otherwise its next run detaches the latch."
)]
pub(super) struct Attach {
    #[command(flatten)]
    arguments: Arguments,
}

/// Detach a latch: the PRIMARY record and `_serving` refer to the primary's own check again.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl latch detach app")]
pub(super) struct Detach {
    #[command(flatten)]
    arguments: Arguments,
}

#[derive(Debug, Args)]
struct Arguments {
    /// The latch.
    latch: String,
    /// Show what would be changed, change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    file: File,
}

/// What became of the records.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    latch: String,
    outcome: &'static str,
    record: String,
    /// The check that the records had before.
    before: String,
    /// The check that they have now.
    check: String,
}

pub(super) async fn attach(common: &Common, attach: Attach) -> Result<Ended, Error> {
    let Arguments { latch, dry_run, yes, file } = attach.arguments;
    let latches = file.open(common).await?;
    let latch = latches.named(&latch)?;
    let seen = view::see(&latches.config, &latches.s3, &latches.name_servers, &[latch]).await.remove(0);
    if let Some(cause) = seen.state.cause() {
        return Err(refused(latch, cause));
    }
    if seen.keys.iter().any(|key| key.stored().is_some()) {
        return Err(refused(
            latch,
            &format!("it is locked; release it first with failoverctl latch release {}", latch.name),
        ));
    }
    if seen.said.serving != Verdict::Agreed(Record::Primary) {
        return Err(refused(
            latch,
            "the name servers do not say that the primary serves: wait until it does",
        ));
    }
    let (zone, checks) = found(&latches, latch).await?;
    let records = Records::of(&zone, latch).await?;
    for record in records.primaries.iter().filter(|record| zone::evaluates_target(record)) {
        say(&format!(
            "warning: {} {} evaluates its target's health: it can fail over without the latch",
            record.name(),
            record.r#type()
        ));
    }
    if records.check == checks.latched && records.sentinel == checks.latched {
        return outcome(&latches, latch, "already_attached", &zone, &checks.latched, &checks.latched);
    }
    if !checks.is_primary(&records.check) && records.check != checks.latched {
        return Err(refused(
            latch,
            &format!(
                "the PRIMARY record of {} has the check {}, and the latch requires {}: deploy the latch with the record's \
                 own check, infra/deploy latch --name {} --primary {}",
                zone.name,
                records.check,
                checks.primary.join(", "),
                latch.name,
                records.check
            ),
        ));
    }
    if dry_run {
        return outcome(&latches, latch, "would_attach", &zone, &records.check, &checks.latched);
    }
    let question = format!(
        "Refer {} and {} to the check {} instead of {}?",
        zone.name, zone.sentinel, checks.latched, records.check
    );
    if ask(&question, yes)? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    // Under a hold no watcher locks while the records change.
    let hands = Hands::new(&latches);
    let before = records.check.clone();
    hands
        .hold(latch, &vec![None; latches.config.buckets.len()])
        .await
        .map_err(|failure| refused(latch, &format!("a hold could not be put: {failure}")))?;
    let changed = zone.refer(records.all(), &checks.latched).await;
    hands.remove_holds(latch).await;
    changed?;
    say(&format!(
        "the check before was {before}; failoverctl latch detach {} refers to it again",
        latch.name
    ));
    outcome(&latches, latch, "attached", &zone, &before, &checks.latched)
}

pub(super) async fn detach(common: &Common, detach: Detach) -> Result<Ended, Error> {
    let Arguments { latch, dry_run, yes, file } = detach.arguments;
    let latches = file.open(common).await?;
    let latch = latches.named(&latch)?;
    let (zone, checks) = found(&latches, latch).await?;
    let records = Records::of(&zone, latch).await?;
    let own = checks.own().to_owned();
    if records.check == own && records.sentinel == own {
        return outcome(&latches, latch, "already_detached", &zone, &own, &own);
    }
    if records.check != checks.latched && records.check != own {
        return Err(refused(
            latch,
            &format!(
                "the PRIMARY record of {} has the check {}, which is none of the latch's",
                zone.name, records.check
            ),
        ));
    }
    let seen = view::see(&latches.config, &latches.s3, &latches.name_servers, &[latch]).await.remove(0);
    if seen.keys.iter().any(|key| key.stored().is_some()) {
        return Err(refused(
            latch,
            &format!(
                "it is locked, and without it the primary would serve; release it first with failoverctl latch release {}",
                latch.name
            ),
        ));
    }
    if dry_run {
        return outcome(&latches, latch, "would_detach", &zone, &records.check, &own);
    }
    let question = format!(
        "Refer {} and {} to the primary's own check {own}? Nothing keeps a failed primary out then.",
        zone.name, zone.sentinel
    );
    if ask(&question, yes)? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    let before = records.check.clone();
    zone.refer(records.all(), &own).await?;
    outcome(&latches, latch, "detached", &zone, &before, &own)
}

/// The PRIMARY records of the application and of `_serving`.
struct Records {
    primaries: Vec<aws_sdk_route53::types::ResourceRecordSet>,
    sentinels: Vec<aws_sdk_route53::types::ResourceRecordSet>,
    check: String,
    sentinel: String,
}

impl Records {
    async fn of(zone: &Zone, latch: &Latch) -> Result<Self, Error> {
        let mut primaries = zone::primaries(&zone.records(&zone.name).await?);
        primaries.retain(zone::is_address);
        let sentinels = zone::primaries(&zone.records(&zone.sentinel).await?);
        let of = |records: &[_], name: &str| match zone::check_of(records) {
            Some(check) => Ok(check.to_owned()),
            None if records.is_empty() => Err(refused(latch, &format!("{name} has no PRIMARY record"))),
            None => Err(refused(
                latch,
                &format!("the PRIMARY records of {name} do not all have the same health check"),
            )),
        };
        let (check, sentinel) = (of(&primaries, &zone.name)?, of(&sentinels, &zone.sentinel)?);
        Ok(Self { primaries, sentinels, check, sentinel })
    }

    fn all(self) -> Vec<aws_sdk_route53::types::ResourceRecordSet> {
        self.primaries.into_iter().chain(self.sentinels).collect()
    }
}

async fn found(latches: &super::Latches, latch: &Latch) -> Result<(Zone, Checks), Error> {
    let incomplete = |incomplete: Incomplete| match incomplete {
        Incomplete::Aws(failure) => Error::Aws(failure),
        other => refused(latch, &other.to_string()),
    };
    let aws = latches.control_plane();
    let zone = Zone::of(&aws, latch).await.map_err(incomplete)?;
    let checks = Checks::of(&aws, &latches.config.buckets, latch).await.map_err(incomplete)?;
    Ok((zone, checks))
}

fn outcome(
    latches: &super::Latches,
    latch: &Latch,
    outcome: &'static str,
    zone: &Zone,
    before: &str,
    check: &str,
) -> Result<Ended, Error> {
    let found = Change {
        latch: latch.name.clone(),
        outcome,
        record: zone.name.clone(),
        before: before.to_owned(),
        check: check.to_owned(),
    };
    let words = outcome.replace('_', " ");
    latches
        .session
        .screen
        .show(&found, || format!("{words}: {} refers to {check}, before: {before}\n", zone.name))?;
    Ok(Ended::Well)
}

fn refused(latch: &Latch, why: &str) -> Error {
    Error::Release(format!("{}: nothing was changed: {why}", latch.name))
}
