//! `failoverctl switch-over`, on a Route 53 in miniature with its API, its checkers and its name servers.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failoverctl::{Ended, FAILOVERCTL, command, interrupted, says};
use crate::support::aws::aws_at;
use crate::support::lock::LOCKED;
use crate::support::miniature::Shared;
use crate::support::miniature::api::Api;
use crate::support::miniature::dns::NameServers;
use crate::support::miniature::records::Record;
use crate::support::miniature::world::World;
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

    fn is_changed(&self) -> bool {
        self.api.calls().iter().any(|call| call.starts_with("Update") || call.starts_with("Change"))
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
    let folder = std::env::temp_dir().join(format!("switch-over-{}", pair.api.address.port()));
    let report = folder.to_str().expect("UTF-8").to_owned();
    let gate = "echo lag 2 s";
    let ended = pair.run(&["--dry-run", "--require-command", gate]).await;
    assert!(ended.status == Some(0) && ended.out.contains("would be locked"), "{ended:?}");
    assert!(!pair.is_changed());

    // Interrupted, it stays locked; repeated, it goes on.
    let mut child = pair.program(&[]).spawn().expect("it starts");
    says(child.stderr.take().expect("it is piped"), "is locked: CHG-42").await;
    let ended = interrupted(child).await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(pair.is_changed());

    let typed = ["--report", &report, "--output", "json"];
    let ended = tokio::select! {
        ended = pair.run(&typed) => ended,
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

    let files: Vec<PathBuf> =
        fs::read_dir(&folder).expect("it was made").map(|file| file.expect("it is there").path()).collect();
    let file = |extension: &str| {
        let file = files.iter().find(|file| file.extension().is_some_and(|is| is == extension));
        fs::read_to_string(file.unwrap_or_else(|| panic!("{extension}: {files:?}"))).expect("UTF-8")
    };
    let json: Value = serde_json::from_str(&file("json")).expect("JSON");
    assert_eq!((&json["report"]["isDone"], &json["report"]["steps"]), (&true.into(), &answer["steps"]));
    assert!(file("md").contains(STANDBY) && file("html").contains("<svg"));
    fs::remove_dir_all(folder).expect("it is there");
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
}

#[tokio::test]
async fn a_switch_over_whose_lock_does_not_hold_says_so() {
    let pair = Pair::start().await;
    pair.passing(PRIMARY, LOCKED, true);
    let ended = pair.run(&["--timeout", "1"]).await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.said.contains("was not seen to move within 1 s"), "{ended:?}");
    assert!(pair.is_changed());
}

/// The path that the primary's check asks for.
async fn set_path(pair: &Pair, path: &str) {
    let client = Client::new(&aws_at(&pair.api.url()).await);
    let update = client.update_health_check().health_check_id(&pair.primary).resource_path(path);
    update.send().await.expect("it is allowed");
}

#[tokio::test]
async fn a_lock_that_is_undone_while_traffic_moves_is_no_switch_over() {
    let pair = Pair::start().await;
    let mut child = pair.program(&[]).spawn().expect("it starts");
    says(child.stderr.take().expect("it is piped"), "is locked: CHG-42").await;
    // It is set back before the checkers have seen it, and then fails for another reason.
    set_path(&pair, "/lb-check").await;
    pair.passing(PRIMARY, "/lb-check", false);
    let ended = Ended::of(child.wait_with_output().await.expect("it ends"));
    assert_eq!(ended.status, Some(1), "{ended:?}");
}

#[tokio::test]
async fn where_no_name_server_answers_the_traffic_was_not_seen_to_move() {
    let pair = Pair::start().await;
    let folder = std::env::temp_dir().join(format!("switch-over-unseen-{}", pair.api.address.port()));
    let report = folder.to_str().expect("UTF-8").to_owned();
    // The later option counts.
    let nowhere = ["--dns-server", "127.0.0.1:9", "--report", &report];
    let dry = pair.run(&[&nowhere[..], &["--dry-run"]].concat()).await;
    assert_eq!(dry.status, Some(0), "{dry:?}");
    let json = fs::read_dir(&folder).expect("it was made").map(|file| file.expect("it is there").path());
    let json: Vec<_> = json.filter(|file| file.extension().is_some_and(|is| is == "json")).collect();
    let json: Value = serde_json::from_str(&fs::read_to_string(&json[0]).expect("UTF-8")).expect("JSON");
    assert_eq!((&json["report"]["isDone"], &json["report"]["isDryRun"]), (&false.into(), &true.into()));
    let ended = tokio::select! {
        ended = pair.run(&nowhere) => ended,
        () = pair.time_passes() => unreachable!("it passes for ever"),
    };
    assert!(ended.status == Some(3) && ended.out.contains("was not seen: ask its resolvers"), "{ended:?}");
    fs::remove_dir_all(folder).expect("it is there");
}
