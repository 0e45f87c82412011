//! What to do about a lease: pure, from the record that was seen, one's own observations, and one's own clock.
//!
//! Every [`Moment`] is of the process's own monotonic clock. Clocks of different machines are never compared:
//! a record's `updatedTime` is for people and for Admiral's checker.
//!
//! # Why two are never active at once
//! A holder counts its term from *before* it asked for the write that it lives on. A contender counts it from
//! *after* the answer in which it first saw what that write left. The write lies between the two, so the
//! holder's count begins first. The holder is active for the term less a margin; the contender writes after the
//! whole term, and only over the very record that it watched. As long as two clocks differ by no more than the
//! margin over a term, the holder is passive by then. The term that counts is the holder's, which the record
//! tells. `claim/model.rs` checks it.

use std::time::Duration;

use thiserror::Error;

#[cfg(test)]
mod model;

/// A time on the process's own monotonic clock, since some moment of its own.
pub type Moment = Duration;

/// The owner by which [Admiral][1] keeps everybody passive.
///
/// [1]: https://github.com/istio-ecosystem/admiral
pub const NOBODY_MAY: &str = "SKIP-LEASE-POD";

/// A lease's record as it stands in the table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Who holds it.
    pub owner: String,
    /// When it was written, in seconds since 1970 by the writer's wall clock: for people, and for Admiral.
    pub updated_time: i64,
    /// Which process wrote it; `None` where Admiral's checker or a person did.
    pub writer: Option<String>,
    /// The writer's count of its own writes: no two of them leave the same record.
    pub beat: u64,
    /// The fencing token; it grows with every change of owner. 0 where the writer knew of none.
    pub epoch: u64,
    /// Whether its holder gave it up, and was passive before it did.
    pub released: bool,
    /// The writer's term; zero where it told none.
    pub term: Duration,
}

/// How long a lease lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    term: Duration,
    margin: Duration,
    grace: Duration,
}

/// Terms by which nobody would be active for long enough to renew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a term of {:?} is too short: it has to be two periods at least, and to leave something after a margin of {:?} \
     and a grace of {:?}", .0.term, .0.margin, .0.grace
)]
pub struct NothingLeft(Terms);

/// Whom a claim is made for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The owner's name in the record.
    pub name: String,
    /// What no other process has, not even the same one after a restart.
    pub writer: String,
}

/// A lease that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holding {
    /// The fencing token.
    pub epoch: u64,
    /// From here on its holder is passive.
    pub until: Moment,
    /// By here, whatever depended on it must have ended.
    pub ends: Moment,
    /// From here on another one may have it.
    pub expires: Moment,
}

/// One candidate's view of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    me: Candidate,
    terms: Terms,
    /// What was seen last, and since when it has been just that.
    watched: Option<(Option<Record>, Moment)>,
    pending: Option<Pending>,
    held: Option<Holding>,
    leaving: bool,
    /// Writes so far.
    beats: u64,
    /// The highest epoch that was ever seen.
    highest: u64,
    /// The longest term that was ever seen, one's own included.
    longest: Duration,
}

/// A write that may have been done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending {
    record: Record,
    /// When it was asked for.
    asked: Moment,
    /// Whether the lease is held by it. One over a record of Admiral's checker is not enough: that one notices
    /// only at its next look that it has lost the lease, and so the first renewal counts.
    holds: bool,
}

/// What to ask the table for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A consistent read of the record.
    Look,
    /// A write.
    Write(Write),
}

/// A write that must be done only if the record is still the one expected.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    /// The record that has to stand there; `None` for no record.
    pub expected: Option<Record>,
    /// What to leave there.
    pub record: Record,
}

/// How a lease stands, for the one who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It has not been seen yet.
    Unseen,
    /// This process wrote the record.
    Mine,
    /// [`NOBODY_MAY`] hold it.
    Pinned,
    /// Its holder gave it up.
    Released,
    /// Somebody else wrote it, another process of the same name perhaps, or it was made for nobody. It may be
    /// taken once it has been seen unchanged up to this moment.
    Others(Moment),
    /// There is no record.
    Missing,
}

// === impl Terms ===

impl Terms {
    /// What is left free at the end of a term, as a part of it: once for clocks, once for what has to end.
    const PART: u32 = 20;

    /// A term of this length. `margin` is by how much two clocks may differ over it: where they differ by more, two
    /// may be active. A holder is passive by `grace` before that, for what depends on the lease to end.
    ///
    /// # Errors
    /// Nothing of the term is left to be active in.
    pub fn new(term: Duration, margin: Duration, grace: Duration) -> Result<Self, NothingLeft> {
        let terms = Self { term, margin, grace };
        if margin + grace < term { Ok(terms) } else { Err(NothingLeft(terms)) }
    }

    /// A term of so many periods, a twentieth of it as margin and another one as grace.
    ///
    /// # Errors
    /// It has less than two periods: its holder would be passive before it renewed it.
    pub fn of(period: Duration, periods: u32) -> Result<Self, NothingLeft> {
        let term = period * periods;
        let part = term / Self::PART;
        let terms = Self { term, margin: part, grace: part };
        if term < period * 2 || term.is_zero() { Err(NothingLeft(terms)) } else { Ok(terms) }
    }

    /// How long a record must be seen unchanged before it may be taken over.
    #[must_use]
    pub fn term(&self) -> Duration {
        self.term
    }

    fn holding(&self, epoch: u64, asked: Moment) -> Holding {
        let expires = asked + self.term;
        let ends = asked + self.term.saturating_sub(self.margin);
        Holding { epoch, until: ends.saturating_sub(self.grace).max(asked), ends, expires }
    }
}

// === impl Claim ===

impl Claim {
    /// A claim that has seen nothing yet.
    #[must_use]
    pub fn new(me: Candidate, terms: Terms) -> Self {
        let (watched, pending, held) = (None, None, None);
        let longest = terms.term;
        Self { me, terms, watched, pending, held, leaving: false, beats: 0, highest: 0, longest }
    }

    /// The lease, if it was won: it is held up to [`Holding::until`].
    #[must_use]
    pub fn holding(&self) -> Option<Holding> {
        self.held
    }

    /// Whether it gives the lease up, for good.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// The record that was seen, or written, last.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        self.watched.as_ref().and_then(|(record, _)| record.as_ref())
    }

    /// How the lease stands by what was seen last.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match &self.watched {
            None => Standing::Unseen,
            Some((None, _)) => Standing::Missing,
            Some((Some(record), since)) => match record {
                record if self.is_mine(record) => Standing::Mine,
                record if record.owner == NOBODY_MAY => Standing::Pinned,
                // An owner that a person has emptied may be active still: only its own word counts.
                record if record.released && record.owner.is_empty() => Standing::Released,
                record => Standing::Others(*since + self.terms.term.max(record.term)),
            },
        }
    }

    /// What to do when a period is over: a holder that knows what stands there renews it, all others look.
    pub fn next(&mut self, now: Moment, updated_time: i64) -> Step {
        match self.record() {
            Some(record) if self.is_mine(record) && self.pending.is_none() && !self.leaving => {
                let record = record.clone();
                Step::Write(self.ask(self.renewed(&record, updated_time), Some(record), now))
            }
            _ => Step::Look,
        }
    }

    /// Takes note of what a consistent read found, whose answer came `now`, and says what to write, if anything.
    pub fn saw(&mut self, record: Option<Record>, now: Moment, updated_time: i64) -> Option<Write> {
        let since = match &self.watched {
            Some((before, since)) if *before == record => *since,
            _ => now,
        };
        let was_mine = self.standing() == Standing::Mine;
        self.watched = Some((record.clone(), since));
        if let Some(record) = &record {
            self.highest = self.highest.max(record.epoch);
            self.longest = self.longest.max(record.term);
        }
        // A write without an answer was done if this is what it left.
        let done = self.pending.take().filter(|write| record.as_ref() == Some(&write.record));
        let next = match (self.standing(), &record) {
            (Standing::Mine, Some(record)) if self.leaving => Some(self.released(record, updated_time)),
            (Standing::Mine, Some(record)) => match done {
                Some(done) => {
                    self.hold(&done);
                    None
                }
                // Nobody else has been active since this process wrote it: that would have changed it. But it may
                // have been written just now, by a call that was given up: its first renewal is a period later.
                None => was_mine.then(|| self.renewed(record, updated_time)),
            },
            (standing, seen) => {
                self.held = None;
                match (standing, seen) {
                    _ if self.leaving => None,
                    (Standing::Missing, _) => Some(self.vacant(updated_time)),
                    (Standing::Released, Some(seen)) => Some(self.taken(seen, updated_time)),
                    (Standing::Others(at), Some(seen)) if now >= at => Some(self.taken(seen, updated_time)),
                    _ => None,
                }
            }
        };
        next.map(|next| self.ask(next, record, now))
    }

    /// Takes note that the write that was asked for last was done, whose answer came `now`. One that was refused,
    /// or gave no answer, is cleared up by the next look.
    pub fn wrote(&mut self, now: Moment) {
        if let Some(done) = self.pending.take() {
            self.hold(&done);
            self.watched = Some((Some(done.record), now));
        }
    }

    /// Gives the lease up: it is not held from here on, and what is written next tells others so.
    pub fn leave(&mut self) {
        (self.leaving, self.held) = (true, None);
    }

    /// Whether a record may be this process's, or come to be it.
    #[must_use]
    pub fn has_written(&self) -> bool {
        self.pending.is_some() || self.standing() == Standing::Mine
    }

    fn is_mine(&self, record: &Record) -> bool {
        let is_by_me = record.owner == self.me.name && record.writer.as_deref() == Some(&*self.me.writer);
        // One that a person has put back is older than what others have seen since.
        is_by_me && record.epoch >= self.highest
    }

    fn hold(&mut self, done: &Pending) {
        self.highest = self.highest.max(done.record.epoch);
        let holds = done.holds && !self.leaving;
        self.held = holds.then(|| self.terms.holding(done.record.epoch, done.asked));
    }

    fn ask(&mut self, record: Record, expected: Option<Record>, now: Moment) -> Write {
        self.beats = record.beat;
        let holds = self.is_mine(&record) && expected.as_ref().is_some_and(|seen| seen.writer.is_some());
        self.pending = Some(Pending { record: record.clone(), asked: now, holds });
        Write { expected, record }
    }

    fn renewed(&self, record: &Record, updated_time: i64) -> Record {
        Record { updated_time, beat: self.beats + 1, term: self.terms.term, ..record.clone() }
    }

    fn released(&self, record: &Record, updated_time: i64) -> Record {
        Record { owner: String::new(), released: true, ..self.renewed(record, updated_time) }
    }

    /// A record for nobody, to wait for a term over: one that was deleted may have a holder still, and absence
    /// cannot be told from absence a while later.
    fn vacant(&self, updated_time: i64) -> Record {
        Record {
            owner: String::new(),
            updated_time,
            writer: Some(self.me.writer.clone()),
            beat: self.beats + 1,
            epoch: self.highest.max(forgotten(updated_time)),
            released: false,
            term: self.longest,
        }
    }

    fn taken(&self, seen: &Record, updated_time: i64) -> Record {
        // A record that was made for nobody may have been on its way for long.
        let is_forgotten = seen.epoch == 0 || (seen.owner.is_empty() && !seen.released);
        let least = if is_forgotten { forgotten(updated_time) } else { 0 };
        Record {
            owner: self.me.name.clone(),
            updated_time,
            writer: Some(self.me.writer.clone()),
            beat: self.beats + 1,
            epoch: least.max(self.highest + 1),
            released: false,
            term: self.terms.term,
        }
    }
}

/// An epoch beyond whatever it was: whoever deleted the record, or wrote it as Admiral's checker does, forgot it.
/// It is as good as the wall clock: one that is behind the last taker's by more than the owner has changed since
/// gives one that was given before.
fn forgotten(updated_time: i64) -> u64 {
    u64::try_from(updated_time).unwrap_or(0)
}
