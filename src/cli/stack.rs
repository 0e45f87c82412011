//! What a template deploys, as far as that is the same for all systems: alarms for people and their topic, and what each function
//! needs to run and to tell what it did.

mod alarms;
mod people;
mod runs;

use std::collections::BTreeSet;

use aws_config::SdkConfig;
use aws_sdk_cloudwatch::types::{AlarmType, MetricAlarm, StateValue};

pub(super) use self::alarms::{Defined, Parameters, topic_of};
pub(super) use self::runs::Tries;
use super::findings::Findings;
use super::function::{Function, alarm_arn, unqualified};
use super::guard;
use super::session::patience;
use super::sns;
use super::text::quoted;
use super::topic;
use crate::failover_lock::cloudwatch::CloudWatch;
use crate::program::VERSION;
use crate::remote::arn::Arn;
use crate::remote::aws::{Call, Failure, Kind, send};

/// The variable with the key of what was deployed, which ends with its hash.
pub(super) const ARTIFACT: &str = "ARTIFACT";

/// Whether a function runs this program in this one's version, and of its commit, if that is known of both: another template may
/// have other alarms.
pub(super) fn is_of_this_version(function: &Function, program: &str) -> bool {
    let artifact = function.variables.get(ARTIFACT).map(String::as_str).unwrap_or_default();
    let own = format!("{program}-{}-", VERSION.replace(" (", "-").replace(')', ""));
    artifact.starts_with(&own)
}

/// A template.
pub(super) struct Template {
    /// Its text.
    pub text: &'static str,
    /// How the sections on its alarms begin in the runbook.
    pub section: &'static str,
    /// The alarms that report what is no fault, by what follows in their names.
    pub expected: &'static [&'static str],
    /// What deploys it again.
    pub redeploy: fn(&str) -> String,
    /// What makes the parts of a stack anew.
    pub anew: fn(&str) -> String,
    /// What names another topic for people.
    pub notify: &'static str,
}

/// A stack, by the names that its template gives.
pub(super) struct Stack<'a> {
    pub template: &'static Template,
    pub name: &'a str,
    /// What the names of its alarms begin with.
    pub prefix: &'a str,
    /// The ARN of the function that acts.
    pub arn: &'a str,
    pub region: &'a str,
    pub aws: SdkConfig,
    pub findings: &'a mut Findings,
}

fn named(alarms: Vec<&MetricAlarm>) -> Vec<&str> {
    alarms.into_iter().filter_map(MetricAlarm::alarm_name).collect()
}

// === impl Stack ===

impl Stack<'_> {
    /// Those of the stack's alarms for people that there are.
    pub async fn alarms(&self, defined: &[Defined]) -> Result<Vec<MetricAlarm>, Failure> {
        let names: Vec<_> = defined.iter().map(|alarm| alarm.name.clone()).collect();
        let client = aws_sdk_cloudwatch::Client::new(&self.aws);
        let found = patience().persist(async |time| {
            let request = client.describe_alarms().set_alarm_names(Some(names.clone()));
            let request = request.alarm_types(AlarmType::MetricAlarm).max_records(100);
            send(Call::new("cloudwatch:DescribeAlarms", "the alarms"), time, request.send()).await
        });
        Ok(found.await?.metric_alarms.unwrap_or_default())
    }

    /// Checks the alarms, their actions, and the subscriptions of their topics.
    pub async fn people(
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
        let (rules, unread) = guard::mute_rules(&CloudWatch::new(&self.aws)).await;
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
        let is_fault = |alarm: &&MetricAlarm| {
            let name = alarm.alarm_name().unwrap_or_default();
            !self.template.expected.contains(&self.suffix(name))
        };
        let in_alarm = alarms.iter().filter(|alarm| alarm.state_value() == Some(&StateValue::Alarm));
        let (standing, expected): (Vec<_>, Vec<_>) = in_alarm.partition(is_fault);
        let (standing, expected) = (named(standing), named(expected));
        for alarm in &standing {
            let section = self.in_runbook(self.suffix(alarm));
            self.findings.wrong(
                NAME,
                format!("{alarm} in {} is in ALARM", self.region),
                format!("docs/runbook.md#{section}"),
            );
        }
        let is_well = [off.is_empty(), standing.is_empty(), muted.is_empty(), unread.is_none()];
        if is_well == [true; 4] && is_as_defined {
            let but = match expected.as_slice() {
                [] => "none is".to_owned(),
                expected => format!("but {}, which is no fault, none is", expected.join(" ")),
            };
            let said = format!("all {} in {} are there, {but} in ALARM", defined.len(), self.region);
            self.findings.ok(NAME, said);
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
        let region = Arn::parse(topic).map_or("", |arn| arn.region);
        let subscribe = format!(
            "follow the link in AWS's mail; to get another one: aws sns subscribe --region {region} --protocol email \
             --topic-arn {} --notification-endpoint ADDRESS",
            quoted(topic)
        );
        let subscriptions = match sns::subscriptions(&self.aws, topic, patience()).await {
            Ok(subscriptions) => subscriptions,
            Err(failure) if failure.kind() == Kind::NotFound => {
                let own = topic.ends_with(&format!(":{}-notifications", self.name));
                let another = || format!("create it, or name another one: {}", self.template.notify);
                let remedy = if own { self.anew() } else { another() };
                return self.findings.wrong(NAME, format!("{topic} does not exist"), remedy);
            }
            Err(failure) => return self.findings.unknown(NAME, &failure),
        };
        // Each of the alarms has the same actions: one stands for all.
        let alarm = alarms.iter().find(|alarm| alarm.alarm_actions().iter().any(|action| action == topic));
        let alarm = alarm_arn(topic, alarm.and_then(MetricAlarm::alarm_name).unwrap_or_default());
        topic::accepts(&self.aws, topic, &alarm, self.findings).await;
        // The alarms' own function tells no one.
        let subscriptions: Vec<_> = subscriptions
            .into_iter()
            .filter(|one| unqualified(&one.endpoint) != unqualified(self.arn))
            .collect();
        let (confirmed, open): (Vec<_>, Vec<_>) = subscriptions.iter().partition(|one| one.arn.is_some());
        let gone = self.gone(&confirmed).await;
        let confirmed: Vec<_> = confirmed.into_iter().filter(|one| !gone.contains(&one.endpoint)).collect();
        for endpoint in &gone {
            let said = format!("{endpoint} subscribes to {topic}, and does not exist any more");
            if confirmed.is_empty() {
                self.findings.wrong(NAME, said, subscribe.clone());
            } else {
                self.findings.warn(NAME, said);
            }
        }
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

    /// What deploys it again.
    pub fn redeploy(&self) -> String {
        (self.template.redeploy)(self.name)
    }

    /// What makes its parts anew.
    pub fn anew(&self) -> String {
        (self.template.anew)(self.name)
    }

    /// What follows the prefix in the name of an alarm.
    fn suffix<'n>(&self, alarm: &'n str) -> &'n str {
        alarm.strip_prefix(self.prefix).unwrap_or(alarm).trim_start_matches('-')
    }

    /// The runbook's section on an alarm of the template.
    pub fn in_runbook(&self, alarm: &str) -> String {
        format!("{}-{alarm}", self.template.section)
    }
}
