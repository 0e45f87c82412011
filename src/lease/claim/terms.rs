//! How long a lease lasts: for its holder, and for those who wait for its end.

use std::time::Duration;

use thiserror::Error;

use super::Moment;

/// How long a lease lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    pub(super) term: Duration,
    margin: Duration,
    grace: Duration,
}

/// Terms with which no holder would be active for long enough to renew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a term of {:?} leaves nothing after a margin of {:?} and a grace of {:?}", .0.term, .0.margin, .0.grace)]
pub struct NothingLeft(Terms);

/// A lease that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holding {
    /// The fencing token.
    pub epoch: u64,
    /// From this moment on its holder is passive.
    pub until: Moment,
    /// By this moment, work that depends on the lease must have ended.
    pub ends: Moment,
    /// From this moment on another candidate may take it.
    pub expires: Moment,
}

// === impl Terms ===

impl Terms {
    /// The part of a term that is kept free at its end: once for clocks, once for the work that has to end.
    pub(in crate::lease) const PART: u32 = 20;

    /// A term of this length. `margin` is how much two clocks may differ over a term: if they differ by more, two
    /// candidates may be active. A holder is passive `grace` earlier, so that work under the lease can end.
    ///
    /// # Errors
    /// No part of the term is left in which a holder can be active.
    pub fn new(term: Duration, margin: Duration, grace: Duration) -> Result<Self, NothingLeft> {
        let terms = Self { term, margin, grace };
        if margin + grace < term { Ok(terms) } else { Err(NothingLeft(terms)) }
    }

    /// A term of this many periods, with a twentieth of it as margin and another twentieth as grace.
    ///
    /// # Errors
    /// The term has less than two periods: its holder would be passive before it renewed the lease.
    pub fn of(period: Duration, periods: u32) -> Result<Self, NothingLeft> {
        let term = period * periods;
        let part = term / Self::PART;
        let terms = Self { term, margin: part, grace: part };
        if term < period * 2 || term.is_zero() { Err(NothingLeft(terms)) } else { Ok(terms) }
    }

    /// How long a record must be seen unchanged before it may be taken over.
    #[must_use]
    pub fn term(&self) -> Duration {
        self.term
    }

    /// The time between the end of activity and the end of all work under the lease.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.grace
    }

    pub(super) fn holding(&self, epoch: u64, asked: Moment) -> Holding {
        let ends = self.term.saturating_sub(self.margin);
        let until = ends.saturating_sub(self.grace);
        Holding { epoch, until: asked + until, ends: asked + ends, expires: asked + self.term }
    }
}

// === impl Holding ===

impl Holding {
    /// Whether its holder is active: neither of the two clocks has reached [`Holding::until`].
    #[must_use]
    pub fn is_active(&self, now: Moment) -> bool {
        !self.until.may_have_come(now)
    }
}
