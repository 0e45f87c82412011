//! `infra/terraform` by Terraform, and `infra/cdk` by Node.js, each deployed to an emulator in which the stack then locks.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;

use support::emulator::Emulator;

/// What the reader of an example does once it is deployed: the primary is seen healthy, and then fails.
const AROUND: &str = r#"
path() { aws route53 get-health-check --health-check-id "$1" --query HealthCheck.HealthCheckConfig.ResourcePath --output text; }
state() { aws cloudwatch set-alarm-state --alarm-name "$1" --state-value "$2" --state-reason test; }
healthy() {
  aws cloudwatch put-metric-data --namespace AWS/Route53 --metric-name HealthCheckStatus \
    --dimensions "HealthCheckId=$1" --value 1
}
reconcile() { aws lambda invoke --function-name "$1-reconcile:live" --payload '{}' /dev/stdout; }
fail() { state "$1" ALARM; until path "$2" | grep -x /lb-check-failed-over; do sleep 0.1; done; }
"#;

/// Terraform's provider is `provider.py`, whose packages are installed by the first run.
const TERRAFORM: &str = r#"
packages=$TARGET/packages-$(cksum <foreign/tests/as_code/requirements.txt | cut -d ' ' -f 1)
if [ ! -e "$packages/complete" ]; then
  rm -rf "$packages"
  python -m pip install --quiet --disable-pip-version-check --no-deps --target "$packages" \
    --requirement foreign/tests/as_code/requirements.txt
  touch "$packages/complete"
fi
provider=$WORK/mirror/registry.terraform.io/hashicorp/aws/6.25.0/$(terraform version | sed -n 's/^on //p')
mkdir -p "$provider"
printf '#!/bin/sh\nPYTHONPATH=%s exec %s %s "$@"\n' "$packages" "$(command -v python)" "$PWD/foreign/tests/as_code/provider.py" \
  >"$provider/terraform-provider-aws_v6.25.0"
chmod 755 "$provider/terraform-provider-aws_v6.25.0"
printf 'disable_checkpoint = true\nprovider_installation {\n  filesystem_mirror {\n    path = "%s"\n  }\n}\n' "$WORK/mirror" >"$WORK/rc"
export TF_CLI_CONFIG_FILE=$WORK/rc TF_IN_AUTOMATION=1 TF_INPUT=0 TF_CLI_ARGS=-no-color
cp "$ARTIFACT" "$WORK/failover-lock-arm64.zip"
export TF_VAR_artifact=$WORK/failover-lock-arm64.zip TF_VAR_bucket=code
same() { terraform plan -detailed-exitcode >"$WORK/plan" || { cat "$WORK/plan"; return 1; }; }

terraform fmt -check -recursive infra/terraform
cp -R infra/failover-lock.yaml infra/terraform "$WORK"
cd "$WORK/terraform"
terraform init >"$WORK/init"
terraform validate
terraform test
for example in examples/*; do
  (cd "$example" && terraform init >"$WORK/init" && terraform validate)
done

echo === one check
cd examples/one-check
terraform apply -auto-approve
same
check=$(terraform output -raw health_check_id)
healthy "$check"
state failover-primary-unhealthy OK
reconcile failover
export TF_VAR_primary_is_up=true
terraform apply -auto-approve
reconcile failover
fail failover-primary-unhealthy "$check"
echo === an apply while it is locked
same
terraform apply -auto-approve
echo "the path is $(path "$check")"
echo "tags: $(aws route53 list-tags-for-resource --resource-type healthcheck --resource-id "$check" --output text)"
echo === an apply that would undo the lock
sed -i.bak '/lifecycle {/,/^  }/d' main.tf
! terraform plan -detailed-exitcode
mv main.tf.bak main.tf
echo === another architecture
! terraform plan -var architecture=x86_64
terraform destroy -auto-approve

echo === many checks
cd ../many-checks
aws s3api create-bucket --bucket code
terraform apply -auto-approve
same
export TF_VAR_primaries='{"shop.example.com"=true,"login.example.com"=true}'
terraform apply -auto-approve
aws route53 list-health-checks --query 'HealthChecks[].Id' --output text | tr '\t' '\n' >"$WORK/checks"
while read -r check; do healthy "$check"; done <"$WORK/checks"
for site in shop login; do state "failover-$site-example-com-primary-unhealthy" OK; done
reconcile failover
shop=$(aws route53 list-health-checks --output text \
  --query "HealthChecks[?HealthCheckConfig.FullyQualifiedDomainName=='shop.example.com'].Id")
fail failover-shop-example-com-primary-unhealthy "$shop"
same
"#;

/// As the CDK's own command line would deploy it: the assets into the bootstrap's bucket, then the stack.
const CDK: &str = r#"
cp -R infra/failover-lock.yaml infra/cdk "$WORK"
cp "$ARTIFACT" "$WORK/failover-lock-arm64.zip"
cd "$WORK/cdk"
rm -rf node_modules dist
npm ci --no-audit --no-fund
npm test

check=$(aws route53 create-health-check --caller-reference cdk --query HealthCheck.Id --output text \
  --health-check-config Type=HTTP,IPAddress=127.0.0.1,Port=1,ResourcePath=/lb-check)
bucket=cdk-hnb659fds-assets-000000000000-us-east-1
aws s3api create-bucket --bucket "$bucket"
aws ssm put-parameter --name /cdk-bootstrap/hnb659fds/version --type String --value 28
deploy() {
  CDK_OUTDIR=$WORK/out CDK_CONTEXT_JSON='{"artifact":"'$WORK'/failover-lock-arm64.zip","healthCheckId":"'$check'","primaryIsUp":"'$2'"}' \
    node dist/examples/app.js
  python - "$WORK/out" "$bucket" <<'EOT'
import boto3, json, os, sys
folder, bucket = sys.argv[1:]
for file in json.load(open(f"{folder}/FailoverLock.assets.json"))["files"].values():
    [to] = file["destinations"].values()
    assert to["bucketName"].replace("${AWS::AccountId}", "000000000000") == bucket
    boto3.client("s3").upload_file(os.path.join(folder, file["source"]["path"]), bucket, to["objectKey"])
    print(to["objectKey"])
EOT
  aws s3api put-object --bucket "$bucket" --key template.json --body "$WORK/out/FailoverLock.template.json"
  aws cloudformation "$1-stack" --stack-name failover --capabilities CAPABILITY_IAM \
    --template-url "https://s3.us-east-1.amazonaws.com/$bucket/template.json"
  aws cloudformation wait "stack-$1-complete" --stack-name failover
}
deploy create false
cfn-lint --non-zero-exit-code error "$WORK/out/FailoverLock.template.json"
healthy "$check"
state failover-primary-unhealthy OK
reconcile failover
deploy update true
reconcile failover
fail failover-primary-unhealthy "$check"
"#;

/// Runs a script with the function's artifact in a new folder; what it prints.
async fn run(name: &str, script: &str) -> String {
    let aws = Emulator::own_ministack().await;
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let work = target.join("work");
    let _none = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).expect("target/tmp can be written");
    let artifact = aws.package("failover-lock");
    let text = |path: &Path| path.to_str().expect("the target folder's name is UTF-8").to_owned();
    let variables = [("TARGET", text(&target)), ("WORK", text(&work)), ("ARTIFACT", text(&artifact))];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let (status, said) = aws.bash(&format!("exec 2>&1\n{AROUND}{script}"), &variables).await;
    assert_eq!(status, Some(0), "{said}");
    said
}

/// Whether these texts are printed in this order.
fn has_in_order(said: &str, texts: &[&str]) {
    let mut rest = said;
    for text in texts {
        let at = rest.find(text).unwrap_or_else(|| panic!("not printed, or not there: {text}\n{said}"));
        rest = &rest[at + text.len()..];
    }
}

#[tokio::test]
#[ignore = "needs Terraform, and takes a minute of CPU: `just as-code`"]
async fn terraform_deploys_the_module_and_does_not_undo_its_lock() {
    let said = run("terraform", TERRAFORM).await;
    has_in_order(
        &said,
        &[
            "Success! 6 passed, 0 failed.",
            "=== one check",
            "6 added, 0 changed, 0 destroyed",
            r#""reason": "actions_disabled""#,
            "0 added, 1 changed, 0 destroyed",
            r#""outcome": "armed""#,
            "/lb-check-failed-over\n",
            "=== an apply while it is locked",
            "0 added, 0 changed, 0 destroyed",
            "the path is /lb-check-failed-over",
            "failover-lock:out",
            "=== an apply that would undo the lock",
            r#"~ resource_path     = "/lb-check-failed-over" -> "/lb-check""#,
            r#"- "failover-lock:out""#,
            "=== another architecture",
            "Run infra/package x86_64",
            "=== many checks",
            "7 added, 0 changed, 0 destroyed",
            "0 added, 2 changed, 0 destroyed",
            r#""outcome": "armed""#,
            r#""outcome": "armed""#,
            "/lb-check-failed-over\n",
        ],
    );
}

#[tokio::test]
#[ignore = "needs Node.js and npm, and takes half a minute of CPU: `just as-code`"]
async fn the_cdks_stack_is_the_template_and_locks() {
    let said = run("cdk", CDK).await;
    has_in_order(
        &said,
        &[
            "# fail 0",
            "failover-lock-arm64-",
            r#""reason": "actions_disabled""#,
            r#""outcome": "armed""#,
            "/lb-check-failed-over\n",
        ],
    );
}
