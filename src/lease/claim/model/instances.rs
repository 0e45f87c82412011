//! The instances of the model that are checked, and whether what it forgets makes a difference.

use std::collections::{BTreeSet, HashSet};

use stateright::{Checker, HasDiscoveries};

use super::*;

/// Visits every state.
fn check(lease: Lease) -> impl Checker<Lease> {
    let checked = lease.checker().threads(2).spawn_bfs().join();
    println!("{} states", checked.unique_state_count());
    checked
}

/// Stops at the first state in which two work.
fn violated(lease: Lease) -> impl Checker<Lease> {
    let finish = HasDiscoveries::AnyOf([ONE].into());
    lease.checker().threads(2).finish_when(finish).spawn_bfs().join()
}

/// Each promise holds in every state, and the lease passes from one candidate to the other in some of them.
fn holds(lease: Lease) {
    check(lease).assert_properties();
}

/// Two candidates with terms of two ticks, and no faults.
const fn two() -> Lease {
    Lease {
        terms: [2, 2],
        margin: 1,
        grace: 0,
        drift: 0,
        faults: 0,
        kinds: EVERY,
        changes: 2,
        longest: 2,
        late: 1,
        exact: false,
        lives: false,
    }
}

#[test]
fn two_never_work_at_once_whatever_fails() {
    holds(Lease { faults: 1, late: 0, ..two() });
}

#[test]
fn two_never_work_at_once_when_terms_differ_and_a_record_shows_none() {
    let kinds: &[_] = &[Fault::Overwrite, Fault::Delete];
    // Without drift, a term of 2 against 4 is the mirror image.
    holds(Lease { terms: [4, 2], longest: 4, faults: 1, kinds, late: 0, ..two() });
}

#[test]
fn two_never_work_at_once_when_clocks_drift_and_a_write_comes_late() {
    holds(Lease { drift: 1, late: 0, ..two() });
    holds(Lease { faults: 1, kinds: &[Fault::Crash, Fault::Overwrite], ..two() });
}

#[test]
fn two_never_work_at_once_there_and_back_again_with_two_writes_on_their_way() {
    holds(Lease { changes: 3, late: 2, ..two() });
}

#[test]
fn two_never_work_at_once_while_readers_have_their_grace() {
    let graceful = Lease { terms: [4, 4], grace: 1, longest: 4, late: 0, ..two() };
    holds(Lease { drift: 1, ..graceful.clone() });
    holds(Lease { faults: 1, kinds: &[Fault::StepDown], ..graceful });
}

#[test]
fn two_never_work_at_once_when_one_is_a_copy_of_the_other() {
    let copied = check(Lease { faults: 2, kinds: &[Fault::Copy], late: 0, ..two() });
    copied.assert_properties();
}

#[test]
fn a_candidate_becomes_active_once_nothing_fails_any_more() {
    // What follows from a state has no bound: another owner may come then.
    let checked = check(Lease { faults: 1, changes: 1, late: 0, lives: true, ..two() });
    checked.assert_no_discovery(LIVES);
}

/// Tens of millions of states, in more than ten minutes on two cores:
///
/// ```text
/// cargo test --release --all-features --lib model -- --ignored
/// ```
#[test]
#[ignore = "it takes minutes"]
fn two_never_work_at_once_after_more_events() {
    holds(Lease { faults: 1, ..two() });
    holds(Lease { drift: 1, faults: 1, ..two() });
    for terms in [[4, 2], [2, 4]] {
        holds(Lease { terms, longest: 4, drift: 1, late: 0, ..two() });
    }
    holds(Lease { terms: [4, 4], margin: 2, drift: 2, longest: 4, ..two() });
    holds(Lease { changes: 3, faults: 1, late: 0, ..two() });
    for terms in [[3, 2], [2, 3]] {
        holds(Lease { terms, longest: 3, faults: 1, ..two() });
        holds(Lease {
            terms,
            longest: 3,
            faults: 2,
            kinds: &[Fault::Overwrite, Fault::Crash],
            late: 0,
            ..two()
        });
    }
    let kinds: &[_] = &[Fault::Overwrite, Fault::Crash];
    holds(Lease { terms: [4, 2], longest: 4, faults: 2, kinds, late: 0, ..two() });
    holds(Lease { faults: 1, lives: true, ..two() });
}

#[test]
fn the_bound_on_drift_is_needed() {
    for (term, margin, drift) in [(2, 0, 1), (3, 1, 2)] {
        let checked = violated(Lease { terms: [term, term], margin, drift, longest: term, late: 0, ..two() });
        assert!(
            checked.discovery(ONE).is_some(),
            "a margin of {margin} ticks, clocks that differ by {drift}"
        );
    }
}

#[test]
fn the_longest_term_of_any_candidate_has_to_be_known() {
    let kinds: &[_] = &[Fault::Overwrite, Fault::Crash];
    let checked = violated(Lease { terms: [4, 2], longest: 2, faults: 2, kinds, late: 0, ..two() });
    assert!(checked.discovery(ONE).is_some());
}

/// What a state shows, whatever is forgotten: who works, whose the record is, how often the owner has changed, and how
/// many faults there were.
type Shown = ([bool; 2], Option<String>, u64, u8);

#[test]
fn what_the_model_forgets_makes_no_difference() {
    let kinds: &[_] = &[Fault::Crash, Fault::Overwrite];
    compare(&Lease { faults: 1, kinds, changes: 1, late: 0, ..two() }, 13);
}

#[test]
fn what_the_model_forgets_makes_no_difference_to_late_writes_and_to_terms_that_differ() {
    let kinds: &[_] = &[Fault::Overwrite];
    compare(&Lease { changes: 1, ..two() }, 12);
    for terms in [[3, 2], [2, 3]] {
        compare(&Lease { terms, longest: 3, faults: 1, kinds, changes: 1, late: 0, ..two() }, 12);
    }
}

#[test]
fn what_the_model_forgets_makes_no_difference_after_a_takeover() {
    let shown = compare(&Lease { late: 0, ..two() }, 16);
    assert!(shown.contains(&([false, true], Some("1".to_owned()), 2, 0)), "{shown:?}");
}

/// Compares what is shown within so many steps with what a model shows that forgets nothing.
fn compare(lease: &Lease, steps: usize) -> BTreeSet<Shown> {
    let exact = |steps| shown(&Lease { exact: true, ..lease.clone() }, steps);
    let forgetful = shown(lease, steps);
    assert!(exact(steps).is_subset(&forgetful));
    // A request that will be refused is forgotten at once: elsewhere it takes a step of its own.
    assert!(forgetful.is_subset(&exact(steps + 2)), "{forgetful:?}");
    forgetful
}

/// What is shown within so many steps.
fn shown(lease: &Lease, steps: usize) -> BTreeSet<Shown> {
    let mut latest = lease.init_states();
    let mut seen: HashSet<World> = latest.iter().cloned().collect();
    for _ in 0..steps {
        let mut next = Vec::new();
        for world in latest {
            let mut actions = Vec::new();
            lease.actions(&world, &mut actions);
            let worlds = actions.into_iter().filter_map(|action| lease.next_state(&world, action));
            next.extend(worlds.filter(|world| lease.within_boundary(world) && seen.insert(world.clone())));
        }
        latest = next;
    }
    let show = |world: World| {
        let works = world.processes.each_ref().map(Process::works);
        (works, world.record.map(|record| record.owner), world.changes, world.faults)
    };
    seen.into_iter().map(show).collect()
}
