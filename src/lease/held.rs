//! A lease as its holder sees it: work waits for it before it starts, and stops when it is lost.

use std::collections::BTreeMap;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::task::Poll;

use tokio::select;
use tokio::sync::watch;

use super::claim::{Holding, Moment, Will};
use super::clock::sleep_until;
use super::status::Status;

/// A candidate's side of a lease. When the last of its clones is dropped, the candidate leaves the lease: it is lost
/// to each [`Held`], and released when none is left.
#[derive(Clone, Debug)]
pub struct Lease {
    status: watch::Receiver<Status>,
    wishes: watch::Sender<Wishes>,
    working: watch::Sender<()>,
}

/// What may keep an instance from doing the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// The service is not healthy.
    Health,
    /// Processes of the command before cannot be killed.
    Leftovers,
    /// The service cannot ask whether this instance is active.
    Listener,
}

/// What a candidate's side says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// To release the lease and to end.
    leaves: bool,
    /// What keeps it from the work, and why.
    obstacles: BTreeMap<Obstacle, String>,
}

/// What the keeper is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// To take the lease when it may.
    Take,
    /// To release it and not to take it, for this reason.
    Pause(String),
    /// To release it, because a person asks for that, and to let another candidate go first.
    HandOver,
    /// To release it and to end.
    Leave,
}

/// A proof that the lease is held: code that needs the lease takes a reference to it.
///
/// The lease can be lost at any time. It is released only when no `Held` is left.
#[derive(Debug)]
pub struct Held {
    holding: Holding,
    status: watch::Receiver<Status>,
    /// Shows the keeper that work is still running.
    _working: watch::Receiver<()>,
}

// === impl Lease ===

impl Lease {
    pub(super) fn new(
        status: watch::Receiver<Status>,
        wishes: watch::Sender<Wishes>,
        working: watch::Sender<()>,
    ) -> Self {
        Self { status, wishes, working }
    }

    /// The state of the claim now. Once it [leaves](Self::leave), the candidate is passive, whether or not its keeper runs.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = self.status.borrow().clone();
        if status.will == Will::Take && self.wishes.borrow().leaves {
            status.will = Will::Retire;
        }
        status
    }

    /// The changes of the claim, and those of what is wished for.
    pub(super) fn changes(&self) -> (watch::Receiver<Status>, watch::Receiver<Wishes>) {
        (self.status.clone(), self.wishes.subscribe())
    }

    /// Waits until the lease is held. Returns `None` after [`leave`](Self::leave): it will not be held again.
    pub async fn held(&self) -> Option<Held> {
        let mut status = self.status.clone();
        loop {
            // Before the status is read: a keeper that leaves meanwhile must see it.
            let working = self.working.subscribe();
            let seen = status.borrow_and_update().clone();
            let leaves = self.wishes.borrow().leaves;
            let is_kept = !leaves && status.has_changed().is_ok();
            if let Some(holding) = seen.active().filter(|_| is_kept) {
                return Some(Held { holding, status, _working: working });
            }
            drop(working);
            let mut wishes = self.wishes.subscribe();
            select! {
                _ = wishes.wait_for(|wishes| wishes.leaves) => return None,
                changed = status.changed() => if changed.is_err() { return None },
            }
        }
    }

    /// Leaves the lease: passive at once, and released when no [`Held`] is left. Then [`Keeper::run`](super::Keeper::run)
    /// ends.
    pub fn leave(&self) {
        self.wishes.send_modify(|wishes| wishes.leaves = true);
    }

    /// Sets whether this keeps the instance from doing the work. While anything does, for the reason given, the candidate is
    /// passive, releases the lease and does not take it.
    pub fn able(&self, obstacle: Obstacle, able: Result<(), String>) {
        self.wishes.send_if_modified(|wishes| {
            let before = wishes.clone();
            match able {
                Ok(()) => drop(wishes.obstacles.remove(&obstacle)),
                Err(why) => drop(wishes.obstacles.insert(obstacle, why)),
            }
            *wishes != before
        });
    }
}

// === impl Wishes ===

impl Wishes {
    pub fn leaves(&self) -> bool {
        self.leaves
    }

    /// Whether work that has had its time cannot be ended.
    pub fn has_leftovers(&self) -> bool {
        self.obstacles.contains_key(&Obstacle::Leftovers)
    }

    pub fn wish(&self) -> Wish {
        match self.obstacles.values().next() {
            _ if self.leaves => Wish::Leave,
            Some(why) => Wish::Pause(why.clone()),
            None => Wish::Take,
        }
    }
}

// === impl Held ===

impl Held {
    /// The fencing token. A store of data that is written under this lease should refuse a token lower than the last.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.holding.epoch
    }

    /// Whether the lease is still held.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.current().is_some()
    }

    /// Waits until the lease is lost.
    pub async fn lost(&self) {
        let mut status = self.status.clone();
        while let Some(holding) = self.current() {
            select! {
                changed = status.changed() => if changed.is_err() {
                    // The keeper has ended: no one renews the lease.
                    sleep_until(holding.until).await;
                },
                () = sleep_until(holding.until) => {}
            }
        }
    }

    /// Runs `work` until it is done, or until the lease is lost: then the work is dropped at its current `await`.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        // Checked at every wake-up, so that nothing is polled once the lease is lost.
        let while_held = poll_fn(|context| {
            let is_held = self.is_held();
            if is_held { work.as_mut().poll(context).map(Some) } else { Poll::Ready(None) }
        });
        select! {
            biased;
            () = self.lost() => None,
            done = while_held => done,
        }
    }

    /// How long the lease lasts unless it is renewed.
    pub(super) fn holding(&self) -> Holding {
        self.kept().unwrap_or(self.holding)
    }

    /// Waits until the lease ends at another moment than `before`. Once it is `lost`, it does so only while the candidate
    /// steps down: work that has to end for another reason has no more time when the lease is won back.
    pub(super) async fn extended(&self, before: Moment, lost: bool) -> Holding {
        let mut status = self.status.clone();
        loop {
            status.mark_unchanged();
            let counts = !lost || status.borrow().will == Will::Retire;
            match self.kept().filter(|_| counts) {
                Some(holding) if holding.ends != before => return holding,
                _ if status.changed().await.is_err() => pending().await,
                _ => {}
            }
        }
    }

    fn current(&self) -> Option<Holding> {
        // A keeper that has ended renews no lease, but the lease that it won lasts until its end.
        self.status.borrow().active().filter(|holding| holding.epoch == self.holding.epoch)
    }

    fn kept(&self) -> Option<Holding> {
        self.status.borrow().holding.filter(|holding| holding.epoch == self.holding.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::super::claim::Standing;
    use super::*;

    fn passive() -> Status {
        let (holding, record, unexpected_term) = (None, None, None);
        let (failing, unwilling) = (None, None);
        let (standing, will) = (Standing::Missing, Will::Take);
        Status { holding, standing, record, unexpected_term, failing, will, unwilling }
    }

    #[test]
    fn one_obstacle_that_is_gone_does_not_hide_another_one() {
        let why = |why: &str| Err(why.to_owned());
        let (sender, status) = (watch::Sender::new(Wishes::default()), watch::Sender::new(passive()));
        assert_eq!(sender.borrow().wish(), Wish::Take);
        let lease = Lease::new(status.subscribe(), sender.clone(), watch::Sender::new(()));
        lease.able(Obstacle::Health, why("unhealthy"));
        lease.able(Obstacle::Leftovers, why("left over"));
        assert_eq!(sender.borrow().wish(), Wish::Pause("unhealthy".to_owned()));
        lease.able(Obstacle::Leftovers, Ok(()));
        assert_eq!(sender.borrow().wish(), Wish::Pause("unhealthy".to_owned()));
        lease.able(Obstacle::Health, Ok(()));
        assert_eq!(sender.borrow().wish(), Wish::Take);
        lease.leave();
        lease.able(Obstacle::Health, why("unhealthy"));
        assert_eq!(sender.borrow().wish(), Wish::Leave);
    }
}
