//! CloudWatch's alarms in this system's terms: the only place that knows its SDK's requests and answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use aws_config::SdkConfig;
use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::operation::describe_alarms::DescribeAlarmsOutput;
use aws_sdk_cloudwatch::primitives::DateTime as DateTimeOf;
use aws_sdk_cloudwatch::types::{
    self, AlarmMuteRuleStatus, AlarmType, CompositeAlarm, Dimension, MetricAlarm, StateValue, Statistic,
};
use chrono::{DateTime, Utc};
use thiserror::Error;
use tracing::warn;

use super::alarm::{self, Alarm, AlarmState, Composite, Dimensions, Metric};
use super::config::Config;
use super::datapoint;
use super::decide;
use super::event::{self, Malformed};
use super::health_check::HealthCheckId;
use crate::program::text::Quoted;
use crate::remote::aws::{Call, Failure, pages, send};
use crate::remote::deadline::Deadline;

const DESCRIBE: Call = Call::new("cloudwatch:DescribeAlarms", "the alarm");
const LIST_MUTE_RULES: Call = Call::new("cloudwatch:ListAlarmMuteRules", "the alarm");
const CONTRIBUTORS: Call = Call::new("cloudwatch:DescribeAlarmContributors", "the alarm");
const DESCRIBE_FOR_METRIC: Call = Call::new("cloudwatch:DescribeAlarmsForMetric", "the alarm");

/// CloudWatch's alarms.
#[derive(Clone, Debug)]
pub struct CloudWatch {
    config: SdkConfig,
    /// Made for the first call: a lock rarely needs a client, and making one lengthens a cold start.
    client: Arc<OnceLock<Client>>,
}

/// The health checks behind a composite alarm could not be found.
#[derive(Debug, Error)]
pub enum Unresolved {
    /// A call failed.
    #[error("the health checks behind a composite alarm could not be looked up: {0}")]
    Failed(#[from] Failure),
    /// An alarm that the composite alarm is built from does not exist in this account and Region.
    #[error("the composite alarm is built from {}, which does not exist in this account and Region: build it from alarms of this account and Region", Quoted(.0))]
    NoSuchAlarm(String),
    /// An alarm behind the composite alarm is on a health check's metric and unreadable.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The composite alarm watches health checks, and none of their alarms is still in ALARM.
    #[error("none of the alarms that the composite alarm {} is built from is still in ALARM, so the health check that failed is unknown: look at them, and lock by hand (docs/runbook.md#lock-by-hand)", Quoted(.name))]
    NoneInAlarm {
        /// The composite alarm.
        name: String,
        /// The health checks behind it.
        watched: Vec<HealthCheckId>,
    },
    /// Composite alarms of composite alarms, without end.
    #[error("the composite alarm is built from composite alarms more than {} deep", DEEPEST)]
    TooDeep,
}

/// The alarms of an account, by the health check whose health they watch.
#[derive(Debug, Default)]
pub struct Alarms {
    by_check: BTreeMap<HealthCheckId, Vec<Alarm>>,
    queries: Vec<QueryAlarm>,
    /// Why it is not known for which checks a query's alarm is in ALARM.
    unread: Option<Failure>,
}

/// An alarm on a query that is grouped by check.
#[derive(Debug)]
struct QueryAlarm {
    alarm: Alarm,
    /// The checks for which it is in ALARM, and since when.
    contributors: BTreeMap<HealthCheckId, DateTime<Utc>>,
    /// The queries that are restricted to some checks, as text; none if it watches every check.
    restricted: Vec<String>,
}

/// CloudWatch lets composite alarms build on each other, in circles too.
const DEEPEST: usize = 5;
/// The most names in one call of `DescribeAlarms`.
const MOST_NAMES: usize = 100;

// === impl Alarms ===

impl Alarms {
    /// The alarms on one check's health.
    ///
    /// # Errors
    /// It has no alarm of its own, an alarm on a query is in ALARM, and for which checks could not be read.
    pub fn on(&self, id: &HealthCheckId) -> Result<Vec<Alarm>, Failure> {
        match self.read_on(id) {
            (alarms, Some(unread)) if alarms.is_empty() => Err(unread),
            (alarms, _) => Ok(alarms),
        }
    }

    /// The alarms on one check's health as far as they could be read, and why not all of them.
    #[must_use]
    pub fn read_on(&self, id: &HealthCheckId) -> (Vec<Alarm>, Option<Failure>) {
        let own = self.by_check.get(id).into_iter().flatten().cloned();
        let queries = self.queries.iter().filter_map(|QueryAlarm { alarm, contributors, restricted }| {
            let watches = || {
                restricted.is_empty() || restricted.iter().any(|query| alarm::is_named(id.as_str(), query))
            };
            match contributors.get(id) {
                Some(since) => Some(Alarm { changed_at: *since, ..alarm.clone() }),
                None if !watches() => None,
                None if alarm.state == AlarmState::Alarm => {
                    Some(Alarm { state: AlarmState::Ok, ..alarm.clone() })
                }
                None => Some(alarm.clone()),
            }
        });
        (own.chain(queries).collect(), self.unread.as_ref().map(Failure::again))
    }
}

// === impl CloudWatch ===

impl CloudWatch {
    /// CloudWatch with this configuration, which must not retry by itself.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        Self { config: config.clone(), client: Arc::default() }
    }

    fn client(&self) -> &Client {
        self.client.get_or_init(|| Client::new(&self.config))
    }

    /// The metric alarms on a check's health, without metric math and composite alarms: `DescribeAlarmsForMetric`
    /// returns neither.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn alarms_on(&self, id: &HealthCheckId, deadline: Deadline) -> Result<Vec<Alarm>, Failure> {
        let dimension = Dimension::builder().name(alarm::DIMENSION).value(id.as_str()).build();
        let mut alarms = Vec::new();
        for metric in alarm::METRICS {
            let output = deadline
                .persist(async |time| {
                    let request = self.client().describe_alarms_for_metric().namespace(alarm::NAMESPACE);
                    let request = request.metric_name(metric).dimensions(dimension.clone());
                    send(DESCRIBE_FOR_METRIC, time, request.send()).await
                })
                .await?;
            let is_ours =
                |alarm: &&MetricAlarm| alarm.dimensions().contains(&dimension) && !tells_recovery(alarm);
            let ours = output.metric_alarms().iter().filter(is_ours);
            for alarm in ours {
                alarms.push(read(alarm)?);
            }
        }
        Ok(alarms)
    }

    /// The alarms on a check's health of every kind: where no plain one leads to `lock`, those on metric math and on
    /// queries as well, which are only in the list of all.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn alarms_of(
        &self,
        id: &HealthCheckId,
        config: &Config,
        deadline: Deadline,
    ) -> Result<Vec<Alarm>, Failure> {
        let plain = self.alarms_on(id, deadline).await?;
        if plain.iter().any(|alarm| decide::leads_to_lock(alarm, config)) {
            return Ok(plain);
        }
        match self.all_alarms(deadline).await {
            Ok(all) => all.on(id),
            Err(failure) => {
                warn!(healthCheckId = %id, error = %failure, "not looking for alarms on metric math and queries");
                Ok(plain)
            }
        }
    }

    /// The alarms on health checks' health of the whole account, by the page: plain ones, metric math over one check,
    /// and queries that are grouped by check. Composite alarms are not among them.
    ///
    /// # Errors
    /// A call failed and did not pass before the deadline.
    pub async fn all_alarms(&self, deadline: Deadline) -> Result<Alarms, Failure> {
        let found = pages(deadline, async |time, token| {
            let request =
                self.client().describe_alarms().alarm_types(AlarmType::MetricAlarm).max_records(100);
            let page = send(DESCRIBE, time, request.set_next_token(token).send()).await?;
            Ok((page.metric_alarms.unwrap_or_default(), page.next_token))
        });
        let mut alarms = Alarms::default();
        for alarm in found.await?.iter().filter(|alarm| !tells_recovery(alarm)) {
            let metrics = metrics(alarm);
            if metrics.iter().any(Metric::queries_each_check) {
                let alarm = read(alarm)?;
                let contributors = match alarm.state {
                    AlarmState::Alarm => self.contributors(&alarm, deadline).await,
                    AlarmState::Ok | AlarmState::InsufficientData => Ok(BTreeMap::new()),
                };
                let restricted = metrics.into_iter().filter(Metric::is_restricted);
                let restricted = restricted.filter_map(|metric| metric.expression).collect();
                match contributors {
                    Ok(contributors) => alarms.queries.push(QueryAlarm { alarm, contributors, restricted }),
                    // The others are not made to wait for this one.
                    Err(failure) => {
                        warn!(alarm = alarm.name, error = %failure, "not knowing for which health checks this alarm is in ALARM");
                        alarms.unread = Some(failure);
                    }
                }
            } else if let Ok([id]) = event::watched("", metrics, None).as_deref() {
                // Metric math over several checks does not say which one failed.
                alarms.by_check.entry(id.clone()).or_default().push(read(alarm)?);
            }
        }
        Ok(alarms)
    }

    /// The health checks for which an alarm on a query is in ALARM, and since when.
    async fn contributors(
        &self,
        alarm: &Alarm,
        deadline: Deadline,
    ) -> Result<BTreeMap<HealthCheckId, DateTime<Utc>>, Failure> {
        let contributors = pages(deadline, async |time, token| {
            let request = self.client().describe_alarm_contributors().alarm_name(&alarm.name);
            let page = send(CONTRIBUTORS, time, request.set_next_token(token).send()).await?;
            Ok((page.alarm_contributors.unwrap_or_default(), page.next_token))
        });
        let contributors = contributors.await?.into_iter().filter_map(|contributor| {
            let id = contributor.contributor_attributes()?.get(alarm::DIMENSION)?;
            let since = contributor.state_transitioned_timestamp().and_then(time);
            Some((HealthCheckId::try_from(id.clone()).ok()?, since.unwrap_or(alarm.changed_at)))
        });
        Ok(contributors.collect())
    }

    /// Whether an alarm's comparison makes it go off when a health check is healthy.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn goes_off_on_recovery(&self, alarm: &str, deadline: Deadline) -> Result<bool, Failure> {
        let output = self.describe(&[alarm.to_owned()], deadline).await?;
        let found = output.metric_alarms().iter().find(|found| found.alarm_name() == Some(alarm));
        Ok(found.is_some_and(tells_recovery))
    }

    /// Whether a mute rule is active for this alarm, or with `None` for any.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn has_mute_rules(&self, alarm: Option<&str>, deadline: Deadline) -> Result<bool, Failure> {
        let rules = pages(deadline, async |time, token| {
            let request = self.client().list_alarm_mute_rules().set_alarm_name(alarm.map(str::to_owned));
            let request = request.statuses(AlarmMuteRuleStatus::Active).set_next_token(token);
            let page = send(LIST_MUTE_RULES, time, request.send()).await?;
            Ok((page.alarm_mute_rule_summaries.unwrap_or_default(), page.next_token))
        });
        let active = |rule: &types::AlarmMuteRuleSummary| {
            rule.status().is_none_or(|status| *status == AlarmMuteRuleStatus::Active)
        };
        Ok(rules.await?.iter().any(active))
    }

    /// Route 53's own verdict on a check in the last minutes: its metric `HealthCheckStatus`, which includes
    /// inverted, disabled and calculated checks. `None` if there is no recent datapoint.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn verdict(&self, id: &HealthCheckId, deadline: Deadline) -> Result<Option<bool>, Failure> {
        let dimension = (alarm::DIMENSION, id.as_str());
        let newest =
            self.statistic(alarm::NAMESPACE, alarm::METRICS[0], dimension, 5, Statistic::Minimum, deadline);
        Ok(newest.await?.map(|(_, value)| value >= 1.0))
    }

    /// The newest value of this metric in the last `minutes`, summed over a minute, and its time.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn newest(
        &self,
        namespace: &str,
        metric: &str,
        dimension: (&str, &str),
        minutes: i64,
        deadline: Deadline,
    ) -> Result<Option<(DateTime<Utc>, f64)>, Failure> {
        self.statistic(namespace, metric, dimension, minutes, Statistic::Sum, deadline).await
    }

    async fn statistic(
        &self,
        namespace: &str,
        metric: &str,
        dimension: (&str, &str),
        minutes: i64,
        statistic: Statistic,
        deadline: Deadline,
    ) -> Result<Option<(DateTime<Utc>, f64)>, Failure> {
        let now = Utc::now().timestamp();
        let dimension = Dimension::builder().name(dimension.0).value(dimension.1).build();
        let output = deadline
            .persist(async |time| {
                let request = self.client().get_metric_statistics().namespace(namespace).metric_name(metric);
                let request = request.dimensions(dimension.clone()).period(60).statistics(statistic.clone());
                let request = request.start_time(DateTimeOf::from_secs(now - minutes * 60));
                let request = request.end_time(DateTimeOf::from_secs(now + 60));
                send(Call::new("cloudwatch:GetMetricStatistics", "the metric"), time, request.send()).await
            })
            .await?;
        let points = output.datapoints().iter().filter_map(|point| {
            let at = point.timestamp()?;
            Some((DateTime::<Utc>::from_timestamp(at.secs(), 0)?, point.sum().or(point.minimum())?))
        });
        Ok(points.max_by_key(|(at, _)| *at))
    }

    /// Sets a metric alarm's state until its next evaluation; the alarm runs its actions.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn set_off(&self, alarm: &str, reason: &str, deadline: Deadline) -> Result<(), Failure> {
        deadline
            .persist(async |time| {
                let request = self.client().set_alarm_state().alarm_name(alarm).state_reason(reason);
                let request = request.state_value(StateValue::Alarm);
                send(Call::new("cloudwatch:SetAlarmState", "the alarm"), time, request.send()).await
            })
            .await?;
        Ok(())
    }

    /// The health checks behind a composite alarm that went off; none if none of the alarms that it is built from
    /// watches a health check's health.
    ///
    /// # Errors
    /// Not all of them can be found, or none of their alarms is in ALARM.
    pub async fn health_checks_behind(
        &self,
        composite: &Composite,
        deadline: Deadline,
    ) -> Result<Vec<HealthCheckId>, Unresolved> {
        let in_alarm = |state: Option<&StateValue>| state == Some(&StateValue::Alarm);
        let triggered_by = || composite.triggered_by.clone();
        let found = self.walk(triggered_by(), in_alarm, deadline).await?;
        if !found.is_empty() {
            return Ok(found);
        }
        let itself = || vec![composite.name.clone()];
        let found = self.walk(itself(), in_alarm, deadline).await?;
        if !found.is_empty() {
            return Ok(found);
        }
        // The message says what went off, and that is not about a health check's health.
        if !composite.triggered_by.is_empty()
            && self.walk(triggered_by(), |_| true, deadline).await?.is_empty()
        {
            return Ok(Vec::new());
        }
        // When a message is late, its alarms have other states: they must not be mistaken for another team's alarms.
        let watched = self.walk(itself(), |_| true, deadline).await?;
        if watched.is_empty() {
            Ok(watched)
        } else {
            Err(Unresolved::NoneInAlarm { name: composite.name.clone(), watched })
        }
    }

    /// The health checks that these alarms watch; below composite alarms, those of the children whose state `counts`.
    async fn walk(
        &self,
        mut names: Vec<String>,
        counts: impl Fn(Option<&StateValue>) -> bool,
        deadline: Deadline,
    ) -> Result<Vec<HealthCheckId>, Unresolved> {
        let mut found = BTreeSet::new();
        for _ in 0..DEEPEST {
            let mut next = BTreeSet::new();
            for names in names.chunks(MOST_NAMES) {
                let output = self.describe(names, deadline).await?;
                let (metric, composite) = (output.metric_alarms(), output.composite_alarms());
                let known = metric.iter().map(MetricAlarm::alarm_name);
                let known: BTreeSet<_> =
                    known.chain(composite.iter().map(CompositeAlarm::alarm_name)).collect();
                if let Some(missing) = names.iter().find(|name| !known.contains(&Some(name.as_str()))) {
                    return Err(Unresolved::NoSuchAlarm(missing.clone()));
                }
                for alarm in metric.iter().filter(|alarm| !tells_recovery(alarm)) {
                    found.extend(event::watched(
                        alarm.alarm_name().unwrap_or_default(),
                        metrics(alarm),
                        None,
                    )?);
                }
                for name in composite.iter().filter_map(CompositeAlarm::alarm_name) {
                    next.extend(self.children(name, &counts, deadline).await?);
                }
            }
            if next.is_empty() {
                return Ok(found.into_iter().collect());
            }
            names = next.into_iter().collect();
        }
        Err(Unresolved::TooDeep)
    }

    async fn describe(&self, names: &[String], deadline: Deadline) -> Result<DescribeAlarmsOutput, Failure> {
        deadline
            .persist(async |time| {
                let request = self.client().describe_alarms().set_alarm_names(Some(names.to_vec()));
                let both = request.alarm_types(AlarmType::MetricAlarm).alarm_types(AlarmType::CompositeAlarm);
                send(DESCRIBE, time, both.max_records(100).send()).await
            })
            .await
    }

    /// The names of a composite alarm's children whose state `counts`. With this parameter CloudWatch
    /// accepts no other filter, and returns little more than names and states.
    async fn children(
        &self,
        name: &str,
        counts: impl Fn(Option<&StateValue>) -> bool,
        deadline: Deadline,
    ) -> Result<Vec<String>, Failure> {
        pages(deadline, async |time, token| {
            let request = self.client().describe_alarms().children_of_alarm_name(name).max_records(100);
            let page = send(DESCRIBE, time, request.set_next_token(token).send()).await?;
            let metric = page.metric_alarms().iter().map(|alarm| (alarm.alarm_name(), alarm.state_value()));
            let composite =
                page.composite_alarms().iter().map(|alarm| (alarm.alarm_name(), alarm.state_value()));
            let counted = metric.chain(composite).filter(|(_, state)| counts(*state));
            Ok((counted.filter_map(|(name, _)| name.map(str::to_owned)).collect(), page.next_token))
        })
        .await
    }
}

fn read(alarm: &MetricAlarm) -> Result<Alarm, Failure> {
    let name = alarm.alarm_name().unwrap_or_default().to_owned();
    // The last change of the state. The other time also changes when CloudWatch evaluates partial data.
    let changed_at = alarm.state_transitioned_timestamp().or(alarm.state_updated_timestamp());
    let changed_at = changed_at.and_then(time);
    let configured_at = alarm.alarm_configuration_updated_timestamp().and_then(time);
    let periods = alarm.metrics().iter().filter_map(|query| query.metric_stat()?.period());
    let period = alarm.period().or(periods.max()).map(i64::from);
    let breaching = datapoint::newest(alarm.state_reason_data(), alarm.state_reason(), period);
    let state = match alarm.state_value() {
        Some(StateValue::Alarm) => AlarmState::Alarm,
        Some(StateValue::Ok) => AlarmState::Ok,
        _ => AlarmState::InsufficientData,
    };
    let actions_enabled = alarm.actions_enabled().unwrap_or(true);
    let actions = alarm.alarm_actions().to_vec();
    let Some(changed_at) = changed_at else {
        let cause = format!("the alarm {} lacks the time of its last change", Quoted(&name));
        return Err(Failure::refused(DESCRIBE_FOR_METRIC, cause));
    };
    Ok(Alarm { name, state, changed_at, breaching, configured_at, actions_enabled, actions })
}

fn time(time: &DateTimeOf) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time.secs(), time.subsec_nanos())
}

fn tells_recovery(alarm: &MetricAlarm) -> bool {
    let comparison = alarm.comparison_operator().map(types::ComparisonOperator::as_str);
    alarm::tells_recovery(comparison, &metrics(alarm))
}

fn metrics(alarm: &MetricAlarm) -> Vec<Metric> {
    let dimensions = |dimensions: &[Dimension]| {
        let ours = dimensions.iter().find(|dimension| dimension.name() == Some(alarm::DIMENSION));
        Some(Dimensions { health_check_id: ours.and_then(|dimension| dimension.value().map(str::to_owned)) })
    };
    let one = Metric {
        namespace: alarm.namespace().map(str::to_owned),
        name: alarm.metric_name().map(str::to_owned),
        dimensions: dimensions(alarm.dimensions()),
        expression: None,
    };
    let several = alarm.metrics().iter().map(|query| {
        let metric = query.metric_stat().and_then(|stat| stat.metric());
        Metric {
            namespace: metric.and_then(|metric| metric.namespace()).map(str::to_owned),
            name: metric.and_then(|metric| metric.metric_name()).map(str::to_owned),
            dimensions: dimensions(metric.map(types::Metric::dimensions).unwrap_or_default()),
            expression: query.expression().map(str::to_owned),
        }
    });
    several.chain([one].into_iter().filter(|one| one.name.is_some())).collect()
}
