//! The effect: takes a site out of an accelerator, then out of replication.

use std::time::Duration;

use chrono::Utc;
use tokio::time::Instant;
use tracing::{info, warn};

use super::SiteFence;
use super::accelerator::Accelerator;
use super::decide::{self, Decision, Reason, Seen};
use super::dynamodb::First;
use super::error::Error;
use super::infinispan::State;
use super::notes::Notes;
use super::outcome::{About, Outcome, Verdict};
use super::site::{Endpoint, EndpointGroup, is_in_service};
use super::view::Sight;
use super::webhook::Accusation;
use crate::remote::deadline::Deadline;

/// The time in which an earlier report, of another site, is expected to be finished.
const FINISHING: Duration = Duration::from_secs(10);
/// The time for the check whether the reporter's Infinispan can be reached; the other site's report waits
/// meanwhile.
const CHECKING: Duration = Duration::from_secs(5);
/// The time for which the note may delay the removal of the endpoints.
const NOTING: Duration = Duration::from_secs(5);

/// Takes the site out of the accelerator, then out of replication.
pub(super) async fn take_out(
    system: &SiteFence,
    accusation: &Accusation,
    deadline: Deadline,
) -> Result<Outcome, Error> {
    let Accusation { site, reporter, accelerator: name } = accusation;
    let outcome = |verdict| Outcome::new(About::default(), verdict);
    let accelerator = system.view.accelerators.named(name, deadline).await?;
    let accelerator = accelerator.ok_or_else(|| Error::NoSuchAccelerator(name.clone()))?;
    let password = system.infinispan_password(deadline).await?;

    let began = Instant::now();
    let mut leave = Leave { system, accusation, accelerator, password, removed: false, began, deadline };
    let out = deadline.persist(async |_| leave.accelerator().await).await?;
    let Leave { password, removed, .. } = leave;
    let would = match out {
        Out::Left => false,
        Out::WouldLeave => true,
        Out::Stays(reason, detail) => {
            return Ok(Outcome { detail, ..outcome(Verdict::Refused).because(reason) });
        }
    };
    if system.config.dry_run {
        let state = system.infinispan.state(reporter, site, &password, deadline).await?;
        let would = would || state != State::Offline;
        return Ok(outcome(if would { Verdict::WouldFence } else { Verdict::AlreadyFenced }));
    }
    let taken = system.infinispan.set(reporter, site, State::Offline, &password, deadline).await?;
    Ok(outcome(if removed || taken { Verdict::Fenced } else { Verdict::AlreadyFenced }))
}

/// The result of a site's removal from an accelerator.
enum Out {
    Left,
    WouldLeave,
    Stays(Reason, Option<String>),
}

/// The removal of a site from an accelerator.
struct Leave<'a> {
    system: &'a SiteFence,
    accusation: &'a Accusation,
    accelerator: Accelerator,
    password: String,
    /// Whether the removal of any endpoint was requested.
    removed: bool,
    began: Instant,
    deadline: Deadline,
}

impl Leave<'_> {
    /// Reads the accelerator, decides, and removes the site's endpoints.
    async fn accelerator(&mut self) -> Result<Out, Error> {
        let Self { system, accusation, ref accelerator, deadline, .. } = *self;
        let Accusation { site, reporter, .. } = accusation;
        let sight = system.view.look(accelerator, deadline).await?;
        let notes = Notes::read(&accelerator.arn, &sight.tags);
        let decision = decide::fence(accusation, &Seen { groups: &sight.groups, notes: &notes });
        log_decision(accusation, &decision);
        let leaving = match decision {
            Decision::Refuse(reason) => return self.refuse(reason, &sight, &notes).await,
            Decision::AlreadyOut => Vec::new(),
            Decision::Remove(leaving) => leaving,
        };
        if !leaving.is_empty() && !self.removed {
            // Before any change: if the reporter's Infinispan cannot be reached, the other site's report decides.
            system.infinispan.state(reporter, site, &self.password, deadline.within(CHECKING)).await?;
        }
        if system.config.dry_run {
            return Ok(if leaving.is_empty() { Out::Left } else { Out::WouldLeave });
        }
        if let Some(table) = &system.table
            && let First::Other(first) = table.claim(&accelerator.arn, accusation, deadline).await?
        {
            let first = first.to_string();
            return Err(Error::OtherReport { first, may_pass: self.began.elapsed() < FINISHING });
        }
        self.note(&notes, &leaving).await;
        for (group, endpoints) in &leaving {
            // Set before the call: it may be done although its answer is lost.
            self.removed = true;
            system.view.accelerators.remove(group, endpoints, deadline).await?;
        }
        if !leaving.is_empty() {
            // Check again: a report against the reporter may have been handled at the same time.
            let left = system.view.accelerators.groups(accelerator, deadline).await?;
            let is_left =
                |id: &str| left.iter().flat_map(|group| &group.endpoints).any(|other| other.id == id);
            let mut reporters = sight.groups.iter().flat_map(|group| group.of(reporter));
            if !reporters.any(|endpoint| is_left(&endpoint.id)) {
                return Err(Error::NobodyLeft);
            }
        }
        Ok(Out::Left)
    }

    /// Returns the refusal and, if it is known, the report that it rests on.
    async fn refuse(&self, reason: Reason, sight: &Sight, notes: &Notes) -> Result<Out, Error> {
        let Accusation { site, reporter, .. } = self.accusation;
        let fenced = notes.of(reporter).and_then(|note| note.by.as_ref());
        if let (Reason::ReporterIsFenced, Some((at, by))) = (reason, fenced) {
            return Ok(Out::Stays(reason, Some(format!("{by} reported {reporter} at {}", at.to_rfc3339()))));
        }
        let is_there = |site| is_in_service(site, &sight.groups);
        if let (Reason::ReporterMissing, true, false, Some(table)) =
            (reason, is_there(site), is_there(reporter), &self.system.table)
            && let Some(entry) = table.entry(&self.accelerator.arn, self.deadline).await?
            && entry.site == reporter.as_str()
        {
            return Ok(Out::Stays(Reason::OtherReportWasFirst, Some(entry.to_string())));
        }
        Ok(Out::Stays(reason, None))
    }

    /// Notes the endpoints' settings before they are removed. If the note fails, the endpoints are removed all the
    /// same.
    async fn note(&self, notes: &Notes, leaving: &[(&EndpointGroup, Vec<&Endpoint>)]) {
        if leaving.is_empty() {
            return;
        }
        let Accusation { site, reporter, .. } = self.accusation;
        let note = notes.of(site).cloned().unwrap_or_default().with(leaving, reporter, Utc::now());
        let deadline = self.deadline.within(NOTING.min(self.deadline.left() / 4));
        if let Err(failure) =
            self.system.view.accelerators.note(&self.accelerator, site, &note, deadline).await
        {
            warn!(
                %site,
                error = %failure,
                endpoints = ?note.endpoints,
                "removing endpoints that could not be noted: to rejoin the site, add them by hand as they are listed here"
            );
        }
    }
}

fn log_decision(accusation: &Accusation, decision: &Decision<'_>) {
    let (decision, reason) = match decision {
        Decision::Refuse(reason) => ("refuse", Some(<&str>::from(*reason))),
        Decision::AlreadyOut => ("take_offline", None),
        Decision::Remove(_) => ("remove_endpoints", None),
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
