//! The queue of the alarms that SNS could not deliver to `lock`.

use super::LAST_RUNS_MINUTES;
use crate::cli::session::patience;
use crate::cli::sqs;
use crate::cli::stack::Stack;
use crate::cli::text::time;
use crate::failover_lock::cloudwatch::CloudWatch;

const NAME: &str = "dead letters";

impl Stack<'_> {
    pub(super) async fn dead_letters(&mut self) {
        let queue = format!("{}-dead-letters", self.name);
        match sqs::exists(&self.aws, &queue, patience()).await {
            Ok(true) => {}
            Ok(false) => {
                let said = format!("{queue} does not exist: an alarm that SNS cannot deliver is lost");
                return self.findings.wrong(NAME, said, self.anew());
            }
            // What is in it may be readable all the same.
            Err(failure) => self.findings.unknown(NAME, &failure),
        }
        let found = CloudWatch::new(&self.aws)
            .newest(
                "AWS/SQS",
                "ApproximateNumberOfMessagesVisible",
                ("QueueName", &queue),
                LAST_RUNS_MINUTES,
                patience(),
            )
            .await;
        match found {
            Err(failure) => self.findings.unknown(NAME, &failure),
            Ok(Some((at, messages))) if messages > 0.0 => self.findings.wrong(
                NAME,
                format!(
                    "{queue} has {messages} alarms that did not reach {}-lock, as of {}",
                    self.name,
                    time(at)
                ),
                format!("docs/runbook.md#{}", self.in_runbook("dead-letters")),
            ),
            Ok(Some((at, _))) => self.findings.ok(NAME, format!("{queue} was empty at {}", time(at))),
            Ok(None) => {
                self.findings.ok(NAME, format!("{queue} has no datapoint of a day, as an idle queue has"));
            }
        }
    }
}
