//! Which of the alarms reach the subscribers of a topic.

use aws_sdk_cloudwatch::types::MetricAlarm;

use super::Stack;
use crate::cli::session::patience;
use crate::cli::sns::{self, Subscription};
use crate::cli::text::plain;

const NAME: &str = "people";

impl Stack<'_> {
    /// Finds the alarms that the filters of these confirmed subscriptions keep out.
    pub(super) async fn notified(
        &mut self,
        topic: &str,
        confirmed: &[&Subscription],
        alarms: &[MetricAlarm],
    ) {
        let notifies = |alarm: &&MetricAlarm| alarm.alarm_actions().iter().any(|action| action == topic);
        let names: Vec<_> = alarms.iter().filter(notifies).filter_map(MetricAlarm::alarm_name).collect();
        let listed = |lost: &[&str]| {
            if lost.len() == names.len() { "any of the alarms".to_owned() } else { lost.join(" ") }
        };
        let (mut lost_by_all, mut remedy) = (names.clone(), None);
        for Subscription { protocol, endpoint, arn } in confirmed {
            let arn = arn.as_deref().unwrap_or_default();
            let filter = match sns::attributes(&self.aws, arn, patience()).await {
                Ok(attributes) => attributes.filter,
                Err(failure) => {
                    lost_by_all.clear();
                    self.findings.unknown(NAME, &failure);
                    continue;
                }
            };
            let Some(filter) = filter else {
                lost_by_all.clear();
                self.findings.ok(NAME, format!("{topic} notifies {protocol} {endpoint}"));
                continue;
            };
            let policy = plain(&filter.policy);
            let passes = |alarm: &&str| filter.passes(&sns::message(topic, alarm));
            let lost: Vec<_> = names.iter().copied().filter(|alarm| passes(alarm) == Some(false)).collect();
            lost_by_all.retain(|alarm| lost.contains(alarm));
            if names.iter().any(|alarm| passes(alarm).is_none()) {
                let said =
                    format!("{protocol} {endpoint} gets only those messages of {topic} that match {policy}");
                self.findings.warn(NAME, said);
            }
            if lost.is_empty() {
                self.findings
                    .ok(NAME, format!("{topic} notifies {protocol} {endpoint}, by its filter {policy}"));
                continue;
            }
            let said =
                format!("{protocol} {endpoint} is not notified of {}, by its filter {policy}", listed(&lost));
            self.findings.warn(NAME, said);
            remedy = remedy.or_else(|| {
                Some(format!(
                    "aws sns set-subscription-attributes --region {} --subscription-arn {arn} --attribute-name FilterPolicy \
                     --attribute-value '{{}}'",
                    self.region
                ))
            });
        }
        // Whose filter it is, and why, this does not know.
        if let Some(remedy) = remedy.filter(|_| !lost_by_all.is_empty()) {
            let said = format!(
                "no one is notified of {}: the filters of {topic} keep that out",
                listed(&lost_by_all)
            );
            self.findings.wrong(NAME, said, format!("correct a filter, or remove it: {remedy}"));
        }
    }
}
