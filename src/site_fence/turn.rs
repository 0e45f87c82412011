//! The turn of one execution to change an accelerator: a claim in the table, if there is a table.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use tokio::time::Instant;
use tracing::warn;

use super::SiteFence;
use super::dynamodb::{Claim, Entry, First, Table};
use super::error::Error;
use super::notes::{By, Notes};
use super::site::Site;
use crate::program::text::Quoted;
use crate::remote::aws::Failure;
use crate::remote::deadline::Deadline;

/// The time in which another execution's claim is expected to end.
const FINISHING: Duration = Duration::from_secs(10);
/// The time that is kept for the end of a claim.
const ENDING: Duration = Duration::from_secs(2);

/// The time for which Global Accelerator may show a site that was taken out, or not show one that was rejoined.
const SHOWN: Duration = Duration::from_mins(1);

/// How long a reporter takes out no second site, where only the record shows the first one.
const LASTS: Duration = Duration::from_hours(24);
/// How much the clocks of two executions may differ.
pub(super) const CLOCKS: Duration = Duration::from_secs(30);

/// What is on record after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// That the site is out, since then.
    Out(DateTime<Utc>),
    /// That a person has rejoined it, at that time; or may have, if it is not done.
    Rejoined {
        /// When.
        at: DateTime<Utc>,
        /// Whether all of it was done.
        done: bool,
    },
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

    /// Takes the turn, until the execution's end. Returns whether that was needed: without a table it is not. What was read
    /// before may have changed since: read it again.
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
        let out = record.and_then(|record| time(&record.out)).filter(|out| is_late(*out));
        let Some((record, out)) = record.zip(out) else { return Ok(()) };
        let noted = record.site.parse().ok().and_then(|site| rejoined(&site));
        let rejoined = noted.max(record.rejoins.get(&record.site).copied());
        if rejoined.is_some_and(|rejoined| rejoined >= out) {
            return Ok(());
        }
        Err(shown(format!("FENCE_TABLE: {record}"), out))
    }

    /// Refuses a rejoin of what is shown in service, if it was taken out a short time ago by its note: Global Accelerator may only
    /// still show it. The record says no more than that, and may not be there.
    pub(super) fn refuse_if_just_noted(site: &Site, out: Option<DateTime<Utc>>) -> Result<(), Error> {
        match out.filter(|out| is_late(*out)) {
            Some(out) => {
                let at = out.to_rfc3339_opts(SecondsFormat::Secs, true);
                Err(shown(format!("{} was taken out at {at} by its note", Quoted(site.as_str())), out))
            }
            None => Ok(()),
        }
    }

    /// Refuses what rests on this site being out: if a person has rejoined it a short time ago, by the record, or does so now,
    /// Global Accelerator may only not show it yet.
    pub(super) async fn refuse_if_just_rejoined(&self, site: &Site, deadline: Deadline) -> Result<(), Error> {
        let Some(record) = self.record(deadline).await? else { return Ok(()) };
        let (now, out) = (Utc::now(), time(&record.out).filter(|_| record.site == site.as_str()));
        if record.site == site.as_str() && record.reporter.is_empty() && out.is_none() {
            // A person's request about it, which has not ended.
            if time(&record.ends).is_some_and(|ends| ends > now) {
                let (first, ends) = (record.to_string(), record.ends);
                return Err(Error::OtherReport { first, ends, may_pass: false });
            }
        }
        let rejoined =
            record.rejoins.get(site.as_str()).filter(|rejoined| out.is_none_or(|out| out <= **rejoined));
        match rejoined.copied().filter(|rejoined| is_late(*rejoined)) {
            Some(at) => Err(shown(
                format!(
                    "FENCE_TABLE: a person rejoined {} at {}",
                    Quoted(site.as_str()),
                    at.to_rfc3339_opts(SecondsFormat::Secs, true)
                ),
                at,
            )),
            None => Ok(()),
        }
    }

    /// What is on record of the accelerator, before this turn.
    async fn record(&self, deadline: Deadline) -> Result<Option<Entry>, Failure> {
        match self.table {
            Some(table) if !self.is_taken => table.entry(self.accelerator, deadline).await,
            _ => Ok(self.replaced.clone()),
        }
    }

    /// Adds to the note of another site that does not say who has taken it out what the record says of that.
    pub(super) async fn attribute(&self, notes: &mut Notes, deadline: Deadline) {
        if !notes.iter().any(|(_, note)| note.is_by_no_one()) {
            return;
        }
        // Without the record it may have been anyone.
        let Ok(Some(record)) = self.record(deadline).await else { return };
        let reporter = Some(&record.reporter).filter(|reporter| !reporter.is_empty());
        let reporter = reporter.map(|reporter| reporter.parse()).transpose();
        if let (Ok(site), Some(at), Ok(reporter)) = (record.site.parse(), time(&record.out), reporter)
            && site != *self.site
        {
            notes.attribute(&site, By { at, reporter });
        }
    }

    /// The site that this one has taken out within a day, by the record.
    pub(super) fn taken_out_by(&self, reporter: &Site) -> Option<Site> {
        let record = self.replaced.as_ref().filter(|record| record.reporter == reporter.as_str())?;
        if Utc::now() < time(&record.out)? + LASTS { record.site.parse().ok() } else { None }
    }

    /// Whether this site was taken out a short time ago, by the record.
    pub(super) fn has_just_left(&self, site: &Site) -> bool {
        self.refuse_if_just_out(|name| name == site.as_str(), |_| None).is_err()
    }

    /// Ends the turn if it was taken, or may have been.
    pub(super) async fn end(self, end: End, deadline: Deadline) {
        let (Some(table), Some(claim)) = (self.table, self.claim) else { return };
        let ended = match end {
            End::Out(out) if self.is_taken => table.keep(claim, out, deadline).await,
            End::Rejoined { at, done } if self.is_taken => table.rejoined(claim, at, done, deadline).await,
            End::Out(_) | End::Rejoined { .. } | End::AsBefore => table.release(claim, deadline).await,
        };
        if let Err(failure) = ended {
            warn!(site = %self.site, error = %failure, "the claim could not be ended: it ends by itself");
        }
    }
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    text.parse().ok()
}

/// Whether Global Accelerator may still show what was before this time. One from the future is none.
fn is_late(at: DateTime<Utc>) -> bool {
    let now = Utc::now();
    at <= now + CLOCKS && now < at + SHOWN
}

/// The refusal of what Global Accelerator may only still show.
fn shown(record: String, at: DateTime<Utc>) -> Error {
    Error::JustChanged { record, until: (at + SHOWN).to_rfc3339_opts(SecondsFormat::Secs, true) }
}
