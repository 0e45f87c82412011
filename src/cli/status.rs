//! `failoverctl status`: the state of each health check, and of what could not be read: which part, and why.

mod accounts;
mod versions;

use std::time::Duration;

use anstream::adapter::strip_str;
use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::context::Context;
use super::error::{Ended, Error};
use super::guard::{Guard, Options};
use super::look;
use super::name::Named;
use super::screen::{Mood, Row, paint, say, table};
use super::seen::{Part, Status, Unread, counted};
use super::session::Common;
use super::state::State;
use super::text::{ago, cut, plain, wrapped};
use super::timeline::{Source, Timeline};
use crate::failover_lock::alarm::AlarmState;
use crate::failover_lock::health_check::HealthCheckId;
use crate::failover_lock::reason::Reason;
use crate::failover_lock::route53::Checkers;

/// How often a command that waits reads the state.
const LOOK: Duration = Duration::from_secs(5);
const REDRAW: Duration = Duration::from_secs(10);
/// The longest name in the table: an id has as many characters.
const LONGEST_NAME: usize = 36;
/// The indentation of the lines below a row.
const BELOW: usize = 4;

/// Show the health checks that can be locked, and whether they are.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  failoverctl status\n  failoverctl status --watch primary\n  failoverctl status --profile \
    shop --profile blog\n  failoverctl status --output json | jq '.healthChecks[] | select(.state != \"armed\")'"
)]
pub(super) struct Arguments {
    /// The health checks, by id or tag Name; by default every health check of the account that has a path.
    #[arg(value_name = "CHECK")]
    checks: Vec<Named>,
    /// Show them again every 10 seconds, until interrupted.
    #[arg(long)]
    watch: bool,
    /// Show instead what the functions of the Region run, and whether it is the newest that is deployed there.
    #[arg(long, conflicts_with_all = ["watch", "checks"])]
    versions: bool,
    #[command(flatten)]
    options: Options,
}

/// What one look shows.
#[derive(Serialize)]
#[serde(transparent)]
struct Shown {
    checks: Vec<Status>,
    /// Whether a person has named them.
    #[serde(skip)]
    are_named: bool,
    #[serde(skip)]
    context: Option<Context>,
}

/// The footnotes of a table, each once.
#[derive(Default)]
struct Notes(Vec<String>);

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let Arguments { checks, watch, versions, options } = arguments;
    if let Some(profiles) = common.each_profile() {
        if !checks.is_empty() {
            return Err(Error::Profiles("health checks are named in one account"));
        }
        if versions {
            return Err(Error::Profiles("--versions shows one account"));
        }
        return accounts::run(common, &options, profiles, watch).await;
    }
    if versions {
        let session = common.session().await?;
        return versions::run(&session).await;
    }
    let guard = &options.guard(common).await?;
    let mut ids = Vec::new();
    for check in &checks {
        ids.push(check.find(guard).await?);
    }
    let screen = &guard.session.screen;
    let look = async || {
        let are_named = !ids.is_empty();
        let checks = if are_named { look::named(guard, &ids).await? } else { look::all(guard).await? };
        Ok(Shown { checks, are_named, context: screen.context().await })
    };
    screen.watch("healthChecks", watch.then_some(REDRAW), look, Shown::text, Shown::ended).await
}

/// Shows the checkers' results and the alarm's state, until the check is armed.
pub(super) async fn until_armed(
    guard: &Guard,
    id: &HealthCheckId,
    timeout: Duration,
    timeline: &mut Timeline,
) -> Result<(), Error> {
    let end = Instant::now() + timeout;
    let mut shown = String::new();
    loop {
        let status = look::one(guard, id).await?;
        let now = status.progress();
        if now != shown {
            say(&now);
            timeline.add(Source::Checkers, strip_str(&now).to_string());
            shown = now;
        }
        match &status.state {
            State::Armed if status.is_in_service() => {
                say(&format!(
                    "armed again, by its path, its tags and its alarms; the way to lock: failoverctl doctor {id}"
                ));
                return Ok(());
            }
            State::Locked { .. } => {
                return Err(Error::TooLate(format!("{id} was locked again: {}", status.state.words())));
            }
            state if is_final(state) || status.stays_unknown() => {
                return Err(Error::TooLate(format!(
                    "{id} will not be seen armed and in service: {}. For the cause, run: failoverctl doctor {id}",
                    status.progress()
                )));
            }
            _ if Instant::now() >= end => {
                return Err(Error::TooLate(format!(
                    "{id} is not armed and in service after {} s: {}. For the cause, run: failoverctl doctor {id}",
                    timeout.as_secs(),
                    status.progress()
                )));
            }
            _ => sleep(LOOK).await,
        }
    }
}

/// Whether only a person changes that.
fn is_final(state: &State) -> bool {
    use Reason::{ActionsDisabled, ActionsMuted, NeverGoesOff, NoAlarm};
    match state {
        State::CannotBeLocked { .. } | State::Paused { .. } => true,
        State::Unprotected { reason } => {
            matches!(reason, ActionsDisabled | ActionsMuted | NeverGoesOff | NoAlarm)
        }
        _ => false,
    }
}

// === impl Status ===

impl Status {
    fn why_unknown(&self, part: Part) -> Option<&str> {
        self.unknown.iter().find(|unread| unread.what == part).map(|unread| unread.why.as_str())
    }

    /// Whether its alarm is OK, and its checkers, if they can be read, find it healthy.
    fn is_in_service(&self) -> bool {
        let is_ok = self.alarm.as_ref().is_some_and(|alarm| alarm.state == AlarmState::Ok);
        is_ok && self.checkers.is_none_or(Checkers::find_it_healthy)
    }

    /// Whether a part that is needed to know that it is armed cannot be read, and another look would not change that.
    fn stays_unknown(&self) -> bool {
        let is_needed = |part| matches!(part, Part::Check | Part::Tags | Part::Alarms | Part::MuteRules);
        self.unknown.iter().any(|unread| is_needed(unread.what) && !unread.may_pass)
    }

    fn progress(&self) -> String {
        let checkers = self.checkers.map_or_else(|| "checkers unknown".to_owned(), counted);
        let why_unknown = self.why_unknown(Part::Alarms).or(self.why_unknown(Part::Queries));
        let alarm = match (&self.alarm, why_unknown) {
            (Some(alarm), _) => format!("alarm {} is {}", plain(&alarm.name), alarm.state),
            (None, None) => "there is no alarm".to_owned(),
            (None, Some(why)) => format!("alarm unknown ({why})"),
        };
        let rules =
            self.why_unknown(Part::MuteRules).map(|why| format!("; mute rules unknown ({})", plain(why)));
        let rules = rules.unwrap_or_default();
        format!("{checkers}; {alarm}; {}{rules}", paint(&self.state.words(), self.state.mood()))
    }

    /// The cells of its row: of what could not be read, unknown, and where the note says why.
    fn cells(&self, notes: &mut Notes) -> [String; 4] {
        let name = self.name.as_deref().map_or_else(|| self.health_check_id.to_string(), plain);
        let unknown = |notes: &mut Notes, part| {
            self.why_unknown(part).map(|why| format!("unknown {}", notes.number(why)))
        };
        let healthy = match self.checkers {
            Some(Checkers { healthy, total }) => format!("{healthy}/{total}"),
            None => unknown(notes, Part::Checkers).unwrap_or_default(),
        };
        let alarm = match &self.alarm {
            Some(alarm) => match alarm.state {
                AlarmState::Ok => "OK".to_owned(),
                AlarmState::Alarm => "ALARM".to_owned(),
                AlarmState::InsufficientData => "no data".to_owned(),
            },
            None => unknown(notes, Part::Alarms)
                .or_else(|| unknown(notes, Part::Queries))
                .or_else(|| unknown(notes, Part::Contributors))
                .unwrap_or_else(|| "none".to_owned()),
        };
        [self.state.name().to_owned(), cut(&name, LONGEST_NAME), healthy, alarm]
    }

    /// The lines below its row.
    fn below(&self, notes: &mut Notes) -> String {
        let mut text = String::new();
        let mut line = |line: &str| text += &wrapped(line, BELOW);
        if let Some(detail) = self.state.detail() {
            line(&detail);
        }
        if let Some(why) = self.why_unknown(Part::Tags) {
            line(&format!("its tags are unknown {}: name, and record of locks", notes.number(why)));
        }
        if let Some(why) = self.why_unknown(Part::Queries).filter(|_| self.alarm.is_some()) {
            line(&format!("its alarms on metric math and queries are unknown {}", notes.number(why)));
        }
        if let Some(why) = self.why_unknown(Part::Contributors) {
            line(&format!("whether an alarm on a query is in ALARM for it is unknown {}", notes.number(why)));
        }
        if let Some(why) = self.why_unknown(Part::MuteRules) {
            line(&format!("whether a mute rule holds its alarms back is unknown {}", notes.number(why)));
        }
        let id = self.name.as_ref().map(|_| self.health_check_id.to_string());
        let url =
            self.watches.as_ref().map(|watches| plain(watches) + &plain(self.path.as_deref().unwrap_or("/")));
        for part in [id, url].into_iter().flatten() {
            line(&part);
        }
        if let Some(alarm) = &self.alarm {
            line(&format!("alarm {} went to {} {}", plain(&alarm.name), alarm.state, ago(alarm.since)));
        }
        text
    }

    /// The parts of which a change is marked.
    fn marked(&self) -> impl PartialEq {
        (self.cells(&mut Notes::default()), self.path.clone(), self.watches.clone())
    }
}

// === impl Notes ===

impl Notes {
    /// The mark of the note with this text.
    fn number(&mut self, text: &str) -> String {
        let found = self.0.iter().position(|note| note == text);
        let at = found.unwrap_or_else(|| {
            self.0.push(text.to_owned());
            self.0.len() - 1
        });
        format!("[{}]", at + 1)
    }
}

// === impl Shown ===

impl Shown {
    fn text(&self, before: Option<&Self>) -> String {
        if self.checks.is_empty() {
            let account = self.context.as_ref().map(Context::account).unwrap_or_default();
            let said =
                format!("There is no health check with a path in {account}. Another account: --profile NAME");
            return wrapped(&said, 0);
        }
        let mut notes = Notes::default();
        let mut is_marked = false;
        let rows = self.checks.iter().map(|status| {
            let mut cells = status.cells(&mut notes);
            let was = before
                .map(|before| before.checks.iter().find(|one| one.health_check_id == status.health_check_id));
            if was.is_some_and(|was| was.is_none_or(|was| was.marked() != status.marked())) {
                is_marked = true;
                cells[0] += " *";
            }
            Row { cells, mood: self.mood(status), below: status.below(&mut notes) }
        });
        let rows: Vec<_> = rows.collect();
        let mut text = table(["STATE", "HEALTH CHECK", "HEALTHY", "ALARM"], &rows);
        if is_marked {
            text += "* changed since the look before\n";
        }
        for (note, number) in notes.0.iter().zip(1..) {
            text += &wrapped(&format!("[{number}] {}", plain(note)), 0);
        }
        text
    }

    /// A check that is neither guarded nor named is no fault.
    fn mood(&self, status: &Status) -> Mood {
        match status.state.mood() {
            Mood::Wrong if !self.are_named && status.guarded == Some(false) => Mood::Warn,
            mood => mood,
        }
    }

    fn ended(&self) -> Ended {
        let is_bad = |status: &Status| {
            // The state says itself whether it rests on the other parts.
            let is_blind = |unread: &Unread| {
                matches!(unread.what, Part::Check | Part::Tags | Part::Alarms | Part::Contributors)
            };
            let is_blind = status.unknown.iter().any(is_blind);
            is_blind || matches!(self.mood(status), Mood::Wrong | Mood::Unknown)
        };
        // In the wrong account nothing is seen, which is not well.
        if self.checks.is_empty() || self.checks.iter().any(is_bad) { Ended::NotWell } else { Ended::Well }
    }
}
