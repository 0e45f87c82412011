//! `failoverctl pause` and `failoverctl resume`: planned work, during which no alarm locks a health check.
//!
//! A pause is a mute rule of CloudWatch on the check's alarms. It ends by itself, and the actions of an alarm that is in ALARM
//! then are made up for.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, DurationRound as _, NaiveDateTime, TimeDelta, Utc};
use clap::Args;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::clock;
use super::error::{Ended, Error};
use super::guard::{Guard, Options};
use super::look;
use super::mute::{MuteRules, NewRule, PAUSE};
use super::name::Named;
use super::screen::say;
use super::seen::Status;
use super::session::{Common, Interrupts, patience};
use super::state::State;
use super::text::{plain, time};
use crate::failover_lock::alarm::{Alarm, AlarmState};
use crate::failover_lock::decide::{self, Health};
use crate::failover_lock::health_check::HealthCheckId;
use crate::failover_lock::reason::Reason;
use crate::remote::aws::{Failure, Kind};

/// When a pause begins, as its rule's name has it. Four hexadecimal digits follow.
const STARTS: &str = "%Y%m%dT%H%MZ";
const LOOK: Duration = Duration::from_secs(1);
/// How long a rule may take to become active, or to be gone.
const ACTIVE: Duration = Duration::from_mins(1);
/// How long before its first minute a rule is made, at least: as long as the call may be tried.
const AHEAD: TimeDelta = TimeDelta::seconds(20);

/// Pause the alarms of a health check for planned work: nothing locks it until then.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl pause primary --for 2h --reason 'upgrade, CHG-42'")]
pub(super) struct Pause {
    /// The primary's health check, by its id or its tag Name.
    #[arg(value_name = "CHECK")]
    check: Named,
    /// For how long: minutes, hours or days, for example 90m, 2h or 1d; at most 15 days.
    #[arg(long = "for", value_name = "TIME")]
    length: Length,
    /// The reason, for those who find the pause.
    #[arg(long)]
    reason: String,
    /// Show what would be done, change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    options: Options,
}

/// End the pauses of a health check.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl resume primary")]
pub(super) struct Resume {
    /// The primary's health check, by its id or its tag Name.
    #[arg(value_name = "CHECK")]
    check: Named,
    /// Show what would be done, change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    options: Options,
}

/// The length of a pause, in minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Length(pub i64);

pub(super) async fn pause(common: &Common, arguments: Pause) -> Result<Ended, Error> {
    let Pause { check, length, reason, dry_run, yes, options } = arguments;
    let Length(minutes) = length;
    if reason.trim().is_empty() {
        return Err(Error::NoPause("the reason is empty".to_owned()));
    }
    let guard = &options.guard(common).await?;
    let id = &check.find(guard).await?;
    let alarms = pausable(guard, id).await?;
    let rules = MuteRules::new(&guard.session.aws);
    let watching = guard.cloudwatch.all_alarms(patience()).await?.all_on(id)?;
    for (composite, over) in composites(&rules, watching.into_iter().map(|alarm| alarm.name)).await? {
        say(&format!(
            "warning: the composite alarm {} is over {}, and is not paused: if it leads to lock, mute it as well",
            plain(&composite),
            plain(&over)
        ));
    }
    let names = names_of(&alarms);
    let question = format!(
        "Pause {id} for {length}? Nothing locks it then, and its alarms notify no one: {}.",
        plain(&names.join(", "))
    );
    let screen = &guard.session.screen;
    if screen.ask(&question, yes || dry_run).await? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    let context = screen.context().await;
    let by = context.as_ref().and_then(|context| context.caller()).unwrap_or("by whom is unknown");
    let description = format!("{reason} ({by})");
    let from = next_minute(clock::now());
    let until = from + TimeDelta::minutes(minutes);
    let outcome = |outcome| json!([{ "healthCheckId": id, "outcome": outcome, "from": time(from), "until": time(until) }]);
    if dry_run {
        let text = || format!("{id}: would be paused until {}\n", time(until));
        screen.show("outcomes", &outcome("would_pause"), text).await?;
        return Ok(Ended::Well);
    }
    // While the question was open, it may have failed, or have been locked.
    if !yes && names_of(&pausable(guard, id).await?) != names {
        return Err(Error::NoPause(format!(
            "the alarms of {id} have changed while the question was open: repeat the command"
        )));
    }
    let name = format!("{PAUSE}{id}-{}-{:04x}", from.format(STARTS), fastrand::u16(..));
    let rule = NewRule { name: &name, alarms: names, from, minutes, description };
    let mut interrupts = Interrupts::new()?;
    if let Err(failure) = interrupts.hold_off(Box::pin(rules.put(&rule, patience())), || true).await? {
        if failure.kind() == Kind::Unclear {
            return Err(perhaps(id, &name, &failure));
        }
        return Err(failure.into());
    }
    say(&format!("the pause begins at {}: until then its alarms lock", time(from)));
    tokio::select! {
        biased;
        () = interrupts.recv() => {
            return Err(Error::TooLate(format!(
                "interrupted: the mute rule {name} stays, and pauses {id} from {} until {}. To delete the rule: failoverctl \
                 resume {id}",
                time(from),
                time(until)
            )));
        }
        begun = begins(&rules, id, &name, from) => begun?,
    }
    screen.show("outcomes", &outcome("paused"), || format!("{id}: paused until {}\n", time(until))).await?;
    // It may have failed, or have been locked, before the pause began.
    let now = look::one(guard, id).await?;
    for rule in of(&rules, id, &alarms).await?.1 {
        say(&format!("another mute rule holds its alarms back as well: {}", plain(&rule)));
    }
    let fails =
        now.alarm.as_ref().is_some_and(|alarm| alarm.state == AlarmState::Alarm) || is_unhealthy(&now);
    if matches!(now.state, State::Paused { .. }) && !fails {
        return Ok(Ended::Well);
    }
    if fails {
        say(&format!(
            "it fails now, and nothing locks it: see failoverctl status {id}; to lock it: failoverctl lock {id} --reason …"
        ));
    }
    say(&format!("{id} {}", now.state.clause()));
    say(&format!("the pause lasts until {} all the same; to end it: failoverctl resume {id}", time(until)));
    Ok(Ended::NotWell)
}

/// Waits until the rule of a pause is active.
async fn begins(rules: &MuteRules, id: &HealthCheckId, name: &str, from: DateTime<Utc>) -> Result<(), Error> {
    sleep((from - clock::now()).to_std().unwrap_or_default()).await;
    let end = Instant::now() + ACTIVE;
    while !rules.is_active(name, patience()).await.map_err(|failure| perhaps(id, name, &failure))? {
        if Instant::now() >= end {
            return Err(perhaps(id, name, &"CloudWatch does not show it as active"));
        }
        sleep(LOOK).await;
    }
    Ok(())
}

fn names_of(alarms: &[Alarm]) -> Vec<String> {
    alarms.iter().map(|alarm| alarm.name.clone()).collect()
}

/// Whether Route 53's checkers find it unhealthy.
fn is_unhealthy(now: &Status) -> bool {
    now.checkers.is_some_and(|checkers| checkers.verdict() == Health::Unhealthy)
}

pub(super) async fn resume(common: &Common, arguments: Resume) -> Result<Ended, Error> {
    let Resume { check, dry_run, yes, options } = arguments;
    let guard = &options.guard(common).await?;
    let id = &check.find(guard).await?;
    let alarms = guard.cloudwatch.alarms_on(id, patience()).await?;
    let rules = MuteRules::new(&guard.session.aws);
    let (own, others) = of(&rules, id, &alarms).await?;
    let screen = &guard.session.screen;
    let outcome = async |outcome: &str, words: &str| {
        let found = json!([{ "healthCheckId": id, "outcome": outcome, "rules": own }]);
        screen.show("outcomes", &found, || format!("{id}: {words}\n")).await
    };
    let is_muted = !own.is_empty() || !others.is_empty();
    let in_alarm = alarms.iter().filter(|alarm| is_muted && alarm.state == AlarmState::Alarm);
    for alarm in in_alarm.filter(|alarm| decide::leads_to_lock(alarm, &guard.config)) {
        say(&format!(
            "its alarm {} is in ALARM: it is locked as soon as no rule mutes that",
            plain(&alarm.name)
        ));
    }
    for rule in &others {
        say(&format!("another mute rule holds its alarms back: {}", plain(rule)));
    }
    if own.is_empty() {
        // One that does not exist is not "not paused".
        guard.route53.health_check(id, patience()).await?;
        outcome("not_paused", "is not paused").await?;
        return Ok(if others.is_empty() { Ended::Well } else { Ended::NotWell });
    }
    if screen
        .ask(&format!("End the pause of {id}? From then on its alarms may lock it."), yes || dry_run)
        .await?
        == Ended::NotWell
    {
        return Ok(Ended::NotWell);
    }
    if dry_run {
        outcome("would_resume", "its pause would end").await?;
        return Ok(Ended::Well);
    }
    for rule in &own {
        rules.delete(rule, patience()).await?;
    }
    let end = Instant::now() + ACTIVE;
    while !of(&rules, id, &alarms).await?.0.is_empty() {
        if Instant::now() >= end {
            return Err(Error::TooLate(format!(
                "CloudWatch still shows the pause of {id}: repeat the command"
            )));
        }
        sleep(LOOK).await;
    }
    // Its alarms, or what they lead to, may have been changed during the work.
    let now = look::one(guard, id).await;
    let locks = now.as_ref().is_ok_and(|now| matches!(now.state, State::Armed | State::Overdue { .. }));
    outcome("resumed", if locks { "its alarms lock again" } else { "its pause has ended" }).await?;
    let now = now?;
    if locks {
        return Ok(Ended::Well);
    }
    say(&format!("{id} {}", now.state.clause()));
    Ok(Ended::NotWell)
}

/// The composite alarms over these, and over those, each with one that it is over.
pub(super) async fn composites(
    rules: &MuteRules,
    alarms: impl Iterator<Item = String>,
) -> Result<BTreeMap<String, String>, Failure> {
    let (mut open, mut found): (Vec<_>, _) = (alarms.collect(), BTreeMap::new());
    while let Some(alarm) = open.pop() {
        for above in rules.above(&alarm, patience()).await? {
            if !found.contains_key(&above) {
                found.insert(above.clone(), alarm.clone());
                open.push(above);
            }
        }
    }
    Ok(found)
}

/// The error of a pause that may have begun, or may yet.
fn perhaps(id: &HealthCheckId, rule: &str, cause: &impl Display) -> Error {
    Error::TooLate(format!(
        "{cause}. It is not certain whether the mute rule {rule} pauses {id}: see failoverctl status {id}; to delete the rule: \
         failoverctl resume {id}"
    ))
}

/// The rules of these alarms: the pauses of this check, and the others.
async fn of(
    rules: &MuteRules,
    id: &HealthCheckId,
    alarms: &[Alarm],
) -> Result<(Vec<String>, Vec<String>), Error> {
    let is_own = |name: &String| {
        let rest =
            name.strip_prefix(PAUSE).and_then(|name| name.strip_prefix(id.as_str())?.strip_prefix('-'));
        rest.and_then(|rest| rest.split_once('-')).is_some_and(|(starts, number)| {
            NaiveDateTime::parse_from_str(starts, STARTS).is_ok() && number.len() == 4
        })
    };
    // Also where the alarm that it is about is gone.
    let own: Vec<_> = rules.of(None, patience()).await?.into_iter().filter(is_own).collect();
    let mut others = Vec::new();
    for alarm in alarms {
        others.extend(rules.of(Some(&alarm.name), patience()).await?);
    }
    others.retain(|name| !is_own(name));
    others.sort_unstable();
    others.dedup();
    Ok((own, others))
}

/// The alarms to pause, each of this check alone, and together all that lead to a lock.
///
/// # Errors
/// The check is locked, or is to be; a pause would hide that. Or it shares an alarm with others, or has none.
async fn pausable(guard: &Guard, id: &HealthCheckId) -> Result<Vec<Alarm>, Error> {
    let refuse = |why: String| Err(Error::NoPause(why));
    let now = look::one(guard, id).await?;
    let state = &now.state;
    let hides_nothing = |reason| {
        use Reason::{ActionsDisabled, ActionsMuted, DryRun, NeverGoesOff, NoAlarm, NoData};
        matches!(reason, ActionsDisabled | ActionsMuted | DryRun | NeverGoesOff | NoAlarm | NoData)
    };
    let may_pause = match state {
        State::Armed | State::Paused { .. } => true,
        State::Unprotected { reason } => hides_nothing(*reason),
        _ => false,
    };
    if !may_pause {
        return refuse(format!("{id} {}", state.clause()));
    }
    if is_unhealthy(&now) {
        return refuse(format!("Route 53's checkers find {id} unhealthy: its alarm is about to lock it"));
    }
    let leads = |alarms: Vec<Alarm>| -> Vec<Alarm> {
        alarms.into_iter().filter(|alarm| decide::leads_to_lock(alarm, &guard.config)).collect()
    };
    let own = leads(guard.cloudwatch.alarms_on(id, patience()).await?);
    let all = leads(guard.cloudwatch.all_alarms(patience()).await?.all_on(id)?);
    if let Some(shared) = all.iter().find(|alarm| own.iter().all(|own| own.name != alarm.name)) {
        return refuse(format!(
            "alarm {} is on a query or on metric math: a mute rule on it may hold other health checks back as well. Make one \
             yourself, if that is meant: aws cloudwatch put-alarm-mute-rule",
            plain(&shared.name)
        ));
    }
    if own.is_empty() {
        return refuse(format!("no alarm leads to a lock of {id}"));
    }
    Ok(own)
}

/// The start of the next minute that is not too near.
fn next_minute(now: DateTime<Utc>) -> DateTime<Utc> {
    let minute = TimeDelta::minutes(1);
    (now + AHEAD + minute).duration_trunc(minute).unwrap_or(now)
}

// === impl Length ===

impl Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(minutes) = self;
        match (minutes % 1440, minutes % 60) {
            (0, _) => write!(f, "{} d", minutes / 1440),
            (_, 0) => write!(f, "{} h", minutes / 60),
            _ => write!(f, "{minutes} min"),
        }
    }
}

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit = text.chars().last().and_then(|unit| match unit {
            'm' => Some(1),
            'h' => Some(60),
            'd' => Some(24 * 60),
            _ => None,
        });
        let count = unit.and_then(|unit| text[..text.len() - 1].parse::<i64>().ok()?.checked_mul(unit));
        // https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_Schedule.html: `PT1M` to `P15D`.
        match count {
            Some(minutes) if (1..=15 * 24 * 60).contains(&minutes) => Ok(Self(minutes)),
            _ => Err("a number of minutes, hours or days, from 1m to 15d, for example 90m or 2h".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_minutes_hours_or_days_up_to_cloudwatchs_limit() {
        for (text, minutes) in [("1m", 1), ("90m", 90), ("2h", 120), ("15d", 21_600)] {
            assert_eq!(text.parse(), Ok(Length(minutes)));
        }
        for text in ["", "m", "2", "0h", "-1h", "16d", "2 h", "1h30m", "9999999999999999999d", "2é"] {
            assert!(text.parse::<Length>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_pause_begins_with_a_minute_that_is_yet_to_come() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
        for (now, from) in [
            ("2026-11-27T10:00:00Z", "2026-11-27T10:01:00Z"),
            ("2026-11-27T10:00:39Z", "2026-11-27T10:01:00Z"),
            ("2026-11-27T10:00:40Z", "2026-11-27T10:02:00Z"),
            ("2026-11-27T23:59:59Z", "2026-11-28T00:01:00Z"),
        ] {
            assert_eq!(next_minute(at(now)), at(from), "{now}");
        }
    }
}
