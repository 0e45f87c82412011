//! The effect: takes a site out of an accelerator, then out of replication.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tracing::{info, warn};

use super::SiteFence;
use super::accelerator::Accelerator;
use super::decide::{self, Decision, Proof, Reason, Seen};
use super::error::Error;
use super::infinispan::{self, Session, State};
use super::notes::{Note, Notes};
use super::outcome::{About, Outcome, Verdict};
use super::pauses::Pauses;
use super::removal::Removal;
use super::site::{Endpoint, EndpointGroup, Leaving, Owner, Site, is_in_service};
use super::turn::{CLOCKS, Turn};
use super::view::Sight;
use super::webhook::Accusation;
use crate::remote::aws::Failure;
use crate::remote::deadline::Deadline;

/// The time for the check whether the reporter's Infinispan can be reached, and is in order.
const CHECKING: Duration = Duration::from_secs(20);
/// The same without a table: the other site's report waits meanwhile.
const CHECKING_ALONE: Duration = Duration::from_secs(5);
/// The time that replication may take to end: meanwhile the others wait for the claim.
const TAKING_OFFLINE: Duration = Duration::from_secs(30);
/// The time for which the note may delay the removal of the endpoints.
const NOTING: Duration = Duration::from_secs(5);

/// Takes the site out of the accelerator, then out of replication.
pub(super) async fn take_out(
    system: &SiteFence,
    accusation: &Accusation,
    deadline: Deadline,
) -> Result<Outcome, Error> {
    let name = &accusation.accelerator;
    let outcome = |verdict| Outcome::new(About::default(), verdict);
    let accelerator = system.view.accelerators.named(name, deadline).await?;
    let accelerator = accelerator.ok_or_else(|| Error::NoSuchAccelerator(name.clone()))?;
    let infinispan = system.infinispan(deadline).await?;

    let verdict = match leave(system, accusation, &accelerator, infinispan.as_ref(), deadline).await? {
        Out::Left { changed: true } => Verdict::Fenced,
        Out::Left { changed: false } => Verdict::AlreadyFenced,
        Out::Replicating { failure, removed: true } => return Err(Error::Replicating(failure)),
        Out::Replicating { failure, removed: false } => return Err(failure.into()),
        Out::WouldLeave => Verdict::WouldFence,
        Out::Stays(reason, detail) => {
            let verdict = match reason {
                Reason::OlderThanRejoin | Reason::SeenAgain => Verdict::Ignored,
                _ => Verdict::Refused,
            };
            let pauses = (reason == Reason::Paused).then_some(1);
            return Ok(Outcome { detail, pauses, ..outcome(verdict).because(reason) });
        }
    };
    Ok(outcome(verdict))
}

/// Takes the site out of the accelerator, then out of replication. A claim that this needs has ended afterwards, whatever
/// the result.
async fn leave(
    system: &SiteFence,
    accusation: &Accusation,
    accelerator: &Accelerator,
    infinispan: Option<&Session<'_>>,
    deadline: Deadline,
) -> Result<Out, Error> {
    let within = Turn::within(deadline);
    let mut leave = Leave {
        system,
        accusation,
        accelerator,
        infinispan,
        removed: false,
        taken_offline: false,
        is_whole: false,
        removal: Removal::default(),
        turn: Turn::new(system, &accelerator.arn, &accusation.site, Some(&accusation.reporter), deadline),
        since: Utc::now(),
        deadline: within,
    };
    let out = within.persist(async |_| Box::pin(leave.accelerator()).await).await;
    leave.removal.end(system, accelerator, &leave.turn, &accusation.site, deadline).await;
    // The record stays also if only replication is not off yet.
    leave.turn.end(leave.removal.record(), deadline).await;
    // It is counted as taken out also then: the next report finds it out.
    out.map_err(|error| if leave.is_whole { Error::Removed(Box::new(error)) } else { error })
}

/// The result of a site's removal from an accelerator.
enum Out {
    Left {
        /// Whether anything was changed for it.
        changed: bool,
    },
    /// It is out of the accelerator, and not of replication: the next report tries again.
    Replicating {
        failure: infinispan::Failure,
        /// Whether this report took it out of the accelerator.
        removed: bool,
    },
    WouldLeave,
    Stays(Reason, Option<String>),
}

/// The removal of a site from an accelerator.
struct Leave<'a> {
    system: &'a SiteFence,
    accusation: &'a Accusation,
    accelerator: &'a Accelerator,
    infinispan: Option<&'a Session<'a>>,
    /// Whether any endpoint may have been removed.
    removed: bool,
    /// Whether replication to it was stopped.
    taken_offline: bool,
    /// Whether this report has taken it out wholly, as far as it was seen.
    is_whole: bool,
    /// The endpoints whose removal was requested.
    removal: Removal,
    /// The permission to change the accelerator.
    turn: Turn<'a>,
    /// When this report was taken up: a later rejoin of the site is a person's answer to it.
    since: DateTime<Utc>,
    deadline: Deadline,
}

impl Leave<'_> {
    /// Reads the accelerator, decides, and takes the site out. If there is a table, the accelerator is read and decided about
    /// again under the claim before anything is changed: another execution may have changed it before, and a rejoin may be
    /// under way.
    async fn accelerator(&mut self) -> Result<Out, Error> {
        let Self { system, accusation, accelerator, deadline, .. } = *self;
        let site = &accusation.site;
        loop {
            let sight = self.look().await?;
            let notes = &sight.notes;
            // As long as nothing was changed, its age decides.
            if let Some(rejoined) = self.answered(notes).filter(|_| self.removed || self.taken_offline) {
                // What this report has removed is no record of a fence any more.
                self.is_whole = false;
                self.removal.gives_way(rejoined, site, &sight, (system, accelerator, deadline)).await?;
                return Ok(Out::Stays(Reason::OlderThanRejoin, None));
            }
            let (decision, pause) = self.decide(&sight);
            let (leaving, proof) = match decision {
                // A removal whose answer was lost, and that could not be noted, leaves endpoints of unknown sites.
                Decision::Refuse(Reason::SiteUnknown) if self.removed => (None, Proof::None),
                Decision::Refuse(Reason::Paused) => return Ok(Out::Stays(Reason::Paused, pause)),
                Decision::Refuse(reason) => {
                    // Its removal is noted, whatever happened to the reporter since.
                    if self.removed && !is_in_service(site, &sight.groups) {
                        self.is_whole = true;
                        self.note_out().await;
                        if !decide::is_anyone_left(site, &self.removal.note.endpoints, &sight.groups) {
                            return Err(Error::NobodyLeft);
                        }
                    }
                    if reason == Reason::ReporterIsFenced {
                        self.turn.refuse_if_just_rejoined(&accusation.reporter, deadline).await?;
                    }
                    return self.refuse(reason, &sight).await;
                }
                Decision::AlreadyOut(proof) => (None, proof),
                Decision::Remove(leaving, proof) => (Some(leaving), proof),
            };
            self.is_whole |= leaving.is_none() && self.removed;
            if proof != Proof::None && !self.removed {
                let (over, unknown) = if accusation.is_late {
                    (Reason::SeenAgain, Reason::DeliveredLate)
                } else {
                    (Reason::OlderThanRejoin, Reason::RejoinedSince)
                };
                let is_noted = leaving.is_none() && notes.is_out(site);
                match self.sees().await? {
                    Some(true) => return Ok(Out::Stays(over, None)),
                    Some(false) => {}
                    // Nothing is left to do, or a person has said that the site is lost.
                    None if is_noted || proof == Proof::UnseenIfKnown => {}
                    None => return Ok(Out::Stays(unknown, None)),
                }
            }
            if leaving.is_none() && !self.removed {
                self.turn.refuse_if_just_rejoined(site, deadline).await?;
            }
            // A note from before the last rejoin is not about this fence.
            let is_noted = notes.is_out(site);
            if leaving.is_none() && (is_noted || system.config.dry_run) && self.is_offline().await? {
                return Ok(self.left());
            }
            if leaving.is_some() && !self.removed && !self.turn.is_taken() {
                // Before any change: if the reporter's Infinispan cannot be reached, the other site's report decides.
                self.check().await?;
            }
            if system.config.dry_run {
                return Ok(Out::WouldLeave);
            }
            if !self.turn.is_taken() && self.turn.take(deadline).await? {
                continue;
            }
            if let Some(leaving) = leaving {
                let rejoined = |site: &Site| notes.rejoined(site).map(|rejoined| rejoined.at);
                self.turn.refuse_if_just_out(|other| other != site.as_str(), rejoined)?;
                // Its note may have found no room.
                let fenced = self.turn.taken_out_by(&accusation.reporter);
                if fenced.is_some_and(|other| other != *site && !is_in_service(&other, &sight.groups)) {
                    return self.refuse(Reason::SecondFence, &sight).await;
                }
                if self.remove(&sight, &leaving).await? {
                    continue;
                }
            } else {
                // Of a site that another report took out, the record stays that one's.
                if self.removed || !is_noted {
                    self.removal.is_out();
                }
                if !is_noted {
                    self.note_out().await;
                }
            }
            // Last, because it may fail: the note keeps the site out if its endpoints are put back in another way.
            if let Some(infinispan) = self.infinispan {
                if self.answered(&notes_of(system, accelerator, deadline).await?).is_some() {
                    continue;
                }
                let (reporter, time) = (&accusation.reporter, deadline.within(TAKING_OFFLINE));
                match infinispan.set(reporter, site, State::Offline, time).await {
                    // Meanwhile a rejoin by force, which needs no claim, may have brought it online.
                    Ok(_) if self.answered(&notes_of(system, accelerator, deadline).await?).is_some() => {
                        infinispan.set(reporter, site, State::Online, deadline).await?;
                        self.taken_offline = true;
                        continue;
                    }
                    Ok(changed) => self.taken_offline |= changed,
                    Err(failure) => return Ok(Out::Replicating { failure, removed: self.removed }),
                }
            }
            return Ok(self.left());
        }
    }

    /// The accelerator, without what was removed.
    async fn look(&self) -> Result<Sight, Error> {
        let Self { system, accelerator, deadline, .. } = *self;
        let mut sight = self.removal.without_gone(system.view.look(accelerator, deadline).await?);
        self.turn.attribute(&mut sight.notes, deadline.within(NOTING)).await;
        Ok(sight)
    }

    /// When a person has rejoined the site, if that was after this report was taken up.
    fn answered(&self, notes: &Notes) -> Option<DateTime<Utc>> {
        answered(&self.accusation.site, self.since, notes)
    }

    fn left(&self) -> Out {
        Out::Left { changed: self.removed || self.taken_offline }
    }

    /// Whether the reporter has stopped to replicate to the site.
    async fn is_offline(&self) -> Result<bool, Error> {
        let Accusation { site, reporter, .. } = self.accusation;
        Ok(match self.infinispan {
            Some(infinispan) => infinispan.state(reporter, site, self.deadline).await? == State::Offline,
            None => true,
        })
    }

    /// Notes that the site is out, and by whom.
    async fn note_out(&mut self) {
        self.removal.is_out();
        let Self { system, accusation: Accusation { site, reporter, .. }, accelerator, deadline, .. } = *self;
        note(system, accelerator, site, &self.removal.note.clone().out(Some(reporter), Utc::now()), deadline)
            .await;
    }

    /// Whether the reporter sees the site; `None` without Infinispan, where this cannot be known.
    async fn sees(&self) -> Result<Option<bool>, Error> {
        let Accusation { site, reporter, .. } = self.accusation;
        match self.infinispan {
            Some(infinispan) => Ok(Some(infinispan.sees(reporter, site, self.checking()).await?)),
            None => Ok(None),
        }
    }

    async fn check(&self) -> Result<(), Error> {
        let Accusation { site, reporter, .. } = self.accusation;
        if let Some(infinispan) = self.infinispan {
            infinispan.state(reporter, site, self.checking()).await?;
        }
        Ok(())
    }

    fn checking(&self) -> Deadline {
        self.deadline.within(if self.system.table.is_some() { CHECKING } else { CHECKING_ALONE })
    }

    /// Notes the endpoints, removes them, and notes that the site is out. Returns whether it is in service elsewhere meanwhile, so
    /// that it has to be decided again.
    async fn remove(&mut self, sight: &Sight, leaving: &Leaving<'_>) -> Result<bool, Error> {
        let Self { system, accusation: Accusation { site, reporter, .. }, accelerator, deadline, .. } = *self;
        self.is_whole = false;
        let notes = &sight.notes;
        let leaver = notes.leaver(site, Some(reporter), Utc::now()).with(leaving);
        // A try before may have noted it.
        if notes.of(site) != Some(&leaver) {
            note(system, accelerator, site, &leaver, deadline).await;
        }
        self.removal.begin(leaver, leaving, site, notes);
        let noting = deadline.within(NOTING.min(deadline.left() / 4));
        self.removal.void(system, accelerator, site, noting).await;
        let since = self.since;
        let goes_on = async || stays_out(system, accelerator, site, since, deadline).await;
        let removed = self.removal.remove(system, leaving, goes_on, deadline).await;
        self.removed |= self.removal.is_perhaps_done();
        if !removed? {
            return Ok(true);
        }
        self.is_whole = true;
        self.note_out().await;
        // Check again: a report against the reporter may have been handled at the same time.
        let mut left = system.view.accelerators.groups(accelerator, deadline).await?;
        let before: BTreeMap<_, _> =
            sight.endpoints().map(|endpoint| (&endpoint.id, &endpoint.owner)).collect();
        // Those that have come meanwhile: a load balancer that took another's place, say.
        let new = left.iter().flat_map(|group| &group.endpoints).map(|endpoint| endpoint.id.as_str());
        let new = new.filter(|id| !before.keys().any(|known| known.as_str() == *id)).collect();
        let new = system.view.owners(accelerator, new, deadline).await?;
        for endpoint in left.iter_mut().flat_map(|group| &mut group.endpoints) {
            let owner = before.get(&endpoint.id).copied().or(new.get(&endpoint.id));
            endpoint.owner = owner.cloned().unwrap_or(Owner::Unknown);
        }
        if !decide::is_anyone_left(site, &self.removal.note.endpoints, &left) {
            return Err(Error::NobodyLeft);
        }
        // Someone may have added it to another group, or Global Accelerator shows only now that it is there.
        let is_noted = |group: &EndpointGroup, endpoint: &Endpoint| {
            let mut known = self.removal.note.endpoints.iter();
            known.any(|known| known.group == group.arn && known.is(endpoint))
        };
        let is_elsewhere = left.iter().any(|group| group.of(site).any(|endpoint| !is_noted(group, endpoint)));
        self.is_whole = !is_elsewhere;
        Ok(is_elsewhere)
    }

    /// Decides, and returns the pause that keeps this report from removing anything. What has begun is finished.
    fn decide<'s>(&self, sight: &'s Sight) -> (Decision<'s>, Option<String>) {
        let seen = Seen { groups: &sight.groups, notes: &sight.notes };
        let decision = decide::fence(self.accusation, &seen);
        let pauses = Pauses::read(&sight.tags, Utc::now());
        let is_begun = self.removed || sight.notes.is_partly_out(&self.accusation.site, &sight.groups);
        let pause = decide::pause(self.accusation, &decision, &sight.notes, &pauses);
        let pause = pause.filter(|_| !is_begun);
        let decision = if pause.is_some() { Decision::Refuse(Reason::Paused) } else { decision };
        if !self.turn.is_taken() || matches!(decision, Decision::Refuse(_)) {
            log_decision(self.accusation, &decision);
        }
        (decision, pause.map(ToString::to_string))
    }

    /// Returns the refusal and, if it is known, the report that it rests on.
    ///
    /// # Errors
    /// The site is out all the same.
    async fn refuse(&self, reason: Reason, sight: &Sight) -> Result<Out, Error> {
        if self.is_whole {
            return Err(Error::Refused(reason));
        }
        let Accusation { site, reporter, .. } = self.accusation;
        let notes = &sight.notes;
        let fenced = notes.of(reporter).and_then(|note| note.by.as_ref());
        if let (Reason::ReporterIsFenced | Reason::SurvivorUnhealthy | Reason::ReporterWasFenced, Some(by)) =
            (reason, fenced)
        {
            let at = by.at.to_rfc3339();
            return Ok(Out::Stays(
                reason,
                Some(match &by.reporter {
                    Some(by) => format!("{by} reported {reporter} at {at}"),
                    None => format!("a person took out {reporter} at {at}"),
                }),
            ));
        }
        let is_there = |site| is_in_service(site, &sight.groups);
        if let (Reason::ReporterMissing, true, false, Some(table)) =
            (reason, is_there(site), is_there(reporter), &self.system.table)
            && let Some(entry) = table.entry(&self.accelerator.arn, self.deadline).await?
            && entry.site == reporter.as_str()
            && !entry.reporter.is_empty()
        {
            let reason = decide::survivor(reporter, &Seen { groups: &sight.groups, notes });
            let reason = reason.unwrap_or(Reason::OtherReportWasFirst);
            return Ok(Out::Stays(reason, Some(entry.to_string())));
        }
        Ok(Out::Stays(reason, None))
    }
}

/// When a person has rejoined the site, if that was since then. A time from the future is none.
pub(super) fn answered(site: &Site, since: DateTime<Utc>, notes: &Notes) -> Option<DateTime<Utc>> {
    let rejoined = notes.rejoined(site).map(|rejoined| rejoined.at);
    rejoined.filter(|at| *at > since && *at <= Utc::now() + CLOCKS)
}

/// Whether no person has rejoined the site since then, as far as that can be read.
pub(super) async fn stays_out(
    system: &SiteFence,
    accelerator: &Accelerator,
    site: &Site,
    since: DateTime<Utc>,
    deadline: Deadline,
) -> bool {
    let notes = notes_of(system, accelerator, deadline.within(NOTING.min(deadline.left() / 4))).await;
    !notes.is_ok_and(|notes| answered(site, since, &notes).is_some())
}

/// What is noted of the accelerator's sites now.
async fn notes_of(
    system: &SiteFence,
    accelerator: &Accelerator,
    deadline: Deadline,
) -> Result<Notes, Failure> {
    let tags = system.view.accelerators.tags(accelerator, deadline).await?;
    Ok(Notes::read(&accelerator.arn, &tags))
}

/// Notes a site. If this fails, the site is taken out all the same.
async fn note(system: &SiteFence, accelerator: &Accelerator, site: &Site, note: &Note, deadline: Deadline) {
    let deadline = deadline.within(NOTING.min(deadline.left() / 4));
    if let Err(failure) = system.view.accelerators.tag(accelerator, note.tags(site), deadline).await {
        let what = if note.by.is_some() {
            "the site is out, and that could not be noted: the next report notes it"
        } else {
            "removing endpoints that could not be noted: to rejoin the site, add them by hand as they are listed here"
        };
        warn!(%site, error = %failure, endpoints = ?note.endpoints, "{what}");
    }
}

fn log_decision(accusation: &Accusation, decision: &Decision<'_>) {
    let (decision, reason) = match decision {
        Decision::Refuse(reason) => ("refuse", Some(<&str>::from(*reason))),
        Decision::AlreadyOut(Proof::None) => ("take_offline", None),
        Decision::AlreadyOut(_) => ("take_offline_if_unseen", None),
        Decision::Remove(_, Proof::None) => ("remove_endpoints", None),
        Decision::Remove(..) => ("remove_endpoints_if_unseen", None),
    };
    info!(
        site = %accusation.site,
        reporter = %accusation.reporter,
        accelerator = accusation.accelerator,
        decision,
        reason,
        "decided"
    );
}
