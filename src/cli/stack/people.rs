//! Which of the alarms reach the subscribers of a topic.

use aws_config::Region;
use aws_sdk_cloudwatch::types::MetricAlarm;

use super::Stack;
use crate::cli::function;
use crate::cli::session::patience;
use crate::cli::sns::{self, Subscription};
use crate::cli::sqs;
use crate::cli::text::plain;
use crate::remote::arn::Arn;

const NAME: &str = "people";

impl Stack<'_> {
    /// The queues and functions of this account, of these subscribers, that do not exist any more.
    pub(super) async fn gone(&mut self, confirmed: &[&Subscription]) -> Vec<String> {
        let mut gone = Vec::new();
        let account = Arn::parse(self.arn).map(|arn| arn.account);
        for Subscription { endpoint, .. } in confirmed {
            let Some(arn) = Arn::parse(endpoint).filter(|arn| Some(arn.account) == account) else { continue };
            let aws = self.aws.to_builder().region(Region::new(arn.region.to_owned())).build();
            let is_there = match arn.service {
                "sqs" => sqs::exists(&aws, arn.resource, patience()).await,
                "lambda" => {
                    function::variables(&aws, endpoint, patience()).await.map(|found| found.is_some())
                }
                _ => continue,
            };
            match is_there {
                Ok(true) => {}
                Ok(false) => gone.push(endpoint.clone()),
                Err(failure) => self.findings.unknown(NAME, &failure),
            }
        }
        gone
    }

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
