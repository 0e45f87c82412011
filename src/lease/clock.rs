//! The clocks: the process's own, for durations, and the wall clock, for people.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::sleep;

use super::claim::Moment;

/// The clock that continues while the machine is suspended. A holder that wakes up must not assume that no time
/// has passed.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;
/// On other systems, for example macOS, the monotonic clock.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;

/// The longest sleep of one timer: the runtime's timers stop while the machine is suspended.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

pub(super) fn now() -> Moment {
    Duration::try_from(clock_gettime(CLOCK)).expect("the clock counts from the machine's start")
}

pub(super) async fn sleep_until(moment: Moment) {
    loop {
        let left = moment.saturating_sub(now());
        if left.is_zero() {
            return;
        }
        sleep(left.min(LONGEST_SLEEP)).await;
    }
}

/// Seconds since 1970 on the wall clock.
pub(super) fn wall() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
