//! A lease as its holder sees it: work waits for it before it starts, and stops when it is lost.

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
    wish: watch::Sender<Wish>,
    working: watch::Sender<()>,
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
        wish: watch::Sender<Wish>,
        working: watch::Sender<()>,
    ) -> Self {
        Self { status, wish, working }
    }

    /// The state of the claim now. Once it [leaves](Self::leave), the candidate is passive, whether or not its keeper runs.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = self.status.borrow().clone();
        if status.will == Will::Take && *self.wish.borrow() == Wish::Leave {
            status.will = Will::Retire;
        }
        status
    }

    /// The state of the claim and its changes.
    pub(super) fn changes(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits until the lease is held. Returns `None` after [`leave`](Self::leave): it will not be held again.
    pub async fn held(&self) -> Option<Held> {
        let mut status = self.status.clone();
        loop {
            // Before the status is read: a keeper that leaves meanwhile must see it.
            let working = self.working.subscribe();
            let seen = status.borrow_and_update().clone();
            let leaves = *self.wish.borrow() == Wish::Leave;
            let is_kept = !leaves && status.has_changed().is_ok();
            if let Some(holding) = seen.active().filter(|_| is_kept) {
                return Some(Held { holding, status, _working: working });
            }
            drop(working);
            let mut wish = self.wish.subscribe();
            select! {
                _ = wish.wait_for(|wish| *wish == Wish::Leave) => return None,
                changed = status.changed() => if changed.is_err() { return None },
            }
        }
    }

    /// Leaves the lease: passive at once, and released when no [`Held`] is left. Then [`Keeper::run`](super::Keeper::run)
    /// ends.
    pub fn leave(&self) {
        self.wish.send_replace(Wish::Leave);
    }

    /// Sets whether the instance can do the work. While it cannot, for this reason, the candidate is passive, releases the
    /// lease and does not take it.
    pub fn able(&self, able: Result<(), String>) {
        let wish = able.map_or_else(Wish::Pause, |()| Wish::Take);
        self.wish.send_if_modified(|before| {
            let changes = *before != Wish::Leave && *before != wish;
            if changes {
                *before = wish;
            }
            changes
        });
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

    /// The moment by which work under the lease must have ended, unless the lease is renewed.
    pub(super) fn ends(&self) -> Moment {
        self.kept().unwrap_or(self.holding).ends
    }

    /// Waits until the lease ends at another moment than `before`. Once it is `lost`, it does so only while the candidate
    /// steps down: work that has to end for another reason has no more time when the lease is won back.
    pub(super) async fn extended(&self, before: Moment, lost: bool) -> Moment {
        let mut status = self.status.clone();
        loop {
            status.mark_unchanged();
            let counts = !lost || status.borrow().will == Will::Retire;
            match self.kept().filter(|_| counts) {
                Some(holding) if holding.ends != before => return holding.ends,
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
