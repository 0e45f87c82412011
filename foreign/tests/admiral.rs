//! lease-keeper beside Admiral's state checker: each reads the records of the other. The checker is the
//! published one with its faults (`admiral/main.go`), on the AWS SDK for Go as it uses it, against a real wire.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command as BlockingCommand, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use failover::lease::claim::NOBODY_MAY;
use serde_json::{Value, json};
use support::emulator::{Emulator, locked};
use support::keeper::{Keeper, LEASE, Observer, TABLE, config, create_table, pin, put, record};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A running checker, which checks on request.
struct Admiral {
    _process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

// === impl Admiral ===

impl Admiral {
    async fn start(emulator: &Emulator, name: &str) -> Self {
        let file = config(name, &format!("  role: arn:aws:iam::{}:role/lease\n", emulator.account()));
        let program = tokio::task::spawn_blocking(build).await.expect("it was built");
        let mut process = Command::new(program)
            .args(["--config".as_ref(), file.as_os_str()])
            .env_clear()
            .envs([("AWS_ENDPOINT_URL", emulator.url.as_str()), ("AWS_REGION", "us-east-1")])
            .envs([("AWS_ACCESS_KEY_ID", &emulator.key), ("AWS_SECRET_ACCESS_KEY", &emulator.key)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the checker starts");
        let input = process.stdin.take().expect("it is piped");
        let output = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        Self { _process: process, input, output }
    }

    /// Makes it check once. Returns whether it is active then, and the owner that it saw.
    async fn check(&mut self) -> (bool, String) {
        self.input.write_all(b"\n").await.expect("it runs");
        let line = self.output.next_line().await.expect("it answers").expect("it runs on");
        let state: Value = serde_json::from_str(&line).expect("it answers in JSON");
        assert_eq!(state["error"], "", "{state}");
        (state["readOnly"] == false, state["owner"].as_str().unwrap_or_default().to_owned())
    }
}

/// The checker, built by the first test that needs it.
fn build() -> PathBuf {
    const NEEDED: &str = "This test needs Go and Debian's packages golang-github-aws-aws-sdk-go-dev and \
        golang-gopkg-yaml.v2-dev.";
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let _alone = locked("admiral.lock");
    let program = target.join("admiral");
    let built = BlockingCommand::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/admiral/main.go"))
        .envs([("GO111MODULE", "off"), ("GOPATH", "/usr/share/gocode")])
        .env("GOCACHE", target.join("go"))
        .output();
    match built {
        Err(error) => panic!("go cannot be run: {error}. {NEEDED}"),
        Ok(output) if !output.status.success() => {
            panic!("{}{NEEDED}", String::from_utf8_lossy(&output.stderr))
        }
        Ok(_) => program,
    }
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970").as_secs()
}

/// The role that the checker requires.
async fn create_role(emulator: &Emulator) {
    let policy = json!({ "Version": "2012-10-17", "Statement": [] }).to_string();
    let role = ["iam", "create-role", "--role-name", "lease", "--assume-role-policy-document", &policy];
    emulator.aws(&role).await;
}

#[tokio::test]
async fn admiral_gives_way_to_a_keeper_that_holds_the_lease_and_takes_over_when_it_has_died() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    create_role(&emulator).await;
    let keeper = Keeper::start(&emulator, "site-a").await;
    let observer = Observer::of(&[&keeper]);
    let epoch = observer.active(&keeper).await;
    let mut admiral = Admiral::start(&emulator, "site-b").await;
    assert_eq!(admiral.check().await, (false, "site-a".to_owned()));
    assert_eq!(record(&emulator).await["leaseEpoch"]["N"], epoch.to_string(), "it leaves the record alone");

    keeper.signal("KILL").await;
    // Instead of waiting: Admiral compares wall clocks.
    let old = json!({ ":then": { "N": (seconds() - 60).to_string() } }).to_string();
    let key = json!({ "leaseName": { "S": LEASE } }).to_string();
    let update = ["dynamodb", "update-item", "--table-name", TABLE, "--key", &key];
    let set = ["--update-expression", "SET updatedTime = :then", "--expression-attribute-values", &old];
    emulator.aws(&[&update[..], &set].concat()).await;
    assert_eq!(admiral.check().await, (false, "site-a".to_owned()), "it takes the lease over");
    assert_eq!(admiral.check().await, (true, "site-b".to_owned()));
    let left = record(&emulator).await;
    assert_eq!((&left["leaseOwner"]["S"], &left["leaseEpoch"]), (&json!("site-b"), &Value::Null));
    assert_eq!(left["notes"]["S"], "kept by lease-keeper");
}

#[tokio::test]
async fn admiral_takes_a_lease_that_a_keeper_released() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    create_role(&emulator).await;
    let mut keeper = Keeper::start(&emulator, "site-a").await;
    Observer::of(&[&keeper]).active(&keeper).await;
    keeper.signal("TERM").await;
    keeper.ended().await;
    let mut admiral = Admiral::start(&emulator, "site-b").await;
    assert_eq!(admiral.check().await, (false, String::new()));
    assert_eq!(admiral.check().await, (true, "site-b".to_owned()));
}

#[tokio::test]
async fn a_keeper_waits_for_an_admiral_that_renews_and_takes_over_from_one_that_does_not() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    create_role(&emulator).await;
    let mut admiral = Admiral::start(&emulator, "site-b").await;
    admiral.check().await;
    assert_eq!(admiral.check().await, (true, "site-b".to_owned()));
    let keeper = Keeper::start(&emulator, "site-a").await;
    let observer = Observer::of(&[&keeper]);
    keeper.states("it is site-b's; written by Admiral's checker or a person").await;
    // It renews once for each look of the keeper, for longer than a term.
    for looks in 2..7 {
        keeper.proxy.arrived("GetItem", looks).await;
        assert!(admiral.check().await.0);
    }
    assert_eq!(keeper.state().await["active"], false);

    // Admiral stops. The keeper takes the lease, with an epoch above any that Admiral's record can have lost.
    let started = seconds();
    keeper.proxy.arrived("UpdateItem", 1).await;
    let epoch = observer.active(&keeper).await;
    assert!(epoch >= started, "{epoch}");
    assert!(keeper.proxy.calls("UpdateItem") >= 2, "Admiral sees that it has lost before the first renewal");
    assert_eq!(admiral.check().await, (false, "site-a".to_owned()));
    observer.vouch();
}

#[tokio::test]
async fn a_keeper_whose_record_admiral_overwrites_is_passive_at_its_next_renewal() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let keeper = Keeper::start(&emulator, "site-a").await;
    let observer = Observer::of(&[&keeper]);
    observer.active(&keeper).await;
    let renewals = keeper.proxy.calls("UpdateItem");
    // Admiral's write has no condition, and may have been on its way since before the keeper's.
    put(&emulator, "site-b", &seconds().to_string()).await;
    observer.passive(&keeper).await;
    assert!(keeper.proxy.calls("UpdateItem") <= renewals + 2);
    let said = keeper.says("\"passive\"").await;
    assert!(said.contains("it is site-b's; written by Admiral's checker or a person"), "{said}");
}

#[tokio::test]
async fn both_stay_passive_while_the_lease_is_pinned() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    create_role(&emulator).await;
    pin(&emulator).await;
    let keeper = Keeper::start(&emulator, "site-a").await;
    let mut admiral = Admiral::start(&emulator, "site-b").await;
    keeper.proxy.arrived("GetItem", 5).await;
    for _ in 0..2 {
        assert_eq!(admiral.check().await, (false, NOBODY_MAY.to_owned()));
    }
    keeper.states("SKIP-LEASE-POD keeps all candidates passive").await;
    assert_eq!(keeper.state().await["active"], false);
}
