//! The steps of a look, as they stand in `look.rs`.

use std::time::Duration;

use failover::latch::decide::{self, Next, Plan, Put, Sets};
use failover::latch::outcome::State;
use failover::latch::seen::{HOLD, Object, Record, Stored, Verdict, Verdicts};

use super::site::{DUE, Fault, Grain, HELD, REPORTED, Rule, Site};
use super::world::{Age, Fate, Heard, Slot, World, Write};

/// A lock is due.
const OVER_UDP: Verdicts = Verdicts {
    serving: Verdict::Agreed(Record::Secondary),
    primary: Verdict::Agreed(Record::Secondary),
    standby: Verdict::Agreed(Record::Primary),
};

/// A look that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Look {
    stage: Stage,
    pub write: Write,
}

/// What a look has read so far, by bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Holds {
        holds: [Read; 2],
    },
    Keys {
        holds: [Read; 2],
        keys: [Read; 2],
    },
    /// A lock is due by the answers over UDP.
    Confirm {
        keys: [Read; 2],
    },
    /// The name servers were asked over TCP.
    Again {
        keys: [Read; 2],
        said: Verdicts,
    },
    Puts {
        keys: [Read; 2],
        puts: [Slot; 2],
    },
}

/// An [`Object`], as far as it makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Read {
    Absent,
    Present,
    Stale,
    Silent,
}

impl World {
    /// The next step of a look, except its writes.
    pub fn look(&mut self, site: &Site, watcher: usize, heard: Heard) -> Option<()> {
        let next = match self.looks[watcher].map(|look| look.stage) {
            None => {
                (heard == Heard::Both && self.may_look(site)).then_some(())?;
                let nothing = [Read::Absent; 2];
                let holds = if site.has(Rule::HoldsFirst) { self.read_holds(nothing) } else { nothing };
                if decide::held(&objects(holds)).is_some() {
                    if self.truth.due && !self.primary {
                        self.show(site, HELD);
                    }
                    return self.broken.map(drop);
                }
                self.looks[watcher] = Some(Look { stage: Stage::Holds { holds }, write: Write::default() });
                return Some(());
            }
            Some(Stage::Holds { holds }) => {
                let keys = self.read_keys(holds);
                match site.grain {
                    Grain::Fine if heard == Heard::Both => Some(Stage::Keys { holds, keys }),
                    Grain::Fine => return None,
                    Grain::Coarse => self.first(site, holds, keys, heard),
                }
            }
            Some(Stage::Keys { holds, keys }) => self.first(site, holds, keys, heard),
            Some(Stage::Confirm { keys }) => {
                let said = OVER_UDP.and(self.verdicts(site, heard));
                Some(Stage::Again { keys, said })
            }
            Some(Stage::Again { keys, said }) => {
                (heard == Heard::Both).then_some(())?;
                let read = if site.has(Rule::HoldsAgain) { self.read_holds(keys) } else { [Read::Absent; 2] };
                match decide::confirmed(&objects(read), &objects(keys), said, Duration::ZERO) {
                    Plan::End(state) => self.ends_as(&state, true),
                    Plan::Put(buckets) => {
                        let mut puts = [Slot::Unplanned; 2];
                        for bucket in buckets {
                            puts[bucket] = Slot::Planned;
                        }
                        Some(Stage::Puts { keys, puts })
                    }
                }
            }
            Some(Stage::Puts { .. }) => return None,
        };
        self.go(watcher, next)
    }

    /// The write of a look to a bucket.
    pub fn put(&mut self, site: &Site, watcher: usize, bucket: usize, fate: Fate) -> Option<()> {
        let Look { stage: Stage::Puts { keys, mut puts }, write } = self.looks[watcher]? else { return None };
        (puts[bucket] == Slot::Planned).then_some(())?;
        puts[bucket] = match fate {
            Fate::Answered if !self.buckets[bucket].answers => Slot::Failed,
            _ if !self.buckets[bucket].answers => return None,
            Fate::Answered if self.land(bucket, write) => Slot::Done,
            Fate::Answered => Slot::Refused,
            Fate::Unanswered => {
                self.land(bucket, write);
                Slot::Failed
            }
            Fate::Lost => Slot::Failed,
            Fate::Late if self.late[bucket].is_some() => return None,
            Fate::Late if self.late != [None; 2] && !site.may(Fault::Lates) => return None,
            Fate::Late => {
                self.late[bucket] = Some(write);
                Slot::Failed
            }
        };
        if puts.contains(&Slot::Planned) {
            return self.go(watcher, Some(Stage::Puts { keys, puts }));
        }
        let done = puts.iter().enumerate().filter_map(|(bucket, put)| Some((bucket, outcome(*put)?)));
        let (state, sets) =
            decide::after(&objects([Read::Absent; 2]), &objects(keys), &done.collect::<Vec<_>>());
        if sets == Sets::Yes && !self.truth.due {
            self.breaks(DUE);
        }
        let next = self.ends_as(&state, false);
        self.go(watcher, next)
    }

    fn may_look(&self, site: &Site) -> bool {
        site.grain == Grain::Fine || self.views.iter().take(site.pairs).any(|view| !view.serves)
    }

    fn first(&mut self, site: &Site, holds: [Read; 2], keys: [Read; 2], heard: Heard) -> Option<Stage> {
        let is_half = keys.contains(&Read::Present);
        let said = self.verdicts(site, heard);
        match decide::first(&objects(holds), &objects(keys), said, Duration::ZERO) {
            Next::End(state) => self.ends_as(&state, false),
            Next::Confirm if is_half && !site.has(Rule::Heal) => None,
            Next::Confirm => Some(Stage::Confirm { keys }),
        }
    }

    /// A look ends in this state; `is_taken_back` after the answers over TCP.
    fn ends_as(&mut self, state: &State, is_taken_back: bool) -> Option<Stage> {
        if *state == State::Locked && !(self.has_key(0) && self.has_key(1)) {
            self.breaks(REPORTED);
        }
        if *state == State::Armed && is_taken_back {
            self.breaks(REPORTED);
        }
        None
    }

    fn go(&mut self, watcher: usize, next: Option<Stage>) -> Option<()> {
        let write = self.looks[watcher]?.write;
        self.looks[watcher] = next.map(|stage| Look { stage, write });
        Some(())
    }

    /// Reads the holds. A bucket that did not answer before is not asked again.
    fn read_holds(&self, before: [Read; 2]) -> [Read; 2] {
        [0, 1].map(|bucket| match self.buckets[bucket].hold.map(|hold| hold.age) {
            _ if before[bucket] == Read::Silent || !self.buckets[bucket].answers => Read::Silent,
            None => Read::Absent,
            Some(Age::Stale) => Read::Stale,
            Some(Age::Young | Age::Fresh) => Read::Present,
        })
    }

    fn read_keys(&self, before: [Read; 2]) -> [Read; 2] {
        [0, 1].map(|bucket| {
            if before[bucket] == Read::Silent || !self.buckets[bucket].answers {
                Read::Silent
            } else if self.has_key(bucket) {
                Read::Present
            } else {
                Read::Absent
            }
        })
    }
}

fn objects(read: [Read; 2]) -> [Object; 2] {
    let present = |age| Object::Present(Stored { age, ..Stored::default() });
    read.map(|read| match read {
        Read::Absent => Object::Absent,
        Read::Present => present(HOLD),
        Read::Stale => present(HOLD + Duration::from_secs(1)),
        Read::Silent => Object::Silent(String::new()),
    })
}

fn outcome(put: Slot) -> Option<Put> {
    match put {
        Slot::Unplanned | Slot::Planned => None,
        Slot::Done => Some(Put::Created),
        Slot::Refused => Some(Put::AlreadyThere),
        Slot::Failed => Some(Put::Failed(String::new())),
    }
}
