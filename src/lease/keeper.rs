//! Runs a claim against its table, and publishes whether this candidate is active.

use std::convert::Infallible;
use std::time::Duration;

use tokio::select;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use super::candidate::stamp;
use super::claim::{Candidate, Claim, Holding, Moment, Standing, Step, Terms, Will, Write};
use super::clock::{now, sleep_until};
use super::dynamodb::Table;
use super::error::Error;
use super::held::{Lease, Wish, Wishes};
use super::metrics::{Metrics, report};
use super::status::Status;

/// For how long a write that was allowed shows that others are.
const TRIED: Duration = Duration::from_mins(5);
/// How often the keeper shows that nothing blocks it.
const BEAT: Duration = Duration::from_millis(250);

/// Keeps one candidate's claim to a lease up to date.
///
/// It renews a lease that it holds once a period, and otherwise checks once a period whether it may take the lease.
/// A failed call is made again after a quarter of a period, and never makes a candidate active.
pub struct Keeper {
    table: Table,
    claim: Claim,
    period: Duration,
    grace: Duration,
    /// How long the lease is renewed at most for work that is ending.
    stop: Duration,
    metrics: Metrics,
    checked: bool,
    /// Whether the table could not be seen since, so that it may have become another one.
    perhaps_other: bool,
    /// Whether the last look has shown that the record is gone.
    has_gone: bool,
    /// When a write was allowed last, as far as this candidate has tried while it was passive.
    allowed: Option<Moment>,
    /// Why the last turn failed.
    failing: Option<String>,
    /// When the credentials were last read anew.
    reread: Option<Moment>,
    status: watch::Sender<Status>,
    /// Why this candidate does not want the lease.
    unwilling: Option<String>,
    /// The lease as it was held last.
    last: Option<Holding>,
    wishes: watch::Receiver<Wishes>,
    working: watch::Sender<()>,
}

// === impl Keeper ===

impl Keeper {
    /// A keeper that makes this candidate's claim once a period. `longest` is the longest term that any candidate for
    /// this lease may have.
    #[must_use]
    pub fn new(
        table: Table,
        me: Candidate,
        period: Duration,
        terms: Terms,
        longest: Duration,
    ) -> (Self, Lease) {
        let claim = Claim::new(me, terms, longest);
        let status = watch::Sender::new(Status::of(&claim, None, None));
        let wishes = watch::Sender::new(Wishes::default());
        let working = watch::Sender::new(());
        let lease = Lease::new(status.subscribe(), wishes.clone(), working.clone());
        let (wishes, grace, stop) = (wishes.subscribe(), terms.grace(), terms.term());
        let metrics = Metrics::new(table.lease(), period);
        let (checked, failing, reread) = (false, None, None);
        (
            Self {
                table,
                claim,
                period,
                grace,
                stop,
                metrics,
                checked,
                perhaps_other: false,
                has_gone: false,
                allowed: None,
                failing,
                reread,
                status,
                unwilling: None,
                last: None,
                wishes,
                working,
            },
            lease,
        )
    }

    /// The same keeper, which renews the lease for so long at most while work under it is ending; a term by default.
    #[must_use]
    pub fn with_stop(self, stop: Duration) -> Self {
        Self { stop, ..self }
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
        let kept = async {
            loop {
                match self.claim().await? {
                    Wish::Take => {
                        self.claim.want(Will::Take);
                        self.unwilling = None;
                    }
                    Wish::Pause(why) => {
                        self.unwilling = Some(why);
                        self.step_down().await;
                    }
                    Wish::HandOver => {
                        self.unwilling = Some("a person asks it to hand over".to_owned());
                        self.claim.give_way();
                        self.step_down().await;
                        // It would be active again, for one step.
                        let wishes = self.wishes.clone();
                        let stays = || wishes.has_changed().is_ok() && !wishes.borrow().leaves();
                        while self.claim.has_written() && stays() {
                            self.give_up().await?;
                        }
                        self.claim.want(Will::Take);
                        self.unwilling = None;
                    }
                    Wish::Leave => {
                        self.unwilling = None;
                        self.step_down().await;
                        return Ok(());
                    }
                }
            }
        };
        select! {
            ended = kept => ended,
            () = report(status, metrics.clone()) => Ok(()),
            never = beat(&metrics) => match never {},
        }
    }

    /// Makes its claim until something else is wished for.
    async fn claim(&mut self) -> Result<Wish, Error> {
        let mut wishes = self.wishes.clone();
        let asked = wishes.borrow_and_update().wish();
        // It may have changed while the candidate stepped down.
        if (asked == Wish::Take) != (self.claim.will() == Will::Take) || asked == Wish::Leave {
            self.wishes = wishes;
            return Ok(asked);
        }
        loop {
            select! {
                biased;
                changed = wishes.changed() => {
                    // An error means that all clones of the lease were dropped: no one needs it.
                    let asked = changed.map_or(Wish::Leave, |()| wishes.borrow_and_update().wish());
                    self.wishes = wishes;
                    return Ok(asked);
                }
                turned = self.turn() => turned?,
            }
            if self.claim.is_asked() {
                return Ok(Wish::HandOver);
            }
        }
    }

    /// Runs one period. A failure that may pass is logged, and is not an error.
    async fn turn(&mut self) -> Result<(), Error> {
        let pause = self.step().await?;
        // Who is asked to hand over does not wait for another period; who retires already does.
        if !(self.claim.is_asked() && self.claim.will() == Will::Take) {
            sleep_until(now() + pause).await;
        }
        Ok(())
    }

    /// Makes the calls of one period, and returns how long is left of it.
    async fn step(&mut self) -> Result<Duration, Error> {
        let started = now();
        let done = self.ask().await;
        if let Err(error) = &done {
            warn!(%error, "the lease could not be claimed or renewed");
        }
        // It may be created again as another kind.
        self.checked &= !done.as_ref().is_err_and(Error::shows_other_table);
        self.note(done.as_ref().err()).await;
        let pause = match (done, self.claim.holding()) {
            (Err(error), _) if error.is_for_good() => return Err(error),
            (Err(_), _) => about(self.period / 4),
            (Ok(()), Some(_)) => (started + self.period).soonest(now()),
            // The candidate from which it was taken may need a period to notice.
            (Ok(()), None) if self.claim.has_written() => self.period,
            (Ok(()), None) => about(self.period),
        };
        // A watched record is read again as soon as it may be taken.
        Ok(match self.claim.standing() {
            Standing::Others(at) if !at.has_come(started) => pause.min(at.latest(now())),
            _ => pause,
        })
    }

    /// Shows whether the last step failed, and reads the credentials anew if that may help.
    async fn note(&mut self, error: Option<&Error>) {
        self.failing = error.map(ToString::to_string);
        self.publish();
        if error.is_some_and(Error::may_pass_with_other_credentials) {
            self.reread_credentials().await;
        }
    }

    /// Reads the credentials anew, at most once a period: they may have been rotated.
    async fn reread_credentials(&mut self) {
        let is_due = self.reread.is_none_or(|last| (last + self.period).has_come(now()));
        if !is_due {
            return;
        }
        let reread = self.table.reread_credentials().await;
        self.reread = Some(now());
        if let Err(error) = &reread {
            warn!(%error, "the credentials cannot be read anew: the former ones are used");
        }
        if matches!(reread, Ok(true)) {
            self.allowed = None;
            // They may lead to another account's table of that name: nothing is read or written before it is seen.
            self.checked &= self.table.is_by_arn();
            info!("the credentials were read anew");
        }
    }

    async fn ask(&mut self) -> Result<(), Error> {
        // So may a table that could not be seen, as soon as no lease is held.
        self.perhaps_other |= self.failing.is_some() && !self.holds();
        self.check().await?;
        let write = match self.claim.next(now(), stamp()) {
            Step::Write(write) => Some(write),
            Step::Look => self.look().await?,
        };
        let Some(write) = write else { return self.try_write().await };
        if !self.write(&write).await? {
            // Another writer has changed the record: read it at once.
            if let Some(write) = self.look().await? {
                self.write(&write).await?;
            }
        }
        Ok(())
    }

    /// Checks that the table keeps leases: at the start, and once it may have been deleted and created again. A table that
    /// was seen to keep them, and only cannot be described now, still does: items are read and written without that API.
    async fn check(&mut self) -> Result<(), Error> {
        if self.checked && !self.perhaps_other {
            return Ok(());
        }
        let started = Instant::now();
        let checked = self.table.check(self.time()).await;
        self.was_checked(checked, started)
    }

    fn was_checked(&mut self, checked: Result<(), Error>, started: Instant) -> Result<(), Error> {
        self.metrics.called("describe", started, became(checked.is_ok()));
        match checked {
            Ok(()) => (self.checked, self.perhaps_other) = (true, false),
            // It was seen to keep them: with an eventual replica as well, no lease is given up for it.
            Err(error) if error.is_for_good() && self.holds() => {
                warn!(%error, "the table has changed, and is used while the lease is held");
                (self.checked, self.perhaps_other) = (true, true);
            }
            Err(error) if self.checked && !error.is_for_good() && !error.shows_other_table() => {
                warn!(%error, "the table cannot be described, as far as is known it is the same");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn holds(&self) -> bool {
        self.claim.holding().is_some_and(|held| held.is_active(now()))
    }

    /// Tries, while there is nothing to write, whether this candidate could take the lease: a standby that may only read is none.
    async fn try_write(&mut self) -> Result<(), Error> {
        if self.allowed.is_some_and(|at| !(at + TRIED).has_come(now())) {
            return Ok(());
        }
        let started = Instant::now();
        let tried = self.table.try_write(self.time()).await;
        self.metrics.called("try", started, became(tried.is_ok()));
        tried?;
        self.allowed = Some(now());
        Ok(())
    }

    async fn look(&mut self) -> Result<Option<Write>, Error> {
        if !self.checked {
            self.check().await?;
        }
        let started = Instant::now();
        let record = self.table.look(self.time()).await;
        self.metrics.called("look", started, became(record.is_ok()));
        // A source may give another account's by itself: nothing that they show is used before the table is seen with them.
        if record.is_ok() && self.table.has_other_credentials() {
            self.checked = false;
            let started = Instant::now();
            let checked = self.table.check_as_it_was_read(self.time()).await;
            self.was_checked(checked, started)?;
        }
        let (record, is_eventual) = record?;
        if is_eventual {
            let error = Error::EventualTable;
            if !self.holds() {
                return Err(error);
            }
            warn!(%error, "the table has changed, and is used while the lease is held");
        }
        let has_gone = record.is_none() && self.claim.record().is_some();
        self.perhaps_other |= has_gone;
        self.has_gone = has_gone;
        let write = self.claim.saw(record, now(), stamp());
        self.publish();
        Ok(write)
    }

    async fn write(&mut self, write: &Write) -> Result<bool, Error> {
        if !self.checked || self.has_gone {
            self.has_gone = false;
            self.check().await?;
        }
        let started = Instant::now();
        let done = self.table.write(write, self.time()).await;
        let refused = matches!(done, Ok(None));
        self.metrics.called("write", started, if refused { "refused" } else { became(done.is_ok()) });
        let Some(done) = done? else { return Ok(false) };
        self.claim.wrote(now(), done.handover);
        Ok(true)
    }

    /// How long a call may take.
    fn time(&self) -> Duration {
        self.period / 2
    }

    /// Makes the candidate passive, waits for its work to end, then releases the lease, so that other candidates need not
    /// wait for the term's end. The lease is renewed meanwhile, for a limited time.
    async fn step_down(&mut self) {
        self.claim.want(Will::Retire);
        self.failing = None;
        self.publish();
        if self.claim.holding().is_some() {
            // A caller that has just read "active" gets the same grace as when the lease is lost.
            let grace = now() + self.grace;
            let working = self.working.clone();
            let ended = async {
                sleep_until(grace).await;
                working.closed().await;
            };
            // Work that notices the loss late has another period to end. Processes that cannot be killed keep no lease.
            let (mut wishes, limit) = (self.wishes.clone(), now() + self.stop + self.period);
            let renewed = async {
                while self.claim.holding().is_some_and(|held| !held.ends.may_have_come(now())) {
                    if let Err(error) = self.turn().await {
                        warn!(%error, "{NO_MORE}");
                        break;
                    }
                }
            };
            select! {
                biased;
                () = ended => {}
                Ok(_) = wishes.wait_for(Wishes::has_leftovers) => warn!("work under the lease cannot be ended: {NO_MORE}"),
                () = sleep_until(limit) => warn!("work under the lease has not ended in time: {NO_MORE}"),
                () = renewed => {}
            }
        }
        // Work may also still be ending under a lease that is already lost.
        let expires = self.last.map_or_else(now, |last| last.expires);
        select! {
            biased;
            () = self.working.closed() => {}
            () = sleep_until(expires) => {
                warn!("work under the lease has not ended: the lease is not released until it has, and other candidates wait until the term ends");
                let (working, mut wishes) = (self.working.clone(), self.wishes.clone());
                select! {
                    () = working.closed() => {}
                    _ = wishes.wait_for(Wishes::leaves) => return,
                    never = self.follow() => match never {},
                }
            }
        }
        self.claim.want(Will::Release);
        self.publish();
        if let Err(error) = self.give_up().await {
            warn!(%error, "the lease cannot be released");
        }
        if self.claim.has_written() {
            error!("the lease was not released: other candidates wait until the term ends");
        }
    }

    /// Looks once a period what becomes of the lease, and changes nothing.
    async fn follow(&mut self) -> Infallible {
        loop {
            let seen = self.look().await;
            self.note(seen.as_ref().err()).await;
            sleep(about(self.period)).await;
        }
    }

    /// Releases the lease, if that can be done within a period.
    async fn give_up(&mut self) -> Result<(), Error> {
        let give_up = now() + self.period;
        while self.claim.has_written() && !give_up.may_have_come(now()) {
            let done = self.release().await;
            self.note(done.as_ref().err()).await;
            match done {
                Ok(true) => info!("released"),
                Ok(false) => {}
                Err(error) if error.is_for_good() => return Err(error),
                Err(error) => {
                    warn!(%error, "the lease could not be released yet");
                    sleep(self.period / 4).await;
                }
            }
        }
        Ok(())
    }

    /// Releases the lease. Returns whether that was done.
    async fn release(&mut self) -> Result<bool, Error> {
        let Some(write) = self.look().await? else { return Ok(false) };
        self.write(&write).await
    }

    fn publish(&mut self) {
        self.last = self.claim.holding().or(self.last);
        let status = Status::of(&self.claim, self.failing.clone(), self.unwilling.clone());
        self.status.send_if_modified(|before| std::mem::replace(before, status.clone()) != status);
    }
}

const NO_MORE: &str = "the lease is not renewed any more";

/// Returns a pause of this length, or up to a tenth shorter or longer, so that candidates do not call in step.
fn about(pause: Duration) -> Duration {
    pause.mul_f64(0.9 + 0.2 * fastrand::f64())
}

fn became(done: bool) -> &'static str {
    if done { "done" } else { "failed" }
}

/// Shows the other threads that nothing blocks this one.
async fn beat(metrics: &Metrics) -> Infallible {
    loop {
        metrics.beat();
        sleep(BEAT).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_do_not_call_in_step() {
        let pauses: Vec<_> = (0..100).map(|_| about(Duration::from_secs(10))).collect();
        assert!(pauses.iter().all(|pause| (9..=11).contains(&pause.as_secs())));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
