//! The turn of one execution to change an accelerator: a claim in the table, if there is a table.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use tokio::time::Instant;
use tracing::warn;

use super::SiteFence;
use super::dynamodb::{Claim, Entry, First, OUT, REJOINED, Table};
use super::error::Error;
use super::site::Site;
use crate::remote::deadline::Deadline;

/// The time in which another execution's claim is expected to end.
const FINISHING: Duration = Duration::from_secs(10);
/// The time that is kept for the end of a claim.
const ENDING: Duration = Duration::from_secs(2);

/// The time for which Global Accelerator may show a site that was taken out, or not show one that was rejoined.
const SHOWN: Duration = Duration::from_mins(1);

/// How much the clocks of two executions may differ.
const CLOCKS: Duration = Duration::from_secs(30);

/// What is on record after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// That the site is out, since then.
    Out(DateTime<Utc>),
    /// That a person has rejoined it, at that time.
    Rejoined(DateTime<Utc>),
    /// What was before.
    AsBefore,
}

/// One execution's turn, which it has once it has taken it.
pub(super) struct Turn<'a> {
    table: Option<&'a Table>,
    accelerator: &'a str,
    site: &'a Site,
    /// `None` for a person's request.
    reporter: Option<&'a Site>,
    /// The claim, as soon as the turn was tried to be taken: it may stand although no answer said so.
    claim: Option<Claim>,
    is_taken: bool,
    /// The record in whose place the claim is.
    replaced: Option<Entry>,
    /// When another execution's claim was met first.
    met: Option<Instant>,
    /// When this execution has ended.
    deadline: Deadline,
}

impl<'a> Turn<'a> {
    /// The turn to take a site out of the accelerator with this ARN, or to add it again, in an execution that ends at
    /// `deadline`. It is not taken yet.
    pub(super) fn new(
        system: &'a SiteFence,
        accelerator: &'a str,
        site: &'a Site,
        reporter: Option<&'a Site>,
        deadline: Deadline,
    ) -> Self {
        let table = system.table.as_ref();
        let (claim, is_taken, replaced, met) = (None, false, None, None);
        Self { table, accelerator, site, reporter, claim, is_taken, replaced, met, deadline }
    }

    /// The deadline for what happens in a turn: it leaves time to end the turn before `deadline`.
    pub(super) fn within(deadline: Deadline) -> Deadline {
        let kept = ENDING.min(deadline.left() / 4);
        deadline.within(deadline.left().saturating_sub(kept))
    }

    pub(super) fn is_taken(&self) -> bool {
        self.is_taken
    }

    /// Takes the turn, until the execution's end. Returns whether that was needed: without a table it is not. What was read before may have changed
    /// since: read it again.
    pub(super) async fn take(&mut self, deadline: Deadline) -> Result<bool, Error> {
        let Some(table) = self.table else { return Ok(false) };
        let Self { accelerator, site, reporter, deadline: end, .. } = *self;
        let claim = self.claim.get_or_insert_with(|| Claim::new(accelerator, site, reporter, end));
        match table.claim(claim, deadline).await? {
            First::This(replaced) => (self.is_taken, self.replaced) = (true, replaced),
            First::Other(entry) => {
                self.claim = None;
                let (first, ends) = (entry.to_string(), entry.ends);
                let met = *self.met.get_or_insert_with(Instant::now);
                return Err(Error::OtherReport { first, ends, may_pass: met.elapsed() < FINISHING });
            }
        }
        Ok(true)
    }

    /// Refuses a turn that may take out the last site: if one of those that `serve` after it was taken out a short time ago, by
    /// the record, Global Accelerator may only still show it, unless it was rejoined since.
    pub(super) fn refuse_if_just_out(
        &self,
        serves: impl Fn(&str) -> bool,
        rejoined: impl Fn(&Site) -> Option<DateTime<Utc>>,
    ) -> Result<(), Error> {
        let record = self.replaced.as_ref().filter(|record| serves(&record.site));
        let Some((record, out)) = record.and_then(|record| Some((record, lately(&record.out)?))) else {
            return Ok(());
        };
        let rejoined = record.site.parse().ok().and_then(|site| rejoined(&site));
        if rejoined.is_some_and(|rejoined| rejoined >= out) {
            return Ok(());
        }
        Err(shown(record, out))
    }

    /// Refuses what rests on this site being out: if a person has rejoined it a short time ago, by the record, Global
    /// Accelerator may only not show it yet.
    pub(super) async fn refuse_if_just_rejoined(&self, site: &Site, deadline: Deadline) -> Result<(), Error> {
        let record = match self.table {
            Some(table) if !self.is_taken => table.entry(self.accelerator, deadline).await?,
            _ => self.replaced.clone(),
        };
        let Some(record) = record.filter(|record| record.site == site.as_str()) else { return Ok(()) };
        lately(&record.rejoined).map_or(Ok(()), |rejoined| Err(shown(&record, rejoined)))
    }

    /// The site that this one has taken out, by the record.
    pub(super) fn taken_out_by(&self, reporter: &Site) -> Option<Site> {
        let record = self.replaced.as_ref()?;
        (record.reporter == reporter.as_str() && !record.out.is_empty()).then(|| record.site.parse().ok())?
    }

    /// Whether this site was taken out a short time ago, by the record.
    pub(super) fn has_just_left(&self, site: &Site) -> bool {
        self.refuse_if_just_out(|name| name == site.as_str(), |_| None).is_err()
    }

    /// Ends the turn if it was taken, or may have been.
    pub(super) async fn end(self, end: End, deadline: Deadline) {
        let (Some(table), Some(claim)) = (self.table, self.claim) else { return };
        let other = self.replaced.filter(|record| record.site != self.site.as_str());
        let other_has_left = other.is_some_and(|record| lately(&record.out).is_some());
        let ended = match end {
            End::Out(out) if self.is_taken => table.keep(claim, OUT, out, deadline).await,
            // The record that another site has just left says more.
            End::Rejoined(at) if self.is_taken && !other_has_left => {
                table.keep(claim, REJOINED, at, deadline).await
            }
            End::Out(_) | End::Rejoined(_) | End::AsBefore => table.release(claim, deadline).await,
        };
        if let Err(failure) = ended {
            warn!(site = %self.site, error = %failure, "the claim could not be ended: it ends by itself");
        }
    }
}

/// The time of a record, if Global Accelerator may still show what was before it. One from the future is none.
fn lately(at: &str) -> Option<DateTime<Utc>> {
    let (at, now) = (at.parse::<DateTime<Utc>>().ok()?, Utc::now());
    (at <= now + CLOCKS && now < at + SHOWN).then_some(at)
}

/// The refusal of what Global Accelerator may only still show.
fn shown(record: &Entry, at: DateTime<Utc>) -> Error {
    let ends = (at + SHOWN).to_rfc3339_opts(SecondsFormat::Secs, true);
    Error::OtherReport { first: record.to_string(), ends, may_pass: false }
}
