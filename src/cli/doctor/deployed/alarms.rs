//! The alarms for people as the template defines them, and what was changed of them.

use aws_sdk_cloudwatch::types::{ComparisonOperator, Dimension, MetricAlarm, Statistic};

use super::Stack;
use crate::cli::function::Function;
use crate::cli::text::plain;
use crate::remote::arn::Arn;

/// An alarm of the template: on the sum of a metric in each period, with the threshold 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defined {
    /// Without the stack's name before it.
    pub name: &'static str,
    of: Of,
    metric: &'static str,
    /// Seconds.
    period: i32,
    periods: i32,
    /// How many of them have to be beyond the threshold.
    datapoints: i32,
    missing: &'static str,
}

/// What a metric is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// The outcomes of the functions.
    Outcome,
    /// A function, by its name without the stack's.
    Function(&'static str),
    /// The topic of the primary's alarm.
    Topic,
}

/// The template's alarms.
pub(super) const ALARMS: [Defined; 19] = [
    Defined::once("dead-letters", Of::Topic, "NumberOfNotificationsRedrivenToDlq"),
    Defined::once("dead-letters-failing", Of::Topic, "NumberOfNotificationsFailedToRedriveToDlq"),
    Defined::once("deferred", Of::Outcome, "Deferred").in_periods(1, 3),
    Defined { period: 300, ..Defined::once("failed", Of::Outcome, "Failed").in_periods(2, 3) },
    Defined::once("lock-destination-failing", Of::Function("lock"), "DestinationDeliveryFailures"),
    Defined::once("lock-events-dropped", Of::Function("lock"), "AsyncEventsDropped"),
    Defined::once("lock-failed", Of::Function("lock"), "Errors"),
    Defined::once("lock-set", Of::Outcome, "Locked"),
    Defined::once("lock-throttled", Of::Function("lock"), "Throttles"),
    Defined::once("locked", Of::Outcome, "AlreadyLocked").in_periods(1, 3),
    Defined::once("locked-for-days", Of::Outcome, "LockedForDays"),
    Defined::once("locked-in-vain", Of::Outcome, "LockedInVain"),
    Defined::once("reconcile-failing", Of::Function("reconcile"), "Errors")
        .in_periods(3, 5)
        .if_missing("ignore"),
    Defined::once("reconcile-silent", Of::Function("reconcile"), SILENT)
        .in_periods(5, 5)
        .if_missing("breaching"),
    Defined::once("reconcile-throttled", Of::Function("reconcile"), "Throttles")
        .in_periods(3, 5)
        .if_missing("ignore"),
    Defined::once("restore-throttled", Of::Function("restore"), "Throttles"),
    Defined::once("restored", Of::Outcome, "Restored"),
    Defined::once("throttled", Of::Outcome, "Throttled").in_periods(3, 5),
    Defined::once("unprotected", Of::Outcome, "Unprotected").in_periods(2, 3),
];

/// The metric whose alarm goes off below its threshold.
const SILENT: &str = "Invocations";

// === impl Defined ===

impl Defined {
    const fn once(name: &'static str, of: Of, metric: &'static str) -> Self {
        Self { name, of, metric, period: 60, periods: 1, datapoints: 1, missing: "notBreaching" }
    }

    const fn in_periods(self, datapoints: i32, periods: i32) -> Self {
        Self { periods, datapoints, ..self }
    }

    const fn if_missing(self, missing: &'static str) -> Self {
        Self { missing, ..self }
    }

    fn namespace(self) -> &'static str {
        match self.of {
            Of::Outcome => "FailoverLock",
            Of::Function(_) => "AWS/Lambda",
            Of::Topic => "AWS/SNS",
        }
    }

    fn comparison(self) -> ComparisonOperator {
        if self.metric == SILENT {
            ComparisonOperator::LessThanThreshold
        } else {
            ComparisonOperator::GreaterThanOrEqualToThreshold
        }
    }

    /// The dimension of its metric in a stack, with `lock` as that has it.
    fn dimension(self, stack: &str, lock: &Function) -> Option<(&'static str, String)> {
        let variable = |name: &str| lock.variables.get(name).filter(|value| !value.is_empty()).cloned();
        match self.of {
            Of::Outcome if variable("GUARDED_TAG").is_some() => None,
            Of::Outcome => Some(("HealthCheckId", variable("GUARDED_HEALTH_CHECKS")?)),
            Of::Function(function) => Some(("FunctionName", format!("{stack}-{function}"))),
            Of::Topic => {
                let topic = variable("ALARM_ACTIONS")?;
                Some(("TopicName", Arn::parse(&topic)?.resource.to_owned()))
            }
        }
    }

    /// What of an alarm is not as defined.
    fn changed(self, alarm: &MetricAlarm, dimension: Option<&(&'static str, String)>) -> Vec<String> {
        let named = |dimensions: Vec<(&str, &str)>| {
            let named = dimensions.iter().map(|(name, value)| format!(" {name}={}", plain(value)));
            named.collect::<Vec<_>>().concat()
        };
        let own = dimension.iter().map(|(name, value)| (*name, value.as_str())).collect();
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
                format!("{} {}{}", self.namespace(), self.metric, named(own)),
            ),
            ("unit", alarm.unit().map_or("none", |unit| unit.as_str()).to_owned(), "none".to_owned()),
            ("statistic", statistic.to_owned(), "Sum".to_owned()),
            ("threshold", alarm.threshold().unwrap_or_default().to_string(), "1".to_owned()),
            ("comparison", comparison.to_owned(), self.comparison().as_str().to_owned()),
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
        .filter(|(_, is, defined)| is != defined)
        .collect();
        // On another metric, it does not matter when it goes off.
        if changed.first().is_some_and(|(what, ..)| *what == "metric") {
            changed.truncate(1);
        }
        let said = |(what, is, defined)| format!("its {what} is {is}, and not {defined}");
        changed.into_iter().map(said).collect()
    }
}

// === impl Stack ===

impl Stack<'_> {
    /// Finds the alarms that watch something else, or go off at another time, than the template says. Returns whether there
    /// are none.
    pub(super) fn as_defined(&mut self, alarms: &[MetricAlarm], lock: &Function) -> bool {
        let mut is_well = true;
        for defined in ALARMS {
            let name = format!("{}-{}", self.name, defined.name);
            let Some(alarm) = alarms.iter().find(|alarm| alarm.alarm_name() == Some(&*name)) else {
                continue;
            };
            let changed = defined.changed(alarm, defined.dimension(self.name, lock).as_ref());
            if !changed.is_empty() {
                is_well = false;
                let said = format!("{name} is not as this version deploys it: {}", changed.join("; "));
                self.findings.wrong("alarms", said, super::REDEPLOY.to_owned());
            }
        }
        is_well
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The properties of each alarm of the template, by its name.
    fn template() -> BTreeMap<String, BTreeMap<String, String>> {
        let mut alarms = BTreeMap::<String, BTreeMap<_, _>>::new();
        let mut name = None;
        for line in include_str!("../../../../infra/failover-lock.yaml").lines() {
            if !line.starts_with("      ") {
                name = None;
            }
            let Some((key, value)) = line.trim().split_once(": ") else { continue };
            if key == "AlarmName" {
                let of =
                    value.strip_prefix(r#"!Sub "${AWS::StackName}-"#).and_then(|of| of.strip_suffix('"'));
                name = of.map(str::to_owned);
            } else if let Some(name) = &name {
                alarms.entry(name.clone()).or_default().insert(key.to_owned(), value.to_owned());
            }
        }
        // The primary's own alarm is a part of the chain.
        alarms.remove("primary-unhealthy");
        alarms
    }

    #[test]
    fn the_alarms_are_those_of_the_template() {
        let template = template();
        let names: Vec<_> = ALARMS.iter().map(|alarm| alarm.name.to_owned()).collect();
        assert_eq!(template.keys().cloned().collect::<Vec<_>>(), names);
        for alarm in ALARMS {
            let of = |key: &str| template[alarm.name].get(key).map(String::as_str);
            let number = |key: &str| of(key).map(|text| text.parse::<i32>().expect("a number"));
            let dimension = match alarm.of {
                Of::Outcome => "!If [Tagged, !Ref AWS::NoValue, [{ Name: HealthCheckId, Value: !Ref HealthCheckId }]]".to_owned(),
                Of::Function(name) => {
                    let (first, rest) = name.split_at(1);
                    format!("[{{ Name: FunctionName, Value: !Ref {}{rest} }}]", first.to_uppercase())
                }
                Of::Topic => "[{ Name: TopicName, Value: !If [NewTopic, !GetAtt Topic.TopicName, !Select [5, !Split [\":\", \
                              !Ref TopicArn]]] }]"
                    .to_owned(),
            };
            assert_eq!(
                (of("Namespace"), of("MetricName"), of("Statistic"), of("Threshold"), of("Dimensions")),
                (Some(alarm.namespace()), Some(alarm.metric), Some("Sum"), Some("1"), Some(&*dimension)),
                "{alarm:?}"
            );
            assert_eq!(
                (
                    of("ComparisonOperator"),
                    of("TreatMissingData"),
                    number("Period"),
                    number("EvaluationPeriods")
                ),
                (
                    Some(alarm.comparison().as_str()),
                    Some(alarm.missing),
                    Some(alarm.period),
                    Some(alarm.periods)
                ),
                "{alarm:?}"
            );
            let datapoints = number("DatapointsToAlarm").unwrap_or(alarm.periods);
            assert_eq!((datapoints, of("Unit")), (alarm.datapoints, None), "{alarm:?}");
        }
    }
}
