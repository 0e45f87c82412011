//! What `infra/deploy` deploys beside `lock`: the functions `restore` and `reconcile`, the alarms and their topic, the
//! dead letters.

mod alarms;
mod dead_letters;
mod people;
mod runs;
mod schedule;
mod versions;

use std::collections::{BTreeSet, HashMap};

use aws_config::SdkConfig;
use aws_sdk_cloudwatch::types::{AlarmType, MetricAlarm, StateValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use futures_util::future::join3;

use self::alarms::Defined;
use super::{LAST_RUNS_MINUTES, last_run, newest, region, way};
use crate::cli::clock;
use crate::cli::findings::Findings;
use crate::cli::function::{self, Function, alarm_arn, unqualified};
use crate::cli::guard::Guard;
use crate::cli::look;
use crate::cli::seen::Status;
use crate::cli::session::patience;
use crate::cli::sns;
use crate::cli::state::State;
use crate::cli::text::{plain, quoted, time};
use crate::cli::topic;
use crate::failover_lock::health_check::HealthCheckId;
use crate::failover_lock::reason::Reason;
use crate::program::VERSION;
use crate::remote::aws::{Call, Failure, Kind, send};

/// Those that report what is no fault: a lock, and a restore.
const EXPECTED: [&str; 4] = ["lock-set", "locked", "locked-for-days", "restored"];

/// The variable with the key of what was deployed, which ends with its hash.
const ARTIFACT: &str = "ARTIFACT";

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

/// What gives functions the code of an artifact.
const REDEPLOY: &str =
    "infra/deploy with this version's artifact; if that changes nothing: docs/runbook.md#make-the-stack-anew";

/// How long ago `reconcile`, which runs each minute, may have run last: a function's metrics lag by minutes.
const LATEST_RUN: TimeDelta = TimeDelta::minutes(10);

/// A stack, by the names that its template gives.
struct Stack<'a> {
    guard: &'a Guard,
    name: &'a str,
    /// The ARN of `lock`.
    arn: &'a str,
    region: &'a str,
    aws: SdkConfig,
    findings: &'a mut Findings,
}

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
    let mut stack = Stack { guard, name, arn, region: region(arn), aws: guard.session.aws_of(arn), findings };
    // The alarms are those of the last deployment: a rollback changes what `live` runs, and no alarm.
    let latest = stack.latest(lock).await;
    let defined = alarms::defined(name, stack.region, &latest);
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
    let notified = alarms.iter().flatten().flat_map(MetricAlarm::alarm_actions);
    let notified = notified.into_iter().find(|action| action.contains(":sns:")).cloned();
    stack.runs(&live, id, notified.as_deref()).await;
    stack.failures(lock, notified.as_deref()).await;
    stack.restore(restore, lock).await;
    stack.reconcile(reconcile, lock).await;
    let but_artifact = |function: &Function| {
        let mut variables = function.variables.clone();
        variables.remove(ARTIFACT);
        variables
    };
    let is_rolled_back = but_artifact(&latest) != but_artifact(lock);
    stack.people(alarms, &defined, !is_rolled_back && is_of_this_version(&latest)).await;
    stack.dead_letters().await;
}

/// The runbook's section on an alarm of the template.
fn in_runbook(alarm: &str) -> String {
    format!("failover-{alarm}")
}

/// The hash of the archive with this key of `infra/deploy`, as Lambda shows it.
fn hash_of(artifact: &str) -> Option<String> {
    let (_, hash) = artifact.strip_suffix(".zip")?.rsplit_once('-')?;
    let bytes = (0..hash.len()).step_by(2).map(|at| u8::from_str_radix(hash.get(at..at + 2)?, 16).ok());
    let bytes = bytes.collect::<Option<Vec<_>>>().filter(|bytes| bytes.len() == SHA256)?;
    Some(STANDARD.encode(bytes))
}

/// Whether a function is of this program's version, and of its commit, if that is known of both: another template may have other
/// alarms.
fn is_of_this_version(lock: &Function) -> bool {
    let artifact = lock.variables.get(ARTIFACT).map(String::as_str).unwrap_or_default();
    let own = format!("failover-lock-{}-", VERSION.replace(" (", "-").replace(')', ""));
    artifact.starts_with(&own)
}

fn not_deployed(lock: &str) -> String {
    format!("{lock} was not deployed by infra/deploy: what belongs to it was not looked at")
}

// === impl Stack ===

impl Stack<'_> {
    async fn function(&self, what: &str) -> Result<Option<Function>, Failure> {
        Function::live(&self.aws, &format!("{}-{what}", self.name), patience()).await
    }

    /// Those of the stack's alarms for people that there are.
    async fn alarms(&self, defined: &[Defined]) -> Result<Vec<MetricAlarm>, Failure> {
        let names: Vec<_> = defined.iter().map(|alarm| alarm.name.clone()).collect();
        let client = aws_sdk_cloudwatch::Client::new(&self.aws);
        let found = patience().persist(async |time| {
            let request = client.describe_alarms().set_alarm_names(Some(names.clone()));
            let request = request.alarm_types(AlarmType::MetricAlarm).max_records(100);
            send(Call::new("cloudwatch:DescribeAlarms", "the alarms"), time, request.send()).await
        });
        Ok(found.await?.metric_alarms.unwrap_or_default())
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
            self.findings.wrong("artifact", said, REDEPLOY.to_owned());
        }
    }

    async fn restore(&mut self, restore: Result<Option<Function>, Failure>, lock: &Function) {
        if self.examined("restore", restore, lock).await.is_some() {
            self.findings.ok("restore", format!("{}-restore is there", self.name));
        }
    }

    async fn reconcile(&mut self, reconcile: Result<Option<Function>, Failure>, lock: &Function) {
        const NAME: &str = "reconcile";
        let Some(function) = self.examined(NAME, reconcile, lock).await else { return };
        if !self.schedule(&function).await {
            return;
        }
        let name = function.name;
        let is_new = function.deployed.is_some_and(|deployed| clock::now() - deployed < LATEST_RUN);
        match newest(self.guard, self.arn, &name, "Invocations").await {
            Err(failure) => self.findings.unknown(NAME, &failure),
            Ok(run @ Some((at, _))) if clock::now() - at < LATEST_RUN => {
                last_run(self.guard, self.arn, (NAME, &name), Ok(run), self.findings).await;
            }
            Ok(_) if is_new => self.findings.ok(NAME, format!("{name} was deployed just now")),
            Ok(run) => {
                let since =
                    run.map_or_else(|| "for a day".to_owned(), |(at, _)| format!("since {}", time(at)));
                let said = format!("{name} has not run {since}, although its schedule is on");
                let remedy = format!("docs/runbook.md#{}", in_runbook("reconcile-silent"));
                self.findings.wrong(NAME, said, remedy);
            }
        }
    }

    /// Whether `reconcile`, when it runs again, moves no traffic, as far as `status` shows it.
    async fn owes_nothing(&self) -> bool {
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
        look::all(self.guard).await.is_ok_and(|checks| !checks.iter().any(owes))
    }

    /// Examines one of the other functions. Returns it if it is there, can run, and is of one deployment with `lock`.
    async fn examined(
        &mut self,
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
            let moves_nothing = what != "reconcile" || self.owes_nothing().await;
            let is_ours = moves_nothing && function.code == lock.code;
            if let Some(stopped) = &function.stopped {
                stopped.is_found(what, &name, region, is_ours, self.findings);
            }
            function.short_is_found(what, region, is_ours, self.findings);
            return None;
        }
        if function.code != lock.code {
            self.findings.wrong(
                what,
                format!("{name} runs other code than {}", lock.name),
                REDEPLOY.to_owned(),
            );
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

    /// Checks the alarms, their actions, and the subscriptions of their topics.
    async fn people(
        &mut self,
        alarms: Result<Vec<MetricAlarm>, Failure>,
        defined: &[Defined],
        is_of_this_version: bool,
    ) {
        const NAME: &str = "alarms";
        let alarms = match alarms {
            Ok(alarms) => alarms,
            Err(failure) => return self.findings.unknown(NAME, &failure),
        };
        let names: BTreeSet<_> = alarms.iter().filter_map(MetricAlarm::alarm_name).collect();
        let is_as_defined = self.as_defined(&alarms, defined, is_of_this_version);
        let off: Vec<_> = alarms
            .iter()
            .filter(|alarm| alarm.actions_enabled() == Some(false))
            .filter_map(MetricAlarm::alarm_name)
            .collect();
        if !off.is_empty() {
            let off = off.join(" ");
            self.findings.fixable(
                NAME,
                format!("their actions are off: {off}"),
                format!("aws cloudwatch enable-alarm-actions --region {} --alarm-names {off}", self.region),
            );
        }
        let (rules, unread) = self.guard.mute_rules().await;
        let is_muted = |name: &&str| rules.iter().any(|rule| rule.alarms.iter().any(|alarm| alarm == name));
        let muted: Vec<_> = names.iter().copied().filter(is_muted).collect();
        if let Some(failure) = &unread {
            self.findings.unknown(NAME, failure);
        }
        if !muted.is_empty() {
            self.findings.wrong(
                NAME,
                format!("a mute rule holds their actions back: {}", muted.join(" ")),
                format!(
                    "when the work is done, end the rule: aws cloudwatch list-alarm-mute-rules --region {} shows it",
                    self.region
                ),
            );
        }
        let is_expected = |alarm: &&MetricAlarm| {
            let name = alarm.alarm_name().unwrap_or_default();
            !EXPECTED.iter().any(|expected| name == format!("{}-{expected}", self.name))
        };
        let standing: Vec<_> = alarms
            .iter()
            .filter(|alarm| alarm.state_value() == Some(&StateValue::Alarm))
            .filter(is_expected)
            .filter_map(MetricAlarm::alarm_name)
            .collect();
        for alarm in &standing {
            let section = in_runbook(alarm.strip_prefix(self.name).unwrap_or(alarm).trim_start_matches('-'));
            self.findings.warn(NAME, format!("{alarm} is in ALARM: docs/runbook.md#{section}"));
        }
        let is_well = [off.is_empty(), standing.is_empty(), muted.is_empty(), unread.is_none()];
        if is_well == [true; 4] && is_as_defined {
            self.findings.ok(NAME, format!("all {} are there, none is in ALARM", defined.len()));
        }
        let topics: BTreeSet<_> = alarms
            .iter()
            .flat_map(MetricAlarm::alarm_actions)
            .filter(|action| action.contains(":sns:"))
            .collect();
        for topic in topics {
            self.topic(topic, &alarms).await;
        }
    }

    /// Checks whether a topic of the alarms has a subscriber.
    async fn topic(&mut self, topic: &str, alarms: &[MetricAlarm]) {
        const NAME: &str = "people";
        let region = region(topic);
        let subscribe = format!(
            "follow the link in AWS's mail; to get another one: aws sns subscribe --region {region} --protocol email \
             --topic-arn {} --notification-endpoint ADDRESS",
            quoted(topic)
        );
        let subscriptions = match sns::subscriptions(&self.aws, topic, patience()).await {
            Ok(subscriptions) => subscriptions,
            Err(failure) if failure.kind() == Kind::NotFound => {
                let own = topic.ends_with(&format!(":{}-notifications", self.name));
                let another = || "create it, or name another one: infra/deploy --notify".to_owned();
                let remedy = if own { self.anew() } else { another() };
                return self.findings.wrong(NAME, format!("{topic} does not exist"), remedy);
            }
            Err(failure) => return self.findings.unknown(NAME, &failure),
        };
        // Each of the alarms has the same actions: one stands for all.
        let alarm = alarm_arn(topic, &format!("{}-lock-set", self.name));
        topic::accepts(&self.aws, topic, &alarm, self.findings).await;
        // The alarms' own function tells no one.
        let subscriptions: Vec<_> = subscriptions
            .into_iter()
            .filter(|one| unqualified(&one.endpoint) != unqualified(self.arn))
            .collect();
        let (confirmed, open): (Vec<_>, Vec<_>) = subscriptions.iter().partition(|one| one.arn.is_some());
        self.notified(topic, &confirmed, alarms).await;
        for one in &open {
            let said =
                format!("{} {} has not confirmed its subscription to {topic}", one.protocol, one.endpoint);
            if confirmed.is_empty() {
                self.findings.wrong(NAME, said, subscribe.clone());
            } else {
                self.findings.warn(NAME, said);
            }
        }
        if subscriptions.is_empty() {
            self.findings.wrong(NAME, format!("no one subscribes to {topic}"), subscribe);
        }
    }

    fn anew(&self) -> String {
        format!("make {} anew: docs/runbook.md#make-the-stack-anew", self.name)
    }
}
