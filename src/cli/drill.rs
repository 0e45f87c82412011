//! `failoverctl drill`: a game day on a health check of its own.
//!
//! Every change that the drill makes after the question is undone at its end, even if a step fails. A change that
//! cannot be undone is reported, with the command for it.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use clap::{Args, value_parser};
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::error::{Ended, Error};
use super::function::{self, Function, unqualified};
use super::guard::{Guard, Options};
use super::name::{self, Named, Tags};
use super::screen::{error, say};
use super::session::{Common, Interrupts, YEAR, patience};
use super::state::{Seen, State};
use super::status::until_armed;
use super::text::{quoted, time};
use super::{dns, logs, sns};
use crate::failover_lock::Handler;
use crate::failover_lock::alarm::{Alarm, AlarmState};
use crate::failover_lock::health_check::{HealthCheck, HealthCheckId, ResourcePath};
use crate::failover_lock::outcome::Verdict;
use crate::failover_lock::probe;
use crate::failover_lock::record::{self, DRILL, Lock, Record};
use crate::remote::aws::{Failure, Kind};
use crate::remote::deadline::MayPass;

const LOOK: Duration = Duration::from_millis(500);
/// The time until a function's log is readable.
const LOGS: Duration = Duration::from_secs(20);
/// The time until a function has recorded the lock that it set.
const RECORDED: Duration = Duration::from_secs(15);
/// How often an update that conflicts with another one is tried.
const TRIES: usize = 5;

/// A game day: set the alarm off, follow it to the lock, and restore.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl drill failover-drill")]
#[expect(clippy::struct_excessive_bools, reason = "each is an option")]
pub(super) struct Arguments {
    /// A health check of your own that no record refers to, by its id or its tag Name.
    #[arg(value_name = "CHECK")]
    check: Named,
    /// Drill even if records refer to the health check: traffic moves.
    #[arg(long)]
    in_service: bool,
    /// Let the check fail, with a path that does not exist, instead of setting its alarm's state.
    #[arg(long)]
    by_metric: bool,
    /// The time that each leg may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = value_parser!(u64).range(..=YEAR))]
    timeout: u64,
    /// Show whether a drill may be done, and what it would do; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    options: Options,
}

/// One step of the drill, and its time.
#[derive(Debug, Serialize)]
struct Step {
    at: DateTime<Utc>,
    /// The seconds since the step before.
    seconds: f64,
    what: String,
}

/// The steps so far.
#[derive(Default)]
struct Timeline {
    steps: Vec<(DateTime<Utc>, String)>,
    /// Whether anything was, or may have been, changed.
    fired: bool,
    /// When the alarm went off, on AWS's clock.
    alarmed_at: Option<DateTime<Utc>>,
}

/// What tells the drill's own lock from another one.
struct Own<'a> {
    /// The alarm that the drill sets off.
    alarm: &'a str,
    /// The check's version when it was armed.
    after: i64,
    /// Whether the drill changes the path first.
    by_metric: bool,
}

pub(super) async fn run(common: &Common, drill: Arguments) -> Result<Ended, Error> {
    let (guard, drill) = (&drill.options.guard(common).await?, &drill);
    let id = &drill.check.find(guard).await?;
    let (_, tags, _, alarm) = ready(guard, id, drill).await?;
    let how = if drill.by_metric {
        "its path is changed, so that it fails".to_owned()
    } else {
        format!("its alarm {} is set off, which also notifies its other subscribers", alarm.name)
    };
    let title = name::title(id, Some(&tags));
    let screen = &guard.session.screen;
    if drill.dry_run {
        let found = json!([{ "healthCheckId": id, "outcome": "would_drill", "alarm": alarm.name }]);
        let text = || format!("{title}: a drill may be done: {how}; it is locked and restored\n");
        screen.show("outcomes", &found, text).await?;
        return Ok(Ended::Well);
    }
    let question = format!("Drill on {title}? {how}; it is locked and restored.");
    if screen.ask(&question, drill.yes).await? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    // It may have been locked while the question was open.
    let (check, _, path, alarm) = ready(guard, id, drill).await?;

    let mut timeline = Timeline::default();
    let mut interrupts = Interrupts::new()?;
    let locked = tokio::select! {
        locked = fire_and_follow(guard, &check, &alarm, drill, &mut timeline) => locked,
        () = interrupts.recv() => Err(Error::Interrupted),
    };
    if !timeline.fired {
        // Nothing was changed.
        return locked.map(|()| Ended::Well);
    }
    // The notification may still be under way, and a restore does not count for an alarm of the same second.
    let fired_at = timeline.alarmed_at.or(timeline.steps.first().map(|(at, _)| *at));
    if let Some(at) = fired_at.filter(|_| locked.is_err()) {
        let later = at.trunc_subsecs(0) + TimeDelta::seconds(1) - Utc::now();
        sleep(later.to_std().unwrap_or_default()).await;
    }
    let own = Own { alarm: &alarm.name, after: check.version, by_metric: drill.by_metric };
    let restored = restore(guard, id, &path, &own, &mut timeline).await;
    match &restored {
        Err(cause @ Error::NotOurs(_)) => say(&error(&format!(
            "the drill restores nothing: {cause}. The lock stays; to restore it, run: failoverctl restore {id} --path {}",
            quoted(path.as_str())
        ))),
        Err(cause) => say(&error(&format!(
            "{id} could not be restored: {cause}. Run: failoverctl restore {id}; if its path is \
             {DRILL}, run: aws route53 update-health-check --health-check-id {id} --resource-path {}",
            quoted(path.as_str())
        ))),
        Ok(()) => {}
    }
    let mut ended = locked.and(restored);
    if ended.is_ok() {
        let follows = async {
            // The drill is done: an unreadable log does not make it fail.
            if let Err(cause) = logged(guard, id, &alarm, &mut timeline).await {
                say(&format!("the function's log cannot be read: {cause}"));
            }
            until_armed(guard, id, Duration::from_secs(drill.timeout)).await
        };
        ended = tokio::select! {
            armed = Box::pin(follows) => armed,
            () = interrupts.recv() => Err(Error::Interrupted),
        };
    }
    if ended.is_ok() {
        timeline.step(Utc::now(), "armed again".to_owned());
    }
    let steps = timeline.steps();
    screen.show("steps", &steps, || steps.iter().map(text).collect()).await?;
    ended.map(|()| Ended::Well)
}

/// The check, its path, and the alarm to set off, if a drill may be done and can succeed.
async fn ready(
    guard: &Guard,
    id: &HealthCheckId,
    drill: &Arguments,
) -> Result<(HealthCheck, Tags, ResourcePath, Alarm), Error> {
    let deadline = patience();
    let check = guard.route53.health_check(id, deadline).await?;
    let (alarms, unread) = guard.alarms(id, deadline).await?;
    let tags = guard.route53.tags(id, deadline).await?;
    let rules = guard.cloudwatch.has_mute_rules(None, deadline).await;
    // What is muted is not locked, and the drill says so.
    let (muted, _) = guard.muted(alarms.iter(), rules, deadline).await;
    let seen = Seen {
        check: &check,
        alarms: &alarms,
        all_alarms: unread.is_none(),
        muted: &muted,
        tags: Some(&tags),
        health: guard.health(id).await,
    };
    let state = State::of(&seen, &guard.config);
    let refuse = |why: String| Err(Error::NoDrill(why));
    if state != State::Armed {
        return refuse(format!(
            "{id} is not armed ({}); to repair it, run: failoverctl doctor {id}",
            state.words()
        ));
    }
    let records = dns::records(&guard.session.aws, id, deadline).await?;
    if let Some(record) = records.first().filter(|_| !drill.in_service) {
        return refuse(format!(
            "{} depends on {id}: a drill moves its traffic. Use a check of its own, or add --in-service",
            record.name
        ));
    }
    // A restore checks the same, and would leave the check locked.
    let path = resource_path(check.path().unwrap_or_default())?;
    let locked = &guard.config.locked_path;
    if let Some(endpoint) = &check.endpoint {
        if let Err(unhealthy) = probe::ask(id, endpoint, &path).await {
            return refuse(format!("the primary must be healthy as seen from here: {unhealthy}"));
        }
        if probe::ask(id, endpoint, locked).await.is_ok() {
            return refuse(format!("the primary also answers at {locked}, so that a lock locks nothing"));
        }
    }
    for alarm in alarms {
        let can_go_off = alarm.state == AlarmState::Ok && alarm.actions_enabled;
        if can_go_off && !functions(guard, &alarm).await?.is_empty() {
            return Ok((check, tags, path, alarm));
        }
    }
    refuse(format!(
        "no alarm on {id} is OK and leads to a function that locks; for the cause, run: failoverctl doctor {id}"
    ))
}

/// Sets the alarm off, and follows it to the lock.
async fn fire_and_follow(
    guard: &Guard,
    check: &HealthCheck,
    alarm: &Alarm,
    drill: &Arguments,
    timeline: &mut Timeline,
) -> Result<(), Error> {
    let id = &check.id;
    let began = Utc::now();
    // An interrupt may leave a call that is done.
    timeline.fired = true;
    let (fired, what) = if drill.by_metric {
        let page = resource_path(DRILL)?;
        let set = guard.route53.set_path(id, &page, Some(check.version), patience()).await;
        (set.map(drop), format!("the check asks for {DRILL}"))
    } else {
        let set = guard.cloudwatch.set_off(&alarm.name, "failoverctl drill", patience()).await;
        (set, format!("alarm {} is set off", alarm.name))
    };
    // After a refusal nothing is changed; a call without an answer may have been done.
    timeline.fired = fired.as_ref().err().is_none_or(MayPass::may_pass);
    fired?;
    timeline.step(began, what);
    let end = Instant::now() + Duration::from_secs(drill.timeout);
    loop {
        let alarms = guard.cloudwatch.alarms_on(id, patience()).await?;
        // It was OK before.
        let gone_off = alarms.iter().find(|now| now.name == alarm.name && now.state == AlarmState::Alarm);
        if let Some(now) = gone_off.filter(|_| timeline.alarmed_at.is_none()) {
            timeline.alarmed_at = Some(now.changed_at);
            timeline.step(now.changed_at, format!("alarm {} is in ALARM", now.name));
        }
        let now = guard.route53.health_check(id, patience()).await?;
        if now.path() == Some(guard.config.locked_path.as_str()) {
            timeline.step(Utc::now(), format!("the path is seen to be {}", guard.config.locked_path));
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(Error::TooLate(format!(
                "{id} was not locked within {} s{}; for the cause, run: failoverctl doctor {id}",
                drill.timeout,
                match timeline.alarmed_at {
                    Some(_) => ", though its alarm went off",
                    None => ": its alarm did not go off",
                }
            )));
        }
        sleep(LOOK).await;
    }
}

/// The functions that lock and that this alarm leads to.
async fn functions(guard: &Guard, alarm: &Alarm) -> Result<Vec<String>, Failure> {
    let mut arns = Vec::new();
    for action in &alarm.actions {
        if action.contains(":sns:") {
            let subscriptions = sns::subscriptions(&guard.session.aws_of(action), action, patience()).await?;
            let functions =
                subscriptions.into_iter().filter(|one| one.protocol == "lambda" && one.is_confirmed);
            arns.extend(functions.map(|one| one.endpoint));
        } else if action.contains(":lambda:") {
            arns.push(action.clone());
        }
    }
    let mut locks = Vec::new();
    for arn in arns {
        let function = Function::of(&guard.session.aws_of(&arn), &arn, patience()).await?;
        if function.is_some_and(|function| function.handler == "lock") {
            locks.push(unqualified(&arn).to_owned());
        }
    }
    Ok(locks)
}

/// Restores the check that the drill locked, or sets the path that it changed back. Both are recorded, so that a
/// late notification of the drill's alarm does not lock.
async fn restore(
    guard: &Guard,
    id: &HealthCheckId,
    path: &ResourcePath,
    own: &Own<'_>,
    timeline: &mut Timeline,
) -> Result<(), Error> {
    for _ in 0..TRIES {
        let check = guard.route53.health_check(id, patience()).await?;
        if check.path() != Some(DRILL) {
            break;
        }
        match guard.route53.set_path(id, path, Some(check.version), patience()).await {
            Ok(_) => timeline.step(Utc::now(), format!("the check asks for {path} again")),
            // The lock was set in between.
            Err(failure) if failure.kind() == Kind::Conflict => {}
            Err(failure) => return Err(failure.into()),
        }
    }
    let version = own.version(guard, id).await?;
    // Without force: if the primary has failed meanwhile, its lock is no longer the drill's.
    let request =
        json!({ "healthCheckId": id, "path": path, "reason": "failoverctl drill", "version": version });
    let request = request.to_string();
    let outcome = guard.handle(Handler::Restore, &request).await?;
    if outcome.outcome == Verdict::Restored {
        timeline.step(Utc::now(), "restored".to_owned());
    }
    Ok(())
}

fn resource_path(path: &str) -> Result<ResourcePath, Error> {
    ResourcePath::try_from(path.to_owned()).map_err(|error| Error::NoDrill(error.to_string()))
}

/// Adds the functions' runs from their logs, which CloudWatch makes readable after some seconds.
async fn logged(
    guard: &Guard,
    id: &HealthCheckId,
    alarm: &Alarm,
    timeline: &mut Timeline,
) -> Result<(), Failure> {
    let Some(alarmed_at) = timeline.alarmed_at else { return Ok(()) };
    for arn in functions(guard, alarm).await? {
        let (name, _) = function::name(&arn);
        let aws = guard.session.aws_of(&arn);
        let since = alarmed_at - TimeDelta::seconds(1);
        let first = async |message| logs::first(&aws, &arn, message, id.as_str(), since, patience()).await;
        let end = Instant::now() + LOGS;
        let mut done = first("done").await?;
        while done.is_none() && Instant::now() < end {
            sleep(LOOK).await;
            done = first("done").await?;
        }
        if let Some(at) = first("decided").await? {
            timeline.step(at, format!("{name} has the notification and decides"));
        }
        match done {
            Some(at) => timeline.step(at, format!("{name} is done")),
            None => say(&format!("{name} has not logged what it did within {} s", LOGS.as_secs())),
        }
    }
    Ok(())
}

fn text(step: &Step) -> String {
    format!("{}  {:>+7.1} s  {}\n", time(step.at), step.seconds, step.what)
}

// === impl Own ===

impl Own<'_> {
    /// Returns the version of the check, if it is in service or has the drill's own lock.
    ///
    /// # Errors
    /// A person, or another alarm, has locked it: that lock stays.
    async fn version(&self, guard: &Guard, id: &HealthCheckId) -> Result<i64, Error> {
        let end = Instant::now() + RECORDED;
        loop {
            let check = guard.route53.health_check(id, patience()).await?;
            let locked_path = guard.config.locked_path.as_str();
            if check.path() != Some(locked_path) {
                return Ok(check.version);
            }
            let tags = guard.route53.tags(id, patience()).await?;
            let record = Record::read(&tags, locked_path, check.version, locked_path, Utc::now());
            let lock = record.ok().and_then(|record| record.lock);
            let made = self.after + if self.by_metric { 2 } else { 1 };
            let is_own = |lock: &Lock| lock.version == Some(made) && record::is_by(&lock.by, self.alarm);
            match lock.filter(|lock| lock.version == Some(check.version)) {
                Some(lock) if check.version == made && is_own(&lock) => return Ok(check.version),
                // The function records a lock after it has set the path.
                None if Instant::now() < end => sleep(LOOK).await,
                Some(lock) => {
                    return Err(Error::NotOurs(format!(
                        "{id} is locked by another alarm, or by a person ({})",
                        lock.by
                    )));
                }
                None => {
                    return Err(Error::NotOurs(format!(
                        "{id} is locked, and has no record of this version: lock may not be allowed to write tags, or the check has 10"
                    )));
                }
            }
        }
    }
}

// === impl Timeline ===

impl Timeline {
    fn step(&mut self, at: DateTime<Utc>, what: String) {
        say(&format!("{what} …"));
        self.steps.push((at, what));
    }

    /// The steps in the order of their times. The times of steps that AWS reports are on its clock.
    fn steps(mut self) -> Vec<Step> {
        self.steps.sort_by_key(|(at, _)| *at);
        let mut before = None;
        let steps = self.steps.into_iter().map(|(at, what)| {
            let seconds = (at - before.replace(at).unwrap_or(at)).as_seconds_f64();
            Step { at, seconds, what }
        });
        steps.collect()
    }
}
