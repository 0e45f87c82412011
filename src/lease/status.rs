//! The state of a claim, in values and in words.

use std::time::Duration;

use super::claim::{Claim, Holding, Moment, NOBODY_MAY, Record, Standing, Will};
use super::clock::now;

/// The state of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The lease, if it was won and not lost since. See [`Status::active`].
    pub holding: Option<Holding>,
    /// The state of the lease.
    pub standing: Standing,
    /// The record that was seen, or written, last.
    pub record: Option<Record>,
    /// The record's term, if it is longer than this candidate's configuration says that any can be.
    pub unexpected_term: Option<Duration>,
    /// Why the last call failed, if it did.
    pub failing: Option<String>,
    /// Whether this candidate wants the lease.
    pub will: Will,
    /// Why it does not, if it does not.
    pub unwilling: Option<String>,
}

/// Whether the command runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Running {
    /// It does not.
    #[default]
    No,
    /// It does, since this time in seconds since 1970.
    Since(i64),
    /// It was started at this time, received TERM, and it or a process that it has started still runs.
    Ending(i64),
    /// It has ended by itself with this status, and a process that it has started still runs.
    Leftovers(u8),
    /// Its time is over, and whether it has ended is not known.
    Unknown,
}

// === impl Status ===

impl Status {
    pub(super) fn of(claim: &Claim, failing: Option<String>, unwilling: Option<String>) -> Self {
        let (holding, standing, record) = (claim.holding(), claim.standing(), claim.record().cloned());
        let (unexpected_term, will) = (claim.unexpected_term(), claim.will());
        Self { holding, standing, record, unexpected_term, failing, will, unwilling }
    }

    /// The lease, if this candidate is active at this very moment.
    #[must_use]
    pub fn active(&self) -> Option<Holding> {
        self.active_at(now())
    }

    /// The lease, if this candidate is active at this moment.
    #[must_use]
    pub fn active_at(&self, now: Moment) -> Option<Holding> {
        self.holding.filter(|holding| self.will == Will::Take && holding.is_active(now))
    }

    /// Whether the lease is not held, and its term, if it was, has been over for so long.
    #[must_use]
    pub fn is_over_since(&self, time: Duration) -> bool {
        self.holding.is_none_or(|holding| (holding.expires + time).has_come(now()))
    }

    /// How long the record must stay unchanged before this candidate may take the lease, if it may take it then and can
    /// read the record.
    #[must_use]
    pub fn takes_over_in(&self) -> Option<Duration> {
        match self.standing {
            Standing::Others(at) if self.will == Will::Take && self.failing.is_none() => {
                Some(at.latest(now()))
            }
            _ => None,
        }
    }

    /// Why this candidate is no longer active.
    pub(super) fn reason(&self) -> String {
        match (&self.failing, self.standing) {
            _ if self.will != Will::Take => {
                let why = self.unwilling.as_ref();
                why.map_or_else(
                    || "it releases the lease".to_owned(),
                    |why| format!("it releases the lease: {why}"),
                )
            }
            (Some(error), Standing::Mine) => format!("it could not be renewed: {error}"),
            (None, Standing::Mine) => {
                "it was not renewed in time: this process did not run, or its call took long".to_owned()
            }
            _ => self.description(),
        }
    }

    /// Describes the state of the lease, as it was seen last.
    #[must_use]
    pub fn description(&self) -> String {
        let is_held = self.holding.is_some_and(|holding| holding.is_active(now()));
        match self.standing {
            Standing::Mine if !is_held => {
                "it was this process's when it was seen last: another may have it".to_owned()
            }
            Standing::Unseen | Standing::Mine => self.last_seen(),
            _ if self.failing.is_some() => format!("{}, as it was seen last", self.last_seen()),
            _ => self.last_seen(),
        }
    }

    fn last_seen(&self) -> String {
        let record = self.record.as_ref();
        match self.standing {
            Standing::Unseen => "it has not been seen yet".to_owned(),
            Standing::Missing => "there is no record".to_owned(),
            Standing::Mine => "it is this process's".to_owned(),
            Standing::Pinned => format!("{NOBODY_MAY} keeps all candidates passive"),
            Standing::Released => "it is released".to_owned(),
            Standing::Others(_) => {
                let (owner, writer) =
                    record.map_or(("", None), |record| (record.owner.as_str(), record.writer.as_deref()));
                let writer = writer.unwrap_or("Admiral's checker or a person");
                let of =
                    if owner.is_empty() { "it has no owner".to_owned() } else { format!("it is {owner}'s") };
                let term = self.unexpected_term.map(|term| {
                    format!(
                        "; its term of {term:?} is longer than longestTermInSeconds here: correct that candidate's configuration or this one's"
                    )
                });
                format!("{of}; written by {writer}{}", term.unwrap_or_default())
            }
        }
    }
}
