//! `failoverctl latch lock`: takes the primary out of service by hand.

use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::s3::{Hands, LATE, harmless, id, now, person};
use super::{File, Latches};
use crate::cli::error::{Ended, Error};
use crate::cli::report;
use crate::cli::screen::say;
use crate::cli::session::{Common, Interrupts};
use crate::cli::text::plain;
use crate::cli::timeline::{Source, Timeline};
use crate::latch::config::Latch;
use crate::latch::decide::Put;
use crate::latch::seen::Object;
use crate::remote::aws::Kind;

/// What is said of a bucket that has the object now.
pub(super) const CREATED: &str = "created";
/// What is said of a bucket that had it before.
pub(super) const ALREADY_THERE: &str = "already_there";

/// The field of a drill's object with its age, in seconds, up to which the drill may release it.
pub(super) const DRILL_SECONDS: &str = "drillSeconds";
/// The reason of a drill.
pub(super) const DRILL: &str = "drill";

/// Lock a latch by hand: the primary leaves service, and stays out until the latch is released.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl latch lock app --reason 'maintenance, INC-1234'")]
pub(super) struct Arguments {
    /// The latch.
    latch: String,
    /// The reason, for the people who read the object.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    reason: String,
    /// Show what would be done, change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    report: report::Options,
    #[command(flatten)]
    file: File,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let latches = arguments.file.open(common).await?;
    let latch = latches.named(&arguments.latch)?;
    let steps =
        async |timeline: &mut _, shown: &mut _| steps(&latches, latch, &arguments, timeline, shown).await;
    arguments.report.of(&latches.session.screen, ("latch lock", &latch.name, arguments.dry_run), steps).await
}

async fn steps(
    latches: &Latches,
    latch: &Latch,
    arguments: &Arguments,
    timeline: &mut Timeline,
    shown: &mut Result<(), Error>,
) -> Result<Ended, Error> {
    let Arguments { reason, dry_run, yes, .. } = arguments;
    let question = format!(
        "Take the primary of {} out of service? If the standby is healthy, traffic moves there.",
        latch.name
    );
    let screen = &latches.session.screen;
    if timeline.ask(screen, &question, *yes || *dry_run).await? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    let (buckets, ended) = if *dry_run {
        would_lock(latches, latch, timeline).await
    } else {
        let Locked { buckets, ended, .. } = lock(latches, latch, reason, None, timeline).await?;
        (buckets, ended)
    };
    *shown = show(latches, latch, &buckets).await;
    if *dry_run {
        return Ok(ended);
    }
    if ended == Ended::Well {
        say(
            "Route 53's checkers see the objects within their interval: follow it with failoverctl latch status --watch",
        );
    } else {
        say("it is not certain that every bucket has an object that stays: repeat the command until it is");
    }
    Ok(ended)
}

/// Shows what was done, or would be, in each bucket.
pub(super) async fn show(
    latches: &Latches,
    latch: &Latch,
    buckets: &Map<String, Value>,
) -> Result<(), Error> {
    let found = json!([{ "latch": latch.name, "buckets": buckets }]);
    let line =
        |(bucket, done): (&String, &Value)| format!("{bucket}  {}\n", done.as_str().unwrap_or_default());
    latches.session.screen.show("outcomes", &found, || buckets.iter().map(line).collect()).await
}

/// Reads what [`lock`] would do in each bucket, and whether it can be seen in each.
pub(super) async fn would_lock(
    latches: &Latches,
    latch: &Latch,
    timeline: &mut Timeline,
) -> (Map<String, Value>, Ended) {
    let mut ended = Ended::Well;
    let buckets = latches.config.buckets.iter().zip(latches.keys(latch).await).map(|(bucket, key)| {
        let would = match key {
            Object::Absent => "would_create".to_owned(),
            Object::Present(_) => ALREADY_THERE.to_owned(),
            Object::Invisible(cause) | Object::Silent(cause) => {
                ended = Ended::NotWell;
                format!("unknown: {cause}")
            }
        };
        (bucket.name.clone(), json!(would))
    });
    let buckets = buckets.collect();
    done_in(&buckets, timeline);
    (buckets, ended)
}

/// What became of a lock by hand.
pub(super) struct Locked {
    /// What was done in each bucket.
    pub buckets: Map<String, Value>,
    /// Whether each has an object that stays.
    pub ended: Ended,
    /// The id in the objects that it created.
    pub id: String,
    /// Who held the latch.
    pub from: Option<String>,
}

/// Creates the object of a latch in every bucket, and stops a release that is under way. Those of a drill say how long it
/// `lasts` at most.
pub(super) async fn lock(
    latches: &Latches,
    latch: &Latch,
    reason: &str,
    lasts: Option<Duration>,
    timeline: &mut Timeline,
) -> Result<Locked, Error> {
    let id = id();
    let mut body =
        json!({ "id": id, "latch": latch.name, "lockedAt": now(), "by": person(), "reason": reason });
    if let Some(lasts) = lasts {
        body[DRILL_SECONDS] = json!(lasts.as_secs());
    }
    let body = body.to_string();
    // Ended now, it would leave a latch that a deletion from before opens.
    let _ignored = Interrupts::new()?;
    let hands = Hands::new(latches, "a lock");
    // An answer may be lost after it was done.
    timeline.changed = true;
    let (mut buckets, _) = create(latches, &hands, latch, &body).await;
    // A release that finds another's hold in the place of its own deletes nothing; and none begins under this one.
    let taken = hands.take_over(latch).await;
    let mut is_drills = find_out(latches, latch, &id, &mut buckets, &[], timeline).await;
    let told: Vec<_> =
        buckets.iter().filter(|(_, done)| *done == ALREADY_THERE).map(|(bucket, _)| bucket.clone()).collect();
    if let Some(holder) = &taken.from {
        let name = &latch.name;
        let what = format!("{name} was held by {holder}: that is stopped, unless it has ended by now");
        timeline.now(Source::Lock, what);
        say(&format!(
            "after an attachment or a detachment, see that {name} is attached: failoverctl latch doctor {name}"
        ));
    }
    if taken.from.is_some() || taken.unknown.is_some() || taken.may_land {
        let what = format!(
            "waiting {} s, also when interrupted, until nothing from before can land",
            LATE.as_secs()
        );
        timeline.now(Source::Lock, what);
        sleep(LATE).await;
    }
    let (again, mut ended) = create(latches, &hands, latch, &body).await;
    let is_new = |bucket: &str| buckets.get(bucket).is_some_and(|done| done == CREATED);
    let again: Vec<_> = again.into_iter().filter(|(bucket, _)| !is_new(bucket)).collect();
    buckets.extend(again);
    // Where the first try had no answer, it is known only now whose object is there.
    is_drills |= find_out(latches, latch, &id, &mut buckets, &told, timeline).await;
    if is_drills {
        let what = "the hold stays, so that the drill does not release it: a release is possible again in 10 minutes";
        timeline.now(Source::Lock, what.to_owned());
    } else {
        hands.remove_holds(latch).await;
    }
    if let Some(cause) = &taken.unknown {
        let what =
            format!("it is not known whether a release is under way that will delete the objects: {cause}");
        timeline.now(Source::Lock, what);
        ended = Ended::NotWell;
    }
    done_in(&buckets, timeline);
    Ok(Locked { buckets, ended, id, from: taken.from })
}

/// Finds out whose objects were there already, except for the buckets that were `told`. Returns whether one may be a drill's.
async fn find_out(
    latches: &Latches,
    latch: &Latch,
    id: &str,
    buckets: &mut Map<String, Value>,
    told: &[String],
    timeline: &mut Timeline,
) -> bool {
    let mut is_drills = false;
    for (at, bucket) in latches.config.buckets.iter().enumerate() {
        if buckets[&bucket.name] != ALREADY_THERE || told.contains(&bucket.name) {
            continue;
        }
        let before = before(latches, latch, at, id).await;
        is_drills |= matches!(before, Before::Drills(_));
        match before {
            // The answer to its creation was lost.
            Before::Own => drop(buckets.insert(bucket.name.clone(), json!(CREATED))),
            Before::Other(whose) | Before::Drills(whose) => {
                timeline.now(Source::Lock, format!("{} was locked before, {whose}", latch.name));
            }
        }
    }
    is_drills
}

/// Adds what was done in each bucket to the steps; the outcome shows it as well.
pub(super) fn done_in(buckets: &Map<String, Value>, timeline: &mut Timeline) {
    for (bucket, done) in buckets {
        timeline.add(Source::Lock, format!("{bucket}: {}", plain(done.as_str().unwrap_or_default())));
    }
}

/// Whose object was there before.
enum Before {
    /// This command's.
    Own,
    /// Someone else's: by whom, when and why.
    Other(String),
    /// That of a drill that may still release it, or it could not be read.
    Drills(String),
}

/// Whose object is in this bucket.
async fn before(latches: &Latches, latch: &Latch, bucket: usize, own: &str) -> Before {
    let body = match latches.s3.body(bucket, &latch.key()).await {
        Ok(body) => body,
        // It is gone by now, or longer than a drill's.
        Err(other) if other.kind() == Kind::Refused => {
            return Before::Other(format!("by whom and why is not known: {other}"));
        }
        Err(_) => return Before::Drills("by whom and why could not be read: perhaps by a drill".to_owned()),
    };
    let body: Value = serde_json::from_str(&body).unwrap_or_default();
    if body["id"] == own {
        return Before::Own;
    }
    let text = |key: &str| harmless(body[key].as_str().unwrap_or("unknown"));
    let whose = format!("by {} at {}: {}", text("by"), text("lockedAt"), text("reason"));
    if body["reason"] != DRILL {
        return Before::Other(whose);
    }
    let age = latches.keys(latch).await[bucket].stored().map(|stored| stored.age);
    let lasts = body[DRILL_SECONDS].as_u64().map(Duration::from_secs);
    match age.zip(lasts) {
        Some((age, lasts)) if age > lasts => Before::Other(format!("{whose}, which was broken off")),
        _ => Before::Drills(whose),
    }
}

/// Creates the object of a latch in every bucket.
async fn create(
    latches: &Latches,
    hands: &Hands<'_>,
    latch: &Latch,
    body: &str,
) -> (Map<String, Value>, Ended) {
    let mut buckets = Map::new();
    let mut ended = Ended::Well;
    for (at, bucket) in latches.config.buckets.iter().enumerate() {
        let put = hands.create(at, latch, body).await;
        let done = match &put {
            Put::Created => CREATED.to_owned(),
            Put::AlreadyThere => ALREADY_THERE.to_owned(),
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
