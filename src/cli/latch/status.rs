//! `failoverctl latch status`: the latches as they are now.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{File, Latches};
use crate::cli::error::{Ended, Error};
use crate::cli::screen::{Mood, Row, table};
use crate::cli::session::Common;
use crate::latch::config::Latch;
use crate::latch::outcome::State;
use crate::latch::seen::{Object, Record, Verdict};
use crate::latch::view::{self, Seen};

/// How often `--watch` looks.
const WATCH: Duration = Duration::from_secs(5);

/// Show the latches: what Route 53's name servers answer, and the objects in the buckets.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl latch status --watch")]
pub(super) struct Arguments {
    /// The latches; all of the file, if none is named.
    latches: Vec<String>,
    /// Show them again every 5 seconds, until interrupted.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    file: File,
}

/// A latch as `status` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    latch: String,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    /// `primary`, `standby`, `contradictory` or `unknown`.
    serving: &'static str,
    /// `healthy`, `unhealthy`, `contradictory` or `unknown`.
    primary: &'static str,
    standby: &'static str,
    /// Whether Route 53 does not fail over, although it should.
    #[serde(skip)]
    is_overdue: bool,
    buckets: Vec<InBucket>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InBucket {
    bucket: String,
    region: String,
    /// `absent`, `present` or `unknown`.
    object: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    /// `absent`, `fresh`, `stale` or `unknown`.
    hold: &'static str,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let Arguments { latches: names, watch, file } = arguments;
    let latches = file.open(common).await?;
    let shown: Vec<_> = if names.is_empty() {
        latches.config.latches.iter().collect()
    } else {
        names.iter().map(|name| latches.named(name)).collect::<Result<_, _>>()?
    };
    let look = async || Ok(look(&latches, &shown).await);
    let is_well = |status: &Status| mood(&status.state) == Mood::Ok;
    let ended = |found: &Vec<Status>| if found.iter().all(is_well) { Ended::Well } else { Ended::NotWell };
    let text = |found: &Vec<Status>, _: Option<&_>| text(found);
    latches.session.screen.watch("latches", watch.then_some(WATCH), look, text, ended).await
}

async fn look(latches: &Latches, shown: &[&Latch]) -> Vec<Status> {
    let seen = view::see(&latches.config, &latches.s3, &latches.name_servers, shown).await;
    shown.iter().zip(seen).map(|(latch, seen)| status(latches, latch, &seen)).collect()
}

fn status(latches: &Latches, latch: &Latch, seen: &Seen) -> Status {
    let buckets = latches.config.buckets.iter().zip(seen.keys.iter().zip(&seen.holds));
    let buckets = buckets.map(|(bucket, (key, hold))| InBucket {
        bucket: bucket.name.clone(),
        region: bucket.region.clone(),
        object: object(key),
        age_seconds: key.stored().map(|stored| stored.age.as_secs()),
        hold: match hold {
            hold if hold.is_fresh_hold() => "fresh",
            hold if hold.is_stale_hold() => "stale",
            hold => object(hold),
        },
    });
    Status {
        latch: latch.name.clone(),
        state: seen.state.clone(),
        cause: seen.state.cause().map(str::to_owned),
        serving: word(seen.said.serving, ["primary", "standby"]),
        primary: word(seen.said.primary, ["healthy", "unhealthy"]),
        standby: word(seen.said.standby, ["healthy", "unhealthy"]),
        is_overdue: seen.said.is_overdue(),
        buckets: buckets.collect(),
    }
}

pub(super) fn object(object: &Object) -> &'static str {
    match object {
        Object::Absent => "absent",
        Object::Present(_) => "present",
        Object::Invisible(_) | Object::Silent(_) => "unknown",
    }
}

pub(super) fn word(verdict: Verdict, words: [&'static str; 2]) -> &'static str {
    match verdict {
        Verdict::Agreed(Record::Primary) => words[0],
        Verdict::Agreed(Record::Secondary) => words[1],
        Verdict::Split => "contradictory",
        Verdict::Blind => "unknown",
    }
}

/// A lock is what the latch is for: it is no fault.
fn mood(state: &State) -> Mood {
    match state {
        State::Armed | State::Locked | State::Holding => Mood::Ok,
        State::Unsettled | State::DryRun | State::WouldLock => Mood::Warn,
        State::Failed(_) | State::Blind => Mood::Unknown,
        State::NotHolding | State::Half | State::StandbyUnhealthy | State::LatchSuspect => Mood::Wrong,
    }
}

fn text(found: &[Status]) -> String {
    let row = |status: &Status| {
        let objects: Vec<_> = status
            .buckets
            .iter()
            .map(|bucket| match bucket.age_seconds {
                Some(age) => format!("{} ({})", bucket.object, crate::cli::text::age(age)),
                None => bucket.object.to_owned(),
            })
            .collect();
        let cells = [
            status.state.name().to_owned(),
            status.latch.clone(),
            status.serving.to_owned(),
            status.primary.to_owned(),
            status.standby.to_owned(),
            objects.join(", "),
        ];
        Row { cells, mood: mood(&status.state), below: String::new() }
    };
    let rows: Vec<_> = found.iter().map(row).collect();
    let mut text = table(["STATE", "LATCH", "SERVING", "PRIMARY", "STANDBY", "OBJECTS"], &rows);
    for status in found {
        if status.state == State::Unsettled {
            let name = &status.latch;
            let said = if status.is_overdue {
                format!(
                    "if this lasts for a minute, Route 53 does not fail over: failoverctl latch doctor {name}"
                )
            } else {
                "a watcher for which this has lasted a minute is blind: look again".to_owned()
            };
            let _ = write!(text, "\n{name}: {said}\n");
        }
        if let Some(cause) = &status.cause {
            let _ = write!(text, "\n{}: {cause}\n", status.latch);
        }
    }
    text
}
