//! The operator's command line, as it is typed.

use std::path::Path;
use std::process::{Output, Stdio};

use crate::report::Folder;
use crate::support;
use crate::support::accelerator::{Accelerator, Group};
use crate::support::cloudwatch::{Alarm, Kind};
use crate::support::docs::commands_below;
use crate::support::emulator::{Emulator, path};
use crate::support::lock::{LOCKED, PRIMARY};
use crate::support::primary::Primary;
use crate::support::route53::{Check, Fault, Route53};
use crate::support::sites::{DNS_NAME, LABEL, REGION, Sites, alert, outcomes};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

pub const FAILOVERCTL: &str = env!("CARGO_BIN_EXE_failoverctl");
/// 2026-11-21T02:36:15.490Z, when the documented alarm changed.
pub const CHANGED: f64 = 1_795_228_575.49;

/// The folder with the programs.
pub fn programs() -> &'static str {
    Path::new(FAILOVERCTL).parent().and_then(Path::to_str).expect("it is in a folder with a name in UTF-8")
}

/// How a command ended, and what it printed.
#[derive(Debug)]
pub struct Ended {
    pub status: Option<i32>,
    pub out: String,
    pub said: String,
}

/// Runs failoverctl against an AWS at `url`.
pub async fn run(url: &str, arguments: &[&str]) -> Ended {
    run_with(Path::new(FAILOVERCTL), url, arguments, "").await
}

/// A program that sees an AWS at `url`, and nothing of who runs the tests.
pub fn command(program: &Path, url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs([
            ("PATH", path().as_str()),
            ("HOME", env!("CARGO_TARGET_TMPDIR")),
            ("AWS_ENDPOINT_URL", url),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("TERM", "xterm"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Waits until a running program says this.
pub async fn says(output: impl AsyncRead + Unpin, this: &str) {
    let mut lines = BufReader::new(output).lines();
    while !lines.next_line().await.expect("UTF-8").expect("it says so before it ends").contains(this) {}
}

/// Interrupts a program as Ctrl-C does.
pub async fn interrupted(child: Child) -> Ended {
    let pid = child.id().expect("it runs").to_string();
    Command::new("sh").args(["-c", r#"kill -INT "$0""#, &pid]).status().await.expect("sh runs");
    Ended::of(child.wait_with_output().await.expect("it ends"))
}

async fn run_with(program: &Path, url: &str, arguments: &[&str], input: &str) -> Ended {
    let mut child = command(program, url, arguments).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A program that asks nothing may have ended already.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    Ended::of(child.wait_with_output().await.expect("it ends"))
}

// === impl Ended ===

impl Ended {
    pub fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { status: output.status.code(), out: text(output.stdout), said: text(output.stderr) }
    }
}

async fn account(check: Check, alarm: Option<Alarm>) -> Route53 {
    let route53 = Route53::start().await;
    route53.put(PRIMARY, check);
    if let Some(alarm) = alarm {
        route53.put_alarm("primary-unhealthy", alarm);
    }
    route53
}

fn quiet() -> Alarm {
    Alarm::on(PRIMARY, "OK", CHANGED)
}

#[tokio::test]
async fn status_shows_the_state_of_each_check() {
    let check = || Check::new("HTTP", 80);
    let locked = || {
        check()
            .with("ResourcePath", LOCKED)
            .tagged("failover-lock:locked-at", "2026-11-21T02:36:20Z")
            .tagged("failover-lock:alarm", "primary-unhealthy")
    };
    let in_alarm = || Some(Alarm::on(PRIMARY, "ALARM", CHANGED));
    for (check, alarm, ends, state, words) in [
        (check(), Some(quiet()), 0, "armed", "armed"),
        (locked(), in_alarm(), 0, "locked", " ago by alarm primary-unhealthy"),
        (check(), in_alarm(), 3, "overdue", "though alarm primary-unhealthy is in ALARM"),
        (check(), None, 3, "unprotected", "no metric alarm watches its health"),
        (check().with("ResourcePath", "/x"), Some(quiet()), 3, "foreign_path", "foreign path"),
        (check().with("Inverted", "true"), Some(quiet()), 3, "cannot_be_locked", "it is inverted"),
    ] {
        let mut check = check;
        check.reports = vec!["Success: HTTP Status Code 200, OK", "Failure: Connection refused"];
        let route53 = account(check, alarm).await;
        let shown = run(&route53.url(), &["status", PRIMARY]).await;
        assert_eq!(shown.status, Some(ends), "{shown:?}");
        assert!(shown.out.contains(words) && shown.out.contains("  1/2  "), "{shown:?}");
        assert!(!shown.out.contains('\x1b'), "no colours without a terminal: {shown:?}");
        let shown = run(&route53.url(), &["status", PRIMARY, "--output", "json"]).await;
        let json: Value = serde_json::from_str(&shown.out).unwrap();
        assert_eq!(
            (&json["healthChecks"][0]["state"], &json["healthChecks"][0]["checkers"]["total"]),
            (&state.into(), &2.into()),
            "{json}"
        );
    }
}

#[tokio::test]
async fn a_check_that_cannot_be_read_hides_no_other() {
    const OTHER: &str = "d2f991db-4143-47b0-9015-e781df145c7c";
    const NONE: &str = "00000000-4143-47b0-9015-e781df145c7c";
    let route53 = account(Check::new("HTTP", 80), Some(quiet())).await;
    route53.put(OTHER, Check::new("HTTP", 80).tagged("failover-lock:restored-at", "noon"));
    let shown = run(&route53.url(), &["status", OTHER, PRIMARY, NONE]).await;
    assert_eq!(shown.status, Some(3), "{shown:?}");
    let (rows, words) = (shown.out.lines(), shown.out.split_whitespace().collect::<Vec<_>>().join(" "));
    let states: Vec<_> = rows.filter_map(|row| row.split_once("  ").map(|(state, _)| state)).collect();
    assert_eq!(states.iter().filter(|state| **state == "unknown").count(), 2, "{shown:?}");
    assert!(states.contains(&"armed"), "{shown:?}");
    assert!(words.contains("holds \"noon\"") && words.contains("NoSuchHealthCheck"), "{shown:?}");
}

#[tokio::test]
async fn a_person_locks_and_restores_with_the_functions_own_code() {
    let primary = Primary::start("/lb-check").await;
    let route53 = account(Check::new("HTTP", primary.address.port()), Some(quiet())).await;
    let url = route53.url();
    let locked = run(&url, &["lock", PRIMARY, "--reason", "fire, in #1", "--yes"]).await;
    assert_eq!(locked.status, Some(0), "{locked:?}");
    assert_eq!(locked.out, format!("{PRIMARY}: locked (/lb-check → {LOCKED})\n"));
    let record = route53.check(PRIMARY).tags["failover-lock:out"].clone();
    assert!(record.ends_with(" by=by hand: fire_ in _1"), "{record}");

    primary.set_up(false);
    let refused = run(&url, &["restore", PRIMARY, "--yes", "--direct"]).await;
    assert_eq!(refused.status, Some(3), "{refused:?}");
    assert!(refused.said.contains("/lb-check answers 503"), "{refused:?}");
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);

    primary.set_up(true);
    let restored =
        run(&url, &["restore", PRIMARY, "--direct", "--yes", "--wait", "--reason", "synchronised"]).await;
    assert_eq!(restored.status, Some(0), "{restored:?}");
    assert_eq!(restored.out, format!("{PRIMARY}: restored ({LOCKED} → /lb-check)\n"));
    assert!(restored.said.contains("alarm primary-unhealthy is OK; armed"), "{restored:?}");
    let restored = run(&url, &["restore", PRIMARY, "--direct", "--yes", "--output", "json"]).await;
    let json: Value = serde_json::from_str(&restored.out).unwrap();
    assert_eq!((&json["version"], &json["outcomes"][0]["outcome"]), (&1.into(), &"already_restored".into()));
}

#[tokio::test]
async fn a_machine_whose_clock_is_wrong_records_awss_time() {
    let primary = Primary::start("/lb-check").await;
    for (ahead, said) in [(240, " s behind AWS's"), (-240, " s ahead of AWS's")] {
        let route53 = account(Check::new("HTTP", primary.address.port()), Some(quiet())).await;
        let url = route53.url();
        route53.set_ahead(ahead);
        let now = Utc::now() + TimeDelta::seconds(ahead);
        let is_recorded = |tag: &str, key: &str| {
            let tags = route53.check(PRIMARY).tags;
            let at = tags[tag].split(' ').find_map(|word| word.strip_prefix(key)).expect("it has a time");
            (at.parse::<DateTime<Utc>>().expect("a time") - now).abs() < TimeDelta::seconds(120)
        };
        let locked = run(&url, &["lock", PRIMARY, "--reason", "fire", "--yes"]).await;
        assert!(locked.status == Some(0) && locked.said.contains(said), "{locked:?}");
        assert!(is_recorded("failover-lock:out", "at=") && is_recorded("failover-lock:out", "alarm="));
        // A date has seconds.
        route53.set_ahead(ahead + 2);
        let restored = run(&url, &["restore", PRIMARY, "--direct", "--yes"]).await;
        assert!(restored.status == Some(0) && restored.said.contains(said), "{restored:?}");
        assert!(is_recorded("failover-lock:in", "seen="));
    }
}

#[tokio::test]
async fn a_restore_goes_through_the_function_of_the_stack_that_guards_the_check() {
    let aws = Emulator::own_ministack().await;
    let primary = Primary::start("/lb-check").await;
    let check = deployed_without_versions(&aws, &primary).await;
    let restore = async |options: &[&str]| {
        run(&aws.url, &[&["restore", &check, "--yes", "--reason", "INC-1"], options].concat()).await
    };
    let lock = async |options: &[&str]| {
        run(&aws.url, &[&["lock", &check, "--reason", "test", "--yes"], options].concat()).await
    };
    // Nothing but this command would know it as locked.
    let refused = lock(&["--locked-path", "/gone"]).await;
    assert_eq!(refused.status, Some(3), "{refused:?}");
    let known =
        format!("failover-lock, which guards it, locks by the path {LOCKED}, and knows no lock by another");
    assert!(refused.said.contains(&format!("{known}: add --locked-path {LOCKED}")), "{refused:?}");
    let switch_over =
        ["switch-over", &check, "--reason", "test", "--yes", "--dry-run", "--locked-path", "/gone"];
    let refused = run(&aws.url, &switch_over).await;
    assert!(refused.status == Some(3) && refused.said.contains(&known), "{refused:?}");
    assert_eq!(lock(&["--locked-path", LOCKED]).await.status, Some(0));
    let dry = restore(&["--dry-run"]).await;
    assert_eq!(dry.out, format!("{check}: would be restored ({LOCKED} → /lb-check)\n"), "{dry:?}");
    primary.set_up(false);
    let refused = restore(&[]).await;
    assert!(refused.status == Some(3) && refused.said.contains("failover-restore:live: "), "{refused:?}");
    assert!(refused.said.contains("/lb-check answers 503"), "{refused:?}");
    primary.set_up(true);
    // In a dry run it restores nothing, and that is no success.
    let dry_run = async |dry_run: &str| {
        let configure = format!(
            "aws lambda update-function-configuration --function-name failover-restore --environment \
            'Variables={{GUARDED_HEALTH_CHECKS={check},DRY_RUN={dry_run}}}'"
        );
        assert_eq!(aws.bash(&configure, &[]).await.0, Some(0));
    };
    dry_run("true").await;
    let nothing = restore(&[]).await;
    assert!(
        nothing.status == Some(3) && nothing.said.contains("failover-restore is in a dry run"),
        "{nothing:?}"
    );
    dry_run("false").await;
    let restored = restore(&[]).await;
    assert_eq!(restored.out, format!("{check}: restored ({LOCKED} → /lb-check)\n"), "{restored:?}");
    let again = restore(&["--output", "json"]).await;
    let json: Value = serde_json::from_str(&again.out).unwrap();
    assert_eq!(json["outcomes"][0]["outcome"], "already_restored");
    let log = ["logs", "filter-log-events", "--log-group-name", "/aws/lambda/failover-restore"];
    assert!(aws.aws(&log).await.to_string().contains("INC-1"), "the function has done it");

    // A stack that does not guard it is none.
    let other = aws.health_check(2).await;
    let unguarded = run(&aws.url, &["restore", &other, "--yes"]).await;
    let said = "reaches a stack that guards it: it is restored with your own credentials";
    assert!(unguarded.status == Some(0) && unguarded.said.contains(said), "{unguarded:?}");
    let named = run(&aws.url, &["restore", &other, "--yes", "--function", "failover-restore"]).await;
    assert!(named.status == Some(3) && named.said.contains("GUARDED_HEALTH_CHECKS"), "{named:?}");
    aws.bash("aws lambda delete-function --function-name failover-restore", &[]).await;
    let gone = restore(&[]).await;
    assert!(gone.status == Some(1) && gone.said.contains("there is no such function"), "{gone:?}");
    let direct = restore(&["--direct"]).await;
    assert_eq!(direct.out, format!("{check}: is restored already (/lb-check)\n"), "{direct:?}");
}

#[tokio::test]
async fn what_may_lead_to_a_function_and_was_not_looked_at_is_no_reason_to_do_without() {
    // The stand-in has no topics.
    let without_actions = || Alarm { actions: &[], ..quiet() };
    let locked = || Check::new("HTTP", 80).with("ResourcePath", LOCKED);
    let route53 = account(locked(), Some(without_actions())).await;
    route53.put_alarm("above", Alarm::of(Kind::Composite(vec!["primary-unhealthy".to_owned()]), "OK"));
    let ended = run(&route53.url(), &["restore", PRIMARY, "--yes", "--force"]).await;
    assert!(
        ended.status == Some(1) && ended.said.contains("the composite alarm above may lead to it"),
        "{ended:?}"
    );
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
    let route53 = account(locked(), Some(without_actions())).await;
    route53.fail_always("DescribeAlarms", Fault::Error(403, "AccessDenied", "not authorized"));
    let ended = run(&route53.url(), &["restore", PRIMARY, "--yes", "--force"]).await;
    assert!(ended.status == Some(1) && ended.said.contains("the function that restores"), "{ended:?}");
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
}

#[tokio::test]
async fn a_region_without_alarms_on_health_checks_is_refused() {
    let ended = run("http://127.0.0.1:9", &["status", "--region", "eu-west-1"]).await;
    assert!(ended.status == Some(2) && ended.said.contains("in us-east-1 alone"), "{ended:?}");
}

#[tokio::test]
async fn waiting_for_a_primary_that_does_not_become_armed_ends() {
    let primary = Primary::start("/lb-check").await;
    let locked = Check::new("HTTP", primary.address.port()).with("ResourcePath", LOCKED);
    let route53 = account(locked, Some(Alarm::on(PRIMARY, "ALARM", CHANGED))).await;
    let ended =
        run(&route53.url(), &["restore", PRIMARY, "--direct", "--yes", "--wait", "--timeout", "0"]).await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(
        ended.said.contains(
            "is not armed and in service after 0 s: checkers unknown; alarm primary-unhealthy is ALARM; unprotected: the alarm is from before the last restore"
        ),
        "{ended:?}"
    );
}

#[tokio::test]
async fn what_may_never_be_seen_is_not_waited_for() {
    let primary = Primary::start("/lb-check").await;
    let locked = Check::new("HTTP", primary.address.port()).with("ResourcePath", LOCKED);
    let route53 = account(locked, Some(Alarm::on(PRIMARY, "ALARM", CHANGED))).await;
    for operation in ["DescribeAlarms", "DescribeAlarmsForMetric"] {
        route53.fail_always(operation, Fault::Error(403, "AccessDenied", "not authorized"));
    }
    let ended = run(&route53.url(), &["restore", PRIMARY, "--direct", "--yes", "--wait"]).await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(
        ended.said.contains("will not be seen armed and in service: checkers unknown; alarm unknown ("),
        "{ended:?}"
    );
    assert_eq!(route53.check(PRIMARY).path(), "/lb-check");
}

#[tokio::test]
async fn a_command_asks_on_a_terminal_and_never_acts_without_an_answer() {
    let route53 = account(Check::new("HTTP", 80), Some(quiet())).await;
    let url = route53.url();
    let command = ["lock", PRIMARY, "--reason", "test"];
    let nobody = run(&url, &command).await;
    assert_eq!(nobody.status, Some(3), "{nobody:?}");
    assert!(
        nobody.said.contains("there is no terminal to ask on, and nothing was changed: add --yes"),
        "{nobody:?}"
    );

    let typed = format!("{FAILOVERCTL} {}", command.join(" "));
    for (answer, status, then) in [("n\n", 3, "/lb-check"), ("\n", 3, "/lb-check"), ("y\n", 0, LOCKED)] {
        let terminal = Path::new("script");
        let ended = run_with(terminal, &url, &["-qec", &typed, "/dev/null"], answer).await;
        assert_eq!(ended.status, Some(status), "{ended:?}");
        assert!(ended.out.contains("out of service until a person restores it. [y/N]"), "{ended:?}");
        assert_eq!(route53.check(PRIMARY).path(), then, "{answer:?}");
        assert_eq!(
            ended.out.contains("declined, nothing was changed since the question"),
            status == 3,
            "{ended:?}"
        );
        assert_eq!(ended.out.contains('\x1b'), status == 0, "colours on a terminal: {ended:?}");
    }
}

#[tokio::test]
async fn explain_shows_what_an_event_would_do_and_changes_nothing() {
    let event = |file: &str| format!("{}/events/{file}", env!("CARGO_MANIFEST_DIR"));
    let route53 = account(Check::new("HTTP", 80), Some(quiet())).await;
    for (file, options, status, said) in [
        ("sns/keycloak-alarm.json", &[][..], 0, "would be locked (/lb-check → /lb-check-failed-over)"),
        ("sns/keycloak-ok.json", &[], 0, "ignored: the alarm did not go to ALARM"),
        ("sns/keycloak-alarm.json", &["--guarded", "x"], 0, "ignored: the health check is not guarded"),
        (
            "sns/keycloak-alarm.json",
            &["--guarded-tag", "failover"],
            0,
            "ignored: the health check is not guarded",
        ),
        (
            "sns/keycloak-alarm.json",
            &["--guarded-tag", "failover", "--offline"],
            0,
            "unless it lacks the tag failover, ",
        ),
        ("sns/two-records-one-broken.json", &[], 3, "error: record 1: the alarm's message cannot be read"),
        ("sns/keycloak-alarm.json", &["--offline"], 0, "went to ALARM at 2026-11-21T02:36:15Z: lock"),
        (
            "sns/latency-alarm.json",
            &["--offline"],
            0,
            "ignored, the alarm does not watch a health check's health",
        ),
        ("sns/composite-alarm.json", &["--offline"], 0, "look up, it is a composite alarm"),
        ("no-such-file.json", &["--offline"], 1, "no-such-file.json\" cannot be read"),
    ] {
        let file = event(file);
        let ended = run(&route53.url(), &[&["explain", &file], options].concat()).await;
        assert_eq!(ended.status, Some(status), "{ended:?}");
        assert!(ended.out.contains(said) || ended.said.contains(said), "{said}: {ended:?}");
    }
    assert_eq!(route53.check(PRIMARY).path(), "/lb-check");
    let message = support::lock::message(PRIMARY, "ALARM", support::lock::CHANGED_AT);
    let piped =
        run_with(Path::new(FAILOVERCTL), &route53.url(), &["explain", "-", "--output", "json"], &message)
            .await;
    let json: Value = serde_json::from_str(&piped.out).unwrap();
    assert_eq!(
        (&json["outcomes"][0]["outcome"], &json["outcomes"][0]["alarm"]),
        (&"would_lock".into(), &"primary-unhealthy".into())
    );
}

#[tokio::test]
async fn an_invalid_argument_is_named() {
    for (typed, said) in [
        (&["status", ""][..], "it is neither an id nor a name"),
        (&["lock", PRIMARY], "--reason <REASON>"),
        (&["restore"], "<CHECK>"),
        (&["statsu"], "tip: a similar subcommand exists: 'status'"),
        (&["status", "--output", "yaml"], "possible values: text, json"),
    ] {
        let ended = run("http://127.0.0.1:9", typed).await;
        assert_eq!(ended.status, Some(2), "{ended:?}");
        assert!(ended.said.contains(said), "{ended:?}");
    }
    let ended = run("http://127.0.0.1:9", &["status", "--locked-path", "/lb-check"]).await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.said.contains("LOCKED_PATH: it equals HEALTHY_PATH"), "{ended:?}");
    for shell in ["bash", "zsh", "fish"] {
        let ended = run("http://127.0.0.1:9", &["completions", shell]).await;
        assert!(ended.out.contains("failoverctl") && ended.out.contains("doctor"), "{shell}");
    }
    for command in ["status", "doctor", "lock", "restore", "explain", "drill", "completions"] {
        let ended = run("http://127.0.0.1:9", &[command, "--help"]).await;
        assert!(ended.out.contains("Example"), "{command}: {}", ended.out);
    }
}

/// The options with which a stack is deployed that guards this check.
fn options(check: &str) -> String {
    format!(
        "--health-check {check} --email sre@example.com --set AlarmPeriod=10 --set AlarmActionsEnabled=true"
    )
}

/// A stack that is guarded, with its primary up.
pub async fn deployed(aws: &Emulator, primary: &Primary) -> String {
    deployed_with(aws, primary, "").await
}

/// The same, whose functions have no versions: a change by hand reaches what runs.
pub async fn deployed_without_versions(aws: &Emulator, primary: &Primary) -> String {
    deployed_with(aws, primary, "--set Deployment=").await
}

async fn deployed_with(aws: &Emulator, primary: &Primary, others: &str) -> String {
    let check = aws.health_check(primary.address.port()).await;
    let (status, said) = aws.deploy(&format!("{} {others}", options(&check))).await;
    assert_eq!(status, Some(0), "{said}");
    aws.report(&check, "1", 0).await;
    check
}

/// What these commands have broken, all at once, and not what no command repairs.
async fn doctor_fixes(aws: &Emulator, check: &str, broken: &[&str]) {
    let untold = "aws sns delete-topic --topic-arn arn:aws:sns:us-east-1:000000000000:failover-notifications";
    for command in broken.iter().chain(&[untold]) {
        assert_eq!(aws.bash(command, &[]).await.0, Some(0));
    }
    // With the AWS CLI, which it runs.
    let fix = async |options: &[&str]| {
        let mut program = aws.command(FAILOVERCTL);
        program.args(["doctor", check, "--fix"]).args(options).stdin(Stdio::null());
        Ended::of(program.output().await.expect("it starts"))
    };
    let planned = fix(&["--dry-run"]).await;
    assert!(
        planned.status == Some(3) && planned.said.contains("1. failover-primary-unhealthy has its"),
        "{planned:?}"
    );
    let nobody = fix(&[]).await;
    assert!(nobody.status == Some(3) && nobody.said.contains("there is no terminal to ask on"), "{nobody:?}");
    let found = run(&aws.url, &["doctor", check]).await;
    assert!(found.out.contains("has its actions off"), "{found:?}");
    let fixed = fix(&["--yes"]).await;
    assert!(fixed.said.contains("failover-notifications does not exist"), "{fixed:?}");
    let wrong: Vec<_> = fixed.out.lines().filter(|line| line.starts_with("WRONG")).collect();
    assert!(
        fixed.status == Some(3) && wrong.len() == 1 && wrong[0].contains("-notifications does not exist"),
        "{fixed:?}"
    );
}

#[tokio::test]
async fn doctor_names_what_a_stack_runs_and_finds_code_that_was_not_deployed() {
    let aws = Emulator::own_ministack().await;
    let primary = Primary::start("/lb-check").await;
    let check = deployed_without_versions(&aws, &primary).await;
    let found = run(&aws.url, &["doctor", &check]).await;
    assert!(found.out.contains("failover-lock runs failover-lock-"), "{found:?}");
    let zip = std::env::temp_dir().join(format!("other-{}.zip", std::process::id()));
    let other = format!(
        "python3 -c 'import zipfile; zipfile.ZipFile(\"{zip}\", \"w\").writestr(\"bootstrap\", \"\")'
         aws lambda update-function-code --function-name failover-lock --zip-file fileb://{zip}; rm {zip}",
        zip = zip.display()
    );
    assert_eq!(aws.bash(&other, &[]).await.0, Some(0));
    let found = run(&aws.url, &["doctor", &check]).await;
    assert!(found.out.contains("failover-lock does not run the artifact of its stack"), "{found:?}");
}

/// A secondary is never locked, although nothing says which checks are guarded.
/// Nothing but an alarm would use the permissions of `lock`.
async fn a_role_without_a_permission_is_found(aws: &Emulator, check: &str) {
    let of_lock = |command: &str| {
        format!(
            "ROLE=$(aws lambda get-function-configuration --function-name failover-lock --query Role --output text)
            POLICY=$(aws iam get-role-policy --role-name \"${{ROLE##*/}}\" --policy-name lock --query PolicyDocument --output json)
            {command}"
        )
    };
    let put = r#"aws iam put-role-policy --role-name "${ROLE##*/}" --policy-name lock --policy-document"#;
    for (command, said) in [
        (
            format!(r#"{put} "${{POLICY//route53:UpdateHealthCheck/route53:UpdateHealthChecks}}""#),
            "does not allow route53:UpdateHealthCheck",
        ),
        (
            format!(r#"{put} "${{POLICY//route53:UpdateHealthChecks/route53:UpdateHealthCheck}}""#),
            "that of failover-lock allows what it needs",
        ),
        (
            r#"aws iam delete-role-policy --role-name "${ROLE##*/}" --policy-name lock"#.to_owned(),
            "logs:PutLogEvents, route53:GetHealthCheck, route53:UpdateHealthCheck, ",
        ),
    ] {
        let (status, printed) = aws.bash(&of_lock(&command), &[]).await;
        assert_eq!(status, Some(0), "{printed}");
        let found = run(&aws.url, &["doctor", check]).await;
        assert!(found.out.contains(said), "{said}: {found:?}");
    }
}

async fn each_variable_is_judged_as_the_function_reads_it(aws: &Emulator, check: &str, topic: &str) {
    let configured = async |variables: &str| {
        let configure = format!(
            "aws lambda update-function-configuration --function-name failover-lock --environment \
            \"Variables={{GUARDED_HEALTH_CHECKS={check},{variables}}}\""
        );
        assert_eq!(aws.bash(&configure, &[]).await.0, Some(0));
        run(&aws.url, &["doctor", check, "--output", "json"]).await
    };
    for (variables, said) in [
        ("DRY_RUN=1", "failover-lock: DRY_RUN is true"),
        (
            "DRY_RUN=maybe",
            "failover-lock: variables do not let it start: the configuration is invalid: DRY_RUN",
        ),
        ("SECONDARY_HEALTH_CHECKS=x", "failover-lock: variables do not let it start"),
        (
            "ALARM_ACTIONS=arn:aws:sns:us-east-1:000000000000:x",
            &*format!("ALARM_ACTIONS of failover-lock does not name {topic}"),
        ),
    ] {
        let found = configured(variables).await;
        assert!(found.status == Some(3) && found.out.contains(said), "{said}: {found:?}");
    }
}

async fn never_locks_a_secondary(aws: &Emulator, check: &str) {
    let as_secondary = format!(
        "aws lambda update-function-configuration --function-name failover-lock --environment \
        \"Variables={{SECONDARY_HEALTH_CHECKS=6dc5e927-6632-468a-b2ff-32e2947321c9={check}}}\""
    );
    assert_eq!(aws.bash(&as_secondary, &[]).await.0, Some(0));
    let found = run(&aws.url, &["doctor", check]).await;
    let said = "names this health check as a secondary";
    assert!(found.status == Some(3) && found.out.contains(said), "{found:?}");
}

/// A function that guards another check is another's, whatever is wrong with it.
async fn leaves_others_alone(aws: &Emulator, check: &str, idle: &str) {
    let other = "aws lambda update-function-configuration --function-name failover-lock --environment \
        'Variables={GUARDED_HEALTH_CHECKS=6dc5e927-6632-468a-b2ff-32e2947321c9}'";
    for command in [other, idle] {
        assert_eq!(aws.bash(command, &[]).await.0, Some(0));
    }
    let planned = run(&aws.url, &["doctor", check, "--fix", "--dry-run"]).await.said;
    assert!(planned.contains("nothing that a command repairs"), "{planned}");
    assert!(planned.contains("by hand: failover-lock cannot run"), "{planned}");
}

#[tokio::test]
async fn doctor_finds_each_fault_in_the_chain_and_names_the_command_that_repairs_it() {
    let aws = Emulator::own_ministack().await;
    let primary = Primary::start("/lb-check").await;
    let check = deployed_without_versions(&aws, &primary).await;
    let doctor = async || run(&aws.url, &["doctor", &check, "--output", "json"]).await;
    let well = doctor().await;
    assert_eq!(well.status, Some(0), "{well:?}");

    let topic = "arn:aws:sns:us-east-1:000000000000:failover-alarms";
    let off = "aws cloudwatch disable-alarm-actions --alarm-names failover-primary-unhealthy";
    let closed = "aws lambda remove-permission --function-name failover-lock:live --statement-id \
        $(aws lambda get-policy --function-name failover-lock:live --query Policy --output text | grep -o 'failover-Lock[^\"]*')";
    let idle = |function: &str| {
        format!(
            "aws lambda put-function-concurrency --function-name failover-{function} --reserved-concurrent-executions 0"
        )
    };
    let schedule_off = "aws events disable-rule --name failover-reconcile";
    let told_off = "aws cloudwatch disable-alarm-actions --alarm-names failover-locked failover-failed";
    let no_log = "aws logs delete-log-group --log-group-name /aws/lambda/failover-lock";
    let silent =
        "aws lambda delete-function-event-invoke-config --function-name failover-lock --qualifier live";
    for (broken, name, said) in [
        (off, "alarm", "failover-primary-unhealthy has its actions off"),
        (
            no_log,
            "log",
            "/aws/lambda/failover-lock does not exist: what failover-lock does is in no log and no metric, and no alarm tells it",
        ),
        (
            "aws lambda update-alias --function-name failover-lock --name live --routing-config AdditionalVersionWeights={1=0.5}",
            "versions",
            "the alias live of failover-lock also runs version 1",
        ),
        (
            silent,
            "failures",
            "failover-lock:live sends an alarm that it has not handled nowhere: no one is told its error",
        ),
        (closed, "function", &*format!("failover-lock does not let {topic} invoke it")),
        (&*idle("lock"), "function", "failover-lock cannot run: its reserved concurrency is 0"),
        (&*idle("restore"), "restore", "failover-restore cannot run: its reserved concurrency is 0"),
        (&*idle("reconcile"), "reconcile", "failover-reconcile cannot run: its reserved concurrency is 0"),
        (
            schedule_off,
            "reconcile",
            "its schedule is off: a lost alarm is not found, and an undone lock not reported",
        ),
        (told_off, "alarms", "their actions are off: failover-failed failover-locked"),
    ] {
        let (status, printed) = aws.bash(broken, &[]).await;
        assert_eq!(status, Some(0), "{printed}");
        let found = doctor().await;
        assert_eq!(found.status, Some(3), "{found:?}");
        let found: Value = serde_json::from_str(&found.out).unwrap();
        let mut links = found["findings"].as_array().unwrap().iter();
        let link = links.find(|link| link["result"] == "wrong" && link["found"] == said);
        let link = link.unwrap_or_else(|| panic!("{said}: {found:#}"));
        assert_eq!(link["name"], name);
        // The command that doctor names repairs the fault.
        let mend = link["remedy"].as_str().unwrap();
        let (status, printed) = aws.bash(&mend[mend.find("aws").unwrap()..], &[]).await;
        assert_eq!(status, Some(0), "{mend}: {printed}");
        let well = doctor().await;
        assert_eq!(well.status, Some(0), "{well:?}");
    }

    let closed = "aws lambda remove-permission --function-name failover-lock:live --statement-id failoverctl-topic-failover-alarms";
    let idle = ["lock", "restore", "reconcile"].map(idle);
    let [lock, restore, reconcile] = idle.each_ref().map(String::as_str);
    let broken = [off, no_log, silent, closed, lock, restore, reconcile, schedule_off, told_off];
    doctor_fixes(&aws, &check, &broken).await;
    a_role_without_a_permission_is_found(&aws, &check).await;

    each_variable_is_judged_as_the_function_reads_it(&aws, &check, topic).await;
    never_locks_a_secondary(&aws, &check).await;
    leaves_others_alone(&aws, &check, idle[0].as_str()).await;
    primary.set_up(false);
    aws.deploy("--set DryRun=true").await;
    let found = doctor().await.out;
    for said in ["/lb-check answers 503", "failover-lock: DRY_RUN is true"] {
        assert!(found.contains(said), "{said}: {found}");
    }
    let text = run(&aws.url, &["doctor", &check]).await.out;
    assert!(text.contains("WRONG   healthy path") && text.contains("→ repair the primary"), "{text}");
    let unsubscribe = "aws sns unsubscribe --subscription-arn $(aws sns list-subscriptions --output text \
        --query \"Subscriptions[?Protocol=='lambda'].SubscriptionArn\")";
    aws.bash(unsubscribe, &[]).await;
    primary.set_up(true);
    let found = doctor().await.out;
    assert!(
        found.contains("none of its alarms leads by a topic, or directly, to a function that locks it"),
        "{found}"
    );
    // A primary that answers at every path makes every lock ineffective.
    primary.set_up(true);
    let found =
        run(&aws.url, &["doctor", &check, "--healthy-path", "/up", "--locked-path", "/lb-check"]).await.out;
    assert!(found.contains("so that a lock locks nothing"), "{found}");
}

#[tokio::test]
async fn doctor_takes_the_path_that_is_on_record_for_the_one_in_service() {
    let route53 = Route53::start().await;
    let primary = Primary::start("/health/v2").await;
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
    for (path, key, value) in [
        ("/health/v2", "failover-lock:in", format!("v=2 seen={now} done={now} to=/health/v2 by=x")),
        (LOCKED, "failover-lock:out", format!("v=2 at={now} before=/health/v2 by=x")),
    ] {
        let check = Check::new("HTTP", primary.address.port()).changed().with("ResourcePath", path);
        route53.put(PRIMARY, check.tagged(key, &value));
        let found = run(&route53.url(), &["doctor", PRIMARY]).await.out;
        assert!(found.contains("ok      healthy path  /health/v2 answers 200"), "{found}");
        assert!(!found.contains("neither the healthy nor the locked path"), "{found}");
    }
}

#[tokio::test]
async fn doctor_finds_that_a_lock_could_not_be_recorded() {
    let route53 = Route53::start().await;
    route53.put(PRIMARY, Check::new("HTTP", 80));
    for (tags, told) in [(9, false), (10, true)] {
        (0..tags).for_each(|number| route53.tag(PRIMARY, &format!("team:{number}"), Some("x")));
        let found = run(&route53.url(), &["doctor", PRIMARY]).await.out;
        assert_eq!(found.contains("no room for another tag"), told, "{found}");
    }
}

#[tokio::test]
async fn doctor_finds_what_was_deleted_beside_lock_and_the_runbook_makes_it_anew() {
    let aws = Emulator::own_ministack().await;
    let primary = Primary::start("/lb-check").await;
    let check = deployed(&aws, &primary).await;
    let doctor = async || run(&aws.url, &["doctor", &check, "--output", "json"]).await;
    let deleted = "
        aws lambda delete-function --function-name failover-restore
        aws cloudwatch delete-alarms --alarm-names failover-locked failover-failed
        aws events remove-targets --rule failover-reconcile --ids $(aws events list-targets-by-rule \\
            --rule failover-reconcile --query 'Targets[].Id' --output text) >&2
        aws events delete-rule --name failover-reconcile
        aws sns delete-topic --topic-arn arn:aws:sns:us-east-1:000000000000:failover-notifications
        ";
    let dead_letters = |count: u32, before: u32| {
        format!(
            "aws cloudwatch put-metric-data --namespace AWS/SQS --metric-data \"MetricName=ApproximateNumberOfMessagesVisible,\
             Dimensions=[{{Name=QueueName,Value=failover-dead-letters}}],Value={count},Timestamp=$(($(date +%s) - {before}))\""
        )
    };
    let (status, printed) = aws.bash(&format!("{deleted}{}", dead_letters(2, 120)), &[]).await;
    assert_eq!(status, Some(0), "{printed}");
    let found = doctor().await.out;
    for said in [
        "failover-restore does not exist",
        "failover-reconcile has no schedule: the rule failover-reconcile does not exist",
        "deleted in us-east-1: failover-failed",
        "deleted in us-east-1: failover-locked",
        "failover-notifications does not exist",
        "failover-dead-letters has 2 alarms that did not reach failover-lock",
        "make failover anew: docs/runbook.md#make-the-stack-anew",
    ] {
        assert!(found.contains(said), "{said}: {found}");
    }
    let anew = commands_below("runbook.md", "## Make the stack anew").remove(0);
    let (status, printed) = aws.bash(&format!("{anew}{}", dead_letters(0, 0)), &[]).await;
    assert!(status == Some(0) && printed.contains("HealthCheckId"), "{printed}");
    let (status, said) = aws.deploy(&options(&check)).await;
    assert_eq!(status, Some(0), "{said}");
    aws.report(&check, "1", 0).await;
    let well = doctor().await;
    assert_eq!(well.status, Some(0), "{well:?}");
}

/// As the guide sets it up.
#[tokio::test]
async fn doctor_and_drill_follow_a_queue_before_lock_and_see_what_keeps_alarms_out() {
    let aws = Emulator::own_ministack().await;
    let primary = Primary::start("/lb-check").await;
    let check = deployed(&aws, &primary).await;
    let (topic, queue) = (
        "arn:aws:sns:us-east-1:000000000000:failover-alarms",
        "arn:aws:sqs:us-east-1:000000000000:failover-lock",
    );
    aws.aws(&[
        "sqs",
        "create-queue",
        "--queue-name",
        "failover-lock",
        "--attributes",
        "VisibilityTimeout=360",
    ])
    .await;
    let subscribe = format!(
        "aws sns unsubscribe --subscription-arn $(aws sns list-subscriptions-by-topic --topic-arn {topic} \
            --query \"Subscriptions[?Protocol=='lambda'].SubscriptionArn\" --output text)
         aws sns subscribe --topic-arn {topic} --protocol sqs --notification-endpoint {queue} \
            --query SubscriptionArn --output text"
    );
    let (status, subscription) = aws.bash(&subscribe, &[]).await;
    assert_eq!(status, Some(0), "{subscription}");
    let doctor = async || run(&aws.url, &["doctor", &check]).await;
    let drill = async || run(&aws.url, &["drill", &check, "--dry-run"]).await;
    let found = doctor().await;
    assert!(
        found.status == Some(3) && found.out.contains("failover-lock, which no function polls"),
        "{found:?}"
    );
    assert_eq!(drill().await.status, Some(3));
    let map = [
        "lambda",
        "create-event-source-mapping",
        "--function-name",
        "failover-lock:live",
        "--batch-size",
        "10",
    ];
    aws.aws(&[&map[..], &["--event-source-arn", queue]].concat()).await;
    let remedy = |found: &Ended, said: &str| {
        let mut lines = found.out.lines().skip_while(|line| !line.contains(said));
        let remedy = lines.find_map(|line| line.trim().strip_prefix("→ ")).expect("it names one").to_owned();
        (remedy, found.status)
    };
    let mended = async |said: &str| {
        let (remedy, status) = remedy(&doctor().await, said);
        assert_eq!(status, Some(3), "{said}");
        let (status, printed) = aws.bash(&remedy[remedy.find("aws").unwrap()..], &[]).await;
        assert_eq!(status, Some(0), "{remedy}: {printed}");
        assert_eq!(doctor().await.status, Some(0), "{said}");
    };
    mended("Lambda deletes a batch of arn:aws:sqs:us-east-1:000000000000:failover-lock").await;
    assert_eq!(drill().await.status, Some(0));
    let off = "aws lambda update-event-source-mapping --no-enabled --uuid \
        $(aws lambda list-event-source-mappings --query 'EventSourceMappings[0].UUID' --output text)";
    assert_eq!(aws.bash(off, &[]).await.0, Some(0));
    mended("does not invoke").await;
    let dropped = r#"aws lambda update-event-source-mapping --uuid $(aws lambda list-event-source-mappings \
        --query 'EventSourceMappings[0].UUID' --output text) \
        --filter-criteria '{"Filters": [{"Pattern": "{\"body\": {\"severity\": [\"page\"]}}"}]}'"#;
    assert_eq!(aws.bash(dropped, &[]).await.0, Some(0));
    mended("Lambda drops the alarms of arn:aws:sqs:us-east-1:000000000000:failover-lock").await;
    let filter = format!(
        r#"aws sns set-subscription-attributes --subscription-arn {} --attribute-name FilterPolicy \
            --attribute-value '{{"team": ["a"]}}'"#,
        subscription.trim()
    );
    let (status, printed) = aws.bash(&filter, &[]).await;
    assert_eq!(status, Some(0), "{printed}");
    mended("gets no alarm from").await;
}

#[tokio::test]
async fn doctor_and_drill_read_the_records_that_depend_on_a_check() {
    let aws = Emulator::own_ministack().await;
    let primary = Primary::start("/lb-check").await;
    let check = deployed(&aws, &primary).await;
    let zone = "aws route53 create-hosted-zone --name example.com --caller-reference x --query HostedZone.Id --output text";
    let record = |role: &str, more: Value| {
        let mut record = json!({ "Name": "www.example.com", "Type": "A", "TTL": 60, "SetIdentifier": role,
            "Failover": role, "ResourceRecords": [{ "Value": "127.0.0.1" }] });
        record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "Changes": [{ "Action": "UPSERT", "ResourceRecordSet": record }] }).to_string()
    };
    let (_, zone) = aws.bash(zone, &[]).await;
    let put = async |batch: String| {
        let put = [
            "route53",
            "change-resource-record-sets",
            "--hosted-zone-id",
            zone.trim(),
            "--change-batch",
            &batch,
        ];
        aws.aws(&put).await;
    };
    put(record("PRIMARY", json!({ "HealthCheckId": check }))).await;
    let found = run(&aws.url, &["doctor", &check]).await;
    assert_eq!(found.status, Some(3), "{found:?}");
    assert!(found.out.contains("www.example.com. A has no secondary"), "{found:?}");
    put(record("SECONDARY", json!({}))).await;
    let found = run(&aws.url, &["doctor", &check]).await;
    assert!(
        found.out.contains("its secondary has no health check, and always counts as healthy"),
        "{found:?}"
    );
    let other = aws.health_check(2).await;
    put(record("SECONDARY", json!({ "HealthCheckId": other }))).await;
    let found = run(&aws.url, &["doctor", &check]).await;
    assert!(found.out.contains("www.example.com. A fails over from it to a checked secondary"), "{found:?}");

    let refused = run(&aws.url, &["drill", &check, "--yes"]).await;
    assert_eq!(refused.status, Some(3), "{refused:?}");
    assert!(refused.said.contains("a drill moves its traffic. Use a check of its own"), "{refused:?}");
}

/// A lock moves a record that refers to a calculated check only if that one follows.
#[tokio::test]
async fn doctor_says_whether_a_record_follows_through_a_calculated_check() {
    let aws = Emulator::moto().await;
    let (check, other) = (aws.health_check(1).await, aws.health_check(2).await);
    let zone = "aws route53 create-hosted-zone --name example.com --caller-reference x --query HostedZone.Id --output text";
    let (_, zone) = aws.bash(zone, &[]).await;
    let put = async |role: &str, health_check: &Value| {
        let record = json!({ "Name": "www.example.com", "Type": "A", "TTL": 60, "SetIdentifier": role,
            "Failover": role, "ResourceRecords": [{ "Value": "127.0.0.1" }], "HealthCheckId": health_check });
        let batch = json!({ "Changes": [{ "Action": "UPSERT", "ResourceRecordSet": record }] }).to_string();
        let put =
            ["route53", "change-resource-record-sets", "--hosted-zone-id", zone.trim(), "--change-batch"];
        aws.aws(&[&put[..], &[&batch]].concat()).await;
    };
    put("SECONDARY", &json!(other)).await;
    for (config, said) in [
        (json!({ "HealthThreshold": 2 }), "ok      records       www.example.com. A fails over from it"),
        (
            json!({ "HealthThreshold": 1 }),
            "look    records       www.example.com. A may stay although it is locked",
        ),
        (
            json!({ "HealthThreshold": 0 }),
            "WRONG   records       www.example.com. A does not leave when it is locked",
        ),
        (
            json!({ "HealthThreshold": 2, "Inverted": true }),
            "is inverted, and becomes healthy when it is locked",
        ),
        (json!({ "HealthThreshold": 2, "Disabled": true }), "is disabled, and always counts as healthy"),
    ] {
        let mut calculated = json!({ "Type": "CALCULATED", "ChildHealthChecks": [check, other] });
        calculated.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        let (calculated, caller) = (calculated.to_string(), config.to_string());
        let create =
            ["route53", "create-health-check", "--caller-reference", &caller, "--health-check-config"];
        let created = aws.aws(&[&create[..], &[&calculated]].concat()).await;
        put("PRIMARY", &created["HealthCheck"]["Id"]).await;
        let found = run(&aws.url, &["doctor", &check]).await;
        assert!(found.out.contains(said), "{config}: {found:?}");
        assert_eq!(
            found.out.contains("A fails over from it"),
            said.contains("fails over from it"),
            "{found:?}"
        );
    }
    // The secondary requires the primary's check.
    let both = json!({ "Type": "CALCULATED", "ChildHealthChecks": [check, other], "HealthThreshold": 2 })
        .to_string();
    let create = ["route53", "create-health-check", "--caller-reference", "both", "--health-check-config"];
    let both = aws.aws(&[&create[..], &[&both]].concat()).await;
    put("PRIMARY", &json!(check)).await;
    put("SECONDARY", &both["HealthCheck"]["Id"]).await;
    let found = run(&aws.url, &["doctor", &check]).await;
    assert!(found.out.contains("or one that follows it, so that a lock fails both"), "{found:?}");
}

#[tokio::test]
async fn a_drill_follows_the_alarm_to_the_lock_and_restores() {
    let aws = Emulator::own_ministack().await;
    let primary = Primary::start("/lb-check").await;
    let check = deployed(&aws, &primary).await;
    let all = run(&aws.url, &["status"]).await;
    assert!(all.out.contains(&check) && all.out.contains("armed"), "{all:?}");

    let dry = run(&aws.url, &["drill", &check, "--dry-run"]).await;
    assert!(dry.status == Some(0) && dry.out.contains("a drill may be done"), "{dry:?}");
    assert_eq!(aws.path(&check).await, "/lb-check");

    for how in [&["--output", "json"][..], &["--output", "json", "--by-metric"]] {
        let arguments = [&["drill", &check, "--yes"], how].concat();
        let drill = run(&aws.url, &arguments);
        let ended = tokio::select! {
            ended = drill => ended,
            () = checkers_of(&aws, &check) => unreachable!("checkers never end"),
        };
        assert_eq!(ended.status, Some(0), "{ended:?}");
        let steps: Value = serde_json::from_str(&ended.out).unwrap();
        let steps = steps["steps"].as_array().unwrap();
        let steps: Vec<_> = steps.iter().map(|step| step["what"].as_str().unwrap()).collect();
        for said in [
            "alarm failover-primary-unhealthy is in ALARM",
            "failover-lock has the notification and decides",
            "failover-lock is done",
            "the path is seen to be /lb-check-failed-over",
            "restored",
        ] {
            assert!(steps.contains(&said), "{said}: {steps:?}");
        }
        assert_eq!(steps.last(), Some(&"armed again"));
    }
}

#[tokio::test]
async fn a_drill_that_goes_wrong_leaves_the_check_as_it_was_and_no_late_lock() {
    let aws = Emulator::own_ministack().await;
    let primary = Primary::start("/lb-check").await;
    let check = deployed_without_versions(&aws, &primary).await;
    let tags = async || {
        let list =
            ["route53", "list-tags-for-resource", "--resource-type", "healthcheck", "--resource-id", &check];
        aws.aws(&list).await.to_string()
    };

    // A primary for which a restore would be refused.
    primary.set_up(false);
    let refused = run(&aws.url, &["drill", &check, "--yes"]).await;
    assert_eq!(refused.status, Some(3), "{refused:?}");
    assert!(refused.said.contains("the primary must be healthy as seen from here"), "{refused:?}");
    primary.set_up(true);

    // A function that would not lock.
    let concurrency = ["--function-name", "failover-lock", "--reserved-concurrent-executions", "0"];
    aws.aws(&[&["lambda", "put-function-concurrency"], &concurrency[..]].concat()).await;
    let refused = run(&aws.url, &["drill", &check, "--dry-run"]).await;
    assert!(refused.said.contains("cannot run: its reserved concurrency is 0"), "{refused:?}");
    aws.aws(&[&["lambda", "delete-function-concurrency"], &concurrency[..2]].concat()).await;

    // A notification that does not come in time, about a check that has not been changed yet.
    cut_off(&aws, true).await;
    let late = run(&aws.url, &["drill", &check, "--yes", "--timeout", "0"]).await;
    assert_eq!(late.status, Some(1), "{late:?}");
    cut_off(&aws, false).await;
    assert_eq!(aws.path(&check).await, "/lb-check");
    let before =
        support::lock::delivered(&[&support::lock::message(&check, "ALARM", support::lock::CHANGED_AT)]);
    let invoke =
        ["lambda", "invoke", "--function-name", "failover-lock:live", "--payload", &before, "/dev/stdout"];
    let answer = aws.aws(&invoke).await.to_string();
    assert!(answer.contains("older_than_restore"), "{answer}");
    let calm =
        ["--alarm-name", "failover-primary-unhealthy", "--state-value", "OK", "--state-reason", "calm"];
    aws.aws(&[&["cloudwatch", "set-alarm-state"], &calm[..]].concat()).await;

    // The emulator does not make the check fail, so no alarm goes off.
    let late = run(&aws.url, &["drill", &check, "--yes", "--by-metric", "--timeout", "0"]).await;
    assert_eq!(late.status, Some(1), "{late:?}");
    assert!(late.said.contains("its alarm did not go off"), "{late:?}");
    assert_eq!(aws.path(&check).await, "/lb-check");
    assert!(tags().await.contains("failover-lock:in"));

    // An interrupted drill.
    let untag = ["--resource-type", "healthcheck", "--resource-id", &check, "--remove-tag-keys"];
    aws.aws(&[&["route53", "change-tags-for-resource"], &untag[..], &["failover-lock:in"]].concat()).await;
    // The option precedes the variable.
    let arguments = ["drill", &check, "--yes", "--by-metric", "--endpoint-url", &aws.url];
    let mut child =
        command(Path::new(FAILOVERCTL), "http://127.0.0.1:9", &arguments).spawn().expect("it starts");
    let stderr = child.stderr.take().expect("stderr is piped");
    says(stderr, "the check asks for /failoverctl-drill-no-such-page").await;
    assert_eq!(aws.path(&check).await, "/failoverctl-drill-no-such-page");
    assert_eq!(interrupted(child).await.status, Some(1));
    assert_eq!(aws.path(&check).await, "/lb-check");
    assert!(tags().await.contains("failover-lock:in"));
}

/// Whether `lock` reaches no Route 53.
async fn cut_off(aws: &Emulator, is_cut_off: bool) {
    let change = if is_cut_off {
        r#"s|"Variables": {|"Variables": {"AWS_ENDPOINT_URL_ROUTE_53": "http://127.0.0.1:9",|"#
    } else {
        "/AWS_ENDPOINT_URL_ROUTE_53/d"
    };
    let (status, said) = aws
        .bash(
            r#"aws lambda update-function-configuration --function-name failover-lock --environment "$(
                aws lambda get-function-configuration --function-name failover-lock --query Environment --output json |
                sed "$CHANGE")""#,
            &[("CHANGE", change)],
        )
        .await;
    assert_eq!(status, Some(0), "{said}");
}

/// What a drill finds at its end that is not its own, it leaves, and says so.
#[tokio::test]
async fn a_drill_leaves_every_lock_that_is_not_its_own() {
    let aws = Emulator::own_ministack().await;
    let primary = Primary::start("/lb-check").await;
    let check = deployed_without_versions(&aws, &primary).await;
    cut_off(&aws, true).await;
    let route53 = aws_sdk_route53::Client::new(&aws.config().await);
    // Records this lock, or removes its record, and returns the tags from before.
    let tag = async |lock: Option<String>| {
        let of = aws_sdk_route53::types::TagResourceType::Healthcheck;
        let tags =
            route53.list_tags_for_resource().resource_type(of.clone()).resource_id(&check).send().await;
        let change = route53.change_tags_for_resource().resource_type(of).resource_id(&check);
        let key = "failover-lock:out";
        let change = match lock {
            Some(lock) => {
                change.add_tags(aws_sdk_route53::types::Tag::builder().key(key).value(lock).build())
            }
            None => change.remove_tag_keys(key),
        };
        change.send().await.unwrap();
        format!("{tags:?}")
    };
    let own = "failover-primary-unhealthy";
    let locked = Some("/lb-check-failed-over");
    for (path, recorded, said) in [
        // An alarm whose name the drill's begins with, the drill's own before, and a lock that no function has recorded.
        (locked, Some((0, "failover-primary")), "not certain that the drill has locked"),
        (locked, Some((60, own)), "not certain that the drill has locked"),
        (locked, Some((0, "found on the locked path: failover-primary-unhealthy")), "has locked"),
        (locked, None, "stays locked, and has no record of this version"),
        // By functions with another path, and one that waits.
        (Some("/another"), Some((0, "by hand: INC-9")), "has locked"),
        (None, Some((0, "failover-second")), "waits for its secondary (failover-second), and stays"),
        (None, None, "its primary does not answer any more"),
    ] {
        let arguments = ["drill", &check, "--yes", "--timeout", "3", "--endpoint-url", &aws.url];
        let mut child =
            command(Path::new(FAILOVERCTL), "http://127.0.0.1:9", &arguments).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        let mut line = async || lines.next_line().await.expect("UTF-8");
        while !line().await.expect("it says so before it ends").contains("is in ALARM") {}
        let mut version = 0;
        if let Some(path) = path {
            let set = route53.update_health_check().health_check_id(&check).resource_path(path).send().await;
            version = set.unwrap().health_check.expect("it is updated").health_check_version;
        }
        if let Some((before, by)) = recorded {
            let at = (Utc::now() - TimeDelta::seconds(before)).to_rfc3339_opts(SecondsFormat::Secs, true);
            let on = if version == 0 { " on=1000" } else { "" };
            tag(Some(format!("v={version} at={at}{on} alarm={at} before=/lb-check by={by}"))).await;
        }
        primary.set_up(path.is_some() || recorded.is_some());
        let mut told = String::new();
        while let Some(line) = line().await {
            told += &line;
        }
        let ended = child.wait().await.expect("it ends");
        assert!(told.contains("the drill restores nothing") && told.contains(said), "{said}: {told}");
        assert!(!ended.success());
        assert_eq!(aws.path(&check).await, path.unwrap_or("/lb-check"), "{said}");
        primary.set_up(true);
        let tags = tag(None).await;
        assert!(!tags.contains("failover-lock:in"), "{said}: {tags}");
        let set =
            route53.update_health_check().health_check_id(&check).resource_path("/lb-check").send().await;
        set.unwrap();
        let calm = ["--alarm-name", own, "--state-value", "OK", "--state-reason", "calm"];
        aws.aws(&[&["cloudwatch", "set-alarm-state"], &calm[..]].concat()).await;
    }
}

#[tokio::test]
async fn a_profile_precedes_keys_in_the_environment_and_must_exist() {
    let ended = run("http://127.0.0.1:9", &["status", PRIMARY, "--profile", "nobody"]).await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(
        ended.said.contains("there are no credentials to use") && ended.said.contains("nobody"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn watching_ends_when_it_is_interrupted() {
    let route53 = account(Check::new("HTTP", 80), Some(quiet())).await;
    let url = route53.url();
    let mut child =
        command(Path::new(FAILOVERCTL), &url, &["status", "--watch", PRIMARY]).spawn().expect("it starts");
    says(child.stdout.take().expect("stdout is piped"), "armed").await;
    assert_eq!(interrupted(child).await.status, Some(0));
}

/// How many looks in a row have to fail.
const FAILURE_THRESHOLD: u32 = 30;

/// Route 53's checkers, for whom this check's path decides: one that fails for a moment is not unhealthy yet.
async fn checkers_of(aws: &Emulator, check: &str) {
    let mut failing_looks = 0;
    loop {
        failing_looks = if aws.path(check).await == "/lb-check" { 0 } else { failing_looks + 1 };
        aws.report(check, if failing_looks > FAILURE_THRESHOLD { "0" } else { "1" }, 0).await;
    }
}

/// Runs failoverctl where these sites are.
pub async fn run_at(sites: &Sites, arguments: &[&str]) -> Ended {
    let mut command = command(Path::new(FAILOVERCTL), &sites.aws.url, arguments);
    command.env("AWS_ENDPOINT_URL_GLOBAL_ACCELERATOR", sites.accelerators.url()).env("AWS_REGION", REGION);
    Ended::of(command.stdin(Stdio::null()).output().await.expect("it starts"))
}

#[tokio::test]
async fn fence_status_shows_the_sites_in_service_and_those_that_were_taken_out() {
    let sites = Sites::start().await;
    let ended = run_at(&sites, &["fence", "status"]).await;
    let line = |site: &str, rest: &str| format!("{DNS_NAME}  {site}  {rest}\n");
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(ended.out.contains(&line("site-b", "1/1      in service")), "{}", ended.out);

    outcomes(&sites.system(&[]), &alert("site-a", "site-b")).await;
    let ended = run_at(&sites, &["fence", "status", DNS_NAME]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(ended.out.contains(&line("site-a", "1/1      in service")), "{}", ended.out);
    assert!(ended.out.contains("site-b  0/0      fenced since ") && ended.out.contains("reported by site-a"));
    let ended = run_at(&sites, &["fence", "status", "--output", "json"]).await;
    let found: Value = serde_json::from_str(&ended.out).unwrap();
    let found = &found["sites"];
    assert_eq!((&found[1]["site"], &found[1]["reporter"]), (&json!("site-b"), &json!("site-a")));
    assert_eq!(found[0]["endpoints"][0]["id"], json!(sites.balancer_a));
    assert!(found[1]["noted"] == true && found[1]["fencedAt"].is_string(), "{found}");

    // A site that was drained.
    let [a, b] = sites.both();
    let drained = [Group::new(REGION, [a, b.weight(0)])];
    sites.accelerators.put(Accelerator::new(LABEL).listener(drained));
    let ended = run_at(&sites, &["fence", "status"]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(ended.out.contains(&line("site-a", "1/1      in service")), "{}", ended.out);
    let words = "1/1      gets no traffic: its weight or traffic dial is 0 (listener 0123vx00)";
    assert!(ended.out.contains(&line("site-b", words)), "{}", ended.out);

    // One that was rejoined by force, too: it is of no use, and waits for a rejoin.
    let [a, b] = sites.both();
    let drained = Accelerator::new(LABEL).listener([Group::new(REGION, [a, b.weight(0)])]);
    sites.accelerators.put(drained.tagged("site-fence:site-b", "2026-11-21T03:08:09Z site-a"));
    let ended = run_at(&sites, &["fence", "status"]).await;
    assert_eq!(ended.status, Some(3), "{ended:?}");
    let words =
        format!("{words}, though noted as fenced since 2026-11-21T03:08:09Z, reported by site-a: rejoin it");
    assert!(ended.out.contains(&line("site-b", &words)), "{}", ended.out);

    // An operator removes all traces of the other site.
    sites.accelerators.put(Accelerator::new(LABEL).listener([Group::new(REGION, [sites.both()[0].clone()])]));
    let ended = run_at(&sites, &["fence", "status"]).await;
    assert!(ended.out.contains("in service; no other site is known"), "{}", ended.out);
    sites.accelerators.set_health(&sites.balancer_a, "UNHEALTHY");
    assert_eq!(run_at(&sites, &["fence", "status"]).await.status, Some(3));
    let ended = run_at(&sites, &["fence", "status", "other.example.com"]).await;
    assert_eq!(ended.status, Some(1));
    assert!(
        ended.said.contains("no accelerator of the DNS name or ARN \"other.example.com\""),
        "{}",
        ended.said
    );
}

#[tokio::test]
async fn fence_rejoin_asks_and_makes_the_function_rejoin_the_site() {
    let sites = Sites::start_with_functions().await;
    outcomes(&sites.system(&[]), &alert("site-a", "site-b")).await;
    let zip = sites.aws.package("site-fence");
    let variables = sites.variables();
    let variables: serde_json::Map<_, _> = variables
        .into_iter()
        .filter(|(name, _)| !name.starts_with("AWS_"))
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect();
    let environment = json!({ "Variables": variables }).to_string();
    let zip = format!("fileb://{}", zip.display());
    let role = r#"aws iam create-role --role-name any --assume-role-policy-document '{"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]}'
        aws iam put-role-policy --role-name any --policy-name any --policy-document '{"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "*", "Resource": "*"}]}'"#;
    assert_eq!(sites.aws.bash(role, &[]).await.0, Some(0));
    let role = "arn:aws:iam::000000000000:role/any";
    let code = ["--runtime", "provided.al2023", "--timeout", "60", "--zip-file", &zip, "--role", role];
    for (name, handler) in [("site-rejoin", "rejoin"), ("site-fence", "fence")] {
        let create = ["lambda", "create-function", "--function-name", name, "--handler", handler];
        sites.aws.aws(&[&create[..], &code[..], &["--environment", &environment]].concat()).await;
    }

    let rejoin = ["fence", "rejoin", "site-b", "--accelerator", DNS_NAME];
    let ended = run_at(&sites, &rejoin).await;
    assert_eq!(ended.status, Some(3));
    assert!(ended.said.contains("there is no terminal to ask on"), "{}", ended.said);
    let ended = run_at(&sites, &[&rejoin[..], &["--dry-run"]].concat()).await;
    assert_eq!(ended.status, Some(0), "{}", ended.said);
    assert!(ended.out.starts_with("site-b: would_rejoin (arn:aws:elasticloadbalancing:"), "{}", ended.out);
    assert_eq!(sites.in_service().len(), 1);
    let unapproved =
        run_at(&sites, &[&rejoin[..], &["--yes", "--force", "--require-approval"]].concat()).await;
    let plan = format!(
        "failoverctl approve 'fence rejoin site-b --accelerator {DNS_NAME} --function site-rejoin --force: no reason |"
    );
    assert!(unapproved.status == Some(3) && unapproved.said.contains(&plan), "{unapproved:?}");
    assert_eq!(sites.in_service().len(), 1);
    let report = Folder::new("rejoin");
    let options = ["--yes", "--reason", "INC-1", "--report", report.name()];
    let ended = run_at(&sites, &[&rejoin[..], &options].concat()).await;
    assert!(report.has_steps(&[("function", "site-rejoin: site-b: rejoined")]), "{}", report.json());
    assert_eq!((&report.json()["isDone"], &report.json()["isChanged"]), (&true.into(), &true.into()));
    assert_eq!((ended.status, ended.out.as_str()), (Some(0), "site-b: rejoined\n"), "{}", ended.said);
    assert_eq!((sites.in_service().len(), sites.a.status("site-b").as_str()), (2, "online"));

    let unknown = ["fence", "rejoin", "site-z", "--accelerator", DNS_NAME, "--yes"];
    let ended = run_at(&sites, &unknown).await;
    assert_eq!(
        (ended.status, ended.out.as_str()),
        (Some(3), "site-z: refused: nothing_noted\n"),
        "{}",
        ended.said
    );
    let (report, again) = (Folder::new("out"), Folder::new("out"));
    let out = ["fence", "out", "site-b", "--accelerator", DNS_NAME, "--yes"];
    let gate = ["--require-command", "echo not in sync; exit 4", "--report", report.name()];
    let unready = run_at(&sites, &[&out[..], &gate].concat()).await;
    assert!(unready.status == Some(3) && unready.said.contains("not in sync"), "{unready:?}");
    assert_eq!((&report.json()["isDone"], sites.in_service().len()), (&false.into(), 2));
    let ended = run_at(&sites, &[&out[..], &["--report", again.name()]].concat()).await;
    assert_eq!((ended.status, sites.in_service().len()), (Some(0), 1), "{ended:?}");
    assert!(again.has_steps(&[("function", "site-fence: site-b: taken_out")]), "{}", again.json());
    let at = ["--accelerator", DNS_NAME, "--yes"];
    let pause = ["fence", "pause", "--all", "--for", "2h", "--reason", "CHG-42"];
    let ended = run_at(&sites, &[&pause[..], &at, &["--dry-run"]].concat()).await;
    assert!(ended.status == Some(0) && ended.out.starts_with("all sites: would_pause (until 2"), "{ended:?}");
    let ended = run_at(&sites, &[&pause[..], &at].concat()).await;
    assert!(ended.status == Some(0) && ended.said.contains("site-paused stands until"), "{ended:?}");
    assert!(ended.out.starts_with("all sites: paused (until 2") && ended.out.contains("CHG-42"), "{ended:?}");
    let status = run_at(&sites, &["fence", "status", "--output", "json"]).await;
    let json: Value = serde_json::from_str(&status.out).unwrap();
    let site = json["sites"].as_array().and_then(|sites| sites.iter().find(|site| site["site"] == "site-a"));
    assert_eq!(site.expect("it is behind the accelerator")["pauseReason"], "CHG-42", "{json}");
    let status = run_at(&sites, &["fence", "status"]).await;
    assert_eq!(status.out.matches("; paused until 2").count(), 2, "{status:?}");
    // A site has a pause of its own beside it.
    let of_site = [&["fence", "pause", "site-b", "--for", "1h", "--reason", "disks"], &at[..]].concat();
    assert_eq!(run_at(&sites, &of_site).await.status, Some(0));
    let ended = run_at(&sites, &[&["fence", "resume", "site-b", "--dry-run"], &at[..]].concat()).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let ended = run_at(&sites, &[&["fence", "resume", "site-b"], &at[..]].concat()).await;
    assert!(
        ended.status == Some(3) && ended.out.contains("resumed (still paused: all sites until 2"),
        "{ended:?}"
    );
    for outcome in ["all sites: resumed\n", "all sites: not_paused\n"] {
        let ended = run_at(&sites, &[&["fence", "resume", "--all"], &at[..]].concat()).await;
        assert_eq!((ended.status, ended.out.as_str()), (Some(0), outcome), "{ended:?}");
    }
    let unsaid = run_at(&sites, &[&["fence", "resume"], &at[..]].concat()).await;
    assert_eq!(unsaid.status, Some(2), "which sites is not said: {unsaid:?}");
    let nowhere = ["fence", "rejoin", "site-b", "--accelerator", "other.example.com", "--yes"];
    let ended = run_at(&sites, &nowhere).await;
    assert_eq!(ended.status, Some(1));
    assert!(ended.said.contains("site-rejoin: no accelerator of this account"), "{}", ended.said);
    let ended = run_at(&sites, &[&rejoin[..], &["--yes", "--function", "other"]].concat()).await;
    assert!(
        ended.said.contains("other: there is no such function in us-east-1: give --region or --function"),
        "{}",
        ended.said
    );
}
