//! The whole chain on an emulator: metric → alarm → topic → function → health check, and back.

mod support;

use std::path::Path;

use serde_json::json;
use support::LOCKED;
use support::emulator::Emulator;
use support::primary::Primary;

/// How often something that happens by itself is looked for; each look is a run of the AWS CLI.
const LOOKS: usize = 60;

/// The documented set-up, with a function for each handler.
struct Chain {
    aws: Emulator,
    primary: Primary,
    check: String,
    subscription: String,
}

// === impl Chain ===

impl Chain {
    async fn start() -> Self {
        let aws = Emulator::ministack().await;
        let primary = Primary::start("/lb-check").await;
        let package =
            format!("fileb://{}", aws.package(Path::new(env!("CARGO_BIN_EXE_failover-lock"))).display());

        let config =
            format!("Type=HTTP,IPAddress=127.0.0.1,Port={},ResourcePath=/lb-check", primary.address.port());
        let create = ["--caller-reference", "primary", "--health-check-config", &config];
        let check = aws.aws(&[&["route53", "create-health-check"], &create[..]].concat()).await;
        let check = check["HealthCheck"]["Id"].as_str().expect("a health check has an id").to_owned();

        let topic = aws.aws(&["sns", "create-topic", "--name", &check]).await["TopicArn"].to_string();
        let topic = topic.trim_matches('"');
        let trust = json!({ "Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Principal": { "Service": "lambda.amazonaws.com" }, "Action": "sts:AssumeRole" }] });
        let role = ["iam", "create-role", "--role-name", "failover-lock", "--assume-role-policy-document"];
        let role = aws.aws(&[&role[..], &[&trust.to_string()]].concat()).await["Role"]["Arn"].to_string();
        let role = role.trim_matches('"');
        for handler in ["lock", "restore", "reconcile"] {
            let name = format!("failover-{handler}");
            let create = ["lambda", "create-function", "--function-name", &name, "--handler", handler];
            let code =
                ["--runtime", "provided.al2023", "--role", role, "--zip-file", &package, "--timeout", "30"];
            let variables = format!("Variables={{GUARDED_HEALTH_CHECKS={check}}}");
            aws.aws(&[&create[..], &code, &["--environment", &variables]].concat()).await;
        }
        let function = "arn:aws:lambda:us-east-1:000000000000:function:failover-lock";
        let permission =
            ["lambda", "add-permission", "--function-name", "failover-lock", "--statement-id", "sns"];
        let from_topic =
            ["--action", "lambda:InvokeFunction", "--principal", "sns.amazonaws.com", "--source-arn", topic];
        aws.aws(&[&permission[..], &from_topic].concat()).await;
        let subscribe = ["sns", "subscribe", "--protocol", "lambda", "--topic-arn", topic];
        let subscription = aws.aws(&[&subscribe[..], &["--notification-endpoint", function]].concat()).await;
        let subscription =
            subscription["SubscriptionArn"].as_str().expect("a subscription has a name").to_owned();

        let dimension = format!("Name=HealthCheckId,Value={check}");
        let alarm = ["cloudwatch", "put-metric-alarm", "--alarm-name", &check, "--dimensions", &dimension];
        // OK goes to the topic as well, as in many set-ups: the function has to leave it alone.
        let actions = ["--actions-enabled", "--alarm-actions", topic, "--ok-actions", topic];
        let metric =
            ["--namespace", "AWS/Route53", "--metric-name", "HealthCheckStatus", "--statistic", "Minimum"];
        let threshold = ["--period", "10", "--evaluation-periods", "1", "--threshold", "1.0"];
        let missing = ["--comparison-operator", "LessThanThreshold", "--treat-missing-data", "notBreaching"];
        aws.aws(&[&alarm[..], &actions, &metric, &threshold, &missing].concat()).await;
        Self { aws, primary, check, subscription }
    }

    /// Reports as Route 53's checkers do, 1 for healthy and 0 for unhealthy, until the alarm has
    /// this state: its period must pass before an older report no longer counts.
    async fn report_until(&self, value: &str, state: &str) {
        for _ in 0..LOOKS {
            self.report(value).await;
            if self.alarm_state().await == state {
                return;
            }
        }
        panic!("the alarm does not become {state}");
    }

    async fn report(&self, value: &str) {
        let dimension = format!("HealthCheckId={}", self.check);
        let metric =
            ["--namespace", "AWS/Route53", "--metric-name", "HealthCheckStatus", "--dimensions", &dimension];
        self.aws.aws(&[&["cloudwatch", "put-metric-data"], &metric[..], &["--value", value]].concat()).await;
    }

    async fn alarm_state(&self) -> String {
        let query =
            ["--alarm-names", &self.check, "--query", "MetricAlarms[0].StateValue", "--output", "text"];
        let state = self.aws.aws(&[&["cloudwatch", "describe-alarms"], &query[..]].concat()).await;
        state.as_str().unwrap_or_default().to_owned()
    }

    async fn path(&self) -> String {
        let query = ["--query", "HealthCheck.HealthCheckConfig.ResourcePath", "--output", "text"];
        let get = ["route53", "get-health-check", "--health-check-id", &self.check];
        self.aws.aws(&[&get[..], &query].concat()).await.as_str().unwrap_or_default().to_owned()
    }

    async fn path_becomes(&self, path: &str) {
        let mut last = String::new();
        for _ in 0..LOOKS {
            last = self.path().await;
            if last == path {
                return;
            }
        }
        panic!("the path stays {last} and does not become {path}; the function said:\n{}", self.log().await);
    }

    async fn log(&self) -> String {
        let query = ["--log-group-name", "/aws/lambda/failover-lock", "--query", "events[].message"];
        self.aws
            .try_aws(&[&["logs", "filter-log-events"], &query[..]].concat())
            .await
            .unwrap_or_default()
            .to_string()
    }

    async fn log_says(&self, text: &str, times: usize) {
        for _ in 0..LOOKS {
            if self.log().await.matches(text).count() == times {
                return;
            }
        }
        panic!("the function does not say {text} {times} times:\n{}", self.log().await);
    }

    /// Sends a request to `restore`: what it answers, or the error.
    async fn restore(&self) -> Result<String, String> {
        let request = json!({ "healthCheckId": self.check, "reason": "the sites are synchronised" });
        self.invoke("failover-restore", &request.to_string()).await
    }

    async fn invoke(&self, function: &str, payload: &str) -> Result<String, String> {
        let invoke = ["lambda", "invoke", "--function-name", function, "--payload", payload, "/dev/stdout"];
        let answer = self.aws.aws(&invoke).await.to_string();
        if answer.contains("FunctionError") { Err(answer) } else { Ok(answer) }
    }
}

#[tokio::test]
async fn a_metric_locks_the_primary_and_only_a_person_brings_it_back() {
    let chain = Chain::start().await;
    chain.report_until("1", "OK").await;
    assert_eq!(chain.path().await, "/lb-check");

    chain.primary.set_up(false);
    chain.report_until("0", "ALARM").await;
    chain.path_becomes(LOCKED).await;

    let refused = chain.restore().await.unwrap_err();
    assert!(refused.contains("/lb-check answers 503"), "{refused}");

    chain.primary.set_up(true);
    chain.report_until("1", "OK").await;
    chain.log_says("\\\"reason\\\":\\\"not_in_alarm\\\"", 4).await;
    assert_eq!(chain.path().await, LOCKED);

    let restored = chain.restore().await.unwrap();
    assert!(restored.contains("restored"), "{restored}");
    assert_eq!(chain.path().await, "/lb-check");

    chain.report_until("0", "ALARM").await;
    chain.path_becomes(LOCKED).await;

    // The notification is lost: the next tick of the schedule makes up for it, once.
    chain.restore().await.unwrap();
    chain.report_until("1", "OK").await;
    chain.aws.aws(&["sns", "unsubscribe", "--subscription-arn", &chain.subscription]).await;
    chain.report_until("0", "ALARM").await;
    assert_eq!(chain.path().await, "/lb-check");
    let reconciled = chain.invoke("failover-reconcile", "{}").await.unwrap();
    assert!(reconciled.contains("\\\"locked\\\""), "{reconciled}");
    assert_eq!(chain.path().await, LOCKED);
    let by_hand = ["--health-check-id", &chain.check, "--resource-path", "/lb-check"];
    chain.aws.aws(&[&["route53", "update-health-check"], &by_hand[..]].concat()).await;
    let reconciled = chain.invoke("failover-reconcile", "{}").await.unwrap();
    assert!(reconciled.contains("undone_by_hand"), "{reconciled}");
    assert_eq!(chain.path().await, "/lb-check");
}
