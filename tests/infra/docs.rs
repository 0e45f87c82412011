//! The documented commands of failover-lock, from `docs`.

use crate::support::docs::commands_below;
use crate::support::emulator::Emulator;
use crate::support::primary::Primary;

/// The differences between the emulator and AWS: checkers that report by the check's path every second, an
/// artifact that is there already, and a short period for the alarm.
const PRELUDE: &str = r#"
infra/deploy() { command infra/deploy --artifact "$ARTIFACT" --arch x86_64 --wait 60 --set AlarmPeriod=10 "$@"; }
checkers() {
  while :; do
    asks=$(aws route53 get-health-check --health-check-id "$1" --query HealthCheck.HealthCheckConfig.ResourcePath --output text)
    aws cloudwatch put-metric-data --namespace AWS/Route53 --metric-name HealthCheckStatus \
      --dimensions "HealthCheckId=$1" --value "$([ "$asks" = /lb-check ] && echo 1 || echo 0)"
  done
}
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
"#;

/// Runs this script in one shell, with the variables that the reader has set.
async fn run(aws: &Emulator, variables: &[(&str, &str)], script: &str) -> String {
    let artifact = aws.package("failover-lock");
    let artifact = [("ARTIFACT", artifact.to_str().expect("the target folder's name is UTF-8"))];
    let given = [&[("EMAIL", "sre@example.com")], &artifact[..], variables].concat();
    let (status, said) = aws.bash(&format!("{PRELUDE}{script}"), &given).await;
    assert_eq!(status, Some(0), "{said}");
    said
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "docs/lock.md no longer contains {from} there");
    text.replace(from, to)
}

#[tokio::test]
async fn the_drill_locks_and_restores_a_check_of_its_own() {
    let aws = Emulator::own_ministack().await;
    let site = Primary::start("/lb-check").await;
    let script = commands_below("lock.md", "## Try it on a check of its own").concat();
    let local = format!("Type=HTTP,IPAddress=127.0.0.1,Port={}", site.address.port());
    let script = replaced(&script, "Type=HTTPS,FullyQualifiedDomainName=$HOST,Port=443", &local);
    let script = replaced(&script, "infra/deploy ", "checkers \"$DRILL\" &\ninfra/deploy ");
    let said = run(&aws, &[], &script).await;
    for step in ["is armed. ", "/lb-check-failed-over\n", "\"restored\"", "/lb-check\nOK\n"] {
        assert!(said.contains(step), "{step}: {said}");
    }
    let (_, left) = aws.bash("aws route53 list-health-checks --query HealthChecks", &[]).await;
    assert_eq!(left.trim(), "[]");
}

/// The guide's set-up, made by its commands, with the one change that this emulator's messages need:
/// they say `Value` where CloudWatch says `value`.
const DOCUMENTED: &str = r#"
cat >"$FOLDER/lambda.py" <<'EOF'
import boto3
import json

def handler(event, context):
    msg = json.loads(event['Records'][0]['Sns']['Message'])
    healthCheckId = msg['Trigger']['Dimensions'][0]['Value']
    response = boto3.client("route53").update_health_check(
        HealthCheckId=healthCheckId, ResourcePath="/lb-check-failed-over")
    print(json.dumps(response, default=str))
EOF
python -m zipfile -c "$FOLDER/lambda.zip" "$FOLDER/lambda.py"
aws sns create-topic --name "$PRIMARY" --region us-east-1
aws cloudwatch put-metric-alarm --alarm-actions "$TOPIC" --actions-enabled --alarm-name "$ALARM" \
  --dimensions "Name=HealthCheckId,Value=$PRIMARY" --comparison-operator LessThanThreshold --evaluation-periods 1 \
  --metric-name HealthCheckStatus --namespace AWS/Route53 --period 60 --statistic Minimum --threshold 1.0 \
  --treat-missing-data notBreaching --region us-east-1
aws iam create-role --role-name "$ROLE" --assume-role-policy-document '{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]}'
POLICY=$(aws iam create-policy --policy-name "$ROLE" --query Policy.Arn --output text --policy-document '{
  "Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["route53:UpdateHealthCheck"], "Resource": "*"}]}')
aws iam attach-role-policy --role-name "$ROLE" --policy-arn "$POLICY"
NEW=$(aws lambda create-function --function-name "$FUNCTION" --zip-file "fileb://$FOLDER/lambda.zip" --region "$REGION" \
  --handler lambda.handler --runtime python3.11 --role "arn:aws:iam::000000000000:role/$ROLE" --query FunctionArn --output text)
aws lambda add-permission --function-name "$FUNCTION" --statement-id function-with-sns --region "$REGION" \
  --action lambda:InvokeFunction --principal sns.amazonaws.com --source-arn "$TOPIC"
aws sns subscribe --protocol lambda --topic-arn "$TOPIC" --notification-endpoint "$NEW" --region us-east-1
"#;

/// `fire` lets the alarm go off and prints whether the check was locked; `trap fire DEBUG` does it between
/// any two commands.
const ALARMS: &str = r#"
path() { aws route53 get-health-check --health-check-id "$PRIMARY" --query HealthCheck.HealthCheckConfig.ResourcePath --output text; }
fire() {
  quiet
  # `lock` takes the alarms of one second for one.
  local now=$(date +%s)
  until [ "$(date +%s)" -gt "$now" ]; do sleep 0.1; done
  aws cloudwatch set-alarm-state --region us-east-1 --alarm-name "$ALARM" --state-value ALARM --state-reason test
  for look in {1..200}; do [ "$(path)" = /lb-check ] || { echo locked; return; }; sleep 0.1; done
  echo LOST
}
quiet() {
  aws route53 update-health-check --health-check-id "$PRIMARY" --resource-path /lb-check >"$FOLDER/last"
  aws cloudwatch put-metric-data --namespace AWS/Route53 --metric-name HealthCheckStatus \
    --dimensions "HealthCheckId=$PRIMARY" --value 1
  aws cloudwatch set-alarm-state --region us-east-1 --alarm-name "$ALARM" --state-value OK --state-reason test
}
# How often the guide's function, and this one, have locked; a run may still be under way.
count() {
  local now before=none same=0
  until [ "$same" = 5 ]; do
    now=$(aws logs filter-log-events --region "$REGION" --log-group-name "/aws/lambda/$FUNCTION" --output text \
      --query "length(events[?contains(message, '$1')])")
    if [ "$now" = "$before" ]; then same=$((same + 1)); else same=0; fi
    before=$now
    sleep 0.2
  done
  echo "$now"
}
guide() { count ResponseMetadata; }
this() { count '"done"'; }
# Waits until this count is greater than that: a function's answer comes before its log.
grown() {
  for look in {1..60}; do [ "$("$1")" -gt "$2" ] && return; done
  echo "$1 did not log more than $2 runs"
  return 1
}
"#;

/// Runs the documented commands for a replacement, with alarms between them.
async fn replaces(documented: &[String], commands: impl Fn(&[String]) -> String) -> String {
    let aws = Emulator::own_ministack().await;
    let primary = aws.health_check(1).await;
    let folder = std::env::temp_dir().join(format!("failover-lock-{primary}"));
    std::fs::create_dir_all(&folder).expect("a temporary folder can be made");
    let topic = format!("arn:aws:sns:us-east-1:000000000000:{primary}");
    let variables = [
        ("PRIMARY", primary.as_str()),
        ("ALARM", &primary),
        ("ROLE", &primary),
        ("FUNCTION", &primary),
        ("TOPIC", &topic),
        ("REGION", "eu-west-1"),
        ("FOLDER", folder.to_str().expect("the folder's name is UTF-8")),
    ];
    let script = commands(documented);
    let said = run(&aws, &variables, &format!("{DOCUMENTED}{ALARMS}{script}")).await;
    std::fs::remove_dir_all(&folder).expect("the folder is there");
    assert!(said.matches("locked\n").count() > 5 && !said.contains("LOST"), "{said}");
    assert!(said.contains("the guide is off the topic") && said.contains("the guide is back"), "{said}");
    said
}

#[tokio::test]
async fn the_documented_function_is_replaced_from_beside_and_no_alarm_is_lost_there_or_back() {
    let documented = commands_below("lock.md", "### Deploy the stack next to it, then remove it");
    let said = replaces(&documented, |blocks| {
        let [deploy, instead, back] = blocks else { panic!("{blocks:#?}") };
        format!(
            "fire; quiet
            {deploy}
            trap fire DEBUG
            {instead}
            trap - DEBUG; before=$(guide); fire; [ $(guide) = $before ] && echo the guide is off the topic
            trap fire DEBUG
            {back}
            trap - DEBUG; before=$(guide); fire; grown guide $before && echo the guide is back"
        )
    })
    .await;
    assert!(said.contains("\"would_lock\""), "{said}");
}

#[tokio::test]
async fn the_documented_function_is_replaced_in_its_place_and_no_alarm_is_lost_there_or_back() {
    let documented = commands_below("lock.md", "### Replace its code");
    let said = replaces(&documented, |blocks| {
        let [replace, act, instead, back] = blocks else { panic!("{blocks:#?}") };
        let replace = replaced(replace, "infra/package x86_64\n", "");
        let replace = replaced(&replace, "target/package/failover-lock-x86_64.zip", "$ARTIFACT");
        format!(
            "trap fire DEBUG
            {replace}
            trap - DEBUG; quiet
            {act}
            trap fire DEBUG
            {instead}
            trap - DEBUG; guide=$(guide) this=$(this); fire
            grown this $this && [ $(guide) = $guide ] && echo the guide is off the topic
            trap fire DEBUG
            {back}
            trap - DEBUG; guide=$(guide) this=$(this); fire
            grown guide $guide && [ $(this) = $this ] && echo the guide is back"
        )
    })
    .await;
    assert!(said.contains("\"would_lock\""), "{said}");
}
