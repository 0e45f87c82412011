//! The template and `infra/deploy`, as people use them.

use std::fs;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::runbook::programs;
use crate::support::emulator::Emulator;
use crate::support::primary::Primary;
use crate::support::root;

#[tokio::test]
async fn cfn_lint_reports_no_problem() {
    let aws = Emulator::ministack().await;
    let templates = "failover-lock latch-region latch-checks latch-control site-fence lease-table people";
    let said = aws.bash(&format!("for name in {templates}; do cfn-lint infra/$name.yaml; done"), &[]).await;
    assert_eq!(said, (Some(0), String::new()));
}

/// A request to `CloudFormation` has at most 51,200 bytes of a template, as a page deploys it from its file, and a bucket
/// 1 MB, as `infra/deploy` does.
#[test]
fn each_template_is_short_enough_for_the_way_in_which_it_is_deployed() {
    let pages = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages: String =
        pages.filter(|page| page.is_file()).map(|page| fs::read_to_string(page).unwrap()).collect();
    let from_file = |name: &str| {
        pages.contains(&format!("--template-file infra/{name} "))
            || pages.contains(&format!("= file(\"infra/{name}\")"))
    };
    assert!(
        from_file("site-fence.yaml") && from_file("lease-table.yaml") && !from_file("failover-lock.yaml")
    );
    let files = fs::read_dir(root().join("infra")).unwrap().map(|entry| entry.unwrap().path());
    for template in files.filter(|path| path.is_file()) {
        let text = fs::read(&template).unwrap();
        let name = template.file_name().unwrap().to_str().unwrap();
        let most = if from_file(name) { 51_200 } else { 1_000_000 };
        let is_template = text.starts_with(b"AWSTemplateFormatVersion");
        assert!(!is_template || text.len() <= most, "{name}: {} bytes", text.len());
    }
}

#[tokio::test]
async fn a_template_is_deployed_through_the_bucket_and_never_through_one_of_another_account() {
    let aws = Emulator::own_ministack().await;
    let check = aws.health_check(1).await;
    let bucket = "failover-lock-000000000000-us-east-1";
    let make = format!(
        "AWS_ACCESS_KEY_ID=111111111111 AWS_SECRET_ACCESS_KEY=x aws s3api create-bucket --bucket {bucket}"
    );
    assert_eq!(aws.bash(&make, &[]).await.0, Some(0));
    let options = format!("--health-check {check} --email sre@example.com");
    let (status, said) = aws.deploy(&options).await;
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains(&format!("the bucket {bucket} is not accessible to this account")), "{said}");
    // The check before the template is uploaded, also where nothing else is.
    let deploy = r#". infra/common.sh; bucket_for_code() { printf '%s' "$BUCKET"; }; me=test root=$PWD region=us-east-1
        profile= dry_run= account=000000000000; deploy_stack failover failover-lock.yaml HealthCheckId=x"#;
    let (status, said) = aws.bash(deploy, &[("BUCKET", bucket)]).await;
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains(&format!("the bucket {bucket}, for the template of the stack failover")), "{said}");

    let (status, said) = aws.deploy(&format!("{options} --bucket other")).await;
    assert_eq!(status, Some(3), "{said}");
    let (_, listed) = aws.bash("aws s3 ls s3://other/ --recursive", &[]).await;
    assert!(listed.contains(" templates/") && listed.contains(".template\n"), "{listed}");
}

#[tokio::test]
async fn kubernetes_accepts_the_sidecar_and_the_pod() {
    let aws = Emulator::ministack().await;
    // The first release with sidecars. `foreign/tests/rules.rs` has the operator's own definitions.
    let validate =
        "kubernetes-validate --strict --quiet -k 1.29 infra/lease-keeper.yaml infra/latch-pod.yaml";
    let (status, said) = aws.bash(validate, &[]).await;
    let unknown = said
        .lines()
        .filter(|line| !line.contains("schema for kind P") || !line.contains("monitoring.coreos.com"));
    assert_eq!((status, unknown.count()), (Some(0), 0), "{said}");
}

#[tokio::test]
async fn an_error_is_reported_before_any_change() {
    let aws = Emulator::own_ministack().await;
    let check = aws.health_check(1).await;
    let tcp = "aws route53 create-health-check --caller-reference tcp --query HealthCheck.Id --output text \
        --health-check-config Type=TCP,IPAddress=127.0.0.1,Port=1";
    let (_, tcp) = aws.bash(tcp, &[]).await;
    let [plain, managed] = ["plain", "managed --attributes KmsMasterKeyId=alias/aws/sns"]
        .map(|name| format!("aws sns create-topic --query TopicArn --output text --name {name}"));
    let (plain, managed) = (aws.bash(&plain, &[]).await.1, aws.bash(&managed, &[]).await.1);
    let (plain, managed) = (plain.trim(), managed.trim());
    let elsewhere = format!("--health-check {check} --email sre@example.com --healthy-path /live");
    for (options, status, said) in [
        ("--health-check", 2, "--health-check needs a value"),
        ("--colour blue", 2, "there is no --colour"),
        ("now", 2, "\"now\" is not an option"),
        ("--stack=x", 2, "write --stack and its value as two words"),
        ("--arch riscv", 2, "--arch takes arm64 or x86_64, not \"riscv\""),
        ("--wait soon", 2, "--wait takes seconds, not \"soon\""),
        ("--stack 1st", 2, "--stack takes a letter, then letters, digits and hyphens, not \"1st\""),
        (&format!("--stack {}", "x".repeat(55)), 2, "--stack takes at most 54 characters"),
        ("--set DryRunn=true", 2, "the template has no parameter DryRunn; it has HealthCheckId"),
        ("--set Key", 2, "--set takes NAME=VALUE, not \"Key\""),
        ("", 2, "--health-check or --guarded-tag is missing, and there is no stack failover to update"),
        (&format!("--health-check {check}"), 2, "--email or --notify is missing"),
        (&format!("--health-check {check} --email a@b.c --alarm x"), 2, "--alarm needs --topic"),
        (&format!("--health-check {check} --email a@b.c --locked-path /lb-check"), 2, "are both /lb-check"),
        (&format!("--health-check {check} --email a@b.c --secondary {check}"), 2, "are the same"),
        (
            &format!("--health-check {check} --guarded-tag failover --email a@b.c"),
            2,
            "takes --health-check or --guarded-tag, not both",
        ),
        (&format!("--health-check {check} --notify x --topic x"), 2, "--notify is the alarm's topic"),
        (&format!("--health-check {check} --notify {plain}x"), 1, "cannot be read"),
        (
            &format!("--health-check {check} --notify {managed}"),
            1,
            "alias/aws/sns, which CloudWatch cannot use",
        ),
        (
            &format!("--health-check {check} --email a@b.c --topic {plain} --alarm x"),
            1,
            "the alarm x does not act",
        ),
        (
            &format!("--health-check {check} --email a@b.c --region eu-west-1"),
            2,
            "Route 53's metrics are in us-east-1",
        ),
        ("--health-check nonsense --email a@b.c", 1, "the health check nonsense cannot be read"),
        (&format!("--health-check {} --email a@b.c", tcp.trim()), 1, "is of type TCP, which has no path"),
        (&elsewhere, 1, "requests /lb-check: if that is its healthy path, add --healthy-path /lb-check"),
    ] {
        let (ended, printed) = aws.deploy(options).await;
        assert_eq!(ended, Some(status), "{options}: {printed}");
        assert!(printed.contains(said), "{options}: {printed}");
    }
    let (_, printed) = aws.deploy(&format!("--health-check {check} --email a@b.c --dry-run")).await;
    for step in [
        "create-bucket",
        "put-object",
        "--s3-bucket failover-lock-000000000000-us-east-1",
        "AlarmActionsEnabled=true",
    ] {
        assert!(
            printed.lines().any(|line| line.starts_with("would run") && line.contains(step)),
            "{printed}"
        );
    }
    let (_, stacks) =
        aws.bash("aws cloudformation list-stacks --query StackSummaries && aws s3 ls", &[]).await;
    assert_eq!(stacks.trim(), "[]");
}

/// A web server that answers every path with 200, as a single-page application does.
async fn catch_all() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        }
    });
    port
}

#[tokio::test]
async fn a_deployment_ends_with_failoverctl_doctor_and_its_status() {
    let aws = Emulator::own_ministack().await;
    let primary = Primary::start("/lb-check").await;
    let [good, void] =
        [aws.health_check(primary.address.port()).await, aws.health_check(catch_all().await).await];
    let folder = programs();
    for (check, stack, status, said) in [
        (&good, "good", 0, format!("{good} is guarded, as far as failoverctl doctor looks")),
        (&void, "void", 3, "NOT GUARDED AS IT SHOULD BE".to_owned()),
    ] {
        let options = format!(
            "--stack {stack} --health-check {check} --notify \"$PEOPLE\" --set AlarmActionsEnabled=true"
        );
        let people = format!(
            "PEOPLE=$(aws sns create-topic --name people-{stack} --query TopicArn --output text)\n\
             aws sns subscribe --topic-arn \"$PEOPLE\" --protocol email --notification-endpoint sre@example.com >&2\n"
        );
        let (ended, printed) = aws
            .bash(
                &format!(
                    r#"{people}PATH=$CTL:$PATH; infra/deploy --artifact "$ARTIFACT" --arch x86_64 --wait 0 {options}"#
                ),
                &[("CTL", folder), ("ARTIFACT", aws.package("failover-lock").to_str().expect("UTF-8"))],
            )
            .await;
        assert!(ended == Some(status) && printed.contains(&said), "{stack}: {ended:?} {printed}");
        assert_eq!(
            printed.contains("answers 200, so that a lock locks nothing"),
            stack == "void",
            "{printed}"
        );
    }
}

#[tokio::test]
async fn a_second_run_changes_nothing_and_a_stack_keeps_its_health_check() {
    let aws = Emulator::own_ministack().await;
    let [check, other] = [aws.health_check(1).await, aws.health_check(2).await];
    let options = format!("--health-check {check} --email sre@example.com --set AlarmActionsEnabled=true");
    let (status, said) = aws.deploy(&options).await;
    assert_eq!(status, Some(0), "{said}");
    let seen = format!(
        "{check} is armed. Whether its locked path fails, and people are notified, was not looked at: run failoverctl"
    );
    assert!(said.contains(&seen), "{said}");
    let (status, said) = aws.deploy("").await;
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("No changes to deploy"), "{said}");
    let (status, said) = aws.deploy(&format!("--health-check {other}")).await;
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains(&format!("the stack failover guards {check}: give {other} a stack of its own")),
        "{said}"
    );

    let (status, said) = aws.deploy("--set AlarmActionsEnabled=false").await;
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("actions_disabled"), "{said}");
    let (status, _) = aws.deploy("--set AlarmActionsEnabled=true --set DryRun=true").await;
    assert_eq!(status, Some(0));
    let (status, said) = aws.deploy("").await;
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("NOT GUARDED: this is a dry run"), "{said}");

    let own = "--set DryRun=false --notify arn:aws:sns:us-east-1:000000000000:failover-alarms";
    let (status, said) = aws.deploy(own).await;
    assert_eq!(status, Some(2), "{said}");
    let moved =
        format!("aws route53 update-health-check --health-check-id {check} --resource-path /elsewhere");
    aws.bash(&moved, &[]).await;
    let (status, said) = aws.deploy("").await;
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("its path was changed outside this stack. To correct the path, run:"), "{said}");

    let lock = format!(
        "aws route53 update-health-check --health-check-id {check} --resource-path /lb-check-failed-over"
    );
    aws.bash(&lock, &[]).await;
    let (status, said) = aws.deploy("--set DryRun=false --locked-path /other").await;
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("is locked: restore it before you change the paths"), "{said}");
}

#[tokio::test]
async fn one_stack_guards_every_check_with_a_tag_and_says_which_is_not_guarded() {
    let aws = Emulator::own_ministack().await;
    let [first, second] = [aws.health_check(1).await, aws.health_check(2).await];
    let topic = "arn:aws:sns:us-east-1:000000000000:failover-alarms";
    for check in [&first, &second] {
        let tag = format!(
            "aws route53 change-tags-for-resource --resource-type healthcheck --resource-id {check} \
                --add-tags Key=failover,Value=on"
        );
        assert_eq!(aws.bash(&tag, &[]).await.0, Some(0));
    }
    let alarm = |check: &str, name: &str| {
        format!(
            "aws cloudwatch put-metric-alarm --alarm-name {name} --alarm-actions {topic} --namespace AWS/Route53 \
                --metric-name HealthCheckStatus --dimensions Name=HealthCheckId,Value={check} --statistic Minimum \
                --period 60 --evaluation-periods 1 --threshold 1 --comparison-operator LessThanThreshold \
                --treat-missing-data notBreaching"
        )
    };
    aws.bash(&alarm(&first, "first"), &[]).await;
    let (status, said) = aws.deploy("--guarded-tag failover=on --email sre@example.com").await;
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("no_alarm") && said.contains(&second), "{said}");
    aws.bash(&alarm(&second, "second"), &[]).await;
    let (status, said) = aws.deploy("").await;
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("each of 2 health checks with the tag failover=on is armed."), "{said}");
    // The address has not confirmed its subscription, and nothing answers at the primaries.
    let again = r#"PATH=$CTL:$PATH; infra/deploy --artifact "$ARTIFACT" --arch x86_64 --wait 0 --guarded-tag failover=on"#;
    let artifact = aws.package("failover-lock");
    let variables = [("CTL", programs()), ("ARTIFACT", artifact.to_str().expect("UTF-8"))];
    let (status, said) = aws.bash(again, &variables).await;
    let repair = |one: &str, other: &str| {
        said.contains(&format!("failoverctl doctor (above) has what to repair of {one} {other}"))
    };
    assert!(status == Some(3) && (repair(&first, &second) || repair(&second, &first)), "{said}");
}

#[tokio::test]
async fn a_check_that_is_already_locked_is_not_reported_as_guarded_before_its_alarm_acts() {
    let aws = Emulator::own_ministack().await;
    let check = aws.health_check(1).await;
    let lock = format!(
        "aws route53 update-health-check --health-check-id {check} --resource-path /lb-check-failed-over"
    );
    aws.bash(&lock, &[]).await;
    let (status, said) = aws.deploy(&format!("--health-check {check} --email a@b.c")).await;
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("NOT GUARDED, though locked: its alarm does not act yet"), "{said}");
}

#[tokio::test]
async fn a_stack_that_was_never_created_counts_as_none() {
    let aws = Emulator::own_ministack().await;
    let check = aws.health_check(1).await;
    let set = "aws cloudformation create-change-set --stack-name failover --change-set-name x --change-set-type CREATE \
        --template-body '{\"Resources\": {\"Topic\": {\"Type\": \"AWS::SNS::Topic\"}}}'";
    let (status, said) = aws.bash(set, &[]).await;
    assert_eq!(status, Some(0), "{said}");
    let (status, said) = aws.deploy(&format!("--health-check {check} --email a@b.c")).await;
    assert_eq!(status, Some(3), "{said}");
}

#[tokio::test]
async fn people_are_notified_through_their_own_topic_with_its_own_key() {
    let aws = Emulator::own_ministack().await;
    let check = aws.health_check(1).await;
    let topic = r#"KEY=$(aws kms create-key --query KeyMetadata.Arn --output text)
        aws sns create-topic --name people --attributes "KmsMasterKeyId=$KEY" --query TopicArn --output text
        echo "$KEY""#;
    let (_, made) = aws.bash(topic, &[]).await;
    let (topic, key) = made.trim().split_once('\n').expect("two lines");
    let (_, said) = aws.deploy(&format!("--health-check {check} --notify {topic}")).await;
    assert!(said.contains("NOT GUARDED YET"), "{said}");
    let role = "aws cloudformation describe-stack-resource --stack-name failover --logical-resource-id LockRole \
        --query StackResourceDetail.PhysicalResourceId --output text";
    let policy = format!("aws iam get-role-policy --policy-name lock --role-name $({role})");
    let (_, policy) = aws.bash(&policy, &[]).await;
    assert!(policy.contains(topic) && policy.contains(key), "{policy}");
}

#[tokio::test]
async fn a_missing_aws_cli_is_named() {
    let aws = Emulator::own_ministack().await;
    let script =
        r#"PATH=$EMPTY; dirname() { echo infra; }; export -f dirname; "$BASH" infra/deploy --dry-run"#;
    let (status, said) = aws.bash(script, &[("EMPTY", "/nowhere")]).await;
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("these programs are missing: aws"), "{said}");
}
