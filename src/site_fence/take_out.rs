//! Takes a site out of the accelerator when a person requests it, for maintenance. Replication stays as it is, so that
//! the site's data stays current as long as it is up.

use chrono::{DateTime, Utc};
use tracing::info;

use super::SiteFence;
use super::accelerator::Accelerator;
use super::apply::{answered, stays_out};
use super::decide::{self, Reason, Seen};
use super::error::Error;
use super::notes::{Note, Notes};
use super::outcome::{About, Failed, Outcome, Verdict};
use super::removal::Removal;
use super::request::TakeOut;
use super::site::{Leaving, Site, is_in_service};
use super::turn::Turn;
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
    let within = Turn::within(deadline);
    let mut leave = Leave {
        system,
        request,
        accelerator: &accelerator,
        removal: Removal::default(),
        turn: Turn::new(system, &accelerator.arn, &request.take_out, None, deadline),
        since: Utc::now(),
        deadline: within,
    };
    let done = within.persist(async |_| leave.accelerator().await).await;
    let site = &request.take_out;
    leave.removal.end(system, &accelerator, &leave.turn, site, deadline).await;
    leave.turn.end(leave.removal.record(), deadline).await;
    done
}

/// The removal of a site from an accelerator.
struct Leave<'a> {
    system: &'a SiteFence,
    request: &'a TakeOut,
    accelerator: &'a Accelerator,
    /// The endpoints whose removal was requested.
    removal: Removal,
    /// The permission to change the accelerator.
    turn: Turn<'a>,
    /// When it was requested: a later rejoin of the site is a person's newer word.
    since: DateTime<Utc>,
    deadline: Deadline,
}

impl Leave<'_> {
    /// Reads the accelerator, decides, and removes the site's endpoints; if there is a table, under a claim.
    async fn accelerator(&mut self) -> Result<Outcome, Error> {
        let Self { system, request: TakeOut { take_out: site, reason, .. }, deadline, .. } = *self;
        let dry_run = system.config.dry_run || self.request.dry_run;
        loop {
            let sight = self.removal.without_gone(system.view.look(self.accelerator, deadline).await?);
            let notes = &sight.notes;
            if let Some(rejoined) = answered(site, self.since, notes) {
                self.removal.gives_way(rejoined, site, &sight, (system, self.accelerator, deadline)).await?;
                let detail = Some("a person has rejoined the site since this was requested".to_owned());
                return Ok(Outcome { detail, ..outcome(Verdict::Refused).because(Reason::OlderThanRejoin) });
            }
            let removed = self.removal.is_perhaps_done();
            if removed && !is_in_service(site, &sight.groups) {
                if !notes.is_out(site) {
                    self.note_out().await?;
                }
                // The other sites may have been taken out in another way at the same time.
                if !decide::is_anyone_left(site, &self.removal.note.endpoints, &sight.groups) {
                    return Err(Error::NobodyLeft);
                }
                return Ok(outcome(Verdict::TakenOut));
            }
            let decision = decide::take_out(site, &Seen { groups: &sight.groups, notes });
            if !self.turn.is_taken() {
                let decision = if decision.is_ok() { "remove_endpoints" } else { "refuse" };
                info!(%site, accelerator = self.request.accelerator, decision, reason, "decided");
            }
            let leaving = match decision {
                // Without its note, which an earlier request could not write, it might come back in another way.
                Ok(leaving) if leaving.is_empty() && notes.is_out(site) => {
                    self.turn.refuse_if_just_rejoined(site, deadline).await?;
                    return Ok(outcome(Verdict::AlreadyOut));
                }
                Ok(leaving) => leaving,
                Err(reason) => {
                    let left = "endpoints of the site were removed before that: rejoin it, or take it out again later";
                    let detail = removed.then(|| left.to_owned());
                    return Ok(Outcome {
                        detail,
                        changed: removed,
                        ..outcome(Verdict::Refused).because(reason)
                    });
                }
            };
            if dry_run {
                return Ok(outcome(Verdict::WouldTakeOut));
            }
            if !self.turn.is_taken() && self.turn.take(deadline).await? {
                continue;
            }
            if !leaving.is_empty() && !removed {
                let rejoined = |site: &Site| notes.rejoined(site).map(|rejoined| rejoined.at);
                self.turn.refuse_if_just_out(|other| other != site.as_str(), rejoined)?;
            }
            let leaver = notes.leaver(site, None, Utc::now());
            if leaving.is_empty() {
                self.turn.refuse_if_just_rejoined(site, deadline).await?;
                self.removal.note = leaver;
                self.note_out().await?;
                return Ok(outcome(Verdict::TakenOut));
            }
            if self.remove(&leaving, leaver, notes).await? {
                self.note_out().await?;
            }
        }
    }

    /// Notes the endpoints, and removes them, as long as no person rejoins the site. Without the note nothing is removed: nothing is
    /// urgent. Returns whether they were all removed.
    async fn remove(&mut self, leaving: &Leaving<'_>, leaver: Note, before: &Notes) -> Result<bool, Error> {
        let Self { system, request: TakeOut { take_out: site, .. }, accelerator, since, deadline, .. } =
            *self;
        let accelerators = &system.view.accelerators;
        let note = leaver.with(leaving);
        if before.of(site) != Some(&note) {
            accelerators.tag(self.accelerator, note.tags(site), deadline).await?;
        }
        self.removal.begin(note, leaving, site, before);
        self.removal.void(system, accelerator, site, deadline.within(deadline.left() / 4)).await;
        let goes_on = async || stays_out(system, accelerator, site, since, deadline).await;
        self.removal.remove(system, leaving, goes_on, deadline).await
    }

    /// Notes that the site is out.
    async fn note_out(&mut self) -> Result<(), Error> {
        self.removal.is_out();
        let Self { system, request: TakeOut { take_out: site, .. }, deadline, .. } = *self;
        let note = self.removal.note.clone().out(None, Utc::now());
        Ok(system.view.accelerators.tag(self.accelerator, note.tags(site), deadline).await?)
    }
}

fn outcome(verdict: Verdict) -> Outcome {
    Outcome::new(About::default(), verdict)
}
