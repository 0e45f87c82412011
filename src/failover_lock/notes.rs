//! What a tick counts beside what it finds: what has happened since the one before, and what lasts.

use chrono::{DateTime, TimeDelta, Utc};

use super::FailoverLock;
use super::health_check::HealthCheck;
use super::outcome::Note;
use super::record::Record;

/// What has happened within this time is counted in this tick. One of two ticks in a row may be missing.
const JUST_NOW: TimeDelta = TimeDelta::minutes(2);

/// Returns `Restored` if the check was restored just now, also by `failoverctl` or by hand.
pub(super) fn restored(
    system: &FailoverLock,
    check: &HealthCheck,
    record: &Record,
    is_restored_now: bool,
) -> Option<Note> {
    let restore = record.restored(check.path().unwrap_or_default(), check.version)?;
    restore.done?;
    (is_restored_now || system.clock.now() - restore.newest() < JUST_NOW).then_some(Note::Restored)
}

/// Returns `LockedForDays` if a day, or several, have passed just now since the check was locked.
pub(super) fn reminder(since: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Option<Note> {
    since.filter(|since| is_due(now - *since)).map(|_| Note::LockedForDays)
}

fn is_due(since: TimeDelta) -> bool {
    const DAY: i64 = 24 * 60;
    since.num_minutes() >= DAY && since.num_minutes() % DAY < JUST_NOW.num_minutes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reminder_is_due_in_two_ticks_of_each_day() {
        let due: Vec<_> = (0..=3 * 24 * 60).filter(|minutes| is_due(TimeDelta::minutes(*minutes))).collect();
        assert_eq!(due, [1440, 1441, 2880, 2881, 4320]);
    }
}
