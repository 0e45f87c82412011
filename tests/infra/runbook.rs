//! The runbook: each of its commands is run on what it is for.

use std::fs;
use std::path::Path;

use crate::support::accelerator::Accelerators;
use crate::support::docs::Step::{Fails, Given, Run, Then};
use crate::support::docs::{Walk, sections, walk};
use crate::support::emulator::Emulator;
use crate::support::lock::PRIMARY;
use crate::support::primary::Primary;
use crate::support::root;
use crate::support::route53::{Check, Route53};

/// How the reader's commands run here: the AWS CLI does not look for SQS at `AWS_ENDPOINT_URL`, and there is no terminal
/// on which to answer.
pub const READER: &str = r#"
PATH=$TOOLS:$PATH
aws() {
  [ "$1" != sqs ] || set -- "$@" --endpoint-url "$AWS_ENDPOINT_URL"
  command aws "$@"
}
failoverctl() {
  case "$1 ${2-}" in lock* | restore* | "fence out" | "fence pause" | "fence resume") set -- "$@" --yes ;; esac
  command failoverctl "$@"
}
"#;

/// The folder with the programs.
pub fn programs() -> &'static str {
    let folder = Path::new(env!("CARGO_BIN_EXE_failoverctl")).parent();
    folder.and_then(Path::to_str).expect("it is in a folder with a name in UTF-8")
}

/// What happens around the commands. The emulator has no checkers: `stand_in` and `emulator` choose where Route 53 is.
const AROUND: &str = r#"
OWN=$PRIMARY
infra/deploy() { command infra/deploy ${STACK:+--stack "$STACK"} --artifact "$ARTIFACT" --arch x86_64 --wait 30 "$@"; }
stand_in() { export AWS_ENDPOINT_URL_ROUTE_53=$STAND_IN PRIMARY=$OTHER; }
emulator() { unset AWS_ENDPOINT_URL_ROUTE_53; PRIMARY=$OWN; }
# Not even failoverctl reads a check that the emulator keeps as inverted or disabled.
spare() {
  PRIMARY=$(aws route53 create-health-check --caller-reference spare --query HealthCheck.Id --output text \
    --health-check-config Type=HTTP,IPAddress=127.0.0.1,Port=1,ResourcePath=/lb-check)
}
state() { aws cloudwatch set-alarm-state --alarm-name failover-primary-unhealthy --state-value "$1" --state-reason test; }
path() { aws route53 get-health-check --health-check-id "$PRIMARY" --query HealthCheck.HealthCheckConfig.ResourcePath --output text; }
healthy() {
  aws cloudwatch put-metric-data --namespace AWS/Route53 --metric-name HealthCheckStatus \
    --dimensions "HealthCheckId=$PRIMARY" --value 1
  state OK
}
fire() { state ALARM; until path | grep -x /lb-check-failed-over; do sleep 0.1; done; }
# The tag of a restore by hand has seconds: one in the second of its lock is not after it.
next_second() { local now=$(date +%s); until [ "$(date +%s)" -gt "$now" ]; do sleep 0.1; done; }
back() { failoverctl restore "$PRIMARY" --reason test; }
tags() { aws route53 list-tags-for-resource --resource-type healthcheck --resource-id "$PRIMARY" --output text; }
reserved() { aws lambda get-function-concurrency --function-name "failover-$1" --query ReservedConcurrentExecutions --output text; }
reserve() { aws lambda put-function-concurrency --function-name "failover-$1" --reserved-concurrent-executions "$2"; }
healthy
"#;

const RUNBOOK: &str = "docs/runbook.md";
const PAGE: &str = "docs/lock.md";

const LOCK: &[Walk] = &[
    (RUNBOOK, "# Runbook", &[Run(&["HealthyPath\t/lb-check"])]),
    (RUNBOOK, "## See the state", &[
            Run(&["\narmed ", "ok      alarm "]),
            Given("fire"),
            Run(&["/lb-check-failed-over\n", "failover-lock:out", r#""outcome":"locked""#]),
            Given("stand_in"),
            Run(&["Success: HTTP Status Code 200, OK"]),
            Given("emulator"),
            Run(&["RestoreCommand", "Notifications"]),
        ],
    ),
    (RUNBOOK, "## Restore a primary", &[
            Given("healthy"),
            Run(&["restored (/lb-check-failed-over → /lb-check)", "armed again"]),
            Given("fire; healthy"),
            Run(&[r#""outcome": "restored""#]),
            Run(&["OK\n"]),
        ],
    ),
    (RUNBOOK, "### Restore without the function", &[
            Given("fire; healthy; next_second"),
            Run(&[r#""ResourcePath": "/lb-check""#]),
            Then("failoverctl status", &["\narmed "]),
            Then(
                "aws lambda invoke --function-name failover-reconcile:live --payload '{}' /dev/stdout",
                &[r#""outcome": "armed""#],
            ),
        ],
    ),
    (RUNBOOK, "## failover-restored", &[Run(&["by=by hand"]), Run(&[])]),
    (RUNBOOK, "## Lock by hand", &[
            Run(&["locked (/lb-check → /lb-check-failed-over)"]),
            Given("back"),
            Run(&[r#""ResourcePath": "/lb-check-failed-over""#]),
            Then("failoverctl status", &["\nlocked "]),
            Given("back"),
        ],
    ),
    (RUNBOOK, "## failover-locked-in-vain", &[
            Run(&[r#""ResourcePath": "/lb-check""#]),
            Given(
                "spare; aws route53 update-health-check --health-check-id \"$PRIMARY\" --inverted --disabled --resource-path /lb-check-failed-over",
            ),
            Run(&[r#""ResourcePath": "/lb-check""#]),
            Run(&[r#""Disabled": false"#]),
        ],
    ),
    (RUNBOOK, "### inverted, disabled, no_path", &[
            Given("aws route53 update-health-check --health-check-id \"$PRIMARY\" --inverted --disabled"),
            Run(&[r#""Disabled": false"#]),
            Run(&[r#""Inverted": false"#]),
            Given("aws route53 delete-health-check --health-check-id \"$PRIMARY\"; emulator"),
        ],
    ),
    (RUNBOOK, "## failover-lock-failed", &[Run(&[r#""outcome":"locked""#])]),
    (RUNBOOK, "## failover-dead-letters", &[
            Given(
                "aws sqs send-message --message-body 'a lost alarm' --queue-url $(
            aws sqs get-queue-url --queue-name failover-dead-letters --query QueueUrl --output text)",
            ),
            Run(&["a lost alarm"]),
            Then(
                "aws sqs get-queue-attributes --queue-url \"$QUEUE\" --attribute-names All",
                &[r#""ApproximateNumberOfMessages": "0""#, r#""ApproximateNumberOfMessagesNotVisible": "0""#],
            ),
        ],
    ),
    (RUNBOOK, "## failover-dead-letters-failing", &[
            Run(&[
                r#"deadLetterTargetArn\": \"arn:aws:sqs:us-east-1:000000000000:failover-dead-letters"#,
                r#""QueueArn": "arn:aws:sqs:us-east-1:000000000000:failover-dead-letters""#,
                "\tfailover-primary-unhealthy\t",
            ]),
            Given("aws sqs delete-queue --queue-url \"$QUEUE\""),
            Run(&[]),
            Then(
                "aws sqs get-queue-attributes --queue-url \"$QUEUE\" --attribute-names All",
                &[r#""MessageRetentionPeriod": "1209600""#, "sns.amazonaws.com", "failover-alarms"],
            ),
        ],
    ),
    (RUNBOOK, "## failover-lock-throttled", &[
            Given("reserve lock 0"),
            Run(&[r#""ReservedConcurrentExecutions": 0"#, r#""ConcurrentExecutions": "#]),
            Run(&[]),
            Then("reserved lock", &["None"]),
            Run(&[r#""ReservedConcurrentExecutions": 10"#]),
        ],
    ),
    (RUNBOOK, "## failover-lock-destination-failing", &[Run(&[r#""outcome":"locked""#])]),
    (RUNBOOK, "## failover-throttled", &[Run(&[])]),
    (RUNBOOK, "### undone_by_hand", &[Run(&["is guarded, as far"]), Then("infra/deploy --set RelockUndone=false", &["is guarded, as far"])],
    ),
    (RUNBOOK, "### lock_does_not_hold", &[
            Run(&["is guarded, as far"]),
            Then("state ALARM; until path | grep -x /another-path; do sleep 0.1; done; healthy", &["/another-path"]),
            Given("LOCKED_PATH=/another-path back; infra/deploy --locked-path /lb-check-failed-over"),
        ],
    ),
    (RUNBOOK, "### dry_run", &[Given("infra/deploy --set DryRun=true --wait 0 || true"), Run(&["is guarded, as far"])]),
    (RUNBOOK, "### no_alarm", &[
            Given("aws cloudwatch delete-alarms --alarm-names failover-primary-unhealthy"),
            Then("failoverctl doctor \"$PRIMARY\" || true", &["WRONG   alarm"]),
            Run(&[]),
            Then(
                "healthy; failoverctl doctor \"$PRIMARY\"",
                &["ok      alarm         failover-primary-unhealthy"],
            ),
            Then("fire; healthy; back", &["restored"]),
        ],
    ),
    (RUNBOOK, "### actions_disabled", &[Run(&["OK\n"]), Run(&[]), Then("failoverctl status \"$PRIMARY\"", &["\narmed "])],
    ),
    (RUNBOOK, "### enabled_in_alarm", &[Run(&["OK\n"])]),
    (RUNBOOK, "### never_goes_off", &[Run(&["failover-primary-unhealthy", "LessThanThreshold"])]),
    (RUNBOOK, "### no_data", &[Run(&["failover-primary-unhealthy", "OK"])]),
    (RUNBOOK, "### foreign_path", &[
        Given("at() { aws route53 update-health-check --health-check-id \"$PRIMARY\" --port \"$1\" --resource-path \"$2\"; }
            at \"$ANOTHER_PORT\" /the-path"),
        Run(&["is guarded, as far"]),
        Given("at \"$PORT\" /lb-check; infra/deploy --healthy-path /lb-check"),
    ]),
    (RUNBOOK, "### actions_muted", &[Fails(&["ListAlarmMuteRules"])]),
    (RUNBOOK, "### older_than_restore", &[Run(&["OK\n"])]),
    (RUNBOOK, "## failover-reconcile-silent", &[
            Run(&["ENABLED\n"]),
            Given("aws events disable-rule --name failover-reconcile"),
            Run(&[]),
            Then("aws events describe-rule --name failover-reconcile", &[r#""State": "ENABLED""#]),
            Given(
                "aws events remove-targets --rule failover-reconcile --ids $(aws events list-targets-by-rule \
            --rule failover-reconcile --query 'Targets[].Id' --output text); aws events delete-rule --name failover-reconcile",
            ),
            Run(&[r#""FailedEntryCount": 0"#]),
            Then("failoverctl doctor \"$PRIMARY\"", &["ok      reconcile "]),
            Given("reserve reconcile 0"),
            Run(&[]),
            Then("reserved reconcile", &["None"]),
            Run(&[r#""message":"done""#]),
        ],
    ),
    (RUNBOOK, "## failover-reconcile-throttled", &[
            Given("reserve reconcile 0"),
            Run(&[r#""ReservedConcurrentExecutions": 0"#]),
            Run(&[]),
            Then("reserved reconcile", &["None"]),
            Run(&[r#""ReservedConcurrentExecutions": 1"#]),
        ],
    ),
    (RUNBOOK, "## failover-restore-throttled", &[
            Given("reserve restore 0"),
            Run(&[r#""ReservedConcurrentExecutions": 0"#]),
            Run(&[]),
            Then("reserved restore", &["None"]),
        ],
    ),
    (RUNBOOK, "## Error types of failover-lock", &[
            Given(
                "aws route53 change-tags-for-resource --resource-type healthcheck --resource-id \"$PRIMARY\" \
            --add-tags Key=failover-lock:out,Value=nonsense",
            ),
            Run(&[]),
            Then("back", &["is restored already"]),
            Then("tags", &["failover-lock:in"]),
        ],
    ),
    (RUNBOOK, "### Outcomes", &[Given("infra/deploy --set DryRun=true --wait 0 || true"), Run(&["is guarded, as far"])]),
    (PAGE, "## Deploy", &[Run(&["is guarded, as far"])]),
    (PAGE, "### Choose how long a failure lasts before it locks", &[
        Run(&["is guarded, as far"]),
        Then("aws cloudwatch describe-alarms --alarm-names failover-primary-unhealthy", &[r#""EvaluationPeriods": 3"#]),
    ]),
    (PAGE, "## Guard many health checks",
        &[
            Given("STACK=many"),
            Fails(&["NOT GUARDED", r#""reason": "actions_disabled""#]),
            Then(
                r#"aws cloudwatch put-metric-alarm --alarm-name another --alarm-actions "${TOPIC/failover-/many-}" \
                    --namespace AWS/Route53 --metric-name HealthCheckStatus --dimensions "Name=HealthCheckId,Value=$PRIMARY" \
                    --statistic Minimum --period 60 --evaluation-periods 1 --threshold 1 --comparison-operator LessThanThreshold
                aws cloudwatch set-alarm-state --alarm-name another --state-value OK --state-reason test
                aws lambda invoke --function-name many-reconcile:live --payload '{}' /dev/stdout"#,
                &[r#""outcome": "armed""#],
            ),
            Given("STACK=; aws cloudwatch delete-alarms --alarm-names another; aws cloudformation delete-stack --stack-name many"),
        ],
    ),
    (
        PAGE,
        "## Through a queue", &[
        Given("QUEUE_ARN=arn:aws:sqs:us-east-1:000000000000:failover-lock"),
        Run(&["ReportBatchItemFailures"]),
        Then(r#"aws sqs send-message --queue-url "$(aws sqs get-queue-url --queue-name failover-lock --query QueueUrl --output text)" \
            --message-body "$(python -c "import json, sys; print(json.load(open('events/sns/keycloak-alarm.json'))['Records'][0]['Sns']['Message'])" |
            sed "s/233e180f-f023-45a3-954e-415303f21eab/$PRIMARY/g; s/2026-11-21T02:36:15.490/$(date -u +%Y-%m-%dT%H:%M:%S.000)/g")"
            until path | grep -x /lb-check-failed-over; do sleep 0.1; done"#, &["/lb-check-failed-over"]),
        Given("back"),
    ]),
    (PAGE, "## Remove", &[
        Run(&[]),
        Then("! aws lambda get-function --function-name failover-lock", &["Function not found"]),
        Run(&["failover-lock-000000000000-us-east-1"]),
    ]),
];

#[tokio::test]
async fn the_commands_of_failover_locks_alarms_do_what_they_are_for() {
    let aws = Emulator::own_ministack().await;
    let primary = Primary::start("/lb-check").await;
    let check = aws.health_check(primary.address.port()).await;
    let options = format!("--health-check {check} --email sre@example.com --set AlarmActionsEnabled=true");
    let (status, said) = aws.deploy(&options).await;
    assert_eq!(status, Some(0), "{said}");

    let another = Primary::start("/the-path").await;
    let stand_in = Route53::start().await;
    let mut other = Check::new("HTTP", 80);
    other.reports = vec!["Success: HTTP Status Code 200, OK"];
    stand_in.put(PRIMARY, other);
    let accelerators = Accelerators::start().await.url();
    let artifact = aws.package("failover-lock");
    let variables = [
        ("PRIMARY", check.as_str()),
        ("OTHER", PRIMARY),
        ("EMAIL", "sre@example.com"),
        ("PORT", &primary.address.port().to_string()),
        ("ANOTHER_PORT", &another.address.port().to_string()),
        ("STAND_IN", &stand_in.url()),
        ("TOOLS", programs()),
        ("ARTIFACT", artifact.to_str().expect("UTF-8")),
        ("AWS_ENDPOINT_URL_GLOBAL_ACCELERATOR", &accelerators),
    ];
    walk(&aws, LOCK, &format!("{READER}{AROUND}"), &variables).await;
}

/// A test names the page and the heading: in a walk, or in `commands_below` that heading or the one above it. What a
/// test cannot do, `.ci/run` does, or a job beside it.
#[test]
fn every_command_of_every_page_is_run() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let names = |folder: &str| -> Vec<String> {
        let files = fs::read_dir(root().join(folder)).unwrap();
        files.map(|file| format!("{folder}/{}", file.unwrap().file_name().into_string().unwrap())).collect()
    };
    let folders = ["tests/ctl", "tests/infra", "tests/latch", "tests/lease", "foreign/tests"];
    let tests = folders.iter().flat_map(|folder| names(folder)).filter(|name| root().join(name).is_file());
    let one_line = |test: String| test.split_whitespace().collect::<Vec<_>>().join(" ");
    let tests: Vec<_> = tests.map(|name| one_line(read(&name))).collect();
    let bare = |command: &str| command.trim_end().replace(" --locked", "").replace(" --all-features", "");
    let ci = bare(&[read(".ci/run"), read(".github/workflows/ci.yml")].concat());
    let is_page = |name: &String| Path::new(name).extension().is_some_and(|is| is == "md");
    let pages = names("docs").into_iter().filter(is_page);
    for page in pages.chain(["README.md".to_owned()]) {
        let name = page.trim_start_matches("docs/");
        let mut above = String::new();
        for (heading, commands) in sections(&page) {
            if heading.starts_with("## ") {
                above.clone_from(&heading);
            }
            let is_run = |test: &String| {
                (test.contains(&format!("\"{page}\"")) && test.contains(&format!(", \"{heading}\"")))
                    || [&heading, &above]
                        .iter()
                        .any(|heading| test.contains(&format!("\"{name}\", \"{heading}\"")))
            };
            let in_ci = || commands.iter().all(|command| ci.contains(&bare(command)));
            assert!(
                commands.is_empty() || tests.iter().any(is_run) || in_ci(),
                "nothing runs the commands of {page} below {heading}: {commands:#?}"
            );
        }
    }
}
