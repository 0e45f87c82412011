//! The way from an alarm through topics and queues to the functions that lock.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{in_region, last_run, newest, region};
use crate::cli::findings::Findings;
use crate::cli::function::{self, Function, LAMBDA_ALARMS, Mapping, SNS, alarm_arn};
use crate::cli::guard::Guard;
use crate::cli::policy::Lets;
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
                    let way = Way { topic: action, alarm: name };
                    locks |=
                        topic_locks(guard, id, way, &subscriptions, deployed, findings).await && is_accepted;
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

/// A topic, and the alarm that notifies it.
#[derive(Clone, Copy)]
struct Way<'a> {
    topic: &'a str,
    alarm: &'a str,
}

async fn topic_locks(
    guard: &Guard,
    id: &HealthCheckId,
    way: Way<'_>,
    subscriptions: &[Subscription],
    deployed: &mut BTreeMap<String, Function>,
    findings: &mut Findings,
) -> bool {
    let (topic, mut locks) = (way.topic, false);
    for subscription in subscriptions {
        let Subscription { protocol, endpoint, arn } = subscription;
        let Some(arn) = arn else {
            findings.warn(
                "topic",
                format!("{protocol} {endpoint} has not confirmed its subscription to {topic}"),
            );
            continue;
        };
        if !matches!(protocol.as_str(), "lambda" | "sqs") {
            findings.ok("topic", format!("{topic} notifies {protocol} {endpoint}"));
            continue;
        }
        let attributes = sns::attributes(&guard.session.aws_of(topic), arn, patience()).await;
        let attributes = attributes.map_err(|failure| findings.unknown("topic", &failure)).ok();
        let found = if protocol == "lambda" {
            let by = By { service: Some(SNS), source: topic, action: topic };
            function_locks(guard, id, endpoint, by, deployed, findings).await
        } else {
            let body = attributes.as_ref().map(|all| all.in_queue(topic, way.alarm)).unwrap_or_default();
            queue_locks(guard, id, (topic, endpoint), &body, deployed, findings).await
        };
        let Some(attributes) = attributes else {
            locks |= found == Locks::Yes;
            continue;
        };
        if protocol == "lambda" && found.is_ours() && !attributes.has_dead_letters {
            findings.warn(
                "topic",
                format!("an alarm of {topic} that SNS cannot deliver to {endpoint} is lost: the subscription has no queue for it"),
            );
        }
        let is_well = attributes
            .filter
            .is_none_or(|filter| passes(way, &filter, (arn, endpoint), found.is_ours(), findings));
        locks |= found == Locks::Yes && is_well;
    }
    if subscriptions.is_empty() {
        findings.warn("topic", format!("{topic} has no subscription"));
    }
    locks
}

/// Whether an alarm's message passes a subscription's filter. Only one of a function that guards the check is ours to mend.
fn passes(
    Way { topic, alarm }: Way<'_>,
    filter: &Filter,
    (subscription, endpoint): (&str, &str),
    is_ours: bool,
    findings: &mut Findings,
) -> bool {
    let policy = &filter.policy;
    let found = match filter.passes(&sns::message(topic, alarm)) {
        Some(true) => return true,
        None => {
            findings
                .warn("topic", format!("{endpoint} gets only those messages of {topic} that match {policy}"));
            return true;
        }
        Some(false) if !is_ours => {
            findings.warn("topic", format!("{endpoint} gets no alarm from {topic}, by its filter {policy}"));
            return false;
        }
        Some(false) if filter.is_on_text => {
            format!("{endpoint} gets no alarm {alarm} from {topic}, by its filter {policy}")
        }
        Some(false) => format!(
            "{endpoint} gets no alarm from {topic}: alarms have no attributes, which its filter {policy} is about"
        ),
    };
    findings.fixable(
        "topic",
        found,
        format!(
            "aws sns set-subscription-attributes --region {} --subscription-arn {subscription} \
             --attribute-name FilterPolicy --attribute-value '{{}}'",
            region(topic)
        ),
    );
    false
}

/// Whether a function that polls this queue locks the check.
async fn queue_locks(
    guard: &Guard,
    id: &HealthCheckId,
    (topic, queue): (&str, &str),
    body: &Value,
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
        let (is_on, passes) = (polls.is_on(), polls.passes(body));
        let Mapping { id: mapping, function, state, patterns, reports_failures } = polls;
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
        let patterns = patterns.join(" ");
        match passes {
            Some(true) => {}
            None => findings.warn(
                "queue",
                format!("{function} gets only those messages of {queue} that match {patterns}"),
            ),
            Some(false) => {
                found = Locks::No;
                findings.fixable(
                    "queue",
                    format!("Lambda drops the alarms of {queue}: they do not match its filter {patterns}"),
                    update("--filter-criteria '{}'"),
                );
            }
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
    let is_ours = !disagreements
        .iter()
        .any(|(variable, _)| *variable == "GUARDED_TAG" || IS_NOT_GUARDED.contains(variable));
    let mut is_well = true;
    if let Some(service) = service {
        is_well &= lets(&function, arn, (service, source), ("function", is_ours), findings);
    }
    if let Some(stopped) = &function.stopped {
        is_well = false;
        // A queue has kept the alarms meanwhile, and each locks as soon as it is read.
        stopped.is_found("function", name, region(arn), is_ours && service.is_some(), findings);
    }
    function.short_is_found("function", region(arn), is_ours && service.is_some(), findings);
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
    if is_well && !function.is_short() {
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

/// Whether a service may invoke a function for this source, with the repair if it may not: a command that `--fix` may run if
/// the function is ours.
pub(super) fn lets(
    function: &Function,
    arn: &str,
    (service, source): (&str, &str),
    (link, is_ours): (&'static str, bool),
    findings: &mut Findings,
) -> bool {
    let name = &function.name;
    let (_, qualifier) = function::name(arn);
    let of = format!(
        "--region {} --function-name {name}{}",
        region(arn),
        qualifier.map(|qualifier| format!(" --qualifier {qualifier}")).unwrap_or_default()
    );
    match function.lets(service, source) {
        Lets::Yes => return true,
        Lets::Perhaps => {
            let found = format!(
                "whether {name} lets {source} invoke it depends on a condition of its policy that was not judged: failoverctl \
                 drill shows it"
            );
            findings.warn(link, found);
            return true;
        }
        Lets::Denied(sid) => findings.wrong(
            link,
            format!(
                "{name} does not let {source} invoke it: the statement {sid:?} of its policy denies that"
            ),
            format!(
                "if no one needs that statement: aws lambda remove-permission {of} --statement-id {}",
                quoted(&sid)
            ),
        ),
        Lets::No => {
            let command = format!(
                "aws lambda add-permission {of} --statement-id {} --action lambda:InvokeFunction --principal {service} \
                 --source-arn {}",
                statement(source),
                quoted(source)
            );
            findings.repair(is_ours, link, format!("{name} does not let {source} invoke it"), command);
        }
    }
    false
}

/// The id of the statement that lets this source invoke a function: one for each source.
fn statement(source: &str) -> String {
    let service = match source {
        source if source.contains(":alarm:") => "alarm",
        source if source.contains(":events:") => "rule",
        _ => "topic",
    };
    let name = source.rsplit(':').next().unwrap_or_default();
    let name = name.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '-' });
    format!("failoverctl-{service}-{}", name.take(80).collect::<String>())
}

/// The variables by whose disagreement a function does not guard a check, whatever its tags.
pub(in crate::cli) const IS_NOT_GUARDED: [&str; 2] = ["GUARDED_HEALTH_CHECKS", "SECONDARY_HEALTH_CHECKS"];

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
        Ok(config) if !config.guards(id) && config.guarded.is_none() => {
            found.push((
                "SECONDARY_HEALTH_CHECKS",
                "names this health check as a secondary, which is never locked".to_owned(),
            ));
        }
        Ok(config) if config.dry_run => {
            found.push(("DRY_RUN", "is true: it decides and changes nothing".to_owned()));
        }
        Ok(_) => {}
    }
    found
}
