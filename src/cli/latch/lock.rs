//! `failoverctl latch lock`: takes the primary out of service by hand.

use std::time::SystemTime;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::{Map, Value, json};

use super::s3::{id, now, person};
use super::{File, Latches};
use crate::cli::error::{Ended, Error};
use crate::cli::screen::{ask, say};
use crate::cli::session::Common;
use crate::latch::config::{KEYS, Latch};
use crate::latch::decide::Put;

/// Lock a latch by hand: the primary leaves service, and stays out until the latch is released.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl latch lock app --reason 'maintenance, INC-1234'")]
pub(super) struct Arguments {
    /// The latch.
    latch: String,
    /// The reason, for the people who read the object.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    reason: String,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    file: File,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let Arguments { latch, reason, yes, file } = arguments;
    let latches = file.open(common).await?;
    let latch = latches.named(&latch)?;
    let question = format!(
        "Take the primary of {} out of service? If the standby is healthy, traffic moves there.",
        latch.name
    );
    if ask(&question, yes)? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    let (buckets, ended) = lock(&latches, latch, &reason).await;
    let found = json!({ "latch": latch.name, "buckets": buckets });
    latches.session.screen.show(&found, || {
        let line =
            |(bucket, done): (&String, &Value)| format!("{bucket}  {}\n", done.as_str().unwrap_or_default());
        buckets.iter().map(line).collect()
    })?;
    if ended == Ended::Well {
        say(
            "Route 53's checkers see the objects within their interval: follow it with failoverctl latch status --watch",
        );
    } else {
        say("a bucket has not confirmed its object: repeat the command until every bucket has");
    }
    Ok(ended)
}

/// Creates the object of a latch in every bucket. Returns what was done in each, and whether each has one.
pub(super) async fn lock(latches: &Latches, latch: &Latch, reason: &str) -> (Map<String, Value>, Ended) {
    let body =
        json!({ "id": id(), "latch": latch.name, "lockedAt": now(), "by": person(), "reason": reason })
            .to_string();
    let mut buckets = Map::new();
    let mut ended = Ended::Well;
    for (at, bucket) in latches.config.buckets.iter().enumerate() {
        // By S3's own clock: this machine's may be off.
        let now = latches.s3.read(at, KEYS, &[&latch.name]).await.date().unwrap_or_else(SystemTime::now);
        let put = latches.s3.create(at, &latch.key(), &body, now).await.unwrap_or_else(Put::Failed);
        let done = match &put {
            Put::Created => "created".to_owned(),
            Put::AlreadyThere => "already_there".to_owned(),
            Put::Conflict => "conflict: repeat the command".to_owned(),
            Put::Failed(cause) => format!("failed: {cause}"),
        };
        if matches!(put, Put::Conflict | Put::Failed(_)) {
            ended = Ended::NotWell;
        }
        buckets.insert(bucket.name.clone(), json!(done));
    }
    (buckets, ended)
}
