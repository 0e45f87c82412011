//! The time that an invocation has, and how it retries a call.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};
use tracing::warn;

/// The moment by which an invocation must have answered, on the monotonic clock.
///
/// Lambda kills an invocation at its timeout and then reports only the timeout. An answer before the timeout
/// can report which call failed and why.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    end: Instant,
    /// How often a call may be made.
    tries: u32,
    longest_attempt: Duration,
    first_pause: Duration,
    longest_pause: Duration,
    /// How long one call may take, its retries included.
    longest_call: Option<Duration>,
}

/// A remote call's error that knows whether a retry can help.
pub trait MayPass: std::fmt::Display + Sync {
    /// Whether the same call may succeed when it is made again.
    fn may_pass(&self) -> bool;

    /// Whether the call may have been done all the same.
    fn may_be_done(&self) -> bool {
        false
    }

    /// This error of a call, after a try that may have done it.
    #[must_use]
    fn after_one_that_may_be_done(self) -> Self
    where
        Self: Sized,
    {
        self
    }
}

/// Kept free for writing the answer; a short invocation gives up a quarter of its time instead.
const RESERVE: Duration = Duration::from_millis(500);
/// The longest that one attempt waits for its answer, unless the call's own service is known to be slow.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(3);
/// An attempt shorter than this would only hide the cause that the attempt before it found.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(300);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

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
        Self {
            end: Instant::now() + duration,
            tries: u32::MAX,
            longest_attempt: LONGEST_ATTEMPT,
            first_pause: FIRST_PAUSE,
            longest_pause: LONGEST_PAUSE,
            longest_call: None,
        }
    }

    /// The earlier of this deadline and `duration` from now.
    #[must_use]
    pub fn within(self, duration: Duration) -> Self {
        Self { end: self.end.min(Instant::now() + duration), ..self }
    }

    /// This deadline, with at most so many tries of a call, seconds apart: for work that gives way to other callers
    /// when an API's limit is reached, because it runs again soon.
    #[must_use]
    pub fn with_tries(self, tries: u32) -> Self {
        Self { tries, first_pause: LONGEST_PAUSE, ..self }
    }

    /// This deadline, with pauses of at most this length between two tries of a call: for work that goes first when an
    /// API's limit is reached, because a person waits for it.
    #[must_use]
    pub fn with_pauses(self, longest_pause: Duration) -> Self {
        Self { longest_pause, ..self }
    }

    /// This deadline, with attempts of up to this length: for a service that is slow in the situation in which it is
    /// called.
    #[must_use]
    pub fn with_attempts(self, longest_attempt: Duration) -> Self {
        Self { longest_attempt, ..self }
    }

    /// This deadline, with at most so long for each call, its retries included: for reading that shows the rest where one
    /// call gets no answer.
    #[must_use]
    pub fn with_calls_of(self, longest_call: Duration) -> Self {
        Self { longest_call: Some(longest_call), ..self }
    }

    /// The time that is left.
    #[must_use]
    pub fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// The time that one attempt may take: at most half of what is left, so that an answer that
    /// hangs leaves time for another attempt.
    fn attempt(self) -> Duration {
        let left = self.left();
        (left / 2).clamp(SHORTEST_ATTEMPT, self.longest_attempt).min(left)
    }

    /// Makes `call` until it succeeds, a retry cannot help, or the time is used up.
    ///
    /// Each call receives the time that it may take. Between calls there is a pause with full jitter, so that many
    /// environments that were throttled together do not retry together.
    ///
    /// # Errors
    /// The last call's error, which knows whether a call before it may have been done.
    pub async fn persist<T, E: MayPass>(
        self,
        mut call: impl AsyncFnMut(Duration) -> Result<T, E>,
    ) -> Result<T, E> {
        let this = self.longest_call.map_or(self, |longest| self.within(longest));
        let mut longest = self.first_pause;
        let (mut tries, mut may_be_done) = (0, false);
        loop {
            let error = match call(this.attempt()).await {
                Ok(answer) => return Ok(answer),
                Err(error) if may_be_done => error.after_one_that_may_be_done(),
                Err(error) => error,
            };
            tries += 1;
            may_be_done |= error.may_be_done();
            if tries >= self.tries || !this.pause(&error, &mut longest).await {
                return Err(error);
            }
        }
    }

    /// Waits until the call that failed with `error` may be made again; `false` if it should not be.
    async fn pause(self, error: &dyn MayPass, longest: &mut Duration) -> bool {
        let pause = longest.mul_f64(fastrand::f64());
        if !error.may_pass() || self.left() < pause + SHORTEST_ATTEMPT {
            return false;
        }
        warn!(error = %error, pauseMs = pause.as_millis(), "trying again");
        sleep(pause).await;
        *longest = (*longest * 2).min(self.longest_pause);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Failed {
        may_pass: bool,
        may_be_done: bool,
    }

    impl MayPass for Failed {
        fn may_pass(&self) -> bool {
            self.may_pass
        }

        fn may_be_done(&self) -> bool {
            self.may_be_done
        }

        fn after_one_that_may_be_done(self) -> Self {
            Self { may_be_done: true, ..self }
        }
    }

    const PASSES: Failed = Failed { may_pass: true, may_be_done: false };
    const NEVER: Failed = Failed { may_pass: false, may_be_done: false };

    impl std::fmt::Display for Failed {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("failed")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_kept_free_for_the_answer() {
        let left = |timeout: u64| Deadline::before(SystemTime::now() + Duration::from_millis(timeout)).left();
        assert!(left(10_000) <= Duration::from_millis(9_500));
        assert!(left(1_000) <= Duration::from_millis(750));
        let over = Deadline::before(SystemTime::UNIX_EPOCH);
        assert_eq!((over.left(), over.attempt()), (Duration::ZERO, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_leaves_time_for_another_and_is_given_up_within_three_seconds() {
        let attempt = |left: u64| Deadline::after(Duration::from_millis(left)).attempt().as_millis();
        assert_eq!([attempt(60_000), attempt(4_000), attempt(400), attempt(200)], [3_000, 2_000, 300, 200]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_made_until_it_succeeds() {
        let mut calls = 0;
        let answer = Deadline::after(Duration::from_mins(1)).persist(async |_| {
            calls += 1;
            if calls < 5 { Err(PASSES) } else { Ok(calls) }
        });
        assert_eq!(answer.await, Ok(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_after_a_try_without_an_answer_does_not_show_that_nothing_was_done() {
        for unanswered in [true, false] {
            let mut calls = 0;
            let failed: Result<(), _> = Deadline::after(Duration::from_mins(1))
                .persist(async |_| {
                    calls += 1;
                    let first = Failed { may_pass: true, may_be_done: unanswered };
                    Err([first, PASSES, NEVER][calls - 1].clone())
                })
                .await;
            assert_eq!(failed, Err(Failed { may_pass: false, may_be_done: unanswered }));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_cannot_pass_is_not_tried_again() {
        let mut calls = 0;
        let answer: Result<(), _> = Deadline::after(Duration::from_mins(1))
            .persist(async |_| {
                calls += 1;
                Err(NEVER)
            })
            .await;
        assert_eq!((answer, calls), (Err(NEVER), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn each_call_may_have_its_own_end() {
        let start = Instant::now();
        let deadline = Deadline::after(Duration::from_mins(1)).with_calls_of(Duration::from_secs(3));
        for calls in 1..=2 {
            let hangs = async |time| {
                sleep(time).await;
                Err(PASSES)
            };
            let answer: Result<(), _> = deadline.persist(hangs).await;
            assert_eq!(answer, Err(PASSES));
            assert!(start.elapsed() <= Duration::from_secs(3) * calls);
        }
        assert!(start.elapsed() > Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_keeps_failing_is_tried_ever_more_slowly_and_given_up_in_time() {
        let start = Instant::now();
        let calls = RefCell::new(Vec::new());
        let answer: Result<(), _> = Deadline::after(Duration::from_mins(2))
            .persist(async |_| {
                calls.borrow_mut().push(start.elapsed());
                Err(PASSES)
            })
            .await;
        assert_eq!(answer, Err(PASSES));
        assert!(start.elapsed() < Duration::from_mins(2));
        let pauses: Vec<_> = calls.borrow().windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE + Duration::from_millis(1)), "{pauses:?}");
        // Full jitter: a pause of 0 to 2 s, 1 s in the mean, so some 120 calls and never 400.
        assert!((60..400).contains(&pauses.len()), "{}", pauses.len());
    }
}
