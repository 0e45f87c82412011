//! CloudWatch's alarm mute rules, for the stand-in: kept as they are put, and active by the clock.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use ciborium::Value;

use super::cloudwatch::{Alarm, encoded, error, map, text, time};

/// The rules that were put, by their names.
#[derive(Default)]
pub struct MuteRules(pub BTreeMap<String, MuteRule>);

/// One that is active once, as `at(…)` says.
#[derive(Clone, Debug)]
pub struct MuteRule {
    pub alarms: Vec<String>,
    pub description: String,
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

// === impl MuteRules ===

impl MuteRules {
    /// What CloudWatch answers to a call about mute rules, and what was asked.
    pub fn answer(
        &mut self,
        alarms: &BTreeMap<String, Alarm>,
        operation: &str,
        request: &Value,
    ) -> Option<(u16, Vec<u8>, String)> {
        let text_of = |name: &str| field(request, name).and_then(Value::as_text).map(str::to_owned);
        let name = text_of("AlarmMuteRuleName").or(text_of("Name")).unwrap_or_default();
        let done = encoded(&map([]));
        Some(match operation {
            "ListAlarmMuteRules" => {
                let alarm = text_of("AlarmName");
                let wanted =
                    field(request, "Statuses").and_then(Value::as_array).cloned().unwrap_or_default();
                // A page may be empty, and not be the last one.
                let is_first = field(request, "NextToken").is_none();
                let chosen = self.all(alarms).into_iter().filter(|(_, rule)| {
                    let targets = alarm.as_ref().is_none_or(|alarm| rule.alarms.contains(alarm));
                    targets && (wanted.is_empty() || wanted.contains(&text(rule.status())))
                });
                (200, listed(&chosen.collect(), is_first), alarm.unwrap_or_default())
            }
            "PutAlarmMuteRule" => match MuteRule::read(request) {
                Ok(rule) => {
                    self.0.insert(name.clone(), rule);
                    (200, done, name)
                }
                Err(wrong) => (400, error("ValidationError", wrong), name),
            },
            "GetAlarmMuteRule" | "DeleteAlarmMuteRule" => match self.all(alarms).remove(&name) {
                None => (404, error("ResourceNotFoundException", &format!("no mute rule {name}")), name),
                Some(rule) if operation == "GetAlarmMuteRule" => (200, encoded(&rule.describe(&name)), name),
                Some(_) => {
                    self.0.remove(&name);
                    (200, done, name)
                }
            },
            _ => return None,
        })
    }

    /// Those, and one on every alarm that is muted otherwise.
    pub fn all(&self, alarms: &BTreeMap<String, Alarm>) -> BTreeMap<String, MuteRule> {
        let mut all = self.0.clone();
        let muted = alarms.iter().filter(|(_, alarm)| alarm.muted).map(|(name, _)| name.clone());
        let muted: Vec<_> = muted.collect();
        if !muted.is_empty() {
            let (from, until) = (DateTime::UNIX_EPOCH, DateTime::<Utc>::MAX_UTC);
            let rule = MuteRule { alarms: muted, description: "every night".to_owned(), from, until };
            all.insert("maintenance".to_owned(), rule);
        }
        all
    }
}

// === impl MuteRule ===

impl MuteRule {
    /// Reads a request of `PutAlarmMuteRule`.
    pub fn read(request: &Value) -> Result<Self, &'static str> {
        let text = |value: Option<&Value>| value.and_then(Value::as_text).map(str::to_owned);
        let schedule = field(request, "Rule").and_then(|rule| field(rule, "Schedule"));
        let schedule = schedule.ok_or("a rule needs a schedule")?;
        let expression = text(field(schedule, "Expression")).ok_or("a schedule needs an expression")?;
        let at = expression.strip_prefix("at(").and_then(|at| at.strip_suffix(')'));
        let from = at.and_then(|at| NaiveDateTime::parse_from_str(at, "%Y-%m-%dT%H:%M").ok());
        let from = from.ok_or("an expression is at(yyyy-MM-ddThh:mm)")?.and_utc();
        let minutes = text(field(schedule, "Duration"));
        let minutes = minutes.and_then(|text| text.strip_prefix("PT")?.strip_suffix('M')?.parse().ok());
        let length = TimeDelta::minutes(minutes.ok_or("a duration is PT…M")?);
        if !(TimeDelta::minutes(1)..=TimeDelta::days(15)).contains(&length) {
            return Err("a duration is from PT1M to P15D");
        }
        let targets =
            field(request, "MuteTargets").and_then(|targets| field(targets, "AlarmNames")?.as_array());
        let alarms: Vec<_> = targets.into_iter().flatten().filter_map(|name| text(Some(name))).collect();
        if alarms.is_empty() || alarms.len() > 100 {
            return Err("a rule has 1 to 100 alarms");
        }
        let description = text(field(request, "Description")).unwrap_or_default();
        Ok(Self { alarms, description, from, until: from + length })
    }

    pub fn status(&self) -> &'static str {
        match Utc::now() {
            now if now < self.from => "SCHEDULED",
            now if now < self.until => "ACTIVE",
            _ => "EXPIRED",
        }
    }

    pub fn describe(&self, name: &str) -> Value {
        let targets = self.alarms.iter().map(|name| text(name)).collect();
        let mut fields = vec![
            ("Name", text(name)),
            ("Description", text(&self.description)),
            ("MuteTargets", map([("AlarmNames", Value::Array(targets))])),
            ("Status", text(self.status())),
        ];
        if self.until < DateTime::<Utc>::MAX_UTC {
            #[expect(clippy::cast_precision_loss, reason = "seconds of our days")]
            fields.push(("ExpireDate", time(self.until.timestamp() as f64)));
        }
        map(fields)
    }
}

/// These mute rules: on the second page.
fn listed(rules: &BTreeMap<String, MuteRule>, is_first: bool) -> Vec<u8> {
    if is_first && !rules.is_empty() {
        let none = Value::Array(Vec::new());
        return encoded(&map([("AlarmMuteRuleSummaries", none), ("NextToken", text("2"))]));
    }
    let summary = |(name, rule): (&String, &MuteRule)| {
        let arn = format!("arn:aws:cloudwatch:us-east-1:123456789012:alarm-mute-rule:{name}");
        map([("AlarmMuteRuleArn", text(&arn)), ("Status", text(rule.status()))])
    };
    encoded(&map([("AlarmMuteRuleSummaries", Value::Array(rules.iter().map(summary).collect()))]))
}

fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let mut fields = value.as_map().into_iter().flatten();
    fields.find(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value)
}
