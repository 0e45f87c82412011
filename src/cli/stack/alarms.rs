//! The alarms for people as a template defines them, and what was changed of them.

use aws_sdk_cloudwatch::types::{ComparisonOperator, Dimension, MetricAlarm, Statistic};

use super::Stack;
use crate::cli::text::{plain, quoted};

/// Where its alarms' descriptions say that the runbook is, by default.
const RUNBOOK: &str = "docs/runbook.md";

/// The dimension of a metric, if it has one. An error if its value is not known.
pub(in crate::cli) type OfMetric = Result<Option<(&'static str, String)>, ()>;

/// An alarm of the template in a stack, on a metric in each period.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Defined {
    pub name: String,
    description: String,
    namespace: &'static str,
    metric: &'static str,
    /// The dimension of its metric, if it has one. An error if its value is not in the variables of `lock`.
    dimension: OfMetric,
    statistic: &'static str,
    /// `None` if it is a parameter.
    threshold: Option<&'static str>,
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

/// The value of a property in a resource of the template, which may be one of many that a loop makes.
fn property(resource: &'static str, key: &str) -> Option<&'static str> {
    resource.lines().find_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix(": "))
}

/// The topic that all of these alarms notify, if it is one.
pub(in crate::cli) fn topic_of(alarms: &[MetricAlarm]) -> Option<&String> {
    let mut topics: Vec<_> =
        alarms.iter().map(MetricAlarm::alarm_actions).filter(|to| !to.is_empty()).collect();
    topics.dedup();
    match topics.as_slice() {
        [[topic]] if topic.contains(":sns:") => Some(topic),
        _ => None,
    }
}

/// What a stack's parameters make of its template.
pub(in crate::cli) struct Parameters<'a> {
    /// What stands for a name in a text; `None` if that is not known.
    pub text: &'a dyn Fn(&str) -> Option<String>,
    /// The dimension of a metric that is not a function's, by the template's text. An error if its value is not known.
    pub dimension: &'a dyn Fn(&str) -> OfMetric,
    /// Whether the stack has this alarm for people, by its name after the stack's, and the condition on which it is made.
    pub is_made: &'a dyn Fn(&str, Option<&str>) -> bool,
}

// === impl Defined ===

impl Defined {
    fn read(resource: &'static str, stack: &Stack<'_>, parameters: &Parameters<'_>) -> Option<Self> {
        let of = |key: &str| property(resource, key);
        // `!Sub "…"`, or `!Sub ["…", { id: … }]`.
        let text = |key: &str| {
            let mut rest = of(key)?.split_once('"')?.1.rsplit_once('"')?.0;
            let mut text = String::new();
            while let Some((before, (name, after))) =
                rest.split_once("${").and_then(|(before, from)| Some((before, from.split_once('}')?)))
            {
                text += before;
                match name {
                    "AWS::StackName" => text += stack.name,
                    "AWS::Region" => text += stack.region,
                    "RunbookUrl" => text += RUNBOOK,
                    name => text += &(parameters.text)(name).unwrap_or_else(|| name.to_owned()),
                }
                rest = after;
            }
            Some(text + rest)
        };
        let name = text("AlarmName")?;
        if !(parameters.is_made)(stack.suffix(&name), of("Condition")) {
            return None;
        }
        let dimensions = of("Dimensions").unwrap_or_default();
        let dimension = match dimensions.split_once("Name: FunctionName, Value: !Ref ") {
            Some((_, function)) => {
                let function = function.split(' ').next()?.to_lowercase();
                Ok(Some(("FunctionName", format!("{}-{function}", stack.name))))
            }
            None => (parameters.dimension)(dimensions),
        };
        let periods = of("EvaluationPeriods")?;
        Some(Self {
            name,
            description: text("AlarmDescription")?,
            namespace: of("Namespace")?,
            metric: of("MetricName")?,
            dimension,
            statistic: of("Statistic")?,
            threshold: of("Threshold").filter(|threshold| !threshold.starts_with('!')),
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
        let threshold = alarm.threshold().unwrap_or_default().to_string();
        let mut changed: Vec<_> = [
            (
                "metric",
                format!("{} {}{}", plain(space), plain(metric), named(dimensions.collect())),
                format!("{} {}{}", self.namespace, self.metric, named(own)),
            ),
            ("unit", alarm.unit().map_or("none", |unit| unit.as_str()).to_owned(), "none".to_owned()),
            ("statistic", statistic.to_owned(), self.statistic.to_owned()),
            ("threshold", threshold.clone(), self.threshold.map_or(threshold, str::to_owned)),
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

    /// The command that makes it as it is defined, and lets it notify this topic; `None` if its metric or its
    /// threshold is not known.
    fn make(&self, region: &str, topic: &str, runbook: &str) -> Option<String> {
        let Self { name, description, namespace, metric, comparison, .. } = self;
        let threshold = self.threshold?;
        let dimension = self.dimension.as_ref().ok()?;
        let dimension = dimension
            .as_ref()
            .map(|(name, value)| format!(" --dimensions {}", quoted(&format!("Name={name},Value={value}"))));
        let topic = quoted(topic);
        let end = if self.tells_end { format!(" --ok-actions {topic}") } else { String::new() };
        Some(format!(
            "aws cloudwatch put-metric-alarm --region {region} --alarm-name {} --namespace {namespace} --metric-name {metric}{} \
             --statistic {} --period {} --evaluation-periods {} --datapoints-to-alarm {} --threshold {threshold} \
             --comparison-operator {comparison} --treat-missing-data {} --alarm-actions {topic}{end} --alarm-description {}",
            quoted(name),
            dimension.unwrap_or_default(),
            self.statistic,
            self.period,
            self.periods,
            self.datapoints,
            self.missing,
            quoted(&description.replace(&format!("{RUNBOOK}#"), &format!("{runbook}#")))
        ))
    }
}

// === impl Stack ===

impl Stack<'_> {
    /// The alarms for people of the stack.
    pub fn defined(&self, parameters: &Parameters<'_>) -> Vec<Defined> {
        let is_alarm = |resource: &&str| resource.contains("    Type: AWS::CloudWatch::Alarm\n");
        let resources = self.template.text.split("\n\n").filter(is_alarm);
        resources.filter_map(|resource| Defined::read(resource, self, parameters)).collect()
    }

    /// Finds the alarms that are missing, notify no one, watch something else, or go off at another time, than the template
    /// says. Each can be made anew where the others show whom they notify, and the stack is of this version. Returns whether
    /// there are none.
    pub(super) fn as_defined(
        &mut self,
        alarms: &[MetricAlarm],
        all: &[Defined],
        is_of_this_version: bool,
    ) -> bool {
        let topic = topic_of(alarms);
        let topic = topic.filter(|_| is_of_this_version);
        // The stack's own address of the runbook is in the others.
        let mut described = alarms.iter().filter_map(MetricAlarm::alarm_description);
        let runbook = described.find_map(|text| text.rsplit_once(" Then: ")?.1.split_once('#'));
        let runbook = runbook.map_or(RUNBOOK, |(runbook, _)| runbook);
        let mut is_well = true;
        for defined in all {
            let name = &defined.name;
            let (said, otherwise) = match alarms.iter().find(|alarm| alarm.alarm_name() == Some(name)) {
                None => (format!("deleted in {}: {name}", self.region), self.anew()),
                Some(alarm) => {
                    let changed = defined.changed(alarm);
                    if !changed.is_empty() {
                        let changed = changed.join("; ");
                        (format!("{name} is not as this version deploys it: {changed}"), self.redeploy())
                    } else if !alarm.alarm_actions().iter().any(|action| action.contains(":sns:")) {
                        (format!("{name} has no action that tells people"), self.anew())
                    } else if defined.tells_end && alarm.ok_actions().is_empty() {
                        (format!("{name} tells no one when it is over"), self.anew())
                    } else {
                        continue;
                    }
                }
            };
            is_well = false;
            match topic.and_then(|topic| defined.make(self.region, topic, runbook)) {
                Some(command) => self.findings.fixable("alarms", said, command),
                None => self.findings.wrong("alarms", said, otherwise),
            }
        }
        is_well
    }
}
