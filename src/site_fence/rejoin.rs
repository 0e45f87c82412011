//! Rejoins a site, when a person requests it.

mod plan;

use chrono::Utc;
use futures_util::future::join_all;
use tracing::{info, warn};

use plan::{Link, Plan, Replication};

use super::SiteFence;
use super::accelerator::Accelerator;
use super::decide::{self, Reason, Return, Seen};
use super::error::Error;
use super::infinispan::State;
use super::notes::{Note, Noted, Notes, Rejoined};
use super::outcome::{About, Failed, Outcome, Verdict};
use super::request::{BadRequest, Request};
use super::site::{EndpointGroup, Owner, is_in_service};
use super::turn::{End, Turn};
use crate::program::text::Quoted;
use crate::remote::aws::Kind;
use crate::remote::deadline::Deadline;

/// Handles one request.
pub(super) async fn rejoin(system: &SiteFence, request: &str, deadline: Deadline) -> Result<Outcome, Failed> {
    let failed = |about, error: Error| Failed { about, error };
    let request: Request = serde_json::from_str(request)
        .map_err(|error| failed(About::default(), BadRequest::from(error).into()))?;
    let (site, accelerator) = (Some(request.site.clone()), Some(request.accelerator.clone()));
    let about = About { site, reporter: None, accelerator };
    let outcome = bring_back(system, &request, deadline).await;
    outcome.map(|outcome| Outcome { about: about.clone(), ..outcome }).map_err(|error| failed(about, error))
}

/// Brings the site back into replication, then into the accelerator; its notes are removed last.
async fn bring_back(system: &SiteFence, request: &Request, deadline: Deadline) -> Result<Outcome, Error> {
    let name = &request.accelerator;
    let accelerator = system.view.accelerators.named(name, deadline).await?;
    let accelerator = accelerator.ok_or_else(|| Error::NoSuchAccelerator(name.clone()))?;
    let mut back = Back {
        system,
        request,
        accelerator: &accelerator,
        turn: Turn::new(system, &accelerator.arn, &request.site, None, deadline),
        held: None,
        changed: false,
        added: false,
        details: Vec::new(),
        deadline: Turn::within(deadline),
    };
    let done = back.deadline.persist(async |_| back.enter_service().await).await;
    let Back { turn, details, changed, .. } = back;
    let is_back = |outcome: &Outcome| {
        matches!(outcome.outcome, Verdict::Rejoined | Verdict::AlreadyRejoined) && !system.config.dry_run
    };
    // Counted from now: what was done last is shown last.
    let (at, is_done) = (Utc::now(), done.as_ref().is_ok_and(is_back));
    turn.end(if is_done || changed { End::Rejoined { at, done: is_done } } else { End::AsBefore }, deadline)
        .await;
    let detail = (!details.is_empty()).then(|| details.join("; "));
    done.map(|outcome| Outcome { detail, ..outcome })
}

/// The rejoining of a site.
struct Back<'a> {
    system: &'a SiteFence,
    request: &'a Request,
    accelerator: &'a Accelerator,
    /// The permission to change the accelerator.
    turn: Turn<'a>,
    /// The claim of another execution, beside which the site is rejoined by force.
    held: Option<Error>,
    /// Whether anything was changed.
    changed: bool,
    /// Whether any endpoint may have been added.
    added: bool,
    /// Details for people.
    details: Vec<String>,
    deadline: Deadline,
}

impl Back<'_> {
    /// Decides, and brings the site back. If there is a table, it is decided again under the claim: another execution may
    /// have changed the accelerator before.
    async fn enter_service(&mut self) -> Result<Outcome, Error> {
        loop {
            let plan = match self.plan().await? {
                Ok(plan) => plan,
                Err(outcome) => {
                    let said = "a part of it was done: repeat the request, or take the site out";
                    self.details.extend(self.changed.then(|| said.to_owned()));
                    return Ok(Outcome { changed: self.changed, ..outcome });
                }
            };
            if self.is_dry_run() && plan.is_idle() {
                return Ok(self.is_back());
            }
            if self.is_dry_run() {
                let adds = plan.add.iter().map(|Noted { id, weight, group, .. }| {
                    format!("{id} would be added with the weight {weight} to {group}")
                });
                self.details.extend(adds);
                return Ok(outcome(Verdict::WouldRejoin));
            }
            if !self.turn.is_taken() && self.take_turn().await? {
                continue;
            }
            // Who holds the claim may have removed what is shown already: Global Accelerator may only still show it.
            let held = self.held.take().filter(|_| plan.in_service);
            let is_perhaps_gone = held.is_some();
            if let Some(held) = held.filter(|_| plan.add.is_empty()) {
                return Err(held);
            }
            if plan.in_service {
                // Global Accelerator may only still show it, also where it shows only some of its endpoints.
                self.turn.refuse_if_just_out(
                    |site| site == self.request.site.as_str(),
                    |_| plan.former.map(|former| former.at),
                )?;
                if !self.added {
                    Turn::refuse_if_just_noted(&self.request.site, plan.out)?;
                }
            }
            return self.carry_out(plan, is_perhaps_gone).await;
        }
    }

    fn is_dry_run(&self) -> bool {
        self.system.config.dry_run || self.request.dry_run
    }

    /// Reads the accelerator and Infinispan, and decides. Returns the outcome if there is nothing to do.
    async fn plan(&mut self) -> Result<Result<Plan, Outcome>, Error> {
        let Self { system, request: Request { site, force, .. }, deadline, .. } = *self;
        let sight = system.view.look(self.accelerator, deadline).await?;
        let notes = &sight.notes;
        let unreadable = notes.unreadable(site).map(|text| {
            format!("a note of its endpoints cannot be read: add by hand what it was about: {}", Quoted(text))
        });
        self.details = unreadable.collect();
        let decision = decide::rejoin(site, &Seen { groups: &sight.groups, notes });
        self.log_decision(&decision);
        let mut back = match decision {
            Ok(back) => back,
            Err(reason) => {
                if reason == Reason::NothingNoted {
                    // A rejoin just before may not be shown yet.
                    self.turn.refuse_if_just_rejoined(site, deadline).await?;
                }
                return Ok(Err(outcome(Verdict::Refused).because(reason)));
            }
        };
        let homes = std::mem::take(&mut back.homes);
        let (add, left) = self.existing(back).await?;
        self.details.extend(left);
        self.details.extend(decide::without_traffic(site, &add, &sight.groups).into_iter().map(|listener| {
            format!(
                "the site gets no traffic from {listener}: set its weight or traffic dial above 0 by hand"
            )
        }));
        let in_service = is_in_service(site, &sight.groups);
        if add.is_empty() && !in_service {
            return Ok(Err(outcome(Verdict::Refused).because(Reason::NothingNoted)));
        }
        let (keys, former) = (Note::keys(site, &sight.tags), notes.rejoined(site));
        let mut tagged = Note::endpoints_by_key(site, &self.accelerator.arn, &sight.tags);
        if notes.of(site).is_some_and(Note::is_by_no_one) {
            // They alone show that the site was rejoined by force.
            tagged.clear();
        }
        let tagged = tagged.into_iter().map(|(key, mut noted)| {
            let home = homes.iter().find(|(_, one)| **one == noted).map(|(group, _)| (*group).to_owned());
            noted.group = home.unwrap_or(noted.group);
            (key, noted.is_in(&sight.groups), noted)
        });
        let tagged = tagged.collect();
        let by = notes.of(site).and_then(|note| note.by.as_ref());
        let out = by.filter(|_| notes.is_out(site)).map(|by| by.at);
        let is_idle = add.is_empty() && keys.is_empty();
        let void = notes.void(site).is_some();
        let (replication, silent) = (None, Vec::new());
        let mut plan = Plan { add, in_service, keys, noted: tagged, former, out, void, replication, silent };
        if system.infinispan.is_none() {
            return Ok(Ok(plan));
        }
        // With force each of several partners counts for itself.
        let parts = match self.replication(notes, &sight.groups) {
            Ok(Replication { partners, is_mutual }) if *force => partners
                .into_iter()
                .map(|partner| Replication { partners: vec![partner], is_mutual })
                .collect(),
            Ok(replication) => vec![replication],
            Err(error) if *force => {
                plan.silent.push(error.to_string());
                return Ok(Ok(plan));
            }
            Err(error) => return Err(error.into()),
        };
        let links = join_all(parts.iter().map(|part| self.link(part, is_idle))).await;
        for (part, link) in parts.into_iter().zip(links) {
            match link {
                Ok(Link::Replicating) => {}
                Ok(Link::Connected) => match &mut plan.replication {
                    Some(replication) => replication.partners.extend(part.partners),
                    None => plan.replication = Some(part),
                },
                Ok(Link::Broken(at, other)) if *force => {
                    plan.silent.push(format!("{at} does not see {other}"));
                }
                Ok(Link::Broken(..)) => {
                    return Ok(Err(outcome(Verdict::Refused).because(Reason::SitesDisconnected)));
                }
                Err(error) if *force => plan.silent.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        Ok(Ok(plan))
    }

    /// Returns the endpoints to add whose load balancers exist: a cluster that was rebuilt has other ones; and in words what
    /// cannot be restored.
    async fn existing(&self, back: Return<'_>) -> Result<(Vec<Noted>, Vec<String>), Error> {
        let Return { add, homeless, changed, .. } = back;
        let ids = add.iter().map(|noted| noted.id.as_str()).collect();
        let owners = self.system.view.owners(self.accelerator, ids, self.deadline).await?;
        let is_gone = |noted: &Noted| owners.get(&noted.id) == Some(&Owner::Gone);
        let (gone, add): (Vec<_>, Vec<_>) = add.into_iter().partition(is_gone);
        let mut left = Vec::new();
        // Another site's, whatever it was when it was taken out.
        let site = &self.request.site;
        let (own, others): (Vec<_>, Vec<_>) =
            add.into_iter().partition(|noted| match owners.get(&noted.id) {
                Some(Owner::Site(name)) => name == site.as_str(),
                _ => true,
            });
        for Noted { id, .. } in others {
            if let Some(Owner::Site(name)) = owners.get(&id) {
                left.push(format!("{id} was left out: its site is {} now", Quoted(name)));
            }
        }
        if !gone.is_empty() {
            let ids: Vec<_> = gone.iter().map(|noted| noted.id.as_str()).collect();
            left.push(format!("load balancers that no longer exist were left out: {}", ids.join(", ")));
        }
        for Noted { id, weight, group, .. } in homeless {
            left.push(format!(
                "{id} (weight {weight}) was left out: its group {group} no longer exists, and no single other group of \
                 its Region stands for it alone: add it by hand if its listener is to have it"
            ));
        }
        for (noted, endpoint) in changed {
            left.push(format!(
                "{} has the weight {}, and had {} before it was taken out: set it by hand",
                noted.id, endpoint.weight, noted.weight
            ));
        }
        Ok((own, left))
    }

    /// The replication that the site needs: with every other site in service, or else from the one that reported it, or
    /// from the only other one.
    fn replication(&self, notes: &Notes, groups: &[EndpointGroup]) -> Result<Replication, BadRequest> {
        let Self { system, request: Request { site, .. }, .. } = self;
        let clusters = system.config.infinispan.iter().flat_map(|clusters| clusters.endpoints.keys());
        let others: Vec<_> = clusters.filter(|other| *other != site).cloned().collect();
        let serving: Vec<_> = others.iter().filter(|other| is_in_service(other, groups)).cloned().collect();
        if !serving.is_empty() {
            return Ok(Replication { partners: serving, is_mutual: true });
        }
        let by = notes.of(site).and_then(|note| note.by.as_ref());
        let partners = match by.and_then(|by| by.reporter.clone()) {
            Some(reporter) => vec![reporter],
            None if others.len() == 1 => others,
            None => return Err(BadRequest::WhichOther(site.clone())),
        };
        Ok(Replication { partners, is_mutual: false })
    }

    /// Asks the sites for their replication, and unless that is all there is to do, whether they see each other. A dry run always
    /// asks that: it shows whether a later rejoin gets an answer.
    async fn link(&self, replication: &Replication, is_idle: bool) -> Result<Link, Error> {
        let Self { system, request: Request { site, .. }, deadline, .. } = self;
        let deadline = deadline.within(deadline.left() / 3);
        let Some(infinispan) = system.infinispan(deadline).await? else { return Ok(Link::Replicating) };
        let mut online = true;
        for (at, other) in replication.ways(site) {
            online &= infinispan.state(at, other, deadline).await? == State::Online;
        }
        let is_done = online && is_idle;
        if is_done && !self.is_dry_run() {
            return Ok(Link::Replicating);
        }
        for (at, other) in replication.ways(site) {
            if !infinispan.sees(at, other, deadline).await? {
                return Ok(Link::Broken(at.clone(), other.clone()));
            }
        }
        Ok(if is_done { Link::Replicating } else { Link::Connected })
    }

    /// Takes the turn. Returns whether this was needed and possible: with force the site is rejoined although the table
    /// does not answer, or another execution's claim does not end soon.
    async fn take_turn(&mut self) -> Result<bool, Error> {
        let Self { request: Request { site, force, .. }, deadline, .. } = *self;
        match self.turn.take(deadline.within(deadline.left() / 3)).await {
            Err(Error::Aws(failure)) if *force => {
                warn!(%site, error = %failure, "rejoining the site without a claim, as requested");
                Ok(false)
            }
            // A report whose Infinispan hangs may hold it, and may be repeated for as long as that lasts.
            Err(held @ Error::OtherReport { may_pass: false, .. }) if *force => {
                warn!(%site, error = %held, "rejoining the site without a claim, as requested");
                self.held = Some(held);
                Ok(false)
            }
            taken => taken,
        }
    }

    /// Brings replication online in both directions, notes the rejoin, adds the endpoints, and removes the notes. These stay where
    /// what is shown in service `is_perhaps_gone`.
    async fn carry_out(&mut self, plan: Plan, is_perhaps_gone: bool) -> Result<Outcome, Error> {
        let Self { system, request: Request { site, force, .. }, deadline, .. } = *self;
        let is_idle = plan.is_idle();
        let Plan { add, in_service, keys, mut noted, former, void, replication, mut silent, .. } = plan;
        if let Some(replication) = replication
            && let Err(error) = self.online(&replication).await
        {
            if !*force {
                return Err(error);
            }
            silent.push(error.to_string());
        }
        // Without Infinispan it is the person alone who says that the other site is lost.
        let forced = !silent.is_empty() || *force && system.infinispan.is_none();
        if !silent.is_empty() {
            let why = silent.join(", ");
            warn!(%site, error = why, "rejoining the site without replication, as requested");
            self.details.insert(0, format!("not replicated to: {why}"));
        }
        let accelerators = &system.view.accelerators;
        // If this rejoin does not end, one by force before it stays what it is.
        let rejoined = Rejoined { at: Utc::now(), forced: forced || void };
        match accelerators
            .tag(self.accelerator, [rejoined.tag(site)], deadline.within(deadline.left() / 2))
            .await
        {
            Err(failure) if forced || *force => {
                warn!(%site, error = %failure, "the rejoin could not be noted");
                self.details.push(format!(
                    "the rejoin could not be noted, so that an alert from before may take the site out again, and its own reports \
                     are refused: repeat the request: {failure}"
                ));
            }
            // It has no room. Nothing else is left to be done.
            Err(failure) if is_idle && failure.kind() == Kind::Refused => {
                self.details.push(format!(
                    "alerts from before count as new: the rejoin could not be noted: {failure}"
                ));
            }
            noted => noted?,
        }
        // Without a claim another execution may have removed more while Infinispan was asked.
        let add = if self.turn.is_taken() || !*force { add } else { self.missing(add).await };
        if !add.is_empty() {
            // Set before the call: it may be done although its answer is lost.
            (self.changed, self.added) = (true, true);
            let added = accelerators.add(&add, deadline.within(deadline.left() * 3 / 4)).await;
            let added = added.and_then(|mut refused| {
                let is_none = refused.len() == add.len() && !in_service;
                if is_none { Err(refused.swap_remove(0).1) } else { Ok(refused) }
            });
            match added {
                Ok(refused) => {
                    let is_refused = |one: &Noted| refused.iter().any(|(noted, _)| *noted == one);
                    for (_, is_back, noted) in &mut noted {
                        *is_back |= add
                            .iter()
                            .any(|one| one.group == noted.group && one.is_same(noted) && !is_refused(one));
                    }
                    self.details.extend(refused.into_iter().map(
                        |(Noted { id, weight, group, .. }, failure)| {
                            format!(
                                "{id} (weight {weight}) was left out of {group}: add it by hand: {failure}"
                            )
                        },
                    ));
                }
                Err(failure) => {
                    self.note_former(former).await;
                    return Err(failure.into());
                }
            }
        }
        if is_perhaps_gone {
            let what = "a report is under way, and what is shown in service may be removed by it: repeat the request in a minute";
            self.details.push(what.to_owned());
        } else if !forced && !keys.is_empty() {
            accelerators.untag(self.accelerator, keys, deadline).await?;
            self.changed = true;
            if void {
                let rejoined = Rejoined { forced: false, ..rejoined };
                accelerators.tag(self.accelerator, [rejoined.tag(site)], deadline).await?;
            }
        } else if forced {
            self.remove_notes_of_back(noted).await;
        }
        Ok(self.is_back())
    }

    /// Removes the notes of the endpoints that are back: they are no facts of a later day. After a rejoin by force the others stay, and
    /// that the site was taken out, so that the status shows it. A report that is under way without a claim may need them all.
    async fn remove_notes_of_back(&mut self, noted: Vec<(String, bool, Noted)>) {
        let Self { system, request: Request { site, .. }, deadline, .. } = *self;
        let keys: Vec<_> =
            noted.into_iter().filter(|(_, is_back, _)| *is_back).map(|(key, ..)| key).collect();
        if keys.is_empty() || system.table.is_some() && !self.turn.is_taken() {
            return;
        }
        if let Err(failure) = system.view.accelerators.untag(self.accelerator, keys, deadline).await {
            warn!(%site, error = %failure, "the notes of endpoints that are back stay");
            self.details.push(format!(
                "the notes of its endpoints could not be removed: repeat the request: {failure}"
            ));
        }
    }

    /// What has to be added now; `add` if that cannot be read.
    async fn missing(&self, add: Vec<Noted>) -> Vec<Noted> {
        let Self { system, request: Request { site, .. }, deadline, .. } = *self;
        let Ok(sight) = system.view.look(self.accelerator, deadline.within(deadline.left() / 3)).await else {
            return add;
        };
        let notes = &sight.notes;
        let Ok(back) = decide::rejoin(site, &Seen { groups: &sight.groups, notes }) else {
            return add;
        };
        self.existing(back).await.map_or(add, |(missing, _)| missing)
    }

    fn is_back(&self) -> Outcome {
        outcome(if self.changed { Verdict::Rejoined } else { Verdict::AlreadyRejoined })
    }

    /// Notes the last rejoin as before: this one has failed, and until it is repeated the note that the site is out stays
    /// in force.
    async fn note_former(&self, former: Option<Rejoined>) {
        let Self { system, request: Request { site, .. }, deadline, .. } = *self;
        let accelerators = &system.view.accelerators;
        let noted = match former {
            Some(former) => accelerators.tag(self.accelerator, [former.tag(site)], deadline).await,
            None => accelerators.untag(self.accelerator, vec![Rejoined::key(site)], deadline).await,
        };
        if let Err(failure) = noted {
            warn!(%site, error = %failure, "this rejoin has failed, and stays noted as the last one");
        }
    }

    /// Makes the sites replicate to each other again.
    async fn online(&mut self, replication: &Replication) -> Result<(), Error> {
        let Self { system, request: Request { site, .. }, deadline, .. } = *self;
        // Half of the time is kept for the steps after this one.
        let deadline = deadline.within(deadline.left() / 2);
        if let Some(infinispan) = system.infinispan(deadline).await? {
            for (at, other) in replication.ways(site) {
                self.changed |= infinispan.set(at, other, State::Online, deadline).await?;
            }
        }
        Ok(())
    }

    fn log_decision(&self, decision: &Result<Return<'_>, Reason>) {
        let Request { site, accelerator, force, reason, .. } = self.request;
        if self.turn.is_taken() {
            // It is logged already.
            return;
        }
        info!(
            %site,
            accelerator,
            decision = match decision {
                Err(_) => "refuse",
                Ok(back) if back.add.is_empty() => "bring_online",
                Ok(_) => "add_endpoints",
            },
            force,
            reason,
            "decided"
        );
    }
}

fn outcome(verdict: Verdict) -> Outcome {
    Outcome::new(About::default(), verdict)
}
