//! A model of the latch: every order of the steps of two watchers, a person, Route 53 and two buckets. The watchers run
//! the real `decide::{held, first, confirmed, after}`. The person runs the real `release::{begin, may_delete, deleted,
//! Settling}`. The steps between these decisions are written here: a watcher's as they stand in `look.rs`, a person's as
//! in `cli/latch/release.rs`.
//!
//! Possible at any time, any number of times: the primary's check changes, a latch check sees what its bucket shows, the
//! calculated check follows its children, a pair of name servers learns of a check, a watcher or the person makes the
//! next step. [`Fault`] names what a world adds. The person asks other machines than the watchers do, behind the same
//! addresses.
//!
//! Time has three marks. A hold is young, fresh or stale, and the decisions receive the ages at the boundaries. After a
//! wait, whatever was under way at its start has arrived: the latch checks have looked, the name servers have learned.
//! S3 refuses a write that was signed before the wait. [`world::Truth`] keeps what happened; no decision sees it.
//!
//! Not in the model: two people at once, a deletion that arrives after its release, deletions in another order than the
//! buckets', buckets that refuse, 409, clocks that are off, looks that are cut off, name servers that differ within a
//! pair, a bucket that only the checkers cannot reach, objects that a person writes or deletes by hand.
//!
//! # Exceptions
//!
//! The promises exclude these. A test shows that each of them happens.
//!
//! | exception | condition in the model |
//! |---|---|
//! | [`RACE`] | until a latch check has seen an object while the primary is out, the primary may serve again |
//! | [`UNSEEN`] | an object in a bucket that does not answer keeps no primary out; when the bucket answers again, the object takes the primary out again |
//! | [`YIELDS`] | if both sites are unhealthy, a name server answers the primary in spite of the object |
//! | [`HELD`] | a look that sees a fresh hold ends, whatever Route 53 answers |
//! | [`BROKEN_OFF`] | the laptop dies between two deletions, or a deleted object cannot be put back, while the other bucket does not answer: its object takes the primary out when the bucket answers again |
//!
//! # Rules
//!
//! Without any one of the rules that [`Rule`] names, a promise fails, with one exception: the holds need not be read a
//! second time, because S3 refuses a write that is later than the wait. That read is a second line of defence.
//!
//! # Liveness
//!
//! From every state in which faults end, the goals in [`stuck`] can be reached, and so they are reached if every step
//! that stays possible is made at last. `search.rs` searches the whole graph backwards.
//!
//! # Deeper worlds
//!
//! `cargo test --no-default-features --features latch --test latch model -- --ignored --nocapture`: eight worlds of
//! 108,000 to 1,600,000 states, 4,500,000 in all. That takes two minutes in a debug build on two busy cores.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use failover::latch::seen::Record;

mod person;
mod search;
mod site;
mod watcher;
mod world;

use person::Step;
use search::Graph;
use site::Fault::{Both, Crash, Late, Lates, Lost, Outage, Outages, Slow, Standby};
use site::{
    BROKEN_OFF, CHANGED, DUE, Fault, Grain, HAND, HELD, LEFT, MIDDLE, Mode, OUTLIVED, PROMISES, Person, RACE,
    Rule, Site, UNSEEN, YIELDS,
};
use world::World;

/// One watcher, each of whose reads is a step.
fn fine(faults: &'static [Fault]) -> Site {
    Site {
        watchers: 1,
        pairs: 1,
        mode: Mode::Absolute,
        faults,
        person: Person::Releases,
        grain: Grain::Fine,
        without: None,
        shows: None,
    }
}

/// One watcher with fewer steps.
fn coarse(faults: &'static [Fault]) -> Site {
    Site { grain: Grain::Coarse, ..fine(faults) }
}

fn two(faults: &'static [Fault]) -> Site {
    Site { watchers: 2, ..coarse(faults) }
}

fn check(site: Site, finish: HasDiscoveries) -> impl Checker<Site> {
    let started = Instant::now();
    let checked = site.checker().threads(2).finish_when(finish).spawn_bfs().join();
    println!("{} states, {:.1} s: {site:?}", checked.unique_state_count(), started.elapsed().as_secs_f64());
    checked
}

/// No promise is broken, in any order.
fn holds(site: Site) {
    let checked = check(site, HasDiscoveries::AnyFailures);
    for promise in PROMISES {
        if let Some(path) = checked.discovery(promise) {
            panic!("{promise}: {:?}, {site:?}", path.into_actions());
        }
    }
}

/// The same, and once faults have ended, each of these can always be reached: the lock while Route 53 answers the
/// standby, the end of a release, and the latch open while both sites are healthy.
fn lives(site: Site) {
    let graph = graph(site);
    if let Some((promise, way)) = graph.broken() {
        panic!("{promise}: {way:?}, {site:?}");
    }
    for (goal, way) in stuck(site, &graph) {
        assert_eq!(way, None, "{goal}, {site:?}");
    }
}

fn graph(site: Site) -> Graph {
    let started = Instant::now();
    let graph = Graph::of(&site);
    println!("{} states, {:.1} s: {site:?}", graph.len(), started.elapsed().as_secs_f64());
    graph
}

const LOCKS: &str = "while Route 53 answers the standby, each bucket has the object at last";
const ENDS: &str = "a release ends";
const OPENS: &str = "while both sites are healthy, a person can release the latch";

fn stuck(site: Site, graph: &Graph) -> [(&'static str, Option<Vec<world::Action>>); 3] {
    let answers_standby =
        |world: &World| world.serving(&site, 0) == Record::Secondary && world.views[0].standby;
    let is_idle = |world: &World| world.person == Step::Idle;
    let is_open = |world: &World| world.serves && !world.has_key(0) && !world.has_key(1);
    [
        (
            LOCKS,
            graph.stuck(
                |world| answers_standby(world) && is_idle(world),
                |world| !answers_standby(world) || world.has_key(0) && world.has_key(1),
            ),
        ),
        (ENDS, graph.stuck(|world| !is_idle(world), is_idle)),
        (
            OPENS,
            graph.stuck(|world| world.primary && world.standby, |world| is_idle(world) && is_open(world)),
        ),
    ]
}

#[test]
fn the_promises_are_kept_and_the_goals_reached_if_calls_are_lost_and_a_laptop_dies_or_sleeps() {
    lives(fine(&[Lost, Crash, Slow]));
}

#[test]
fn the_promises_are_kept_and_the_goals_reached_through_an_outage_of_a_bucket() {
    lives(coarse(&[Outage]));
}

#[test]
fn the_promises_are_kept_if_writes_outlive_their_looks() {
    holds(coarse(&[Late]));
}

#[test]
fn the_promises_are_kept_by_two_watchers() {
    holds(two(&[]));
}

#[test]
fn the_promises_are_kept_in_both_modes_and_by_a_forced_release() {
    holds(Site { mode: Mode::Yielding, ..coarse(&[Standby]) });
    holds(Site { person: Person::Forces, ..fine(&[Crash]) });
    holds(Site { person: Person::Absent, pairs: 2, ..coarse(&[Lost, Standby]) });
}

#[test]
#[ignore = "it takes two minutes"]
fn the_promises_are_kept_in_deeper_worlds() {
    holds(fine(&[Lates, Crash]));
    holds(coarse(&[Outage, Crash, Lost]));
    holds(two(&[Crash, Slow]));
    holds(Site { pairs: 2, ..coarse(&[Standby]) });
    holds(Site { pairs: 2, ..coarse(&[Lost]) });
    holds(coarse(&[Outages]));
    holds(Site { person: Person::Absent, ..two(&[Both, Lost]) });
    holds(Site { person: Person::Absent, pairs: 2, ..two(&[Lost, Standby]) });
}

#[test]
fn each_rule_is_needed() {
    for (rule, promise, site) in [
        (Rule::HoldsFirst, DUE, fine(&[])),
        (Rule::Fence, DUE, fine(&[Late])),
        (Rule::Wait, OUTLIVED, fine(&[])),
        (Rule::Seen, MIDDLE, fine(&[])),
        (Rule::InTurn, MIDDLE, fine(&[])),
        (Rule::EveryBucket, CHANGED, coarse(&[Outage])),
        (Rule::Young, DUE, fine(&[Slow])),
        (Rule::ETagNow, CHANGED, fine(&[])),
        (Rule::Prompt, DUE, fine(&[Slow])),
        (Rule::PutBack, LEFT, coarse(&[Outage])),
        (Rule::PutBackUnconfirmed, LEFT, coarse(&[Outage, Lost])),
        (Rule::HoldsOfUnknown, DUE, fine(&[Lost])),
        (Rule::Settle, DUE, fine(&[])),
        (Rule::Minute, DUE, fine(&[])),
        (Rule::LeaveHolds, DUE, fine(&[])),
        (Rule::Keeps, HAND, fine(&[])),
    ] {
        let checked = check(Site { without: Some(rule), ..site }, HasDiscoveries::AnyOf([promise].into()));
        let path = checked.discovery(promise).map(stateright::Path::into_actions);
        println!("without {rule:?}: {path:?}");
        assert!(path.is_some(), "{rule:?} is not needed for: {promise}");
    }
    let site = Site { without: Some(Rule::Heal), person: Person::Absent, ..fine(&[Lost]) };
    let [(_, way), ..] = stuck(site, &graph(site));
    assert!(way.is_some(), "half a lock is healed all the same");
}

#[test]
fn the_second_read_of_the_holds_is_a_second_line() {
    holds(Site { without: Some(Rule::HoldsAgain), ..fine(&[]) });
}

#[test]
fn each_exception_occurs() {
    for (exception, site) in [
        (RACE, fine(&[])),
        (UNSEEN, coarse(&[Outage])),
        (YIELDS, Site { mode: Mode::Yielding, ..coarse(&[Standby]) }),
        (HELD, fine(&[])),
        (BROKEN_OFF, coarse(&[Outage, Crash])),
    ] {
        let checked =
            check(Site { shows: Some(exception), ..site }, HasDiscoveries::AnyOf([exception].into()));
        assert!(checked.discovery(exception).is_some(), "{exception}");
    }
    let site = Site { shows: Some(YIELDS), person: Person::Absent, ..coarse(&[Standby]) };
    assert!(
        check(site, HasDiscoveries::AnyFailures).discovery(YIELDS).is_none(),
        "the absolute mode never yields"
    );
}
