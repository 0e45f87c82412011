//! The way from an alarm through topics and queues to the functions that lock.

use std::collections::BTreeMap;

use super::{in_region, last_run, newest, region};
use crate::cli::findings::Findings;
use crate::cli::function::{self, Function, LAMBDA_ALARMS, Mapping, SNS, alarm_arn};
use crate::cli::guard::Guard;
use crate::cli::session::{patience, shortly};
use crate::cli::sns::{self, Filter, Subscription};
use crate::cli::text::{plain, quoted, time};
use crate::cli::topic;
use crate::failover_lock::alarm::{Alarm, AlarmState};
use crate::failover_lock::config::{Config, GuardedTag};
use crate::failover_lock::decide::Health;
use crate::failover_lock::health_check::HealthCheckId;
use crate::program::variables::InvalidConfig;
use crate::remote::aws::Kind;

/// Whether one of this alarm's actions leads to a function that locks the check.
pub(super) async fn alarm_leads_to_lock(
    guard: &Guard,
    id: &HealthCheckId,
    alarm: &Alarm,
    deployed: &mut BTreeMap<String, Function>,
    findings: &mut Findings,
) -> bool {
    let Alarm { name, state, changed_at, actions_enabled, actions, .. } = alarm;
    let stands = format!("{} is {state} since {}", plain(name), time(*changed_at));
    match state {
        AlarmState::Ok => findings.ok("alarm", stands),
        AlarmState::Alarm => findings.warn("alarm", stands),
        AlarmState::InsufficientData => findings.warn("alarm", format!("{stands}: it has no data yet")),
    }
    if alarm.never_goes_off {
        findings.wrong(
            "alarm",
            format!("{} never goes off: its threshold, dimensions, unit or evaluation is wrong", plain(name)),
            "correct it where it is defined (docs/runbook.md#never_goes_off)".to_owned(),
        );
        return false;
    }
    if !actions_enabled {
        let found = format!("{name} has its actions off");
        let region = in_region(guard);
        let enable = format!("aws cloudwatch enable-alarm-actions{region} --alarm-names {}", quoted(name));
        // In ALARM it may be about a primary that someone is at work on, a query's about that of another check; and a primary that
        // was never up would be locked.
        let plain = guard.cloudwatch.alarms_on(id, shortly()).await;
        let is_own = plain.is_ok_and(|plain| plain.iter().any(|own| own.name == *name));
        if *state == AlarmState::Ok && is_own && is_healthy(guard, id).await {
            findings.fixable("alarm", found, enable);
        } else {
            findings.wrong("alarm", found, format!("once the primary is up: {enable}"));
        }
        return false;
    }
    let mut locks = false;
    for action in actions {
        if action.contains(":lambda:") {
            let by = By { service: Some(LAMBDA_ALARMS), source: &alarm_arn(action, name), action };
            locks |= function_locks(guard, id, action, by, deployed, findings).await == Locks::Yes;
        } else if action.contains(":sns:") {
            match sns::subscriptions(&guard.session.aws_of(action), action, patience()).await {
                Err(failure) if failure.kind() == Kind::NotFound => findings.wrong(
                    "topic",
                    format!("{action} does not exist"),
                    format!(
                        "infra/deploy --health-check {id} --email ADDRESS makes another, and an alarm for it"
                    ),
                ),
                Err(failure) => findings.unknown("topic", &failure),
                Ok(subscriptions) => {
                    let is_accepted = topic::accepts(
                        &guard.session.aws_of(action),
                        action,
                        &alarm_arn(action, name),
                        findings,
                    )
                    .await;
                    locks |= topic_locks(guard, id, action, &subscriptions, deployed, findings).await
                        && is_accepted;
                }
            }
        }
    }
    locks
}

/// Whether Route 53 finds a check healthy: its checkers, or its metric.
async fn is_healthy(guard: &Guard, id: &HealthCheckId) -> bool {
    guard.health(id).await == Health::Healthy
        || guard.cloudwatch.verdict(id, shortly()).await.is_ok_and(|healthy| healthy == Some(true))
}

async fn topic_locks(
    guard: &Guard,
    id: &HealthCheckId,
    topic: &str,
    subscriptions: &[Subscription],
    deployed: &mut BTreeMap<String, Function>,
    findings: &mut Findings,
) -> bool {
    let mut locks = false;
    for subscription in subscriptions {
        let Subscription { protocol, endpoint, arn } = subscription;
        let Some(arn) = arn else {
            findings.warn(
                "topic",
                format!("{protocol} {endpoint} has not confirmed its subscription to {topic}"),
            );
            continue;
        };
        match protocol.as_str() {
            "lambda" => {
                let by = By { service: Some(SNS), source: topic, action: topic };
                let found = function_locks(guard, id, endpoint, by, deployed, findings).await;
                let is_well = passes(guard, topic, arn, endpoint, found.is_ours(), findings).await;
                locks |= found == Locks::Yes && is_well;
            }
            "sqs" => {
                let found = queue_locks(guard, id, topic, endpoint, deployed, findings).await;
                let is_well = passes(guard, topic, arn, endpoint, found.is_ours(), findings).await;
                locks |= found == Locks::Yes && is_well;
            }
            _ => findings.ok("topic", format!("{topic} notifies {protocol} {endpoint}")),
        }
    }
    if subscriptions.is_empty() {
        findings.warn("topic", format!("{topic} has no subscription"));
    }
    locks
}

/// Whether an alarm's message passes a subscription's filter. Only one of a function that guards the check is ours to mend.
async fn passes(
    guard: &Guard,
    topic: &str,
    subscription: &str,
    endpoint: &str,
    is_ours: bool,
    findings: &mut Findings,
) -> bool {
    match sns::filter(&guard.session.aws_of(topic), subscription, patience()).await {
        Ok(None) => true,
        Ok(Some(Filter { policy, is_on_text: true })) => {
            findings
                .warn("topic", format!("{endpoint} gets only those messages of {topic} that match {policy}"));
            true
        }
        Ok(Some(Filter { policy, is_on_text: false })) if !is_ours => {
            findings.warn("topic", format!("{endpoint} gets no alarm from {topic}, by its filter {policy}"));
            false
        }
        Ok(Some(Filter { policy, is_on_text: false })) => {
            findings.fixable(
                "topic",
                format!("{endpoint} gets no alarm from {topic}: alarms have no attributes, which its filter {policy} is about"),
                format!(
                    "aws sns set-subscription-attributes --region {} --subscription-arn {subscription} \
                     --attribute-name FilterPolicy --attribute-value '{{}}'",
                    region(topic)
                ),
            );
            false
        }
        Err(failure) => {
            findings.unknown("topic", &failure);
            true
        }
    }
}

/// Whether a function that polls this queue locks the check.
async fn queue_locks(
    guard: &Guard,
    id: &HealthCheckId,
    topic: &str,
    queue: &str,
    deployed: &mut BTreeMap<String, Function>,
    findings: &mut Findings,
) -> Locks {
    let mappings = match function::mappings(&guard.session.aws_of(queue), queue, patience()).await {
        Ok(mappings) => mappings,
        Err(failure) => {
            findings.unknown("queue", &failure);
            return Locks::NotOurs;
        }
    };
    if mappings.is_empty() {
        findings.ok("topic", format!("{topic} notifies sqs {queue}, which no function polls"));
    }
    let mut locks = Locks::NotOurs;
    for polls in mappings {
        let is_on = polls.is_on();
        let Mapping { id: mapping, function, state, reports_failures } = polls;
        let by = By { service: None, source: queue, action: topic };
        let mut found = function_locks(guard, id, &function, by, deployed, findings).await;
        // Another's queue is another's.
        if !found.is_ours() {
            continue;
        }
        let update = |option: &str| {
            let region = region(queue);
            format!("aws lambda update-event-source-mapping --region {region} --uuid {mapping} {option}")
        };
        if !is_on {
            found = Locks::No;
            // An alarm that waits in it would lock at once.
            findings.wrong(
                "queue",
                format!("{queue} does not invoke {function}: its mapping is {state}"),
                format!(
                    "see which alarms wait in the queue, each locks as soon as it is read; then: {}",
                    update("--enabled")
                ),
            );
        }
        if !reports_failures {
            found = Locks::No;
            findings.fixable(
                "queue",
                format!("Lambda deletes a batch of {queue} in which one message failed and others did not"),
                update("--function-response-types ReportBatchItemFailures"),
            );
        }
        locks = locks.max(found);
    }
    locks
}

/// Whether a function locks the check when it is invoked, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Locks {
    /// It is not failover-lock's, or does not guard the check: nothing of it is to be changed.
    NotOurs,
    /// It guards the check, and something keeps it from locking.
    No,
    /// It does.
    Yes,
}

impl Locks {
    fn is_ours(self) -> bool {
        self != Self::NotOurs
    }
}

/// By what a function is invoked for an alarm.
struct By<'a> {
    /// The service that needs the function's permission; `None` for a queue, which Lambda polls with the function's own role.
    service: Option<&'static str>,
    /// What invokes it: the ARN of the alarm, of a topic, or of a queue.
    source: &'a str,
    /// The alarm's action that leads to it.
    action: &'a str,
}

/// Whether this function locks the check when it is invoked in this way.
async fn function_locks(
    guard: &Guard,
    id: &HealthCheckId,
    arn: &str,
    By { service, source, action }: By<'_>,
    deployed: &mut BTreeMap<String, Function>,
    findings: &mut Findings,
) -> Locks {
    let function = match Function::of(&guard.session.aws_of(arn), arn, patience()).await {
        Ok(Some(function)) => function,
        Ok(None) => {
            let name = function::name(arn).0;
            let remedy = match name.strip_suffix("-lock") {
                Some(stack) => format!(
                    "if infra/deploy has made it, make {stack} anew: docs/runbook.md#make-the-stack-anew"
                ),
                None => "unsubscribe it, if it is not to come back".to_owned(),
            };
            findings.wrong("function", format!("{arn} does not exist"), remedy);
            return Locks::NotOurs;
        }
        Err(failure) => {
            findings.unknown("function", &failure);
            return Locks::NotOurs;
        }
    };
    let name = &function.name;
    if function.handler != "lock" {
        findings.warn(
            "function",
            format!("{name} is not failover-lock's: {} {}", function.runtime, function.handler),
        );
        return Locks::NotOurs;
    }
    let config = Config::read(&|variable| function.variables.get(variable).cloned());
    let mut disagreements = disagreements(guard, id, &function, config.as_ref());
    // Also of a function that does not start for another reason.
    if let Some(tag) = function.variables.get("GUARDED_TAG").and_then(|tag| tag.parse::<GuardedTag>().ok()) {
        match guard.route53.tags(id, patience()).await {
            Ok(tags) if tag.is_among(&tags) => {}
            Ok(_) => disagreements
                .push(("GUARDED_TAG", format!("is {tag}, which this health check lacks: add it"))),
            Err(failure) => findings.unknown("function", &failure),
        }
    }
    // What does not guard the check is not ours to change.
    let is_ours = !disagreements.iter().any(|(variable, _)| variable.starts_with("GUARDED_"));
    let mut is_well = true;
    if let Some(service) = service.filter(|service| !function.lets(service, source)) {
        is_well = false;
        let (_, qualifier) = function::name(arn);
        let qualifier = qualifier.map(|qualifier| format!(" --qualifier {qualifier}")).unwrap_or_default();
        let found = format!("{name} does not let {source} invoke it");
        let command = format!(
            "aws lambda add-permission --region {} --function-name {name}{qualifier} --statement-id {} \
             --action lambda:InvokeFunction --principal {service} --source-arn {}",
            region(arn),
            statement(source),
            quoted(source)
        );
        findings.repair(is_ours, "function", found, command);
    }
    if let Some(stopped) = &function.stopped {
        is_well = false;
        // A queue has kept the alarms meanwhile, and each locks as soon as it is read.
        stopped.is_found("function", name, region(arn), is_ours && service.is_some(), findings);
    }
    for (variable, wrong) in disagreements {
        is_well = false;
        findings.wrong(
            "function",
            format!("{name}: {variable} {wrong}"),
            match (name.strip_suffix("-lock"), variable) {
                (Some(stack), "DRY_RUN") => format!("infra/deploy --stack {stack} --set DryRun=false"),
                (Some(stack), _) => format!("correct {variable} of {name}: infra/deploy --stack {stack}"),
                (None, _) => format!("correct {variable} of {name} where it is deployed"),
            },
        );
    }
    // reconcile has the same: to lock, it does not matter.
    if config.ok().and_then(|config| config.alarm_actions).is_some_and(|actions| !actions.contains(action)) {
        findings.warn(
            "function",
            format!("ALARM_ACTIONS of {name} does not name {action}: a lost notification of its alarms is not made up for"),
        );
    }
    let run = newest(guard, arn, name, "Invocations").await;
    is_well &= last_run(guard, arn, ("function", name), run, findings).await;
    if is_well {
        findings.ok("function", format!("{name} locks when {source} invokes it"));
    }
    if is_ours {
        deployed.insert(arn.to_owned(), function);
    }
    match (is_ours, is_well) {
        (false, _) => Locks::NotOurs,
        (true, false) => Locks::No,
        (true, true) => Locks::Yes,
    }
}

/// The id of the statement that lets this source invoke a function: one for each source.
fn statement(source: &str) -> String {
    let service = if source.contains(":alarm:") { "alarm" } else { "topic" };
    let name = source.rsplit(':').next().unwrap_or_default();
    let name = name.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '-' });
    format!("failoverctl-{service}-{}", name.take(80).collect::<String>())
}

/// The variables with which the function would not lock this check as this command expects, and why.
pub(in crate::cli) fn disagreements(
    guard: &Guard,
    id: &HealthCheckId,
    function: &Function,
    config: Result<&Config, &InvalidConfig>,
) -> Vec<(&'static str, String)> {
    let variable = |name: &str, default: &str| {
        function.variables.get(name).cloned().unwrap_or_else(|| default.to_owned())
    };
    let mut found = Vec::new();
    let guarded = variable("GUARDED_HEALTH_CHECKS", id.as_str());
    if !guarded.split(',').any(|one| one.trim() == id.as_str()) {
        found.push(("GUARDED_HEALTH_CHECKS", "does not name this health check".to_owned()));
    }
    let (healthy, locked) = (&guard.config.healthy_path, &guard.config.locked_path);
    for (name, default, ours) in
        [("HEALTHY_PATH", "/lb-check", healthy), ("LOCKED_PATH", "/lb-check-failed-over", locked)]
    {
        let theirs = variable(name, default);
        if theirs != ours.as_str() {
            found.push((
                name,
                format!("is {theirs}, and {ours} was expected: pass it to failoverctl, or correct it"),
            ));
        }
    }
    match config {
        Err(invalid) => found.push(("variables", format!("do not let it start: {invalid}"))),
        Ok(config) if config.dry_run => {
            found.push(("DRY_RUN", "is true: it decides and changes nothing".to_owned()));
        }
        Ok(_) => {}
    }
    found
}
