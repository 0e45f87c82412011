//! Two candidates never work at once: every order of clocks' ticks, messages, delays, losses, pauses and faults, for any
//! length of time and up to so many changes of owner; and once nothing fails any more, one of them becomes active. The
//! checked code is the `Claim` that runs.
//!
//! Two claims are about one table. Time has no beginning: a state knows only how long ago something was, and not
//! even that once it makes no difference any more, and writes are known by their order alone. So there are
//! finitely many states, and all of them are visited. Another test compares these with the states of a model that
//! forgets nothing.
//!
//! A candidate that steps down, also because a person asks it to hand over, works until its work has ended, and releases
//! the lease then. Later it may want the lease again. The guard of a command ends it at `Holding::ends`, until which the
//! holder counts here as working. If there is a grace, its readers work as well: whenever the holder is active, a reader
//! has just read so, and works for the grace, also if the holder is killed. The holder waits for it before it releases.
//!
//! Not in the model: a third candidate, the two clocks of one process (`drift` stands for the holder's further and the
//! contender's less advanced one), wrong wall clocks, and a person who writes the same item twice, to the second. The model
//! assumes that the release waits for the readers: a test of the process shows it.

use stateright::{Model, Property};

use super::tests::written_whole;
use super::*;

mod forgetting;
mod instances;

/// The time on every process's clock in every state.
const NOW: Moment = at(ticks(100));

/// Two candidates around one table.
#[derive(Clone)]
struct Lease {
    /// Each candidate's term, in ticks, like all times here.
    terms: [u64; 2],
    margin: u64,
    /// For how long a reader works that has read that the lease is held. 0: there are no readers.
    grace: u64,
    /// How much the second candidate's clock may be ahead of the first one's: over any time the two clocks differ by
    /// at most this much.
    drift: u64,
    /// How many faults there may be.
    faults: u8,
    /// Which faults there may be.
    kinds: &'static [Fault],
    /// How often the owner may change.
    changes: u64,
    /// The longest term that any candidate may have, which each of them knows.
    longest: u64,
    /// How many abandoned writes of each process may be on their way.
    late: usize,
    /// For the comparison: nothing is forgotten.
    exact: bool,
    /// Whether every state has to lead to an active candidate once nothing fails any more.
    lives: bool,
}

const EVERY: &[Fault] = &[
    Fault::Crash,
    Fault::StepDown,
    Fault::HandOver,
    Fault::Delete,
    Fault::Empty,
    Fault::Pin,
    Fault::Overwrite,
    Fault::Copy,
];

/// A fault that may happen at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fault {
    /// A process is killed, and starts again.
    Crash,
    /// A process steps down: it works until its work has ended, and releases the lease then.
    StepDown,
    /// A person asks the holder to hand over.
    HandOver,
    /// A person deletes the record.
    Delete,
    /// A person empties the owner.
    Empty,
    /// A person pins the lease.
    Pin,
    /// A person, or Admiral's checker, writes the whole item: its term, its writer and its epoch are lost.
    Overwrite,
    /// A process that neither holds the lease nor waits for the answer of a write takes the other one's place as a copy of
    /// itself, name and all. Otherwise both hold it for what is left of its time.
    Copy,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    ahead: u64,
    record: Option<Record>,
    processes: [Process; 2],
    faults: u8,
    /// The highest epoch of an owner so far, and whether a new owner did not exceed it.
    highest: u64,
    repeated: bool,
    /// How often the owner has changed.
    changes: u64,
    /// Which candidates have owned the lease.
    owned: [bool; 2],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    claim: Claim,
    call: Option<Call>,
    /// Abandoned writes that are still on their way.
    late: Vec<Write>,
    /// For how many ticks the last of its readers still works.
    read: u64,
    /// The number of its last write that may still make a difference.
    number: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Call {
    /// A look is on its way to the table.
    Looking,
    /// Its answer is on its way back.
    Looked(Option<Record>),
    /// A write is on its way to the table.
    Writing(Write),
    /// The write was done, and its answer, with the request to hand over, is on its way back.
    Written(Option<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    /// Time passes; the second clock is then this much ahead.
    Tick(u64),
    /// A process makes the step of its claim. A process without steps is paused.
    Ask(usize),
    /// The table serves the request.
    Serve(usize),
    /// The answer arrives.
    Answer(usize),
    /// The process stops waiting.
    GiveUp(usize),
    /// An abandoned write arrives.
    Arrive(usize, usize),
    /// The work of a process that steps down has ended: it releases the lease.
    Ended(usize),
    /// A process that has released the lease, or has given that up, wants it again.
    Again(usize),
    Fault(Fault, usize),
}

const fn ticks(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn at(time: Duration) -> Moment {
    Moment { adjusted: time, raw: time }
}

// === impl Lease ===

impl Lease {
    fn claim(&self, index: usize, life: u8) -> Claim {
        let me = Candidate { name: format!("{index}"), writer: format!("{index}{life}") };
        let terms = Terms::new(ticks(self.terms[index]), ticks(self.margin), ticks(self.grace)).unwrap();
        Claim::new(me, terms, ticks(self.longest))
    }
}

impl Model for Lease {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let process =
            |index| Process { claim: self.claim(index, 0), call: None, late: Vec::new(), read: 0, number: 0 };
        let owner = String::new();
        let released = Record {
            owner,
            updated_time: 0,
            writer: Some(String::new()),
            beat: 0,
            epoch: 1,
            released: true,
            term: Duration::ZERO,
            handover: None,
        };
        vec![World {
            ahead: 0,
            record: Some(released),
            processes: [process(0), process(1)],
            faults: 0,
            highest: 1,
            repeated: false,
            changes: 0,
            owned: [false; 2],
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend((0..=self.drift).filter(|ahead| ahead + 1 >= world.ahead).map(Action::Tick));
        if world.faults < self.faults {
            let of_the_record = self.kinds.iter().filter(|kind| !kind.is_of_a_process());
            actions.extend(of_the_record.map(|fault| Action::Fault(*fault, 0)));
        }
        for (index, process) in world.processes.iter().enumerate() {
            match &process.call {
                None => actions.push(Action::Ask(index)),
                Some(Call::Looking) => actions.push(Action::Serve(index)),
                Some(Call::Looked(_)) => actions.push(Action::Answer(index)),
                Some(Call::Writing(_)) => {
                    actions.push(Action::Serve(index));
                    actions.extend((process.late.len() < self.late).then_some(Action::GiveUp(index)));
                }
                Some(Call::Written(_)) => actions.extend([Action::Answer(index), Action::GiveUp(index)]),
            }
            actions.extend((0..process.late.len()).map(|late| Action::Arrive(index, late)));
            if process.claim.will() == Will::Retire && !process.has_to_wait() {
                actions.push(Action::Ended(index));
            }
            if process.claim.will() == Will::Release && process.call.is_none() {
                actions.push(Action::Again(index));
            }
            if world.faults < self.faults {
                let of_a_process = self.kinds.iter().filter(|kind| kind.is_of_a_process());
                actions.extend(of_a_process.map(|fault| Action::Fault(*fault, index)));
            }
        }
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        match action {
            Action::Tick(ahead) => {
                let second = 1 + ahead - world.ahead;
                world.ahead = ahead;
                world.processes[0].grow_older(1, self.grace);
                world.processes[1].grow_older(second, self.grace);
            }
            Action::Ask(index) => {
                let stamp = world.stamp();
                let process = &mut world.processes[index];
                process.call = Some(match process.claim.next(NOW, stamp) {
                    Step::Look => Call::Looking,
                    Step::Write(write) => process.writes(write),
                });
            }
            Action::Serve(index) => {
                let answer = match world.processes[index].call.take()? {
                    Call::Looking => Some(Call::Looked(world.record.clone())),
                    // A refusal gives the process no information.
                    Call::Writing(write) => world.write(&write).then(|| Call::Written(world.asked())),
                    Call::Looked(_) | Call::Written(_) => return None,
                };
                world.processes[index].call = answer;
            }
            Action::Answer(index) => {
                let stamp = world.stamp();
                let process = &mut world.processes[index];
                match process.call.take()? {
                    Call::Looked(record) => {
                        let write = process.claim.saw(record, NOW, stamp);
                        process.call = write.map(|write| process.writes(write));
                    }
                    Call::Written(handover) => process.claim.wrote(NOW, handover),
                    Call::Looking | Call::Writing(_) => return None,
                }
                if process.claim.is_asked() && process.claim.will() == Will::Take {
                    process.claim.want(Will::Retire);
                }
            }
            Action::GiveUp(index) => {
                let process = &mut world.processes[index];
                if let Call::Writing(write) = process.call.take()? {
                    process.late.push(write);
                }
            }
            Action::Arrive(index, late) => {
                let write = world.processes[index].late.remove(late);
                world.write(&write);
            }
            Action::Ended(index) => world.processes[index].claim.want(Will::Release),
            Action::Again(index) => world.processes[index].claim.want(Will::Take),
            Action::Fault(fault, index) => {
                world.faults += 1;
                let process = &mut world.processes[index];
                match fault {
                    Fault::Crash => {
                        if let Some(Call::Writing(write)) = process.call.take() {
                            process.late.push(write);
                        }
                        process.claim = self.claim(index, world.faults);
                    }
                    Fault::StepDown => process.claim.want(Will::Retire),
                    Fault::HandOver => world.record.as_mut()?.handover = Some(ANY.to_owned()),
                    Fault::Delete => world.record = None,
                    Fault::Empty => world.record.as_mut()?.owner.clear(),
                    Fault::Pin => NOBODY_MAY.clone_into(&mut world.record.as_mut()?.owner),
                    Fault::Copy if process.claim.holding().is_none() && process.claim.pending.is_none() => {
                        let copy = Process { call: None, late: Vec::new(), read: 0, ..process.clone() };
                        let former = std::mem::replace(&mut world.processes[1 - index], copy);
                        if let Some(Call::Writing(write)) = former.call {
                            world.processes[1 - index].late.push(write);
                        }
                        world.processes[1 - index].late.extend(former.late);
                    }
                    Fault::Copy => return None,
                    Fault::Overwrite => {
                        let updated_time = world.faults.into();
                        world.record = Some(Record { updated_time, ..written_whole("other") });
                    }
                }
            }
        }
        world.processes.iter_mut().for_each(|process| process.is_read(self.grace));
        if !self.exact {
            world.forget();
        }
        Some(world)
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.changes <= self.changes
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE, |_, world: &World| !world.processes.iter().all(Process::works)),
            Property::always(KNOWS, |_, world: &World| {
                let knows = |claim: &Claim| !matches!(claim.standing(), Standing::Mine | Standing::Unseen);
                !world.processes.iter().any(|process| knows(&process.claim) && process.claim.is_active())
            }),
            Property::always(EPOCHS, |_, world: &World| !world.repeated),
            Property::always(LIVES, |model: &Self, world: &World| {
                !model.lives || model.becomes_active(world)
            }),
            // Where only one of them ever owns the lease, they cannot work at once.
            Property::sometimes(TAKES_OVER, |_, world: &World| {
                world.owned == [true; 2] && world.processes.iter().any(Process::works)
            }),
        ]
    }
}

const ONE: &str = "one works at most";
const KNOWS: &str = "a process that knows of another process's record is passive";
const EPOCHS: &str = "each owner has an epoch of its own, higher than all before";
const TAKES_OVER: &str = "one works after both have owned the lease";
const LIVES: &str = "once nothing fails any more, a candidate becomes active";

impl Lease {
    /// Whether a candidate becomes active, if from here on every request is served and answered at once, and a
    /// process that steps down ends its work: within the longest wait, a look and a renewal later.
    fn becomes_active(&self, world: &World) -> bool {
        let is_pinned = world.record.as_ref().is_some_and(|record| record.owner == NOBODY_MAY);
        let wants = |process: &Process| process.claim.will() == Will::Take;
        let is_active = |process: &Process| wants(process) && process.claim.is_active();
        if is_pinned || !world.processes.iter().any(wants) || world.processes.iter().any(is_active) {
            return true;
        }
        let mut world = world.clone();
        let longest = self.terms.into_iter().max().unwrap_or_default().max(self.longest);
        for _ in 0..2 * longest + 4 {
            for index in 0..2 {
                let steps =
                    [Action::Ended(index), Action::Serve(index), Action::Answer(index), Action::Ask(index)];
                for step in steps.into_iter().cycle().take(12) {
                    let mut actions = Vec::new();
                    self.actions(&world, &mut actions);
                    if actions.contains(&step) {
                        world = self.next_state(&world, step).unwrap_or(world);
                    }
                }
                if world.processes.iter().any(is_active) {
                    return true;
                }
            }
            world = self.next_state(&world, Action::Tick(world.ahead)).unwrap_or(world);
        }
        false
    }
}

// === impl Fault ===

impl Fault {
    fn is_of_a_process(self) -> bool {
        matches!(self, Self::Crash | Self::StepDown | Self::Copy)
    }
}

// === impl World ===

impl World {
    /// Of the next write. Seconds since 1970 are beyond any epoch.
    fn stamp(&self) -> Stamp {
        let [one, other] = self.processes.each_ref().map(|process| process.number);
        Stamp { time: i64::try_from(self.highest + 1).unwrap(), number: one.max(other) + 1 }
    }

    /// Writes if the table holds the expected record. Returns whether it did.
    fn write(&mut self, write: &Write) -> bool {
        let fits = is_same(self.record.as_ref(), write.expected.as_ref());
        if fits {
            let before = self.record.take();
            // The table keeps the request to hand over until the epoch changes.
            let kept = before.as_ref().filter(|before| before.epoch == write.record.epoch);
            let handover = kept.and_then(|kept| kept.handover.clone());
            self.record = Some(Record { handover, ..write.record.clone() });
            // A process that takes it from its copy has the same name, and another epoch.
            let of = |record: &Record| (record.owner.clone(), record.writer.clone(), record.epoch);
            let is_new = before.is_none_or(|before| of(&before) != of(&write.record));
            let is_new = is_new && !write.record.owner.is_empty();
            self.changes += u64::from(is_new);
            if is_new && let Ok(index) = write.record.owner.parse::<usize>() {
                self.owned[index] = true;
            }
            self.repeated |= is_new && write.record.epoch <= self.highest;
            self.highest = self.highest.max(write.record.epoch);
        }
        fits
    }

    /// For whom a person asks the holder to release the lease.
    fn asked(&self) -> Option<String> {
        self.record.as_ref().and_then(|record| record.handover.clone())
    }
}

// === impl Process ===

impl Process {
    /// Whether it or one of its readers works.
    fn works(&self) -> bool {
        self.claim.is_active() || self.read > 0
    }

    fn writes(&mut self, write: Write) -> Call {
        self.number = write.record.beat;
        Call::Writing(write)
    }

    /// A reader reads whether it is active. It may read, and end its work, as late as just before a tick.
    fn is_read(&mut self, grace: u64) {
        let is_active = self.claim.holding().is_some_and(|held| held.is_active(NOW));
        if grace > 0 && self.claim.will() == Will::Take && is_active {
            self.read = grace + 1;
        }
    }

    /// Whether its readers keep it from releasing the lease.
    fn has_to_wait(&self) -> bool {
        self.read > 0 && self.claim.holding().is_some()
    }

    /// Its clock advances by so many ticks, one by one: it is read during each of them.
    fn grow_older(&mut self, by: u64, grace: u64) {
        for _ in 0..by {
            self.claim.grow_older(ticks(1));
            self.read = self.read.saturating_sub(1);
            self.is_read(grace);
        }
    }
}

// === impl Claim ===

impl Claim {
    fn is_active(&self) -> bool {
        self.held.is_some_and(|held| !held.ends.may_have_come(NOW))
    }
}
