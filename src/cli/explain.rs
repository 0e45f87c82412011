//! `failoverctl explain`: what `lock` would do with an event.

use std::io::Read;
use std::path::Path;
use std::{fs, io};

use serde::Serialize;

use super::change::text;
use super::screen::{Mood, Screen, paint, plain, time};
use super::state::why;
use super::{Ended, Error, Session, patience};
use crate::failover_lock::Handler;
use crate::failover_lock::alarm::{self, AlarmTransition};
use crate::failover_lock::config::Config;
use crate::failover_lock::decide::{self, Concern};
use crate::failover_lock::error::FailedRecord;
use crate::failover_lock::health_check::HealthCheckId;
use crate::failover_lock::outcome::Outcome;

/// What one record of the event says, and what would be done about it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Explained {
    #[serde(skip_serializing_if = "Option::is_none")]
    alarm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    health_check_id: Option<HealthCheckId>,
    /// `error`, or what would be done.
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip)]
    text: String,
}

/// The whole decision, with the account's health checks as they stand.
pub(super) async fn explain(session: &Session, file: &Path) -> Result<Ended, Error> {
    let event = read(file)?;
    let report = session.system().handle(Handler::Lock, &event, patience()).await;
    show(session.screen, report.into_results().into_iter().map(|result| result.map_or_else(failed, done)))
}

/// What the event alone says.
pub(super) fn offline(file: &Path, config: &Config, screen: Screen) -> Result<Ended, Error> {
    let event = read(file)?;
    show(
        screen,
        alarm::transitions(&event)?.into_iter().map(|transition| match transition {
            Err(error) => wrong(None, error.to_string()),
            Ok(transition) => concern(&transition, config),
        }),
    )
}

fn concern(transition: &AlarmTransition, config: &Config) -> Explained {
    let alarm = Some(transition.alarm.clone());
    let says = format!(
        "alarm {} went to {} at {}",
        plain(&transition.alarm),
        transition.state,
        time(transition.changed_at)
    );
    let (health_check_id, outcome, why) = match decide::concern(transition, config) {
        Err(error) => return wrong(alarm, error.to_string()),
        Ok(Concern::None(_)) if transition.composite.is_some() => (
            None,
            "look_up",
            Some("it is a composite alarm: AWS has to be asked what is behind it".to_owned()),
        ),
        Ok(Concern::None(reason)) => {
            let id = transition.health_checks.first().cloned();
            (id, "ignored", Some(why(reason).to_owned()))
        }
        Ok(Concern::Check(id)) => {
            let sees = "unless it is locked, was switched back since, or cannot be locked";
            (Some(id), "lock", Some(sees.to_owned()))
        }
    };
    let mood = if outcome == "ignored" { Mood::Warn } else { Mood::Ok };
    let of = health_check_id.as_ref().map(|id| format!(" {id}")).unwrap_or_default();
    let because = why.as_ref().map(|why| format!(", {why}")).unwrap_or_default();
    let text = format!("{says}: {}{of}{because}\n", paint(&outcome.replace('_', " "), mood));
    Explained { alarm, health_check_id, outcome: outcome.to_owned(), why, text }
}

fn done(outcome: Outcome) -> Explained {
    let alarm = outcome.alarm.as_ref().map(|alarm| format!("alarm {}: ", plain(alarm))).unwrap_or_default();
    Explained {
        text: format!("{alarm}{}", text(&outcome)),
        outcome: <&str>::from(outcome.outcome).to_owned(),
        why: outcome.reason.map(|reason| why(reason).to_owned()),
        alarm: outcome.alarm,
        health_check_id: outcome.health_check_id,
    }
}

fn failed(failed: FailedRecord) -> Explained {
    let text = failed.to_string();
    Explained { health_check_id: failed.health_check_id, ..wrong(failed.alarm, text) }
}

fn wrong(alarm: Option<String>, why: String) -> Explained {
    let text = format!("{}: {why}\n", paint("error", Mood::Wrong));
    Explained { alarm, health_check_id: None, outcome: "error".to_owned(), why: Some(why), text }
}

fn show(screen: Screen, explained: impl Iterator<Item = Explained>) -> Result<Ended, Error> {
    let explained: Vec<_> = explained.collect();
    screen.show(&explained, || explained.iter().map(|one| one.text.as_str()).collect())?;
    let is_well = explained.iter().all(|one| one.outcome != "error");
    Ok(if is_well { Ended::Well } else { Ended::NotWell })
}

fn read(file: &Path) -> Result<String, Error> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(file)
    };
    text.map_err(|source| Error::File { file: file.display().to_string(), source })
}
