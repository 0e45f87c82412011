//! The template and `infra/deploy`, as people use them.

mod support;

use support::emulator::Emulator;

#[tokio::test]
async fn cfn_lint_has_nothing_to_say() {
    let aws = Emulator::ministack().await;
    let said = aws.bash("cfn-lint infra/*.yaml", &[]).await;
    assert_eq!(said, (Some(0), String::new()));
}

#[tokio::test]
async fn what_is_wrong_is_said_before_anything_changes() {
    let aws = Emulator::ministack().await;
    let check = aws.health_check(1).await;
    let tcp = "aws route53 create-health-check --caller-reference tcp --query HealthCheck.Id --output text \
        --health-check-config Type=TCP,IPAddress=127.0.0.1,Port=1";
    let (_, tcp) = aws.bash(tcp, &[]).await;
    let elsewhere = format!("--health-check {check} --email sre@example.com --healthy-path /live");
    for (options, status, said) in [
        ("--health-check", 2, "--health-check needs a value"),
        ("--colour blue", 2, "there is no --colour"),
        ("now", 2, "\"now\" is no option"),
        ("--stack=x", 2, "write --stack and its value as two words"),
        ("--arch riscv", 2, "--arch takes arm64 or x86_64, not \"riscv\""),
        ("--wait soon", 2, "--wait takes seconds, not \"soon\""),
        ("--set Key", 2, "--set takes NAME=VALUE, not \"Key\""),
        ("", 2, "--health-check is missing, and there is no stack failover to update"),
        (&format!("--health-check {check}"), 2, "--email or --notify is missing"),
        (&format!("--health-check {check} --email a@b.c --alarm x"), 2, "--alarm needs --topic"),
        (&format!("--health-check {check} --email a@b.c --locked-path /lb-check"), 2, "are both /lb-check"),
        ("--health-check nonsense --email a@b.c", 1, "the health check nonsense cannot be read"),
        (&format!("--health-check {} --email a@b.c", tcp.trim()), 1, "is of type TCP, which has no path"),
        (&elsewhere, 1, "asks for /lb-check: if that is the path to restore, say --healthy-path /lb-check"),
    ] {
        let (ended, printed) = aws.deploy(options).await;
        assert_eq!(ended, Some(status), "{options}: {printed}");
        assert!(printed.contains(said), "{options}: {printed}");
    }
    let (_, printed) = aws.deploy(&format!("--health-check {check} --email a@b.c --dry-run")).await;
    for step in ["create-bucket", "put-object", "AlarmActionsEnabled=true"] {
        assert!(
            printed.lines().any(|line| line.starts_with("would run") && line.contains(step)),
            "{printed}"
        );
    }
    let (_, stacks) =
        aws.bash("aws cloudformation list-stacks --query StackSummaries && aws s3 ls", &[]).await;
    assert_eq!(stacks.trim(), "[]");
}

#[tokio::test]
async fn a_second_run_changes_nothing_and_a_stack_keeps_its_health_check() {
    let aws = Emulator::ministack().await;
    let [check, other] = [aws.health_check(1).await, aws.health_check(2).await];
    let options = format!("--health-check {check} --email sre@example.com --set AlarmActionsEnabled=true");
    let (status, said) = aws.deploy(&options).await;
    assert_eq!(status, Some(0), "{said}");
    let (status, said) = aws.deploy("").await;
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("No changes to deploy"), "{said}");
    let (status, said) = aws.deploy(&format!("--health-check {other}")).await;
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains(&format!("the stack failover guards {check}: give {other} a stack of its own")),
        "{said}"
    );
}

#[tokio::test]
async fn without_the_aws_cli_it_says_what_is_missing() {
    let aws = Emulator::ministack().await;
    let script =
        r#"PATH=$EMPTY; dirname() { echo infra; }; export -f dirname; "$BASH" infra/deploy --dry-run"#;
    let (status, said) = aws.bash(script, &[("EMPTY", "/nowhere")]).await;
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("the AWS CLI is missing"), "{said}");
}
