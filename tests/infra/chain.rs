//! The whole chain on an emulator, set up by `infra/deploy` with the template as it is: metric →
//! alarm → topic → function → health check, and back; and the schedule, if a notification is lost.

use std::time::Duration;

use tokio::time::sleep;

use crate::support::emulator::Emulator;
use crate::support::lock::LOCKED;
use crate::support::primary::Primary;

/// How often the state is read while the test waits for a change; each read is a run of the AWS CLI.
const LOOKS: usize = 300;
/// The same while the test waits for the schedule, which runs once a minute.
const LOOKS_AT_THE_SCHEDULE: usize = 400;
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(400);
const ALARM: &str = "failover-primary-unhealthy";

struct Chain {
    aws: Emulator,
    primary: Primary,
    check: String,
}

// === impl Chain ===

impl Chain {
    /// Deploys the guard while the primary is not up yet, which must not lock it, and again when it is.
    async fn start() -> Self {
        let aws = Emulator::own_ministack().await;
        let primary = Primary::start("/lb-check").await;
        let check = aws.health_check(primary.address.port()).await;
        let chain = Self { aws, primary, check };

        chain.primary.set_up(false);
        chain.aws.report(&chain.check, "0", 120).await;
        // An alarm that went off recovers at its period's end.
        let options = format!("--health-check {} --email sre@example.com --set AlarmPeriod=10", chain.check);
        let (status, said) = chain.aws.deploy(&options).await;
        assert_eq!(status, Some(3), "{said}");
        assert!(said.contains("NOT GUARDED YET"), "{said}");
        chain.set_alarm("ALARM").await;
        let outcome = chain.reconcile().await;
        assert!(outcome.contains("actions_disabled"), "{outcome}");
        // An alarm without data is OK, whatever the state of the primary.
        chain.set_alarm("OK").await;
        let (status, said) = chain.aws.deploy("").await;
        assert_eq!(status, Some(3), "{said}");
        assert_eq!(chain.path().await, "/lb-check");

        chain.primary.set_up(true);
        chain.aws.report(&chain.check, "1", 0).await;
        let (status, said) = chain.aws.deploy("").await;
        assert_eq!(status, Some(0), "{said}");
        assert!(said.contains(&format!("{} is armed. ", chain.check)), "{said}");
        chain
    }

    /// Reports as Route 53's checkers do, 1 for healthy and 0 for unhealthy, until the alarm has
    /// this state: its period must pass before an older report no longer counts.
    async fn report_until(&self, value: &str, state: &str) {
        for _ in 0..LOOKS {
            self.aws.report(&self.check, value, 0).await;
            if self.alarm_state().await == state {
                return;
            }
            sleep(PAUSE).await;
        }
        panic!("the alarm does not become {state}");
    }

    async fn set_alarm(&self, state: &str) {
        let set = ["cloudwatch", "set-alarm-state", "--alarm-name", ALARM, "--state-value", state];
        self.aws.aws(&[&set[..], &["--state-reason", "test"]].concat()).await;
    }

    async fn alarm_state(&self) -> String {
        let query = ["--alarm-names", ALARM, "--query", "MetricAlarms[0].StateValue", "--output", "text"];
        let state = self.aws.aws(&[&["cloudwatch", "describe-alarms"], &query[..]].concat()).await;
        state.as_str().unwrap_or_default().to_owned()
    }

    /// The value of this output of the stack; if it is a command, its result.
    async fn run_output(&self, name: &str) -> String {
        let query = format!("Stacks[0].Outputs[?OutputKey=='{name}'].OutputValue");
        let describe = ["cloudformation", "describe-stacks", "--stack-name", "failover", "--output", "text"];
        let command = self.aws.aws(&[&describe[..], &["--query", &query]].concat()).await;
        let (_, printed) = self.aws.bash(command.as_str().expect("the stack has the output"), &[]).await;
        printed.trim().to_owned()
    }

    async fn path(&self) -> String {
        self.run_output("Status").await
    }

    async fn path_becomes(&self, path: &str, looks: usize) {
        let mut last = String::new();
        for _ in 0..looks {
            last = self.path().await;
            if last == path {
                return;
            }
            sleep(PAUSE).await;
        }
        panic!("the path stays {last} and does not become {path}; lock said:\n{}", self.log("lock").await);
    }

    async fn log(&self, handler: &str) -> String {
        let group = format!("/aws/lambda/failover-{handler}");
        let query = ["--log-group-name", &group, "--query", "events[].message"];
        let filter = ["logs", "filter-log-events"];
        self.aws.try_aws(&[&filter[..], &query].concat()).await.unwrap_or_default().to_string()
    }

    async fn log_says(&self, handler: &str, text: &str, looks: usize) {
        for _ in 0..looks {
            if self.log(handler).await.contains(text) {
                return;
            }
            sleep(PAUSE).await;
        }
        panic!("{handler} does not say {text}:\n{}", self.log(handler).await);
    }

    /// The next tick, ahead of time.
    async fn reconcile(&self) -> String {
        let invoke = ["lambda", "invoke", "--function-name", "failover-reconcile:live", "/dev/stdout"];
        self.aws.aws(&invoke).await.to_string()
    }
}

#[tokio::test]
async fn a_metric_locks_the_primary_and_only_a_person_brings_it_back() {
    let chain = Chain::start().await;
    assert_eq!(chain.path().await, "/lb-check");

    chain.primary.set_up(false);
    chain.report_until("0", "ALARM").await;
    chain.path_becomes(LOCKED, LOOKS).await;

    let refused = chain.run_output("RestoreCommand").await;
    assert!(refused.contains("/lb-check answers 503"), "{refused}");

    chain.primary.set_up(true);
    chain.report_until("1", "OK").await;
    assert_eq!(chain.path().await, LOCKED);

    let restored = chain.run_output("RestoreCommand").await;
    assert!(restored.contains("\"restored\""), "{restored}");
    assert_eq!(chain.path().await, "/lb-check");

    chain.report_until("0", "ALARM").await;
    chain.path_becomes(LOCKED, LOOKS).await;

    // The notification is lost: the schedule makes up for it, once.
    chain.run_output("RestoreCommand").await;
    chain.report_until("1", "OK").await;
    let subscription =
        "aws sns list-subscriptions --query \"Subscriptions[?Protocol=='lambda'].SubscriptionArn\"";
    chain
        .aws
        .bash(&format!("aws sns unsubscribe --subscription-arn \"$({subscription} --output text)\""), &[])
        .await;
    chain.report_until("0", "ALARM").await;
    chain.path_becomes(LOCKED, LOOKS_AT_THE_SCHEDULE).await;
    chain.log_says("reconcile", r#"\"outcome\":\"locked\""#, LOOKS).await;
    let by_hand = ["--health-check-id", &chain.check, "--resource-path", "/lb-check"];
    chain.aws.aws(&[&["route53", "update-health-check"], &by_hand[..]].concat()).await;
    let reconciled = chain.reconcile().await;
    assert!(reconciled.contains("undone_by_hand"), "{reconciled}");
    assert_eq!(chain.path().await, "/lb-check");
}
