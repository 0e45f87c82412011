//! How long an invocation may go on trying, and how it tries again.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};
use tracing::warn;

/// The moment by which an invocation must have answered, on the monotonic clock.
///
/// Lambda kills an invocation at its timeout and then reports nothing but the timeout. Answering
/// before it is what lets an error say which call failed and why.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

/// A remote call's error that knows whether trying again can help.
pub trait MayPass: std::fmt::Display {
    /// Whether the same call may succeed when it is made again.
    fn may_pass(&self) -> bool;
}

/// Kept free for writing the answer; a short invocation gives up a quarter of its time instead.
const RESERVE: Duration = Duration::from_millis(500);
/// The longest that one attempt waits for its answer.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(3);
/// An attempt shorter than this would only hide the cause that the one before it saw.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(300);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

// === impl Deadline ===

impl Deadline {
    /// The deadline of an invocation that Lambda ends at `end`.
    #[must_use]
    pub fn before(end: SystemTime) -> Self {
        let whole = end.duration_since(SystemTime::now()).unwrap_or_default();
        Self::after(whole.saturating_sub(RESERVE.min(whole / 4)))
    }

    /// A deadline this long from now.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self(Instant::now() + duration)
    }

    /// The earlier of this deadline and `duration` from now.
    #[must_use]
    pub fn within(self, duration: Duration) -> Self {
        Self(self.0.min(Instant::now() + duration))
    }

    /// The time that is left.
    #[must_use]
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// The time that one attempt may take: at most half of what is left, so that an answer that
    /// hangs leaves time for another attempt.
    fn attempt(self) -> Duration {
        let left = self.left();
        (left / 2).clamp(SHORTEST_ATTEMPT, LONGEST_ATTEMPT).min(left)
    }

    /// Makes `call` until it succeeds, its error cannot pass, or the time is used up.
    ///
    /// Each call is handed the time that it may take. Between calls it waits with full jitter, so
    /// that many environments which were throttled at once do not come back at once.
    ///
    /// # Errors
    /// The last call's error.
    pub async fn persist<T, E: MayPass>(
        self,
        mut call: impl AsyncFnMut(Duration) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut longest = FIRST_PAUSE;
        loop {
            let error = match call(self.attempt()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let pause = longest.mul_f64(fastrand::f64());
            if !error.may_pass() || self.left() < pause + SHORTEST_ATTEMPT {
                return Err(error);
            }
            warn!(error = %error, pauseMs = pause.as_millis(), "trying again");
            sleep(pause).await;
            longest = (longest * 2).min(LONGEST_PAUSE);
        }
    }
}
