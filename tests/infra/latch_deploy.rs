//! `infra/deploy latch`, as people use it. The emulator creates no health check from a template, and no name server knows
//! its zones: `tests/infra/stubs` stand between.

use std::fs;
use std::path::PathBuf;

use crate::runbook::programs;
use crate::support::docs::Step::{Given, Run, Then};
use crate::support::docs::{Walk, walk};
use crate::support::emulator::{Emulator, free_port, tools};
use crate::support::root;

const PAGE: &str = "docs/latch-deploy.md";
const RUNBOOK: &str = "docs/runbook.md";

/// A zone with failover records of `app.example.com`, whose PRIMARY record has the health check `$PRIMARY`.
const ZONE: &str = r#"
check() {
    aws route53 create-health-check --caller-reference "$1" --query HealthCheck.Id --output text \
        --health-check-config "Type=HTTPS,FullyQualifiedDomainName=$1.example.com,Port=443"
}
record() {
    aws route53 change-resource-record-sets --hosted-zone-id "$ZONE" --change-batch '{"Changes": [{"Action": "UPSERT",
        "ResourceRecordSet": {"Name": "'"$1"'", "Type": "'"$2"'", "SetIdentifier": "'"$3"'", "Failover": "'"$4"'", "TTL": 5,
        '"${5:+\"HealthCheckId\": \"$5\",}"' "ResourceRecords": [{"Value": "'"$6"'"}]}}]}' >/dev/null
}
ZONE=$(aws route53 create-hosted-zone --name example.com --caller-reference zone --query HostedZone.Id --output text)
ZONE=${ZONE#/hostedzone/} PRIMARY=$(check primary) STANDBY=$(check standby)
record app.example.com A primary PRIMARY "$PRIMARY" 192.0.2.1
record app.example.com A standby SECONDARY "" 192.0.2.2
cat >"$STATE/ip-ranges.json" <<'JSON'
{
  "prefixes": [
    {
      "ip_prefix": "192.0.2.0/24",
      "service": "ROUTE53_HEALTHCHECKS"
    },
    {
      "ip_prefix": "198.51.100.0/24",
      "service": "ROUTE53"
    }
  ]
}
JSON
deploy() {
    local status=0
    command infra/deploy latch ${REGIONS---regions eu-central-1,eu-west-1} --ranges "$STATE/ip-ranges.json" --arch x86_64 \
        --artifact "$ARTIFACT" --env "$STATE/failover-latch.env" --steady 0 --wait 0 "$@" || status=$?
    echo "ended with $status"
}
pair() {
    deploy --name app --domain app.example.com --zone "$ZONE" --primary "$PRIMARY" --standby "$STANDBY" \
        --people arn:aws:iam::000000000000:role/sre --email sre@example.com "$@"
}
checks_of_record() {
    aws route53 list-resource-record-sets --hosted-zone-id "$ZONE" --output text \
        --query "ResourceRecordSets[?Name=='$1.'].HealthCheckId"
}
dry_run() {
    aws lambda get-function-configuration --region "$1" --function-name latch-watch --output text \
        --query Environment.Variables.DRY_RUN
}
"#;

/// What a step of a script prints contains these texts.
type Step = (&'static str, &'static [&'static str]);

const DEPLOY_AND_ARM: &str = r#"
echo '"unhealthy"' >"$STATE/_second-latch.says"
echo "--- new"; pair 2>&1
rm "$STATE/_second-latch.says"
echo "--- seen"; deploy --name app 2>&1
cat "$STATE/failover-latch.env"
echo "serving refers to the primary's check: $([ "$(checks_of_record _serving.app.example.com)" = "$PRIMARY" ] && echo yes)"
echo "--- early"; deploy --arm 2>&1
echo "dry runs: $(dry_run eu-central-1) $(dry_run eu-west-1)"
LATCHED=$(cat "$STATE/Latched")
record app.example.com A primary PRIMARY "$LATCHED" 192.0.2.1
record _serving.app.example.com TXT primary PRIMARY "$LATCHED" '\"primary\"'
echo "--- attached"; deploy 2>&1
echo "attached still: $(checks_of_record _serving.app.example.com)" | sed "s/$LATCHED/LATCHED/"
printf '%s.\n' ns1.vanity.com NS1.elsewhere.info >"$STATE/delegation.says"
echo "--- moved"; deploy --arm 2>&1; deploy 2>&1; deploy --dry-run 2>&1
printf '%s.\n' ns1.nowhere.test >"$STATE/delegation.says"
echo "--- unseen"; deploy --arm 2>&1
rm "$STATE/delegation.says"
echo '"standby"' >"$STATE/_serving.says"
echo "--- failed over"; deploy --arm 2>&1
rm "$STATE/_serving.says"
aws s3api put-object --region eu-west-1 --bucket latch-000000000000-eu-west-1 --key latches/app >/dev/null
echo "--- locked"; deploy --arm 2>&1
aws s3api delete-object --region eu-west-1 --bucket latch-000000000000-eu-west-1 --key latches/app >/dev/null
echo "--- armed"; deploy --arm 2>&1
echo "dry runs: $(dry_run eu-central-1) $(dry_run eu-west-1)"
echo "attached still: $(checks_of_record _serving.app.example.com)" | sed "s/$LATCHED/LATCHED/"
echo "--- again"; REGIONS=""; deploy 2>&1
aws s3api get-object --region eu-central-1 --bucket latch-000000000000-eu-central-1 --key control /dev/stdout
echo "--- doctor"; PATH=$CTL:$PATH deploy 2>&1
aws cloudwatch delete-alarms --region eu-west-1 --alarm-names latch-app-silent
aws cloudwatch disable-alarm-actions --region eu-central-1 --alarm-names latch-app-slow
aws lambda put-function-concurrency --region eu-west-1 --function-name latch-watch --reserved-concurrent-executions 1 >/dev/null
variables() {
    aws lambda get-function-configuration --region eu-central-1 --function-name latch-watch --output json --query Environment |
        sed "s/$1/$2/" >"$STATE/variables.json"
    aws lambda update-function-configuration --region eu-central-1 --function-name latch-watch \
        --environment "file://$STATE/variables.json" >/dev/null
}
variables '"app:' '"web:'
echo "--- broken"; (cd "$STATE" && PATH=$CTL:$PATH failoverctl latch doctor app 2>&1) || true
variables '"web:' '"app:'
"#;

const ARMED: &[Step] = &[
    (
        "new",
        &[
            "not seen healthy on all name servers for 0 s: _second-latch.app.example.com",
            "NOT READY",
            "ended with 3",
        ],
    ),
    (
        "seen",
        &[
            "READY, AND NOT ATTACHED: app.",
            "ended with 0",
            "LATCHES=app:serving=_serving.app.example.com,primary=_primary.app.example.com,standby=_standby.app.example.com\n",
            "LATCH_BUCKETS=eu-central-1=latch-000000000000-eu-central-1,eu-west-1=latch-000000000000-eu-west-1\n",
            "NAME_SERVERS=ns-1.awsdns-1.com=192.0.2.",
            "BUCKET_OWNER=000000000000\nWATCH_BY=function\nLATCH_STACK=latch\n",
            "serving refers to the primary's check: yes",
        ],
    ),
    ("early", &["the latch app is not attached", "ended with 1", "dry runs: true true"]),
    ("attached", &["ATTACHED, AND IN A DRY RUN", "ended with 0", "attached still: LATCHED"]),
    (
        "moved",
        &[
            "infra/deploy latch: example.com. has the name server ns1.elsewhere.info., which does not serve the hosted zone",
            "infra/deploy latch: deployed, and example.com. has the name server ns1.elsewhere.info.",
            "ended with 1",
        ],
    ),
    (
        "unseen",
        &["example.com. has the name server ns1.nowhere.test., whose address was not seen", "ended with 1"],
    ),
    ("failed over", &["does not say \"primary\" on all name servers", "ended with 1"]),
    ("locked", &["the latch app is locked in the bucket latch-000000000000-eu-west-1", "ended with 1"]),
    ("armed", &["ARMED: app.", "ended with 0", "dry runs: false false", "attached still: LATCHED"]),
    ("again", &["ARMED: app.", "ended with 0", "\"by\""]),
    (
        "doctor",
        &[
            "ok      function      latch-watch in eu-central-1 is there, can run, and watches app\n",
            // The emulator gives the roles of both Regions one name, and so the policies of the second one.
            "ok      role          that of latch-watch allows what it needs\n",
            "ok      alarms        all 11 in eu-central-1 are there, none is in ALARM\n",
            "latch-notifications notifies email sre@example.com\n",
            // No name server knows the emulator's zones.
            "NOT ARMED AS IT SHOULD BE, or not wholly seen: failoverctl latch doctor (above) has what to repair of app",
            "ended with 3",
        ],
    ),
    (
        "broken",
        &[
            "WRONG   function      latch-watch in eu-central-1 does not watch app\n",
            "latch-watch in eu-west-1 has 1 reserved executions, and 3 at least by its template",
            "deleted in eu-west-1: latch-app-silent",
            "their actions are off: latch-app-slow",
        ],
    ),
];

const REMOVE: &str = r#"
echo "--- unknown"; deploy --remove web 2>&1
echo "--- still attached"; deploy --remove app 2>&1
record app.example.com A primary PRIMARY "$PRIMARY" 192.0.2.1
record app.example.com AAAA standby6 SECONDARY "" 2001:db8::2
record app.example.com AAAA primary6 PRIMARY "$LATCHED" 2001:db8::1
echo "--- one of two attached"; deploy --remove app 2>&1
record app.example.com AAAA primary6 PRIMARY "$PRIMARY" 2001:db8::1
echo "--- half attached"; deploy --remove app 2>&1
record _serving.app.example.com TXT primary PRIMARY "$PRIMARY" '\"primary\"'
record www.example.com A primary PRIMARY "$PRIMARY" 192.0.2.1
record www.example.com A standby SECONDARY "" 192.0.2.2
deploy --name w.w --domain www.example.com --zone "$ZONE" --primary "$PRIMARY" --standby "$STANDBY" 2>&1
echo "--- would remove"; deploy --remove app --dry-run 2>&1
aws s3api put-object --region eu-west-1 --bucket latch-000000000000-eu-west-1 --key latches/app >/dev/null
echo "--- removed while locked"; deploy --remove app 2>&1
aws s3api delete-object --region eu-west-1 --bucket latch-000000000000-eu-west-1 --key latches/app >/dev/null
mkdir "$STATE/late.d"
export STUBS=$(dirname "$(type -P aws)") ZONE LATCHED
export -f record
cat >"$STATE/late.d/aws" <<'SH'
#!/usr/bin/env bash
"$STUBS/aws" "$@" || exit
# As `failoverctl latch attach` does while the stacks are updated.
case "$*" in "--region eu-west-1 "*" deploy --stack-name latch "*) record app.example.com A primary PRIMARY "$LATCHED" 192.0.2.1 ;; esac
SH
chmod +x "$STATE/late.d/aws"
echo "--- attached meanwhile"; PATH=$STATE/late.d:$PATH deploy --remove app 2>&1
record app.example.com A primary PRIMARY "$PRIMARY" 192.0.2.1
echo "--- removed"; deploy --remove app 2>&1
cat "$STATE/failover-latch.env"
for region in eu-central-1 eu-west-1; do
    aws lambda get-function-configuration --region $region --function-name latch-watch --output text \
        --query Environment.Variables.LATCHES
done
echo "--- removed again"; deploy --remove app 2>&1
echo "--- of a similar name"; deploy --remove w_w 2>&1
echo "--- last"; deploy --remove w.w 2>&1
for region in eu-central-1 eu-west-1; do
    aws cloudformation list-stacks --region $region --output text --query \
        "StackSummaries[?StackStatus!='DELETE_COMPLETE'].StackName"
done
aws s3 ls | grep -c ' latch-'
"#;

const REMOVED: &[Step] = &[
    ("unknown", &["there is no latch web in the stack latch, only: app", "ended with 1"]),
    (
        "still attached",
        &["the PRIMARY record of app.example.com refers to the latch's check", "ended with 1"],
    ),
    (
        "one of two attached",
        &["the PRIMARY record of app.example.com refers to the latch's check", "ended with 1"],
    ),
    (
        "half attached",
        &[
            "the PRIMARY record of _serving.app.example.com refers to the latch's check",
            "ended with 1",
            "READY",
        ],
    ),
    // The stack of a latch that was armed has the latch's check for _serving, which would stay.
    ("would remove", &["Attached=false", "delete-stack", "would write", "ended with 0"]),
    (
        "removed while locked",
        &["the latch app is locked in the bucket latch-000000000000-eu-west-1", "ended with 1"],
    ),
    (
        "attached meanwhile",
        &[
            "the PRIMARY record of app.example.com refers to the latch's check. Someone has attached it meanwhile",
            "run: failoverctl latch detach app, then repeat this command\nended with 1",
        ],
    ),
    (
        "removed",
        &[
            "deleted the stack latch-checks-app in eu-central-1",
            "ended with 0",
            "LATCHES=w.w:serving=_serving.www.example.com,",
            "\nw.w:serving=_serving.www.example.com,",
        ],
    ),
    ("removed again", &["there is no latch app in the stack latch, only: w.w", "ended with 1"]),
    (
        "of a similar name",
        &["the stack latch-checks-w-w is the one of w.w, and there is no latch w_w", "ended with 1"],
    ),
    (
        "last",
        &[
            "deleted the stack latch in eu-west-1",
            "deleted the stack latch-control-checks in eu-central-1",
            "The buckets latch-000000000000-eu-central-1 and latch-000000000000-eu-west-1 stay",
            "ended with 0\n2\n",
        ],
    ),
];

/// An attached and armed latch, and what others do beside its deployment. `ODD` is what the AWS CLI or dig do then.
const BESIDE: &str = r#"
pair >/dev/null 2>&1
LATCHED=$(cat "$STATE/Latched")
attach() {
    record app.example.com A primary PRIMARY "$1" 192.0.2.1
    record _serving.app.example.com TXT primary PRIMARY "${2-$1}" '\"primary\"'
}
attach "$LATCHED"
deploy --arm >/dev/null 2>&1
record shop.example.com A primary PRIMARY "$STANDBY" 192.0.2.3
record shop.example.com A standby SECONDARY "" 192.0.2.4
mkdir "$STATE/odd.d"
export STUBS=$(dirname "$(type -P aws)")
cat >"$STATE/odd.d/aws" <<'SH'
#!/usr/bin/env bash
case "$ODD $*" in
"unreadable "*list-resource-record-sets*) echo "Rate exceeded" >&2; exit 254 ;;
"changed "*"--stack-name latch "*StackStatus*)
    # After the run's own first look at both Regions.
    echo >>"$STATE/looks.log"
    if [ "$(wc -l <"$STATE/looks.log")" -gt 2 ]; then
        "$STUBS/aws" "$@" | sed 's/app:serving=.*/&;web:serving=_serving.shop.example.com,primary=p,standby=s/'
        exit
    fi ;;
"unlike "*"--region eu-west-1 "*"=='WatchBy'"*) echo process; exit ;;
"lost "*"--stack-name latch "*"=='Latches'"*) echo web:serving=_serving.shop.example.com,primary=p,standby=s; exit ;;
esac
exec "$STUBS/aws" "$@"
SH
cat >"$STATE/odd.d/dig" <<'SH'
#!/usr/bin/env bash
case "$ODD $*" in "nameless "*" A "*) exit ;; esac
exec "$STUBS/dig" "$@"
SH
chmod +x "$STATE/odd.d/aws" "$STATE/odd.d/dig"
beside() { local odd=$1; shift; ODD=$odd PATH=$STATE/odd.d:$PATH deploy "$@" 2>&1; rm -f "$STATE/looks.log"; }
sentinels() {
    aws route53 list-resource-record-sets --hosted-zone-id "$ZONE" --output json --query \
        "sort_by(ResourceRecordSets[?Type=='TXT'], &join('', [Name, SetIdentifier]))"
}
delete() {
    aws route53 list-resource-record-sets --hosted-zone-id "$ZONE" --output json --query \
        "{Changes: ResourceRecordSets[?Name=='$1.' && contains('$2', SetIdentifier)].{Action: 'DELETE', ResourceRecordSet: @}}" \
        >"$STATE/changes.json"
    aws route53 change-resource-record-sets --hosted-zone-id "$ZONE" --change-batch "file://$STATE/changes.json" >/dev/null
}
cp "$STATE/failover-latch.env" "$STATE/before.env"
sentinels >"$STATE/before.json"
echo "--- another domain"; deploy --name app --domain shop.example.com --primary "$STANDBY" --standby "$PRIMARY" 2>&1
echo "--- another name"; deploy --name web --domain app.example.com --zone "$ZONE" --primary "$LATCHED" --standby "$STANDBY" 2>&1
echo "--- own check"; deploy --name app --primary "$LATCHED" 2>&1
attach "$LATCHED" "$PRIMARY"
echo "--- attached by half"; deploy --name app 2>&1
attach "$LATCHED"
echo "--- unreadable"; beside unreadable --name app; beside unreadable --arm
echo "--- without addresses"; beside nameless; beside nameless --arm
echo "--- changed"; beside changed --name app; beside changed --arm
echo "--- unlike"; beside unlike; beside unlike --arm
echo "--- lost"; beside lost
cmp "$STATE/failover-latch.env" "$STATE/before.env" && echo "the file is as before"
sentinels | cmp - "$STATE/before.json" && echo "the sentinels are as before"
echo "--- arms alone"; deploy --arm --dry-run 2>&1
# Every name server answers "primary" or "healthy" then, whatever the checks say.
delete _serving.app.example.com standby
six() {
    aws route53 change-resource-record-sets --hosted-zone-id "$ZONE" --change-batch '{"Changes": [{"Action": "'"$1"'",
        "ResourceRecordSet": {"Name": "app.example.com", "Type": "AAAA", "TTL": 5, '"$2"'
        "ResourceRecords": [{"Value": "2001:db8::1"}]}}]}' >/dev/null
}
six CREATE ""
echo "--- beside the pair"; deploy --arm 2>&1; deploy 2>&1
six DELETE ""
alone='"SetIdentifier": "primary", "Failover": "PRIMARY", "HealthCheckId": "'"$LATCHED"'",'
six CREATE "$alone"
echo "--- without a standby"; deploy --name app 2>&1
six DELETE "$alone"
record app.example.com A standby SECONDARY "$STANDBY" 192.0.2.2
echo "--- with a check"; deploy --arm 2>&1
record app.example.com A standby SECONDARY "" 192.0.2.2
echo "--- alone"; deploy --arm 2>&1; deploy 2>&1; deploy --name app 2>&1
record _standby.app.example.com TXT unhealthy SECONDARY "" '\"healthy\"'
record _serving.app.example.com TXT primary PRIMARY "$LATCHED" '\"site-a\"'
echo "--- another text"; deploy --arm 2>&1; deploy --name app 2>&1
sentinels | cmp - "$STATE/before.json" && echo "the sentinels are as before"
delete _standby.app.example.com "healthy unhealthy"
delete _serving.app.example.com primary
record _primary.app.example.com TXT healthy PRIMARY "$STANDBY" '\"healthy\"'
touch "$STATE/_standby.says"
echo "--- deleted"; deploy --arm 2>&1; deploy 2>&1
rm "$STATE/_standby.says"
echo "--- would be anew"; deploy --name app --dry-run 2>&1
echo "--- anew"; deploy --name app 2>&1
sentinels | cmp - "$STATE/before.json" && echo "the sentinels are as before"
echo "--- second name"; deploy --stack latch2 --name app --domain shop.example.com --zone "$ZONE" --primary "$STANDBY" \
    --standby "$PRIMARY" 2>&1
echo "--- second stack"
cp -r "$STATE" "$STATE-2"
STATE=$STATE-2 deploy --stack latch2 --name shop --domain shop.example.com --zone "$ZONE" --primary "$STANDBY" \
    --standby "$PRIMARY" --people arn:aws:iam::000000000000:role/sre --email sre@example.com 2>&1
rm -r "$STATE-2"
sentinels | grep '"_control'
"#;

const BESIDE_SAID: &[Step] = &[
    ("another domain", &["the latch app is the one of app.example.com in the zone Z", "ended with 1"]),
    ("another name", &["the latch of app.example.com is app: use --name app", "ended with 1"]),
    ("own check", &["is the latch's own", "ended with 1"]),
    (
        "attached by half",
        &["_serving.app.example.com to ", "run: failoverctl latch attach app", "ended with 1"],
    ),
    (
        "unreadable",
        &[
            "Rate exceeded\ninfra/deploy latch: whether the latch app is attached cannot be read (above)",
            "ended with 1",
        ],
    ),
    ("without addresses", &["has no address: check this machine's DNS\nended with 1\n"]),
    (
        "changed",
        &[
            "someone else has changed the latches of the stack latch in eu-central-1 meanwhile, from \"app\" to \"app,web\"",
            "ended with 1",
        ],
    ),
    (
        "unlike",
        &[
            "deployed, and the stack latch has WatchBy=function in eu-central-1 and WatchBy=process in eu-west-1: no function watches in one",
            "\ninfra/deploy latch: the stack latch has WatchBy=function",
            "--set WatchBy=function (or, where processes watch in both Regions, WatchBy=process)\nended with 1\n",
        ],
    ),
    (
        "lost",
        &[
            "the stack latch in eu-central-1 has no latch app as this command has deployed it",
            "ended with 1",
            "the file is as before",
            "the sentinels are as before",
        ],
    ),
    ("arms alone", &["--parameter-overrides DryRun=false\n", "would arm: app", "ended with 0"]),
    (
        "beside the pair",
        &[
            "infra/deploy latch: app.example.com has a record of type AAAA that does not fail over",
            "infra/deploy latch: deployed, and app.example.com has a record of type AAAA that does not fail over",
            "ended with 1",
        ],
    ),
    (
        "without a standby",
        &[
            "infra/deploy latch: the zone has no SECONDARY record of app.example.com of type AAAA",
            "ended with 1",
        ],
    ),
    (
        "with a check",
        &[
            "infra/deploy latch: the SECONDARY record of app.example.com of type A has the health check",
            "ended with 1",
        ],
    ),
    (
        "alone",
        &[
            "infra/deploy latch: someone has deleted or changed _serving.app.example.com (SECONDARY): ",
            "Run: infra/deploy latch --regions eu-central-1,eu-west-1 --name app\nended with 1\n",
            "infra/deploy latch: deployed, and someone has deleted or changed _serving.app.example.com (SECONDARY): ",
            "made anew: _serving.app.example.com, SECONDARY\n",
            "ARMED: app. Whether everything is as it should be was not looked at",
            "ended with 0",
        ],
    ),
    (
        "another text",
        &[
            "someone has deleted or changed _serving.app.example.com (PRIMARY) _standby.app.example.com (SECONDARY): ",
            "made anew: _serving.app.example.com, PRIMARY\nmade anew: _standby.app.example.com, SECONDARY\n",
            "ARMED: app. Whether everything is as it should be was not looked at",
            "ended with 0",
            "the sentinels are as before",
        ],
    ),
    (
        "deleted",
        &[
            "a name server does not answer _standby.app.example.com, and no watcher would lock. If it was deleted, run: infra/deploy latch --regions eu-central-1,eu-west-1 --name app\nended with 1\n",
            "deployed, and a name server does not answer _standby.app.example.com: no watcher locks there.",
        ],
    ),
    ("would be anew", &["would be made anew: _standby.app.example.com, PRIMARY", "ended with 0"]),
    (
        "anew",
        &[
            "made anew: _serving.app.example.com, PRIMARY\nmade anew: _primary.app.example.com, PRIMARY\nmade anew: _standby.app.example.com, PRIMARY\nmade anew: _standby.app.example.com, SECONDARY\n",
            "ARMED: app. Whether everything is as it should be was not looked at",
            "ended with 0",
            "the sentinels are as before",
        ],
    ),
    (
        "second name",
        &[
            "the stack latch in eu-central-1 has a latch app, and the metrics of both would be the same",
            "ended with 1",
        ],
    ),
    (
        "second stack",
        &[
            "READY, AND NOT ATTACHED: shop.",
            "ended with 0",
            "_control-eu-central-1.example.com.",
            "_control-latch2-eu-central-1.example.com.",
            "_control-latch2-eu-west-1.example.com.",
        ],
    ),
];

/// What the reader has set, and differs from AWS.
const READER: &str = r#"
ACCOUNT=000000000000 EMAIL=sre@example.com DOMAIN=app.example.com NAME_SERVER=ns-1.awsdns-1.com
BUCKET=latch-000000000000-eu-west-1 REGION=eu-west-1 REGIONS=
OTHER_BUCKET=latch-000000000000-eu-central-1 OTHER_REGION=eu-central-1 FIRST_REGION=eu-central-1
infra/deploy() { shift; deploy "$@"; }
attach() {
    record app.example.com A primary PRIMARY "$1" 192.0.2.1
    record _serving.app.example.com TXT primary PRIMARY "$1" '\"primary\"'
}
"#;

const DOCUMENTED: &[Walk] = &[
    (PAGE, "## Deploy", &[Run(&["READY, AND NOT ATTACHED: app.", "ended with 0"])]),
    (RUNBOOK, "## latch-NAME-half", &[Run(&[])]),
    (RUNBOOK, "## latch-NAME-blind", &[Run(&["\"primary\""])]),
    (RUNBOOK, "## latch-NAME-failed", &[Run(&[])]),
    (
        RUNBOOK,
        "## latch-NAME-slow",
        &[
            // The emulator does not show what a template reserves.
            Run(&[]),
            Run(&["ended with 0"]),
            Then(
                "aws cloudformation describe-stacks --region \"$REGION\" --stack-name latch --output text --query 'Stacks[0].Parameters'",
                &["WatchConcurrency\t4"],
            ),
        ],
    ),
    (RUNBOOK, "## latch-NAME-missed", &[Run(&[])]),
    (RUNBOOK, "## latch-NAME-silent", &[Run(&["ENABLED"])]),
    (
        PAGE,
        "## Arm",
        &[
            Given("attach \"$(cat \"$STATE/Latched\")\""),
            Run(&["ARMED: app.", "ended with 0"]),
            Then("dry_run eu-west-1", &["false"]),
            Run(&["ended with 0"]),
            Then("dry_run eu-west-1", &["true"]),
        ],
    ),
    (
        PAGE,
        "## With pods",
        &[
            Run(&["ended with 0"]),
            Then(
                "aws cloudwatch describe-alarms --region \"$REGION\" --query 'length(MetricAlarms)'
                aws scheduler get-schedule --region \"$REGION\" --name latch-watch --query State
                aws sns list-topics --region \"$REGION\" --query Topics",
                &["0\n\"DISABLED\"\n[]\n"],
            ),
            Run(&["ended with 0"]),
            Then(
                "aws scheduler get-schedule --region \"$REGION\" --name latch-watch --query State",
                &["ENABLED"],
            ),
        ],
    ),
    (
        RUNBOOK,
        "## latch-NAME-opened",
        &[
            Given(
                "aws s3api put-object --region \"$REGION\" --bucket \"$BUCKET\" --key latches/app
                aws s3api delete-object --region \"$REGION\" --bucket \"$BUCKET\" --key latches/app",
            ),
            Run(&["DeleteMarkers", "latches/app"]),
        ],
    ),
    (
        RUNBOOK,
        "## Make a latch's resources anew",
        &[
            Given(
                "ROLE=$(aws lambda get-function-configuration --region \"$REGION\" --function-name latch-watch --query Role --output text)
                aws lambda delete-function --region \"$REGION\" --function-name latch-watch
                aws scheduler delete-schedule --region \"$REGION\" --name latch-watch
                aws iam delete-role-policy --role-name \"${ROLE##*/}\" --policy-name log",
            ),
            Run(&["NOTHING WATCHES, and nothing is locked. Next: infra/deploy latch", "ended with 3", "ended with 0"]),
            Then(
                "dry_run \"$REGION\"; aws scheduler get-schedule --region \"$REGION\" --name latch-watch --query State
                ROLE=$(aws lambda get-function-configuration --region \"$REGION\" --function-name latch-watch --query Role --output text)
                aws iam list-role-policies --role-name \"${ROLE##*/}\" --output text",
                &["true\n", "ENABLED", "log"],
            ),
            Given(
                "cd \"$STATE\"
                policy_of() { aws s3api get-bucket-policy --region \"$REGION\" --bucket \"$BUCKET\" --query Policy --output text; }
                policy_of >policy.before
                aws s3api put-bucket-policy --region \"$REGION\" --bucket \"$BUCKET\" --policy '{\"Version\": \"2012-10-17\",
                    \"Statement\": []}'",
            ),
            Run(&[]),
            Then("[ \"$(policy_of)\" = \"$(cat policy.before)\" ] && echo as before; rm policy.json policy.before; cd \"$OLDPWD\"", &["as before"]),
            Given(
                "aws s3api put-bucket-lifecycle-configuration --region \"$REGION\" --bucket \"$BUCKET\" --lifecycle-configuration \\
                    'Rules=[{ID=tidy,Status=Enabled,Prefix=,Expiration={Days=30}}]'",
            ),
            Run(&[]),
            Then(
                "! aws s3api get-bucket-lifecycle-configuration --region \"$REGION\" --bucket \"$BUCKET\"",
                &["NoSuchLifecycleConfiguration"],
            ),
            Run(&[]),
            Then(
                "echo \"control: <$(checks_of_record _control-eu-west-1.example.com)>\"
                aws route53 delete-health-check --health-check-id \"$(cat \"$STATE/FirstControl\")\"
                rm \"$STATE/FirstControl\"; deploy --name app",
                &["control: <>", "ATTACHED, AND IN A DRY RUN", "ended with 0"],
            ),
            Given("CHECK=$(cat \"$STATE/Latched\"); attach \"$PRIMARY\"; deploy --name app"),
            Run(&[]),
            Then("echo \"serving: <$(checks_of_record _serving.app.example.com)>\"", &["serving: <>"]),
            Run(&[]),
            Then(
                "rm \"$STATE/Latched\"; pair; [ \"$(cat \"$STATE/Latched\")\" != \"$CHECK\" ] && echo another",
                &["READY, AND NOT ATTACHED: app.", "ended with 0", "another"],
            ),
        ],
    ),
    (
        PAGE,
        "## Remove",
        &[
            Given("attach \"$PRIMARY\""),
            Run(&["deleted the stack latch-checks-app in eu-central-1", "ended with 0"]),
        ],
    ),
];

struct Deployment {
    aws: Emulator,
    state: PathBuf,
}

// === impl Deployment ===

impl Deployment {
    async fn start() -> Self {
        let state = std::env::temp_dir().join(format!("latch-{}", free_port()));
        fs::create_dir_all(&state).expect("a temporary folder can be made");
        Self { aws: Emulator::own_ministack().await, state }
    }

    /// Runs a script in which the stubs are `aws` and `dig`.
    async fn run(&self, script: &str) -> String {
        let (status, said) = self.aws.bash(&format!("{}{script}", self.prelude()), &[]).await;
        assert_eq!(status, Some(0), "{said}");
        said
    }

    fn prelude(&self) -> String {
        let text = |path: PathBuf| path.into_os_string().into_string().expect("UTF-8");
        let stubs = text(root().join("tests/infra/stubs"));
        let artifact = text(self.aws.package("failover-latch"));
        let aws = text(tools().join("aws"));
        let state = text(self.state.clone());
        format!(
            "export STATE='{state}' ARTIFACT='{artifact}' REAL_AWS='{aws}' PATH='{stubs}':$PATH\n{ZONE}\n"
        )
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.state));
    }
}

#[tokio::test]
async fn the_latch_is_deployed_in_a_dry_run_armed_when_it_is_attached_and_removed_when_it_is_detached() {
    let deployment = Deployment::start().await;
    let tools = format!("CTL='{}'\n", programs());
    let said = deployment.run(&format!("{tools}{DEPLOY_AND_ARM}{REMOVE}")).await;
    holds(&said, &[ARMED, REMOVED].concat());
}

#[tokio::test]
async fn a_deployment_takes_back_nothing_of_others_and_makes_anew_what_they_have_deleted() {
    let deployment = Deployment::start().await;
    holds(&deployment.run(BESIDE).await, BESIDE_SAID);
}

/// Each step of a script prints its texts.
fn holds(said: &str, expected: &[Step]) {
    let steps: Vec<_> = said.split("--- ").skip(1).collect();
    assert_eq!(steps.len(), expected.len(), "{said}");
    for (step, (name, texts)) in steps.iter().zip(expected) {
        assert!(step.starts_with(name), "{name}: {step}");
        for text in *texts {
            assert!(step.contains(text), "{name}: {text}: {step}");
        }
    }
}

#[tokio::test]
async fn the_documented_commands_deploy_arm_and_remove_a_latch_and_look_at_it() {
    let deployment = Deployment::start().await;
    walk(&deployment.aws, DOCUMENTED, &format!("{}{READER}", deployment.prelude()), &[]).await;
}

#[tokio::test]
async fn an_error_in_the_latchs_deployment_is_reported_before_any_change() {
    let deployment = Deployment::start().await;
    let mut script = String::from(
        "PAIR=\"--name app --domain app.example.com --zone $ZONE --primary $PRIMARY --standby $STANDBY\"\n",
    );
    let cases = [
        ("deploy --regions eu-central-1", 2, "--regions takes two Regions, as R1,R2"),
        ("deploy --regions eu-central-1,us-east-1", 2, "--regions takes two Regions other than us-east-1"),
        ("deploy --regions eu-west-1,eu-west-1", 2, "--regions takes two different Regions"),
        ("deploy --name a/b", 2, "--name takes letters, digits, - _ and ., not \"a/b\""),
        ("deploy --name ..", 2, "--name takes another name than \"..\""),
        ("deploy --interval 20", 2, "--interval takes 10 or 30"),
        ("deploy --mode both", 2, "--mode takes absolute or yielding"),
        ("deploy --set Colour=blue", 2, "the template has no parameter Colour"),
        ("deploy --set KeyArn=x", 2, "a key is in one Region: give --key, once for each Region"),
        ("deploy --tag Team", 2, "--tag takes KEY=VALUE, not \"Team\""),
        ("deploy --steady long", 2, "--steady takes seconds, not \"long\""),
        ("deploy", 2, "--name is missing, and there is no stack latch in eu-central-1 to update"),
        ("deploy --remove ''", 2, "--remove takes the name of a latch"),
        ("deploy --remove a/b", 2, "--remove takes letters, digits, - _ and ., not \"a/b\""),
        ("deploy --arm --remove app", 2, "--arm takes no --name, no --remove and no --set"),
        ("deploy --arm", 1, "there is no stack latch in both eu-central-1 and eu-west-1"),
        ("deploy --name app", 2, "--domain is missing, and there is no latch app to update"),
        ("deploy $PAIR", 2, "--people is missing"),
        ("deploy $PAIR --people x", 2, "--email or --notify is missing"),
        (
            "pair --email \"\" --notify arn:aws:sns:eu-west-1:000000000000:x",
            2,
            "--email or --notify is missing, with a topic in eu-central-1",
        ),
        ("pair --standby $PRIMARY", 2, "--primary and --standby are the same"),
        ("pair --domain app.example.net", 2, "app.example.net is not in the zone example.com"),
        ("pair --domain www.example.com", 1, "has the health check (there is no such record)"),
        ("pair --primary $STANDBY --standby $PRIMARY", 1, "give --primary the record's own check"),
        ("pair --mode yielding", 1, "in the mode yielding it must have"),
        ("pair --primary nonsense", 1, "the health check nonsense cannot be read"),
        ("pair --zone Z1", 1, "the hosted zone Z1 cannot be read"),
        (
            "pair --key arn:aws:kms:eu-west-1:000000000000:key/x",
            2,
            "--key is missing for eu-central-1: give one in each Region",
        ),
        ("pair --ranges infra/deploy", 1, "infra/deploy has no range of ROUTE53_HEALTHCHECKS"),
    ];
    for (command, ..) in cases {
        script.extend(["echo '--- '; ", command, " 2>&1\n"]);
    }
    script.push_str(
        "echo '--- '; pair --tag Team=sre --dry-run 2>&1; for region in eu-central-1 eu-west-1; do
            aws cloudformation list-stacks --region $region --query StackSummaries; done; aws s3 ls; ls \"$STATE\"",
    );
    let said = deployment.run(&script).await;
    let steps: Vec<_> = said.split("--- \n").skip(1).collect();
    assert_eq!(steps.len(), cases.len() + 1, "{said}");
    for (step, (command, status, text)) in steps.iter().zip(cases) {
        assert!(step.contains(text) && step.contains(&format!("ended with {status}")), "{command}: {step}");
    }
    let dry = steps.last().unwrap();
    for text in [
        "latch-region.yaml",
        "latch-control.yaml",
        "latch-checks.yaml",
        "would be waiting",
        "ended with 0",
        "--s3-bucket failover-lock-000000000000-eu-west-1 --s3-prefix templates --tags Team=sre",
    ] {
        assert!(dry.contains(text), "{text}: {dry}");
    }
    assert!(dry.ends_with("[]\n[]\nip-ranges.json\n"), "{dry}");
}
