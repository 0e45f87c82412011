//! What one look has seen: the objects in the buckets, and the answers of the name servers.

use std::time::{Duration, SystemTime};

use aws_smithy_types::date_time::{DateTime, Format};

/// A hold this old, or younger, stops a lock. A release that takes longer has been broken off.
pub const HOLD: Duration = Duration::from_mins(10);
/// How far a watcher's clock may differ from S3's, beyond what can be told.
const CLOCK: Duration = Duration::from_secs(2);

/// A key of one bucket, as a look saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// There is no object.
    Absent,
    /// There is one.
    Present(Stored),
    /// The bucket refuses to show it, for this cause.
    Invisible(String),
    /// The bucket did not answer, for this cause.
    Silent(String),
}

/// An object that is in a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The `ETag`, by which it is deleted.
    pub etag: String,
    /// Its age by S3's clock: `Date` less `LastModified` of one answer.
    pub age: Duration,
}

/// Which record of a failover pair is answered. `_serving` has `primary` and `standby`; the other sentinels have
/// `healthy` and `unhealthy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Record {
    /// The PRIMARY record: its check is healthy.
    Primary,
    /// The SECONDARY record.
    Secondary,
}

/// What the zone's name servers say together about one sentinel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// At least two answer with this record, and none with the other one.
    Agreed(Record),
    /// Some answer with one record, some with the other one.
    Split,
    /// Fewer than two answer.
    Blind,
}

/// The verdicts on a latch's three sentinels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verdicts {
    /// Which site Route 53 answers.
    pub serving: Verdict,
    /// Whether the primary's own check is healthy.
    pub primary: Verdict,
    /// Whether the standby's check is healthy.
    pub standby: Verdict,
}

/// A time of S3's clock, and when the watcher's own clock showed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The answer's `Date`, in whole seconds.
    pub date: SystemTime,
    /// When the request was sent.
    pub sent: SystemTime,
    /// When the answer was there.
    pub received: SystemTime,
}

/// A time for people: RFC 3339.
#[must_use]
pub fn shown(time: SystemTime) -> String {
    DateTime::from(time).fmt(Format::DateTime).unwrap_or_default()
}

// === impl Object ===

impl Object {
    /// The object, if there is one.
    #[must_use]
    pub fn stored(&self) -> Option<&Stored> {
        match self {
            Self::Present(stored) => Some(stored),
            Self::Absent | Self::Invisible(_) | Self::Silent(_) => None,
        }
    }

    /// Whether it is a hold that stops a lock.
    #[must_use]
    pub fn is_fresh_hold(&self) -> bool {
        self.stored().is_some_and(|hold| hold.age <= HOLD)
    }

    /// Whether it is a hold that a broken-off release has left behind.
    #[must_use]
    pub fn is_stale_hold(&self) -> bool {
        self.stored().is_some_and(|hold| hold.age > HOLD)
    }
}

// === impl Verdict ===

impl Verdict {
    /// The verdict of these answers, one of each name server that gave a valid one.
    #[must_use]
    pub fn of(answers: impl IntoIterator<Item = Record>) -> Self {
        let (mut primary, mut secondary) = (0_u32, 0_u32);
        for answer in answers {
            match answer {
                Record::Primary => primary += 1,
                Record::Secondary => secondary += 1,
            }
        }
        match (primary, secondary) {
            (2.., 0) => Self::Agreed(Record::Primary),
            (0, 2..) => Self::Agreed(Record::Secondary),
            (0 | 1, 0) | (0, 1) => Self::Blind,
            (1.., 1..) => Self::Split,
        }
    }

    /// This verdict together with another one on the same sentinel: two that contradict each other are split.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Blind, _) | (_, Self::Blind) => Self::Blind,
            (Self::Agreed(one), Self::Agreed(other)) if one == other => self,
            (Self::Agreed(_) | Self::Split, Self::Agreed(_) | Self::Split) => Self::Split,
        }
    }
}

// === impl Verdicts ===

impl Verdicts {
    /// Whether this is the verdict on one of the two sentinels that decide: the primary's own decides nothing.
    #[must_use]
    pub fn is(&self, verdict: Verdict) -> bool {
        self.serving == verdict || self.standby == verdict
    }

    /// Whether both sentinels that decide are agreed on.
    #[must_use]
    pub fn are_clear(&self) -> bool {
        !self.is(Verdict::Blind) && !self.is(Verdict::Split)
    }

    /// These verdicts over UDP, together with those `over_tcp` on the two sentinels that decide.
    #[must_use]
    pub fn and(self, over_tcp: Self) -> Self {
        let (serving, standby) = (self.serving.and(over_tcp.serving), self.standby.and(over_tcp.standby));
        Self { serving, standby, ..self }
    }

    /// Whether Route 53 answers with the primary, although the primary is unhealthy and the standby is not: it does not fail over.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        let [primary, secondary] = [Record::Primary, Record::Secondary].map(Verdict::Agreed);
        self.serving == primary && self.primary == secondary && self.standby == primary
    }
}

// === impl Clock ===

impl Clock {
    /// Whether the two clocks differ by more than 2 s beyond what whole seconds and the round trip explain.
    #[must_use]
    pub fn is_off(self) -> bool {
        let latest = self.date + Duration::from_secs(1) + CLOCK;
        self.sent > latest || self.received + CLOCK < self.date
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_name_servers_have_to_agree_and_none_to_contradict() {
        use Record::{Primary as P, Secondary as S};
        for (answers, verdict) in [
            (&[][..], Verdict::Blind),
            (&[P], Verdict::Blind),
            (&[S], Verdict::Blind),
            (&[P, P], Verdict::Agreed(P)),
            (&[S, S], Verdict::Agreed(S)),
            (&[S, S, S, S], Verdict::Agreed(S)),
            (&[P, S], Verdict::Split),
            (&[S, S, S, P], Verdict::Split),
            (&[P, P, P, S], Verdict::Split),
        ] {
            assert_eq!(Verdict::of(answers.iter().copied()), verdict, "{answers:?}");
        }
    }

    #[test]
    fn a_clock_is_off_beyond_what_whole_seconds_and_the_round_trip_explain() {
        let at = |millis: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000 + millis);
        for (date, sent, received, off) in [
            (0, 0, 100, false),
            (0, 2_999, 3_100, false),
            (0, 3_001, 3_100, true),
            (5_000, 0, 3_000, false),
            (5_000, 0, 2_999, true),
        ] {
            let clock = Clock { date: at(date), sent: at(sent), received: at(received) };
            assert_eq!(clock.is_off(), off, "{date} {sent} {received}");
        }
    }

    #[test]
    fn a_hold_is_fresh_for_ten_minutes() {
        let hold = |seconds| {
            let age = Duration::from_secs(seconds);
            Object::Present(Stored { age, ..Stored::default() })
        };
        assert!(hold(600).is_fresh_hold() && !hold(600).is_stale_hold());
        assert!(!hold(601).is_fresh_hold() && hold(601).is_stale_hold());
        for object in [Object::Absent, Object::Silent(String::new()), Object::Invisible(String::new())] {
            assert!(!object.is_fresh_hold() && !object.is_stale_hold());
        }
    }
}
