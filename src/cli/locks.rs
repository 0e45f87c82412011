//! The functions that an alarm reaches, and those that belong to them.

use std::collections::BTreeSet;

use super::doctor;
use super::function::{self, Function, LAMBDA_ALARMS, Mapping, SNS, alarm_arn, unqualified};
use super::guard::Guard;
use super::session::patience;
use super::sns;
use crate::failover_lock::alarm::Alarm;
use crate::failover_lock::config::Config;
use crate::failover_lock::health_check::HealthCheckId;
use crate::remote::aws::Failure;

/// The functions that lock and that this alarm invokes.
pub(super) async fn functions(guard: &Guard, alarm: &Alarm) -> Result<Vec<(String, Function)>, Failure> {
    let mut arns = Vec::new();
    for action in &alarm.actions {
        if action.contains(":sns:") {
            let subscriptions = sns::subscriptions(&guard.session.aws_of(action), action, patience()).await?;
            for one in subscriptions {
                let Some(arn) = &one.arn else { continue };
                let filter = sns::filter(&guard.session.aws_of(action), arn, patience()).await?;
                if filter.is_some_and(|filter| !filter.is_on_text) {
                    continue;
                }
                if one.protocol == "lambda" {
                    arns.push((one.endpoint, Some(SNS), action.clone()));
                } else if one.protocol == "sqs" {
                    let aws = guard.session.aws_of(&one.endpoint);
                    let mappings = function::mappings(&aws, &one.endpoint, patience()).await?;
                    let polls = mappings.into_iter().filter(Mapping::is_on);
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
            function.handler == "lock" && service.is_none_or(|service| function.lets(service, &source))
        };
        let function = function.filter(is_lock);
        locks.extend(function.map(|function| (unqualified(&arn).to_owned(), function)));
    }
    Ok(locks)
}

/// The ARNs of the functions `restore` of the stacks whose `lock` the alarms of this check reach, as `infra/deploy` names them.
pub(super) async fn restorers(guard: &Guard, id: &HealthCheckId) -> Result<BTreeSet<String>, Failure> {
    let (alarms, _) = guard.alarms(id, patience()).await?;
    let mut found = BTreeSet::new();
    for alarm in &alarms {
        for (arn, lock) in functions(guard, alarm).await? {
            let config = Config::read(&|variable| lock.variables.get(variable).cloned());
            let guards = doctor::disagreements(guard, id, &lock, config.as_ref());
            if guards.iter().all(|(variable, _)| *variable != "GUARDED_HEALTH_CHECKS") {
                found.extend(arn.strip_suffix("-lock").map(|stack| format!("{stack}-restore")));
            }
        }
    }
    Ok(found)
}
