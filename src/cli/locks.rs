//! The functions that an alarm reaches, and those that belong to them.

use std::collections::BTreeSet;

use tokio::time::timeout;

use super::context::SHORTLY;
use super::doctor;
use super::error::Error;
use super::function::{self, Function, LAMBDA_ALARMS, SNS, alarm_arn, unqualified};
use super::guard::Guard;
use super::mute::MuteRules;
use super::pause;
use super::policy::Lets;
use super::session::{patience, shortly};
use super::sns;
use crate::failover_lock::alarm::Alarm;
use crate::failover_lock::config::Config;
use crate::failover_lock::health_check::HealthCheckId;
use crate::remote::aws::{Call, Failure};

/// The functions that lock and that this alarm invokes.
pub(super) async fn functions(guard: &Guard, alarm: &Alarm) -> Result<Vec<(String, Function)>, Failure> {
    let mut arns = Vec::new();
    for action in &alarm.actions {
        if action.contains(":sns:") {
            let subscriptions = sns::subscriptions(&guard.session.aws_of(action), action, patience()).await?;
            for one in subscriptions {
                let Some(arn) = &one.arn else { continue };
                let attributes = sns::attributes(&guard.session.aws_of(action), arn, patience()).await?;
                let message = sns::message(action, &alarm.name);
                if attributes.filter.as_ref().and_then(|filter| filter.passes(&message)) == Some(false) {
                    continue;
                }
                if one.protocol == "lambda" {
                    arns.push((one.endpoint, Some(SNS), action.clone()));
                } else if one.protocol == "sqs" {
                    let aws = guard.session.aws_of(&one.endpoint);
                    let mappings = function::mappings(&aws, &one.endpoint, patience()).await?;
                    let body = attributes.in_queue(action, &alarm.name);
                    let polls = mappings
                        .into_iter()
                        .filter(|mapping| mapping.is_on() && mapping.passes(&body) != Some(false));
                    arns.extend(polls.map(|mapping| (mapping.function, None, one.endpoint.clone())));
                }
            }
        } else if action.contains(":lambda:") {
            arns.push((action.clone(), Some(LAMBDA_ALARMS), alarm_arn(action, &alarm.name)));
        }
    }
    let mut locks = Vec::new();
    for (arn, service, source) in arns {
        let function = Function::of(&guard.session.aws_of(&arn), &arn, patience()).await?;
        let is_lock = |function: &Function| {
            let lets = |service| matches!(function.lets(service, &source), Lets::Yes | Lets::Perhaps);
            function.handler == "lock" && service.is_none_or(lets)
        };
        let function = function.filter(is_lock);
        locks.extend(function.map(|function| (unqualified(&arn).to_owned(), function)));
    }
    Ok(locks)
}

/// Those of them that guard this check, and what of their configuration can be read.
async fn guarding(
    guard: &Guard,
    id: &HealthCheckId,
    alarm: &Alarm,
) -> Result<Vec<(String, Function, Option<Config>)>, Failure> {
    let mut found = Vec::new();
    for (arn, lock) in functions(guard, alarm).await? {
        let config = Config::read(&|variable| lock.variables.get(variable).cloned());
        let disagreements = doctor::disagreements(guard, id, &lock, config.as_ref());
        if !disagreements.iter().any(|(variable, _)| doctor::IS_NOT_GUARDED.contains(variable)) {
            found.push((arn, lock, config.ok()));
        }
    }
    Ok(found)
}

/// Sees that a function that guards this check locks by the path of this command: it does not know a lock by another one, and
/// `restore` refuses it. Where that cannot be seen within 3 s, it stands: a lock does not wait for it.
///
/// # Errors
/// Those that guard it have another path.
pub(super) async fn same_path(guard: &Guard, id: &HealthCheckId) -> Result<(), Error> {
    let other = async {
        let mut other = None;
        for alarm in guard.alarms(id, shortly()).await.ok()?.0 {
            for (_, lock, config) in guarding(guard, id, &alarm).await.ok()? {
                let path = config?.locked_path;
                if path == guard.config.locked_path {
                    return None;
                }
                other.get_or_insert(Error::OtherPath { function: lock.name, path });
            }
        }
        other
    };
    timeout(SHORTLY, other).await.ok().flatten().map_or(Ok(()), Err)
}

/// The ARNs of the functions `restore` of the stacks whose `lock` the alarms of this check reach, as `infra/deploy` names them.
///
/// # Errors
/// None was found, and not everything could be looked at that may lead to one.
pub(super) async fn restorers(guard: &Guard, id: &HealthCheckId) -> Result<BTreeSet<String>, Failure> {
    let (alarms, unread) = match guard.cloudwatch.all_alarms(patience()).await {
        Ok(all) => all.read_on(id),
        Err(failure) => (guard.cloudwatch.alarms_on(id, patience()).await?, Some(failure)),
    };
    let tags = guard.route53.tags(id, patience()).await?;
    let (mut found, mut untagged) = (BTreeSet::new(), BTreeSet::new());
    for alarm in &alarms {
        for (arn, _, config) in guarding(guard, id, alarm).await? {
            let Some(restore) = arn.strip_suffix("-lock").map(|stack| format!("{stack}-restore")) else {
                continue;
            };
            // Another's may have that name.
            let deployed = Function::live(&guard.session.aws_of(&restore), &restore, patience()).await?;
            if deployed.as_ref().is_some_and(|function| function.handler != "restore") {
                continue;
            }
            let restore = deployed.map_or(restore, |function| function.by);
            let tagged = config.and_then(|config| config.guarded_tag);
            // It may have locked the check while that had its tag.
            if tagged.is_none_or(|tag| tag.is_among(&tags)) { &mut found } else { &mut untagged }
                .insert(restore);
        }
    }
    if found.is_empty() {
        found = untagged;
    }
    if found.is_empty() {
        if let Some(failure) = unread {
            return Err(failure);
        }
        // Their messages name no check, and what they invoke is not looked at.
        let names = alarms.iter().map(|alarm| alarm.name.clone());
        if let Some((composite, _)) =
            pause::composites(&MuteRules::new(&guard.session.aws), names).await?.pop_first()
        {
            let call = Call::new("cloudwatch:DescribeAlarms", "the alarm");
            return Err(Failure::unclear(call, format!("the composite alarm {composite} may lead to it")));
        }
    }
    Ok(found)
}
