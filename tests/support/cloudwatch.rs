//! CloudWatch's alarms, for the stand-in: what the functions and failoverctl ask of them, in the
//! protocol that the SDK speaks (Smithy RPC v2 with CBOR).

use std::collections::BTreeMap;

use ciborium::Value;

use super::mute_rules::MuteRules;

/// What an alarm does by default.
pub const TOPIC: &str = "arn:aws:sns:us-east-1:123456789012:alarms";
/// How many children are told at once.
const PAGE: usize = 2;

/// An alarm as the stand-in keeps it.
#[derive(Clone, Debug)]
pub struct Alarm {
    pub state: &'static str,
    /// Seconds since 1970.
    pub changed_at: f64,
    pub actions_enabled: bool,
    pub actions: &'static [&'static str],
    pub comparison: &'static str,
    pub threshold: f64,
    pub kind: Kind,
    /// When the newest datapoint began that made it change, in seconds since 1970.
    pub breaching: Option<f64>,
    /// Its period, in seconds.
    pub period: i32,
    /// When its configuration was changed last, in seconds since 1970.
    pub configured_at: Option<f64>,
    /// Whether a mute rule is active for it.
    pub muted: bool,
    /// What keeps it from seeing the health.
    pub flaw: Option<Flaw>,
}

/// What is wrong with an alarm on one metric, or on metric math.
#[derive(Clone, Copy, Debug)]
pub enum Flaw {
    /// A dimension beside `HealthCheckId`: no such metric is there.
    Dimension,
    /// A unit.
    Unit(&'static str),
    /// CloudWatch says this about its evaluation.
    EvaluationState(&'static str),
}

#[derive(Clone, Debug)]
pub enum Kind {
    /// On this metric of `AWS/Route53`, of this health check.
    Metric(&'static str, String),
    /// Metric math over `HealthCheckStatus` of these health checks.
    Math(Vec<String>),
    /// A query over every check, in ALARM for these.
    Query(Vec<String>),
    /// A query that is restricted to this health check, which is healthy.
    Where(String),
    /// Built from these alarms.
    Composite(Vec<String>),
}

// === impl Alarm ===

impl Alarm {
    /// The documented alarm of this health check.
    pub fn on(health_check_id: &str, state: &'static str, changed_at: f64) -> Self {
        let kind = Kind::Metric("HealthCheckStatus", health_check_id.to_owned());
        Self {
            state,
            changed_at,
            actions_enabled: true,
            actions: &[TOPIC],
            comparison: "LessThanThreshold",
            threshold: 1.0,
            kind,
            breaching: None,
            period: 60,
            configured_at: None,
            muted: false,
            flaw: None,
        }
    }

    pub fn of(kind: Kind, state: &'static str) -> Self {
        Self { kind, ..Self::on("", state, 0.0) }
    }

    fn is_composite(&self) -> bool {
        matches!(self.kind, Kind::Composite(_))
    }

    /// Of a query CloudWatch tells datapoints and times by contributor.
    fn is_query(&self) -> bool {
        matches!(self.kind, Kind::Query(_) | Kind::Where(_))
    }

    fn unit(&self) -> Option<(&'static str, Value)> {
        match self.flaw {
            Some(Flaw::Unit(unit)) => Some(("Unit", text(unit))),
            Some(Flaw::Dimension | Flaw::EvaluationState(_)) | None => None,
        }
    }

    fn describe(&self, name: &str) -> Value {
        let mut fields = vec![
            ("AlarmName", text(name)),
            ("AlarmArn", text(&format!("arn:aws:cloudwatch:us-east-1:123456789012:alarm:{name}"))),
            ("StateValue", text(self.state)),
            ("StateTransitionedTimestamp", time(self.changed_at)),
            // Also moves when partial data is evaluated, so it must not be taken for the change.
            ("StateUpdatedTimestamp", time(self.changed_at + 100.0)),
            ("ActionsEnabled", Value::Bool(self.actions_enabled)),
            ("ComparisonOperator", text(self.comparison)),
            ("Threshold", Value::Float(self.threshold)),
            ("AlarmActions", Value::Array(self.actions.iter().map(|action| text(action)).collect())),
        ];
        if !self.is_query() {
            fields.push(("Period", Value::from(self.period)));
        }
        if let Some(breaching) = self.breaching.filter(|_| !self.is_query()) {
            let time = moment(breaching).format("%Y-%m-%dT%H:%M:%S%.3f+0000");
            let data = format!(
                r#"{{"version":"1.0","evaluatedDatapoints":[{{"timestamp":"{time}","value":0.0}}]}}"#
            );
            fields.push(("StateReasonData", text(&data)));
        }
        if let Some(configured_at) = self.configured_at {
            fields.push(("AlarmConfigurationUpdatedTimestamp", time(configured_at)));
        }
        if let Some(Flaw::EvaluationState(state)) = self.flaw {
            fields.push(("EvaluationState", text(state)));
        }
        match &self.kind {
            Kind::Metric(metric, id) => {
                fields.extend(watched(metric, id, self.flaw));
                fields.extend(self.unit());
            }
            Kind::Math(ids) => {
                let query = |id: &String| {
                    let stat = [
                        ("Metric", map(watched("HealthCheckStatus", id, self.flaw))),
                        ("Period", Value::from(60)),
                        ("Stat", text("Minimum")),
                    ];
                    let stat = map(stat.into_iter().chain(self.unit()));
                    map([("Id", text("m")), ("MetricStat", stat)])
                };
                let expression = map([("Id", text("e")), ("Expression", text("1 - m"))]);
                fields.push(("Metrics", Value::Array(ids.iter().map(query).chain([expression]).collect())));
            }
            Kind::Query(_) | Kind::Where(_) => {
                let only = match &self.kind {
                    Kind::Where(id) => format!("WHERE HealthCheckId = '{id}' "),
                    _ => String::new(),
                };
                let query = format!(
                    r#"SELECT MIN(HealthCheckStatus) FROM "AWS/Route53" {only}GROUP BY HealthCheckId"#
                );
                let period = ("Period", Value::from(self.period));
                let query = map([("Id", text("q")), ("Expression", text(&query)), period]);
                fields.push(("Metrics", Value::Array(vec![query])));
            }
            Kind::Composite(children) => fields.push(("AlarmRule", text(&children.join(" OR ")))),
        }
        map(fields)
    }
}

/// What CloudWatch answers: the status and the body; and what was asked, for the list of calls.
pub fn answer(
    alarms: &BTreeMap<String, Alarm>,
    rules: &mut MuteRules,
    verdicts: &BTreeMap<String, f64>,
    operation: &str,
    body: &[u8],
) -> (u16, Vec<u8>, String) {
    let request: Value = ciborium::from_reader(body).unwrap_or(Value::Null);
    if let Some(answer) = rules.answer(alarms, operation, &request) {
        return answer;
    }
    let field = |name: &str| {
        let fields = request.as_map().into_iter().flatten();
        fields.filter(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value.clone()).next()
    };
    let texts = |name: &str| -> Vec<String> {
        let items = field(name).and_then(|value| value.into_array().ok()).unwrap_or_default();
        items.into_iter().filter_map(|item| item.into_text().ok()).collect()
    };
    let text_of = |name: &str| field(name).and_then(|value| value.into_text().ok());
    match (operation, text_of("ChildrenOfAlarmName")) {
        ("DescribeAlarmsForMetric", _) if text_of("Namespace").as_deref() == Some("AWS/Route53") => {
            let metric = text_of("MetricName").unwrap_or_default();
            // As one emulator does, alarms of other checks are told too: whoever asks must look.
            let on = |alarm: &&Alarm| matches!(&alarm.kind, Kind::Metric(name, _) if *name == metric);
            let chosen =
                alarms.iter().filter(|(_, alarm)| on(alarm)).map(|(name, alarm)| alarm.describe(name));
            (200, encoded(&map([("MetricAlarms", Value::Array(chosen.collect()))])), metric)
        }
        ("DescribeAlarms", Some(_)) if field("AlarmNames").is_some() || field("AlarmTypes").is_some() => {
            (400, error("ValidationError", "ChildrenOfAlarmName excludes other filters"), String::new())
        }
        ("DescribeAlarms", Some(parent)) => {
            let start = text_of("NextToken").and_then(|token| token.parse().ok()).unwrap_or(0);
            (200, children(alarms, &parent, start), format!("children of {parent}"))
        }
        ("GetMetricStatistics", _) => {
            let dimensions =
                field("Dimensions").and_then(|value| value.into_array().ok()).unwrap_or_default();
            let of = dimensions.first().and_then(|one| one.as_map()).into_iter().flatten();
            let id = of.filter(|(key, _)| key.as_text() == Some("Value")).find_map(|(_, id)| id.as_text());
            let id = id.unwrap_or_default().to_owned();
            (200, statistics(verdicts.get(&id).copied()), id)
        }
        ("DescribeAlarmContributors", _) => {
            let name = text_of("AlarmName").unwrap_or_default();
            (200, contributors(alarms.get(&name)), name)
        }
        ("DescribeAlarms", _) if field("ParentsOfAlarmName").is_some() => {
            let child = text_of("ParentsOfAlarmName").unwrap_or_default();
            let is_over = |(_, alarm): &(&String, &Alarm)| match &alarm.kind {
                Kind::Composite(children) => children.contains(&child),
                _ => false,
            };
            // Of parents CloudWatch tells no more than this.
            let parents = alarms.iter().filter(is_over).map(|(name, _)| map([("AlarmName", text(name))]));
            let answer = map([("CompositeAlarms", Value::Array(parents.collect()))]);
            (200, encoded(&answer), format!("parents of {child}"))
        }
        ("DescribeAlarms", None) if field("AlarmNames").is_none() => {
            let start = text_of("NextToken").and_then(|token| token.parse().ok()).unwrap_or(0);
            (200, metric_alarms(alarms, start), "all".to_owned())
        }
        ("DescribeAlarms", None) => {
            let names = texts("AlarmNames");
            if names.is_empty() || names.len() > 100 {
                return (400, error("ValidationError", "1 to 100 AlarmNames"), String::new());
            }
            let wanted = texts("AlarmTypes");
            let is_wanted = |alarm: &Alarm| {
                let kind = if alarm.is_composite() { "CompositeAlarm" } else { "MetricAlarm" };
                wanted.iter().any(|wanted| wanted == kind) || (wanted.is_empty() && !alarm.is_composite())
            };
            let chosen = alarms.iter().filter(|(name, alarm)| names.contains(name) && is_wanted(alarm));
            let (composite, metric): (Vec<_>, Vec<_>) = chosen.partition(|(_, alarm)| alarm.is_composite());
            let list = |alarms: Vec<(&String, &Alarm)>| {
                Value::Array(alarms.into_iter().map(|(name, alarm)| alarm.describe(name)).collect())
            };
            let answer = map([("MetricAlarms", list(metric)), ("CompositeAlarms", list(composite))]);
            (200, encoded(&answer), names.join(","))
        }
        _ => (400, error("UnknownOperationException", "the stand-in does not serve this"), String::new()),
    }
}

/// A page of the children of a composite alarm.
fn children(alarms: &BTreeMap<String, Alarm>, parent: &str, start: usize) -> Vec<u8> {
    let children = match alarms.get(parent).map(|alarm| &alarm.kind) {
        Some(Kind::Composite(children)) => children.clone(),
        _ => Vec::new(),
    };
    let page = children.iter().skip(start).take(PAGE);
    // Of children CloudWatch tells no more than this.
    let brief =
        |name: &String, alarm: &Alarm| map([("AlarmName", text(name)), ("StateValue", text(alarm.state))]);
    let known = page.filter_map(|name| alarms.get(name).map(|alarm| (name, alarm)));
    let (composite, metric): (Vec<_>, Vec<_>) = known.partition(|(_, alarm)| alarm.is_composite());
    let list =
        |alarms: Vec<(&String, &Alarm)>| alarms.into_iter().map(|(name, alarm)| brief(name, alarm)).collect();
    let mut answer = vec![
        ("MetricAlarms", Value::Array(list(metric))),
        ("CompositeAlarms", Value::Array(list(composite))),
    ];
    if start + PAGE < children.len() {
        answer.push(("NextToken", text(&(start + PAGE).to_string())));
    }
    encoded(&map(answer))
}

/// The newest datapoint of a health check's metric.
fn statistics(verdict: Option<f64>) -> Vec<u8> {
    let point = verdict.map(|value| {
        let now = chrono::Utc::now().timestamp();
        map([("Timestamp", Value::Tag(1, Box::new(now.into()))), ("Minimum", Value::Float(value))])
    });
    encoded(&map([("Datapoints", Value::Array(point.into_iter().collect()))]))
}

/// The health checks for which an alarm on a query is in ALARM.
fn contributors(alarm: Option<&Alarm>) -> Vec<u8> {
    let (ids, since) = match alarm.map(|alarm| (&alarm.kind, alarm.changed_at)) {
        Some((Kind::Query(ids), since)) => (ids.clone(), since),
        _ => (Vec::new(), 0.0),
    };
    let breaching = alarm.and_then(|alarm| alarm.breaching).map(|began| {
        let time = moment(began).format("%d/%m/%y %H:%M:%S");
        format!("Threshold Crossed: 1 datapoint [0.0 ({time})] was less than the threshold (1.0).")
    });
    let reason = breaching.unwrap_or_else(|| "own".to_owned());
    let contributor = |id: String| {
        map([
            ("ContributorId", text("c")),
            ("ContributorAttributes", map([("HealthCheckId", text(&id))])),
            ("StateReason", text(&reason)),
            ("StateTransitionedTimestamp", time(since)),
        ])
    };
    let contributors = ids.into_iter().map(contributor).collect();
    encoded(&map([("AlarmContributors", Value::Array(contributors))]))
}

/// A page of 100 of all metric alarms.
fn metric_alarms(alarms: &BTreeMap<String, Alarm>, start: usize) -> Vec<u8> {
    let metric: Vec<_> = alarms.iter().filter(|(_, alarm)| !alarm.is_composite()).collect();
    let page = metric.iter().skip(start).take(100).map(|(name, alarm)| alarm.describe(name)).collect();
    let mut answer = vec![("MetricAlarms", Value::Array(page))];
    if start + 100 < metric.len() {
        answer.push(("NextToken", text(&(start + 100).to_string())));
    }
    encoded(&map(answer))
}

/// One of CloudWatch's errors.
pub fn error(code: &str, message: &str) -> Vec<u8> {
    encoded(&map([("__type", text(code)), ("message", text(message))]))
}

fn watched(metric: &'static str, health_check_id: &str, flaw: Option<Flaw>) -> Vec<(&'static str, Value)> {
    let dimension = |name, value| map([("Name", text(name)), ("Value", text(value))]);
    let more = matches!(flaw, Some(Flaw::Dimension)).then(|| dimension("Region", "us-east-1"));
    let dimensions = [dimension("HealthCheckId", health_check_id)].into_iter().chain(more);
    vec![
        ("Namespace", text("AWS/Route53")),
        ("MetricName", text(metric)),
        ("Dimensions", Value::Array(dimensions.collect())),
    ]
}

#[expect(clippy::cast_possible_truncation, reason = "milliseconds of our days")]
fn moment(seconds: f64) -> chrono::DateTime<chrono::Utc> {
    chrono::DateTime::from_timestamp_millis((seconds * 1000.0) as i64).expect("a time of our days")
}

pub fn map(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    Value::Map(fields.into_iter().map(|(key, value)| (text(key), value)).collect())
}

pub fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

pub fn time(seconds: f64) -> Value {
    Value::Tag(1, Box::new(Value::Float(seconds)))
}

pub fn encoded(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("a value can be written to memory");
    bytes
}
