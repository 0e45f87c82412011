//! Two sites, Route 53, two buckets, two watchers and a person.

use std::time::Duration;

use failover::latch::release::YOUNG;
use failover::latch::seen::{HOLD, Record, Verdict, Verdicts};

use super::person::Step;
use super::site::{
    BROKEN_OFF, DUE, Fault, HAND, LEFT, MIDDLE, Mode, OUTLIVED, RACE, Rule, Site, UNSEEN, YIELDS,
};
use super::watcher::Look;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// Whether the check of each site is healthy.
    pub primary: bool,
    pub standby: bool,
    /// Whether the latch check of each bucket sees an object.
    pub sees: [bool; 2],
    /// Whether the calculated check is healthy.
    pub serves: bool,
    /// What the pairs of name servers know that the watchers ask, and at last those that the person asks: behind one
    /// address are many machines.
    pub views: [View; 3],
    pub buckets: [Bucket; 2],
    pub looks: [Option<Look>; 2],
    /// The write to each bucket whose look is over.
    pub late: [Option<Write>; 2],
    /// How many outages there were, if they are counted.
    pub outages: u8,
    pub person: Step,
    /// What still is as it was before the person's last step, by bit: the latch checks, the calculated
    /// check, the name servers.
    pub old: u8,
    pub truth: Truth,
    pub broken: Option<&'static str>,
}

/// What a name server knows of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    pub serves: bool,
    pub primary: bool,
    pub standby: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bucket {
    pub answers: bool,
    pub key: Key,
    pub hold: Option<Hold>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    Absent,
    /// The object whose `ETag` the person has read.
    Read,
    /// Another object.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hold {
    pub age: Age,
    /// Whether the release under way has put it.
    pub own: bool,
}

/// The ages of a hold that make a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Age {
    /// Objects may be deleted.
    Young,
    /// It stops watchers.
    Fresh,
    /// It stops no one.
    Stale,
}

/// When a write was signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Write {
    /// Before the person's last step.
    pub old: bool,
    /// Before the deletion of an object.
    pub outlived: bool,
}

/// What happened, as no decision sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Truth {
    /// Route 53 has failed over because of the primary since the last full release.
    pub due: bool,
    /// The object of each bucket has kept the primary out, and no person has deleted it since.
    pub effective: [bool; 2],
    /// The object of each bucket was there while the primary served for long, after a person had opened the latch.
    pub left: [bool; 2],
    pub opened: Opened,
}

/// Whether a person has deleted an object since the latch was effective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opened {
    No,
    Yes,
    /// The same, and the release ended before it could put the object back.
    BrokenOff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The check of a site changes.
    Primary,
    Standby,
    /// A bucket stops answering, or answers again.
    Stops(usize),
    Answers(usize),
    /// The checkers of a latch check agree on what is in the bucket.
    Sees(usize),
    /// The calculated check follows its children.
    Calculates,
    /// A pair of name servers learns of a check.
    Learns(usize, Check),
    /// A watcher makes the next step of its look.
    Look(usize, Heard),
    /// The write of a look to a bucket.
    Put(usize, usize, Fate),
    /// The write of an ended look arrives, or never does.
    Arrives(usize),
    Fades(usize),
    /// The hold of a bucket grows older.
    Ages(usize),
    /// A lifecycle rule deletes the object of a bucket.
    Expires(usize),
    /// The person makes the next step of a release.
    Release(Fate),
    /// The same, a minute later.
    Minute,
    /// The same, four minutes later.
    Minutes,
    Dies,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    Serves,
    Primary,
    Standby,
}

/// Which pairs of name servers answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Heard {
    Both,
    Only(usize),
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    Answered,
    /// It is done, and its answer is lost.
    Unanswered,
    Lost,
    /// It is done after its look, or never.
    Late,
}

/// What becomes of a write or a deletion that is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    Unplanned,
    Planned,
    /// It was done.
    Done,
    /// There was another object.
    Refused,
    Failed,
}

const LATCH_CHECKS: u8 = 3;
const CALCULATED: u8 = 4;
/// The latch checks and the calculated check.
pub const CHECKS: u8 = LATCH_CHECKS | CALCULATED;

// === impl World ===

impl World {
    /// Whether the checkers can see an object in a bucket.
    pub fn shows(&self, bucket: usize) -> bool {
        self.buckets[bucket].answers && self.has_key(bucket)
    }

    pub fn has_key(&self, bucket: usize) -> bool {
        self.buckets[bucket].key != Key::Absent
    }

    /// What the calculated check is from its children.
    pub fn is_healthy(&self) -> bool {
        self.primary && self.sees == [false; 2]
    }

    /// What a name server answers for `_serving`.
    pub fn serving(&self, site: &Site, view: usize) -> Record {
        let View { serves, standby, .. } = self.views[view];
        let yields = site.mode == Mode::Yielding && !standby;
        if serves || yields { Record::Primary } else { Record::Secondary }
    }

    /// What the watchers' name servers say, two of each pair.
    pub fn verdicts(&self, site: &Site, heard: Heard) -> Verdicts {
        let is_heard = |pair: &usize| match heard {
            Heard::Both => true,
            Heard::Only(only) => *pair == only,
        };
        let pairs = || (0..site.pairs).filter(is_heard);
        let record = |is_healthy| if is_healthy { Record::Primary } else { Record::Secondary };
        let standby = |pair: usize| record(self.views[pair].standby);
        Verdicts {
            serving: Verdict::of(pairs().flat_map(|pair| [self.serving(site, pair); 2])),
            primary: Verdict::Agreed(record(self.primary)),
            standby: Verdict::of(pairs().flat_map(|pair| [standby(pair); 2])),
        }
    }

    /// What the name servers say of the primary's check to the person.
    pub fn primary_verdict(&self) -> Verdict {
        Verdict::Agreed(if self.views[2].primary { Record::Primary } else { Record::Secondary })
    }

    pub fn breaks(&mut self, promise: &'static str) {
        self.broken = self.broken.or(Some(promise));
    }

    pub fn show(&mut self, site: &Site, exception: &'static str) {
        if site.shows == Some(exception) {
            self.breaks(exception);
        }
    }

    pub fn stops(&mut self, site: &Site, bucket: usize) -> Option<()> {
        let down = self.buckets.iter().filter(|bucket| !bucket.answers).count();
        (down < site.outages() && self.outages == 0 && self.buckets[bucket].answers).then_some(())?;
        self.outages = u8::from(site.may(Fault::Outage));
        self.buckets[bucket].answers = false;
        // E2: an object that no checker can reach keeps no primary out.
        let was_effective = self.truth.effective != [false; 2];
        self.truth.effective[bucket] = false;
        if was_effective && self.truth.effective == [false; 2] {
            self.show(site, UNSEEN);
        }
        Some(())
    }

    pub fn calculate(&mut self, site: &Site) {
        let healthy = self.is_healthy();
        if healthy && !self.serves {
            if self.truth.effective != [false; 2] {
                self.breaks(HAND);
            }
            if self.truth.opened == Opened::No && (0..2).any(|bucket| self.shows(bucket)) {
                self.show(site, RACE);
            }
        }
        if !healthy && self.serves {
            self.truth.due |= !self.primary;
            if self.primary {
                let is_left = |bucket: usize| !self.sees[bucket] || self.truth.left[bucket];
                if is_left(0) && is_left(1) {
                    match self.truth.opened {
                        Opened::Yes => self.breaks(LEFT),
                        Opened::BrokenOff => self.show(site, BROKEN_OFF),
                        Opened::No => {}
                    }
                }
                if matches!(self.person, Step::Delete(_)) && site.outages() == 0 {
                    self.breaks(MIDDLE);
                }
            }
        }
        self.serves = healthy;
    }

    pub fn learn(&mut self, site: &Site, view: usize, check: Check) -> Option<()> {
        self.tracks(site, view, check).then_some(())?;
        let server = &mut self.views[view];
        let (known, now) = match check {
            Check::Serves => (&mut server.serves, self.serves),
            Check::Primary => (&mut server.primary, self.primary),
            Check::Standby => (&mut server.standby, self.standby),
        };
        (*known != now).then_some(())?;
        *known = now;
        if !self.views[view].serves
            && !self.serves
            && self.truth.effective != [false; 2]
            && self.serving(site, view) == Record::Primary
        {
            self.show(site, YIELDS);
        }
        Some(())
    }

    /// Whether what a pair of name servers knows of a check makes a difference to anyone. Before a release begins, the
    /// person's know what is so: the wait is longer than they need to learn.
    fn tracks(&self, site: &Site, view: usize, check: Check) -> bool {
        let is_person = view == 2;
        let is_asked = if is_person { self.person != Step::Idle } else { view < site.pairs };
        is_asked
            && match check {
                Check::Serves => true,
                Check::Primary => is_person,
                Check::Standby => !is_person || site.mode == Mode::Yielding,
            }
    }

    /// A write arrives at S3. Returns whether it created the object.
    pub fn land(&mut self, bucket: usize, write: Write) -> bool {
        if self.has_key(bucket) {
            return false;
        }
        if !self.truth.due {
            self.breaks(DUE);
        }
        if write.outlived {
            self.breaks(OUTLIVED);
        }
        self.buckets[bucket].key = Key::Other;
        (self.truth.opened, self.truth.left) = (Opened::No, [false; 2]);
        true
    }

    /// The hold of a bucket grows older. After the person's last step, minutes pass until it is stale.
    pub fn age(&mut self, site: &Site, bucket: usize) -> Option<()> {
        let age = self.buckets[bucket].hold?.age;
        let may_age = match self.person {
            Step::Idle => true,
            Step::Hold { .. } | Step::Wait { .. } | Step::Seen { .. } | Step::Check { .. } => {
                site.may(Fault::Slow)
            }
            Step::Delete(_) | Step::PutBack { .. } => site.may(Fault::Slow) && !site.has(Rule::Prompt),
            Step::Settle(_) | Step::Remove(_) => false,
        };
        let is_before = !matches!(self.person, Step::Idle | Step::Delete(_) | Step::PutBack { .. });
        let next = if age == Age::Young && is_before { Age::Fresh } else { Age::Stale };
        (may_age && age != next && (next == Age::Fresh || self.old == 0)).then_some(())?;
        if next == Age::Stale {
            self.expire(site);
        }
        self.buckets[bucket].hold.as_mut()?.age = next;
        Some(())
    }

    /// From here on it is known what is from before.
    pub fn mark(&mut self) {
        self.old = u8::MAX >> 2;
        self.looks.iter_mut().flatten().for_each(|look| look.write.old = true);
        self.late.iter_mut().flatten().for_each(|write| write.old = true);
    }

    /// More than 15 s have passed since the mark: S3 refuses what was signed before.
    pub fn expire(&mut self, site: &Site) {
        if site.has(Rule::Fence) {
            self.looks = self.looks.map(|look| look.filter(|look| !look.write.old));
            self.late = self.late.map(|write| write.filter(|write| !write.old));
        }
    }

    /// Takes in what follows from a step, and forgets what makes no difference any more.
    pub fn forget(&mut self, site: &Site) {
        self.follow(site);
        for bucket in 0..2 {
            if self.sees[bucket] == self.shows(bucket) {
                self.old &= !(1 << bucket);
            }
        }
        let is_calculated = self.serves == self.is_healthy();
        if self.old & LATCH_CHECKS == 0 && is_calculated {
            self.old &= !CALCULATED;
        }
        let now = View { serves: self.serves, primary: self.primary, standby: self.standby };
        for view in 0..3 {
            if self.old & CHECKS == 0 && self.views[view] == now {
                self.old &= !(8 << view);
            }
        }
        let is_idle = self.person == Step::Idle;
        for bucket in 0..2 {
            let is_effective = !self.serves && self.sees[bucket] && self.shows(bucket);
            if is_effective && !self.truth.effective[bucket] {
                self.truth.effective[bucket] = true;
                if !matches!(self.person, Step::Delete(_) | Step::PutBack { .. }) {
                    self.truth.opened = Opened::No;
                }
            }
            let is_settled = self.serves && is_calculated && (0..2).all(|at| self.sees[at] == self.shows(at));
            if is_idle && is_settled && self.has_key(bucket) && self.truth.opened != Opened::No {
                self.truth.left[bucket] = true;
            }
        }
        let ages = self.buckets.iter().any(|bucket| bucket.hold.is_some_and(|hold| hold.age != Age::Stale));
        if is_idle && !ages {
            self.old = 0;
            self.looks.iter_mut().flatten().for_each(|look| look.write.old = false);
            self.late.iter_mut().flatten().for_each(|write| write.old = false);
        }
        if is_idle {
            for bucket in &mut self.buckets {
                if bucket.key == Key::Read {
                    bucket.key = Key::Other;
                }
            }
            if !self.has_key(0) && !self.has_key(1) {
                self.truth.opened = Opened::No;
            }
        }
    }

    /// What makes no difference is as it is at the source.
    fn follow(&mut self, site: &Site) {
        for view in 0..3 {
            let tracks =
                [Check::Serves, Check::Primary, Check::Standby].map(|check| self.tracks(site, view, check));
            let known = &mut self.views[view];
            known.serves = if tracks[0] { known.serves } else { self.serves };
            known.primary = if tracks[1] { known.primary } else { self.primary };
            known.standby = if tracks[2] { known.standby } else { self.standby };
        }
    }
}

// === impl Age ===

impl Age {
    /// The age at the boundary.
    pub fn seconds(self) -> Duration {
        let second = Duration::from_secs(1);
        match self {
            Self::Young => YOUNG.saturating_sub(second),
            Self::Fresh => HOLD,
            Self::Stale => HOLD + second,
        }
    }
}
