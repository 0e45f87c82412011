//! The mute rules, which hold the actions of alarms back.

use std::collections::BTreeSet;

use aws_sdk_cloudwatch::types::{AlarmMuteRuleStatus, AlarmMuteRuleSummary};
use chrono::{DateTime, Utc};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::{CloudWatch, time};
use crate::remote::aws::{Call, Failure, Kind, pages, send};
use crate::remote::deadline::Deadline;

const LIST: Call = Call::new("cloudwatch:ListAlarmMuteRules", "the alarm");
const GET: Call = Call::new("cloudwatch:GetAlarmMuteRule", "the mute rule");

/// How many rules are read at once.
const AT_ONCE: usize = 8;

/// The name in a mute rule's ARN.
#[must_use]
pub fn rule_name(arn: &str) -> Option<&str> {
    // A name may have colons.
    arn.split_once(":alarm-mute-rule:").map(|(_, name)| name)
}

/// A mute rule that is active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MuteRule {
    /// Its name.
    pub name: String,
    /// The alarms whose actions it holds back.
    pub alarms: BTreeSet<String>,
    /// When it expires, if it does.
    pub until: Option<DateTime<Utc>>,
    /// What its author says of it.
    pub description: String,
}

// === impl CloudWatch ===

impl CloudWatch {
    /// Whether a mute rule is active for this alarm.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn is_muted(&self, alarm: &str, deadline: Deadline) -> Result<bool, Failure> {
        Ok(!self.list(Some(alarm), deadline).await?.is_empty())
    }

    /// The mute rules that are active; none from an emulator that does not know them.
    ///
    /// # Errors
    /// A call failed and did not pass before the deadline.
    pub async fn mute_rules(&self, deadline: Deadline) -> Result<Vec<MuteRule>, Failure> {
        let listed = match self.list(None, deadline).await {
            Err(unknown) if unknown.is_unknown_call() => return Ok(Vec::new()),
            listed => listed?,
        };
        let names = listed.iter().filter_map(|rule| rule.alarm_mute_rule_arn().and_then(rule_name));
        let rules = names.map(async |name| match self.mute_rule(name.to_owned(), deadline).await {
            Ok(rule) => Ok(Some(rule)),
            // It was deleted in between.
            Err(failure) if failure.kind() == Kind::NotFound => Ok(None),
            Err(failure) => Err(failure),
        });
        let rules: Vec<_> = stream::iter(rules).buffered(AT_ONCE).try_collect().await?;
        Ok(rules.into_iter().flatten().collect())
    }

    async fn mute_rule(&self, name: String, deadline: Deadline) -> Result<MuteRule, Failure> {
        let get = deadline.persist(async |time| {
            let get = self.client().get_alarm_mute_rule().alarm_mute_rule_name(&name);
            send(GET, time, get.send()).await
        });
        let rule = get.await?;
        let alarms = rule.mute_targets().map(|targets| targets.alarm_names().iter().cloned().collect());
        Ok(MuteRule {
            alarms: alarms.unwrap_or_default(),
            until: rule.expire_date().and_then(time),
            description: rule.description().unwrap_or_default().to_owned(),
            name,
        })
    }

    /// The rules that are active for this alarm, or with `None` for any.
    async fn list(
        &self,
        alarm: Option<&str>,
        deadline: Deadline,
    ) -> Result<Vec<AlarmMuteRuleSummary>, Failure> {
        let rules = pages(deadline, async |time, token| {
            let request = self.client().list_alarm_mute_rules().set_alarm_name(alarm.map(str::to_owned));
            let request = request.statuses(AlarmMuteRuleStatus::Active).set_next_token(token);
            let page = send(LIST, time, request.send()).await?;
            Ok((page.alarm_mute_rule_summaries.unwrap_or_default(), page.next_token))
        });
        let mut rules = rules.await?;
        rules.retain(|rule| rule.status().is_none_or(|status| *status == AlarmMuteRuleStatus::Active));
        Ok(rules)
    }
}
