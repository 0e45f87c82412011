//! Takes a site out of the accelerator when a person requests it, for maintenance. Replication stays as it is, so that
//! the site's data stays current as long as it is up.

use chrono::Utc;
use tokio::time::Instant;
use tracing::{info, warn};

use super::SiteFence;
use super::accelerator::Accelerator;
use super::apply::{FINISHING, RELEASING};
use super::decide::{self, Leaving, Seen};
use super::dynamodb::{Claim, First};
use super::error::Error;
use super::notes::{Note, Notes};
use super::outcome::{About, Failed, Outcome, Verdict};
use super::request::TakeOut;
use super::site::is_in_service;
use crate::remote::deadline::Deadline;

/// Handles one request.
pub(super) async fn take_out(
    system: &SiteFence,
    request: TakeOut,
    deadline: Deadline,
) -> Result<Outcome, Failed> {
    let about = About {
        site: Some(request.take_out.clone()),
        reporter: None,
        accelerator: Some(request.accelerator.clone()),
    };
    match planned(system, &request, deadline).await {
        Ok(outcome) => Ok(Outcome { about, ..outcome }),
        Err(error) => Err(Failed { about, error }),
    }
}

async fn planned(system: &SiteFence, request: &TakeOut, deadline: Deadline) -> Result<Outcome, Error> {
    let name = &request.accelerator;
    let accelerator = system.view.accelerators.named(name, deadline).await?;
    let accelerator = accelerator.ok_or_else(|| Error::NoSuchAccelerator(name.clone()))?;
    let kept = RELEASING.min(deadline.left() / 4);
    let within = deadline.within(deadline.left().saturating_sub(kept));
    let mut leave = Leave {
        system,
        request,
        accelerator,
        note: Note::default(),
        claim: None,
        began: Instant::now(),
        deadline: within,
    };
    let done = within.persist(async |_| leave.accelerator().await).await;
    if let (Some(table), Some(claim)) = (&system.table, leave.claim)
        && let Err(failure) = table.release(claim, deadline).await
    {
        warn!(site = %request.take_out, error = %failure, "the claim could not be ended: it ends by itself");
    }
    done
}

/// The removal of a site from an accelerator.
struct Leave<'a> {
    system: &'a SiteFence,
    request: &'a TakeOut,
    accelerator: Accelerator,
    /// The endpoints whose removal was requested.
    note: Note,
    /// The permission to change the accelerator, if there is a table.
    claim: Option<Claim>,
    began: Instant,
    deadline: Deadline,
}

impl Leave<'_> {
    /// Reads the accelerator, decides, and removes the site's endpoints; if there is a table, under a claim.
    async fn accelerator(&mut self) -> Result<Outcome, Error> {
        let Self { system, request: TakeOut { take_out: site, reason, .. }, deadline, .. } = *self;
        let dry_run = system.config.dry_run || self.request.dry_run;
        loop {
            let sight = system.view.look(&self.accelerator, deadline).await?;
            let notes = Notes::read(&self.accelerator.arn, &sight.tags);
            let removed = !self.note.endpoints.is_empty();
            if removed && !is_in_service(site, &sight.groups) {
                // The answer to the removal was lost.
                return self.note_out().await;
            }
            let decision = decide::take_out(site, &Seen { groups: &sight.groups, notes: &notes });
            if self.claim.is_none() {
                let decision = if decision.is_ok() { "remove_endpoints" } else { "refuse" };
                info!(%site, accelerator = self.request.accelerator, decision, reason, "decided");
            }
            let leaving = match decision {
                Ok(leaving) if leaving.is_empty() => return Ok(outcome(Verdict::AlreadyOut)),
                Ok(leaving) => leaving,
                Err(reason) => return Ok(outcome(Verdict::Refused).because(reason)),
            };
            if dry_run {
                return Ok(outcome(Verdict::WouldTakeOut));
            }
            if self.claim.is_none() && self.claim().await? {
                continue;
            }
            let leaver = Note { by: None, ..notes.of(site).cloned().unwrap_or_default() };
            return self.remove(&leaving, leaver).await;
        }
    }

    /// Claims the accelerator. Returns whether there is a table for that.
    async fn claim(&mut self) -> Result<bool, Error> {
        let Self { system, request: TakeOut { take_out: site, .. }, deadline, .. } = *self;
        let Some(table) = &system.table else { return Ok(false) };
        match table.claim(&self.accelerator.arn, site, None, deadline).await? {
            First::This(claim) => self.claim = Some(claim),
            First::Other(entry) => {
                let (first, ends) = (entry.to_string(), entry.ends);
                return Err(Error::OtherReport { first, ends, may_pass: self.began.elapsed() < FINISHING });
            }
        }
        Ok(true)
    }

    /// Notes the endpoints, and removes them. Without the note nothing is removed: nothing is urgent.
    async fn remove(&mut self, leaving: &Leaving<'_>, leaver: Note) -> Result<Outcome, Error> {
        let Self { system, request: TakeOut { take_out: site, .. }, deadline, .. } = *self;
        let accelerators = &system.view.accelerators;
        let note = leaver.with(leaving);
        accelerators.tag(&self.accelerator, note.tags(site), deadline).await?;
        self.note = note;
        for (group, endpoints) in leaving {
            accelerators.remove(group, endpoints, deadline).await?;
        }
        self.note_out().await
    }

    async fn note_out(&self) -> Result<Outcome, Error> {
        let Self { system, request: TakeOut { take_out: site, .. }, deadline, .. } = *self;
        let note = self.note.clone().out(None, Utc::now());
        system.view.accelerators.tag(&self.accelerator, note.tags(site), deadline).await?;
        Ok(outcome(Verdict::TakenOut))
    }
}

fn outcome(verdict: Verdict) -> Outcome {
    Outcome::new(About::default(), verdict)
}
