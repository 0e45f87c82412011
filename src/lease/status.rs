//! The state of a claim, in values and in words.

use std::time::Duration;

use super::claim::{Claim, Holding, NOBODY_MAY, Record, Standing};
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
    /// Why the last call failed, if it did.
    pub failing: Option<String>,
    /// Whether this candidate leaves the lease, for good.
    pub leaving: bool,
}

// === impl Status ===

impl Status {
    pub(super) fn of(claim: &Claim, failing: Option<String>) -> Self {
        let (holding, standing, record) = (claim.holding(), claim.standing(), claim.record().cloned());
        let leaving = claim.is_leaving();
        Self { holding, standing, record, failing, leaving }
    }

    /// The lease, if it is held at this very moment.
    #[must_use]
    pub fn active(&self) -> Option<Holding> {
        self.holding.filter(|holding| now() < holding.until)
    }

    /// How long the lease remains held, if it is held.
    #[must_use]
    pub fn active_for(&self) -> Option<Duration> {
        self.active().map(|holding| holding.until.saturating_sub(now()))
    }

    /// How long the record must stay unchanged before this candidate may take the lease, if it may take it then.
    #[must_use]
    pub fn takes_over_in(&self) -> Option<Duration> {
        match self.standing {
            Standing::Others(at) if !self.leaving => Some(at.saturating_sub(now())),
            _ => None,
        }
    }

    /// Why this candidate is no longer active.
    pub(super) fn reason(&self) -> String {
        match (&self.failing, self.standing) {
            _ if self.leaving => "it releases the lease".to_owned(),
            (Some(error), Standing::Mine) => format!("it could not be renewed: {error}"),
            (None, Standing::Mine) => {
                "it was not renewed in time: this process did not run, or its call took long".to_owned()
            }
            _ => self.stands(),
        }
    }

    /// Describes the state of the lease.
    #[must_use]
    pub fn stands(&self) -> String {
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
                match owner {
                    "" => format!("it has no owner; written by {writer}"),
                    owner => format!("it is {owner}'s; written by {writer}"),
                }
            }
        }
    }
}
