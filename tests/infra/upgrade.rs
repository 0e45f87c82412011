//! An update of the functions and the way back, with an alarm at every moment of both.

use std::fs;
use std::path::PathBuf;

use crate::runbook::programs;
use crate::support::emulator::Emulator;
use crate::support::lock::message;
use crate::support::primary::Primary;
use crate::support::program::program;
use crate::support::root;

/// Two artifacts. Each notes if it finds the variables of the other.
const ARTIFACTS: &str = r#"
for code in a:false b:true; do
  mkdir "$FOLDER/${code%:*}"
  cat >"$FOLDER/${code%:*}/bootstrap" <<EOF
#!/bin/sh
[ "\$RELOCK_UNDONE" = ${code#*:} ] || echo "${code%:*} with \$RELOCK_UNDONE" >>'$FOLDER/mixed'
exec '$LOCK' "\$@"
EOF
  chmod 755 "$FOLDER/${code%:*}/bootstrap"
  python -m zipfile -c "$FOLDER/${code%:*}.zip" "$FOLDER/${code%:*}/bootstrap"
done
"#;

/// An alarm for a check that is in service: prints the version of `lock` that has handled it, once the check is locked. Each is
/// of a second of its own, because `lock` takes those of one second for one.
const FIRE: &str = r#"#!/usr/bin/env bash
set -eu
exec </dev/null >>"$FOLDER/fired" 2>&1
now=$(date +%s) next=$(($(<"$FOLDER/at") + 1))
[ "$next" -gt "$now" ] || next=$now
echo "$next" >"$FOLDER/at"
at=$(date -u -d "@$next" +%Y-%m-%dT%H:%M:%S)
"$AWS" route53 update-health-check --health-check-id "$CHECK" --resource-path /lb-check >"$FOLDER/answer"
"$AWS" sns publish --topic-arn arn:aws:sns:us-east-1:000000000000:failover-alarms --message "${MESSAGE/AT/$at.500+0000}" >"$FOLDER/answer"
log() { "$AWS" logs filter-log-events --log-group-name /aws/lambda/failover-lock --start-time "$((now - 2))000" --output text --query 'events[].message'; }
for look in {1..200}; do
  version=$(log | tr '\t' '\n' | awk -v at="\"changedAt\":\"$at.500" '/^START RequestId/ { version = $NF } index($0, at) { print version; exit }')
  path=$("$AWS" route53 get-health-check --health-check-id "$CHECK" --query HealthCheck.HealthCheckConfig.ResourcePath --output text)
  if [ -n "$version" ] && [ "$path" = /lb-check-failed-over ]; then echo "$version"; exit; fi
  sleep 0.1
done
echo "LOST: $at, $path"; log
"#;

/// The AWS CLI, with an alarm before each of its calls that changes something or invokes a function, and all the time while
/// `CloudFormation` works.
const FIRING: &str = r#"#!/usr/bin/env bash
case "$*" in
*" get-"* | *" describe-"* | *" list-"* | *" head-"*) ;;
*) "$FOLDER/fire" ;;
esac
case "$*" in
*"cloudformation deploy"*)
  "$AWS" "$@" &
  while kill -0 $! 2>/dev/null; do "$FOLDER/fire"; done
  wait $! ;;
*) exec "$AWS" "$@" ;;
esac
"#;

/// `deploy` deploys one of the two artifacts; `step` is a step with an alarm after it, and at every call of it.
const AROUND: &str = r#"
AWS=$(type -P aws); export AWS
deploy() {
  infra/deploy --artifact "$FOLDER/$1.zip" --arch x86_64 --wait 0 --set AlarmActionsEnabled=true \
    --set "RelockUndone=$([ "$1" = b ] && echo true || echo false)" "${@:2}"
}
step() {
  echo "--- $1" >>"$FOLDER/fired"
  PATH=$FOLDER/bin:$PATH "${@:2}"
  "$FOLDER/fire"
}
alias() { aws lambda get-alias --function-name "failover-$1" --name live --query FunctionVersion --output text; }
live() { echo "live: $(alias lock) $(alias restore) $(alias reconcile)"; }
"#;

/// A stack to be, with its folder.
struct Stack {
    aws: Emulator,
    check: String,
    folder: PathBuf,
    _primary: Primary,
}

impl Stack {
    async fn new() -> Self {
        let aws = Emulator::own_ministack().await;
        let primary = Primary::start("/lb-check").await;
        let check = aws.health_check(primary.address.port()).await;
        aws.report(&check, "1", 0).await;
        let folder = std::env::temp_dir().join(format!("upgrade-{:016x}", fastrand::u64(..)));
        fs::create_dir_all(folder.join("bin")).unwrap();
        for (name, text) in [("fire", FIRE), ("bin/aws", FIRING)] {
            fs::write(folder.join(name), text).unwrap();
        }
        let stack = Self { aws, check, folder, _primary: primary };
        stack.does(&format!("chmod 755 \"$FOLDER\"/fire \"$FOLDER\"/bin/*\n{ARTIFACTS}")).await;
        stack
    }

    async fn run(&self, script: &str) -> (Option<i32>, String) {
        let (lock, message) = (program("failover-lock"), message(&self.check, "ALARM", "AT"));
        let variables = [
            ("FOLDER", self.folder.to_str().expect("UTF-8")),
            ("LOCK", lock.to_str().expect("UTF-8")),
            ("CHECK", &self.check),
            ("MESSAGE", &message),
            ("CTL", programs()),
        ];
        self.aws.bash(&format!("exec 2>&1\n{AROUND}{script}"), &variables).await
    }

    /// Runs a script that succeeds; what it prints.
    async fn does(&self, script: &str) -> String {
        let (status, said) = self.run(script).await;
        assert_eq!(status, Some(0), "{said}");
        said
    }

    /// Deploys the artifact a, and lets its alarm go off.
    async fn deployed(&self) {
        let deploy = "deploy a --health-check \"$CHECK\" --email sre@example.com";
        let alarm = "aws cloudwatch set-alarm-state --alarm-name failover-primary-unhealthy --state-value ALARM --state-reason test";
        self.does(&format!("{deploy}\n{alarm}\ndate +%s >\"$FOLDER/at\"")).await;
    }

    /// Which versions have handled the alarms of each step, in their order. None was lost, and no code had the variables of
    /// another.
    fn fired(&self) -> Vec<(String, Vec<String>)> {
        let fired = fs::read_to_string(self.folder.join("fired")).unwrap();
        assert!(!fired.contains("LOST"), "{fired}");
        let mixed = fs::read_to_string(self.folder.join("mixed"));
        assert!(mixed.is_err(), "{mixed:?}");
        let steps = fired.split("--- ").skip(1).map(|step| {
            let mut lines = step.lines().map(str::to_owned);
            (lines.next().expect("a step has a name"), lines.collect())
        });
        steps.collect()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The versions, in their turn.
fn turn(versions: &[String]) -> Vec<&str> {
    let mut turn: Vec<_> = versions.iter().map(String::as_str).collect();
    turn.dedup();
    turn
}

#[tokio::test]
async fn every_alarm_of_an_update_and_of_a_rollback_locks_with_the_code_and_the_variables_of_one_version() {
    let stack = Stack::new().await;
    stack.deployed().await;
    let said = stack
        .does(
            "step update deploy b; live
            step rollback infra/deploy --rollback; live
            step again infra/deploy --rollback; live
            step forward deploy b; live",
        )
        .await;
    let live: Vec<_> = said.lines().filter(|line| line.starts_with("live: ")).collect();
    assert_eq!(live, ["live: 2 2 2", "live: 1 1 1", "live: 1 1 1", "live: 2 2 2"], "{said}");
    let fired = stack.fired();
    let turns: Vec<_> = fired.iter().map(|(step, versions)| (step.as_str(), turn(versions))).collect();
    let expected = [
        ("update", vec!["1", "2"]),
        ("rollback", vec!["2", "1"]),
        ("again", vec!["1"]),
        ("forward", vec!["1", "2"]),
    ];
    assert_eq!(turns, expected, "{fired:#?}");
    let least = [5, 5, 2, 5];
    assert!(fired.iter().zip(least).all(|((_, versions), least)| versions.len() >= least), "{fired:#?}");
    let back = "failover-lock: back from version 2, failover-lock-x86_64-";
    for text in [back, "failover-restore: runs version 1 already"] {
        assert!(said.contains(text), "{text}: {said}");
    }
}

/// The template without versions and aliases, as stacks of before were deployed.
fn former(template: &str) -> String {
    let template = template
        .replace("!Ref LockLive", "!GetAtt Lock.Arn")
        .replace("!Ref ReconcileLive", "!GetAtt Reconcile.Arn")
        .replace("[LockPermission, LockLiveInvocations]", "LockPermission")
        .replace("    DependsOn: ReconcileLive\n", "")
        .replace(" ${Deployment}\"\n", "\"\n");
    let is_new = |resource: &&str| {
        let name = resource.trim_start().split(':').next().unwrap_or_default();
        ["Version", "Live", "LiveInvocations"].iter().any(|end| name.ends_with(end))
    };
    let resources: Vec<_> = template.split("\n\n").filter(|resource| !is_new(resource)).collect();
    resources.join("\n\n").replace("      Qualifier: live\n", "      Qualifier: $LATEST\n")
}

#[tokio::test]
#[ignore = "it takes minutes"]
async fn every_alarm_locks_while_a_stack_without_versions_gets_them_and_there_is_nothing_to_roll_back_to() {
    let stack = Stack::new().await;
    let before = stack.folder.join("before/infra");
    fs::create_dir_all(&before).unwrap();
    for name in ["deploy", "common.sh", "versions.sh", "failover-lock.yaml"] {
        fs::copy(root().join("infra").join(name), before.join(name)).unwrap();
    }
    let template = before.join("failover-lock.yaml");
    fs::write(&template, former(&fs::read_to_string(&template).unwrap())).unwrap();
    let of_before = r#"infra/deploy() { "$FOLDER/before/infra/deploy" "$@"; }"#;
    let said = stack
        .does(&format!(
            "({of_before}; deploy a --health-check \"$CHECK\" --email sre@example.com || true)
            echo 0 >\"$FOLDER/at\"
            aws sns list-subscriptions --query 'Subscriptions[].[Endpoint]' --output text
            ! infra/deploy --rollback
            step update deploy b; live
            ! infra/deploy --rollback
            aws sns list-subscriptions --query 'Subscriptions[].[Endpoint]' --output text
            aws events list-targets-by-rule --rule failover-reconcile"
        ))
        .await;
    for text in [
        "function:failover-lock\n",
        "failover-lock has no alias \"live\" in us-east-1: there is no such function, or it was deployed without versions",
        "live: 1 1 1\n",
        "failover-lock has no version to go back to: infra/deploy has not updated it since it has versions",
        "function:failover-lock:live\n",
        "function:failover-reconcile:live\"",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
    let fired = stack.fired();
    let [(_, versions)] = &fired[..] else { panic!("{fired:?}") };
    // While both are subscribed, each alarm is delivered to both.
    assert_eq!(
        (versions.first().unwrap().as_str(), versions.last().unwrap().as_str()),
        ("$LATEST", "1"),
        "{versions:?}"
    );
}

#[tokio::test]
async fn a_rollback_is_repeated_until_it_is_whole_and_needs_no_cloudformation() {
    let stack = Stack::new().await;
    stack.deployed().await;
    // The AWS CLI without the answer to one of its calls, which is made or not, and failoverctl, with which a deployment ends.
    let cut_off = |call: &str, made: &str| {
        format!(
            r#"mkdir -p "$FOLDER/without"
            printf '%s\n' '#!/bin/sh' 'case "$*" in *"{call}"*) {made} echo no answer >&2; exit 255 ;; esac' 'exec "$AWS" "$@"' \
              >"$FOLDER/without/aws"
            chmod 755 "$FOLDER/without/aws"
            cut_off() {{ PATH=$FOLDER/without:$CTL:$PATH "$@"; }}
            "#
        )
    };
    let without = |call: &str| cut_off(call, "");
    // An update that was done, whatever was heard of it, can be taken back; of one that has failed there is nothing to take back.
    let lost = cut_off("cloudformation deploy", "\"$AWS\" \"$@\";");
    stack.does(&format!("{lost}! cut_off deploy b")).await;
    let failing = without("cloudformation deploy");
    stack.does(&format!("{failing}! cut_off deploy a")).await;
    let dry = stack.does("infra/deploy --rollback --dry-run; live").await;
    assert!(dry.contains("would go back from version 2, ") && dry.contains("live: 2 2 2"), "{dry}");

    let half = without("update-alias --function-name failover-restore");
    let said = stack.does(&format!("{half}! cut_off infra/deploy --rollback; live")).await;
    let named =
        "failover-restore was not rolled back (above); rolled back were: failover-lock. Repeat this command";
    assert!(said.contains(named) && said.contains("live: 1 2 2"), "{said}");
    let alone = without("cloudformation ");
    let said = stack.does(&format!("{alone}cut_off infra/deploy --rollback && live")).await;
    for text in [
        "whether the stack failover is being changed now was not seen: no answer",
        "failover-lock: runs version 1 already",
        "failover-reconcile: back from version 2",
        "live: 1 1 1",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
    let armed = "aws cloudwatch set-alarm-state --alarm-name failover-primary-unhealthy --state-value OK --state-reason test";
    let restore = "failoverctl restore \"$CHECK\" --yes --reason test";
    let said = stack
        .does(&format!("PATH=$CTL:$PATH; {armed}; {restore}; infra/deploy --rollback; echo \"status $?\""))
        .await;
    for text in [
        "nothing was changed: failover runs what ran before its last update",
        "look    versions      rolled back, or changed by hand: failover-lock runs version 1, and 2 is the newest",
        "→ to go forward: infra/deploy --stack failover",
        "status 0",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
}

#[tokio::test]
async fn a_rollback_that_would_go_anywhere_else_is_refused_before_any_change() {
    let stack = Stack::new().await;
    let refused = async |script: &str, said: &str| {
        let (status, printed) = stack.run(script).await;
        assert!(status != Some(0) && printed.contains(said), "{said}: {status:?} {printed}");
    };
    refused("infra/deploy --rollback --stack none", "none-lock has no alias \"live\" in us-east-1").await;
    stack.deployed().await;
    refused("infra/deploy --rollback", "failover-lock has no version to go back to").await;
    refused(
        "infra/deploy --rollback --set DryRun=true",
        "--rollback changes nothing else, and takes no --set",
    )
    .await;
    stack.does("deploy b").await;

    // A version that something else has published.
    let published =
        "aws lambda update-function-configuration --function-name failover-lock --timeout 59 --description x
        aws lambda update-alias --function-name failover-lock --name live --function-version \
          \"$(aws lambda publish-version --function-name failover-lock --query Version --output text)\"";
    stack.does(published).await;
    let said = "failover-lock runs version 3, which infra/deploy has not deployed: what ran before";
    refused("infra/deploy --rollback", said).await;
    let said = stack.does("deploy b; live").await;
    assert!(said.contains("failover-lock: from version 3 to 2, the deployed one"), "{said}");
    assert!(said.contains("live: 2 2 2"), "{said}");

    // A lock with a path that the version before does not know.
    let at = "aws route53 update-health-check --health-check-id \"$CHECK\" --resource-path";
    stack.does(&format!("{at} /lb-check; deploy b --locked-path /closed || true; {at} /closed")).await;
    let said = "is locked, and the version before has other paths: restore it first";
    refused("infra/deploy --rollback", said).await;
    // The same where an earlier try has taken the first function back.
    let live = |version| {
        format!(
            "aws lambda update-alias --function-name failover-lock --name live --function-version {version}"
        )
    };
    stack.does(&live(2)).await;
    refused("infra/deploy --rollback", said).await;
    stack.does(&live(4)).await;

    // Versions of two deployments.
    let other = "aws lambda update-alias --function-name failover-restore --name before --function-version 1";
    stack.does(other).await;
    refused("infra/deploy --rollback", "the versions before are not of one deployment").await;
    let said = stack.does("live").await;
    assert!(said.contains("live: 4 3 3"), "{said}");
}

#[tokio::test]
#[ignore = "it takes minutes"]
async fn what_the_functions_have_gives_them_new_versions_and_nothing_else_does() {
    let stack = Stack::new().await;
    let deploy = "deploy a --health-check \"$CHECK\" --email sre@example.com --set AlarmActionsEnabled";
    let said = stack
        .does(&format!(
            "({deploy}=false || true); live; {deploy}=true; live; deploy a; live
            deploy a --set MemorySize=256; live; deploy a; live; deploy b; live; deploy b --set Deployment=; live"
        ))
        .await;
    let live: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("live: ")).collect();
    let expected = ["1 1 1", "1 1 1", "1 1 1", "2 2 2", "2 2 2", "3 3 3", "$LATEST $LATEST $LATEST"];
    assert_eq!(live, expected, "{said}");
}
