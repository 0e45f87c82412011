//! AWS's clock, once an answer has shown its time: what is recorded, and what is read, is compared with AWS's times.

use std::sync::Mutex;
use std::sync::PoisonError;

use chrono::{DateTime, TimeDelta, Utc};
use rustix::time::{ClockId, clock_gettime};

/// A clock that is never set, and that also runs while the machine is suspended.
#[cfg(target_os = "linux")]
const STEADY: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const STEADY: ClockId = ClockId::Monotonic;

/// How far apart two clocks may seem that are not: a date has seconds, and its answer takes some.
const SHOWN: TimeDelta = TimeDelta::seconds(5);

/// The date of an answer, and when it came by the steady clock.
static KNOWN: Mutex<Option<(DateTime<Utc>, TimeDelta)>> = Mutex::new(None);

fn steady() -> TimeDelta {
    let now = clock_gettime(STEADY);
    TimeDelta::seconds(now.tv_sec) + TimeDelta::nanoseconds(now.tv_nsec)
}

/// An answer that has come now has this date.
pub(super) fn set(date: DateTime<Utc>) {
    *KNOWN.lock().unwrap_or_else(PoisonError::into_inner) = Some((date, steady()));
}

/// By how much this machine's clock is ahead of AWS's now, if that has shown that it is wrong.
pub(super) fn wrong_by() -> Option<TimeDelta> {
    let (date, at) = (*KNOWN.lock().unwrap_or_else(PoisonError::into_inner))?;
    let ahead = Utc::now() - (date + (steady() - at));
    Some(ahead).filter(|ahead| ahead.abs() > SHOWN)
}

/// The present time: this machine's, or AWS's if this machine's is wrong.
pub(super) fn now() -> DateTime<Utc> {
    Utc::now() - wrong_by().unwrap_or_default()
}
