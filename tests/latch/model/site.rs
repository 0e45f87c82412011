//! What may happen in a world, and what must hold in it.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::Duration;

use stateright::{Model, Property};

use super::person::Step;
use super::world::{Action, Bucket, Check, Fate, Heard, Key, Opened, Truth, View, World};

/// What may happen.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// How many watchers there are: one or two.
    pub watchers: usize,
    /// How many pairs of name servers learn at their own pace: one or two.
    pub pairs: usize,
    pub mode: Mode,
    pub faults: &'static [Fault],
    pub person: Person,
    pub grain: Grain,
    /// The rule that this world lacks.
    pub without: Option<Rule>,
    /// The exception that counts as a discovery in this world.
    pub shows: Option<&'static str>,
}

/// Whether the SECONDARY records have a health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They have none: Route 53 never answers a locked primary.
    Absolute,
    /// They have the standby's: with both sites unhealthy, Route 53 answers the primary.
    Yielding,
}

/// What the person does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Person {
    /// The person releases no latch.
    Absent,
    /// The person may release the latch at any time, again and again.
    Releases,
    /// The same, with `--force`.
    Forces,
}

/// How finely the steps of a look are interleaved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// Every read is a step.
    Fine,
    /// A look starts only while a name server says that the primary is out, and it reads the keys and the answers over
    /// UDP in one step.
    Coarse,
}

/// A fault that may happen at any time, any number of times. The primary's check may always change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The standby's check changes.
    Standby,
    /// One bucket stops answering, for everyone, once.
    Outage,
    /// One bucket at a time stops answering, any number of times.
    Outages,
    /// Both buckets may stop answering at once, any number of times.
    Both,
    /// A request or its answer is lost.
    Lost,
    /// A write outlives its look, one at a time.
    Late,
    /// Writes outlive their looks, in both buckets at once.
    Lates,
    /// The person's laptop dies.
    Crash,
    /// The person's laptop sleeps before the deletions.
    Slow,
}

/// A rule that a world may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A look first reads the holds, and a fresh one ends it.
    HoldsFirst,
    /// A look reads the holds again before it writes.
    HoldsAgain,
    /// S3 refuses a write 15 s after its look began.
    Fence,
    /// A release waits until every write from before its holds is refused.
    Wait,
    /// A release waits until the latch checks have seen the objects.
    Seen,
    /// A release waits for the one after the other.
    InTurn,
    /// A release needs every bucket.
    EveryBucket,
    /// The holds must be young when the objects are deleted.
    Young,
    /// A release deletes by the `ETag` of after the wait.
    ETagNow,
    /// The objects are deleted within seconds of the last check.
    Prompt,
    /// What was deleted is put back if one deletion is not confirmed.
    PutBack,
    /// The holds stay until the primary serves.
    Settle,
    /// The holds stay until the primary has served for a minute on end.
    Minute,
    /// The holds stay, and age, if the primary has failed again.
    LeaveHolds,
    /// What may have been deleted is put back, too.
    PutBackUnconfirmed,
    /// The holds stay, and age, if it is not known whether an object is there.
    HoldsOfUnknown,
    /// A watcher writes the missing object of a half lock.
    Heal,
    /// No lifecycle rule deletes an object.
    Keeps,
}

// The promises.
pub const HAND: &str =
    "a primary that the latch keeps out serves again only after a person has deleted an object";
pub const DUE: &str =
    "an object appears only if Route 53 has failed over because of the primary since the last release";
pub const OUTLIVED: &str = "no write of a look from before a deletion lands after it";
pub const CHANGED: &str = "a release deletes every object that there is, and no other than it has read";
pub const LEFT: &str = "an object that a release has left takes no primary out that serves again";
pub const MIDDLE: &str = "no healthy primary is taken out between two deletions";
pub const REPORTED: &str = "a look reports locked only if every bucket has the object";

pub const PROMISES: [&str; 7] = [HAND, DUE, OUTLIVED, CHANGED, LEFT, MIDDLE, REPORTED];

// The exceptions.
pub const RACE: &str = "E1: Route 53 falls back before the latch is effective";
pub const UNSEEN: &str = "E2: no bucket answers whose object keeps the primary out";
pub const YIELDS: &str = "E3: both sites are unhealthy, and Route 53 answers the primary";
pub const HELD: &str = "E4: a failover under a hold is not locked";
pub const BROKEN_OFF: &str = "a release ends before it can put back, and a bucket answers again";

// === impl Site ===

impl Site {
    pub fn may(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    pub fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    pub fn outages(&self) -> usize {
        let one = self.may(Fault::Outage) || self.may(Fault::Outages);
        if self.may(Fault::Both) { 2 } else { usize::from(one) }
    }

    fn fates(&self) -> impl Iterator<Item = Fate> + use<> {
        let (lost, late) = (self.may(Fault::Lost), self.may(Fault::Late) || self.may(Fault::Lates));
        let all = [Fate::Answered, Fate::Unanswered, Fate::Lost, Fate::Late];
        all.into_iter().filter(move |fate| match fate {
            Fate::Answered => true,
            Fate::Unanswered | Fate::Lost => lost,
            Fate::Late => late,
        })
    }

    /// Whether an action is a fault: once faults have ended, it no longer happens.
    pub fn is_fault(world: &World, action: Action) -> bool {
        match action {
            Action::Primary | Action::Standby | Action::Stops(_) | Action::Expires(_) | Action::Dies => true,
            Action::Put(_, _, fate) | Action::Release(fate) => fate != Fate::Answered,
            Action::Ages(_) => world.person != Step::Idle,
            Action::Answers(_)
            | Action::Sees(_)
            | Action::Calculates
            | Action::Learns(..)
            | Action::Look(..)
            | Action::Arrives(_)
            | Action::Fades(_)
            | Action::Minute
            | Action::Minutes => false,
        }
    }
}

impl Model for Site {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let bucket = Bucket { answers: true, key: Key::Absent, hold: None };
        let view = View { serves: true, primary: true, standby: true };
        let truth = Truth { due: false, effective: [false; 2], left: [false; 2], opened: Opened::No };
        vec![World {
            primary: true,
            standby: true,
            sees: [false; 2],
            serves: true,
            views: [view; 3],
            buckets: [bucket; 2],
            looks: [None; 2],
            late: [None; 2],
            outages: 0,
            person: Step::Idle,
            old: 0,
            truth,
            broken: None,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.broken.is_some() {
            return;
        }
        actions.extend([Action::Primary, Action::Calculates]);
        actions.extend(self.may(Fault::Standby).then_some(Action::Standby));
        for bucket in 0..2 {
            let at = [
                Action::Sees,
                Action::Answers,
                Action::Stops,
                Action::Ages,
                Action::Arrives,
                Action::Fades,
                Action::Expires,
            ];
            actions.extend(at.map(|action| action(bucket)));
        }
        for view in 0..3 {
            actions.extend(
                [Check::Serves, Check::Primary, Check::Standby].map(|check| Action::Learns(view, check)),
            );
        }
        for watcher in 0..self.watchers {
            actions.push(Action::Look(watcher, Heard::Both));
            if self.pairs == 2 && self.may(Fault::Lost) {
                actions.extend([0, 1].map(|pair| Action::Look(watcher, Heard::Only(pair))));
            }
            for bucket in 0..2 {
                actions.extend(self.fates().map(|fate| Action::Put(watcher, bucket, fate)));
            }
        }
        if self.person != Person::Absent {
            actions.extend(self.fates().filter(|fate| *fate != Fate::Late).map(Action::Release));
            actions.extend([Action::Minute, Action::Minutes]);
            actions.extend(self.may(Fault::Crash).then_some(Action::Dies));
        }
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = *before;
        match action {
            Action::Primary => {
                world.primary = !world.primary;
                world.truth.due |= !world.primary && !world.serves;
            }
            Action::Standby => world.standby = !world.standby,
            Action::Stops(bucket) => world.stops(self, bucket)?,
            Action::Answers(bucket) if world.buckets[bucket].answers => return None,
            Action::Answers(bucket) => world.buckets[bucket].answers = true,
            Action::Sees(bucket) if world.sees[bucket] == world.shows(bucket) => return None,
            Action::Calculates if world.serves == world.is_healthy() => return None,
            Action::Sees(bucket) => world.sees[bucket] = world.shows(bucket),
            Action::Calculates => world.calculate(self),
            Action::Learns(view, check) => world.learn(self, view, check)?,
            Action::Look(watcher, heard) => world.look(self, watcher, heard)?,
            Action::Put(watcher, bucket, fate) => world.put(self, watcher, bucket, fate)?,
            Action::Arrives(bucket) => {
                let write = world.late[bucket].take()?;
                if world.buckets[bucket].answers {
                    world.land(bucket, write);
                }
            }
            Action::Fades(bucket) => drop(world.late[bucket].take()?),
            Action::Ages(bucket) => world.age(self, bucket)?,
            Action::Expires(bucket) if self.has(Rule::Keeps) || !world.shows(bucket) => return None,
            Action::Expires(bucket) => world.buckets[bucket].key = Key::Absent,
            Action::Release(fate) => world.release(self, fate)?,
            Action::Minute => world.settle(self, Duration::from_mins(1))?,
            Action::Minutes => world.settle(self, Duration::from_mins(4))?,
            Action::Dies => world.dies()?,
        }
        world.forget(self);
        if self.watchers == 2 && world.looks[0] != world.looks[1] {
            // Two watchers differ in nothing: their order makes no difference.
            world
                .looks
                .sort_by_cached_key(|look| BuildHasherDefault::<DefaultHasher>::default().hash_one(look));
        }
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(HAND, |_, world: &World| world.broken != Some(HAND)),
            Property::always(DUE, |_, world: &World| world.broken != Some(DUE)),
            Property::always(OUTLIVED, |_, world: &World| world.broken != Some(OUTLIVED)),
            Property::always(CHANGED, |_, world: &World| world.broken != Some(CHANGED)),
            Property::always(LEFT, |_, world: &World| world.broken != Some(LEFT)),
            Property::always(MIDDLE, |_, world: &World| world.broken != Some(MIDDLE)),
            Property::always(REPORTED, |_, world: &World| world.broken != Some(REPORTED)),
            Property::always(RACE, |_, world: &World| world.broken != Some(RACE)),
            Property::always(UNSEEN, |_, world: &World| world.broken != Some(UNSEEN)),
            Property::always(YIELDS, |_, world: &World| world.broken != Some(YIELDS)),
            Property::always(HELD, |_, world: &World| world.broken != Some(HELD)),
            Property::always(BROKEN_OFF, |_, world: &World| world.broken != Some(BROKEN_OFF)),
        ]
    }
}
