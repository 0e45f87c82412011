//! The decisions of a look, from what was seen alone.
//!
//! A look has stages, and each ends it or leads to the next one:
//! holds ─ [`held`] ─ keys, answers over UDP ─ [`first`] ─ answers over TCP, holds again ─ [`confirmed`] ─ writes ─ [`after`].

use std::time::Duration;

use super::outcome::State;
use super::seen::{Object, Record, Stored, Verdict, Verdicts};

/// An object for longer than this, with Route 53 still answering the primary, does not lock.
const SETTLING: Duration = Duration::from_mins(2);
/// Contradictory answers for longer than this are as good as none.
pub const SETTLED: Duration = Duration::from_mins(1);

/// How a look goes on after the keys and the first answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// No lock is due.
    End(State),
    /// A lock is due: ask again over TCP, and read the holds again.
    Confirm,
}

/// How a look goes on after the second answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// No lock is due any more.
    End(State),
    /// Write the object to the buckets of these indices.
    Put(Vec<usize>),
}

/// What became of the write to one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object was created.
    Created,
    /// There was one already.
    AlreadyThere,
    /// Another write met this one: the next look decides.
    Conflict,
    /// The bucket refused the write, or did not answer, for this cause.
    Failed(String),
}

/// The state of a latch that is held. A fresh hold in any bucket ends the look before anything else is read.
#[must_use]
pub fn held(holds: &[Object]) -> Option<State> {
    holds.iter().any(Object::is_fresh_hold).then_some(State::Holding)
}

/// Decides on the keys, in the order of the buckets, and on the answers over UDP. `split_for` is how long the answers
/// have contradicted each other.
#[must_use]
pub fn first(holds: &[Object], keys: &[Object], said: Verdicts, split_for: Duration) -> Next {
    if is_due(said) && keys.iter().zip(holds).any(|(key, hold)| is_open(key, hold)) {
        return Next::Confirm;
    }
    Next::End(state(holds, keys, said, split_for))
}

/// Decides on the answers over TCP and on the holds as they were read again.
#[must_use]
pub fn confirmed(holds: &[Object], keys: &[Object], said: Verdicts, split_for: Duration) -> Plan {
    if let Some(state) = held(holds) {
        return Plan::End(state);
    }
    let open = keys.iter().zip(holds).enumerate().filter(|(_, (key, hold))| is_open(key, hold));
    let open: Vec<_> = open.map(|(bucket, _)| bucket).collect();
    if is_due(said) && !open.is_empty() {
        return Plan::Put(open);
    }
    Plan::End(state(holds, keys, said, split_for))
}

/// Whether a look set the lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sets {
    /// It did not.
    #[default]
    No,
    /// It did.
    Yes,
    /// It may have: a write failed, perhaps only its answer. An object that the next look finds is counted as this one's.
    Perhaps,
}

/// The state after the writes, by bucket, and whether this look set the lock. Of several watchers that set a lock
/// together, the one counts that wrote the first bucket which can be written; healing sets no lock. Where a write
/// failed, rather two of them count than none.
#[must_use]
pub fn after(holds: &[Object], keys: &[Object], puts: &[(usize, Put)]) -> (State, Sets) {
    let heals = heals(keys);
    let of = |bucket| puts.iter().find(|(put, _)| *put == bucket).map(|(_, put)| put);
    let keys = keys.iter().enumerate().map(|(bucket, key)| match of(bucket) {
        Some(Put::Created | Put::AlreadyThere) => Object::Present(Stored::default()),
        Some(Put::Failed(cause)) => Object::Silent(cause.clone()),
        Some(Put::Conflict) | None => key.clone(),
    });
    let keys: Vec<_> = keys.collect();
    let sets = match puts.first() {
        Some((_, Put::Created)) if !heals => Sets::Yes,
        Some((_, Put::Failed(_) | Put::Conflict)) if !heals => {
            if puts.iter().any(|(_, put)| *put == Put::Created) { Sets::Yes } else { Sets::Perhaps }
        }
        _ => Sets::No,
    };
    (objects(holds, &keys).unwrap_or(State::Unsettled), sets)
}

/// Whether a write heals a lock that stands in a bucket: it sets none.
#[must_use]
pub fn heals(keys: &[Object]) -> bool {
    keys.iter().any(|key| key.stored().is_some())
}

/// Whether Route 53 has failed over to a standby that is healthy: a lock is due, unless it stands.
#[must_use]
pub fn is_due(said: Verdicts) -> bool {
    said.serving == Verdict::Agreed(Record::Secondary) && said.standby == Verdict::Agreed(Record::Primary)
}

/// Whether the answers over TCP take back that a lock is due. That too few of them came does not.
#[must_use]
pub fn takes_back(over_tcp: Verdicts) -> bool {
    !is_due(over_tcp) && !over_tcp.is(Verdict::Blind)
}

/// Whether the object can be written: the bucket shows that it is absent, and that no hold stops it.
fn is_open(key: &Object, hold: &Object) -> bool {
    *key == Object::Absent && (*hold == Object::Absent || hold.is_stale_hold())
}

/// The state when no lock is due: the first of these that fits.
fn state(holds: &[Object], keys: &[Object], said: Verdicts, split_for: Duration) -> State {
    let objects = objects(holds, keys);
    let oldest = keys.iter().filter_map(Object::stored).map(|stored| stored.age).max();
    let serves_primary = said.serving == Verdict::Agreed(Record::Primary);
    // What is wrong with the other bucket matters less.
    if said.are_clear() && serves_primary && oldest.is_some_and(|age| age > SETTLING) {
        return State::NotHolding;
    }
    if let Some(State::Failed(_)) = objects {
        return objects.expect("it is some");
    }
    if said.is(Verdict::Blind) {
        return State::Blind;
    }
    if said.is(Verdict::Split) {
        return if split_for > SETTLED { State::Blind } else { State::Unsettled };
    }
    if let Some(state) = objects {
        return state;
    }
    if said.is_overdue() {
        State::Unsettled
    } else if serves_primary {
        State::Armed
    } else if said.primary == Verdict::Agreed(Record::Primary) {
        State::LatchSuspect
    } else {
        State::StandbyUnhealthy
    }
}

/// The state as far as the objects decide it; `None` if every bucket shows that there is no object.
fn objects(holds: &[Object], keys: &[Object]) -> Option<State> {
    let stored = keys.iter().filter(|key| key.stored().is_some()).count();
    let invisible = holds.iter().chain(keys).find_map(|object| match object {
        Object::Invisible(cause) => Some(cause),
        Object::Absent | Object::Present(_) | Object::Silent(_) => None,
    });
    let silent = holds.iter().chain(keys).find_map(|object| match object {
        Object::Silent(cause) => Some(cause),
        Object::Absent | Object::Present(_) | Object::Invisible(_) => None,
    });
    match (invisible, silent) {
        (None, Some(_)) if stored > 0 => Some(State::Half),
        (Some(cause), _) | (None, Some(cause)) => Some(State::Failed(cause.clone())),
        (None, None) if stored == keys.len() => Some(State::Locked),
        (None, None) if stored > 0 => Some(State::Half),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use Record::{Primary, Secondary};
    use Verdict::{Agreed, Blind, Split};

    use super::*;

    const NO_HOLDS: [Object; 2] = [Object::Absent, Object::Absent];

    fn said(serving: Verdict, primary: Verdict, standby: Verdict) -> Verdicts {
        Verdicts { serving, primary, standby }
    }

    fn present(seconds: u64) -> Object {
        Object::Present(Stored { age: Duration::from_secs(seconds), ..Stored::default() })
    }

    fn silent() -> Object {
        Object::Silent("no answer".to_owned())
    }

    fn invisible() -> Object {
        Object::Invisible("denied".to_owned())
    }

    /// The standby is answered and healthy.
    fn failed_over() -> Verdicts {
        said(Agreed(Secondary), Agreed(Secondary), Agreed(Primary))
    }

    #[test]
    fn a_lock_that_does_not_hold_is_told_also_where_another_bucket_is_not_seen() {
        for other in [invisible(), silent(), Object::Absent] {
            let keys = [present(121), other.clone()];
            assert_eq!(state(&NO_HOLDS, &keys, usual(), Duration::ZERO), State::NotHolding, "{other:?}");
            let keys = [present(120), other];
            assert_ne!(state(&NO_HOLDS, &keys, usual(), Duration::ZERO), State::NotHolding);
        }
        let blind = said(Agreed(Primary), Agreed(Primary), Blind);
        let keys = [present(121), invisible()];
        assert!(matches!(state(&NO_HOLDS, &keys, blind, Duration::ZERO), State::Failed(_)));
    }

    /// The primary is answered, and both are healthy.
    fn usual() -> Verdicts {
        said(Agreed(Primary), Agreed(Primary), Agreed(Primary))
    }

    fn ended(keys: &[Object], said: Verdicts) -> State {
        match first(&NO_HOLDS, keys, said, Duration::ZERO) {
            Next::End(state) => state,
            Next::Confirm => panic!("a lock is due: {keys:?} {said:?}"),
        }
    }

    #[test]
    fn a_lock_is_due_only_if_route_53_answers_a_healthy_standby() {
        let verdicts = [Agreed(Primary), Agreed(Secondary), Split, Blind];
        for serving in verdicts {
            for standby in verdicts {
                for primary in verdicts {
                    let said = said(serving, primary, standby);
                    let due = first(&NO_HOLDS, &NO_HOLDS, said, Duration::ZERO) == Next::Confirm;
                    assert_eq!(due, serving == Agreed(Secondary) && standby == Agreed(Primary), "{said:?}");
                    let puts = confirmed(&NO_HOLDS, &NO_HOLDS, said, Duration::ZERO);
                    assert_eq!(puts == Plan::Put(vec![0, 1]), due, "{said:?}");
                    assert!(due || matches!(puts, Plan::End(_)), "{said:?}");
                }
            }
        }
    }

    #[test]
    fn the_state_is_the_first_that_fits() {
        let absent = Object::Absent;
        let both_down = said(Agreed(Secondary), Agreed(Secondary), Agreed(Secondary));
        let suspect = said(Agreed(Secondary), Agreed(Primary), Agreed(Secondary));
        let failed = |cause: &str| State::Failed(cause.to_owned());
        for (keys, said, state) in [
            ([absent.clone(), absent.clone()], usual(), State::Armed),
            ([absent.clone(), absent.clone()], said(Agreed(Primary), Blind, Agreed(Primary)), State::Armed),
            ([absent.clone(), absent.clone()], said(Agreed(Primary), Agreed(Primary), Blind), State::Blind),
            ([absent.clone(), absent.clone()], said(Blind, Agreed(Primary), Split), State::Blind),
            (
                [absent.clone(), absent.clone()],
                said(Split, Agreed(Primary), Agreed(Primary)),
                State::Unsettled,
            ),
            ([absent.clone(), absent.clone()], both_down, State::StandbyUnhealthy),
            ([absent.clone(), absent.clone()], suspect, State::LatchSuspect),
            ([present(5), present(5)], failed_over(), State::Locked),
            ([present(5), present(5)], both_down, State::Locked),
            ([present(120), present(9)], usual(), State::Locked),
            ([present(121), present(9)], usual(), State::NotHolding),
            ([present(121), absent.clone()], usual(), State::NotHolding),
            ([present(9), absent.clone()], usual(), State::Half),
            ([present(9), silent()], failed_over(), State::Half),
            ([absent.clone(), silent()], usual(), failed("no answer")),
            ([silent(), silent()], usual(), failed("no answer")),
            ([present(9), invisible()], failed_over(), failed("denied")),
            ([present(9), invisible()], said(Blind, Blind, Blind), failed("denied")),
        ] {
            assert_eq!(ended(&keys, said), state, "{keys:?} {said:?}");
        }
    }

    #[test]
    fn contradictory_answers_count_as_none_after_a_minute() {
        let said = said(Split, Agreed(Primary), Agreed(Primary));
        for (seconds, state) in [(60, State::Unsettled), (61, State::Blind)] {
            let next = first(&NO_HOLDS, &NO_HOLDS, said, Duration::from_secs(seconds));
            assert_eq!(next, Next::End(state), "{seconds}");
        }
    }

    #[test]
    fn the_object_is_written_where_the_bucket_shows_that_it_is_absent_and_not_held() {
        let plan = |holds: &[Object], keys: &[Object]| confirmed(holds, keys, failed_over(), Duration::ZERO);
        let absent = Object::Absent;
        assert_eq!(plan(&NO_HOLDS, &[absent.clone(), present(9)]), Plan::Put(vec![0]));
        assert_eq!(plan(&NO_HOLDS, &[invisible(), absent.clone()]), Plan::Put(vec![1]));
        assert_eq!(plan(&[silent(), absent.clone()], &[absent.clone(), absent.clone()]), Plan::Put(vec![1]));
        assert_eq!(
            plan(&[invisible(), absent.clone()], &[absent.clone(), absent.clone()]),
            Plan::Put(vec![1])
        );
        assert_eq!(plan(&[present(601), absent.clone()], &NO_HOLDS), Plan::Put(vec![0, 1]));
        assert_eq!(plan(&[present(600), absent.clone()], &NO_HOLDS), Plan::End(State::Holding));
        assert_eq!(plan(&[silent(), present(1)], &NO_HOLDS), Plan::End(State::Holding));
    }

    #[test]
    fn a_lock_counts_for_the_watcher_that_wrote_the_first_bucket() {
        let sets = |keys: &[Object], puts: &[(usize, Put)]| after(&NO_HOLDS, keys, puts);
        let failed = || Put::Failed("no answer".to_owned());
        let absent = Object::Absent;
        for (puts, state, set) in [
            (vec![(0, Put::Created), (1, Put::Created)], State::Locked, Sets::Yes),
            (vec![(0, Put::Created), (1, Put::AlreadyThere)], State::Locked, Sets::Yes),
            (vec![(0, Put::AlreadyThere), (1, Put::Created)], State::Locked, Sets::No),
            (vec![(0, Put::AlreadyThere), (1, failed())], State::Half, Sets::No),
            (vec![(0, Put::Created), (1, failed())], State::Half, Sets::Yes),
            (vec![(0, failed()), (1, Put::Created)], State::Half, Sets::Yes),
            (vec![(0, failed()), (1, Put::AlreadyThere)], State::Half, Sets::Perhaps),
            (vec![(0, Put::Conflict), (1, Put::Conflict)], State::Unsettled, Sets::Perhaps),
            (vec![(0, Put::Conflict), (1, Put::Created)], State::Half, Sets::Yes),
            (vec![(0, failed()), (1, failed())], State::Failed("no answer".to_owned()), Sets::Perhaps),
        ] {
            assert_eq!(sets(&NO_HOLDS, &puts), (state, set), "{puts:?}");
        }
        assert_eq!(
            sets(&[absent, present(9)], &[(0, Put::Created)]),
            (State::Locked, Sets::No),
            "it was healed"
        );
        assert_eq!(sets(&[silent(), Object::Absent], &[(1, Put::Created)]), (State::Half, Sets::Yes));
    }
}
