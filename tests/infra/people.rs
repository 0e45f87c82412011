//! The policies for people: each call of failoverctl is in one of them, and a viewer can change nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::runbook::programs;
use crate::support::docs::commands_below;
use crate::support::emulator::Emulator;
use crate::support::root;

/// Of the calls that the sources name, those that only functions make, or that no policy has to allow.
const NOT_OF_PEOPLE: [&str; 1] = ["sts:GetCallerIdentity"];
/// Those that the sources do not name in a call: objects of the latch.
const UNNAMED: [&str; 2] = ["s3:DeleteObject", "s3:PutObject"];

/// The actions of the calls in the Rust files below this path.
fn called(path: &Path) -> BTreeSet<String> {
    if path.is_dir() {
        return fs::read_dir(path).unwrap().flat_map(|entry| called(&entry.unwrap().path())).collect();
    }
    let text = fs::read_to_string(path).unwrap();
    let after = text.split("Call::new(").skip(1);
    after
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next().map(str::to_owned))
        .collect()
}

/// The actions that a policy of the template allows.
fn allowed(policy: &str) -> BTreeSet<String> {
    let template = fs::read_to_string(root().join("infra/people.yaml")).unwrap();
    let (_, rest) = template
        .split_once(&format!("\n  {policy}:\n    Type: AWS::IAM::ManagedPolicy\n"))
        .expect("it is there");
    let resource = rest.split("\n\n").next().unwrap();
    let words = resource.split([' ', '\n', '[', ']', ',']);
    let is_action = |word: &&str| {
        let (service, action) = word.split_once(':').unwrap_or_default();
        !service.is_empty()
            && action.starts_with(char::is_uppercase)
            && action.chars().all(char::is_alphanumeric)
    };
    words.filter(is_action).map(str::to_owned).collect()
}

fn only_reads(action: &str) -> bool {
    let (_, action) = action.split_once(':').unwrap();
    ["Describe", "Filter", "Get", "List", "Simulate"].iter().any(|verb| action.starts_with(verb))
}

#[test]
fn each_call_of_failoverctl_is_in_one_of_the_policies_and_a_viewer_only_reads() {
    let mut calls: BTreeSet<String> = UNNAMED.map(str::to_owned).into();
    for path in ["src/cli", "src/failover_lock", "src/latch"] {
        calls.extend(called(&root().join(path)));
    }
    // `fence status` reads with the functions' code; what changes the accelerator is theirs alone.
    for file in ["accelerator.rs", "load_balancer.rs"] {
        let called = called(&root().join("src/site_fence").join(file));
        calls.extend(called.into_iter().filter(|action| only_reads(action)));
    }
    for action in NOT_OF_PEOPLE {
        assert!(calls.remove(action), "{action}");
    }
    assert!(calls.len() > 40, "{calls:#?}");
    let (viewer, operator) = (allowed("Viewer"), allowed("Operator"));
    assert_eq!(viewer.union(&operator).cloned().collect::<BTreeSet<_>>(), calls);
    assert!(viewer.is_disjoint(&operator), "an operator has both");
    assert!(viewer.iter().all(|action| only_reads(action)), "{viewer:#?}");
    // To see the end of its own change of the records.
    let reads: Vec<_> = operator.iter().filter(|action| only_reads(action)).collect();
    assert_eq!(reads, ["route53:GetChange"]);
}

const PEOPLE: &str = r#"
policy() {
  aws cloudformation describe-stacks --stack-name failover-people --output text --query "Stacks[0].Outputs[?OutputKey=='$1'].OutputValue"
}
user() {
  local name=$1 policy
  shift
  aws iam create-user --user-name "$name" >/dev/null
  for policy; do aws iam attach-user-policy --user-name "$name" --policy-arn "$(policy "$policy")"; done
  aws iam create-access-key --user-name "$name" --query AccessKey.[AccessKeyId,SecretAccessKey] --output text |
    { read -r id secret; printf '[profile %s]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$name" "$id" "$secret"; } >>"$FOLDER/config"
}
user viewer Viewer
user operator Viewer Operator
export AWS_CONFIG_FILE=$FOLDER/config PATH=$TOOLS:$PATH
echo "--- status"; failoverctl status --profile viewer "$CHECK" 2>&1 || true
echo "--- doctor"; failoverctl doctor --profile viewer "$CHECK" 2>&1 || true
echo "--- lock by a viewer"; failoverctl lock --profile viewer "$CHECK" --reason test --yes 2>&1 || true
echo "--- lock"; failoverctl lock --profile operator "$CHECK" --reason test --yes 2>&1
echo "--- restore by a viewer"; failoverctl restore --profile viewer "$CHECK" --reason test --yes --force 2>&1 || true
echo "--- restore"; failoverctl restore --profile operator "$CHECK" --reason test --yes --force 2>&1
"#;

#[tokio::test]
async fn a_viewer_sees_everything_and_an_operator_locks_and_restores_where_permissions_are_enforced() {
    let aws = Emulator::own_ministack_enforcing_permissions().await;
    let check = aws.health_check(1).await;
    let options = format!("--health-check {check} --email sre@example.com --set AlarmActionsEnabled=true");
    let (_, said) = aws.deploy(&options).await;
    assert!(said.contains("failover-reconcile"), "{said}");
    // Its functions have to be allowed what the emulator takes for a request about `*`.
    let role = r#"for name in Lock Restore Reconcile; do
          role=$(aws cloudformation describe-stack-resource --stack-name failover --logical-resource-id "${name}Role" \
            --query StackResourceDetail.PhysicalResourceId --output text)
          aws iam put-role-policy --role-name "$role" --policy-name all --policy-document \
            '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
        done"#;
    assert_eq!(aws.bash(role, &[]).await.0, Some(0));
    let folder = std::env::temp_dir().join(format!("people-{:016x}", fastrand::u64(..)));
    fs::create_dir_all(&folder).unwrap();
    let variables = [("FOLDER", folder.to_str().unwrap()), ("CHECK", &check), ("TOOLS", programs())];
    // The emulator takes every request about a health check for one about `*`.
    let template = fs::read_to_string(root().join("infra/people.yaml")).unwrap();
    let lock = r#"!Sub "arn:${AWS::Partition}:route53:::healthcheck/${HealthCheckId}""#;
    assert!(template.contains(lock), "{template}");
    // It asks for other permissions to read a function's concurrency, its alias, and where its failures go.
    let read = "              - lambda:GetFunctionConcurrency\n";
    let others = "              - lambda:PutFunctionConcurrency\n              - lambda:GetFunction\n              - lambda:ListAliases\n";
    let template = template.replace(lock, r#""*""#).replace(read, &[read, others].concat());
    fs::write(folder.join("people.yaml"), template).unwrap();
    let deploy = commands_below("failoverctl.md", "## Permissions").concat();
    assert!(deploy.contains(" infra/people.yaml "), "{deploy}");
    let deploy = deploy.replace(" infra/people.yaml ", r#" "$FOLDER/people.yaml" "#);
    let (status, said) = aws.bash(&format!("{deploy}\n{PEOPLE}"), &variables).await;
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(status, Some(0), "{said}");
    let steps: Vec<_> = said.split("--- ").skip(1).collect();
    let [status, doctor, lock_by_viewer, lock, restore_by_viewer, restore] = steps[..] else {
        panic!("{said}")
    };
    let is_denied = |step: &str| step.contains("Grant the caller") || step.contains("not authorized");
    for (step, seen) in [
        (status, "\narmed "),
        (doctor, "\nok      people "),
        (lock, "locked (/lb-check"),
        (restore, "restored ("),
    ] {
        assert!(step.contains(seen) && !is_denied(step), "{step}");
    }
    for (step, action) in
        [(lock_by_viewer, "route53:UpdateHealthCheck"), (restore_by_viewer, "lambda:InvokeFunction")]
    {
        assert!(is_denied(step) && step.contains(action), "{step}");
    }
}
