//! CloudWatch's alarms, for the stand-in: `DescribeAlarms` and `DescribeAlarmsForMetric` in the
//! protocol that the SDK speaks (Smithy RPC v2 with CBOR).

use std::collections::BTreeMap;

use ciborium::Value;

/// An alarm as the stand-in keeps it.
#[derive(Clone, Debug)]
pub struct Alarm {
    pub state: &'static str,
    /// Seconds since 1970.
    pub changed_at: f64,
    pub actions_enabled: bool,
    pub actions: bool,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    /// On this metric of `AWS/Route53`, of this health check.
    Metric(&'static str, String),
    /// Metric math over `HealthCheckStatus` of these health checks.
    Math(Vec<String>),
    /// Built from these alarms.
    Composite(Vec<String>),
}

// === impl Alarm ===

impl Alarm {
    /// The documented alarm of this health check.
    pub fn on(health_check_id: &str, state: &'static str, changed_at: f64) -> Self {
        let kind = Kind::Metric("HealthCheckStatus", health_check_id.to_owned());
        Self { state, changed_at, actions_enabled: true, actions: true, kind }
    }

    pub fn of(kind: Kind, state: &'static str) -> Self {
        Self { kind, ..Self::on("", state, 0.0) }
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
        ];
        let actions =
            if self.actions { vec![text("arn:aws:sns:us-east-1:123456789012:alarms")] } else { vec![] };
        fields.push(("AlarmActions", Value::Array(actions)));
        match &self.kind {
            Kind::Metric(metric, id) => fields.extend(watched(metric, id)),
            Kind::Math(ids) => {
                let query = |id: &String| {
                    let stat = map([
                        ("Metric", map(watched("HealthCheckStatus", id))),
                        ("Period", Value::from(60)),
                        ("Stat", text("Minimum")),
                    ]);
                    map([("Id", text("m")), ("MetricStat", stat)])
                };
                fields.push(("Metrics", Value::Array(ids.iter().map(query).collect())));
            }
            Kind::Composite(children) => fields.push(("AlarmRule", text(&children.join(" OR ")))),
        }
        map(fields)
    }
}

/// What CloudWatch answers: the status and the body; and what was asked, for the list of calls.
pub fn answer(alarms: &BTreeMap<String, Alarm>, operation: &str, body: &[u8]) -> (u16, Vec<u8>, String) {
    let request: Value = ciborium::from_reader(body).unwrap_or(Value::Null);
    let field = |name: &str| {
        let fields = request.as_map().into_iter().flatten();
        fields.filter(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value.clone()).next()
    };
    let texts = |value: Option<Value>| -> Vec<String> {
        let items = value.and_then(|value| value.into_array().ok()).unwrap_or_default();
        items.into_iter().filter_map(|item| item.into_text().ok()).collect()
    };
    let (said, chosen): (String, Vec<_>) = match operation {
        "DescribeAlarmsForMetric" => {
            let metric = field("MetricName").and_then(|name| name.into_text().ok()).unwrap_or_default();
            // As one emulator does, alarms of other checks are told too: whoever asks must look.
            let on = |alarm: &&Alarm| matches!(&alarm.kind, Kind::Metric(name, _) if *name == metric);
            (metric.clone(), alarms.iter().filter(|(_, alarm)| on(alarm)).collect())
        }
        "DescribeAlarms" => {
            let parent = field("ChildrenOfAlarmName").and_then(|name| name.into_text().ok());
            let names = match parent.as_ref().map(|parent| alarms.get(parent).map(|alarm| &alarm.kind)) {
                None => texts(field("AlarmNames")),
                Some(Some(Kind::Composite(children))) => children.clone(),
                Some(_) => Vec::new(),
            };
            let said = parent.map_or_else(|| names.join(","), |parent| format!("children of {parent}"));
            (said, alarms.iter().filter(|(name, _)| names.contains(name)).collect())
        }
        _ => return (400, encoded(&map([("__type", text("UnknownOperationException"))])), String::new()),
    };
    let is_composite = |alarm: &Alarm| matches!(alarm.kind, Kind::Composite(_));
    let (composite, metric): (Vec<_>, Vec<_>) =
        chosen.into_iter().partition(|(_, alarm)| is_composite(alarm));
    let list = |alarms: Vec<(&String, &Alarm)>| {
        Value::Array(alarms.into_iter().map(|(name, alarm)| alarm.describe(name)).collect())
    };
    (200, encoded(&map([("MetricAlarms", list(metric)), ("CompositeAlarms", list(composite))])), said)
}

/// One of CloudWatch's errors.
pub fn error(code: &str, message: &str) -> Vec<u8> {
    encoded(&map([("__type", text(code)), ("message", text(message))]))
}

fn watched(metric: &'static str, health_check_id: &str) -> Vec<(&'static str, Value)> {
    let dimension = map([("Name", text("HealthCheckId")), ("Value", text(health_check_id))]);
    vec![
        ("Namespace", text("AWS/Route53")),
        ("MetricName", text(metric)),
        ("Dimensions", Value::Array(vec![dimension])),
    ]
}

fn map(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    Value::Map(fields.into_iter().map(|(key, value)| (text(key), value)).collect())
}

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

fn time(seconds: f64) -> Value {
    Value::Tag(1, Box::new(Value::Float(seconds)))
}

fn encoded(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("a value can be written to memory");
    bytes
}
