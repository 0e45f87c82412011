//! Decisions about a lease: pure, from the record that was seen, and the process's own observations and clock.
//!
//! Every [`Moment`] is of the process's own clocks. Clocks of different machines are never compared: a record's
//! `updatedTime` is for people and for Admiral's checker.
//!
//! # Why two are never active at once
//! A holder counts its term from *before* it requested the write on which its lease rests. A contender counts it
//! from *after* the answer in which it first saw the record of that write. The write lies between the two, so the
//! holder's count begins first. The holder is active for the term less a margin; the contender writes after the
//! whole term, and only over the very record that it watched. As long as the holder's faster clock and the
//! contender's slower one differ by no more than the margin over a term, the holder is passive by then.
//!
//! The term that counts is the longest that may be in force: the holder's, which is in its record. A record that a
//! person or Admiral's checker has written shows none, nor does a missing one; the holder before it may still be
//! active. Then a contender waits for the term that it saw last, and at least for the longest that any candidate
//! may have, which is configured. `claim/model.rs` checks all this.

use std::time::Duration;

#[cfg(test)]
mod model;
mod moment;
mod terms;
#[cfg(test)]
mod tests;

pub use self::moment::Moment;
pub use self::terms::{Holding, NothingLeft, Terms};

/// The owner by which [Admiral][1] keeps all candidates passive.
///
/// [1]: https://github.com/istio-ecosystem/admiral
pub const NOBODY_MAY: &str = "SKIP-LEASE-POD";

/// The name by which a holder is asked to hand over to any other candidate.
pub const ANY: &str = "*";

/// Of so many writes without an answer in a row a claim knows that they are its own.
const KNOWN: usize = 1024;

/// A lease's record as it is in the table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// The owner of the lease.
    pub owner: String,
    /// When the record was written, in seconds since 1970 on the writer's wall clock: for people, and for Admiral.
    pub updated_time: i64,
    /// The process that wrote it; `None` if Admiral's checker or a person did.
    pub writer: Option<String>,
    /// The [number](Stamp::number) of the write. 0 if Admiral's checker or a person wrote it.
    pub beat: u64,
    /// The fencing token; it grows with every change of owner. 0 if the writer knew no token.
    pub epoch: u64,
    /// Whether its holder released the lease, and was passive before that.
    pub released: bool,
    /// The writer's term; zero if the record has none.
    pub term: Duration,
    /// The candidate for whom the holder is asked to release the lease; empty or `*` for any other candidate. `None`
    /// if the holder is not asked. No condition of a write depends on it.
    pub handover: Option<String>,
}

/// The candidate for whom a claim is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The owner's name in the record.
    pub name: String,
    /// A text that no other process has, not even this process after a restart.
    pub writer: String,
}

/// What a write has of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Seconds since 1970 on the process's wall clock.
    pub time: i64,
    /// A number that no other write has, not even one of a copy of this process: a random one from the system, not 0.
    pub number: u64,
}

/// One candidate's view of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    me: Candidate,
    terms: Terms,
    /// The record that was seen last, and since when it has been unchanged.
    watched: Option<(Option<Record>, Moment)>,
    pending: Option<Pending>,
    held: Option<Holding>,
    /// Whether its record has given it the lease: not before the first renewal of one that it took without a writer.
    won: bool,
    will: Will,
    /// Whether it releases the lease for others: it waits for a term before it takes what it has released itself.
    gives_way: bool,
    /// The numbers of the writes that may have left the record that is in the table, or may still do so.
    own: Vec<u64>,
    /// The highest epoch seen so far.
    highest: u64,
    /// The longest term that any candidate may have: it counts when the record shows no term.
    longest: Duration,
    /// The longest term in which a holder may be active now.
    in_force: Duration,
}

/// Whether the candidate wants the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Will {
    /// It takes the lease when it may.
    Take,
    /// It is passive, and renews the lease that it holds until its work has ended.
    Retire,
    /// It releases the lease, and does not take it.
    Release,
}

/// A write that may have been done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending {
    record: Record,
    /// When the write was requested.
    asked: Moment,
    /// Whether this write gives the lease. A write over a record of Admiral's checker does not: the checker notices
    /// only at its next look that it has lost the lease, and so the first renewal counts.
    holds: bool,
}

/// The next request to the table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::large_enum_variant, reason = "a step is made and used up at once, one at a time")]
pub enum Step {
    /// A consistent read of the record.
    Look,
    /// A write.
    Write(Write),
}

/// A write that must be done only if the record is still the one expected.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    /// The record that the table must hold; `None` for no record.
    pub expected: Option<Record>,
    /// The record to write.
    pub record: Record,
}

/// The state of a lease, as the candidate sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It has not been seen yet.
    Unseen,
    /// This process wrote the record, and not a copy of it.
    Mine,
    /// [`NOBODY_MAY`] holds it.
    Pinned,
    /// Its holder released it.
    Released,
    /// Another process wrote it, perhaps one of the same name, or it was written without an owner. It may be taken
    /// after it has been seen unchanged until this moment.
    Others(Moment),
    /// There is no record.
    Missing,
}

// === impl Claim ===

impl Claim {
    /// A claim that has seen nothing yet. `longest` is the longest term that any candidate for this lease may have.
    #[must_use]
    pub fn new(me: Candidate, terms: Terms, longest: Duration) -> Self {
        let longest = longest.max(terms.term);
        Self {
            me,
            terms,
            watched: None,
            pending: None,
            held: None,
            won: false,
            will: Will::Take,
            gives_way: false,
            own: Vec::new(),
            highest: 0,
            longest,
            in_force: longest,
        }
    }

    /// The lease, if it was won: it is held until [`Holding::until`], also while the candidate retires.
    #[must_use]
    pub fn holding(&self) -> Option<Holding> {
        self.held
    }

    /// Whether the candidate wants the lease.
    #[must_use]
    pub fn will(&self) -> Will {
        self.will
    }

    /// The record that was seen, or written, last.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        self.watched.as_ref().and_then(|(record, _)| record.as_ref())
    }

    /// The term in the record that was seen last, if it is longer than any candidate's may be.
    #[must_use]
    pub fn unexpected_term(&self) -> Option<Duration> {
        self.record().map(|record| record.term).filter(|term| *term > self.longest)
    }

    /// The state of the lease, from the record that was seen last.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match &self.watched {
            None => Standing::Unseen,
            Some((None, _)) => Standing::Missing,
            Some((Some(record), since)) => match record {
                record if self.is_mine(record) => Standing::Mine,
                record if record.owner == NOBODY_MAY => Standing::Pinned,
                // An owner whose name a person has removed may still be active: only its own release counts.
                record if record.released && record.owner.is_empty() && self.may_follow(record) => {
                    Standing::Released
                }
                _ => Standing::Others(*since + self.terms.term.max(self.in_force)),
            },
        }
    }

    /// The step when a period is over: a holder that knows the record renews it, all other candidates look.
    pub fn next(&mut self, now: Moment, stamp: Stamp) -> Step {
        match self.record() {
            Some(record) if self.is_mine(record) && self.pending.is_none() && self.will != Will::Release => {
                let record = record.clone();
                Step::Write(self.ask(self.renewed(&record, stamp), Some(record), now))
            }
            _ => Step::Look,
        }
    }

    /// Takes note of the result of a consistent read, whose answer came `now`, and returns the write to make, if any.
    pub fn saw(&mut self, record: Option<Record>, now: Moment, stamp: Stamp) -> Option<Write> {
        let since = match &self.watched {
            Some((before, since)) if is_same(before.as_ref(), record.as_ref()) => *since,
            _ => now,
        };
        let was_mine = self.standing() == Standing::Mine;
        self.in_force = self.in_force_by(record.as_ref());
        let beat = record.as_ref().map(|record| record.beat);
        if self.record().map(|record| record.beat) != beat {
            // What was written over the former record is done, or will be refused.
            self.own.retain(|number| Some(*number) == beat);
        }
        self.watched = Some((record.clone(), since));
        self.highest = self.highest.max(record.as_ref().map_or(0, |record| record.epoch));
        // A write without an answer was done if this is its record.
        let done = self.pending.take().filter(|write| is_same(record.as_ref(), Some(&write.record)));
        self.won = self.standing() == Standing::Mine && done.as_ref().map_or(self.won, |done| done.holds);
        let next = match (self.standing(), &record) {
            (Standing::Mine, Some(record)) if self.will == Will::Release => {
                Some(self.released(record, stamp))
            }
            (Standing::Mine, Some(record)) => match done {
                Some(done) => {
                    self.hold(&done);
                    None
                }
                // No other process has been active since this process wrote it: that would have changed it. But it
                // may have been written just now, by an abandoned call: its first renewal is a period later.
                None => was_mine.then(|| self.renewed(record, stamp)),
            },
            (standing, seen) => {
                self.held = None;
                match (standing, seen) {
                    _ if self.will != Will::Take => None,
                    (Standing::Missing, _) => Some(self.vacant(stamp)),
                    (Standing::Released, Some(seen)) => Some(self.taken(seen, stamp)),
                    (Standing::Others(at), Some(seen)) if at.has_come(now) => Some(self.taken(seen, stamp)),
                    _ => None,
                }
            }
        };
        next.map(|next| self.ask(next, record, now))
    }

    /// Takes note that the last write was done, whose answer came `now`, and for whom a person asks the holder to release
    /// the lease. The next look shows whether a write that was refused, or gave no answer, was done.
    pub fn wrote(&mut self, now: Moment, handover: Option<String>) {
        if let Some(mut done) = self.pending.take() {
            self.hold(&done);
            done.record.handover = handover;
            self.own = vec![done.record.beat];
            self.in_force = self.in_force_by(Some(&done.record));
            self.watched = Some((Some(done.record), now));
        }
    }

    /// From here on the candidate wants this. Once it releases the lease, it does not hold it any more.
    pub fn want(&mut self, will: Will) {
        self.will = will;
        if will == Will::Release {
            self.held = None;
        }
    }

    /// Whether the record may be this process's, or may become it.
    #[must_use]
    pub fn has_written(&self) -> bool {
        self.pending.is_some() || self.standing() == Standing::Mine
    }

    /// From here on the candidate lets others go first, until it holds the lease again.
    pub fn give_way(&mut self) {
        self.gives_way = true;
    }

    /// Whether a released lease is for this candidate: its holder may have been asked to hand it over.
    fn may_follow(&self, record: &Record) -> bool {
        let is_others = !self.has_made(record);
        match record.handover.as_deref() {
            None => is_others || !self.gives_way,
            Some("" | ANY) => is_others,
            Some(name) => name == self.me.name,
        }
    }

    /// Whether a person asks this candidate, which holds the lease, to hand it over.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.record().is_some_and(|record| self.is_mine(record) && record.handover.is_some())
    }

    fn is_mine(&self, record: &Record) -> bool {
        // A record that a person has written back has a lower epoch than records seen since.
        record.owner == self.me.name && self.has_made(record) && record.epoch >= self.highest
    }

    /// Whether this process wrote it: a copy of it has its name, and makes other writes.
    fn has_made(&self, record: &Record) -> bool {
        record.writer.as_deref() == Some(&*self.me.writer) && self.own.contains(&record.beat)
    }

    fn hold(&mut self, done: &Pending) {
        self.highest = self.highest.max(done.record.epoch);
        self.won = done.holds;
        let holds = done.holds && self.will != Will::Release;
        self.gives_way &= !holds || self.will != Will::Take;
        self.held = holds.then(|| self.terms.holding(done.record.epoch, done.asked));
    }

    /// The longest term in which a holder may be active, once this record is in the table.
    fn in_force_by(&self, record: Option<&Record>) -> Duration {
        match record {
            // An owner that took over has waited for the one before. A record that was written back is as old as its epoch.
            Some(record) if shows_its_term(record) && record.epoch >= self.highest => {
                // A writer has one term: a shorter one is someone's edit, of which the holder does not know.
                let is_of_same = |seen: &Record| {
                    (&seen.writer, seen.epoch) == (&record.writer, record.epoch) && shows_its_term(seen)
                };
                let known = self.record().filter(|seen| is_of_same(seen)).map(|_| self.in_force);
                known.unwrap_or_default().max(record.term)
            }
            Some(record) if !record.term.is_zero() => self.in_force.max(record.term),
            _ => self.in_force.max(self.longest),
        }
    }

    fn ask(&mut self, record: Record, expected: Option<Record>, now: Moment) -> Write {
        self.own.push(record.beat);
        if self.own.len() > KNOWN {
            // The first one may be the record's. One so old that comes after all costs a term, as another's does.
            self.own.remove(1);
        }
        let holds = self.is_mine(&record) && expected.as_ref().is_some_and(|seen| seen.writer.is_some());
        self.pending = Some(Pending { record: record.clone(), asked: now, holds });
        Write { expected, record }
    }

    fn renewed(&self, record: &Record, stamp: Stamp) -> Record {
        Record { updated_time: stamp.time, beat: stamp.number, term: self.terms.term, ..record.clone() }
    }

    /// The record after its release. Before it was won, Admiral's checker may still be active, and others wait for a term.
    fn released(&self, record: &Record, stamp: Stamp) -> Record {
        Record { owner: String::new(), released: self.won, ..self.renewed(record, stamp) }
    }

    /// A record without an owner, to watch for a term: a deleted record may still have a holder, and a missing record
    /// does not show whether a holder renewed it meanwhile.
    fn vacant(&self, stamp: Stamp) -> Record {
        Record {
            owner: String::new(),
            updated_time: stamp.time,
            writer: Some(self.me.writer.clone()),
            beat: stamp.number,
            epoch: self.highest.max(forgotten(stamp)),
            released: false,
            term: self.in_force,
            handover: None,
        }
    }

    fn taken(&self, seen: &Record, stamp: Stamp) -> Record {
        // A record without an owner may have been on its way for long.
        let is_forgotten = seen.epoch == 0 || (seen.owner.is_empty() && !seen.released);
        let least = if is_forgotten { forgotten(stamp) } else { 0 };
        Record {
            owner: self.me.name.clone(),
            updated_time: stamp.time,
            writer: Some(self.me.writer.clone()),
            beat: stamp.number,
            epoch: least.max(self.highest + 1),
            released: false,
            term: self.terms.term,
            handover: None,
        }
    }
}

/// Whether it is the same record, apart from the request to hand over.
fn is_same(one: Option<&Record>, other: Option<&Record>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => *one == Record { handover: one.handover.clone(), ..other.clone() },
        (one, other) => one.is_none() && other.is_none(),
    }
}

/// Whether a record has an owner that wrote its own term into it.
fn shows_its_term(record: &Record) -> bool {
    !record.term.is_zero() && !record.owner.is_empty() && record.owner != NOBODY_MAY
}

/// Returns an epoch above the last one, which is lost when the record is deleted, or written by Admiral's checker.
/// It is as reliable as the wall clock: a clock that is behind the last holder's by more seconds than there were
/// changes of owner since gives an epoch that was used before.
fn forgotten(stamp: Stamp) -> u64 {
    u64::try_from(stamp.time).unwrap_or(0)
}
