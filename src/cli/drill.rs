//! `failoverctl drill`: a game day on a health check of one's own.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::change::until_armed;
use super::lambda::Function;
use super::screen::{ask, say, time};
use super::sns;
use super::state::State;
use super::{Ended, Error, Session, logs, patience};
use crate::failover_lock::Handler;
use crate::failover_lock::alarm::AlarmState;
use crate::failover_lock::decide::Alarm;
use crate::failover_lock::health_check::{HealthCheck, HealthCheckId, ResourcePath};

const LOOK: Duration = Duration::from_millis(500);
/// How long a function's log may take to be readable.
const LOGS: Duration = Duration::from_secs(20);
/// What a primary surely does not serve.
const NO_SUCH_PAGE: &str = "/failoverctl-drill-no-such-page";

/// How to drill.
pub(super) struct Drill {
    /// Even though DNS records refer to the check.
    pub in_service: bool,
    /// By letting the check fail instead of setting its alarm's state.
    pub by_metric: bool,
    /// How long each leg may take.
    pub leg: Duration,
    /// Do not ask.
    pub yes: bool,
}

/// One step of the way, and when it was taken.
#[derive(Debug, Serialize)]
struct Step {
    at: DateTime<Utc>,
    /// Since the step before.
    seconds: f64,
    what: String,
}

/// The way so far.
struct Timeline<'a> {
    session: &'a Session,
    steps: Vec<Step>,
}

pub(super) async fn drill(session: &Session, id: &HealthCheckId, drill: &Drill) -> Result<Ended, Error> {
    let (check, alarm) = ready(session, id, drill).await?;
    let how = if drill.by_metric {
        "its path is changed, so that it fails".to_owned()
    } else {
        format!("its alarm {} is set off; whoever else listens hears of it, too", alarm.name)
    };
    let question = format!("Drill on {id}? {how}; it is locked and switched back.");
    if ask(&question, drill.yes)? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }

    let mut timeline = Timeline { session, steps: Vec::new() };
    let began = Utc::now();
    if drill.by_metric {
        let page = ResourcePath::try_from(NO_SUCH_PAGE.to_owned());
        let page = page.map_err(|error| Error::NoDrill(error.to_string()))?;
        session.route53.set_path(id, &page, Some(check.version), patience()).await?;
        timeline.step(began, format!("the check asks for {NO_SUCH_PAGE}"))?;
    } else {
        session.cloudwatch.set_off(&alarm.name, "failoverctl drill", patience()).await?;
        timeline.step(began, format!("alarm {} is set off", alarm.name))?;
    }
    let locked = follow(session, id, drill, &mut timeline, began).await;
    // Whatever became of it, the check does not stay as the drill left it.
    let restored = restore(session, id, &check, &mut timeline).await;
    locked?;
    restored?;
    until_armed(session, id, drill.leg).await?;
    timeline.step(Utc::now(), "armed again".to_owned())?;
    session.screen.show(&timeline.steps, String::new)?;
    Ok(Ended::Well)
}

/// The check and its alarm, if a drill may be done and can succeed.
async fn ready(session: &Session, id: &HealthCheckId, drill: &Drill) -> Result<(HealthCheck, Alarm), Error> {
    let deadline = patience();
    let check = session.route53.health_check(id, deadline).await?;
    let alarms = session.cloudwatch.alarms_on(id, deadline).await?;
    let tags = session.route53.tags(id, deadline).await?;
    let state = State::of(&check, &alarms, &tags, &session.config)?;
    if state != State::Armed {
        let advice =
            format!("{id} is not armed ({}); failoverctl doctor {id} says what mends it", state.words());
        return Err(Error::NoDrill(advice));
    }
    let Some(alarm) = alarms.into_iter().find(|alarm| alarm.state == AlarmState::Ok && alarm.actions_enabled)
    else {
        return Err(Error::NoDrill(format!(
            "no alarm on {id} is OK with its actions on, so none can go off"
        )));
    };
    let records = session.route53.records(id, deadline).await?;
    if let Some(record) = records.first().filter(|_| !drill.in_service) {
        return Err(Error::NoDrill(format!(
            "{} depends on {id}: a drill moves its traffic. Use a check of its own, or say --in-service",
            record.name
        )));
    }
    Ok((check, alarm))
}

/// From the alarm to the lock.
async fn follow(
    session: &Session,
    id: &HealthCheckId,
    drill: &Drill,
    timeline: &mut Timeline<'_>,
    began: DateTime<Utc>,
) -> Result<(), Error> {
    let end = Instant::now() + drill.leg;
    let mut alarmed = false;
    loop {
        let alarms = session.cloudwatch.alarms_on(id, patience()).await?;
        let gone_off = alarms.iter().find(|alarm| {
            alarm.state == AlarmState::Alarm && alarm.changed_at >= began - TimeDelta::seconds(2)
        });
        if let Some(alarm) = gone_off.filter(|_| !alarmed) {
            alarmed = true;
            timeline.step(alarm.changed_at, format!("alarm {} is in ALARM", alarm.name))?;
        }
        let check = session.route53.health_check(id, patience()).await?;
        if check.path() == Some(session.config.locked_path.as_str()) {
            let seen = Utc::now();
            for function in functions(session, &alarms).await? {
                timeline.logged(&function, id, began).await?;
            }
            return timeline.step(seen, format!("the path is seen to be {}", session.config.locked_path));
        }
        if Instant::now() >= end {
            return Err(Error::TooLate(format!(
                "{id} was not locked within {} s{}; failoverctl doctor {id} tells more",
                drill.leg.as_secs(),
                if alarmed { ", though its alarm went off" } else { ": its alarm did not go off" }
            )));
        }
        sleep(LOOK).await;
    }
}

/// The functions that lock, behind these alarms.
async fn functions(session: &Session, alarms: &[Alarm]) -> Result<Vec<String>, Error> {
    let mut arns = Vec::new();
    for action in alarms.iter().flat_map(|alarm| &alarm.actions) {
        if action.contains(":sns:") {
            let subscriptions = sns::subscriptions(&session.aws, action, patience()).await?;
            let functions = subscriptions.into_iter().filter(|one| one.protocol == "lambda");
            arns.extend(functions.map(|one| one.endpoint));
        } else if action.contains(":lambda:") {
            arns.push(action.clone());
        }
    }
    let mut locks = Vec::new();
    for arn in arns {
        let function = Function::of(&session.aws, &arn, patience()).await?;
        if function.is_some_and(|function| function.handler == "lock") {
            locks.push(arn);
        }
    }
    Ok(locks)
}

/// Switches back what the drill locked; without a lock, sets the path that the check had.
async fn restore(
    session: &Session,
    id: &HealthCheckId,
    before: &HealthCheck,
    timeline: &mut Timeline<'_>,
) -> Result<(), Error> {
    let check = session.route53.health_check(id, patience()).await?;
    if check.path() == Some(session.config.locked_path.as_str()) {
        // Not by force: should the primary have failed meanwhile, its lock is no drill's any more.
        let request = json!({ "healthCheckId": id, "reason": "failoverctl drill" });
        let report = session.system().handle(Handler::Restore, &request.to_string(), patience()).await;
        report.into_answer().map_err(Error::Invocation)?;
        return timeline.step(Utc::now(), "switched back".to_owned());
    }
    if check.path() != before.path() {
        let healthy = &session.config.healthy_path;
        session.route53.set_path(id, healthy, Some(check.version), patience()).await?;
        timeline.step(Utc::now(), format!("the check asks for {healthy} again"))?;
    }
    Ok(())
}

// === impl Timeline ===

impl Timeline<'_> {
    /// What a function has logged of its run, which CloudWatch takes some seconds to tell.
    async fn logged(
        &mut self,
        function: &str,
        id: &HealthCheckId,
        began: DateTime<Utc>,
    ) -> Result<(), Error> {
        let name = function.rsplit(':').next().unwrap_or(function);
        let end = Instant::now() + LOGS;
        let first = async |message| {
            logs::first(&self.session.aws, function, message, id.as_str(), began, patience()).await
        };
        let mut done = first("done").await?;
        while done.is_none() && Instant::now() < end {
            sleep(LOOK).await;
            done = first("done").await?;
        }
        let decided = first("decided").await?;
        if let Some(at) = decided {
            self.step(at, format!("{name} has the notification and decides"))?;
        }
        match done {
            Some(at) => self.step(at, format!("{name} is done")),
            None => say(&format!("{name} has not logged what it did within {} s", LOGS.as_secs())),
        }
    }

    fn step(&mut self, at: DateTime<Utc>, what: String) -> Result<(), Error> {
        let before = self.steps.last().map_or(at, |step| step.at);
        // CloudWatch's clock and this one's are not the same.
        let seconds = (at - before).as_seconds_f64().max(0.0);
        if !self.session.screen.json {
            say(&format!("{}  {seconds:>+7.1} s  {what}", time(at)))?;
        }
        self.steps.push(Step { at, seconds, what });
        Ok(())
    }
}
