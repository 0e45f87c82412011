//! `failoverctl latch drill`: a game day: lock, see the standby serve, release, see the primary serve.

use std::convert::Infallible;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::{Args, value_parser};
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::lock::{ALREADY_THERE, CREATED, DRILL, Locked, lock, show, would_lock};
use super::release::{Own, Released, release};
use super::{File, Latches};
use crate::cli::error::{Ended, Error};
use crate::cli::report;
use crate::cli::screen::say;
use crate::cli::session::{Common, Interrupts, YEAR};
use crate::cli::timeline::{Source, Timeline};
use crate::latch::config::Latch;
use crate::latch::dns::{Question, Transport};
use crate::latch::outcome::State;
use crate::latch::seen::{HOLD, Object, Record, Verdict};

/// Why a drill releases nothing.
const FAILED: &str = "a name server has said during the drill that the primary has failed by itself";
const BLINDED: &str =
    "no name server has said for some seconds of the drill whether the primary has failed by itself";
/// How often the name servers are asked.
const LOOK: Duration = Duration::from_secs(1);
/// For how long they may not answer whether the primary fails.
const BLIND: Duration = Duration::from_secs(5);

/// A game day: lock the latch, follow Route 53 to the standby, and release it. Traffic moves to the standby and back.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl latch drill app")]
pub(super) struct Arguments {
    /// The latch.
    latch: String,
    /// How many seconds Route 53 may take to answer the standby.
    #[arg(long, value_name = "SECONDS", default_value_t = 180, value_parser = value_parser!(u64).range(..=YEAR))]
    timeout: u64,
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

/// The measured times of a drill.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Drill {
    latch: String,
    /// From the objects to the standby on every name server.
    locked_seconds: f64,
    /// From the start of the release to its end.
    released_seconds: f64,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let latches = arguments.file.open(common).await?;
    let latch = latches.named(&arguments.latch)?;
    let steps =
        async |timeline: &mut _, shown: &mut _| steps(&latches, latch, &arguments, timeline, shown).await;
    arguments.report.of(&latches.session.screen, ("latch drill", &latch.name, arguments.dry_run), steps).await
}

async fn steps(
    latches: &Latches,
    latch: &Latch,
    arguments: &Arguments,
    timeline: &mut Timeline,
    shown: &mut Result<(), Error>,
) -> Result<Ended, Error> {
    ready(latches, latch).await?;
    timeline.now(Source::Dns, format!("{} is armed, and both sites are healthy", latch.name));
    if arguments.dry_run {
        let (buckets, ended) = would_lock(latches, latch, timeline).await;
        *shown = show(latches, latch, &buckets).await;
        return Ok(ended);
    }
    let question =
        format!("Drill on {}? Its primary leaves service, and comes back minutes later.", latch.name);
    let screen = &latches.session.screen;
    if timeline.ask(screen, &question, arguments.yes).await? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    // It may have been locked while the question was open.
    ready(latches, latch).await?;
    let (started, interrupts) = (Instant::now(), Interrupts::new()?);
    let timeout = Duration::from_secs(arguments.timeout);
    // Half of a hold for the steps beside.
    let lasts = timeout + HOLD / 2;
    let witness =
        Witness { is_locked: AtomicBool::default(), seen: Mutex::default(), tells: interrupts.also() };
    let back = async {
        let Locked { buckets, ended, id, from } = lock(latches, latch, DRILL, Some(lasts), timeline).await?;
        if from.is_some() || buckets.values().any(|done| done == ALREADY_THERE) {
            let name = &latch.name;
            let whose = match from {
                Some(from) if buckets.values().all(|done| done == CREATED) => format!(
                    "{from} held it, which the drill has stopped. Its own objects lock {name}: once it is known what the hold was for, \
                     failoverctl latch release {name}"
                ),
                _ => format!(
                    "someone, or a watcher, has locked it meanwhile: the drill ends, and releases nothing. See failoverctl latch \
                     status {name}"
                ),
            };
            return Err(Error::NotOurs(format!("{name}: {whose}")));
        }
        witness.is_locked.store(true, Ordering::Relaxed);
        let ours = Ours { id: &id, lasts, timeout, started, ended };
        there_and_back(latches, latch, ours, interrupts, timeline).await
    };
    let back = tokio::select! {
        biased;
        back = Box::pin(back) => back,
        never = witness.watch(latches, latch) => match never {},
    };
    let mut seen = *witness.seen.lock().unwrap_or_else(PoisonError::into_inner);
    // The release may have been the first to see it.
    if back.is_err() && seen.is_none() && answers(latches, latch).await.contains(&Record::Secondary) {
        seen = Some(FAILED);
    }
    if let (Err(error), Some(why)) = (&back, seen) {
        let name = &latch.name;
        let beside = match error {
            Error::Interrupted => String::new(),
            other => format!(". Beside that: {other}"),
        };
        return Err(Error::Release(format!(
            "{name}: {why}, so that its data may be stale: the drill releases nothing from then on. Once a person has compared the \
             sites: failoverctl latch release {name}{beside}"
        )));
    }
    let (locked_seconds, released_seconds) = back?;
    let found = Drill { latch: latch.name.clone(), locked_seconds, released_seconds };
    let text =
        || format!("{}: locked in {locked_seconds:.0} s, released in {released_seconds:.0} s\n", latch.name);
    *shown = screen.show("outcomes", &[found], text).await;
    Ok(Ended::Well)
}

/// The lock of a drill.
struct Ours<'a> {
    id: &'a str,
    /// How long its hold lasts.
    lasts: Duration,
    /// How long Route 53 may take.
    timeout: Duration,
    started: Instant,
    ended: Ended,
}

/// Looks whether the primary fails by itself while the drill keeps it out: then a person has to compare the sites.
struct Witness {
    /// Whether the drill's objects were created.
    is_locked: AtomicBool,
    /// What was seen, in words.
    seen: Mutex<Option<&'static str>>,
    tells: Arc<Notify>,
}

impl Witness {
    async fn watch(&self, latches: &Latches, latch: &Latch) -> Infallible {
        let (mut answered, mut why) = (Instant::now(), None);
        loop {
            let answers = answers(latches, latch).await;
            if answers.contains(&Record::Secondary) {
                why = Some(FAILED);
            } else if !answers.is_empty() {
                answered = Instant::now();
            } else if answered.elapsed() > BLIND {
                why = why.or(Some(BLINDED));
            }
            if why.is_some() {
                // Before the look: what is created meanwhile is looked at again.
                let is_locked = self.is_locked.load(Ordering::Relaxed);
                if latches.keys(latch).await.iter().any(|key| *key != Object::Absent) {
                    *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = why;
                    self.tells.notify_one();
                    return pending().await;
                }
                // They are deleted: the watchers lock, and the release looks at what follows, and removes its holds.
                if is_locked {
                    return pending().await;
                }
            }
            sleep(LOOK).await;
        }
    }
}

/// What the name servers say of the primary.
async fn answers(latches: &Latches, latch: &Latch) -> Vec<Record> {
    latches.name_servers.ask(&[Question::healthy(&latch.primary)], Transport::Udp).await.remove(0)
}

/// Waits for the standby, and releases. Returns how many seconds each took.
async fn there_and_back(
    latches: &Latches,
    latch: &Latch,
    ours: Ours<'_>,
    mut interrupts: Interrupts,
    timeline: &mut Timeline,
) -> Result<(f64, f64), Error> {
    let Ours { id, lasts, timeout, started, ended } = ours;
    let followed = match ended {
        Ended::Well => until_standby(latches, latch, timeout, &mut interrupts).await,
        Ended::NotWell => Err(Error::Release(format!("{}: a bucket did not take the object", latch.name))),
    };
    let locked_seconds = started.elapsed().as_secs_f64();
    if followed.is_ok() {
        let what = format!("every name server answers the standby after {locked_seconds:.0} s");
        timeline.now(Source::Dns, what);
    }
    if let Err(Error::Interrupted) = followed {
        // Someone who has locked it meanwhile was told to do this.
        let what =
            format!("the drill leaves {} locked: failoverctl latch release {}", latch.name, latch.name);
        say(&what);
        timeline.add(Source::Lock, what);
        return Err(Error::Interrupted);
    }
    let started = Instant::now();
    // Otherwise the primary comes back, whatever happened.
    let own = Own { id, lasts };
    let confirm = async |_: &[Object], _: &mut Timeline| Ok(Some(interrupts));
    match release(latches, latch, false, Some(own), confirm, timeline).await {
        Ok(Released::Open | Released::NotLocked | Released::Declined) => {}
        Err(error) => {
            let (name, keys) = (&latch.name, latches.keys(latch).await);
            let what = if keys.iter().any(|key| key.stored().is_some()) {
                format!("the drill leaves {name} locked: failoverctl latch release {name}")
            } else if keys.iter().any(|key| *key != Object::Absent) {
                format!(
                    "it is not known whether the drill leaves {name} locked, because a bucket cannot be read: failoverctl latch \
                     status {name}"
                )
            } else {
                format!("no object of {name} was seen after the drill: failoverctl latch status {name}")
            };
            say(&what);
            timeline.add(Source::Lock, what);
            return Err(error);
        }
    }
    followed?;
    Ok((locked_seconds, started.elapsed().as_secs_f64()))
}

/// Refuses unless the latch is armed and both sites are healthy.
async fn ready(latches: &Latches, latch: &Latch) -> Result<(), Error> {
    let seen = latches.see(latch).await;
    let healthy = Verdict::Agreed(Record::Primary);
    if seen.state == State::Armed && seen.said.standby == healthy && seen.said.primary == healthy {
        return Ok(());
    }
    Err(Error::NoDrill(format!(
        "{name}: no drill: it must be armed, with both sites healthy; see failoverctl latch doctor {name}",
        name = latch.name
    )))
}

/// Waits until every name server answers the standby.
async fn until_standby(
    latches: &Latches,
    latch: &Latch,
    timeout: Duration,
    interrupts: &mut Interrupts,
) -> Result<(), Error> {
    let follow = async {
        while !latches.name_servers.all_answer(Question::serving(latch), Record::Secondary).await {
            sleep(LOOK).await;
        }
    };
    tokio::select! {
        biased;
        () = interrupts.recv() => Err(Error::Interrupted),
        () = follow => Ok(()),
        () = sleep(timeout) => Err(Error::TooLate(format!(
            "Route 53 did not answer the standby of {} within {} s: see failoverctl latch doctor {}",
            latch.name,
            timeout.as_secs(),
            latch.name
        ))),
    }
}
