//! What an account may require: tags, a boundary and a path of the roles, its own key, no dashboard.

use std::fs;

use crate::runbook::programs;
use crate::support::docs::Step::{Fails, Given, Run, Then};
use crate::support::docs::{Walk, walk};
use crate::support::emulator::Emulator;
use crate::support::root;

const TEMPLATES: [&str; 4] = ["failover-lock", "latch-region", "lease-table", "site-fence"];

/// The resources of a template, each with its text.
fn resources(template: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(format!("infra/{template}.yaml"))).unwrap();
    let (_, resources) = text.split_once("\nResources:\n").expect("a template has resources");
    let mut all = Vec::new();
    for line in resources.split("\nOutputs:").next().unwrap().lines() {
        if line.starts_with("  ") && line.ends_with(':') && !line[2..].starts_with([' ', '#']) {
            all.push(String::new());
        }
        if let Some(resource) = all.last_mut() {
            resource.extend([line, "\n"]);
        }
    }
    all
}

#[test]
fn each_role_has_the_boundary_and_the_path_and_each_log_and_topic_for_people_the_key() {
    const ROLE: [&str; 2] = [
        "      Path: !Ref RolePath\n",
        "      PermissionsBoundary: !If [HasPermissionsBoundary, !Ref PermissionsBoundaryArn, !Ref AWS::NoValue]\n",
    ];
    const LOG: [&str; 1] = ["      KmsKeyId: !If [HasKey, !Ref KeyArn, !Ref AWS::NoValue]\n"];
    const TOPIC: [&str; 1] = ["      KmsMasterKeyId: !If [HasKey, !Ref KeyArn, !GetAtt Key.Arn]\n"];
    const QUEUE: [&str; 2] = [
        "      KmsMasterKeyId: !If [HasKey, !Ref KeyArn, !Ref AWS::NoValue]\n",
        "      SqsManagedSseEnabled: !If [HasKey, !Ref AWS::NoValue, true]\n",
    ];
    let (mut roles, mut logs, mut topics, mut queues) = (0, 0, 0, 0);
    for template in TEMPLATES {
        for resource in resources(template) {
            let is = |kind: &str| resource.contains(&format!("    Type: AWS::{kind}\n"));
            // Principals of the account publish to it by their own permission, and have none on a key.
            let is_for_people = !resource.starts_with("  AlertTopic:");
            let (count, needed): (_, &[&str]) = match () {
                () if is("IAM::Role") => (&mut roles, &ROLE),
                () if is("Logs::LogGroup") => (&mut logs, &LOG),
                () if is("SNS::Topic") && is_for_people => (&mut topics, &TOPIC),
                () if is("SQS::Queue") => (&mut queues, &QUEUE),
                () => continue,
            };
            *count += 1;
            for line in needed {
                assert!(resource.contains(line), "{template} lacks {line} in {resource}");
            }
        }
    }
    assert_eq!((roles, logs, topics, queues), (9, 7, 4, 2));
}

/// What is shown of the stack. The emulator keeps neither the boundary of a role nor the key of a topic that a template names.
const AROUND: &str = r#"
infra/deploy() { command infra/deploy --artifact "$ARTIFACT" --arch x86_64 --wait 0 "$@"; }
policy() { printf '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": [%s]}, "Action": "kms:*", "Resource": "*"}]}' "$1"; }
KEY=$(aws kms create-key --policy "$(policy '"cloudwatch.amazonaws.com"')" --query KeyMetadata.Arn --output text)
allow_all() {
  aws kms put-key-policy --key-id "$KEY" --policy-name default --policy \
    "$(policy '"cloudwatch.amazonaws.com", "sns.amazonaws.com", "logs.us-east-1.amazonaws.com"')"
}
stack() { aws cloudformation describe-stacks --stack-name failover --output text --query "$1"; }
of() { aws cloudformation list-stack-resources --stack-name failover --query "StackResourceSummaries[?ResourceType=='$1'].PhysicalResourceId" --output text; }
shown() {
  stack 'sort_by(Stacks[0].Tags, &Key)[].[Key, Value]' | tr '\t' =
  for role in $(of AWS::IAM::Role); do aws iam get-role --role-name "$role" --query Role.Path --output text; done
  aws logs describe-log-groups --query 'logGroups[].kmsKeyId' --output text | tr '\t' '\n' | sed "s|$KEY|the key of a log|"
  aws sqs get-queue-attributes --endpoint-url "$AWS_ENDPOINT_URL" --queue-url "$(of AWS::SQS::Queue)" \
    --attribute-names KmsMasterKeyId --query Attributes.KmsMasterKeyId --output text | sed "s|$KEY|the queue's key|"
  echo "own keys: $(of AWS::KMS::Key), dashboards: $(of AWS::CloudWatch::Dashboard)"
}
"#;

const WALK: &[Walk] = &[(
    "docs/lock.md",
    "## Rules of a company",
    &[
        Given(
            r#"infra/deploy --health-check "$PRIMARY" --email sre@example.com --set AlarmActionsEnabled=true --tag Team=it --tag Note="a b""#,
        ),
        Fails(&[
            "does not let sns.amazonaws.com logs.us-east-1.amazonaws.com use it; docs/lock.md#rules-of-a-company",
        ]),
        Given("allow_all; infra/deploy --tag Team=sre"),
        Then("shown", &["Note=a b\nTeam=sre\n/\n/\n/\nNone", "dashboards: failover\n"]),
        Given("again"),
        Then(
            "shown",
            &[
                "CostCenter=42\nNote=a b\nTeam=sre\n/apps/\n/apps/\n/apps/\n",
                "the key of a log\nthe key of a log\nthe key of a log\nthe queue's key\nown keys: , dashboards: \n",
            ],
        ),
        // What is not given stays.
        Then("infra/deploy; shown", &["No changes to deploy", "CostCenter=42\nNote=a b\nTeam=sre\n/apps/\n"]),
        Run(&["Successfully created/updated stack"]),
        Then("shown | grep -c 'own keys: [0-9a-f]'", &["1"]),
    ],
)];

#[tokio::test]
async fn a_stack_follows_the_rules_of_a_company_and_keeps_what_a_later_run_does_not_name() {
    let aws = Emulator::own_ministack().await;
    let check = aws.health_check(1).await;
    let artifact = aws.package("failover-lock");
    let variables = [
        ("PRIMARY", check.as_str()),
        ("COST_CENTER", "42"),
        ("BOUNDARY", "arn:aws:iam::000000000000:policy/boundary"),
        ("ARTIFACT", artifact.to_str().expect("UTF-8")),
    ];
    let commands = crate::support::docs::commands_below("lock.md", "## Rules of a company").concat();
    let around = format!("{AROUND}\nagain() {{\n{commands}}}\n");
    walk(&aws, WALK, &around, &variables).await;
}

#[tokio::test]
async fn a_rule_that_cannot_be_followed_is_refused_before_any_change() {
    let aws = Emulator::own_ministack().await;
    let check = aws.health_check(1).await;
    for (options, status, said) in [
        ("--tag Team", 2, "--tag takes KEY=VALUE, not \"Team\""),
        ("--tag =sre", 2, "--tag takes KEY=VALUE, not \"=sre\""),
        ("--tag aws:Team=sre", 2, "keys that begin with aws: are reserved"),
        ("--key alias/own", 1, "the key alias/own is not the ARN of a key in us-east-1"),
        ("--key arn:aws:kms:eu-west-1:000000000000:key/x", 1, "is not the ARN of a key in us-east-1"),
        ("--key arn:aws:kms:us-east-1:000000000000:key/x", 1, "the policy of the key"),
    ] {
        let (ended, printed) = aws.deploy(&format!("--health-check {check} --email a@b.c {options}")).await;
        assert!(ended == Some(status) && printed.contains(said), "{options}: {ended:?} {printed}");
    }
    let (_, stacks) =
        aws.bash("aws cloudformation list-stacks --query StackSummaries && aws s3 ls", &[]).await;
    assert_eq!(stacks.trim(), "[]");
}

/// A topic of its own, whose policy names the account's principals alone.
const TOPIC: &str = r#"
PATH=$TOOLS:$PATH
infra/deploy() { command infra/deploy --artifact "$ARTIFACT" --arch x86_64 --wait 0 --health-check "$PRIMARY" --set AlarmActionsEnabled=true "$@"; }
TOPIC=$(aws sns create-topic --name people --query TopicArn --output text) INTEGRATION_URL=https://events.example.com/integration/x/enqueue
policy() {
  aws sns set-topic-attributes --topic-arn "$TOPIC" --attribute-name Policy \
    --attribute-value "{\"Version\": \"2012-10-17\", \"Statement\": [$1]}"
}
account='{"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::000000000000:root"}, "Action": "sns:*", "Resource": "*"}'
alarms=$(printf %s "$STATEMENT" | sed 's/123456789012/000000000000/g')
denial='{"Effect": "Deny", "Principal": "*", "Action": "sns:Publish", "Resource": "*", "Condition": {"StringNotEquals": {"aws:SourceAccount": "999999999999"}}}'
"#;

const SLACK: &[Walk] = &[(
    "docs/lock.md",
    "## Slack and PagerDuty",
    &[
        Given("policy \"$account\""),
        Then(
            "! infra/deploy --notify \"$TOPIC\"; aws s3 ls",
            &["does not let CloudWatch publish: no one would be notified; docs/lock.md#slack-and-pagerduty"],
        ),
        Given("policy \"$account, $alarms\""),
        Run(&["SubscriptionArn"]),
        Then(
            "infra/deploy --notify \"$TOPIC\" || true",
            &["NOT GUARDED AS IT SHOULD BE", "https https://events.example.com"],
        ),
        // Its text names CloudWatch, and its denial shuts it out.
        Given("policy \"$account, $alarms, $denial\""),
        Then(
            "failoverctl doctor \"$PRIMARY\" || true",
            &[
                "WRONG   topic         the policy of arn:aws:sns:us-east-1:000000000000:people does not let CloudWatch publish",
                "add the statement of docs/lock.md#slack-and-pagerduty",
            ],
        ),
        Given("policy \"$account, $alarms\""),
        Then(
            "! failoverctl doctor \"$PRIMARY\" | grep 'does not let CloudWatch'; echo accepted",
            &["accepted"],
        ),
    ],
)];

#[tokio::test]
async fn a_topic_whose_policy_shuts_cloudwatch_out_is_refused_and_found() {
    let aws = Emulator::own_ministack().await;
    let check = aws.health_check(1).await;
    let artifact = aws.package("failover-lock");
    let page = fs::read_to_string(root().join("docs/lock.md")).unwrap();
    let (_, statement) =
        page.split_once("## Slack and PagerDuty").unwrap().1.split_once("```json\n").unwrap();
    let variables = [
        ("PRIMARY", check.as_str()),
        ("TOOLS", programs()),
        ("STATEMENT", statement.split("```").next().unwrap()),
        ("ARTIFACT", artifact.to_str().expect("UTF-8")),
    ];
    walk(&aws, SLACK, TOPIC, &variables).await;
}
