//! What `infra/deploy` deploys beside `lock`: the functions `restore` and `reconcile`, the alarms and their topic, the
//! dead letters.

mod dead_letters;
mod schedule;
mod versions;

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use futures_util::future::join3;

use super::{LAST_RUNS_MINUTES, last_run, newest, region, way};
use crate::cli::clock;
use crate::cli::findings::Findings;
use crate::cli::function::{self, Function};
use crate::cli::guard::Guard;
use crate::cli::look;
use crate::cli::seen::Status;
use crate::cli::session::patience;
use crate::cli::stack::{self, ARTIFACT, Defined, Parameters, Stack, Template, Tries};
use crate::cli::state::State;
use crate::cli::text::{plain, time};
use crate::failover_lock::health_check::HealthCheckId;
use crate::failover_lock::reason::Reason;
use crate::remote::arn::Arn;
use crate::remote::aws::Failure;

/// The variables that all three functions have from the stack.
const VARIABLES: [&str; 9] = [
    "ALARM_ACTIONS",
    ARTIFACT,
    "DRY_RUN",
    "GUARDED_HEALTH_CHECKS",
    "GUARDED_TAG",
    "HEALTHY_PATH",
    "LOCKED_PATH",
    "RELOCK_UNDONE",
    "SECONDARY_HEALTH_CHECKS",
];

/// The length of a hash.
const SHA256: usize = 32;

/// How long ago `reconcile`, which runs each minute, may have run last: a function's metrics lag by minutes.
const LATEST_RUN: TimeDelta = TimeDelta::minutes(10);

/// What its template makes of it.
const TEMPLATE: Template = Template {
    text: include_str!("../../../infra/failover-lock.yaml"),
    section: "failover",
    expected: &["lock-set", "locked", "locked-for-days", "restored"],
    redeploy: |stack| {
        format!(
            "infra/deploy --stack {stack} with this version's artifact; if that changes nothing: \
             docs/runbook.md#make-the-stack-anew"
        )
    },
    anew: |stack| format!("make {stack} anew: docs/runbook.md#make-the-stack-anew"),
    notify: "infra/deploy --notify",
};

/// Checks the other parts of the stack of this function, which guards this check.
pub(super) async fn beside(
    guard: &Guard,
    id: &HealthCheckId,
    (arn, lock): (&str, &Function),
    findings: &mut Findings,
) {
    let Some(name) = lock.name.strip_suffix("-lock") else {
        return findings.warn("deployed", not_deployed(&lock.name));
    };
    let aws = guard.session.aws_of(arn);
    let mut stack =
        Stack { template: &TEMPLATE, name, prefix: name, arn, region: region(arn), aws, findings };
    // The alarms are those of the last deployment: a rollback changes what `live` runs, and no alarm.
    let latest = stack.latest(lock).await;
    let defined = defined(&stack, &latest);
    let (restore, reconcile, alarms) =
        Box::pin(join3(stack.function("restore"), stack.function("reconcile"), stack.alarms(&defined))).await;
    // Only what is a part of infra/deploy's stack is missed.
    let is_seen = matches!((&restore, &reconcile), (Ok(Some(_)), _) | (_, Ok(Some(_))))
        || alarms.as_ref().is_ok_and(|alarms| !alarms.is_empty());
    if !is_seen {
        let failures = [restore.err(), reconcile.err(), alarms.err()];
        return match failures.into_iter().flatten().next() {
            Some(failure) => stack.findings.unknown("deployed", &failure),
            None => stack.findings.warn("deployed", not_deployed(&lock.name)),
        };
    }
    stack.artifact(lock);
    let live: Vec<_> = [
        Some(lock),
        restore.as_ref().ok().and_then(Option::as_ref),
        reconcile.as_ref().ok().and_then(Option::as_ref),
    ]
    .into_iter()
    .flatten()
    .cloned()
    .collect();
    stack.versions(&live).await;
    let notified = alarms.as_ref().ok().and_then(|alarms| stack::topic_of(alarms)).cloned();
    let Some(Arn { partition, region, account, .. }) = Arn::parse(arn) else { return };
    let resource = |statement: &str| match statement {
        "HealthCheck" => Some(format!("arn:{partition}:route53:::healthcheck/{id}")),
        "Alarms" => Some("*".to_owned()),
        "MuteRules" => Some(format!("arn:{partition}:cloudwatch:{region}:{account}:alarm-mute-rule:any")),
        "FailureDestination" => notified.clone(),
        _ => None,
    };
    for function in &live {
        stack.runs(function, &resource, &needs(function, partition)).await;
    }
    let tries = Tries { again: 2, seconds: 6 * 60 * 60, what: "an alarm" };
    stack.failures(lock, &tries, notified.as_deref()).await;
    stack.restore(guard, restore, lock).await;
    stack.reconcile(guard, reconcile, lock).await;
    let but_artifact = |function: &Function| {
        let mut variables = function.variables.clone();
        variables.remove(ARTIFACT);
        variables
    };
    let is_rolled_back = but_artifact(&latest) != but_artifact(lock);
    stack
        .people(alarms, &defined, !is_rolled_back && stack::is_of_this_version(&latest, "failover-lock"))
        .await;
    stack.dead_letters().await;
}

/// The hash of the archive with this key of `infra/deploy`, as Lambda shows it.
fn hash_of(artifact: &str) -> Option<String> {
    let (_, hash) = artifact.strip_suffix(".zip")?.rsplit_once('-')?;
    let bytes = (0..hash.len()).step_by(2).map(|at| u8::from_str_radix(hash.get(at..at + 2)?, 16).ok());
    let bytes = bytes.collect::<Option<Vec<_>>>().filter(|bytes| bytes.len() == SHA256)?;
    Some(STANDARD.encode(bytes))
}

/// What a function needs by its variables: each action, and its resource.
fn needs(function: &Function, partition: &str) -> Vec<(&'static str, String)> {
    let variable = |name: &str| function.variables.get(name).filter(|value| !value.is_empty());
    let mut needs = Vec::new();
    if function.handler == "reconcile" && variable("GUARDED_TAG").is_some() {
        needs.extend(
            ["route53:ListHealthChecks", "route53:ListTagsForResources"].map(|one| (one, "*".to_owned())),
        );
    }
    let pairs = variable("SECONDARY_HEALTH_CHECKS").filter(|_| function.handler != "restore");
    let secondaries =
        pairs.into_iter().flat_map(|pairs| pairs.split(',')).filter_map(|pair| pair.split_once('='));
    for (_, secondary) in secondaries {
        let check = format!("arn:{partition}:route53:::healthcheck/{}", secondary.trim());
        needs.extend(
            ["route53:GetHealthCheck", "route53:GetHealthCheckStatus"].map(|one| (one, check.clone())),
        );
    }
    if pairs.is_some() {
        needs.push(("cloudwatch:GetMetricStatistics", "*".to_owned()));
    }
    needs
}

/// The alarms for people of a stack, with `lock` as that has it.
fn defined(stack: &Stack<'_>, lock: &Function) -> Vec<Defined> {
    let variable = |name: &str| lock.variables.get(name).filter(|value| !value.is_empty());
    let id = variable("GUARDED_HEALTH_CHECKS");
    let text = |name: &str| match name {
        "id" => Some(id.map_or("ID", String::as_str).to_owned()),
        "LockedPath" => {
            Some(variable("LOCKED_PATH").map_or("/lb-check-failed-over", String::as_str).to_owned())
        }
        _ => None,
    };
    let dimension = |dimensions: &str| {
        if dimensions.contains("Name: HealthCheckId") {
            match variable("GUARDED_TAG") {
                Some(_) => Ok(None),
                None => id.map(|id| Some(("HealthCheckId", id.clone()))).ok_or(()),
            }
        } else {
            let topic = variable("ALARM_ACTIONS").and_then(|topic| Arn::parse(topic));
            topic.map(|topic| Some(("TopicName", topic.resource.to_owned()))).ok_or(())
        }
    };
    // The primary's own alarm is a part of the chain.
    let is_for_people = |name: &str, _: Option<&str>| name != "primary-unhealthy";
    stack.defined(&Parameters { text: &text, dimension: &dimension, is_made: &is_for_people })
}

fn not_deployed(lock: &str) -> String {
    format!("{lock} was not deployed by infra/deploy: what belongs to it was not looked at")
}

// === impl Stack ===

impl Stack<'_> {
    async fn function(&self, what: &str) -> Result<Option<Function>, Failure> {
        Function::live(&self.aws, &format!("{}-{what}", self.name), patience()).await
    }

    /// `lock` with the variables that it was deployed with last.
    async fn latest(&mut self, lock: &Function) -> Function {
        match function::variables(&self.aws, &lock.name, patience()).await {
            Ok(variables) => Function { variables: variables.unwrap_or_default(), ..lock.clone() },
            Err(failure) => {
                self.findings.unknown("alarms", &failure);
                Function { variables: HashMap::new(), ..lock.clone() }
            }
        }
    }

    /// Names what `lock` runs, if its code has the hash of what was deployed.
    fn artifact(&mut self, lock: &Function) {
        let artifact = lock.variables.get(ARTIFACT).map(String::as_str).unwrap_or_default();
        let Some(hash) = hash_of(artifact) else { return };
        let (name, artifact) = (&lock.name, plain(artifact));
        if hash == lock.code {
            self.findings.ok("artifact", format!("{name} runs {artifact}"));
        } else {
            let said = format!(
                "{name} does not run the artifact of its stack, {artifact}: its code has another hash"
            );
            self.findings.wrong("artifact", said, self.redeploy());
        }
    }

    async fn restore(&mut self, guard: &Guard, restore: Result<Option<Function>, Failure>, lock: &Function) {
        if self.examined(guard, "restore", restore, lock).await.is_some() {
            self.findings.ok("restore", format!("{}-restore is there", self.name));
        }
    }

    async fn reconcile(
        &mut self,
        guard: &Guard,
        reconcile: Result<Option<Function>, Failure>,
        lock: &Function,
    ) {
        const NAME: &str = "reconcile";
        let Some(function) = self.examined(guard, NAME, reconcile, lock).await else { return };
        if !self.schedule(guard, &function).await {
            return;
        }
        let name = function.name;
        let is_new = function.deployed.is_some_and(|deployed| clock::now() - deployed < LATEST_RUN);
        match newest(guard, self.arn, &name, "Invocations").await {
            Err(failure) => self.findings.unknown(NAME, &failure),
            Ok(run @ Some((at, _))) if clock::now() - at < LATEST_RUN => {
                last_run(guard, self.arn, (NAME, &name), Ok(run), self.findings).await;
            }
            Ok(_) if is_new => self.findings.ok(NAME, format!("{name} was deployed just now")),
            Ok(run) => {
                let since =
                    run.map_or_else(|| "for a day".to_owned(), |(at, _)| format!("since {}", time(at)));
                let said = format!("{name} has not run {since}, although its schedule is on");
                let remedy = format!("docs/runbook.md#{}", self.in_runbook("reconcile-silent"));
                self.findings.wrong(NAME, said, remedy);
            }
        }
    }

    /// Whether `reconcile`, when it runs again, moves no traffic, as far as `status` shows it.
    async fn owes_nothing(&self, guard: &Guard) -> bool {
        let owes = |status: &Status| {
            let is_out = matches!(
                status.state,
                State::Overdue { .. }
                    | State::Deferred { .. }
                    | State::Unknown { .. }
                    | State::Unprotected { reason: Reason::UndoneByHand }
            );
            is_out && status.guarded != Some(false)
        };
        look::all(guard).await.is_ok_and(|checks| !checks.iter().any(owes))
    }

    /// Examines one of the other functions. Returns it if it is there, can run, and is of one deployment with `lock`.
    async fn examined(
        &mut self,
        guard: &Guard,
        what: &'static str,
        function: Result<Option<Function>, Failure>,
        lock: &Function,
    ) -> Option<Function> {
        let (name, region) = (format!("{}-{what}", self.name), self.region);
        let function = match function {
            Ok(Some(function)) => function,
            Ok(None) => {
                self.findings.wrong(what, format!("{name} does not exist"), self.anew());
                return None;
            }
            Err(failure) => {
                self.findings.unknown(what, &failure);
                return None;
            }
        };
        if function.handler != what {
            let said = format!("{name} has the handler {}, and not {what}", function.handler);
            self.findings.wrong(what, said, self.anew());
            return None;
        }
        if function.stopped.is_some() || function.is_short() {
            // As soon as it runs, it sets the locks that are owed.
            let moves_nothing = what != "reconcile" || self.owes_nothing(guard).await;
            let is_ours = moves_nothing && function.code == lock.code;
            if let Some(stopped) = &function.stopped {
                stopped.is_found(what, &name, region, is_ours, self.findings);
            }
            function.short_is_found(what, region, is_ours, self.findings);
            return None;
        }
        if function.code != lock.code {
            self.findings.wrong(what, format!("{name} runs other code than {}", lock.name), self.redeploy());
            return None;
        }
        for variable in VARIABLES {
            let of = |function: &Function| function.variables.get(variable).cloned().unwrap_or_default();
            if of(&function) != of(lock) {
                self.findings.wrong(
                    what,
                    format!(
                        "{name}: {variable} is {:?}, and {:?} for {}",
                        of(&function),
                        of(lock),
                        lock.name
                    ),
                    self.anew(),
                );
                return None;
            }
        }
        Some(function)
    }
}
