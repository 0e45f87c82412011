//! The ways by which a report arrives: the URL, and the topic.

use super::needs::lost_alerts;
use super::{DEPLOY, Doctor};
use crate::cli::function::{self, SNS};
use crate::cli::policy::{self, Lets};
use crate::cli::session::patience;
use crate::cli::sns::{self, Attributes};
use crate::cli::sqs;
use crate::cli::stack::Tries;
use crate::cli::text::plain;
use crate::site_fence::config::Config;

const NAME: &str = "way in";
/// What a request to a function URL has, see [the guide](https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html).
const AUTH_TYPE: &str = "lambda:functionurlauthtype";
const BY_URL: &str = "lambda:invokedviafunctionurl";

impl Doctor<'_> {
    /// The ways by which a report arrives.
    pub(super) async fn ways(&mut self, config: &Config) {
        if config.webhook.is_none() && config.topic.is_none() {
            let said = format!(
                "{} has neither a user of its URL nor a topic: no report is acted on",
                self.fence.name
            );
            return self.stack.findings.wrong(NAME, said, DEPLOY.to_owned());
        }
        if config.webhook.is_some() {
            self.url().await;
        }
        if let Some(topic) = &config.topic {
            self.topic(topic).await;
        }
    }

    async fn url(&mut self) {
        let Self { stack, fence, .. } = self;
        let url = match function::url(&stack.aws, &fence.name, patience()).await {
            Ok(url) => url,
            Err(failure) => return stack.findings.unknown(NAME, &failure),
        };
        let Some((url, is_open)) = url else {
            let said = format!("{} has no URL, which Alertmanager needs", fence.name);
            return stack.findings.wrong(NAME, said, stack.anew());
        };
        if !is_open {
            let said = format!("{url} wants signed requests, which Alertmanager does not send");
            return stack.findings.wrong(NAME, said, stack.anew());
        }
        let name = &fence.name;
        let by_url = [(AUTH_TYPE, "NONE"), (BY_URL, "true")];
        let lets = |action: &'static str| (action, policy::lets_anyone(&fence.policy, action, &by_url));
        let lets = ["lambda:InvokeFunctionUrl", "lambda:InvokeFunction"].map(lets);
        let mut is_well = true;
        match policy::lets_anyone(&fence.policy, "lambda:InvokeFunction", &[(BY_URL, "false")]) {
            Lets::Yes => {
                is_well = false;
                let said = format!(
                    "the policy of {name} lets every AWS account invoke it without its URL, and so without the password"
                );
                stack.findings.wrong(NAME, said, stack.anew());
            }
            Lets::Perhaps => {
                is_well = false;
                let said = format!(
                    "whether the policy of {name} lets others invoke it without its URL depends on conditions"
                );
                stack.findings.unknown(NAME, &said);
            }
            Lets::No | Lets::Denied(_) => {}
        }
        for (action, lets) in lets {
            let said = match lets {
                Lets::Yes => continue,
                Lets::No => format!("the policy of {name} does not let its URL do {action}"),
                Lets::Denied(sid) => format!("the statement {sid:?} of the policy of {name} denies {action}"),
                Lets::Perhaps => {
                    let said = format!(
                        "whether the policy of {name} lets its URL do {action} depends on conditions"
                    );
                    is_well = false;
                    stack.findings.unknown(NAME, &said);
                    continue;
                }
            };
            is_well = false;
            stack.findings.wrong(NAME, said, stack.anew());
        }
        if is_well {
            stack.findings.ok(NAME, format!("{url} lets Alertmanager in, with its password"));
        }
    }

    async fn topic(&mut self, topic: &str) {
        let Self { stack, fence, .. } = self;
        let subscriptions = match sns::subscriptions(&stack.aws, topic, patience()).await {
            Ok(subscriptions) => subscriptions,
            Err(failure) => return stack.findings.unknown(NAME, &failure),
        };
        let own = subscriptions.iter().find(|one| one.endpoint == fence.arn && one.arn.is_some());
        let is_there = own.is_some();
        let lets = matches!(fence.lets(SNS, topic), Lets::Yes | Lets::Perhaps);
        match (is_there, lets) {
            (true, true) => stack.findings.ok(NAME, format!("{topic} invokes {}", fence.name)),
            (false, _) => {
                let said = format!("{} does not subscribe to {topic}: no report arrives by it", fence.name);
                stack.findings.wrong(NAME, said, stack.anew());
            }
            (true, false) => {
                let said = format!("{} does not let {topic} invoke it", fence.name);
                stack.findings.wrong(NAME, said, stack.anew());
            }
        }
        if let Some(arn) = own.and_then(|own| own.arn.as_deref()) {
            match sns::attributes(&stack.aws, arn, patience()).await {
                Ok(Attributes { has_dead_letters, filter, .. }) => {
                    if !has_dead_letters {
                        let said = format!(
                            "the subscription of {} has no queue for what cannot be delivered: such an alert is lost",
                            fence.name
                        );
                        stack.findings.wrong(NAME, said, stack.anew());
                    }
                    if let Some(filter) = filter {
                        let said = format!(
                            "{} gets only those messages of {topic} that match {}",
                            fence.name,
                            plain(&filter.policy)
                        );
                        stack.findings.warn(NAME, said);
                    }
                }
                Err(failure) => stack.findings.unknown(NAME, &failure),
            }
        }
        let queue = format!("{}-lost-alerts", stack.name);
        match sqs::exists(&stack.aws, &queue, patience()).await {
            Ok(true) => {}
            Ok(false) => {
                let said = format!("{queue} does not exist: an alert that is not finished is lost");
                stack.findings.wrong(NAME, said, stack.anew());
            }
            Err(failure) => stack.findings.unknown(NAME, &failure),
        }
        let tries = Tries { again: 2, seconds: 900, what: "an alert" };
        let to = lost_alerts(stack);
        stack.failures(fence, &tries, to.as_deref()).await;
    }
}
