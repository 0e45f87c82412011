//! CloudWatch's mute rules in failoverctl's terms, as `pause` makes and deletes them.

use aws_config::SdkConfig;
use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::primitives::DateTime as TimeOf;
use aws_sdk_cloudwatch::types::{AlarmMuteRuleStatus, MuteTargets, Rule, Schedule};
use chrono::{DateTime, TimeDelta, Utc};

use super::session::if_there;
use crate::failover_lock::cloudwatch::rule_name;
use crate::remote::aws::{Call, Failure, pages, send};
use crate::remote::deadline::Deadline;

/// What the names of the rules that `pause` makes begin with. The id of the check and the time follow.
pub(super) const PAUSE: &str = "failover-pause-";

/// The mute rules of an account and Region.
pub(super) struct MuteRules(Client);

/// A rule to make.
pub(super) struct NewRule<'a> {
    pub name: &'a str,
    pub alarms: Vec<String>,
    /// A whole minute: a schedule has no seconds.
    pub from: DateTime<Utc>,
    pub minutes: i64,
    pub description: String,
}

// === impl MuteRules ===

impl MuteRules {
    pub fn new(aws: &SdkConfig) -> Self {
        Self(Client::new(aws))
    }

    /// The names of the rules of this alarm, or with `None` of all, that are active, or are to be, in the order of their names.
    pub async fn of(&self, alarm: Option<&str>, deadline: Deadline) -> Result<Vec<String>, Failure> {
        let call = Call::new("cloudwatch:ListAlarmMuteRules", "the alarm");
        let rules = pages(deadline, async |time, token| {
            let list =
                self.0.list_alarm_mute_rules().set_alarm_name(alarm.map(str::to_owned)).set_next_token(token);
            let list = list.statuses(AlarmMuteRuleStatus::Active).statuses(AlarmMuteRuleStatus::Scheduled);
            let page = send(call, time, list.send()).await?;
            Ok((page.alarm_mute_rule_summaries.unwrap_or_default(), page.next_token))
        });
        let rules = rules.await?;
        let arns = rules.iter().filter_map(|rule| rule.alarm_mute_rule_arn().and_then(rule_name));
        let mut names: Vec<_> = arns.map(str::to_owned).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Makes a rule, which replaces one of the same name.
    pub async fn put(&self, rule: &NewRule<'_>, deadline: Deadline) -> Result<(), Failure> {
        let call = Call::new("cloudwatch:PutAlarmMuteRule", "the mute rule");
        let until = rule.from + TimeDelta::minutes(rule.minutes);
        let targets = MuteTargets::builder().set_alarm_names(Some(rule.alarms.clone())).build();
        // https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_Schedule.html
        let schedule = Schedule::builder()
            .expression(rule.from.format("at(%Y-%m-%dT%H:%M)").to_string())
            .duration(format!("PT{}M", rule.minutes))
            .timezone("UTC")
            .build();
        let put = deadline.persist(async |time| {
            let put = self.0.put_alarm_mute_rule().name(rule.name).description(&rule.description);
            let put =
                put.mute_targets(targets.clone()).rule(Rule::builder().schedule(schedule.clone()).build());
            send(call, time, put.expire_date(TimeOf::from_secs(until.timestamp())).send()).await
        });
        put.await.map(drop)
    }

    /// Whether this rule is active.
    pub async fn is_active(&self, name: &str, deadline: Deadline) -> Result<bool, Failure> {
        let call = Call::new("cloudwatch:GetAlarmMuteRule", "the mute rule");
        let rule = deadline.persist(async |time| {
            send(call, time, self.0.get_alarm_mute_rule().alarm_mute_rule_name(name).send()).await
        });
        Ok(if_there(rule.await)?.is_some_and(|rule| rule.status() == Some(&AlarmMuteRuleStatus::Active)))
    }

    /// Deletes a rule, if it is there.
    pub async fn delete(&self, name: &str, deadline: Deadline) -> Result<(), Failure> {
        let call = Call::new("cloudwatch:DeleteAlarmMuteRule", "the mute rule");
        let deleted = deadline.persist(async |time| {
            send(call, time, self.0.delete_alarm_mute_rule().alarm_mute_rule_name(name).send()).await
        });
        if_there(deleted.await).map(drop)
    }

    /// The names of the composite alarms over this one.
    pub async fn above(&self, alarm: &str, deadline: Deadline) -> Result<Vec<String>, Failure> {
        let call = Call::new("cloudwatch:DescribeAlarms", "the alarm");
        let parents = pages(deadline, async |time, token| {
            let list = self.0.describe_alarms().parents_of_alarm_name(alarm).set_next_token(token);
            let page = send(call, time, list.send()).await?;
            Ok((page.composite_alarms.unwrap_or_default(), page.next_token))
        });
        Ok(parents.await?.into_iter().filter_map(|parent| parent.alarm_name).collect())
    }
}
