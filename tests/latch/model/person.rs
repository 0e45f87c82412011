//! The steps of a release, as a person's calls make them.

use std::time::Duration;

use failover::latch::release::{self, Begin, Deleted, Deletion, Held, Look, Settled, Settling};
use failover::latch::seen::{Object, Record, Stored};

use super::site::{CHANGED, Person, Rule, Site};
use super::world::{Age, CHECKS, Fate, Hold, Key, Opened, Slot, World};

/// What the person does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Begin a release, if it may.
    Idle,
    /// Put the hold of this bucket. `read` has the objects whose `ETag`s were read before.
    Hold { bucket: usize, read: [bool; 2] },
    /// Wait until S3 refuses every write from before.
    Wait { read: [bool; 2] },
    /// Wait until the latch checks have seen what such a write has left.
    Seen { read: [bool; 2] },
    /// Read everything again.
    Check { read: [bool; 2] },
    /// Delete the objects, one by one.
    Delete([Slot; 2]),
    /// Put the objects of these buckets back. So far all of them are known to be there, or not.
    PutBack { buckets: [bool; 2], known: bool },
    /// Look whether the primary serves.
    Settle(Settling),
    /// Delete the holds of these buckets.
    Remove([bool; 2]),
}

const NO_ETAG: [bool; 2] = [false; 2];

impl World {
    /// The next step of a release. After it, what the world still shows from before is marked.
    pub fn release(&mut self, site: &Site, fate: Fate) -> Option<()> {
        let is_call = matches!(
            self.person,
            Step::Hold { .. } | Step::Delete(_) | Step::PutBack { .. } | Step::Remove(_)
        );
        (is_call || fate == Fate::Answered).then_some(())?;
        match self.person {
            Step::Idle => self.begin(site)?,
            Step::Hold { bucket, read } => self.hold(site, bucket, read, fate)?,
            Step::Wait { read } => {
                (site.has(Rule::InTurn) || self.old & CHECKS == 0).then_some(())?;
                if site.has(Rule::Wait) {
                    self.expire(site);
                }
                let is_enough = !site.has(Rule::Seen) || !site.has(Rule::InTurn);
                self.person = if is_enough { Step::Check { read } } else { Step::Seen { read } };
            }
            Step::Seen { read } => {
                (self.old & CHECKS == 0).then_some(())?;
                self.person = Step::Check { read };
            }
            Step::Check { read } => self.check(site, read),
            Step::Delete(slots) => self.delete(site, slots, fate)?,
            Step::PutBack { buckets, known } => self.put_back(site, buckets, known, fate)?,
            Step::Settle(_) => return self.settle(site, Duration::ZERO),
            Step::Remove(buckets) => self.remove(buckets, fate)?,
        }
        self.mark();
        Some(())
    }

    /// A look after the deletions, at this time.
    pub fn settle(&mut self, site: &Site, at: Duration) -> Option<()> {
        let Step::Settle(mut settling) = self.person else { return None };
        let is_good = settling != Settling::default();
        // A minute later Route 53 shows everywhere what it showed somewhere before.
        let has_passed = match at.as_secs() {
            0 => true,
            60 => is_good && self.old == 0,
            _ => self.old == 0,
        };
        has_passed.then_some(())?;
        let look = Look {
            all_serve_primary: self.serving(site, 2) == Record::Primary,
            primary: self.primary_verdict(),
            absent: self.keys(site).iter().all(|key| *key == Object::Absent),
        };
        let forced = site.person == Person::Forces;
        // The looks until then see the same.
        let looks = |until: Duration| {
            let count = u32::try_from(until.as_secs() / release::GAP.as_secs()).unwrap_or(0);
            (1..=count).map(|look| release::GAP * look)
        };
        // After the time that a release has, it goes on only for what it has seen until then.
        let is_last = at > release::SETTLED;
        let after = looks(release::SETTLED).filter(|_| is_last).map(|look| at + look);
        let mut settled = Settled::Wait;
        for at in looks(at).filter(|_| is_good).chain([at]).chain(after) {
            if settled == Settled::Wait {
                settled = settling.look(at, look, forced);
            }
        }
        let starts = !is_good && settling != Settling::default();
        if starts && !site.has(Rule::Minute) {
            for at in looks(release::SETTLED) {
                settled = settling.look(at, look, forced);
            }
        }
        match settled {
            Settled::Wait => self.person = Step::Settle(settling),
            Settled::FailedAgain if site.has(Rule::LeaveHolds) => self.end(),
            Settled::FailedAgain | Settled::Done => self.remove_own(),
        }
        if starts || settled != Settled::Wait {
            self.mark();
        }
        Some(())
    }

    /// The person's laptop dies.
    pub fn dies(&mut self) -> Option<()> {
        (self.person != Step::Idle).then_some(())?;
        if matches!(self.person, Step::Delete(_) | Step::PutBack { .. }) {
            self.breaks_off();
        }
        self.end();
        self.mark();
        Some(())
    }

    fn begin(&mut self, site: &Site) -> Option<()> {
        let (holds, keys) = (self.holds(site), self.keys(site));
        let forced = site.person == Person::Forces;
        match release::begin(&holds, &keys, self.primary_verdict(), forced).ok()? {
            Begin::Hold(replaces) => {
                if site.has(Rule::EveryBucket) {
                    // Otherwise S3 would refuse a hold.
                    assert!(
                        replaces
                            .iter()
                            .zip(self.buckets)
                            .all(|(etag, at)| etag.is_some() == at.hold.is_some())
                    );
                }
                let read = if site.has(Rule::ETagNow) { NO_ETAG } else { self.read() };
                self.person = Step::Hold { bucket: 0, read };
            }
            Begin::TidyUp(left) => {
                let left: Vec<_> = left.into_iter().map(|(bucket, _)| bucket).collect();
                self.person = Step::Remove([0, 1].map(|bucket| left.contains(&bucket)));
            }
        }
        Some(())
    }

    fn hold(&mut self, site: &Site, bucket: usize, read: [bool; 2], fate: Fate) -> Option<()> {
        let is_done = self.call(bucket, fate)?;
        if is_done {
            self.buckets[bucket].hold = Some(Hold { age: Age::Young, own: fate == Fate::Answered });
        }
        if site.has(Rule::EveryBucket) && (!is_done || fate != Fate::Answered) {
            self.remove_own();
        } else if bucket == 0 {
            self.person = Step::Hold { bucket: 1, read };
        } else {
            self.person = Step::Wait { read };
        }
        Some(())
    }

    fn check(&mut self, site: &Site, read: [bool; 2]) {
        let (mut holds, keys) = (self.holds(site), self.keys(site));
        if !site.has(Rule::Young) {
            for hold in &mut holds {
                if let Held::Own(stored) = hold {
                    stored.age = Duration::ZERO;
                }
            }
        }
        if !site.has(Rule::EveryBucket) {
            holds.iter_mut().filter(|hold| **hold == Held::Absent).for_each(|hold| {
                *hold = Held::Own(Stored::default());
            });
        }
        let forced = site.person == Person::Forces;
        let Ok(due) = release::may_delete(&holds, &keys, self.primary_verdict(), forced) else {
            return self.remove_own();
        };
        let due: Vec<_> = due.into_iter().map(|(bucket, _)| bucket).collect();
        let due = if site.has(Rule::ETagNow) {
            self.read();
            [0, 1].map(|bucket| due.contains(&bucket))
        } else {
            read
        };
        self.person = Step::Delete(due.map(|is_due| if is_due { Slot::Planned } else { Slot::Unplanned }));
        self.go_on(site);
    }

    fn delete(&mut self, site: &Site, mut slots: [Slot; 2], fate: Fate) -> Option<()> {
        let bucket = slots.iter().position(|slot| *slot == Slot::Planned)?;
        let is_done = self.call(bucket, fate)?;
        slots[bucket] = if is_done { self.delete_one(bucket) } else { Slot::Failed };
        if fate != Fate::Answered {
            slots[bucket] = Slot::Failed;
        }
        self.person = Step::Delete(slots);
        self.go_on(site);
        Some(())
    }

    /// Goes on after the last deletion.
    fn go_on(&mut self, site: &Site) {
        let Step::Delete(slots) = self.person else { return };
        if slots.contains(&Slot::Planned) {
            return;
        }
        let deletions =
            slots.iter().enumerate().filter_map(|(bucket, slot)| Some((bucket, deletion(*slot)?)));
        let mut deleted = release::deleted(&deletions.collect::<Vec<_>>());
        if let Deleted::PutBack(buckets) = &mut deleted
            && !site.has(Rule::PutBackUnconfirmed)
        {
            buckets.retain(|bucket| slots[*bucket] == Slot::Done);
        }
        match deleted {
            Deleted::All if site.has(Rule::Settle) => self.person = Step::Settle(Settling::default()),
            Deleted::PutBack(buckets) if site.has(Rule::PutBack) && !buckets.is_empty() => {
                let buckets = [0, 1].map(|bucket| buckets.contains(&bucket));
                self.person = Step::PutBack { buckets, known: true };
            }
            Deleted::All | Deleted::PutBack(_) => self.remove_own(),
        }
        if self.person == Step::Settle(Settling::default()) && (self.has_key(0) || self.has_key(1)) {
            self.breaks(CHANGED);
        }
    }

    fn delete_one(&mut self, bucket: usize) -> Slot {
        match self.buckets[bucket].key {
            Key::Absent => return Slot::Done,
            Key::Other => {
                self.breaks(CHANGED);
                return Slot::Refused;
            }
            Key::Read => {}
        }
        self.buckets[bucket].key = Key::Absent;
        self.looks.iter_mut().flatten().for_each(|look| look.write.outlived = true);
        self.late.iter_mut().flatten().for_each(|write| write.outlived = true);
        self.truth.effective[bucket] = false;
        self.truth.left[bucket] = false;
        self.truth.opened = Opened::Yes;
        if self.primary && !self.has_key(1 - bucket) {
            self.truth.due = false;
        }
        Slot::Done
    }

    fn put_back(&mut self, site: &Site, mut buckets: [bool; 2], known: bool, fate: Fate) -> Option<()> {
        let bucket = buckets.iter().position(|is_due| *is_due)?;
        let is_done = self.call(bucket, fate)?;
        if !self.has_key(bucket) {
            if is_done {
                self.buckets[bucket].key = Key::Other;
                self.truth.due = true;
                // The latch is locked again: what follows is as after a lock.
                (self.truth.opened, self.truth.left) = (Opened::No, [false; 2]);
            } else {
                self.breaks_off();
            }
        }
        buckets[bucket] = false;
        let known = known && is_done && fate == Fate::Answered;
        self.person = Step::PutBack { buckets, known };
        if buckets == [false; 2] {
            if known || !site.has(Rule::HoldsOfUnknown) {
                self.remove_own();
            } else {
                self.end();
            }
        }
        Some(())
    }

    /// Goes on with the holds of this release.
    fn remove_own(&mut self) {
        let is_own = |hold: Option<Hold>| hold.is_some_and(|hold| hold.own);
        let own = self.buckets.map(|bucket| is_own(bucket.hold));
        self.person = Step::Remove(own);
        if own == [false; 2] {
            self.end();
        }
    }

    fn remove(&mut self, mut buckets: [bool; 2], fate: Fate) -> Option<()> {
        let bucket = buckets.iter().position(|is_due| *is_due)?;
        if self.call(bucket, fate)? {
            self.buckets[bucket].hold = None;
        }
        buckets[bucket] = false;
        self.person = Step::Remove(buckets);
        if buckets == [false; 2] {
            self.end();
        }
        Some(())
    }

    fn end(&mut self) {
        self.person = Step::Idle;
        self.buckets.iter_mut().filter_map(|bucket| bucket.hold.as_mut()).for_each(|hold| hold.own = false);
    }

    fn breaks_off(&mut self) {
        if self.truth.opened == Opened::Yes {
            self.truth.opened = Opened::BrokenOff;
        }
    }

    /// Whether a call is done; `None` if it cannot have this fate.
    fn call(&self, bucket: usize, fate: Fate) -> Option<bool> {
        match fate {
            Fate::Answered => Some(self.buckets[bucket].answers),
            Fate::Unanswered => self.buckets[bucket].answers.then_some(true),
            Fate::Lost => self.buckets[bucket].answers.then_some(false),
            Fate::Late => None,
        }
    }

    /// The person has read the `ETag`s of the objects that there are.
    fn read(&mut self) -> [bool; 2] {
        for bucket in &mut self.buckets {
            if bucket.key == Key::Other {
                bucket.key = Key::Read;
            }
        }
        [0, 1].map(|bucket| self.has_key(bucket))
    }

    fn holds(&self, site: &Site) -> [Held; 2] {
        self.buckets.map(|bucket| match bucket.hold {
            _ if !bucket.answers && site.has(Rule::EveryBucket) => Held::Unreadable(String::new()),
            _ if !bucket.answers => Held::Absent,
            None => Held::Absent,
            Some(Hold { age, own }) => {
                let stored = Stored { etag: String::new(), age: age.seconds() };
                if own { Held::Own(stored) } else { Held::Other(stored, String::new()) }
            }
        })
    }

    fn keys(&self, site: &Site) -> [Object; 2] {
        self.buckets.map(|bucket| match bucket.key {
            _ if !bucket.answers && site.has(Rule::EveryBucket) => Object::Silent(String::new()),
            _ if !bucket.answers => Object::Absent,
            Key::Absent => Object::Absent,
            Key::Read | Key::Other => Object::Present(Stored::default()),
        })
    }
}

fn deletion(slot: Slot) -> Option<Deletion> {
    match slot {
        Slot::Unplanned | Slot::Planned => None,
        Slot::Done => Some(Deletion::Gone),
        Slot::Refused => Some(Deletion::Changed),
        Slot::Failed => Some(Deletion::Unconfirmed(String::new())),
    }
}
