//! `failoverctl switch-over`, on a Route 53 in miniature with its API, its checkers and its name servers.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::failoverctl::{Ended, FAILOVERCTL, command, interrupted, says};
use crate::report::Folder;
use crate::support::aws::aws_at;
use crate::support::lock::LOCKED;
use crate::support::miniature::Shared;
use crate::support::miniature::api::Api;
use crate::support::miniature::dns::NameServers;
use crate::support::miniature::records::{Alias, Record};
use crate::support::miniature::world::World;
use crate::support::sts::{Person, Sts};
use aws_sdk_route53::Client;
use aws_sdk_route53::types::{HealthCheckConfig, HealthCheckType};
use serde_json::Value;
use tokio::process::Command;

const NAME: &str = "www.example.com";
const PRIMARY: &str = "192.0.2.1";
const STANDBY: &str = "198.51.100.2";

/// A pair of sites, both healthy, behind failover records.
struct Pair {
    world: Shared,
    api: Api,
    servers: NameServers,
    primary: String,
    standby: String,
}

impl Pair {
    async fn start() -> Self {
        let world = Shared::new(World::new(1));
        let (api, servers) = (Api::start(&world).await, NameServers::start(&world).await);
        let client = Client::new(&aws_at(&api.url()).await);
        let create = async |address: &str| {
            let config = HealthCheckConfig::builder()
                .r#type(HealthCheckType::Http)
                .ip_address(address)
                .port(80)
                .resource_path("/lb-check")
                .request_interval(10)
                .failure_threshold(1);
            let made = client
                .create_health_check()
                .caller_reference(address)
                .health_check_config(config.build().expect("it has a type"))
                .send()
                .await;
            made.expect("the settings are allowed").health_check.expect("it is in the answer").id
        };
        let (primary, standby) = (create(PRIMARY).await, create(STANDBY).await);
        let pair = Self { world, api, servers, primary, standby };
        pair.records(Some(&pair.standby));
        for (address, path) in [(PRIMARY, "/lb-check"), (STANDBY, "/lb-check")] {
            pair.passing(address, path, true);
        }
        pair.passing(PRIMARY, LOCKED, false);
        pair
    }

    /// The failover records, with this check of the standby.
    fn records(&self, standby: Option<&str>) {
        let records =
            [Record::a(NAME, PRIMARY).primary(&self.primary), Record::a(NAME, STANDBY).secondary(standby)];
        self.world.lock().put(records);
    }

    fn passing(&self, address: &str, path: &str, passing: bool) {
        let mut world = self.world.lock();
        world.set_passing(&format!("http://{address}{path}"), passing);
        world.pass(Duration::from_mins(1));
    }

    fn program(&self, typed: &[&str]) -> Command {
        let server = self.servers.address(0).to_string();
        let named = if typed.contains(&"--dns-server") { vec![] } else { vec!["--dns-server", &server] };
        let arguments = [&["switch-over", &self.primary, "--reason", "CHG-42", "--yes"][..], &named].concat();
        command(Path::new(FAILOVERCTL), &self.api.url(), &[&arguments[..], typed].concat())
    }

    async fn run(&self, typed: &[&str]) -> Ended {
        Ended::of(self.program(typed).output().await.expect("it starts"))
    }

    /// Whether the primary was changed.
    fn is_changed(&self) -> bool {
        let calls = self.api.calls();
        let mut changes =
            calls.iter().filter(|call| call.starts_with("Update") || call.starts_with("Change"));
        changes.any(|call| call.contains(&self.primary))
    }

    /// Lets the checkers see what is asked for now.
    async fn time_passes(&self) {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.world.lock().pass(Duration::from_secs(1));
        }
    }
}

#[tokio::test]
async fn a_switch_over_ends_when_the_traffic_is_seen_at_the_other_site() {
    let pair = Pair::start().await;
    let folder = Folder::new("switch-over-done");
    let gate = "echo lag 2 s";
    let ended = pair.run(&["--dry-run", "--require-command", gate, "--require-approval"]).await;
    assert!(ended.status == Some(0) && ended.out.contains("would be locked"), "{ended:?}");
    assert!(ended.out.contains("a second person would have to approve"), "{ended:?}");
    let jane = Person { arn: "arn:aws:iam::123456789012:user/jane", session_token: None };
    let sts = Sts::start(&[("test", jane)]).await;
    let mut program = pair.program(&["--require-approval=*/ada"]);
    let program = program.env("AWS_ENDPOINT_URL_STS", sts.url()).stdin(Stdio::null());
    let ended = Ended::of(program.output().await.expect("it starts"));
    let plan = format!("failoverctl approve 'switch-over {}: CHG-42 | ", pair.primary);
    assert!(ended.status == Some(3) && ended.said.contains(&plan), "{ended:?}");
    assert!(!pair.is_changed());

    // Interrupted, it stays locked; repeated, it goes on.
    let mut child = pair.program(&[]).spawn().expect("it starts");
    says(child.stderr.take().expect("it is piped"), "is locked: CHG-42").await;
    let ended = interrupted(child).await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(pair.is_changed());

    let typed = ["--report", folder.name(), "--output", "json"];
    let mut child = pair.program(&typed).spawn().expect("it starts");
    says(child.stderr.take().expect("it is piped"), "is locked already").await;
    let ended = tokio::select! {
        ended = child.wait_with_output() => Ended::of(ended.expect("it ends")),
        () = pair.time_passes() => unreachable!("it passes for ever"),
    };
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let answer: Value = serde_json::from_str(&ended.out).expect("JSON");
    let steps = answer["steps"].as_array().expect("a list");
    let place = |text: &str| {
        let is_it = |step: &Value| step["what"].as_str().is_some_and(|what| what.contains(text));
        steps.iter().position(is_it).unwrap_or_else(|| panic!("{text}: {answer}"))
    };
    let answered = |address: &str| place(&format!("{NAME}. A: {address} (1/1)"));
    assert!(place("is locked already") < place("0 of 16 checkers"), "{answer}");
    assert!(answered(PRIMARY) < answered(STANDBY), "{answer}");

    let report = folder.json();
    assert_eq!((&report["isDone"], &report["steps"]), (&true.into(), &answer["steps"]));
    assert!(folder.file("md").contains(STANDBY) && folder.file("html").contains("<svg"));
}

#[tokio::test]
async fn a_switch_over_needs_another_site_that_is_healthy() {
    let pair = Pair::start().await;
    let refused = async |why: &str, typed: &[&str]| {
        let ended = pair.run(typed).await;
        assert!(ended.status == Some(3) && ended.said.contains(why), "{why}: {ended:?}");
        assert!(!pair.is_changed(), "{why}");
    };
    refused("exit status: 4: not in sync", &["--require-command", "echo not in sync >&2; exit 4"]).await;
    pair.passing(STANDBY, "/lb-check", false);
    refused("is not healthy (0 of 16 checkers find it healthy)", &[]).await;
    pair.passing(STANDBY, "/lb-check", true);
    pair.records(Some(&pair.primary));
    refused("its secondary has the same health check", &[]).await;
    // Someone has locked it, and its checkers have not seen that yet.
    pair.records(Some(&pair.standby));
    set_path(&pair, &pair.standby, LOCKED).await;
    refused("is locked", &[]).await;
}

#[tokio::test]
async fn the_target_of_a_secondary_that_is_an_alias_with_a_check_is_said_to_be_unseen() {
    let pair = Pair::start().await;
    let alias =
        Alias { zone: "Z35SXDOTRQ7X7K".to_owned(), name: "lb.example.com".to_owned(), evaluate: true };
    let secondary = Record::a(NAME, STANDBY).secondary(Some(&pair.standby));
    let secondary = Record { values: Vec::new(), alias: Some(alias), ..secondary };
    pair.world.lock().put([Record::a(NAME, PRIMARY).primary(&pair.primary), secondary]);
    let ended = pair.run(&["--dry-run"]).await;
    assert!(ended.status == Some(0) && ended.out.contains("is healthy (16 of 16"), "{ended:?}");
    assert!(ended.out.contains("Route 53 judges its alias' target as well"), "{ended:?}");
}

#[tokio::test]
async fn a_switch_over_whose_lock_does_not_hold_says_so() {
    let pair = Pair::start().await;
    pair.passing(PRIMARY, LOCKED, true);
    let folder = Folder::new("switch-over-late");
    let mut child = pair.program(&["--timeout", "1", "--report", folder.name()]).spawn().expect("it starts");
    says(child.stderr.take().expect("it is piped"), "is locked: CHG-42").await;
    // Where traffic is to go, nothing is well any more.
    pair.passing(STANDBY, "/lb-check", false);
    let ended = Ended::of(child.wait_with_output().await.expect("it ends"));
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.out.contains("is not healthy (0 of 16 checkers find it healthy)"), "{ended:?}");
    let report = folder.json();
    let cause = report["cause"].as_str().expect("it has failed");
    assert!(cause.contains("was not seen to move within 1 s"), "{cause}");
    // It is locked all the same.
    assert_eq!((&report["isDone"], &report["isChanged"]), (&false.into(), &true.into()), "{report}");
    assert!(pair.is_changed());
}

/// Sets the path that a check asks for.
async fn set_path(pair: &Pair, check: &str, path: &str) {
    let client = Client::new(&aws_at(&pair.api.url()).await);
    let update = client.update_health_check().health_check_id(check).resource_path(path);
    update.send().await.expect("it is allowed");
}

#[tokio::test]
async fn a_lock_that_is_undone_while_traffic_moves_is_no_switch_over() {
    let pair = Pair::start().await;
    let mut child = pair.program(&[]).spawn().expect("it starts");
    says(child.stderr.take().expect("it is piped"), "is locked: CHG-42").await;
    // It is set back before the checkers have seen it, and then fails for another reason.
    set_path(&pair, &pair.primary, "/lb-check").await;
    pair.passing(PRIMARY, "/lb-check", false);
    let ended = Ended::of(child.wait_with_output().await.expect("it ends"));
    assert_eq!(ended.status, Some(1), "{ended:?}");
}

#[tokio::test]
async fn where_no_name_server_answers_the_traffic_was_not_seen_to_move() {
    let pair = Pair::start().await;
    let folder = Folder::new("switch-over-unseen");
    // The later option counts.
    let nowhere = ["--dns-server", "127.0.0.1:9", "--report", folder.name()];
    let dry = pair.run(&[&nowhere[..], &["--dry-run"]].concat()).await;
    assert_eq!(dry.status, Some(0), "{dry:?}");
    let report = folder.json();
    assert_eq!((&report["isDone"], &report["isDryRun"]), (&false.into(), &true.into()));
    let ended = tokio::select! {
        ended = pair.run(&nowhere) => ended,
        () = pair.time_passes() => unreachable!("it passes for ever"),
    };
    assert!(ended.status == Some(3) && ended.out.contains("was not seen: ask its resolvers"), "{ended:?}");
}
