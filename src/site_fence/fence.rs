//! Takes a site out when the other one reports it.

use hyper::StatusCode;

use super::SiteFence;
use super::apply;
use super::auth::Denied;
use super::config::Login;
use super::decide::{self, Concern};
use super::outcome::{About, Failed, Outcome, Report, Verdict};
use super::request::TakeOut;
use super::take_out;
use super::webhook::{Accusation, Alert, Malformed, Request};
use crate::remote::aws::Failure;
use crate::remote::deadline::Deadline;

/// Handles one request: checks its credentials, and then handles each alert on its own. A person who may invoke the
/// function directly may request to take a site out.
pub(super) async fn fence(system: &SiteFence, event: &str, deadline: Deadline) -> Report {
    if let Some(request) = TakeOut::read(event) {
        return Report::to_invoker(match request {
            Ok(request) => take_out::take_out(system, request, deadline).await,
            Err(bad) => Err(Failed { about: About::default(), error: bad.into() }),
        });
    }
    let request = match Request::read(event) {
        Ok(request) => request,
        Err(malformed) => return Report::to_invoker(Err(unreadable(malformed))),
    };
    match let_in(system, &request, deadline).await {
        Ok(Ok(())) => {}
        Ok(Err(denied @ Denied::None)) => return Report::turned_away(StatusCode::UNAUTHORIZED, &denied),
        Ok(Err(denied @ Denied::Wrong)) => return Report::turned_away(StatusCode::FORBIDDEN, &denied),
        Err(failure) => return Report::undecided(failure.into()),
    }
    if !request.is_post() {
        return Report::turned_away(
            StatusCode::METHOD_NOT_ALLOWED,
            &"the method is not POST: Alertmanager sends its webhooks with POST",
        );
    }
    let webhook = match request.webhook() {
        Ok(webhook) => webhook,
        Err(malformed) => return Report::to_alertmanager(vec![Err(unreadable(malformed))]),
    };
    let concerns: Vec<_> = webhook
        .alerts
        .iter()
        .map(|alert| decide::concern(&Alert::read(alert)?, &system.config.alert_name))
        .collect();
    let is_accusation = |concern: &&Result<_, _>| matches!(concern, Ok(Concern::Accuses(_)));
    let mut to_come = u32::try_from(concerns.iter().filter(is_accusation).count()).unwrap_or(u32::MAX);
    let mut results = Vec::new();
    for concern in concerns {
        results.push(match concern {
            Err(malformed) => Err(unreadable(malformed)),
            Ok(Concern::None(reason)) => Ok(Outcome::new(About::default(), Verdict::Ignored).because(reason)),
            Ok(Concern::Accuses(accusation)) => {
                // An alert whose calls hang must leave time for the next ones.
                let share = deadline.left() / to_come;
                to_come -= 1;
                accused(system, accusation, deadline.within(share)).await
            }
        });
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

async fn accused(system: &SiteFence, accusation: Accusation, deadline: Deadline) -> Result<Outcome, Failed> {
    let outcome = apply::take_out(system, &accusation, deadline).await;
    let Accusation { site, reporter, accelerator, .. } = accusation;
    let about = About { site: Some(site), reporter: Some(reporter), accelerator: Some(accelerator) };
    match outcome {
        Ok(outcome) => Ok(Outcome { about, ..outcome }),
        Err(error) => Err(Failed { about, error }),
    }
}

fn unreadable(malformed: Malformed) -> Failed {
    Failed { about: About::default(), error: malformed.into() }
}
