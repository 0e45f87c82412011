//! CloudWatch's alarms in this system's terms: the only place that knows its SDK's requests and answers.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use aws_config::SdkConfig;
use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::operation::describe_alarms::DescribeAlarmsOutput;
use aws_sdk_cloudwatch::primitives::DateTime as DateTimeOf;
use aws_sdk_cloudwatch::types::{
    self, AlarmType, Dimension, EvaluationState, MetricAlarm, StandardUnit, StateValue, Statistic,
};
use chrono::{DateTime, Utc};
use tracing::warn;

use super::alarm::{self, Alarm, AlarmState, Dimensions, Failing, Metric};
use super::config::Config;
use super::datapoint;
use super::decide;
use super::event;
use super::health_check::HealthCheckId;
use crate::program::text::Quoted;
use crate::remote::aws::{Call, Failure, pages, send};
use crate::remote::deadline::Deadline;

pub use self::composite::{Behind, Unresolved};
pub use self::mute::{MuteRule, rule_name};

mod composite;
mod mute;

const DESCRIBE: Call = Call::new("cloudwatch:DescribeAlarms", "the alarm");
const CONTRIBUTORS: Call = Call::new("cloudwatch:DescribeAlarmContributors", "the alarm");
const DESCRIBE_FOR_METRIC: Call = Call::new("cloudwatch:DescribeAlarmsForMetric", "the alarm");

/// CloudWatch's alarms.
#[derive(Clone, Debug)]
pub struct CloudWatch {
    config: SdkConfig,
    /// Made for the first call: a lock rarely needs a client, and making one lengthens a cold start.
    client: Arc<OnceLock<Client>>,
}

/// The alarms of an account, by the health check whose health they watch.
#[derive(Debug, Default)]
pub struct Alarms {
    by_check: BTreeMap<HealthCheckId, Vec<Alarm>>,
    queries: Vec<QueryAlarm>,
    /// Alarms on queries of which it is not known for which checks they are in ALARM: the queries that are restricted to some
    /// checks, and why.
    unread: Vec<(Vec<String>, Failure)>,
}

/// An alarm on a query that is grouped by check.
#[derive(Debug)]
struct QueryAlarm {
    alarm: Alarm,
    /// The checks for which it is in ALARM.
    contributors: BTreeMap<HealthCheckId, Failing>,
    /// The queries that are restricted to some checks, as text; none if it watches every check.
    restricted: Vec<String>,
}

/// The most names in one call of `DescribeAlarms`.
const MOST_NAMES: usize = 100;

// === impl Alarms ===

impl Alarms {
    /// The alarms on one check's health.
    ///
    /// # Errors
    /// An alarm on a query that may watch it is in ALARM, and for which checks could not be read.
    pub fn all_on(&self, id: &HealthCheckId) -> Result<Vec<Alarm>, Failure> {
        let (alarms, unread) = self.read_on(id);
        unread.map_or(Ok(alarms), Err)
    }

    /// The alarms on one check's health as far as they could be read, and why not all of them.
    #[must_use]
    pub fn read_on(&self, id: &HealthCheckId) -> (Vec<Alarm>, Option<Failure>) {
        let own = self.by_check.get(id).into_iter().flatten().cloned();
        let may_watch = |restricted: &[String]| {
            restricted.is_empty() || restricted.iter().any(|query| alarm::is_named(id.as_str(), query))
        };
        let queries =
            self.queries.iter().filter_map(
                |QueryAlarm { alarm, contributors, restricted }| match contributors.get(id) {
                    Some(Failing { changed_at, breaching }) => {
                        Some(Alarm { changed_at: *changed_at, breaching: *breaching, ..alarm.clone() })
                    }
                    None if !may_watch(restricted) => None,
                    None if alarm.state == AlarmState::Alarm => {
                        Some(Alarm { state: AlarmState::Ok, ..alarm.clone() })
                    }
                    None => Some(alarm.clone()),
                },
            );
        let unread = self.unread.iter().find(|(restricted, _)| may_watch(restricted));
        (own.chain(queries).collect(), unread.map(|(_, failure)| failure.again()))
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
    /// queries as well, which are only in the list of all, or why these could not be read.
    ///
    /// # Errors
    /// The plain ones could not be read.
    pub async fn alarms_of(
        &self,
        id: &HealthCheckId,
        config: &Config,
        deadline: Deadline,
    ) -> Result<(Vec<Alarm>, Option<Failure>), Failure> {
        let plain = self.alarms_on(id, deadline).await?;
        if plain.iter().any(|alarm| decide::leads_to_lock(alarm, config)) {
            return Ok((plain, None));
        }
        Ok(match self.all_alarms(deadline).await {
            Ok(all) => all.read_on(id),
            Err(failure) => (plain, Some(failure)),
        })
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
        for found in found.await?.iter().filter(|alarm| !tells_recovery(alarm)) {
            let metrics = metrics(found);
            if metrics.iter().any(Metric::queries_each_check) {
                let alarm = read(found)?;
                let contributors = match alarm.state {
                    AlarmState::Alarm => self.contributors(&alarm, period(found), deadline).await,
                    AlarmState::Ok | AlarmState::InsufficientData => Ok(BTreeMap::new()),
                };
                let restricted = metrics.into_iter().filter(Metric::is_restricted);
                let restricted = restricted.filter_map(|metric| metric.expression).collect();
                match contributors {
                    Ok(contributors) => alarms.queries.push(QueryAlarm { alarm, contributors, restricted }),
                    // The others are not made to wait for this one.
                    Err(failure) => {
                        warn!(alarm = alarm.name, error = %failure, "not knowing for which health checks this alarm is in ALARM");
                        alarms.unread.push((restricted, failure));
                    }
                }
            } else if let Ok([id]) = event::watched("", metrics, None).as_deref() {
                // Metric math over several checks does not say which one failed.
                alarms.by_check.entry(id.clone()).or_default().push(read(found)?);
            }
        }
        Ok(alarms)
    }

    /// The health checks for which an alarm on a query is in ALARM.
    async fn contributors(
        &self,
        alarm: &Alarm,
        period: Option<i64>,
        deadline: Deadline,
    ) -> Result<BTreeMap<HealthCheckId, Failing>, Failure> {
        let contributors = pages(deadline, async |time, token| {
            let request = self.client().describe_alarm_contributors().alarm_name(&alarm.name);
            let page = send(CONTRIBUTORS, time, request.set_next_token(token).send()).await?;
            Ok((page.alarm_contributors.unwrap_or_default(), page.next_token))
        });
        let contributors = contributors.await?.into_iter().filter_map(|contributor| {
            let id = contributor.contributor_attributes()?.get(alarm::DIMENSION)?;
            let since = contributor.state_transitioned_timestamp().and_then(time);
            let breaching = datapoint::newest(None, contributor.state_reason(), period);
            let failing = Failing { changed_at: since.unwrap_or(alarm.changed_at), breaching };
            Some((HealthCheckId::try_from(id.clone()).ok()?, failing))
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

    /// When an alarm was set off for this reason; `None` if it is not in ALARM for it any more.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn set_off_at(
        &self,
        alarm: &str,
        reason: &str,
        deadline: Deadline,
    ) -> Result<Option<DateTime<Utc>>, Failure> {
        let output = self.describe(&[alarm.to_owned()], deadline).await?;
        let is_for_it = |alarm: &&MetricAlarm| {
            alarm.state_value() == Some(&StateValue::Alarm) && alarm.state_reason() == Some(reason)
        };
        let alarm = output.metric_alarms().iter().find(is_for_it);
        Ok(alarm.map(read).transpose()?.map(|alarm| alarm.changed_at))
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
}

fn read(alarm: &MetricAlarm) -> Result<Alarm, Failure> {
    let name = alarm.alarm_name().unwrap_or_default().to_owned();
    // The last change of the state. The other time also changes when CloudWatch evaluates partial data.
    let changed_at = alarm.state_transitioned_timestamp().or(alarm.state_updated_timestamp());
    let changed_at = changed_at.and_then(time);
    let configured_at = alarm.alarm_configuration_updated_timestamp().and_then(time);
    let breaching = datapoint::newest(alarm.state_reason_data(), alarm.state_reason(), period(alarm));
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
    let comparison = alarm.comparison_operator().map(types::ComparisonOperator::as_str);
    let metrics = metrics(alarm);
    // Missing data may count as beyond the threshold.
    let is_beyond_all = alarm.treat_missing_data() != Some("breaching")
        && alarm::never_goes_off(comparison, alarm.threshold(), statistic(alarm), &metrics);
    let is_invalid = alarm.evaluation_state() == Some(&EvaluationState::EvaluationError);
    // One that has gone off counts, whatever it has seen.
    let is_blind = state != AlarmState::Alarm && (is_invalid || alarm::sees_no_health(&metrics));
    let never_goes_off = is_beyond_all || is_blind;
    Ok(Alarm { name, state, changed_at, breaching, configured_at, never_goes_off, actions_enabled, actions })
}

/// The statistic of an alarm on one metric.
fn statistic(alarm: &MetricAlarm) -> Option<&str> {
    let of_queries = alarm.metrics().iter().find_map(|query| query.metric_stat()?.stat());
    alarm.statistic().map(Statistic::as_str).or(of_queries)
}

/// The longest period of an alarm's metrics and queries, in seconds.
fn period(alarm: &MetricAlarm) -> Option<i64> {
    let period_of = |query: &types::MetricDataQuery| {
        query.metric_stat().and_then(types::MetricStat::period).or(query.period())
    };
    alarm.period().or(alarm.metrics().iter().filter_map(period_of).max()).map(i64::from)
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
    let is_never_reported = |dimensions: &[Dimension], unit: Option<&StandardUnit>| {
        dimensions.iter().any(|dimension| dimension.name() != Some(alarm::DIMENSION))
            || unit.is_some_and(|unit| !alarm::UNITS.contains(&unit.as_str()))
    };
    let one = Metric {
        namespace: alarm.namespace().map(str::to_owned),
        name: alarm.metric_name().map(str::to_owned),
        dimensions: dimensions(alarm.dimensions()),
        expression: None,
        is_never_reported: is_never_reported(alarm.dimensions(), alarm.unit()),
    };
    let several = alarm.metrics().iter().map(|query| {
        let metric = query.metric_stat().and_then(|stat| stat.metric());
        let all = metric.map(types::Metric::dimensions).unwrap_or_default();
        let unit = query.metric_stat().and_then(types::MetricStat::unit);
        Metric {
            namespace: metric.and_then(|metric| metric.namespace()).map(str::to_owned),
            name: metric.and_then(|metric| metric.metric_name()).map(str::to_owned),
            dimensions: dimensions(all),
            expression: query.expression().map(str::to_owned),
            is_never_reported: is_never_reported(all, unit),
        }
    });
    several.chain([one].into_iter().filter(|one| one.name.is_some())).collect()
}
