//! `failoverctl doctor` over a stack that was changed outside `CloudFormation`.

use serde_json::Value;

use crate::failoverctl::{Ended, FAILOVERCTL, deployed, deployed_without_versions, run};
use crate::support::emulator::Emulator;
use crate::support::primary::Primary;

const TOPIC: &str = "arn:aws:sns:us-east-1:000000000000:failover-alarms";

/// What doctor finds wrong with a check: each with its remedy.
async fn wrong(aws: &Emulator, check: &str) -> Vec<(String, String)> {
    let ended = run(&aws.url, &["doctor", check, "--output", "json"]).await;
    let found: Value = serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{ended:?}"));
    let links = found["findings"].as_array().expect("a list").iter();
    let text = |link: &Value, key: &str| link[key].as_str().unwrap_or_default().to_owned();
    let wrong: Vec<_> = links
        .filter(|link| link["result"] == "wrong")
        .map(|link| (text(link, "found"), text(link, "remedy")))
        .collect();
    assert_eq!(ended.status, Some(if wrong.is_empty() { 0 } else { 3 }), "{ended:?}");
    wrong
}

async fn does(aws: &Emulator, command: &str) {
    let (status, printed) = aws.bash(command, &[]).await;
    assert_eq!(status, Some(0), "{command}: {printed}");
}

/// Breaks something, finds that alone, and repairs it as doctor says.
async fn is_mended(aws: &Emulator, check: &str, broken: &str, said: &str) {
    does(aws, broken).await;
    let wrong = wrong(aws, check).await;
    let (found, remedy) = &wrong[..].first().unwrap_or_else(|| panic!("nothing is found of: {broken}"));
    assert!(wrong.len() == 1 && found.contains(said), "{said}: {wrong:?}");
    does(aws, &remedy[remedy.find("aws").unwrap_or_else(|| panic!("no command: {remedy}"))..]).await;
    assert_eq!(self::wrong(aws, check).await, [], "{remedy}");
}

#[tokio::test]
async fn doctor_finds_what_keeps_a_function_from_being_invoked_or_from_ending() {
    let aws = Emulator::own_ministack().await;
    let primary = Primary::start("/lb-check").await;
    let check = deployed_without_versions(&aws, &primary).await;
    assert_eq!(wrong(&aws, &check).await, []);
    let lets = |function: &str, options: &str| {
        format!(
            "for sid in $(aws lambda get-policy --function-name {function} --query Policy --output text | python3 -c \
                 'import json, sys; print(*[one[\"Sid\"] for one in json.load(sys.stdin)[\"Statement\"]])'); do
                 aws lambda remove-permission --function-name {function} --statement-id $sid
             done
             aws lambda add-permission --function-name {function} --statement-id changed {options}"
        )
    };
    let (by_topic, to_invoke) =
        (format!("--principal sns.amazonaws.com --source-arn {TOPIC}"), "--action lambda:InvokeFunction");
    let does_not_let = format!("failover-lock does not let {TOPIC} invoke it");
    let of_another = format!("{by_topic} {to_invoke} --source-account 999999999999");
    for (broken, said) in [
        (lets("failover-lock:live", &format!("{by_topic} --action lambda:GetFunction")), &*does_not_let),
        (lets("failover-lock:live", &of_another), &does_not_let),
        (
            lets("failover-reconcile:live", &format!("--principal sns.amazonaws.com {to_invoke}")),
            "failover-reconcile does not let",
        ),
    ] {
        is_mended(&aws, &check, &broken, said).await;
    }
    for (function, time) in [("lock", 60), ("restore", 60), ("reconcile", 50)] {
        let short = format!(
            "aws lambda update-function-configuration --function-name failover-{function} --timeout 1"
        );
        let said = format!("failover-{function} may run for 1 s, and has {time} s by infra/deploy");
        is_mended(&aws, &check, &short, &said).await;
    }
    let no_target = "aws events remove-targets --rule failover-reconcile --ids $(aws events list-targets-by-rule \
        --rule failover-reconcile --query 'Targets[].Id' --output text)";
    is_mended(&aws, &check, no_target, "its schedule does not invoke failover-reconcile").await;
    let rare = "aws events put-rule --name failover-reconcile --schedule-expression 'rate(1 day)'";
    is_mended(&aws, &check, rare, "its schedule is rate(1 day), and not rate(1 minute)").await;
}

/// A role that Lambda may not assume, and subscribers that are gone.
async fn who_may_run_and_who_is_told(aws: &Emulator, check: &str, subscription: &str) {
    let trust = |service: &str| {
        format!(
            "ROLE=$(aws lambda get-function-configuration --function-name failover-lock --query Role --output text)
             aws iam update-assume-role-policy --role-name \"${{ROLE##*/}}\" --policy-document '{{\"Version\": \"2012-10-17\", \
                 \"Statement\": [{{\"Effect\": \"Allow\", \"Principal\": {{\"Service\": \"{service}\"}}, \"Action\": \"sts:AssumeRole\"}}]}}'"
        )
    };
    does(aws, &trust("ec2.amazonaws.com")).await;
    let found = wrong(aws, check).await;
    let said = "does not let Lambda assume it: it cannot run";
    assert!(found.len() == 1 && found[0].0.contains(said), "{found:?}");
    does(aws, &trust("lambda.amazonaws.com")).await;
    assert_eq!(wrong(aws, check).await, []);

    let gone = "arn:aws:sqs:us-east-1:000000000000:gone";
    let also = format!(
        "aws sns subscribe --protocol sqs --notification-endpoint {gone} --topic-arn \
         arn:aws:sns:us-east-1:000000000000:failover-notifications"
    );
    does(aws, &also).await;
    let found = run(&aws.url, &["doctor", check]).await.out;
    assert!(found.contains(&format!("look    people        {gone} subscribes to ")), "{found}");
    does(aws, &format!("aws sns unsubscribe --subscription-arn {subscription}")).await;
    let found = wrong(aws, check).await;
    assert!(found.iter().any(|(found, _)| found.contains("and does not exist any more")), "{found:?}");
    let again = "aws sns subscribe --protocol email --notification-endpoint sre@example.com --topic-arn \
        arn:aws:sns:us-east-1:000000000000:failover-notifications
        aws sns unsubscribe --subscription-arn \"$(aws sns list-subscriptions --output text --query \
            \"Subscriptions[?ends_with(Endpoint, ':gone')].SubscriptionArn\")\"";
    does(aws, again).await;
    assert_eq!(wrong(aws, check).await, []);
}

#[tokio::test]
async fn doctor_finds_what_keeps_alarms_from_people() {
    let aws = Emulator::own_ministack().await;
    let primary = Primary::start("/lb-check").await;
    let check = deployed(&aws, &primary).await;
    let subscription = "$(aws sns list-subscriptions --output text \
        --query \"Subscriptions[?Protocol=='email'].SubscriptionArn\")";
    let filter = |scope: &str, policy: &str| {
        format!(
            "aws sns set-subscription-attributes --subscription-arn {subscription} --attribute-name FilterPolicyScope \
                 --attribute-value {scope}
             aws sns set-subscription-attributes --subscription-arn {subscription} --attribute-name FilterPolicy \
                 --attribute-value '{policy}'"
        )
    };
    for (broken, said) in [
        (filter("MessageAttributes", r#"{"severity": ["page"]}"#), "no one is notified of any of the alarms"),
        (filter("MessageBody", r#"{"severity": ["page"]}"#), "no one is notified of any of the alarms"),
        (
            filter("MessageBody", r#"{"AlarmName": [{"anything-but": ["failover-locked"]}]}"#),
            "no one is notified of failover-locked: ",
        ),
    ] {
        is_mended(&aws, &check, &broken, said).await;
    }
    does(&aws, &filter("MessageBody", r#"{"NewStateValue": ["ALARM", "OK"]}"#)).await;
    assert_eq!(wrong(&aws, &check).await, []);

    let queue = ["--queue-name", "failover-dead-letters"];
    let found = aws.aws(&[&["sqs", "get-queue-url"], &queue[..]].concat()).await;
    aws.aws(&["sqs", "delete-queue", "--queue-url", found["QueueUrl"].as_str().expect("it is there")]).await;
    let found = wrong(&aws, &check).await;
    assert!(found.len() == 1 && found[0].0.contains("failover-dead-letters does not exist"), "{found:?}");
    aws.aws(&[&["sqs", "create-queue"], &queue[..]].concat()).await;

    who_may_run_and_who_is_told(&aws, &check, subscription).await;

    let defined = async || {
        let query = "sort_by(MetricAlarms, &AlarmName)[].[AlarmName, AlarmDescription, AlarmActions, OKActions, Namespace,             MetricName, Dimensions, Statistic, Period, EvaluationPeriods, DatapointsToAlarm || EvaluationPeriods, Threshold,             ComparisonOperator, TreatMissingData]";
        aws.aws(&["cloudwatch", "describe-alarms", "--query", query]).await
    };
    let before = defined().await;
    let changed = |name: &str, options: &str| {
        format!(
            "aws cloudwatch put-metric-alarm --alarm-name failover-{name} --alarm-actions \
             arn:aws:sns:us-east-1:000000000000:failover-notifications --statistic Sum --period 60 --evaluation-periods 1 {options}"
        )
    };
    let of_lock = format!(
        "--dimensions Name=HealthCheckId,Value={check} --namespace FailoverLock --metric-name Locked"
    );
    let over = "--comparison-operator GreaterThanOrEqualToThreshold --treat-missing-data notBreaching";
    does(&aws, &changed("lock-set", &format!("{of_lock} {over} --threshold 9999"))).await;
    does(
        &aws,
        &changed("restored", &format!("--namespace Other --metric-name Nothing {over} --threshold 1")),
    )
    .await;
    let found = wrong(&aws, &check).await;
    let said = |said: &str| found.iter().any(|(found, _)| found.contains(said));
    assert!(
        said("failover-lock-set is not as this version deploys it: its threshold is 9999, and not 1"),
        "{found:?}"
    );
    assert!(
        said("failover-restored is not as this version deploys it: its metric is Other Nothing"),
        "{found:?}"
    );
    assert_eq!(found.len(), 2, "{found:?}");
    // As another version deploys them, they may be right.
    let set_artifact = |function: &str, artifact: &str| {
        format!(
            "aws lambda update-function-configuration --function-name failover-{function} --environment \"$(aws lambda \
             get-function-configuration --function-name failover-{function} --output json --query Environment |
             sed 's/\"failover-lock-[^\"]*\"/\"{artifact}\"/')\""
        )
    };
    for artifact in ["failover-lock-9.9.9-aaaaaaaaaaaa-x86_64-0.zip", "failover-lock-x86_64-0.zip"] {
        does(&aws, &set_artifact("lock", artifact)).await;
        let found = wrong(&aws, &check).await;
        let by_deploy = |(_, remedy): &(_, String)| remedy.starts_with("infra/deploy ");
        assert!(found.len() == 2 && found.iter().all(by_deploy), "{artifact}: {found:?}");
    }
    let own = format!("failover-lock-{}-aaaaaaaaaaaa-x86_64-0.zip", env!("CARGO_PKG_VERSION"));
    does(&aws, &set_artifact("lock", &own)).await;
    // All but these two and one more, which shows whom they notify.
    let others = "aws cloudwatch delete-alarms --alarm-names $(aws cloudwatch describe-alarms --output text --query         'MetricAlarms[].AlarmName' | tr '[:space:]' '\n' | grep -v -e primary -e lock-set -e restored -e 'locked$')";
    does(&aws, others).await;
    assert_eq!(wrong(&aws, &check).await.len(), 19);
    let mut program = aws.command(FAILOVERCTL);
    let fixed = program.args(["doctor", &check, "--fix", "--yes"]).output().await.expect("it starts");
    assert!(fixed.status.success(), "{:?}", Ended::of(fixed));
    assert_eq!(defined().await, before);
    let none_acts = "for alarm in $(aws cloudwatch describe-alarms --output text --query 'MetricAlarms[].AlarmName'); do
        case $alarm in *primary*) continue ;; esac
        aws cloudwatch put-metric-alarm --alarm-name $alarm --namespace x --metric-name x --statistic Sum --period 60             --evaluation-periods 1 --threshold 1 --comparison-operator LessThanThreshold
    done";
    does(&aws, none_acts).await;
    let found = wrong(&aws, &check).await;
    let is_by_hand = |(_, remedy): &(_, String)| remedy.contains("infra/deploy");
    assert!(found.len() == 20 && found.iter().all(is_by_hand), "whom they notify is not known: {found:?}");
}
