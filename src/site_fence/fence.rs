//! Takes a site out when the other one reports it.

use std::time::Duration;

use chrono::Utc;
use hyper::StatusCode;
use serde_json::value::RawValue;
use tracing::{info, warn};

use super::SiteFence;
use super::accelerator::Accelerator;
use super::auth::Denied;
use super::config::Login;
use super::decide::{self, Accusation, Decision, Reason, Seen};
use super::dynamodb::First;
use super::error::Error;
use super::infinispan::State;
use super::notes::Notes;
use super::outcome::{About, Failed, Outcome, Report, Verdict};
use super::site::{Endpoint, EndpointGroup, Site};
use super::webhook::{self, Concern, Malformed, Request};
use crate::aws::Failure;
use crate::deadline::Deadline;
use crate::text::Quoted;

/// How long noting what is removed may hold up removing it.
const NOTING: Duration = Duration::from_secs(5);

/// Handles one request: lets it in, and then each alert by itself.
pub(super) async fn fence(system: &SiteFence, event: &str, deadline: Deadline) -> Report {
    let request = match Request::read(event) {
        Ok(request) => request,
        Err(malformed) => return Report::to_invoker(Err(unreadable(malformed))),
    };
    match let_in(system, &request, deadline).await {
        Ok(Ok(())) => {}
        Ok(Err(denied @ Denied::None)) => return Report::turned_away(StatusCode::UNAUTHORIZED, &denied),
        Ok(Err(denied @ Denied::Wrong)) => return Report::turned_away(StatusCode::FORBIDDEN, &denied),
        Err(failure) => return Report::to_alertmanager(vec![Err(failed(About::default(), failure.into()))]),
    }
    if !request.is_post() {
        return Report::turned_away(
            StatusCode::METHOD_NOT_ALLOWED,
            &"Alertmanager sends its webhooks by POST",
        );
    }
    let webhook = match request.webhook() {
        Ok(webhook) => webhook,
        Err(malformed) => return Report::to_alertmanager(vec![Err(unreadable(malformed))]),
    };
    let mut results = Vec::new();
    for (alert, to_come) in webhook.alerts.iter().zip((1..=webhook.alerts.len()).rev()) {
        // Whatever hangs here must leave the next ones their time.
        let share = u32::try_from(to_come).map_or(Duration::ZERO, |to_come| deadline.left() / to_come);
        results.push(handle(system, alert, deadline.within(share)).await);
    }
    if webhook.truncated > 0 {
        results.push(Err(unreadable(Malformed::Truncated(webhook.truncated))));
    }
    Report::to_alertmanager(results)
}

async fn let_in(
    system: &SiteFence,
    request: &Request,
    deadline: Deadline,
) -> Result<Result<(), Denied>, Failure> {
    let credentials = match request.credentials() {
        Ok(credentials) => credentials,
        Err(denied) => return Ok(Err(denied)),
    };
    let Some(Login { user, secret }) = &system.config.webhook else { return Ok(Err(Denied::Wrong)) };
    let are_right = |password: &str| credentials.are(user, password);
    let right = system.webhook_password.fits(&system.secrets, secret, are_right, deadline).await?;
    Ok(if right { Ok(()) } else { Err(Denied::Wrong) })
}

async fn handle(system: &SiteFence, alert: &RawValue, deadline: Deadline) -> Result<Outcome, Failed> {
    match webhook::concern(alert, &system.config.alert_name) {
        Err(malformed) => Err(unreadable(malformed)),
        Ok(Concern::None(reason)) => Ok(Outcome::new(About::default(), Verdict::Ignored).because(reason)),
        Ok(Concern::Accuses(accusation)) => {
            let about = About {
                site: Some(accusation.site.clone()),
                reporter: Some(accusation.reporter.clone()),
                accelerator: Some(accusation.accelerator.clone()),
            };
            let outcome = take_out(system, &accusation, deadline).await;
            outcome
                .map(|outcome| Outcome { about: about.clone(), ..outcome })
                .map_err(|error| failed(about, error))
        }
    }
}

/// Takes the site out of the accelerator, then out of replication.
async fn take_out(system: &SiteFence, accusation: &Accusation, deadline: Deadline) -> Result<Outcome, Error> {
    let Accusation { site, reporter, accelerator: name } = accusation;
    let outcome = |verdict| Outcome::new(About::default(), verdict);
    // Before anything is changed: half of it would leave the reporter unable to write.
    system.infinispan.knows(reporter)?;
    let accelerator = system.view.accelerators.named(name, deadline).await?;
    let accelerator = accelerator.ok_or_else(|| Error::NoSuchAccelerator(name.clone()))?;

    let mut removed = false;
    let out = deadline
        .persist(async |_| leave_accelerator(system, accusation, &accelerator, &mut removed, deadline).await)
        .await?;
    let would = match out {
        Out::Left => false,
        Out::WouldLeave => true,
        Out::Stays(reason, detail) => {
            return Ok(Outcome { detail, ..outcome(Verdict::Refused).because(reason) });
        }
    };
    let password = system.infinispan_password(deadline).await?;
    if system.config.dry_run {
        let state = system.infinispan.state(reporter, site, &password, deadline).await?;
        let would = would || state != State::Offline;
        return Ok(outcome(if would { Verdict::WouldFence } else { Verdict::AlreadyFenced }));
    }
    let taken = system.infinispan.set(reporter, site, State::Offline, &password, deadline).await?;
    Ok(outcome(if removed || taken { Verdict::Fenced } else { Verdict::AlreadyFenced }))
}

/// Where a site is after it was to leave an accelerator.
enum Out {
    Left,
    WouldLeave,
    Stays(Reason, Option<String>),
}

/// Looks, decides, removes.
async fn leave_accelerator(
    system: &SiteFence,
    accusation: &Accusation,
    accelerator: &Accelerator,
    removed: &mut bool,
    deadline: Deadline,
) -> Result<Out, Error> {
    let sight = system.view.look(accelerator, deadline).await?;
    let notes = Notes::read(&accelerator.arn, &sight.tags);
    let decision = decide::fence(accusation, &Seen { groups: &sight.groups, notes: &notes });
    log_decision(accusation, &decision);
    let leaving = match decision {
        Decision::Refuse(reason) => {
            return Ok(Out::Stays(reason, detail(reason, &notes, &accusation.reporter)));
        }
        Decision::AlreadyOut => Vec::new(),
        Decision::Remove(leaving) => leaving,
    };
    if system.config.dry_run {
        return Ok(if leaving.is_empty() { Out::Left } else { Out::WouldLeave });
    }
    if let Some(table) = &system.table
        && let First::Other { site, reporter, at } =
            table.claim(&accelerator.arn, accusation, deadline).await?
    {
        let won = format!("{} reported {} at {}", Quoted(&reporter), Quoted(&site), Quoted(&at));
        return Ok(Out::Stays(Reason::OtherReportWasFirst, Some(won)));
    }
    note(system, accusation, accelerator, &notes, &leaving, deadline).await;
    for (group, endpoints) in leaving {
        system.view.accelerators.remove(group, &endpoints, deadline).await?;
        *removed = true;
    }
    Ok(Out::Left)
}

/// Notes how the endpoints are set up before they are removed. A site does not stay in service for that.
async fn note(
    system: &SiteFence,
    accusation: &Accusation,
    accelerator: &Accelerator,
    notes: &Notes,
    leaving: &[(&EndpointGroup, Vec<&Endpoint>)],
    deadline: Deadline,
) {
    if leaving.is_empty() {
        return;
    }
    let Accusation { site, reporter, .. } = accusation;
    let note = notes.of(site).cloned().unwrap_or_default().with(leaving, reporter, Utc::now());
    let deadline = deadline.within(NOTING.min(deadline.left() / 4));
    if let Err(failure) = system.view.accelerators.note(accelerator, site, &note, deadline).await {
        warn!(
            %site,
            error = %failure,
            endpoints = ?note.endpoints,
            "removing endpoints that could not be noted: add them again by hand, as they are here"
        );
    }
}

/// More than the reason says.
fn detail(reason: Reason, notes: &Notes, reporter: &Site) -> Option<String> {
    let (at, by) = notes.of(reporter).and_then(|note| note.by.as_ref())?;
    (reason == Reason::ReporterIsFenced).then(|| format!("{by} reported {reporter} at {}", at.to_rfc3339()))
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

fn failed(about: About, error: Error) -> Failed {
    Failed { about, error }
}

fn unreadable(malformed: Malformed) -> Failed {
    failed(About::default(), malformed.into())
}
