//! A clock that a test sets.

use std::time::{Duration, Instant, SystemTime};

/// Shows the system's time until it is set.
pub struct Clock {
    /// What it showed at `since`.
    showed: SystemTime,
    since: Instant,
    /// Seconds on the clock in one second.
    rate: f64,
}

// === impl Clock ===

impl Default for Clock {
    fn default() -> Self {
        Self { showed: SystemTime::now(), since: Instant::now(), rate: 1.0 }
    }
}

impl Clock {
    pub fn now(&self) -> SystemTime {
        self.showed + self.since.elapsed().mul_f64(self.rate)
    }

    pub fn advance(&mut self, by: Duration) {
        self.showed += by;
    }

    pub fn set_back(&mut self, by: Duration) {
        self.showed -= by;
    }

    pub fn run_at(&mut self, rate: f64) {
        self.showed = self.now();
        self.since = Instant::now();
        self.rate = rate;
    }
}
