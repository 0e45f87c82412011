//! `failoverctl lease handover`: asks the holder of a lease to release it for another candidate.

use std::time::Duration;

use chrono::Utc;
use clap::{Args, value_parser};
use tokio::time::{Instant, sleep};

use super::{Opened, Outcome, State, Which, shown, term_of, words};
use crate::cli::dynamodb::{Change, Changed, Lease, Seen};
use crate::cli::error::{Ended, Error};
use crate::cli::screen::{self, say};
use crate::cli::session::{Common, Interrupts, YEAR};
use crate::cli::text::{plain, time};
use crate::lease::Candidate;
use crate::lease::claim::{ANY, Record};

/// How often the record is read.
const LOOK: Duration = Duration::from_secs(1);
/// The term of a record that contains none.
const USUAL_TERM: Duration = Duration::from_secs(45);

/// Ask the holder to release a lease for another candidate, and follow the record until that one has it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl lease handover --config lease.yaml --to site-b")]
pub(super) struct Arguments {
    /// The candidate that is to have it, by its podIdentifier; any other than the holder, if left out.
    #[arg(long, value_name = "NAME", value_parser = candidate)]
    to: Option<String>,
    /// How many seconds to wait, before the request is removed; by default three terms.
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(..=YEAR))]
    timeout: Option<u64>,
    /// Show what would be asked for, change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    which: Which,
}

/// How a hand-over ended.
#[derive(Debug, PartialEq, Eq)]
enum Handed {
    /// This owner has the lease, as requested.
    Over(String),
    /// The request no longer applies.
    Otherwise(&'static str),
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let Arguments { to, timeout, dry_run, yes, which } = arguments;
    let Opened { lease, term, screen } = which.open(common).await?;
    let (lease, screen) = (&lease, &screen);
    let to = to.as_deref().unwrap_or(ANY);
    let Some(seen) = lease.look().await? else { return Outcome::missing(lease).show(screen).await };
    let record = &seen.record;
    let (holder, state) = (plain(&record.owner), words(record));
    let obstacle = match State::of(Some(record)) {
        State::Held if record.owner == to => {
            let said = format!("is {state} already; nothing was changed");
            return Outcome::well(lease, "already_held", &said).show(screen).await;
        }
        State::Held if record.writer.is_some() => None,
        State::Held => Some("the record was not written by a lease-keeper, and nothing else reads a request"),
        State::Pinned => Some("to end the pin: failoverctl lease unpin"),
        State::Released | State::Unowned | State::Missing => Some("a candidate takes it without a request"),
    };
    if let Some(obstacle) = obstacle {
        let said = format!("is {state}; nothing was changed: {obstacle}");
        return Outcome::refused(lease, "not_held", &said).show(screen).await;
    }
    let next = if to == ANY { "another candidate".to_owned() } else { plain(to) };
    if dry_run {
        let said = format!("would be handed over to {next}: it is {state}");
        return Outcome::well(lease, "would_hand_over", &said).show(screen).await;
    }
    let replaces = if record.handover.is_some() { " This replaces the request in the record." } else { "" };
    let question = format!(
        "Hand over {} to {next}? It is {state}: {holder} becomes passive, and releases it when its command has ended, \
         which may take its --stop, by default a term. If {next} does not take it then, no candidate is active for another \
         term, until {holder} takes it again.{replaces}",
        shown(lease)
    );
    if screen.ask(&question, yes).await? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    let term = term_of(record, term).unwrap_or(USUAL_TERM);
    let timeout = timeout.map_or(term * 3, Duration::from_secs);
    // A signal from here on removes the request.
    let mut interrupts = Interrupts::new()?;
    let id = match lease.change(&seen, Change::Ask(to)).await? {
        Changed::Done(id) => id,
        Changed::Refused { now, surely } => {
            return Outcome::changed(lease, now.as_ref(), surely).show(screen).await;
        }
    };
    let asked = Record { handover: Some(to.to_owned()), ..record.clone() };
    progress(&asked);
    let followed = tokio::select! {
        handed = follow(lease, &asked, to, &id, timeout) => Ok(handed),
        () = interrupts.recv() => Err(Error::Interrupted),
    };
    match &followed {
        Ok(Some(Handed::Over(owner))) => return over(lease, owner).show(screen).await,
        Ok(Some(Handed::Otherwise(said))) => {
            return Outcome::refused(lease, "not_handed_over", said).show(screen).await;
        }
        Ok(None) | Err(_) => {}
    }
    let withdrawn = withdraw(lease, &id).await;
    if withdrawn.is_err() {
        say(&screen::error("the request is still in the record: remove its attribute leaseHandover"));
    }
    followed?;
    let now = withdrawn?.map(|now| now.record);
    if let Some(Handed::Over(owner)) = handed(&asked, now.as_ref(), to, true) {
        return over(lease, &owner).show(screen).await;
    }
    let state = now.as_ref().map_or_else(|| "deleted".to_owned(), words);
    let request = match now.as_ref().and_then(|now| now.handover.as_ref()) {
        None => "the request was removed",
        Some(_) => "another request has replaced this one",
    };
    let said = format!(
        "is {state} after {} s; {request}. See the log and /state of {holder}'s lease-keeper, and of \
         {next}'s",
        timeout.as_secs()
    );
    Outcome::refused(lease, "not_answered", &said).show(screen).await
}

fn over(lease: &Lease, owner: &str) -> Outcome {
    Outcome::well(lease, "handed_over", &format!("is handed over: {} has it", plain(owner)))
}

/// Shows each change of the record, except for renewals, until the hand-over has ended; `None` if it has not in this
/// time.
async fn follow(lease: &Lease, asked: &Record, to: &str, id: &str, timeout: Duration) -> Option<Handed> {
    let end = Instant::now() + timeout;
    let mut shown = words(asked);
    loop {
        match lease.look().await {
            Ok(now) => {
                let is_own = now.as_ref().is_some_and(|now| now.is_changed_by(id));
                let now = now.map(|now| now.record);
                if let Some(now) = now.as_ref().filter(|now| words(now) != shown) {
                    progress(now);
                    shown = words(now);
                }
                let handed = handed(asked, now.as_ref(), to, is_own);
                if handed.is_some() {
                    return handed;
                }
            }
            // A failed read may succeed the next time.
            Err(error) => say(&screen::error(&error.to_string())),
        }
        if Instant::now() >= end {
            return None;
        }
        sleep(LOOK).await;
    }
}

/// How the hand-over has ended; `None` if it has not yet. `is_own` says that a request in the record is this one, and not
/// another person's for the same candidate.
fn handed(asked: &Record, now: Option<&Record>, to: &str, is_own: bool) -> Option<Handed> {
    let Some(now) = now else { return Some(Handed::Otherwise("has no record any more: it was deleted")) };
    let is_same = (now.epoch, &now.writer, &now.owner) == (asked.epoch, &asked.writer, &asked.owner);
    match State::of(Some(now)) {
        State::Pinned => Some(Handed::Otherwise("was pinned meanwhile, which ends the request")),
        State::Released | State::Unowned | State::Missing => None,
        State::Held if is_same && is_own && now.handover.as_deref() == Some(to) => None,
        State::Held if is_same => {
            Some(Handed::Otherwise("is still held: the request was removed, or another one replaced it"))
        }
        // Its process may have been restarted meanwhile: that is another writer.
        State::Held if now.owner == asked.owner => Some(Handed::Otherwise(
            "was taken again by its holder, or by another lease-keeper of that name: no other candidate has taken it in time. \
             See the log of the one that was to have it",
        )),
        State::Held if now.owner == to || to == ANY => Some(Handed::Over(now.owner.clone())),
        State::Held => Some(Handed::Otherwise(
            "was taken by another candidate than the one that was to have it. See: failoverctl lease status",
        )),
    }
}

/// Removes the request of this id, if it is still there, and returns the record as it is then.
async fn withdraw(lease: &Lease, id: &str) -> Result<Option<Seen>, Error> {
    match lease.look().await? {
        Some(now) if now.record.handover.is_some() && now.is_changed_by(id) => {
            lease.change(&now, Change::Withdraw).await?;
            lease.look().await
        }
        now => Ok(now),
    }
}

fn progress(record: &Record) {
    say(&format!("{}  {}", time(Utc::now()), words(record)));
}

fn candidate(name: &str) -> Result<String, String> {
    if name == ANY {
        return Ok(name.to_owned());
    }
    Candidate::new(name).map(|candidate| candidate.name).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_over_ends_when_the_candidate_has_the_lease_or_the_request_no_longer_applies() {
        let asked = Record {
            owner: "site-a".to_owned(),
            updated_time: 1,
            writer: Some("pod/1".to_owned()),
            beat: 1,
            epoch: 7,
            released: false,
            term: Duration::from_secs(45),
            handover: Some("site-b".to_owned()),
        };
        let owned = |owner: &str, epoch| Record {
            owner: owner.to_owned(),
            writer: Some(format!("pod/{epoch}")),
            epoch,
            handover: None,
            ..asked.clone()
        };
        let released = Record { owner: String::new(), released: true, ..asked.clone() };
        for (now, to_b, to_any) in [
            (Record { beat: 2, updated_time: 9, ..asked.clone() }, "waits", "otherwise"),
            (released, "waits", "waits"),
            (owned("", 8), "waits", "waits"),
            (owned("site-b", 8), "over", "over"),
            (owned("site-c", 8), "otherwise", "over"),
            (Record { epoch: 8, ..asked.clone() }, "otherwise", "otherwise"),
            // A restarted one, or another one of the same name.
            (owned("site-a", 8), "otherwise", "otherwise"),
            (owned("SKIP-LEASE-POD", 7), "otherwise", "otherwise"),
            (Record { handover: None, ..asked.clone() }, "otherwise", "otherwise"),
        ] {
            for (to, ends) in [("site-b", to_b), (ANY, to_any)] {
                let ended = match handed(&asked, Some(&now), to, true) {
                    None => "waits",
                    Some(Handed::Over(_)) => "over",
                    Some(Handed::Otherwise(_)) => "otherwise",
                };
                assert_eq!(ended, ends, "{to}: {now:?}");
            }
        }
        assert!(matches!(handed(&asked, None, ANY, true), Some(Handed::Otherwise(_))));
        // Another person's request for the same candidate.
        assert_eq!(handed(&asked, Some(&asked), "site-b", true), None);
        assert!(matches!(handed(&asked, Some(&asked), "site-b", false), Some(Handed::Otherwise(_))));
    }
}
