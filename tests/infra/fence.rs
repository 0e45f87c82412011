//! The documented commands for site-fence: those that put it in the place of the documented function, and the runbook's.
//! `foreign/tests/alertmanager.rs` deploys it with those of its page.

use std::fs;

use crate::runbook::{READER, programs};
use crate::support::docs::Step::{Given, Run, Then};
use crate::support::docs::{Walk, commands_below, walk};
use crate::support::emulator::free_port;
use crate::support::sites::{DNS_NAME, DOCUMENTED_FENCE, REGION, Sites, group};

#[tokio::test]
async fn the_documented_function_is_replaced_in_its_place() {
    let sites = Sites::start_with_functions().await;
    let [_, replace] = &commands_below("fence.md", "## Replace the documented Python function")[..] else {
        panic!("docs/fence.md has the commands")
    };
    let replace = replace.replace("arm64", "x86_64");
    let replace = replace.replace("target/package/site-fence-x86_64.zip", "$ARTIFACT");
    let folder = std::env::temp_dir().join(format!("site-fence-{}", free_port()));
    fs::create_dir_all(&folder).unwrap();
    let artifact = sites.aws.package("site-fence");
    let mut variables = sites.variables();
    // Lambda and the emulator set these.
    variables.retain(|name, _| !name.starts_with("AWS_"));
    let variables = serde_json::json!({ "Variables": variables }).to_string();
    let given = [
        ("ARTIFACT", artifact.to_str().unwrap()),
        ("FOLDER", folder.to_str().unwrap()),
        ("REGION", REGION),
        ("ROLE", "guide"),
        ("FUNCTION", "guide"),
        ("VARIABLES", &variables),
    ];
    let alert = r#"aws lambda invoke --region "$REGION" --function-name "$FUNCTION" \
        --payload fileb://events/alertmanager/firing.json /dev/stdout | cat"#;
    let (status, said) = sites.aws.bash(&format!("{DOCUMENTED_FENCE}\n{replace}\n{alert}"), &given).await;
    fs::remove_dir_all(&folder).unwrap();
    assert!(status == Some(0) && said.contains(r#""statusCode": 204"#), "{said}");
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
    let concurrency = "aws lambda get-function-concurrency --function-name guide";
    let (_, said) = sites.aws.bash(concurrency, &[]).await;
    assert!(said.contains(r#""ReservedConcurrentExecutions": 1"#), "{said}");
}

const FUNCTIONS: &str = r#"
aws iam create-role --role-name any --assume-role-policy-document '{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]}'
aws iam put-role-policy --role-name any --policy-name any --policy-document '{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
for handler in fence rejoin; do
  aws lambda create-function --function-name "site-$handler" --handler "$handler" --runtime provided.al2023 --timeout 60 \
    --zip-file "fileb://$ARTIFACT" --role arn:aws:iam::000000000000:role/any --environment "$VARIABLES"
done
"#;

const RUNBOOK: &str = "docs/runbook.md";

const DOCUMENTED: &[Walk] = &[
    (
        RUNBOOK,
        "## site-paused",
        &[
            Given(
                "failoverctl fence pause site-b --accelerator \"$ACCELERATOR\" --region \"$REGION\" --for 2h --reason 'upgrade CHG-42'",
            ),
            Run(&["site-b: resumed"]),
        ],
    ),
    (RUNBOOK, "## Take a site out", &[Run(&["site-b: taken_out"])]),
    (RUNBOOK, "## site-fenced", &[Run(&["site-a  1/1      in service", "site-b  0/0      "])]),
    (
        RUNBOOK,
        "## Rejoin a site",
        &[
            Run(&[r#""outcome": "rejoined""#]),
            Then("failoverctl fence status || true", &["site-b  0/1      in service"]),
        ],
    ),
    (RUNBOOK, "## site-fence-failed", &[Run(&[r#""outcome":"taken_out""#])]),
    (
        RUNBOOK,
        "### Fence by hand",
        &[
            Run(&[]),
            Then("failoverctl fence status", &["site-a  1/1      in service; no other site is known"]),
        ],
    ),
    (
        RUNBOOK,
        "## site-destination-failing",
        &[
            Given("aws sqs create-queue --queue-name site-lost-alerts"),
            Run(&["/site-lost-alerts", "site-a  1/1      in service"]),
        ],
    ),
    (
        RUNBOOK,
        "## site-lost-alerts",
        &[
            Given(
                "aws sqs create-queue --queue-name site-lost-alerts
            aws sqs send-message --message-body 'a lost alert' --queue-url $(
                aws sqs get-queue-url --queue-name site-lost-alerts --query QueueUrl --output text)",
            ),
            Run(&["a lost alert"]),
            Run(&[]),
            Then(
                "aws sqs get-queue-attributes --queue-url \"$QUEUE\" --attribute-names All",
                &[r#""ApproximateNumberOfMessages": "0""#, r#""ApproximateNumberOfMessagesNotVisible": "0""#],
            ),
        ],
    ),
];

#[tokio::test]
async fn the_commands_of_site_fences_alarms_do_what_they_are_for() {
    let sites = Sites::start_with_functions().await;
    let artifact = sites.aws.package("site-fence");
    let mut variables = sites.variables();
    variables.retain(|name, _| !name.starts_with("AWS_"));
    let variables = serde_json::json!({ "Variables": variables }).to_string();
    let given = [
        ("TOOLS", programs()),
        ("ARTIFACT", artifact.to_str().unwrap()),
        ("VARIABLES", &variables),
        ("AWS_ENDPOINT_URL_GLOBAL_ACCELERATOR", &sites.accelerators.url()),
        ("ACCELERATOR", DNS_NAME),
        ("REGION", REGION),
        ("GROUP", &group()),
        ("ID", &sites.balancer_b),
    ];
    walk(&sites.aws, DOCUMENTED, &format!("{READER}{FUNCTIONS}"), &given).await;
}
