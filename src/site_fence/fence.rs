//! Takes a site out when the other one reports it.

use hyper::StatusCode;

use super::SiteFence;
use super::accelerator::{MOST_TAGS, counted};
use super::apply;
use super::auth::Denied;
use super::config::{Config, Login};
use super::decide::{self, Concern, Reason};
use super::error::Error;
use super::notes::Notes;
use super::outcome::{About, Failed, Outcome, Report, Verdict};
use super::pause;
use super::request::{Pause, TakeOut};
use super::site::Site;
use super::take_out;
use super::topic::{self, Notification};
use super::webhook::{Accusation, Alert, Malformed, Request, Webhook};
use crate::remote::aws::Failure;
use crate::remote::deadline::Deadline;

/// Handles one event: a request to the function's URL, whose credentials are checked, or messages of its topic. A person
/// who may invoke the function directly may request to take a site out, or to pause the reports.
pub(super) async fn fence(system: &SiteFence, event: &str, deadline: Deadline) -> Report {
    if let Some(request) = TakeOut::read(event) {
        return Report::to_invoker(match request {
            Ok(request) => take_out::take_out(system, request, deadline).await,
            Err(bad) => Err(Failed { about: About::default(), error: bad.into() }),
        });
    }
    if let Some(request) = Pause::read(event) {
        return Report::to_invoker(match request {
            Ok(request) => pause::pause(system, request, deadline).await,
            Err(bad) => Err(Failed { about: About::default(), error: bad.into() }),
        });
    }
    if let Some(notifications) = topic::read(event) {
        return from_topic(system, notifications, deadline).await;
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
    Report::to_alertmanager(alerts(system, &webhook, false, deadline).await)
}

/// Handles messages of the topic; IAM decides who may publish to it.
async fn from_topic(
    system: &SiteFence,
    notifications: Vec<Result<Notification, Malformed>>,
    deadline: Deadline,
) -> Report {
    let mut results = Vec::new();
    for notification in notifications {
        let is_late = notification.as_ref().is_ok_and(Notification::is_late);
        let webhook = notification.and_then(|Notification { topic_arn, message, .. }| {
            if system.config.topic.as_ref() == Some(&topic_arn) {
                Webhook::read(&message)
            } else {
                Err(Malformed::Topic(topic_arn, system.config.topic.clone()))
            }
        });
        match webhook {
            // SNS sends one message an invocation.
            Ok(webhook) => results.extend(alerts(system, &webhook, is_late, deadline).await),
            Err(malformed) => results.push(Err(unreadable(malformed))),
        }
    }
    Report::to_topic(results)
}

/// Handles each alert on its own.
async fn alerts(
    system: &SiteFence,
    webhook: &Webhook,
    is_late: bool,
    deadline: Deadline,
) -> Vec<Result<Outcome, Failed>> {
    let Config { alert_name, watchdog_name, .. } = &system.config;
    let concerns: Vec<_> = webhook
        .alerts
        .iter()
        .map(|alert| decide::concern(&Alert::read(alert)?, alert_name, watchdog_name))
        .collect();
    let concerns = distinct(concerns);
    let is_accusation = |concern: &&Result<_, _>| matches!(concern, Ok(Concern::Accuses(_)));
    let mut to_come = u32::try_from(concerns.iter().filter(is_accusation).count()).unwrap_or(u32::MAX);
    let mut results = Vec::new();
    for concern in concerns {
        results.push(match concern {
            Err(malformed) => Err(unreadable(malformed)),
            Ok(Concern::None(reason)) => Ok(Outcome::new(About::default(), Verdict::Ignored).because(reason)),
            Ok(Concern::Watchdog(site, accelerator)) => watchdog(system, site, accelerator, deadline).await,
            Ok(Concern::Accuses(accusation)) => {
                // An alert whose calls hang must leave time for the next ones.
                let share = deadline.left() / to_come;
                to_come -= 1;
                accused(system, Accusation { is_late, ..accusation }, deadline.within(share)).await
            }
        });
    }
    if webhook.truncated > 0 {
        results.push(Err(unreadable(Malformed::Truncated(webhook.truncated))));
    }
    results
}

/// Merges alerts of one reporter about one site and accelerator: a rule may have one for each node. The newest counts.
fn distinct(concerns: Vec<Result<Concern, Malformed>>) -> Vec<Result<Concern, Malformed>> {
    let mut distinct: Vec<Result<Concern, Malformed>> = Vec::new();
    for concern in concerns {
        let Ok(Concern::Accuses(accusation)) = &concern else {
            distinct.push(concern);
            continue;
        };
        let same = distinct.iter_mut().find_map(|other| match other {
            Ok(Concern::Accuses(other)) if other.is_about_the_same(accusation) => Some(other),
            _ => None,
        });
        match same {
            Some(same) => same.began = same.began.max(accusation.began),
            None => distinct.push(concern),
        }
    }
    distinct
}

/// The fewest notes of a site that is out: by whom, and one endpoint.
const ROOM: usize = 2;

/// Handles an alert that fires always. It shows that a report would be acted on only if the accelerator that it names is found, with
/// its notes, and the password of Infinispan can be read, which is then kept for the report that comes while Secrets Manager is down.
async fn watchdog(
    system: &SiteFence,
    site: Site,
    name: String,
    deadline: Deadline,
) -> Result<Outcome, Failed> {
    let accelerators = &system.view.accelerators;
    let found = accelerators.named(&name, deadline.within(deadline.left() / 2)).await;
    let about = About { reporter: Some(site), accelerator: Some(name.clone()), ..About::default() };
    let failed = |error| Failed { about: about.clone(), error };
    let Some(accelerator) = found.map_err(|failure| failed(failure.into()))? else {
        return Err(failed(Error::NoSuchAccelerator(name)));
    };
    let tags = accelerators.tags(&accelerator, deadline.within(deadline.left() / 2)).await;
    let tags = tags.map_err(|failure| failed(failure.into()))?;
    let out = Notes::read(&accelerator.arn, &tags).count();
    // Where no note has room, none is no sign that all are back.
    let is_known = out > 0 || counted(&tags) + ROOM <= MOST_TAGS;
    system.infinispan(deadline).await.map_err(|failure| failed(failure.into()))?;
    let outcome = Outcome::new(about, Verdict::Ignored).because(Reason::Watchdog);
    Ok(Outcome { out: u32::try_from(out).ok().filter(|_| is_known), ..outcome })
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
    let (Some(Login { user, .. }), Some(password)) = (&system.config.webhook, &system.webhook_password)
    else {
        return Ok(Err(Denied::Wrong));
    };
    let right = password.fits(|password| credentials.are(user, password), deadline).await?;
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
