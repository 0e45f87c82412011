//! Decisions about a lease: pure, from the record that was seen, and the process's own observations and clock.
//!
//! Every [`Moment`] is of the process's own monotonic clock. Clocks of different machines are never compared:
//! a record's `updatedTime` is for people and for Admiral's checker.
//!
//! # Why two are never active at once
//! A holder counts its term from *before* it requested the write on which its lease rests. A contender counts it
//! from *after* the answer in which it first saw the record of that write. The write lies between the two, so the
//! holder's count begins first. The holder is active for the term less a margin; the contender writes after the
//! whole term, and only over the very record that it watched. As long as two clocks differ by no more than the
//! margin over a term, the holder is passive by then. The term that counts is the holder's, which is in
//! the record. `claim/model.rs` checks this.

use std::time::Duration;

use thiserror::Error;

#[cfg(test)]
mod model;

/// A time on the process's own monotonic clock, since an arbitrary moment.
pub type Moment = Duration;

/// The owner by which [Admiral][1] keeps all candidates passive.
///
/// [1]: https://github.com/istio-ecosystem/admiral
pub const NOBODY_MAY: &str = "SKIP-LEASE-POD";

/// A lease's record as it is in the table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// The owner of the lease.
    pub owner: String,
    /// When the record was written, in seconds since 1970 on the writer's wall clock: for people, and for Admiral.
    pub updated_time: i64,
    /// The process that wrote it; `None` if Admiral's checker or a person did.
    pub writer: Option<String>,
    /// The writer's count of its own writes: no two of them leave the same record.
    pub beat: u64,
    /// The fencing token; it grows with every change of owner. 0 if the writer knew no token.
    pub epoch: u64,
    /// Whether its holder released the lease, and was passive before that.
    pub released: bool,
    /// The writer's term; zero if the record has none.
    pub term: Duration,
}

/// How long a lease lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    term: Duration,
    margin: Duration,
    grace: Duration,
}

/// Terms with which no holder would be active for long enough to renew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a term of {:?} is too short: it has to be two periods at least, and to leave something after a margin of {:?} \
     and a grace of {:?}", .0.term, .0.margin, .0.grace
)]
pub struct NothingLeft(Terms);

/// The candidate for whom a claim is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The owner's name in the record.
    pub name: String,
    /// A text that no other process has, not even this process after a restart.
    pub writer: String,
}

/// A lease that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holding {
    /// The fencing token.
    pub epoch: u64,
    /// From this moment on its holder is passive.
    pub until: Moment,
    /// By this moment, work that depends on the lease must have ended.
    pub ends: Moment,
    /// From this moment on another candidate may take it.
    pub expires: Moment,
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
    leaving: bool,
    /// Writes so far.
    beats: u64,
    /// The highest epoch seen so far.
    highest: u64,
    /// The longest term seen so far, including its own.
    longest: Duration,
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
    /// This process wrote the record.
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

// === impl Terms ===

impl Terms {
    /// The part of a term that is kept free at its end: once for clocks, once for the work that has to end.
    const PART: u32 = 20;

    /// A term of this length. `margin` is how much two clocks may differ over a term: if they differ by more, two
    /// candidates may be active. A holder is passive `grace` earlier, so that work under the lease can end.
    ///
    /// # Errors
    /// No part of the term is left in which a holder can be active.
    pub fn new(term: Duration, margin: Duration, grace: Duration) -> Result<Self, NothingLeft> {
        let terms = Self { term, margin, grace };
        if margin + grace < term { Ok(terms) } else { Err(NothingLeft(terms)) }
    }

    /// A term of this many periods, with a twentieth of it as margin and another twentieth as grace.
    ///
    /// # Errors
    /// The term has less than two periods: its holder would be passive before it renewed the lease.
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

    /// The lease, if it was won: it is held until [`Holding::until`].
    #[must_use]
    pub fn holding(&self) -> Option<Holding> {
        self.held
    }

    /// Whether the candidate releases the lease, for good.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// The record that was seen, or written, last.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        self.watched.as_ref().and_then(|(record, _)| record.as_ref())
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
                record if record.released && record.owner.is_empty() => Standing::Released,
                record => Standing::Others(*since + self.terms.term.max(record.term)),
            },
        }
    }

    /// The step when a period is over: a holder that knows the record renews it, all other candidates look.
    pub fn next(&mut self, now: Moment, updated_time: i64) -> Step {
        match self.record() {
            Some(record) if self.is_mine(record) && self.pending.is_none() && !self.leaving => {
                let record = record.clone();
                Step::Write(self.ask(self.renewed(&record, updated_time), Some(record), now))
            }
            _ => Step::Look,
        }
    }

    /// Takes note of the result of a consistent read, whose answer came `now`, and returns the write to make, if any.
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
        // A write without an answer was done if this is its record.
        let done = self.pending.take().filter(|write| record.as_ref() == Some(&write.record));
        let next = match (self.standing(), &record) {
            (Standing::Mine, Some(record)) if self.leaving => Some(self.released(record, updated_time)),
            (Standing::Mine, Some(record)) => match done {
                Some(done) => {
                    self.hold(&done);
                    None
                }
                // No other process has been active since this process wrote it: that would have changed it. But it
                // may have been written just now, by an abandoned call: its first renewal is a period later.
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

    /// Takes note that the last write was done, whose answer came `now`. The next look shows whether a write that was
    /// refused, or gave no answer, was done.
    pub fn wrote(&mut self, now: Moment) {
        if let Some(done) = self.pending.take() {
            self.hold(&done);
            self.watched = Some((Some(done.record), now));
        }
    }

    /// Leaves the lease: it is not held from here on, and the next write releases it for other candidates.
    pub fn leave(&mut self) {
        (self.leaving, self.held) = (true, None);
    }

    /// Whether the record may be this process's, or may become it.
    #[must_use]
    pub fn has_written(&self) -> bool {
        self.pending.is_some() || self.standing() == Standing::Mine
    }

    fn is_mine(&self, record: &Record) -> bool {
        let is_by_me = record.owner == self.me.name && record.writer.as_deref() == Some(&*self.me.writer);
        // A record that a person has written back has a lower epoch than records seen since.
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

    /// A record without an owner, to watch for a term: a deleted record may still have a holder, and a missing record
    /// does not show whether a holder renewed it meanwhile.
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
        // A record without an owner may have been on its way for long.
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

/// Returns an epoch above the last one, which is lost when the record is deleted, or written by Admiral's checker.
/// It is as reliable as the wall clock: a clock that is behind the last holder's by more seconds than there were
/// changes of owner since gives an epoch that was used before.
fn forgotten(updated_time: i64) -> u64 {
    u64::try_from(updated_time).unwrap_or(0)
}
