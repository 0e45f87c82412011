//! `failoverctl lock` and `restore`: the functions' own code, run by a person.

use std::time::Duration;

use chrono::{SecondsFormat, TimeDelta, Utc};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::screen::{Mood, ask, paint, say};
use super::state::{BY_HAND, State, why};
use super::status::{self, Status};
use super::{Ended, Error, Session, patience};
use crate::failover_lock::Handler;
use crate::failover_lock::alarm::{DIMENSION, METRICS, NAMESPACE};
use crate::failover_lock::decide;
use crate::failover_lock::health_check::HealthCheckId;
use crate::failover_lock::outcome::{Answer, Outcome, Verdict};
use crate::lambda::Report as _;

const LOOK: Duration = Duration::from_secs(5);

pub(super) async fn lock(
    session: &Session,
    id: &HealthCheckId,
    reason: &str,
    yes: bool,
) -> Result<Ended, Error> {
    let check = session.route53.health_check(id, patience()).await?;
    decide::can_hold(&check).map_err(|cannot| Error::CannotHold(id.clone(), cannot))?;
    let asks = check.endpoint.as_ref().map(status::watches).unwrap_or_default();
    let path = check.path().unwrap_or_default();
    let question =
        format!("Lock {id} ({asks}{path})? Its site goes out of service until a person switches it back.");
    if ask(&question, yes)? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    // A person asks after any switch-back, whatever the clock says that noted it.
    let restored_at = session.route53.notes(id, patience()).await.ok().and_then(|notes| notes.restored_at);
    let now = restored_at.map_or_else(Utc::now, |at| Utc::now().max(at + TimeDelta::seconds(1)));
    let message = json!({
        "AlarmName": format!("{BY_HAND}{reason}"),
        "NewStateValue": "ALARM",
        "StateChangeTime": now.to_rfc3339_opts(SecondsFormat::Millis, true),
        "Trigger": { "Namespace": NAMESPACE, "MetricName": METRICS[0], "Dimensions": [{ "name": DIMENSION, "value": id }] },
    });
    let outcome = run(session, Handler::Lock, &message.to_string()).await?;
    session.screen.show(&outcome, || text(&outcome))?;
    Ok(match outcome.outcome {
        Verdict::Locked | Verdict::AlreadyLocked => Ended::Well,
        _ => Ended::NotWell,
    })
}

pub(super) async fn restore(
    session: &Session,
    id: &HealthCheckId,
    force: bool,
    reason: Option<&str>,
    wait: Option<Duration>,
    yes: bool,
) -> Result<Ended, Error> {
    let check = session.route53.health_check(id, patience()).await?;
    let asks = check.endpoint.as_ref().map(status::watches).unwrap_or_default();
    let question = format!("Are the sites synchronised? Switching {id} back brings traffic to {asks} again.");
    if ask(&question, yes)? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    let request = json!({ "healthCheckId": id, "force": force, "reason": reason });
    let outcome = run(session, Handler::Restore, &request.to_string()).await?;
    session.screen.show(&outcome, || text(&outcome))?;
    if let Some(timeout) = wait {
        until_armed(session, id, timeout).await?;
    }
    Ok(Ended::Well)
}

/// One record, or one request, through the function's code.
async fn run(session: &Session, handler: Handler, event: &str) -> Result<Outcome, Error> {
    let report = session.system().handle(handler, event, patience()).await;
    let Answer { mut outcomes } = report.into_answer().map_err(Error::Invocation)?;
    Ok(outcomes.swap_remove(0))
}

/// Shows how the checkers find the primary and its alarm becomes OK, until the check is armed.
pub(super) async fn until_armed(
    session: &Session,
    id: &HealthCheckId,
    timeout: Duration,
) -> Result<(), Error> {
    let end = Instant::now() + timeout;
    let mut shown = String::new();
    loop {
        let check = session.route53.health_check(id, patience()).await?;
        let status = status::one(session, check).await?;
        let now = progress(&status);
        if now != shown {
            say(&now);
            shown = now;
        }
        match &status.state {
            State::Armed if status::is_in_service(&status) => {
                say("armed again: the next alarm locks it");
                return Ok(());
            }
            State::Locked { .. } => {
                return Err(Error::TooLate(format!("{id} was locked again: {}", status.state.words())));
            }
            _ if Instant::now() >= end => {
                return Err(Error::TooLate(format!(
                    "{id} is not armed after {} s: {}. failoverctl doctor {id} tells more",
                    timeout.as_secs(),
                    status.state.words()
                )));
            }
            _ => sleep(LOOK).await,
        }
    }
}

fn progress(status: &Status) -> String {
    let checkers = status.checkers.as_ref().map_or_else(
        || "checkers unknown".to_owned(),
        |checkers| format!("{} of {} checkers find it healthy", checkers.healthy, checkers.total),
    );
    let alarm = status.alarm.as_ref().map_or_else(
        || "there is no alarm".to_owned(),
        |alarm| format!("alarm {} is {}", alarm.name, alarm.state),
    );
    format!("{checkers}; {alarm}; {}", paint(&status.state.words(), status.state.mood()))
}

/// An outcome in a line of words.
pub(super) fn text(outcome: &Outcome) -> String {
    let id = outcome.health_check_id.as_ref().map_or("no health check", HealthCheckId::as_str);
    let path = match (&outcome.previous_path, &outcome.path) {
        (Some(before), Some(now)) if before != now => format!(" ({before} → {now})"),
        (_, Some(now)) => format!(" ({now})"),
        _ => String::new(),
    };
    let (words, mood) = match outcome.outcome {
        Verdict::Locked => ("locked", Mood::Ok),
        Verdict::WouldLock => ("would be locked", Mood::Ok),
        Verdict::AlreadyLocked => ("is locked already", Mood::Ok),
        Verdict::Ignored => ("ignored", Mood::Warn),
        Verdict::Deferred => ("deferred", Mood::Warn),
        Verdict::Restored => ("restored", Mood::Ok),
        Verdict::WouldRestore => ("would be restored", Mood::Ok),
        Verdict::AlreadyRestored => ("is restored already", Mood::Ok),
        Verdict::Armed => ("armed", Mood::Ok),
        Verdict::Unprotected => ("unprotected", Mood::Wrong),
    };
    let reason = outcome.reason.map(|reason| format!(": {}", why(reason))).unwrap_or_default();
    format!("{id}: {}{path}{reason}\n", paint(words, mood))
}
