//! Runs a claim against its table, and publishes whether this candidate is active.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use thiserror::Error;
use tokio::select;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use super::claim::{Candidate, Claim, NOBODY_MAY, Standing, Step, Terms, Write};
use super::clock::{now, sleep_until, wall};
use super::dynamodb::Table;
use super::error::Error;
use super::held::Lease;
use super::metrics::Metrics;
use super::status::Status;

/// A name that a candidate must not have.
#[derive(Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a candidate's name: it must not be empty, nor {NOBODY_MAY}, which keeps all candidates passive"
)]
pub struct NoName(String);

/// Keeps one candidate's claim to a lease up to date.
///
/// It renews a lease that it holds once a period, and otherwise checks once a period whether it may take the lease.
/// A failed call is made again after a quarter of a period, and never makes a candidate active.
pub struct Keeper {
    table: Table,
    claim: Claim,
    period: Duration,
    metrics: Metrics,
    checked: bool,
    /// Why the last turn failed.
    failing: Option<String>,
    status: watch::Sender<Status>,
    leaving: watch::Receiver<bool>,
    working: watch::Sender<()>,
}

// === impl Candidate ===

impl Candidate {
    /// A candidate of this name. Other candidates may have the same name: each process is distinct all the same.
    ///
    /// # Errors
    /// The name is empty or reserved.
    pub fn new(name: &str) -> Result<Self, NoName> {
        if name.is_empty() || name == NOBODY_MAY {
            return Err(NoName(name.to_owned()));
        }
        // The host, a pod's name in Kubernetes, is for people. A hasher's keys are the system's random numbers.
        let host = rustix::system::uname();
        let number = RandomState::new().hash_one(now());
        let writer = format!("{}/{number:016x}", host.nodename().to_string_lossy());
        Ok(Self { name: name.to_owned(), writer })
    }
}

// === impl Keeper ===

impl Keeper {
    /// A keeper that makes this candidate's claim once a period.
    #[must_use]
    pub fn new(table: Table, me: Candidate, period: Duration, terms: Terms) -> (Self, Lease) {
        let claim = Claim::new(me, terms);
        let status = watch::Sender::new(Status::of(&claim, None));
        let leaving = watch::Sender::new(false);
        let working = watch::Sender::new(());
        let lease = Lease::new(status.subscribe(), leaving.clone(), working.clone());
        let leaving = leaving.subscribe();
        let metrics = Metrics::new(table.lease());
        let (checked, failing) = (false, None);
        (Self { table, claim, period, metrics, checked, failing, status, leaving, working }, lease)
    }

    /// The keeper's metrics.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Runs until the lease is released. A holder whose keeper does not run becomes passive soon.
    ///
    /// # Errors
    /// The table cannot keep a lease.
    pub async fn run(mut self) -> Result<(), Error> {
        let (status, metrics) = (self.status.subscribe(), self.metrics.clone());
        let claimed = async {
            self.claim().await?;
            self.leave().await;
            Ok(())
        };
        select! {
            ended = claimed => ended,
            () = tell(status, metrics) => Ok(()),
        }
    }

    async fn claim(&mut self) -> Result<(), Error> {
        let mut leaving = self.leaving.clone();
        loop {
            select! {
                biased;
                // An error means that all clones of the lease were dropped: no one needs it.
                _ = leaving.wait_for(|leaving| *leaving) => return Ok(()),
                turned = self.turn() => turned?,
            }
        }
    }

    /// Runs one period. A failure that may pass is logged, and is not an error.
    async fn turn(&mut self) -> Result<(), Error> {
        let started = now();
        let done = self.ask().await;
        self.failing = done.as_ref().err().map(ToString::to_string);
        if let Some(error) = &self.failing {
            warn!(error, "the lease could not be claimed or renewed");
        }
        self.publish();
        let due = match (done, self.claim.holding()) {
            (Err(error), _) if error.is_for_good() => return Err(error),
            (Err(_), _) => now() + self.period / 4,
            (Ok(()), Some(_)) => started + self.period,
            // The candidate from which it was taken may need a period to notice.
            (Ok(()), None) => now() + self.period,
        };
        // A watched record is read again as soon as it may be taken.
        let due = match self.claim.standing() {
            Standing::Others(at) if at > started => due.min(at),
            _ => due,
        };
        sleep_until(due).await;
        Ok(())
    }

    async fn ask(&mut self) -> Result<(), Error> {
        if !self.checked {
            let started = Instant::now();
            let checked = self.table.check(self.time()).await;
            self.metrics.called("describe", started, became(checked.is_ok()));
            checked?;
            self.checked = true;
        }
        let write = match self.claim.next(now(), wall()) {
            Step::Write(write) => Some(write),
            Step::Look => self.look().await?,
        };
        let Some(write) = write else { return Ok(()) };
        if !self.write(&write).await? {
            // Another writer has changed the record: read it at once.
            if let Some(write) = self.look().await? {
                self.write(&write).await?;
            }
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<Option<Write>, Error> {
        let started = Instant::now();
        let record = self.table.look(self.time()).await;
        self.metrics.called("look", started, became(record.is_ok()));
        let write = self.claim.saw(record?, now(), wall());
        self.publish();
        Ok(write)
    }

    async fn write(&mut self, write: &Write) -> Result<bool, Error> {
        let started = Instant::now();
        let done = self.table.write(write, self.time()).await;
        let refused = matches!(done, Ok(false));
        self.metrics.called("write", started, if refused { "refused" } else { became(done.is_ok()) });
        let done = done?;
        if done {
            self.claim.wrote(now());
        }
        Ok(done)
    }

    /// How long a call may take.
    fn time(&self) -> Duration {
        self.period / 2
    }

    /// Makes the candidate passive, then releases the lease, so that other candidates need not wait for the term's end.
    async fn leave(&mut self) {
        let held = self.claim.holding();
        self.claim.leave();
        self.failing = None;
        self.publish();
        if let Some(held) = held {
            // A caller that has just read "active" gets the same grace as when the lease is lost.
            sleep_until((now() + held.ends.saturating_sub(held.until)).min(held.expires)).await;
        }
        select! {
            biased;
            () = self.working.closed() => {}
            () = sleep_until(held.map_or_else(now, |held| held.expires)) => {
                warn!("work under the lease has not ended: the lease is not released, and other candidates wait until the term ends");
                return;
            }
        }
        let give_up = now() + self.period;
        while self.claim.has_written() && now() < give_up {
            match self.release().await {
                Ok(true) => info!("released"),
                Ok(false) => {}
                Err(error) => {
                    warn!(%error, "the lease could not be released yet");
                    sleep(self.period / 4).await;
                }
            }
        }
        if self.claim.has_written() {
            error!("the lease was not released: other candidates wait until the term ends");
        }
    }

    /// Releases the lease. Returns whether that was done.
    async fn release(&mut self) -> Result<bool, Error> {
        match self.look().await? {
            None => Ok(false),
            Some(write) => self.write(&write).await,
        }
    }

    fn publish(&self) {
        let status = Status::of(&self.claim, self.failing.clone());
        self.status.send_if_modified(|before| {
            let changed = *before != status;
            *before = status;
            changed
        });
    }
}

fn became(done: bool) -> &'static str {
    if done { "done" } else { "failed" }
}

/// Logs whether this candidate is active, whenever that changes, and why.
async fn tell(mut status: watch::Receiver<Status>, metrics: Metrics) {
    let (mut active, mut standing) = (None, None);
    loop {
        let seen = status.borrow_and_update().clone();
        let holding = seen.active();
        let epoch = holding.map(|holding| holding.epoch);
        if epoch != active {
            match epoch {
                Some(epoch) => info!(epoch, before = standing, "active"),
                None if seen.leaving => info!(epoch = active, reason = seen.reason(), "passive"),
                None => warn!(epoch = active, reason = seen.reason(), "passive"),
            }
            metrics.changed(epoch.is_some());
            active = epoch;
        }
        let stands = seen.stands();
        if epoch.is_none() && !seen.leaving && standing.as_ref() != Some(&stands) {
            info!(reason = stands, "still passive");
        }
        standing = Some(stands);
        let until = holding.map(|holding| holding.until);
        select! {
            changed = status.changed() => if changed.is_err() { return },
            () = sleep_until(until.unwrap_or_default()), if until.is_some() => {}
        }
    }
}
