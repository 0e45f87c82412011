//! `failoverctl status`: a line for each health check.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use futures_util::stream::{self, StreamExt};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::error::{Ended, Error};
use super::guard::{Guard, Options, SHORTLY};
use super::screen::{Mood, paint, say, table, time};
use super::session::{Common, patience};
use super::state::{State, foremost};
use crate::failover_lock::alarm::AlarmState;
use crate::failover_lock::cloudwatch::Alarms;
use crate::failover_lock::decide::Health;
use crate::failover_lock::health_check::{Endpoint, HealthCheck, HealthCheckId};
use crate::failover_lock::route53::Checkers;
use crate::remote::aws::Failure;

/// Route 53 allows an account some 10 calls a second.
const AT_ONCE: usize = 4;
/// How often a command that waits reads the state.
const LOOK: Duration = Duration::from_secs(5);
const REDRAW: Duration = Duration::from_secs(10);

/// The state of a health check.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    pub health_check_id: HealthCheckId,
    /// Its endpoint, for example `https://primary.example.com:443`.
    pub watches: Option<String>,
    pub path: Option<String>,
    #[serde(flatten)]
    pub state: State,
    /// The alarm on its health; the one in ALARM, if there is one.
    pub alarm: Option<AlarmNow>,
    /// Its checkers, if they have reported and may be read.
    pub checkers: Option<Checkers>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AlarmNow {
    pub name: String,
    pub state: AlarmState,
    pub since: DateTime<Utc>,
}

/// Show the health checks that can be locked, and whether they are.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  failoverctl status\n  failoverctl status --watch \
    233e180f-f023-45a3-954e-415303f21eab\n  failoverctl status --output json | jq '.[] | select(.state != \"armed\")'")]
pub(super) struct Arguments {
    /// The health checks; by default every health check of the account that has a path.
    ids: Vec<HealthCheckId>,
    /// Show them again every 10 seconds, until interrupted.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    options: Options,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let Arguments { ids, watch, options } = arguments;
    let guard = &options.guard(common).await?;
    let is_bad = |status: &Status| matches!(status.state.mood(), Mood::Wrong | Mood::Unknown);
    let ended = |found: &Vec<Status>| if found.iter().any(is_bad) { Ended::NotWell } else { Ended::Well };
    let look = async || look_at(guard, &ids).await;
    guard.session.screen.watch(watch.then_some(REDRAW), look, |found| text(found), ended).await
}

async fn look_at(guard: &Guard, ids: &[HealthCheckId]) -> Result<Vec<Status>, Error> {
    // Optional: else they are read check by check.
    let all = if ids.is_empty() { guard.cloudwatch.all_alarms(patience()).await.ok() } else { None };
    let checks: Vec<_> = if ids.is_empty() {
        let all = guard.route53.health_checks(patience()).await?;
        let with_path = all.into_iter().filter(|check| check.endpoint.is_some());
        with_path.map(|check| (check.id.clone(), Some(check))).collect()
    } else {
        ids.iter().map(|id| (id.clone(), None)).collect()
    };
    let looks = checks.into_iter().map(async |(id, check)| {
        let look = async {
            let check = match check {
                Some(check) => check,
                None => guard.route53.health_check(&id, patience()).await?,
            };
            one(guard, check, all.as_ref()).await
        };
        // A check that cannot be read does not hide the others.
        look.await.unwrap_or_else(|failure| Status {
            health_check_id: id.clone(),
            watches: None,
            path: None,
            state: State::Unknown { why: failure.to_string() },
            alarm: None,
            checkers: None,
        })
    });
    Ok(stream::iter(looks).buffered(AT_ONCE).collect().await)
}

/// Reads the state of one health check.
pub(super) async fn one(guard: &Guard, check: HealthCheck, all: Option<&Alarms>) -> Result<Status, Failure> {
    let deadline = patience();
    let alarms = guard.alarms(&check.id, all).await?;
    let tags = guard.route53.tags(&check.id, deadline).await?;
    // Optional: the rest is shown without it.
    let checkers = guard.route53.checkers(&check.id, deadline.within(SHORTLY)).await.ok();
    let health = checkers.map_or(Health::Unknown, Checkers::verdict);
    Ok(Status {
        watches: check.endpoint.as_ref().map(watches),
        path: check.path().map(str::to_owned),
        state: State::of(&check, &alarms, &tags, health, &guard.config),
        alarm: foremost(&alarms).map(|alarm| AlarmNow {
            name: alarm.name.clone(),
            state: alarm.state,
            since: alarm.changed_at,
        }),
        checkers,
        health_check_id: check.id,
    })
}

fn text(found: &[Status]) -> String {
    if found.is_empty() {
        return "There is no health check with a path in this account.\n".to_owned();
    }
    let rows: Vec<_> = found
        .iter()
        .map(|status| {
            let alarm = status.alarm.as_ref();
            let row = [
                status.health_check_id.to_string(),
                format!(
                    "{}{}",
                    status.watches.as_deref().unwrap_or_default(),
                    status.path.as_deref().unwrap_or_default()
                ),
                status.checkers.as_ref().map_or_else(
                    || "?".to_owned(),
                    |checkers| format!("{}/{}", checkers.healthy, checkers.total),
                ),
                alarm.map_or_else(
                    || "none".to_owned(),
                    |alarm| format!("{} {} since {}", alarm.name, alarm.state, time(alarm.since)),
                ),
                status.state.words(),
            ];
            (row, status.state.mood())
        })
        .collect();
    table(["HEALTH CHECK", "WATCHES", "HEALTHY", "ALARM", "STATE"], &rows)
}

/// The URL that a health check requests, without its path.
pub(super) fn watches(endpoint: &Endpoint) -> String {
    let scheme = if endpoint.https { "https" } else { "http" };
    let host = endpoint.domain_name.as_deref().or(endpoint.ip_address.as_deref()).unwrap_or("?");
    format!("{scheme}://{host}:{}", endpoint.port)
}

/// Whether its alarm is OK, and its checkers, if they can be read, find it healthy.
pub(super) fn is_in_service(status: &Status) -> bool {
    let is_ok = status.alarm.as_ref().is_some_and(|alarm| alarm.state == AlarmState::Ok);
    is_ok && status.checkers.is_none_or(Checkers::find_it_healthy)
}

/// Shows the checkers' results and the alarm's state, until the check is armed.
pub(super) async fn until_armed(guard: &Guard, id: &HealthCheckId, timeout: Duration) -> Result<(), Error> {
    let end = Instant::now() + timeout;
    let mut shown = String::new();
    loop {
        let check = guard.route53.health_check(id, patience()).await?;
        let status = one(guard, check, None).await?;
        let now = progress(&status);
        if now != shown {
            say(&now);
            shown = now;
        }
        match &status.state {
            State::Armed if is_in_service(&status) => {
                say("armed again: the next alarm locks it");
                return Ok(());
            }
            State::Locked { .. } => {
                return Err(Error::TooLate(format!("{id} was locked again: {}", status.state.words())));
            }
            _ if Instant::now() >= end => {
                return Err(Error::TooLate(format!(
                    "{id} is not armed after {} s: {}. For the cause, run: failoverctl doctor {id}",
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
