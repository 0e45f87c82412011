//! The clocks: the process's own, for durations, and the wall clock, for people.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

use super::claim::Moment;

/// The adjusted clock is the one that continues while the machine is suspended: a holder that wakes up must not assume
/// that no time has passed.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCKS: (ClockId, ClockId) = (ClockId::Boottime, ClockId::MonotonicRaw);
/// On other systems, for example macOS, there is the monotonic clock.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCKS: (ClockId, ClockId) = (ClockId::Monotonic, ClockId::Monotonic);

/// The longest sleep of one timer: the raw clock may come first, and has no timer.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

const SHORTEST_SLEEP: Duration = Duration::from_millis(1);
/// The least tenths of its rate to which [the kernel adjusts a clock][1].
///
/// [1]: https://man7.org/linux/man-pages/man2/adjtimex.2.html
const SLOWEST: u32 = 9;

pub(super) fn now() -> Moment {
    let read =
        |clock| Duration::try_from(clock_gettime(clock)).expect("the clock counts from the machine's start");
    Moment { adjusted: read(CLOCKS.0), raw: read(CLOCKS.1) }
}

/// Waits until the moment may have come, by either clock.
pub(super) async fn sleep_until(moment: Moment) {
    loop {
        let left = moment.soonest(now());
        if left.is_zero() {
            return;
        }
        // The timer's clock may be slowed down by so much while it is adjusted.
        timer((left * SLOWEST / 10).clamp(SHORTEST_SLEEP, LONGEST_SLEEP)).await;
    }
}

/// Waits for so long. The runtime's own timers stop while the machine is suspended; this one fires when it resumes.
#[cfg(any(target_os = "linux", target_os = "android"))]
async fn timer(time: Duration) {
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::net::unix::pipe;

    let started = || {
        let fd = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let it_value = Timespec::try_from(time).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(&fd, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value })?;
        // It can be waited for as a pipe can.
        pipe::Receiver::from_owned_fd_unchecked(fd)
    };
    match started() {
        Ok(timer) => drop(timer.readable().await),
        // Without a free descriptor.
        Err(_) => tokio::time::sleep(time.min(Duration::from_millis(100))).await,
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
async fn timer(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Seconds since 1970 on the wall clock.
pub(super) fn wall() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_of_the_clock_that_includes_suspension_and_of_the_hardwares_raw_one() {
        assert_eq!(CLOCKS, (ClockId::Boottime, ClockId::MonotonicRaw));
        let read = || [ClockId::Boottime, ClockId::MonotonicRaw].map(clock_gettime);
        let (before, moment, after) = (read(), now(), read());
        for (index, time) in [moment.adjusted, moment.raw].into_iter().enumerate() {
            let [before, after] = [before, after].map(|times| Duration::try_from(times[index]).unwrap());
            assert!((before..=after).contains(&time), "{index}: {before:?} {time:?} {after:?}");
        }
    }
}
