//! `failoverctl drill`: a game day on a health check of its own.
//!
//! Every change that the drill makes after the question is undone at its end, even if a step fails. A change that
//! cannot be undone is reported, with the command for it.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use clap::{Args, value_parser};
use serde_json::json;
use tokio::time::{Instant, sleep};

use self::own::Own;
use super::clock;
use super::error::{Ended, Error};
use super::function;
use super::guard::{Guard, Options};
use super::locks::functions;
use super::name::{self, Named, Tags};
use super::report::{self, Operation};
use super::screen::{error, say};
use super::session::{Common, Interrupts, YEAR, patience};
use super::state::{Seen, State};
use super::status::until_armed;
use super::text::quoted;
use super::timeline::{Source, Timeline};
use super::{dns, doctor, logs};
use crate::failover_lock::Handler;
use crate::failover_lock::alarm::{Alarm, AlarmState};
use crate::failover_lock::config::Config;
use crate::failover_lock::health_check::{HealthCheck, HealthCheckId, ResourcePath};
use crate::failover_lock::outcome::Verdict;
use crate::failover_lock::probe;
use crate::failover_lock::record::{DRILL, takes_no_lock};
use crate::remote::aws::{Failure, Kind};
use crate::remote::deadline::MayPass;

mod own;

const LOOK: Duration = Duration::from_millis(500);
/// The time until a function's log is readable.
const LOGS: Duration = Duration::from_secs(20);
/// How far behind AWS's clock this machine's may be, so that the drill waits for it.
const BEHIND: TimeDelta = TimeDelta::minutes(1);
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
    report: report::Options,
    #[command(flatten)]
    options: Options,
}

/// What the drill has done so far.
#[derive(Default)]
struct Progress {
    timeline: Timeline,
    /// Whether anything was, or may have been, changed.
    fired: bool,
    /// When it was.
    fired_at: DateTime<Utc>,
    /// Why the alarm is set off, told from every other reason.
    reason: String,
    /// When the alarm went off for the drill, on AWS's clock.
    alarmed_at: Option<DateTime<Utc>>,
}

pub(super) async fn run(common: &Common, drill: Arguments) -> Result<Ended, Error> {
    let (guard, drill) = (&drill.options.guard(common).await?, &drill);
    let id = &drill.check.find(guard).await?;
    drill.report.prepare()?;
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

    let reason = format!("failoverctl drill {:016x}", fastrand::u64(..));
    let mut progress = Progress { reason, fired_at: clock::now(), ..Progress::default() };
    let mut interrupts = Interrupts::new()?;
    let locked = tokio::select! {
        locked = fire_and_follow(guard, &check, &alarm, drill, &mut progress) => locked,
        () = interrupts.recv() => Err(Error::Interrupted),
    };
    if !progress.fired {
        // Nothing was changed.
        return locked.map(|()| Ended::Well);
    }
    // The notification may still be under way, and a restore does not count for an alarm of the same second. Nor for one that
    // is later by a clock that is behind.
    let fired_at = progress.alarmed_at.unwrap_or(progress.fired_at);
    let later = fired_at.trunc_subsecs(0) + TimeDelta::seconds(1) - clock::now();
    sleep(later.min(BEHIND).to_std().unwrap_or_default()).await;
    if progress.alarmed_at.is_none() {
        progress.alarmed_at = alarmed_at(guard, id, &alarm, drill.by_metric, &progress).await.ok().flatten();
    }
    let own = Own {
        alarm: &alarm,
        reason: progress.reason.clone(),
        alarmed_at: progress.alarmed_at,
        after: check.version,
        by_metric: drill.by_metric,
    };
    let restored = restore(guard, id, &path, &own, &mut progress).await;
    let left = match &restored {
        Err(cause @ Error::NotOurs(_)) => Some(format!(
            "the drill restores nothing: {cause}. Before you restore it, see: failoverctl status {id}"
        )),
        Err(cause) => Some(format!(
            "{id} could not be restored: {cause}. Run: failoverctl restore {id}; if its path is \
             {DRILL}, run: aws route53 update-health-check --health-check-id {id} --resource-path {}",
            quoted(path.as_str())
        )),
        Ok(()) => None,
    };
    if let Some(left) = left {
        say(&error(&left));
        progress.timeline.add(Source::Lock, left);
    }
    let mut ended = locked.and(restored);
    if ended.is_ok() {
        let follows = async {
            // The drill is done: an unreadable log does not make it fail.
            if let Err(cause) = logged(guard, id, &alarm, &mut progress).await {
                say(&format!("the function's log cannot be read: {cause}"));
            }
            until_armed(guard, id, Duration::from_secs(drill.timeout), &mut progress.timeline).await
        };
        ended = tokio::select! {
            armed = Box::pin(follows) => armed,
            () = interrupts.recv() => Err(Error::Interrupted),
        };
    }
    if ended.is_ok() {
        progress.timeline.now(Source::Checkers, "armed again".to_owned());
    }
    progress.timeline.changed = true;
    let operation =
        Operation { command: "drill", subject: &title, is_dry_run: false, timeline: &progress.timeline };
    drill.report.show(screen, operation, ended.map(|()| Ended::Well)).await
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
    // What is muted is not locked, and the drill says so.
    let (rules, unread_rules) = guard.mute_rules().await;
    let seen = Seen {
        check: &check,
        alarms: &alarms,
        all_alarms: unread.is_none(),
        rules: unread_rules.is_none().then_some(rules.as_slice()),
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
    let records = dns::records(&guard.session.aws, id, guard.config.locked_path.as_str(), deadline).await?;
    if let Some(record) = records.first().filter(|_| !drill.in_service) {
        return refuse(format!(
            "{} depends on {id}: a drill moves its traffic. Use a check of its own, or add --in-service",
            record.name
        ));
    }
    if takes_no_lock(&tags) {
        return refuse(format!(
            "{id} has no room for the record of a lock, and could not be restored: remove a tag"
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
    let plain = guard.cloudwatch.alarms_on(id, deadline).await?;
    let plain: BTreeSet<_> = plain.into_iter().map(|alarm| alarm.name).collect();
    let mut why = None;
    for alarm in alarms {
        // The state of an alarm on a query is not that of its checks.
        let can_be_set = drill.by_metric || plain.contains(&alarm.name);
        let is_muted = rules.iter().any(|rule| rule.alarms.contains(&alarm.name));
        if alarm.state != AlarmState::Ok || !alarm.actions_enabled || !can_be_set || is_muted {
            continue;
        }
        for (arn, function) in functions(guard, &alarm).await? {
            let config = Config::read(&|variable| function.variables.get(variable).cloned());
            let disagreements = doctor::disagreements(guard, id, &function, config.as_ref());
            let (name, stopped) = (&function.name, function.stopped);
            let stopped = stopped.map(|stopped| format!("{arn} cannot run: {stopped}"));
            let differs =
                disagreements.first().map(|(variable, wrong)| format!("{name}: {variable} {wrong}"));
            let tag = config.as_ref().ok().and_then(|config| config.guarded_tag.as_ref());
            let lacks =
                tag.filter(|tag| !tag.is_among(&tags)).map(|tag| format!("{id} lacks {name}'s tag {tag}"));
            match stopped.or(differs).or(lacks) {
                None => return Ok((check, tags, path, alarm)),
                Some(cannot) => why = Some(cannot),
            }
        }
    }
    refuse(format!(
        "no alarm on {id} is OK, leads to a function that locks it{}{}; for the cause, run: failoverctl doctor {id}",
        if drill.by_metric { "" } else { ", and can be set off by its state alone (others: --by-metric)" },
        why.map(|why| format!(" ({why})")).unwrap_or_default()
    ))
}

/// When this alarm went off for the drill, if it is in ALARM for it.
async fn alarmed_at(
    guard: &Guard,
    id: &HealthCheckId,
    alarm: &Alarm,
    by_metric: bool,
    progress: &Progress,
) -> Result<Option<DateTime<Utc>>, Failure> {
    if !by_metric {
        return guard.cloudwatch.set_off_at(&alarm.name, &progress.reason, patience()).await;
    }
    let (alarms, _) = guard.alarms(id, patience()).await?;
    // Not for a failure from before the drill.
    let is_later = |now: &Alarm| now.breaching.is_none_or(|breaching| breaching.ended > progress.fired_at);
    let now = alarms.into_iter().find(|now| now.name == alarm.name && now.state == AlarmState::Alarm);
    Ok(now.filter(is_later).map(|now| now.changed_at))
}

/// Sets the alarm off, and follows it to the lock.
async fn fire_and_follow(
    guard: &Guard,
    check: &HealthCheck,
    alarm: &Alarm,
    drill: &Arguments,
    progress: &mut Progress,
) -> Result<(), Error> {
    let id = &check.id;
    let began = clock::now();
    // An interrupt may leave a call that is done.
    (progress.fired, progress.fired_at) = (true, began);
    let (fired, source, what) = if drill.by_metric {
        let page = resource_path(DRILL)?;
        let set = guard.route53.set_path(id, &page, Some(check.version), patience()).await;
        (set.map(drop), Source::Lock, format!("the check asks for {DRILL}"))
    } else {
        let set = guard.cloudwatch.set_off(&alarm.name, &progress.reason, patience()).await;
        (set, Source::Alarm, format!("alarm {} is set off", alarm.name))
    };
    // After a refusal nothing is changed; a call without an answer may have been done.
    progress.fired = fired.as_ref().err().is_none_or(|failure| failure.may_pass() || failure.may_be_done());
    fired?;
    progress.timeline.step(began, source, what);
    let end = Instant::now() + Duration::from_secs(drill.timeout);
    loop {
        // It was OK before.
        if progress.alarmed_at.is_none()
            && let Some(at) = alarmed_at(guard, id, alarm, drill.by_metric, progress).await?
        {
            progress.alarmed_at = Some(at);
            progress.timeline.step(at, Source::Alarm, format!("alarm {} is in ALARM", alarm.name));
        }
        let now = guard.route53.health_check(id, patience()).await?;
        if guard.config.is_locked(&now) {
            progress
                .timeline
                .now(Source::Lock, format!("the path is seen to be {}", guard.config.locked_path));
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(Error::TooLate(format!(
                "{id} was not locked within {} s{}; for the cause, run: failoverctl doctor {id}",
                drill.timeout,
                match progress.alarmed_at {
                    Some(_) => ", though its alarm went off",
                    None => ": its alarm did not go off",
                }
            )));
        }
        sleep(LOOK).await;
    }
}

/// Restores the check that the drill locked, or sets the path that it changed back. Both are recorded, so that a
/// late notification of the drill's alarm does not lock.
async fn restore(
    guard: &Guard,
    id: &HealthCheckId,
    path: &ResourcePath,
    own: &Own<'_>,
    progress: &mut Progress,
) -> Result<(), Error> {
    for _ in 0..TRIES {
        let check = guard.route53.health_check(id, patience()).await?;
        if check.path() != Some(DRILL) {
            break;
        }
        match guard.route53.set_path(id, path, Some(check.version), patience()).await {
            Ok(_) => progress.timeline.now(Source::Lock, format!("the check asks for {path} again")),
            // The lock was set in between.
            Err(failure) if failure.kind() == Kind::Conflict => {}
            Err(failure) => return Err(failure.into()),
        }
    }
    let mut check = own.check(guard, id).await?;
    if check.path() == Some(path.as_str())
        && let Some(name) = own.other_in_alarm(guard, id).await?
    {
        return Err(Error::NotOurs(format!(
            "{id} is not locked, and alarm {name} is in ALARM for another reason than the drill: that has to lock, and the \
             drill's own alarm may still do so"
        )));
    }
    // A restore asks it only if the check is locked. What is recorded here counts for every alarm until now.
    if check.path() == Some(path.as_str())
        && let Some(endpoint) = &check.endpoint
        && let Err(unhealthy) = probe::ask(id, endpoint, path).await
    {
        return Err(Error::NotOurs(format!(
            "{id} is not locked, and its primary does not answer any more ({unhealthy}): an alarm about that has to lock, \
             and the drill's own may still do so"
        )));
    }
    // Without force: if the primary has failed meanwhile, its lock is no longer the drill's.
    let outcome = loop {
        let request = json!({ "healthCheckId": id, "path": path, "reason": "failoverctl drill", "version": check.version });
        match guard.handle(None, Handler::Restore, &request.to_string()).await {
            Ok(outcome) => break outcome,
            Err(refused) => {
                // The drill's lock may have come just now.
                let now = own.check(guard, id).await?;
                if now.version == check.version {
                    return Err(refused);
                }
                check = now;
            }
        }
    };
    if outcome.outcome == Verdict::Restored {
        progress.timeline.now(Source::Lock, "restored".to_owned());
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
    progress: &mut Progress,
) -> Result<(), Failure> {
    let Some(alarmed_at) = progress.alarmed_at else { return Ok(()) };
    for (arn, _) in functions(guard, alarm).await? {
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
            progress.timeline.step(at, Source::Function, format!("{name} has the notification and decides"));
        }
        match done {
            Some(at) => progress.timeline.step(at, Source::Function, format!("{name} is done")),
            None => say(&format!("{name} has not logged what it did within {} s", LOGS.as_secs())),
        }
    }
    Ok(())
}
