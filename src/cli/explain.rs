//! `failoverctl explain`: the result that `lock` would have with an event.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::{fs, io};

use clap::Args;
use serde::Serialize;

use super::error::{Ended, Error};
use super::guard::{Guard, Options};
use super::screen::{Mood, Screen, paint};
use super::session::{Common, patience};
use super::state::{text, why};
use super::text::{plain, time};
use crate::failover_lock::Handler;
use crate::failover_lock::alarm::AlarmTransition;
use crate::failover_lock::config::Config;
use crate::failover_lock::decide::{self, Concern};
use crate::failover_lock::error::FailedRecord;
use crate::failover_lock::event::{self, Message};
use crate::failover_lock::health_check::HealthCheckId;
use crate::failover_lock::outcome::Outcome;

/// The content of one record of the event, and the result that it would have.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Explained {
    #[serde(skip_serializing_if = "Option::is_none")]
    alarm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    health_check_id: Option<HealthCheckId>,
    /// `error`, or the result.
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip)]
    text: String,
}

/// Show what `lock` would do with an event, and why; no change is made.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  failoverctl explain events/sns/keycloak-alarm.json\n  \
    failoverctl explain --offline - < message.json")]
pub(super) struct Arguments {
    /// A Lambda event or an alarm's message; `-` for standard input.
    event: PathBuf,
    /// Read the event alone, without calls to AWS.
    #[arg(long)]
    offline: bool,
    /// The guarded health checks, comma-separated; by default every health check.
    #[arg(long, value_name = "IDS", env = "GUARDED_HEALTH_CHECKS")]
    guarded: Option<String>,
    /// The tag of the guarded health checks, as `key` or `key=value`.
    #[arg(long, value_name = "TAG", env = "GUARDED_TAG", conflicts_with = "guarded")]
    guarded_tag: Option<String>,
    /// `primary=secondary` pairs, comma-separated.
    #[arg(long, value_name = "PAIRS", env = "SECONDARY_HEALTH_CHECKS")]
    secondaries: Option<String>,
    #[command(flatten)]
    options: Options,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let Arguments { event, offline, guarded, guarded_tag, secondaries, options } = arguments;
    let config = options.config(|name| match name {
        "GUARDED_HEALTH_CHECKS" => guarded.clone(),
        "GUARDED_TAG" => guarded_tag.clone(),
        "SECONDARY_HEALTH_CHECKS" => secondaries.clone(),
        _ => None,
    })?;
    let config = Config { dry_run: true, ..config };
    let event = read(&event)?;
    if offline {
        let explained = event::records(&event)?.into_iter().map(|record| match record.message {
            Err(error) => wrong(None, error.to_string()),
            Ok(Message::Alarm(transition)) => concern(&transition, &config),
            Ok(Message::Foreign(what)) => foreign(&what),
        });
        return show(&common.screen(), explained).await;
    }
    let guard = Guard::new(common.session().await?, config);
    let results = guard.system().handle(Handler::Lock, &event, patience()).await.into_results();
    let explained = results.into_iter().map(|result| result.map_or_else(failed, done));
    show(&guard.session.screen, explained).await
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
            Some("it is a composite alarm: the alarms behind it have to be read from AWS".to_owned()),
        ),
        Ok(Concern::None(reason)) => {
            let id = transition.health_checks.first().cloned();
            (id, "ignored", Some(why(reason).to_owned()))
        }
        Ok(Concern::Check(id)) => {
            let lacks = config.guarded_tag.as_ref().map(|tag| format!("lacks the tag {tag}, "));
            let lacks = lacks.unwrap_or_default();
            let sees = format!("unless it {lacks}is locked, was restored since, or cannot be locked");
            (Some(id), "lock", Some(sees))
        }
    };
    let mood = if outcome == "ignored" { Mood::Warn } else { Mood::Ok };
    let of = health_check_id.as_ref().map(|id| format!(" {id}")).unwrap_or_default();
    let because = why.as_ref().map(|why| format!(", {why}")).unwrap_or_default();
    let text = format!("{says}: {}{of}{because}\n", paint(&outcome.replace('_', " "), mood));
    Explained { alarm, health_check_id, outcome: outcome.to_owned(), why, text }
}

fn foreign(what: &str) -> Explained {
    let why = format!("it is not about a health check's health: {}", plain(what));
    let text = format!("{}: {why}\n", paint("ignored", Mood::Warn));
    Explained { alarm: None, health_check_id: None, outcome: "ignored".to_owned(), why: Some(why), text }
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

async fn show(screen: &Screen, explained: impl Iterator<Item = Explained>) -> Result<Ended, Error> {
    let explained: Vec<_> = explained.collect();
    screen.show("outcomes", &explained, || explained.iter().map(|one| one.text.as_str()).collect()).await?;
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
