//! The rules of a release, from what a person's own calls saw alone. `cli::latch` makes the calls.
//!
//! A release has steps, and each ends it or leads to the next one: [`begin`] ─ holds are put ─ wait [`WAIT`] ─
//! [`may_delete`] ─ objects are deleted ─ [`deleted`] ─ [`Settling`] ─ holds are deleted.
//!
//! Under a hold no watcher writes. A write that was signed before the hold cannot land after [`WAIT`]: S3 refuses it.

use std::time::Duration;

use super::seen::{HOLD, Object, Record, Stored, Verdict};

/// How long a release waits after its holds. A write that was signed before them lands within a signature of 15 s and 5 s
/// between clocks. Only then begins a latch check's interval of 30 s and 10 s more, in which the check sees the object:
/// else the primary would serve, and be taken out again, between two deletions.
pub const WAIT: Duration = Duration::from_mins(1);
/// Objects are deleted only under holds that are younger than this, by S3's clock: half of the time that they stop
/// watchers.
pub const YOUNG: Duration = Duration::from_mins(5);
/// How long everything has to be as after a release, on end, until the holds are deleted: name servers are many
/// machines behind one address.
pub const SETTLED: Duration = Duration::from_mins(1);
/// The longest time between two looks for what was seen at both to have been so in between: Route 53 needs longer to fail over
/// and to fall back.
pub const GAP: Duration = Duration::from_secs(20);
/// How long a release waits for that.
pub const PATIENCE: Duration = Duration::from_mins(3);

/// The hold of one bucket, as a release sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// There is none.
    Absent,
    /// This command has put it.
    Own(Stored),
    /// Another command has put it; its body names the person.
    Other(Stored, String),
    /// The bucket did not show it, for this cause.
    Unreadable(String),
}

/// Why a release stops before it has changed the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A bucket cannot be read, for this cause: an object that comes back with it would take the primary out again.
    Unreadable(String),
    /// There is no object.
    NotLocked,
    /// Someone else holds the latch, as the hold says.
    HeldBy(String),
    /// The primary is not known to be healthy.
    PrimaryUnhealthy,
    /// An object was created meanwhile.
    LockedAgain,
    /// A hold is gone: someone has locked it meanwhile.
    HoldGone,
    /// A hold is too old: start over.
    HoldTooOld,
}

/// What a release begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Put a hold in every bucket; replace what a broken-off release left there, by its `ETag`.
    Hold(Vec<Option<String>>),
    /// Delete what a broken-off release left behind, by bucket and `ETag`: there is no object.
    TidyUp(Vec<(usize, String)>),
}

/// What became of the deletion of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// It is gone.
    Gone,
    /// It was another object by then: a watcher or a person has locked again.
    Changed,
    /// There was no answer, or a refusal, for this cause.
    Unconfirmed(String),
}

/// How a release goes on after the deletions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// Every object is gone.
    All,
    /// Create the objects of these buckets again, where they are absent: an object that is left, perhaps in a bucket that
    /// does not answer, or one that was replaced meanwhile, would take a serving primary out later. A deletion that was
    /// not confirmed may have been done, so its object is among them. If one of them cannot be created, leave the holds, which age: without a hold a
    /// watcher would lock again on answers from before a deletion.
    PutBack(Vec<usize>),
}

/// Waits until everything is as after a release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Settling {
    /// From when until when it was seen to be so, on end, by the time since the deletions.
    seen: Option<(Duration, Duration)>,
}

/// What a look after the deletions saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Whether every name server answers, and says that the primary serves.
    pub all_serve_primary: bool,
    /// Whether the primary's own check is healthy.
    pub primary: Verdict,
    /// Whether every bucket shows that there is no object.
    pub absent: bool,
}

/// How a release goes on after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Look again.
    Wait,
    /// Delete the holds: the primary serves.
    Done,
    /// Leave the holds, which age: the primary has failed again, or does not serve after all.
    FailedAgain,
}

/// Whether a release may begin. `force` releases although the primary is not known to be healthy, and nothing else.
///
/// # Errors
/// Why it may not.
pub fn begin(holds: &[Held], keys: &[Object], primary: Verdict, force: bool) -> Result<Begin, Stop> {
    readable(holds, keys)?;
    if let Some(stop) = stop_of_another(holds) {
        return Err(stop);
    }
    if keys.iter().all(|key| key.stored().is_none()) {
        let left = holds.iter().enumerate().filter_map(|(bucket, hold)| Some((bucket, etag(hold)?)));
        let left: Vec<_> = left.collect();
        return if left.is_empty() { Err(Stop::NotLocked) } else { Ok(Begin::TidyUp(left)) };
    }
    healthy(primary, force)?;
    Ok(Begin::Hold(holds.iter().map(etag).collect()))
}

/// Returns the stop if someone else holds the latch: for a release, an attachment, a detachment or a lock.
#[must_use]
pub fn stop_of_another(holds: &[Held]) -> Option<Stop> {
    holds.iter().find_map(|hold| match hold {
        Held::Other(stored, holder) if stored.age <= HOLD => Some(Stop::HeldBy(holder.clone())),
        Held::Absent | Held::Own(_) | Held::Other(..) | Held::Unreadable(_) => None,
    })
}

/// Which objects to delete, by bucket and `ETag`. Everything was read after the wait. The deletions have to follow
/// within seconds, by S3's clock: under a hold that has become stale a watcher writes again what was deleted.
///
/// # Errors
/// Why none may be deleted.
pub fn may_delete(
    holds: &[Held],
    keys: &[Object],
    primary: Verdict,
    force: bool,
) -> Result<Vec<(usize, String)>, Stop> {
    readable(holds, keys)?;
    if let Some(stop) = stop_of_another(holds) {
        return Err(stop);
    }
    for hold in holds {
        match hold {
            Held::Own(stored) if stored.age < YOUNG => {}
            Held::Own(_) => return Err(Stop::HoldTooOld),
            Held::Absent | Held::Other(..) | Held::Unreadable(_) => return Err(Stop::HoldGone),
        }
    }
    healthy(primary, force)?;
    let stored = keys.iter().enumerate().filter_map(|(bucket, key)| Some((bucket, key.stored()?)));
    Ok(stored.map(|(bucket, stored)| (bucket, stored.etag.clone())).collect())
}

/// Returns the stop if an object was created since the release began with these: a lock that no one has agreed to release.
#[must_use]
pub fn stop_of_new_lock(began: &[Object], keys: &[Object]) -> Option<Stop> {
    let tag = |object: &Object| object.stored().map(|stored| stored.etag.clone());
    let is_new = |(began, key): (&Object, &Object)| key.stored().is_some() && tag(began) != tag(key);
    began.iter().zip(keys).any(is_new).then_some(Stop::LockedAgain)
}

/// What follows from the deletions, by bucket.
#[must_use]
pub fn deleted(deletions: &[(usize, Deletion)]) -> Deleted {
    if deletions.iter().all(|(_, deletion)| *deletion == Deletion::Gone) {
        return Deleted::All;
    }
    let absent = deletions.iter().filter(|(_, deletion)| *deletion != Deletion::Changed);
    Deleted::PutBack(absent.map(|(bucket, _)| *bucket).collect())
}

fn readable(holds: &[Held], keys: &[Object]) -> Result<(), Stop> {
    let hold = holds.iter().find_map(|hold| match hold {
        Held::Unreadable(cause) => Some(cause),
        Held::Absent | Held::Own(_) | Held::Other(..) => None,
    });
    let key = keys.iter().find_map(|key| match key {
        Object::Invisible(cause) | Object::Silent(cause) => Some(cause),
        Object::Absent | Object::Present(_) => None,
    });
    hold.or(key).map_or(Ok(()), |cause| Err(Stop::Unreadable(cause.clone())))
}

fn healthy(primary: Verdict, force: bool) -> Result<(), Stop> {
    if force || primary == Verdict::Agreed(Record::Primary) { Ok(()) } else { Err(Stop::PrimaryUnhealthy) }
}

fn etag(hold: &Held) -> Option<String> {
    match hold {
        Held::Own(stored) | Held::Other(stored, _) => Some(stored.etag.clone()),
        Held::Absent | Held::Unreadable(_) => None,
    }
}

// === impl Settling ===

impl Settling {
    /// Takes in a look at this time since the deletions. With `force`, a primary that is unhealthy has not failed again:
    /// the release waits for it, and does not say that it serves before it does.
    pub fn look(&mut self, at: Duration, look: Look, force: bool) -> Settled {
        let primary = look.primary == Verdict::Agreed(Record::Primary);
        if look.absent && look.all_serve_primary && primary {
            let unbroken = self.seen.filter(|(_, last)| at.saturating_sub(*last) <= GAP);
            let since = unbroken.map_or(at, |(since, _)| since);
            self.seen = Some((since, at));
            return if at.saturating_sub(since) >= SETTLED { Settled::Done } else { Settled::Wait };
        }
        self.seen = None;
        let failed = look.primary == Verdict::Agreed(Record::Secondary) && !force;
        if failed || at >= PATIENCE + SETTLED { Settled::FailedAgain } else { Settled::Wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEALTHY: Verdict = Verdict::Agreed(Record::Primary);
    const UNHEALTHY: Verdict = Verdict::Agreed(Record::Secondary);

    fn stored(etag: &str, seconds: u64) -> Stored {
        Stored { etag: etag.to_owned(), age: Duration::from_secs(seconds) }
    }

    fn present() -> Object {
        Object::Present(stored("k", 900))
    }

    fn other(seconds: u64) -> Held {
        Held::Other(stored("h", seconds), "ada".to_owned())
    }

    fn own(seconds: u64) -> Held {
        Held::Own(stored("h", seconds))
    }

    #[test]
    fn a_release_begins_when_all_can_be_read_the_latch_is_locked_and_the_primary_is_healthy() {
        let none = [Held::Absent, Held::Absent];
        let locked = [present(), Object::Absent];
        let open = [Object::Absent, Object::Absent];
        let silent = [present(), Object::Silent("b".to_owned())];
        let unreadable = [Held::Absent, Held::Unreadable("h".to_owned())];
        let hold = Ok(Begin::Hold(vec![None, None]));
        for (holds, keys, primary, force, begins) in [
            (&none, &locked, HEALTHY, false, hold.clone()),
            (&none, &locked, UNHEALTHY, true, hold),
            (&none, &locked, UNHEALTHY, false, Err(Stop::PrimaryUnhealthy)),
            (&none, &locked, Verdict::Blind, false, Err(Stop::PrimaryUnhealthy)),
            (&none, &locked, Verdict::Split, false, Err(Stop::PrimaryUnhealthy)),
            (&none, &open, HEALTHY, true, Err(Stop::NotLocked)),
            (&none, &silent, HEALTHY, true, Err(Stop::Unreadable("b".to_owned()))),
            (&unreadable, &locked, HEALTHY, true, Err(Stop::Unreadable("h".to_owned()))),
            (&[other(600), Held::Absent], &locked, HEALTHY, true, Err(Stop::HeldBy("ada".to_owned()))),
            (
                &[other(601), Held::Absent],
                &locked,
                HEALTHY,
                false,
                Ok(Begin::Hold(vec![Some("h".to_owned()), None])),
            ),
            (
                &[other(601), Held::Absent],
                &open,
                UNHEALTHY,
                false,
                Ok(Begin::TidyUp(vec![(0, "h".to_owned())])),
            ),
        ] {
            assert_eq!(begin(holds, keys, primary, force), begins, "{holds:?} {keys:?} {primary:?} {force}");
        }
    }

    #[test]
    fn objects_are_deleted_under_own_young_holds_alone() {
        let keys = [present(), Object::Absent];
        let delete = |holds: [Held; 2], primary, force| may_delete(&holds, &keys, primary, force);
        assert_eq!(delete([own(299), own(0)], HEALTHY, false), Ok(vec![(0, "k".to_owned())]));
        assert_eq!(delete([own(0), own(0)], UNHEALTHY, true), Ok(vec![(0, "k".to_owned())]));
        assert_eq!(delete([own(0), own(0)], UNHEALTHY, false), Err(Stop::PrimaryUnhealthy));
        for (lost, stop) in
            [(own(300), Stop::HoldTooOld), (other(601), Stop::HoldGone), (Held::Absent, Stop::HoldGone)]
        {
            assert_eq!(delete([own(0), lost], HEALTHY, true), Err(stop));
        }
        let taken_over = delete([own(0), other(0)], HEALTHY, true);
        assert_eq!(taken_over, Err(Stop::HeldBy("ada".to_owned())), "someone locks");
        let unreadable = Held::Unreadable("h".to_owned());
        assert_eq!(delete([own(0), unreadable], HEALTHY, true), Err(Stop::Unreadable("h".to_owned())));
    }

    #[test]
    fn an_object_that_was_created_meanwhile_is_not_deleted() {
        let keys = [present(), Object::Absent];
        let other = [Object::Present(stored("other", 900)), Object::Absent];
        let open = [Object::Absent, Object::Absent];
        assert_eq!(stop_of_new_lock(&keys, &keys), None);
        assert_eq!(stop_of_new_lock(&keys, &open), None);
        for began in [other, open] {
            assert_eq!(stop_of_new_lock(&began, &keys), Some(Stop::LockedAgain));
        }
    }

    #[test]
    fn all_objects_are_deleted_or_none() {
        let unconfirmed = || Deletion::Unconfirmed("no answer".to_owned());
        for (first, second, then) in [
            (Deletion::Gone, Deletion::Gone, Deleted::All),
            (Deletion::Gone, unconfirmed(), Deleted::PutBack(vec![0, 1])),
            (unconfirmed(), Deletion::Gone, Deleted::PutBack(vec![0, 1])),
            (unconfirmed(), unconfirmed(), Deleted::PutBack(vec![0, 1])),
            (Deletion::Changed, unconfirmed(), Deleted::PutBack(vec![1])),
            (Deletion::Gone, Deletion::Changed, Deleted::PutBack(vec![0])),
            (Deletion::Changed, Deletion::Changed, Deleted::PutBack(vec![])),
        ] {
            assert_eq!(deleted(&[(0, first.clone()), (1, second.clone())]), then, "{first:?} {second:?}");
        }
    }

    #[test]
    fn the_holds_are_deleted_after_a_minute_on_end_in_which_the_primary_serves() {
        let good = Look { all_serve_primary: true, primary: HEALTHY, absent: true };
        let at = Duration::from_secs;
        for bad in [
            Look { all_serve_primary: false, ..good },
            Look { primary: Verdict::Blind, ..good },
            Look { absent: false, ..good },
        ] {
            let mut settling = Settling::default();
            assert_eq!(settling.look(at(0), good, false), Settled::Wait);
            assert_eq!(settling.look(at(10), bad, false), Settled::Wait, "{bad:?}");
            for seconds in [20, 40, 60, 79] {
                assert_eq!(settling.look(at(seconds), good, false), Settled::Wait, "{bad:?}");
            }
            assert_eq!(settling.look(at(80), good, false), Settled::Done, "{bad:?}");
        }
        // What was not looked at for longer may have been otherwise.
        let mut stopped = Settling::default();
        for seconds in [0, 20, 41, 61, 81, 100] {
            assert_eq!(stopped.look(at(seconds), good, false), Settled::Wait, "{seconds}");
        }
        assert_eq!(stopped.look(at(101), good, false), Settled::Done);
        let failed = Look { primary: UNHEALTHY, all_serve_primary: false, absent: true };
        assert_eq!(Settling::default().look(at(5), failed, false), Settled::FailedAgain);
        let mut forced = Settling::default();
        assert_eq!(forced.look(at(5), failed, true), Settled::Wait);
        assert_eq!(forced.look(at(239), failed, true), Settled::Wait);
        assert_eq!(forced.look(at(240), failed, true), Settled::FailedAgain);
        let mut slow = Settling::default();
        let waits = Look { all_serve_primary: false, ..good };
        assert_eq!(slow.look(at(239), waits, false), Settled::Wait);
        assert_eq!(slow.look(at(240), waits, false), Settled::FailedAgain);
    }
}
