//! The alarms for people as the template defines them, and what was changed of them.

use aws_sdk_cloudwatch::types::{ComparisonOperator, Dimension, MetricAlarm, Statistic};

use super::Stack;
use crate::cli::function::Function;
use crate::cli::text::{plain, quoted};
use crate::remote::arn::Arn;

/// The template of the stack.
pub(super) const TEMPLATE: &str = include_str!("../../../../infra/failover-lock.yaml");

/// Where its alarms' descriptions say that the runbook is, by default.
const RUNBOOK: &str = "docs/runbook.md";

/// An alarm of the template in a stack: on the sum of a metric in each period.
#[derive(Clone, Debug)]
pub(super) struct Defined {
    pub name: String,
    description: String,
    namespace: &'static str,
    metric: &'static str,
    /// The dimension of its metric, if it has one. An error if its value is not in the variables of `lock`.
    dimension: Result<Option<(&'static str, String)>, ()>,
    threshold: &'static str,
    comparison: &'static str,
    /// Seconds.
    period: &'static str,
    periods: &'static str,
    /// How many of them have to be beyond the threshold.
    datapoints: &'static str,
    missing: &'static str,
    /// Whether it also tells people when it is over.
    tells_end: bool,
}

/// The value of a property in a resource of the template.
fn property(resource: &'static str, key: &str) -> Option<&'static str> {
    resource.lines().find_map(|line| line.strip_prefix("      ")?.strip_prefix(key)?.strip_prefix(": "))
}

/// The alarms for people of a stack, with `lock` as that has it.
pub(super) fn defined(stack: &str, region: &str, lock: &Function) -> Vec<Defined> {
    let is_alarm = |resource: &&str| resource.contains("\n    Type: AWS::CloudWatch::Alarm\n");
    // The primary's own alarm is a part of the chain.
    let is_for_people = |resource: &&str| !resource.contains("-primary-unhealthy\"");
    let resources = TEMPLATE.split("\n\n").filter(is_alarm).filter(is_for_people);
    resources.filter_map(|resource| Defined::read(resource, stack, region, lock)).collect()
}

// === impl Defined ===

impl Defined {
    fn read(resource: &'static str, stack: &str, region: &str, lock: &Function) -> Option<Self> {
        let variable = |name: &str| lock.variables.get(name).filter(|value| !value.is_empty());
        let id = variable("GUARDED_HEALTH_CHECKS");
        // `!Sub "…"`, or `!Sub ["…", { id: … }]`.
        let text = |key: &str| {
            let text = property(resource, key)?.split_once('"')?.1.rsplit_once('"')?.0;
            let text = text.replace("${AWS::StackName}", stack).replace("${AWS::Region}", region);
            let text =
                text.replace("${id}", id.map_or("ID", String::as_str)).replace("${RunbookUrl}", RUNBOOK);
            Some(text.replace(
                "${LockedPath}",
                variable("LOCKED_PATH").map_or("/lb-check-failed-over", String::as_str),
            ))
        };
        let of = |key: &str| property(resource, key);
        let dimensions = of("Dimensions")?;
        let dimension = if dimensions.contains("Name: HealthCheckId") {
            match variable("GUARDED_TAG") {
                Some(_) => Ok(None),
                None => id.map(|id| Some(("HealthCheckId", id.clone()))).ok_or(()),
            }
        } else if let Some((_, function)) = dimensions.split_once("Name: FunctionName, Value: !Ref ") {
            let function = function.split(' ').next()?.to_lowercase();
            Ok(Some(("FunctionName", format!("{stack}-{function}"))))
        } else {
            let topic = variable("ALARM_ACTIONS").and_then(|topic| Arn::parse(topic));
            topic.map(|topic| Some(("TopicName", topic.resource.to_owned()))).ok_or(())
        };
        let periods = of("EvaluationPeriods")?;
        Some(Self {
            name: text("AlarmName")?,
            description: text("AlarmDescription")?,
            namespace: of("Namespace")?,
            metric: of("MetricName")?,
            dimension,
            threshold: of("Threshold")?,
            comparison: of("ComparisonOperator")?,
            period: of("Period")?,
            periods,
            datapoints: of("DatapointsToAlarm").unwrap_or(periods),
            missing: of("TreatMissingData")?,
            tells_end: of("OKActions").is_some(),
        })
    }

    /// What of an alarm is not as defined.
    fn changed(&self, alarm: &MetricAlarm) -> Vec<String> {
        let named = |dimensions: Vec<(&str, &str)>| {
            let named = dimensions.iter().map(|(name, value)| format!(" {name}={}", plain(value)));
            named.collect::<Vec<_>>().concat()
        };
        let own = self.dimension.iter().flatten().map(|(name, value)| (*name, value.as_str())).collect();
        let dimensions = alarm
            .dimensions()
            .iter()
            .map(|one: &Dimension| (one.name().unwrap_or_default(), one.value().unwrap_or_default()));
        let (space, metric) = (alarm.namespace().unwrap_or_default(), alarm.metric_name().unwrap_or("none"));
        let periods = alarm.evaluation_periods().unwrap_or_default();
        let datapoints = alarm.datapoints_to_alarm().unwrap_or(periods);
        let statistic = alarm.statistic().map_or("none", Statistic::as_str);
        let comparison = alarm.comparison_operator().map_or("none", ComparisonOperator::as_str);
        let mut changed: Vec<_> = [
            (
                "metric",
                format!("{} {}{}", plain(space), plain(metric), named(dimensions.collect())),
                format!("{} {}{}", self.namespace, self.metric, named(own)),
            ),
            ("unit", alarm.unit().map_or("none", |unit| unit.as_str()).to_owned(), "none".to_owned()),
            ("statistic", statistic.to_owned(), "Sum".to_owned()),
            ("threshold", alarm.threshold().unwrap_or_default().to_string(), self.threshold.to_owned()),
            ("comparison", comparison.to_owned(), self.comparison.to_owned()),
            ("period", format!("{} s", alarm.period().unwrap_or_default()), format!("{} s", self.period)),
            (
                "number of datapoints",
                format!("{datapoints} of {periods}"),
                format!("{} of {}", self.datapoints, self.periods),
            ),
            (
                "treatment of missing data",
                alarm.treat_missing_data().unwrap_or("missing").to_owned(),
                self.missing.to_owned(),
            ),
        ]
        .into_iter()
        // Of a metric whose dimension is not known, the rest is looked at.
        .filter(|(what, is, defined)| is != defined && (*what != "metric" || self.dimension.is_ok()))
        .collect();
        // On another metric, it does not matter when it goes off.
        if changed.first().is_some_and(|(what, ..)| *what == "metric") {
            changed.truncate(1);
        }
        let said = |(what, is, defined)| format!("its {what} is {is}, and not {defined}");
        changed.into_iter().map(said).collect()
    }

    /// The command that makes it as it is defined, and lets it notify this topic; `None` if its metric is not known.
    fn make(&self, region: &str, topic: &str) -> Option<String> {
        let Self { name, description, namespace, metric, threshold, comparison, .. } = self;
        let dimension = self.dimension.as_ref().ok()?;
        let dimension = dimension
            .as_ref()
            .map(|(name, value)| format!(" --dimensions {}", quoted(&format!("Name={name},Value={value}"))));
        let topic = quoted(topic);
        let end = if self.tells_end { format!(" --ok-actions {topic}") } else { String::new() };
        Some(format!(
            "aws cloudwatch put-metric-alarm --region {region} --alarm-name {} --namespace {namespace} --metric-name {metric}{} \
             --statistic Sum --period {} --evaluation-periods {} --datapoints-to-alarm {} --threshold {threshold} \
             --comparison-operator {comparison} --treat-missing-data {} --alarm-actions {topic}{end} --alarm-description {}",
            quoted(name),
            dimension.unwrap_or_default(),
            self.period,
            self.periods,
            self.datapoints,
            self.missing,
            quoted(description)
        ))
    }
}

// === impl Stack ===

impl Stack<'_> {
    /// Finds the alarms that are missing, notify no one, watch something else, or go off at another time, than the template
    /// says. Each can be made anew where the others show whom they notify, and the stack is of this version. Returns whether
    /// there are none.
    pub(super) fn as_defined(
        &mut self,
        alarms: &[MetricAlarm],
        all: &[Defined],
        is_of_this_version: bool,
    ) -> bool {
        let mut topics: Vec<_> =
            alarms.iter().map(MetricAlarm::alarm_actions).filter(|to| !to.is_empty()).collect();
        topics.dedup();
        let topic = match topics.as_slice() {
            [[topic]] if topic.contains(":sns:") => Some(topic),
            _ => None,
        };
        let topic = topic.filter(|_| is_of_this_version);
        let mut is_well = true;
        for defined in all {
            let name = &defined.name;
            let (said, otherwise) = match alarms.iter().find(|alarm| alarm.alarm_name() == Some(name)) {
                None => (format!("deleted: {name}"), self.anew()),
                Some(alarm) => {
                    let changed = defined.changed(alarm);
                    if !changed.is_empty() {
                        let changed = changed.join("; ");
                        (
                            format!("{name} is not as this version deploys it: {changed}"),
                            super::REDEPLOY.to_owned(),
                        )
                    } else if alarm.alarm_actions().is_empty() {
                        (format!("{name} has no action"), self.anew())
                    } else {
                        continue;
                    }
                }
            };
            is_well = false;
            match topic.and_then(|topic| defined.make(self.region, topic)) {
                Some(command) => self.findings.fixable("alarms", said, command),
                None => self.findings.wrong("alarms", said, otherwise),
            }
        }
        is_well
    }
}
