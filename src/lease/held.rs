//! A lease as its holder sees it: what work asks for before it starts, and stops with.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use tokio::select;
use tokio::sync::watch;

use super::claim::{Holding, Moment};
use super::clock::sleep_until;
use super::status::Status;

/// A candidate's side of a lease. When the last one of its clones is dropped, the lease is given up: it is lost to
/// each [`Held`], and released when none is left.
#[derive(Clone, Debug)]
pub struct Lease {
    status: watch::Receiver<Status>,
    leaving: watch::Sender<bool>,
    working: watch::Sender<()>,
}

/// That the lease is held: what needs it to work asks for a reference to this.
///
/// It can be lost at any time. A released lease is handed on only once no `Held` is left.
#[derive(Debug)]
pub struct Held {
    holding: Holding,
    status: watch::Receiver<Status>,
    /// Tells the keeper that somebody works still.
    _working: watch::Receiver<()>,
}

// === impl Lease ===

impl Lease {
    pub(super) fn new(
        status: watch::Receiver<Status>,
        leaving: watch::Sender<bool>,
        working: watch::Sender<()>,
    ) -> Self {
        Self { status, leaving, working }
    }

    /// How the claim stands now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Waits until the lease is held. `None` says that it will not be any more: it was given up.
    pub async fn held(&self) -> Option<Held> {
        let mut status = self.status.clone();
        loop {
            // Before the look: a keeper that leaves meanwhile must know of it.
            let working = self.working.subscribe();
            let seen = status.borrow_and_update().clone();
            let is_kept = !seen.leaving && status.has_changed().is_ok();
            if let Some(holding) = seen.active().filter(|_| is_kept) {
                return Some(Held { holding, status, _working: working });
            }
            drop(working);
            if seen.leaving || status.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Gives the lease up: passive at once, and released when no [`Held`] is left. [`Keeper::run`](super::Keeper::run) ends with that.
    pub fn leave(&self) {
        self.leaving.send_replace(true);
    }
}

// === impl Held ===

impl Held {
    /// The fencing token. Whatever keeps what is written under this lease should refuse one lower than the last.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.holding.epoch
    }

    /// Whether it is held still.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.current().is_some()
    }

    /// Waits until it is lost.
    pub async fn lost(&self) {
        let mut ends = self.ends();
        while let Some(later) = self.renewed(ends).await {
            ends = later;
        }
    }

    /// Works until it is done, or until the lease is lost: then the work is dropped at the `await` where it stands.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        // Whatever wakes it: timers stand still while the machine is suspended.
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

    /// By when what depends on it must have ended, as far as it has been renewed.
    pub(super) fn ends(&self) -> Moment {
        self.current().unwrap_or(self.holding).ends
    }

    /// Waits until it is renewed, so that it ends later than `before`; `None` says that it is lost.
    pub(super) async fn renewed(&self, before: Moment) -> Option<Moment> {
        let mut status = self.status.clone();
        loop {
            let holding = self.current()?;
            if holding.ends > before {
                return Some(holding.ends);
            }
            select! {
                changed = status.changed() => if changed.is_err() {
                    // Nobody is left to renew it.
                    sleep_until(holding.until).await;
                },
                () = sleep_until(holding.until) => {}
            }
        }
    }

    fn current(&self) -> Option<Holding> {
        // A keeper that is gone renews nothing more, but what it won lasts until its end.
        self.status.borrow().active().filter(|holding| holding.epoch == self.holding.epoch)
    }
}
