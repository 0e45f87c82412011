//! `failoverctl latch release`: brings the primary back, with a person's own credentials and no function.

mod dry_run;

use std::time::{Duration, SystemTime};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::select;
use tokio::time::{Instant, sleep, sleep_until};

use super::lock::show;
use super::s3::Hands;
use super::status::{object, word};
use super::{File, Latches};
use crate::cli::error::{Ended, Error};
use crate::cli::gates::{Ask, Gates};
use crate::cli::report;
use crate::cli::session::{Common, Interrupts};
use crate::cli::text::age;
use crate::cli::timeline::{Source, Timeline};
use crate::latch::config::Latch;
use crate::latch::dns::Question;
use crate::latch::release::{
    self, Begin, Deleted, Deletion, Held, Look, Settled, Settling, Stop, WAIT, begin, may_delete,
    stop_of_another, stop_of_new_lock,
};
use crate::latch::s3::SIGNATURE;
use crate::latch::seen::{HOLD, Object, Record, Verdict};

/// How far S3's clocks and this machine's may differ.
const CLOCKS: Duration = Duration::from_secs(5);
/// How often the settling is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Release a latch, once the sites are synchronised: the primary serves again.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl latch release app --reason 'synchronised, INC-1234'")]
pub(super) struct Arguments {
    /// The latch.
    latch: String,
    /// Release although the name servers do not say that the primary is healthy.
    #[arg(long)]
    force: bool,
    /// The reason; it is printed with the result.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    reason: Option<String>,
    #[command(flatten)]
    gates: Gates,
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

/// How a release ended that was not refused.
pub(super) enum Released {
    /// The primary serves.
    Open,
    /// There was no object.
    NotLocked,
    /// The person declined, and nothing was changed.
    Declined,
}

/// The objects of a drill.
#[derive(Clone, Copy)]
pub(super) struct Own<'a> {
    /// The id in them.
    pub id: &'a str,
    /// Up to which age they are released: whoever locks later does not expect it any more.
    pub lasts: Duration,
}

/// A release under way.
struct Release<'a> {
    latches: &'a Latches,
    latch: &'a Latch,
    hands: Hands<'a>,
    force: bool,
    /// The objects, if only these are released.
    own: Option<Own<'a>>,
}

/// What is deleted, once everything was read after the wait.
struct Ready {
    /// By bucket and `ETag`.
    objects: Vec<(usize, String)>,
    bodies: Vec<String>,
    /// S3's time when they were read.
    read_at: SystemTime,
    read: Instant,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let latches = arguments.file.open(common).await?;
    let latch = latches.named(&arguments.latch)?;
    let steps = async |timeline: &mut _, shown: &mut _| {
        steps(common, &latches, latch, &arguments, timeline, shown).await
    };
    arguments
        .report
        .of(&latches.session.screen, ("latch release", &latch.name, arguments.dry_run), steps)
        .await
}

async fn steps(
    common: &Common,
    latches: &Latches,
    latch: &Latch,
    arguments: &Arguments,
    timeline: &mut Timeline,
    shown: &mut Result<(), Error>,
) -> Result<Ended, Error> {
    let Arguments { force, reason, gates, dry_run, yes, .. } = arguments;
    let question =
        format!("Are the sites synchronised? Releasing {} brings traffic to the primary again.", latch.name);
    let screen = &latches.session.screen;
    // With the objects' ETags: a lock that comes after the approval has others.
    let what = |keys: &[Object]| {
        let etag = |key: &Object| {
            key.stored().map_or(object(key).to_owned(), |stored| stored.etag.trim_matches('"').to_owned())
        };
        let buckets = latches.config.buckets.iter().zip(keys);
        let objects: Vec<_> = buckets.map(|(bucket, key)| format!("{} {}", bucket.name, etag(key))).collect();
        let force = if *force { " --force" } else { "" };
        let reason = reason.as_deref().unwrap_or("no reason");
        format!("latch release {} in {}{force}: {reason}", latch.name, objects.join(", "))
    };
    if *dry_run {
        let (keys, buckets) = dry_run::would_release(latches, latch, *force, timeline).await?;
        let asked = Ask { question: &question, yes: *yes, dry_run: true, what: what(&keys) };
        gates.ask(common, &latches.session, &asked, timeline).await?;
        *shown = show(latches, latch, &buckets).await;
        return Ok(Ended::Well);
    }
    let mut recorded = reason.clone();
    // Until then an interrupt ends the process: nothing was changed.
    let confirm = async |keys: &[Object], timeline: &mut Timeline| {
        let asked = Ask { question: &question, yes: *yes, dry_run: false, what: what(keys) };
        let Some(passed) = gates.ask(common, &latches.session, &asked, timeline).await? else {
            return Ok(None);
        };
        recorded = passed.reason(reason.as_deref());
        Ok(Some(Interrupts::new()?))
    };
    let outcome = match release(latches, latch, *force, None, confirm, timeline).await? {
        Released::Open => "released",
        Released::NotLocked => "not_locked",
        Released::Declined => return Ok(Ended::NotWell),
    };
    let found = json!([{ "latch": latch.name, "outcome": outcome, "reason": recorded }]);
    let words = outcome.replace('_', " ");
    timeline.add(Source::Lock, format!("{} is {words}", latch.name));
    *shown = screen.show("outcomes", &found, || format!("{} is {words}\n", latch.name)).await;
    Ok(Ended::Well)
}

/// Releases a latch, if `confirm` agrees once it may begin, and returns what interrupts it. With `own`, only these objects are
/// released, and only if no one else holds the latch, or has held it.
///
/// # Errors
/// Why it was not released, and what is certain.
pub(super) async fn release(
    latches: &Latches,
    latch: &Latch,
    force: bool,
    own: Option<Own<'_>>,
    confirm: impl AsyncFnOnce(&[Object], &mut Timeline) -> Result<Option<Interrupts>, Error>,
    timeline: &mut Timeline,
) -> Result<Released, Error> {
    let release = Release { latches, latch, hands: Hands::new(latches, "a release"), force, own };
    let (holds, keys, primary, read_at) = release.read().await;
    release.seen(&keys, primary, timeline);
    let other = holds.iter().find_map(|hold| match hold {
        Held::Other(_, holder) => Some(holder.clone()),
        _ => None,
    });
    if let Some(holder) = other.filter(|_| own.is_some()) {
        return Err(release.refused(&Stop::HeldBy(holder)));
    }
    match begin(&holds, &keys, primary, force).map_err(|stop| release.refused(&stop))? {
        Begin::TidyUp(left) => {
            timeline.changed = true;
            for (bucket, etag) in left {
                let deletion = release.hands.delete(bucket, &latch.hold(), &etag, read_at).await;
                if let Deletion::Unconfirmed(cause) = deletion {
                    return Err(Error::Release(format!(
                        "{} is not locked, and a hold that was left behind could not be deleted: {cause}. Watchers \
                         ignore it",
                        latch.name
                    )));
                }
            }
            let what = "what a broken-off command had left behind is deleted";
            timeline.now(Source::Lock, what.to_owned());
            Ok(Released::NotLocked)
        }
        Begin::Hold(replace) => {
            let Some(mut interrupts) = confirm(&keys, timeline).await? else {
                return Ok(Released::Declined);
            };
            release.hold(&replace, timeline).await?;
            release.open(&keys, &mut interrupts, timeline).await?;
            release.settle(&mut interrupts, timeline).await?;
            Ok(Released::Open)
        }
    }
}

// === impl Release ===

impl Release<'_> {
    /// Reads the holds and the objects, and asks whether the primary is healthy; and S3's time at the start.
    async fn read(&self) -> (Vec<release::Held>, Vec<Object>, Verdict, SystemTime) {
        let (holds, read_at) = self.hands.holds(self.latch).await;
        (holds, self.latches.keys(self.latch).await, self.primary().await, read_at)
    }

    /// Adds what was read to the steps.
    fn seen(&self, keys: &[Object], primary: Verdict, timeline: &mut Timeline) {
        let primary = word(primary, ["healthy", "unhealthy"]);
        timeline.now(Source::Dns, format!("the name servers say of the primary: {primary}"));
        let objects = self.latches.config.buckets.iter().zip(keys).map(|(bucket, key)| match key.stored() {
            Some(stored) => format!("{}: locked {} ago", bucket.name, age(stored.age.as_secs())),
            None => format!("{}: {}", bucket.name, object(key)),
        });
        timeline.now(Source::Lock, objects.collect::<Vec<_>>().join(", "));
    }

    async fn primary(&self) -> Verdict {
        self.latches.name_servers.primaries(&[self.latch]).await[0]
    }

    async fn hold(&self, replace: &[Option<String>], timeline: &mut Timeline) -> Result<(), Error> {
        // A hold that is put, and deleted again, has kept watchers off.
        timeline.changed = true;
        if let Err(failure) = self.hands.hold(self.latch, replace).await {
            // Of two that begin at once, one finds the hold of the other.
            let (holds, _) = self.hands.holds(self.latch).await;
            return Err(stop_of_another(&holds).map_or_else(
                || {
                    let name = &self.latch.name;
                    Error::Release(format!(
                        "{name} was not released: a hold could not be put: {failure}. Repeat the release"
                    ))
                },
                |stop| self.refused(&stop),
            ));
        }
        let what = format!("1/4 watchers are held off {} for 10 minutes at most", self.latch.name);
        timeline.now(Source::Lock, what);
        Ok(())
    }

    /// Waits, reads everything again, and deletes the objects.
    async fn open(
        &self,
        began: &[Object],
        interrupts: &mut Interrupts,
        timeline: &mut Timeline,
    ) -> Result<(), Error> {
        let what = format!("2/4 waiting {} s, until no write from before can land", WAIT.as_secs());
        timeline.now(Source::Lock, what);
        let ready = select! {
            biased;
            () = interrupts.recv() => Err(Error::Interrupted),
            ready = self.ready(began, timeline) => ready,
        };
        let Ready { objects, bodies, read_at, read } = match ready {
            Ok(ready) => ready,
            Err(error) => {
                self.hands.remove_holds(self.latch).await;
                return Err(error);
            }
        };
        let key = self.latch.key();
        let deletions = objects.iter().map(|(bucket, etag)| {
            let (hands, key) = (&self.hands, &key);
            async move { (*bucket, hands.delete(*bucket, key, etag, read_at).await) }
        });
        let deletions = join_all(deletions).await;
        match release::deleted(&deletions) {
            Deleted::All => {
                timeline.now(Source::Lock, "3/4 every object is deleted".to_owned());
                Ok(())
            }
            Deleted::PutBack(absent) => {
                Err(self.put_back(&objects, &bodies, &deletions, &absent, read, timeline).await)
            }
        }
    }

    /// Waits, and reads which objects to delete.
    async fn ready(&self, began: &[Object], timeline: &mut Timeline) -> Result<Ready, Error> {
        sleep(WAIT).await;
        let (holds, keys, primary, read_at) = self.read().await;
        let read = Instant::now();
        self.seen(&keys, primary, timeline);
        if let Some(stop) = stop_of_new_lock(began, &keys) {
            return Err(self.refused(&stop));
        }
        let objects = may_delete(&holds, &keys, primary, self.force).map_err(|stop| self.refused(&stop))?;
        let bodies = objects.iter().map(async |(bucket, _)| {
            let body = self.latches.s3.body(*bucket, &self.latch.key()).await;
            body.unwrap_or_else(|_| "{}".to_owned())
        });
        let bodies = join_all(bodies).await;
        let id = |body: &String| serde_json::from_str::<Value>(body).unwrap_or_default()["id"].clone();
        if let Some(own) = self.own {
            if bodies.iter().any(|body| id(body) != own.id) {
                return Err(self.refused(&Stop::LockedAgain));
            }
            if keys.iter().filter_map(Object::stored).any(|stored| stored.age > own.lasts) {
                return Err(Error::Release(format!(
                    "{name} was not released: the drill has taken longer than it may. See failoverctl latch status {name}, and \
                     release it with failoverctl latch release {name}",
                    name = self.latch.name
                )));
            }
        }
        Ok(Ready { objects, bodies, read_at, read })
    }

    /// Puts the objects of these buckets back, and returns the error that says which state is certain. A deletion that was
    /// not confirmed may still arrive until its signature, which began before `read`, expires: after that, the objects
    /// are put back once more.
    async fn put_back(
        &self,
        objects: &[(usize, String)],
        bodies: &[String],
        deletions: &[(usize, Deletion)],
        absent: &[usize],
        read: Instant,
        timeline: &mut Timeline,
    ) -> Error {
        let mut states = Vec::new();
        let mut is_certain = true;
        for round in 0..2 {
            // This machine may have slept, and others have released the latch meanwhile.
            let (holds, _) = self.hands.holds(self.latch).await;
            let is_own = |hold: &Held| matches!(hold, Held::Own(stored) if stored.age <= HOLD);
            let is_over = |hold: &Held| match hold {
                Held::Own(stored) => stored.age > HOLD,
                Held::Other(..) => true,
                // A person may have removed one of several. No other release has begun while one stands.
                Held::Absent => !holds.iter().any(is_own),
                Held::Unreadable(_) => false,
            };
            if holds.iter().any(is_over) {
                self.hands.remove_holds(self.latch).await;
                let unconfirmed = deletions.iter().filter_map(|(_, deletion)| match deletion {
                    Deletion::Unconfirmed(cause) => Some(format!(". A deletion may still be done: {cause}")),
                    Deletion::Gone | Deletion::Changed => None,
                });
                let (name, unconfirmed) = (&self.latch.name, unconfirmed.collect::<String>());
                return Error::Release(format!(
                    "it is not certain whether {name} is released: this command's hold is gone or old, and the objects are not \
                     put back, because others may have released it{unconfirmed}. See failoverctl latch status {name}"
                ));
            }
            (states, is_certain) = (Vec::new(), true);
            for (((bucket, _), body), (_, deletion)) in objects.iter().zip(bodies).zip(deletions) {
                let name = &self.latches.config.buckets[*bucket];
                if !absent.contains(bucket) {
                    states.push(format!("{name}: another object is there"));
                    continue;
                }
                let put_back = self.hands.put_back(*bucket, self.latch, body).await;
                is_certain &= put_back.is_ok();
                states.push(match (put_back, deletion) {
                    (Ok(()), Deletion::Unconfirmed(cause)) => {
                        format!("{name}: the object is there; its deletion was not confirmed: {cause}")
                    }
                    (Ok(()), Deletion::Gone | Deletion::Changed) => {
                        format!("{name}: the object was put back")
                    }
                    (Err(failure), Deletion::Unconfirmed(cause)) => {
                        format!("{name}: it is not known whether the object is there: {cause}; {failure}")
                    }
                    (Err(failure), Deletion::Gone | Deletion::Changed) => {
                        format!("{name}: the object is deleted and could not be put back: {failure}")
                    }
                });
            }
            if round == 0 {
                let what = "the objects are put back; waiting until no deletion can arrive any more";
                timeline.now(Source::Lock, what.to_owned());
                sleep_until(read + SIGNATURE + CLOCKS).await;
            }
        }
        let next = if is_certain {
            self.hands.remove_holds(self.latch).await;
            "Repeat the release when every bucket answers"
        } else {
            "The holds stay, and watchers ignore them after 10 minutes. Repeat the release then, when every bucket answers"
        };
        let (name, states) = (&self.latch.name, states.join(". "));
        Error::Release(format!("{name} was not released. {states}. {next}"))
    }

    /// Waits until the primary serves, and deletes the holds.
    async fn settle(&self, interrupts: &mut Interrupts, timeline: &mut Timeline) -> Result<(), Error> {
        let what = "4/4 waiting until every name server has said for a minute that the primary serves";
        timeline.now(Source::Dns, what.to_owned());
        let (started, mut settling) = (Instant::now(), Settling::default());
        // The monotonic clock stands still while a computer sleeps.
        let began = SystemTime::now();
        let passed = || started.elapsed().max(began.elapsed().unwrap_or_default());
        loop {
            let serving = Question::serving(self.latch);
            let all_serve_primary = self.latches.name_servers.all_answer(serving, Record::Primary).await;
            let keys = self.latches.keys(self.latch).await;
            if keys.iter().any(|key| key.stored().is_some()) {
                self.hands.remove_holds(self.latch).await;
                return Err(Error::Release(format!(
                    "{} was locked again while it was released: see failoverctl latch status {}",
                    self.latch.name, self.latch.name
                )));
            }
            let absent = keys.iter().all(|key| *key == Object::Absent);
            let primary = self.primary().await;
            match settling.look(passed(), Look { all_serve_primary, primary, absent }, self.force) {
                Settled::Done => break,
                Settled::Wait => {}
                Settled::FailedAgain => {
                    let primary = word(primary, ["healthy", "unhealthy"]);
                    let servers = if all_serve_primary {
                        "every name server answers the primary"
                    } else {
                        "not every name server answers the primary"
                    };
                    let (name, buckets) = (&self.latch.name, if absent { "absent" } else { "not all seen" });
                    return Err(Error::Release(format!(
                        "{name} was opened, and the release is not confirmed: {servers}, the primary is {primary}, the \
                         objects are {buckets}, and it was not so for a minute on end. Watchers lock again in 10 minutes at most, if Route 53 answers the \
                         standby; lock it now with failoverctl latch lock {name} --reason …"
                    )));
                }
            }
            let goes_on = select! {
                () = sleep(LOOK) => true,
                () = interrupts.recv() => false,
            };
            if !goes_on {
                let what =
                    "the objects are deleted; the holds stay, and watchers ignore them after 10 minutes";
                timeline.now(Source::Lock, what.to_owned());
                return Err(Error::Interrupted);
            }
        }
        let what = "every name server has said for a minute that the primary serves";
        timeline.now(Source::Dns, what.to_owned());
        self.hands.remove_holds(self.latch).await;
        Ok(())
    }

    fn refused(&self, stop: &Stop) -> Error {
        let name = &self.latch.name;
        Error::Release(match stop {
            Stop::Unreadable(cause) => format!(
                "{name} was not released: {cause}. An object in a bucket that does not answer would take the primary out \
                 again later. Repeat the release when every bucket answers"
            ),
            Stop::NotLocked => format!("{name} is not locked"),
            Stop::HeldBy(holder) => format!(
                "{name} was not released: it is held by {holder}. Wait until that ends; if it was broken off, for 10 minutes \
                 at most"
            ),
            Stop::PrimaryUnhealthy => format!(
                "{name} was not released: the name servers do not say that the primary is healthy. Repair it first, or add \
                 --force"
            ),
            Stop::LockedAgain => format!(
                "{name} was not released: an object was created meanwhile. See failoverctl latch status {name} before you \
                 repeat the release"
            ),
            Stop::HoldGone => format!(
                "{name} was not released: its hold is gone, as after a lock by someone else. See failoverctl latch status \
                 {name} before you repeat the release"
            ),
            Stop::HoldTooOld => {
                format!("{name} was not released: a hold is older than 5 minutes. Repeat the release")
            }
        })
    }
}
