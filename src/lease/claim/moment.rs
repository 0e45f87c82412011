//! Times on a process's own clocks.

use std::ops::Add;
use std::time::Duration;

/// A time on the process's own two clocks, each since an arbitrary moment.
///
/// A time daemon slews the adjusted clock, chrony by up to a twelfth by default, and not the raw one. Only the
/// adjusted one advances while the machine is suspended. A holder believes whichever clock has advanced further, a
/// contender whichever less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Moment {
    /// The clock that the system corrects.
    pub adjusted: Duration,
    /// The clock as the hardware counts it.
    pub raw: Duration,
}

impl Moment {
    /// Whether it has come by either clock, as a holder has to assume of its end.
    #[must_use]
    pub fn may_have_come(self, now: Self) -> bool {
        now.adjusted >= self.adjusted || now.raw >= self.raw
    }

    /// Whether it has come by both clocks, as a contender waits for.
    #[must_use]
    pub fn has_come(self, now: Self) -> bool {
        now.adjusted >= self.adjusted && now.raw >= self.raw
    }

    /// The time that has surely passed since another moment.
    #[must_use]
    pub fn surely_after(self, other: Self) -> Duration {
        self.adjusted.saturating_sub(other.adjusted).min(self.raw.saturating_sub(other.raw))
    }

    /// The time until it may have come.
    #[must_use]
    pub fn soonest(self, now: Self) -> Duration {
        self.adjusted.saturating_sub(now.adjusted).min(self.raw.saturating_sub(now.raw))
    }

    /// The time until it has come.
    #[must_use]
    pub fn latest(self, now: Self) -> Duration {
        self.adjusted.saturating_sub(now.adjusted).max(self.raw.saturating_sub(now.raw))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self { adjusted: self.adjusted + time, raw: self.raw + time }
    }
}
