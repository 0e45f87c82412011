//! `failoverctl latch`, beside watchers, on an S3 that enforces the rights of a person and of a watcher.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::failoverctl::{Ended, FAILOVERCTL, command, interrupted, programs, says};
use crate::report::Folder as Report;
use crate::support::aws::aws_at;
use crate::support::docs::commands_below;
use crate::support::miniature::api::Api;
use crate::support::miniature::dns::Fault::{Silent, Text};
use crate::support::miniature::dns::Transport;
use crate::support::miniature::latch::{APP, Latch, PRIMARY_SENTINEL, SERVING_SENTINEL, STANDBY_SENTINEL};
use crate::support::miniature::records::{Change, Kind, NAMES, Record, Routing, SERVERS};
use crate::support::miniature::world::World;
use crate::support::s3::{Down, Fault, PERSON, S3, WATCHER};
use crate::support::site::{A, B, BUCKETS, HOLD, KEY, Site, look};
use crate::support::sts::{Person, Sts};
use aws_sdk_route53::Client;
use aws_sdk_route53::types::builders::HealthCheckConfigBuilder;
use aws_sdk_route53::types::{HealthCheckConfig, HealthCheckType};
use hickory_proto::op::{Message, OpCode};
use hickory_proto::rr::rdata::{A as A_, NS};
use hickory_proto::rr::{Name, RData, Record as DnsRecord, RecordType};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::process::Command;

/// A folder with the file of the names that the deployment writes.
struct Folder(PathBuf);

impl Folder {
    fn of(site: &Site) -> Self {
        let folder = std::env::temp_dir().join(format!("failover-latch-{}", site.s3.address.port()));
        std::fs::create_dir_all(&folder).expect("a temporary folder can be made");
        let lines = site.variables().into_iter().map(|(name, value)| format!("{name}={value}\n"));
        let text = format!("# Written by the deployment.\n{}", lines.collect::<String>());
        std::fs::write(folder.join("failover-latch.env"), text).expect("it can be written");
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A program with a person's credentials. Every service but S3 leads nowhere.
fn at(site: &Site, folder: &Folder, program: &str, arguments: &[&str]) -> Command {
    let mut command = command(Path::new(program), "http://127.0.0.1:9", arguments);
    command
        .current_dir(&folder.0)
        .env("AWS_ENDPOINT_URL_S3", site.s3.url())
        .envs([("AWS_ACCESS_KEY_ID", PERSON), ("AWS_SECRET_ACCESS_KEY", PERSON)])
        .stdin(Stdio::null());
    command
}

/// `failoverctl latch`.
fn program(site: &Site, folder: &Folder, typed: &[&str]) -> Command {
    at(site, folder, FAILOVERCTL, &[&["latch"], typed].concat())
}

/// The commands of a page, with no one to answer.
fn documented(site: &Site, folder: &Folder, page: &str, heading: &str) -> Command {
    let [commands] = &commands_below(page, heading)[..] else {
        panic!("{page} has one block below {heading}")
    };
    let programs = programs();
    let script = format!(
        r#"PATH={programs}:$PATH
        failoverctl() {{
            case $2 in release | attach) set -- "$@" --yes ;; esac
            command failoverctl "$@"
        }}
        {commands}"#
    );
    at(site, folder, "bash", &["-c", &script])
}

/// Of a failover that Route 53 does not make, the watchers cannot tell: they do not ask about the primary while it serves.
#[tokio::test]
async fn a_primary_that_serves_although_it_is_unhealthy_is_not_armed() {
    let site = Site::start().await;
    let standby = {
        let world = site.world.lock();
        let is_standby =
            |record: &&Record| record.name == SERVING_SENTINEL && record.routing == Routing::Secondary;
        world.records().iter().find(is_standby).expect("it has one").clone()
    };
    site.world.lock().change(vec![Change::Delete(standby)]).expect("it is there");
    assert_eq!(run(&site, &["status", "app"]).await.status, Some(0));
    site.fails_over();
    let ended = run(&site, &["status", "app"]).await;
    assert!(
        ended.status == Some(3) && ended.out.contains("unsettled  app    primary  unhealthy"),
        "{ended:?}"
    );
    assert!(ended.out.contains("Route 53 does not fail over: failoverctl latch doctor app"), "{ended:?}");
    let ended = run(&site, &["doctor", "app"]).await;
    let said = "WRONG   now           unsettled: serving primary, primary unhealthy, standby healthy";
    assert!(ended.out.contains(said) && ended.out.contains("Route 53 does not fail over"), "{ended:?}");
    // Both are: in the mode yielding that is as it should be.
    site.standby(false);
    let ended = run(&site, &["status", "app"]).await;
    assert!(ended.out.contains("armed"), "{ended:?}");
}

/// Neither the verdict over UDP nor the one over TCP counts alone.
#[tokio::test]
async fn doctor_says_of_no_latch_that_it_is_armed_if_tcp_contradicts_udp() {
    let site = Site::start().await;
    for server in 0..2 {
        site.servers.set_fault_about_over(server, SERVING_SENTINEL, Transport::Tcp, Text("standby"));
    }
    let ended = run(&site, &["doctor", "app"]).await;
    assert!(ended.out.contains("contradict over TCP what they say over UDP"), "{ended:?}");
    assert!(!ended.out.contains("armed"), "{ended:?}");
}

/// Name servers' addresses that it knows: those of the watcher's own are on loopback.
const ADDRESSES: [(&str, &str); 2] =
    [("ns1.vanity.example", "127.0.0.1"), ("ns-1.elsewhere.example", "192.0.2.53")];

/// A resolver that knows the name servers of a zone.
#[derive(Clone, Default)]
struct Resolver(Arc<Mutex<Vec<String>>>);

impl Resolver {
    /// Returns its address as well.
    async fn start(servers: &[&str]) -> (String, Self) {
        let resolver = Self::default();
        resolver.set(servers);
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = socket.local_addr().expect("it has an address").to_string();
        let answering = resolver.clone();
        tokio::spawn(async move {
            let mut datagram = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut datagram).await {
                let query = Message::from_vec(&datagram[..length]).expect("it is DNS");
                let [asked] = &query.queries[..] else { panic!("it asks one question") };
                assert!(query.metadata.recursion_desired, "{query:?}");
                let mut answer = Message::response(query.metadata.id, OpCode::Query);
                answer.add_query(asked.clone());
                let name = || asked.name().clone();
                match asked.query_type() {
                    RecordType::NS => answer.add_answers(answering.0.lock().unwrap().iter().map(|server| {
                        let server = Name::from_ascii(format!("{server}.")).expect("a name");
                        DnsRecord::from_rdata(name(), 300, RData::NS(NS(server)))
                    })),
                    RecordType::A => answer.add_answers(
                        ADDRESSES.iter().filter(|(server, _)| name().to_ascii() == format!("{server}.")).map(
                            |(_, address)| {
                                DnsRecord::from_rdata(name(), 300, RData::A(A_(address.parse().unwrap())))
                            },
                        ),
                    ),
                    _ => panic!("{query:?}"),
                };
                socket.send_to(&answer.to_vec().expect("it is short"), from).await.expect("loopback is up");
            }
        });
        (address, resolver)
    }

    fn set(&self, servers: &[&str]) {
        *self.0.lock().unwrap() = servers.iter().map(ToString::to_string).collect();
    }
}

async fn run(site: &Site, typed: &[&str]) -> Ended {
    let folder = Folder::of(site);
    Ended::of(program(site, &folder, typed).output().await.expect("it starts"))
}

/// Whether there is a hold in each bucket.
fn holds(site: &Site) -> [bool; 2] {
    [A, B].map(|bucket| site.s3.object(bucket, HOLD).is_some())
}

/// A site that failed, was locked, and has recovered.
async fn locked() -> Site {
    let site = Site::failed_over().await;
    assert_eq!(look(&site.watcher().await).await.as_deref(), Ok("locked"));
    site.checkers_look();
    site.primary(true);
    site
}

/// Side by side, because each waits for minutes, as a person does.
#[tokio::test]
async fn commands_that_take_minutes() {
    tokio::join!(
        a_release_brings_the_primary_back_and_no_watcher_locks_meanwhile(),
        a_deletion_that_cannot_be_confirmed_puts_the_others_back(),
        a_deletion_that_is_late_is_waited_for_while_one_hold_stands(),
        a_deletion_that_is_answered_by_something_else_is_not_confirmed(),
        a_drill_locks_and_releases_and_says_how_long_each_took(),
        a_drill_releases_what_it_has_created_and_nothing_else(),
        a_drill_during_which_the_primary_fails_by_itself_releases_nothing(),
        an_interrupt_while_everything_is_read_again_deletes_no_object(),
        a_lock_by_hand_stops_a_release_in_its_wait_and_at_its_deletions(),
        an_object_that_is_created_while_a_release_waits_stays(),
        a_lock_by_hand_that_cannot_see_the_holds_says_so(),
        a_hold_that_lands_late_does_not_stay(),
        what_happens_while_a_record_is_about_to_be_changed_counts(),
        a_change_whose_answer_is_lost_is_seen_and_a_lock_at_it_holds(),
    );
}

async fn a_release_brings_the_primary_back_and_no_watcher_locks_meanwhile() {
    let site = locked().await;
    let watchers = [site.watcher().await, site.watcher().await];
    let folder = Folder::of(&site);
    let mut release = documented(&site, &folder, "latch.md", "## Release");
    let release = async { Ended::of(release.output().await.expect("bash starts")) };
    let mut states = Vec::new();
    let ended = {
        let watching = async {
            loop {
                for watcher in &watchers {
                    states.push(look(watcher).await.expect("the look does not fail"));
                }
            }
        };
        let checkers = async {
            site.s3.until(|_| site.objects() == [false, false]).await;
            site.checkers_look();
        };
        let watching_until = async {
            tokio::select! {
                ended = release => ended,
                () = watching => unreachable!("it looks for ever"),
            }
        };
        tokio::join!(watching_until, checkers).0
    };
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert_eq!(site.world.lock().text(0, SERVING_SENTINEL).as_deref(), Some("primary"));
    assert_eq!((site.objects(), holds(&site)), ([false, false], [false, false]));
    states.dedup();
    assert_eq!(states.first().map(String::as_str), Some("locked"), "{states:?}");
    assert!(
        states.iter().all(|state| ["locked", "holding", "armed"].contains(&state.as_str())),
        "{states:?}"
    );
    assert_eq!(look(&watchers[0]).await.as_deref(), Ok("armed"));
    assert_eq!(site.s3.denied(), Vec::<String>::new());
    assert!(site.s3.calls_by(WATCHER).iter().all(|call| !call.starts_with("Delete")));
}

async fn a_deletion_that_cannot_be_confirmed_puts_the_others_back() {
    let site = locked().await;
    // It arrives late: once the object was put back in A, the command still waits for it.
    let late = site.s3.hold("DeleteObject", B);
    let (ended, ()) = tokio::join!(run(&site, &["release", "app", "--yes"]), async {
        late.reached().await;
        site.s3.until(|s3| s3.history(A, KEY).len() == 3).await;
        late.release();
    });
    assert_eq!(ended.status, Some(3), "{ended:?}");
    for said in
        ["was not released", "acme-latch-a: the object was put back", "acme-latch-b: the object is there"]
    {
        assert!(ended.said.contains(said), "{said}: {ended:?}");
    }
    assert_eq!(site.objects(), [true, true]);
    assert_eq!(site.s3.history(B, KEY).len(), 3, "it was deleted late, and put back");
    assert_eq!(holds(&site), [false, false]);
}

/// Someone removes the hold of one bucket meanwhile.
async fn a_deletion_that_is_late_is_waited_for_while_one_hold_stands() {
    let site = locked().await;
    let late = site.s3.hold("DeleteObject", B);
    let (ended, ()) = tokio::join!(run(&site, &["release", "app", "--yes"]), async {
        late.reached().await;
        site.s3.remove(B, HOLD);
        site.s3.until(|s3| s3.history(A, KEY).len() == 3).await;
        late.release();
    });
    assert!(
        ended.status == Some(3) && ended.said.contains("acme-latch-a: the object was put back"),
        "{ended:?}"
    );
    assert_eq!((site.objects(), holds(&site)), ([true, true], [false, false]));
}

/// As an appliance or another service behind the name answers.
async fn a_deletion_that_is_answered_by_something_else_is_not_confirmed() {
    let site = locked().await;
    site.s3.fail("DeleteObject", B, Fault::Error(404, "NotFound", "no such page"));
    let ended = run(&site, &["release", "app", "--yes"]).await;
    assert!(ended.status == Some(3) && !ended.said.contains("every object is deleted"), "{ended:?}");
    assert!(
        ended.said.contains("acme-latch-b: the object is there; its deletion was not confirmed"),
        "{ended:?}"
    );
    assert_eq!((site.objects(), holds(&site)), ([true, true], [false, false]));
}

async fn an_interrupt_while_everything_is_read_again_deletes_no_object() {
    let site = locked().await;
    let folder = Folder::of(&site);
    let release = program(&site, &folder, &["release", "app", "--yes"]).spawn().expect("it starts");
    site.s3.until(|_| holds(&site) == [true, true]).await;
    // The next one that it reads there, after its wait.
    let read = site.s3.hold("GetObject", B);
    read.reached().await;
    let ended = interrupted(release).await;
    read.release();
    assert!(ended.status == Some(1) && ended.said.contains("interrupted"), "{ended:?}");
    assert_eq!((site.objects(), holds(&site)), ([true, true], [false, false]));
}

async fn a_lock_by_hand_stops_a_release_in_its_wait_and_at_its_deletions() {
    let stopped = async |at_deletion: bool| {
        let site = locked().await;
        let folder = Folder::of(&site);
        let deletion = at_deletion.then(|| site.s3.hold("DeleteObject", A));
        let release = program(&site, &folder, &["release", "app", "--yes"]).spawn().expect("it starts");
        site.s3.until(|_| holds(&site) == [true, true]).await;
        if let Some(deletion) = &deletion {
            deletion.reached().await;
        }
        let lock = program(&site, &folder, &["lock", "app", "--yes", "--reason", "stop"])
            .spawn()
            .expect("it starts");
        let is_locks =
            |bucket| site.s3.object(bucket, HOLD).is_some_and(|hold| hold.text().contains("a lock"));
        site.s3.until(|_| [A, B].into_iter().all(is_locks)).await;
        if let Some(deletion) = &deletion {
            deletion.release();
        }
        let (release, lock) = tokio::join!(release.wait_with_output(), lock.wait_with_output());
        let (release, lock) = (Ended::of(release.expect("it ends")), Ended::of(lock.expect("it ends")));
        assert_eq!(release.status, Some(3), "{release:?}");
        let said = if at_deletion { "locked again while" } else { "as after a lock by someone else" };
        assert!(release.said.contains(said), "{release:?}");
        assert!(lock.status == Some(0) && lock.said.contains("for: a release: that is stopped"), "{lock:?}");
        assert_eq!((site.objects(), holds(&site)), ([true, true], [false, false]));
    };
    tokio::join!(stopped(false), stopped(true));
}

async fn an_object_that_is_created_while_a_release_waits_stays() {
    let site = locked().await;
    let meanwhile = async {
        site.s3.until(|_| holds(&site) == [true, true]).await;
        site.s3.put(A, KEY, r#"{"reason":"another lock"}"#);
    };
    let (ended, ()) = tokio::join!(run(&site, &["release", "app", "--yes"]), meanwhile);
    assert!(ended.status == Some(3) && ended.said.contains("an object was created meanwhile"), "{ended:?}");
    assert_eq!((site.objects(), holds(&site)), ([true, true], [false, false]));
}

async fn a_lock_by_hand_that_cannot_see_the_holds_says_so() {
    let site = locked().await;
    for bucket in [A, B] {
        site.s3.fail_always("GetObject", bucket, Fault::INTERNAL);
    }
    let lock = run(&site, &["lock", "app", "--yes", "--reason", "stop"]).await;
    assert_eq!(lock.status, Some(3), "{lock:?}");
    assert!(lock.said.contains("not known whether a release is under way"), "{lock:?}");
}

async fn a_hold_that_lands_late_does_not_stay() {
    let site = locked().await;
    let folder = Folder::of(&site);
    let late = site.s3.hold_admitted("PutObject", B);
    let mut release = program(&site, &folder, &["release", "app", "--yes"]).spawn().expect("it starts");
    says(release.stderr.as_mut().expect("it is piped"), "until no hold from before can land").await;
    late.release();
    let ended = Ended::of(release.wait_with_output().await.expect("it ends"));
    assert_eq!(ended.status, Some(3), "{ended:?}");
    assert_eq!((site.objects(), holds(&site)), ([true, true], [false, false]));
}

#[tokio::test]
async fn a_release_that_must_not_begin_changes_nothing_and_says_why() {
    let site = Site::start().await;
    let refused = async |site: &Site, typed: &[&str], said: &str| {
        let before = site.s3.history(A, KEY).len() + site.s3.history(B, HOLD).len();
        let ended = run(site, &[&["release", "app", "--yes"], typed].concat()).await;
        assert_eq!(ended.status, Some(3), "{ended:?}");
        assert!(ended.said.contains(said), "{said}: {ended:?}");
        assert_eq!(site.s3.history(A, KEY).len() + site.s3.history(B, HOLD).len(), before);
    };
    refused(&site, &[], "app is not locked").await;
    refused(&site, &["--dry-run"], "app is not locked").await;
    let report = Report::new("latch-release");
    refused(&site, &["--report", report.name()], "app is not locked").await;
    let steps = [("dns", "the primary: healthy"), ("lock", "acme-latch-a: absent, acme-latch-b: absent")];
    assert!(report.has_steps(&steps), "{}", report.json());
    let written = report.json();
    assert_eq!((&written["cause"], &written["isChanged"]), (&"app is not locked".into(), &false.into()));
    site.fails_over();
    assert_eq!(look(&site.watcher().await).await.as_deref(), Ok("locked"));
    site.checkers_look();
    refused(&site, &[], "do not say that the primary is healthy").await;
    site.primary(true);
    site.s3.down(B, Down::Refused);
    refused(&site, &["--force"], "Repeat the release when every bucket answers").await;
    site.s3.up(B);
    site.s3.put(A, HOLD, r#"{"id":"1","by":"ada@laptop","at":"2026-11-26T03:00:00Z"}"#);
    refused(&site, &["--force"], "it is held by ada@laptop since 2026-11-26T03:00:00Z").await;
    assert_eq!(site.objects(), [true, true]);
}

#[tokio::test]
async fn a_dry_run_of_a_release_or_a_drill_changes_nothing() {
    let site = Site::start().await;
    let dry = run(&site, &["drill", "app", "--dry-run"]).await;
    assert!(dry.status == Some(0) && dry.out.matches("would_create").count() == 2, "{dry:?}");
    site.s3.put_aged(A, HOLD, r#"{"by":"ada@laptop"}"#, Duration::from_secs(601));
    let dry = run(&site, &["release", "app", "--dry-run"]).await;
    assert!(dry.status == Some(0) && dry.out.contains("acme-latch-a  would_delete_hold"), "{dry:?}");
    site.s3.put(A, KEY, "{}");
    let dry = run(&site, &["release", "app", "--dry-run"]).await;
    assert_eq!(
        (dry.status, &*dry.out),
        (Some(0), "acme-latch-a  would_delete\nacme-latch-b  absent\n"),
        "{dry:?}"
    );
    assert_eq!((site.objects(), holds(&site)), ([true, false], [true, false]));
    assert!(
        site.s3
            .calls()
            .iter()
            .all(|call| call.status.is_some() && call.operation.starts_with(['G', 'H', 'L']))
    );
    let dry = run(&site, &["drill", "app", "--dry-run"]).await;
    assert!(dry.status == Some(3) && dry.said.contains("both sites healthy"), "{dry:?}");
}

#[tokio::test]
async fn a_release_begins_once_a_second_person_has_approved_it_in_the_region_of_a_bucket() {
    let site = locked().await;
    let folder = Folder::of(&site);
    let person = |arn| Person { arn, session_token: None };
    let sts = Sts::start(&[
        (PERSON, person("arn:aws:iam::123456789012:user/jane")),
        ("bob", person("arn:aws:iam::123456789012:user/bob")),
    ])
    .await;
    let reached = |mut command: Command| {
        command.env("AWS_ENDPOINT_URL_STS", sts.url());
        command
    };
    let release = ["release", "app", "--yes", "--force"];
    let typed = [&release[..], &["--require-approval"]].concat();
    let asked = Ended::of(reached(program(&site, &folder, &typed)).output().await.expect("it starts"));
    let (_, plan) = asked.said.split_once("failoverctl approve '").unwrap_or_else(|| panic!("{asked:?}"));
    let plan = plan.split_once('\'').expect("it is quoted").0;
    let tags = [A, B].map(|bucket| site.s3.object(bucket, KEY).expect("it is locked").etag.replace('"', ""));
    let expected = format!(
        "latch release app in acme-latch-a {}, acme-latch-b {} --force: no reason | 123456789012 eu-central-1 ",
        tags[0], tags[1]
    );
    assert!(asked.status == Some(3) && plan.starts_with(&expected), "{asked:?}");
    assert_eq!((site.objects(), holds(&site)), ([true, true], [false, false]));

    let mut approve = reached(at(&site, &folder, FAILOVERCTL, &["approve", plan, "--yes"]));
    approve.envs([("AWS_ACCESS_KEY_ID", "bob"), ("AWS_SECRET_ACCESS_KEY", "bob")]);
    let approved = Ended::of(approve.output().await.expect("it starts"));
    assert_eq!(approved.status, Some(0), "{approved:?}");
    let report = Report::new("latch-approved");
    let typed = [&release[..], &["--approval", approved.out.trim(), "--report", report.name()]].concat();
    let mut release = reached(program(&site, &folder, &typed)).spawn().expect("it starts");
    says(release.stderr.as_mut().expect("it is piped"), "1/4 watchers are held off").await;
    let ended = interrupted(release).await;
    assert_eq!((ended.status, site.objects(), holds(&site)), (Some(1), [true, true], [false, false]));
    let steps =
        [("person", "approved by arn:aws:iam::123456789012:user/bob: latch release app"), ("lock", "1/4")];
    assert!(report.has_steps(&steps), "{}", report.json());
    assert_eq!(report.json()["isChanged"], true);

    // It was for that lock, and not for the next one.
    site.s3.put(A, KEY, "{}");
    let typed = ["release", "app", "--yes", "--force", "--approval", approved.out.trim()];
    let ended = Ended::of(reached(program(&site, &folder, &typed)).output().await.expect("it starts"));
    assert!(ended.status == Some(3) && ended.said.contains("the approval is of another plan"), "{ended:?}");
}

#[tokio::test]
async fn an_interrupt_while_a_release_asks_ends_it() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    assert!(
        ignored.is_none_or(|mask| mask & 2 == 0),
        "SIGINT is ignored, as in a job in a shell's background: run the tests in the foreground"
    );
    let site = locked().await;
    let folder = Folder::of(&site);
    // On a terminal, Ctrl-C is this character.
    let typed = format!("{FAILOVERCTL} latch release app");
    let ended = at(&site, &folder, "script", &["-qec", &typed, "/dev/null"]).stdin(Stdio::piped()).spawn();
    let mut terminal = ended.expect("it starts");
    let (mut out, mut stdin) =
        (terminal.stdout.take().expect("piped"), terminal.stdin.take().expect("piped"));
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("[y/N]") {
        let read = out.read_buf(&mut said).await.expect("it can be read");
        assert_ne!(read, 0, "it ended: {}", String::from_utf8_lossy(&said));
    }
    stdin.write_all(b"\x03").await.expect("it reads");
    let status = terminal.wait().await.expect("it ends");
    assert_eq!((status.code(), holds(&site), site.objects()), (Some(130), [false, false], [true, true]));
}

#[tokio::test]
async fn what_a_broken_off_release_left_behind_is_deleted() {
    let site = Site::start().await;
    for bucket in [A, B] {
        site.s3.put_aged(bucket, HOLD, r#"{"id":"1"}"#, Duration::from_secs(700));
    }
    let ended = run(&site, &["release", "app", "--yes"]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(ended.out.contains("app is not locked"), "{ended:?}");
    assert_eq!(holds(&site), [false, false]);
}

#[tokio::test]
async fn what_a_killed_drill_left_behind_is_kept_from_it_only_as_long_as_it_may_release() {
    for (age, stays) in [(400, true), (500, false)] {
        let site = Site::start().await;
        let drills = r#"{"id":"1","by":"jane","reason":"drill","drillSeconds":480}"#;
        for bucket in [A, B] {
            site.s3.put_aged(bucket, KEY, drills, Duration::from_secs(age));
            site.s3.put_aged(bucket, HOLD, r#"{"id":"2"}"#, Duration::from_secs(age - 30));
        }
        let ended = run(&site, &["lock", "app", "--yes", "--reason", "to remove a hold"]).await;
        assert_eq!(ended.status, Some(0), "{ended:?}");
        assert_eq!((site.objects(), holds(&site)), ([true, true], [stays, stays]), "{age} {ended:?}");
    }
}

async fn a_drill_locks_and_releases_and_says_how_long_each_took() {
    let site = Site::start().await;
    let checkers = async {
        for objects in [[true, true], [false, false]] {
            site.s3.until(|_| site.objects() == objects).await;
            site.checkers_look();
        }
    };
    let report = Report::new("latch-drill");
    let typed = ["drill", "app", "--yes", "--output", "json", "--report", report.name()];
    let (ended, ()) = tokio::join!(run(&site, &typed), checkers);
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let json: Value = serde_json::from_str(&ended.out).unwrap();
    let outcome = &json["outcomes"][0];
    assert!(outcome["lockedSeconds"].is_f64() && outcome["releasedSeconds"].is_f64(), "{json}");
    let steps = [
        ("dns", "app is armed, and both sites are healthy"),
        ("lock", "acme-latch-a: created"),
        ("dns", "every name server answers the standby"),
        ("lock", "acme-latch-b: locked "),
        ("lock", "1/4 watchers are held off"),
        ("lock", "acme-latch-b: locked "),
        ("lock", "3/4 every object is deleted"),
        ("dns", "every name server has said for a minute that the primary serves"),
    ];
    assert!(report.has_steps(&steps), "{}", report.json());
    assert_eq!(report.json()["isDone"], true);
    assert_eq!(site.world.lock().text(0, SERVING_SENTINEL).as_deref(), Some("primary"));
    site.standby(false);
    let ended = run(&site, &["drill", "app", "--yes"]).await;
    assert!(ended.status == Some(3) && ended.said.contains("both sites healthy"), "{ended:?}");
    assert_eq!(site.objects(), [false, false]);
}

/// Also if it is healthy again before the objects would be deleted.
async fn a_drill_during_which_the_primary_fails_by_itself_releases_nothing() {
    for (while_it_waits_for_the_standby, is_seen) in [(true, true), (false, true), (false, false)] {
        let site = Site::start().await;
        let fails = async {
            // Its lock puts holds, and deletes them; its release puts others.
            let was_held = || [A, B].iter().all(|bucket| !site.s3.history(bucket, HOLD).is_empty());
            let is_locked = |site: &Site| site.objects() == [true, true] && holds(site) == [false, false];
            site.s3.until(|_| is_locked(&site) && was_held()).await;
            if !while_it_waits_for_the_standby {
                site.checkers_look();
                site.s3.until(|_| holds(&site) == [true, true]).await;
            }
            if is_seen {
                return site.primary(false);
            }
            for server in 0..SERVERS {
                site.servers.set_fault_about(server, PRIMARY_SENTINEL, Silent);
            }
        };
        let (ended, ()) = tokio::join!(run(&site, &["drill", "app", "--yes"]), fails);
        let said = if is_seen {
            "that the primary has failed by itself"
        } else {
            "no name server has said for some seconds"
        };
        assert!(ended.status != Some(0) && ended.said.contains(said), "{ended:?}");
        assert_eq!(site.objects(), [true, true]);
    }
}

async fn a_drill_releases_what_it_has_created_and_nothing_else() {
    // Its lock puts holds, and deletes them.
    let is_locked = |site: &Site| {
        let was_held = [A, B].iter().all(|bucket| !site.s3.history(bucket, HOLD).is_empty());
        site.objects() == [true, true] && was_held && holds(site) == [false, false]
    };
    let stopped = async {
        let site = Site::start().await;
        let folder = Folder::of(&site);
        let drill = program(&site, &folder, &["drill", "app", "--yes"]).spawn().expect("it starts");
        site.s3.until(|_| is_locked(&site)).await;
        let ended = interrupted(drill).await;
        assert!(ended.status == Some(1) && ended.said.contains("leaves app locked"), "{ended:?}");
        assert_eq!(site.objects(), [true, true]);
    };
    let locked_meanwhile = async {
        let site = Site::start().await;
        let lock = async {
            site.s3.until(|_| is_locked(&site)).await;
            let lock = run(&site, &["lock", "app", "--yes", "--reason", "keep it out"]).await;
            assert!(
                lock.status == Some(0) && lock.said.contains("the drill does not release it"),
                "{lock:?}"
            );
            assert_eq!(holds(&site), [true, true]);
            site.checkers_look();
        };
        let (ended, ()) = tokio::join!(run(&site, &["drill", "app", "--yes"]), lock);
        assert!(ended.status == Some(3) && ended.said.contains("for: a lock"), "{ended:?}");
        assert_eq!(site.objects(), [true, true]);
    };
    // The same where the first tries to lock had no answer.
    let locked_late = async {
        let site = Site::start().await;
        let lock = async {
            site.s3.until(|_| is_locked(&site)).await;
            for bucket in [A, B] {
                site.s3.fail("PutObject", bucket, Fault::CloseBefore);
            }
            let lock = run(&site, &["lock", "app", "--yes", "--reason", "keep it out"]).await;
            assert!(lock.said.contains("the drill does not release it"), "{lock:?}");
            assert_eq!(holds(&site), [true, true]);
            site.checkers_look();
        };
        let (ended, ()) = tokio::join!(run(&site, &["drill", "app", "--yes"]), lock);
        assert!(ended.status == Some(3) && ended.said.contains("for: a lock"), "{ended:?}");
        assert_eq!(site.objects(), [true, true]);
    };
    let locked_before = async {
        let site = Site::start().await;
        // A watcher is faster in one bucket.
        let watcher = |s3: &S3| drop(s3.put(B, KEY, "{}"));
        site.s3.fail("PutObject", A, Fault::Meddle(Arc::new(watcher)));
        let ended = run(&site, &["drill", "app", "--yes"]).await;
        assert!(ended.status == Some(3) && ended.said.contains("has locked it meanwhile"), "{ended:?}");
        assert_eq!(site.objects(), [true, true]);
    };
    let replaced = async {
        let site = Site::start().await;
        let others = async {
            site.s3.until(|_| is_locked(&site)).await;
            // Someone releases it, and a watcher locks again.
            for bucket in [A, B] {
                site.s3.remove(bucket, KEY);
                site.s3.put(bucket, KEY, r#"{"id":"another"}"#);
            }
            site.checkers_look();
        };
        let (ended, ()) = tokio::join!(run(&site, &["drill", "app", "--yes"]), others);
        assert!(ended.status == Some(3) && ended.said.contains("leaves app locked"), "{ended:?}");
        assert_eq!((site.objects(), holds(&site)), ([true, true], [false, false]));
    };
    tokio::join!(stopped, locked_meanwhile, locked_late, locked_before, replaced);
}

#[tokio::test]
async fn status_shows_each_latch_and_json_has_the_same() {
    let site = locked().await;
    let folder = Folder::of(&site);
    let mut status = documented(&site, &folder, "runbook.md", "## latch-NAME-locked");
    let ended = Ended::of(status.output().await.expect("bash starts"));
    assert_eq!(ended.status, Some(0), "{ended:?}");
    for said in ["STATE", "locked", "app", "standby", "healthy", "present (", " s), present ("] {
        assert!(ended.out.contains(said), "{said}: {ended:?}");
    }
    let ended = run(&site, &["status", "--output", "json"]).await;
    let json: Value = serde_json::from_str(&ended.out).unwrap();
    let json = &json["latches"];
    assert_eq!((&json[0]["state"], &json[0]["serving"]), (&"locked".into(), &"standby".into()));
    assert_eq!(json[0]["buckets"][1]["object"], "present");
    site.s3.down(A, Down::Refused);
    let ended = run(&site, &["status"]).await;
    assert_eq!(ended.status, Some(3), "{ended:?}");
    assert!(ended.out.contains("half") && ended.out.contains("unknown, present"), "{ended:?}");
}

#[tokio::test]
async fn a_lock_by_hand_takes_the_primary_out() {
    let site = Site::start().await;
    let dry = run(&site, &["lock", "app", "--dry-run", "--reason", "maintenance"]).await;
    assert!(dry.status == Some(0) && dry.out.matches("would_create").count() == 2, "{dry:?}");
    assert_eq!(site.objects(), [false, false]);
    let report = Report::new("latch-lock");
    let typed = ["lock", "app", "--yes", "--reason", "maintenance", "--report", report.name()];
    let ended = run(&site, &typed).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(report.has_steps(&[("lock", "acme-latch-a: created"), ("lock", "acme-latch-b: created")]));
    assert_eq!(report.json()["subject"], "app");
    assert_eq!(site.objects(), [true, true]);
    assert!(site.s3.object(A, KEY).unwrap().text().contains("maintenance"));
    site.checkers_look();
    assert_eq!(site.world.lock().text(0, SERVING_SENTINEL).as_deref(), Some("standby"));
    let ended = run(&site, &["lock", "other", "--yes", "--reason", "maintenance"]).await;
    assert!(
        ended.status == Some(1) && ended.said.contains("there is no latch \"other\": the file names app"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn an_invalid_file_is_named_with_each_problem() {
    let site = Site::start().await;
    let folder = Folder::of(&site);
    std::fs::write(folder.0.join("failover-latch.env"), "LATCHES=app\nNAME_SERVERS=x\n").unwrap();
    let ended = Ended::of(program(&site, &folder, &["status"]).output().await.unwrap());
    assert_eq!(ended.status, Some(1));
    for said in ["failover-latch.env", "LATCHES", "LATCH_BUCKETS", "NAME_SERVERS"] {
        assert!(ended.said.contains(said), "{said}: {ended:?}");
    }
}

/// The check of the PRIMARY records of the application and of `_serving`.
fn referred(site: &Site) -> [Option<String>; 2] {
    let world = site.world.lock();
    [APP, SERVING_SENTINEL].map(|name| {
        let primary =
            world.records().iter().find(|record| record.name == name && record.routing == Routing::Primary);
        primary.expect("it has one").check.clone()
    })
}

/// The sentinel of the check that a latch attaches.
const NEW_CHECK: &str = "_latched.app.example.com";

/// A site whose checks were made through Route 53's API, and whose records refer to the primary's own check, as before
/// the latch.
async fn unattached() -> (Site, Api) {
    let mut site = Site::start().await;
    let api = Api::start(&site.world).await;
    let client = Client::new(&aws_at(&api.url()).await);
    let create = async |host: &str, path: &str, inverted: bool| {
        let config = HealthCheckConfig::builder()
            .r#type(HealthCheckType::Https)
            .fully_qualified_domain_name(host)
            .resource_path(path)
            .request_interval(10)
            .failure_threshold(1)
            .inverted(inverted);
        made(&client, path, config).await
    };
    let primary = create("primary.example.com", "/lb-check", false).await;
    let standby = create("standby.example.com", "/lb-check", false).await;
    let mut latches = Vec::new();
    for (region, bucket) in BUCKETS {
        latches.push(create(&format!("{bucket}.s3.{region}.amazonaws.com"), &format!("/{KEY}"), true).await);
    }
    let config = HealthCheckConfig::builder()
        .r#type(HealthCheckType::Calculated)
        .set_child_health_checks(Some(vec![primary.clone(), latches[0].clone(), latches[1].clone()]))
        .health_threshold(3);
    let serving = made(&client, "calculated", config).await;
    {
        let mut world = site.world.lock();
        world.put([
            Record::a(APP, "192.0.2.1").primary(&primary),
            Record::a(APP, "192.0.2.2").secondary(None),
            Record::txt(SERVING_SENTINEL, "primary").primary(&primary),
            Record::txt(SERVING_SENTINEL, "standby").secondary(None),
            Record::txt(PRIMARY_SENTINEL, "healthy").primary(&primary),
            Record::txt(PRIMARY_SENTINEL, "unhealthy").secondary(None),
            Record::txt(STANDBY_SENTINEL, "healthy").primary(&standby),
            Record::txt(STANDBY_SENTINEL, "unhealthy").secondary(None),
            Record::txt(NEW_CHECK, "healthy").primary(&serving),
            Record::txt(NEW_CHECK, "unhealthy").secondary(None),
        ]);
        world.pass(Duration::from_mins(2));
    }
    let latches = latches.try_into().expect("there are two buckets");
    site.checks = Latch { primary, standby, latches, serving };
    (site, api)
}

/// Creates a health check, and returns its id.
async fn made(client: &Client, reference: &str, config: HealthCheckConfigBuilder) -> String {
    let reference = format!("{reference} {:016x}", fastrand::u64(..));
    let config = config.build().expect("it has a type");
    let made =
        client.create_health_check().caller_reference(reference).health_check_config(config).send().await;
    made.expect("the settings are allowed").health_check.expect("it is in the answer").id
}

async fn run_with_route53(site: &Site, api: &Api, typed: &[&str]) -> Ended {
    let folder = Folder::of(site);
    with_route53(site, api, program(site, &folder, typed)).await
}

/// Runs a program that reaches Route 53's API as well.
async fn with_route53(site: &Site, api: &Api, mut program: Command) -> Ended {
    // Time passes in the miniature while its change is asked for.
    let passing = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            site.world.lock().pass(Duration::from_secs(1));
        }
    };
    tokio::select! {
        ended = program.env("AWS_ENDPOINT_URL_ROUTE_53", api.url()).output() => Ended::of(ended.expect("it starts")),
        () = passing => unreachable!("it passes for ever"),
    }
}

#[tokio::test]
async fn a_latch_is_attached_in_one_change_and_detached_again() {
    let (site, api) = unattached().await;
    let (own, latched) = (Some(site.checks.primary.clone()), Some(site.checks.serving.clone()));
    assert_eq!(referred(&site), [own.clone(), own.clone()]);
    let ended = run_with_route53(&site, &api, &["attach", "app", "--dry-run"]).await;
    assert!(ended.status == Some(0) && ended.out.contains("would attach"), "{ended:?}");
    assert_eq!(referred(&site), [own.clone(), own.clone()]);
    let folder = Folder::of(&site);
    for outcome in ["\nattached", "\nalready attached"] {
        let attach = documented(&site, &folder, "latch-deploy.md", "## Attach");
        let ended = with_route53(&site, &api, attach).await;
        assert!(ended.status == Some(0) && ended.out.contains(outcome), "{ended:?}");
        assert_eq!((referred(&site), holds(&site)), ([latched.clone(), latched.clone()], [false, false]));
    }
    let changes = api.calls().into_iter().filter(|call| call.starts_with("ChangeResourceRecordSets")).count();
    assert_eq!(changes, 1, "{:?}", api.calls());
    for outcome in ["detached", "already detached"] {
        let ended = run_with_route53(&site, &api, &["detach", "app", "--yes"]).await;
        assert!(ended.status == Some(0) && ended.out.starts_with(outcome), "{ended:?}");
        assert_eq!(referred(&site), [own.clone(), own.clone()]);
    }
}

#[tokio::test]
async fn a_latch_is_not_attached_or_detached_where_that_would_move_traffic() {
    let (site, api) = unattached().await;
    let before = referred(&site);
    let refused = async |typed: &[&str], said: &str| {
        let ended = run_with_route53(&site, &api, typed).await;
        assert_eq!(ended.status, Some(3), "{ended:?}");
        assert!(ended.said.contains("nothing was changed") && ended.said.contains(said), "{said}: {ended:?}");
    };
    site.s3.put(A, KEY, "{}");
    refused(&["attach", "app", "--yes"], "it is locked").await;
    site.s3.remove(A, KEY);
    site.fails_over();
    refused(&["attach", "app", "--yes"], "do not say that the primary serves").await;
    site.primary(true);
    // Nothing says whether the new check is healthy, as after a latch was armed and detached.
    let of_new = |world: &World| -> Vec<Record> {
        world.records().iter().filter(|record| record.name == NEW_CHECK).cloned().collect()
    };
    let sentinels = of_new(&site.world.lock());
    let deleted = sentinels.iter().cloned().map(Change::Delete).collect();
    site.world.lock().change(deleted).expect("they are there");
    // On every name server.
    site.world.lock().pass(Duration::from_mins(2));
    refused(&["attach", "app", "--yes"], "repeat infra/deploy latch --name app").await;
    site.world.lock().put(sentinels);
    site.world.lock().pass(Duration::from_mins(2));
    // The record has the check of someone else.
    let other = site.checks.standby.clone();
    site.world.lock().put([Record::a(APP, "192.0.2.1").primary(&other)]);
    refused(&["attach", "app", "--yes"], "infra/deploy latch --name app --primary").await;
    let own = site.checks.primary.clone();
    site.world.lock().put([Record::a(APP, "192.0.2.1").primary(&own)]);
    assert_eq!(referred(&site), before);
    // Another zone of the name, in which nobody's registrar is interested.
    for name in ["example.com", "app.example.com"] {
        let (twice, others) = unattached().await;
        others.add_zone(name);
        let ended = run_with_route53(&twice, &others, &["attach", "app", "--yes"]).await;
        assert!(
            ended.said.contains("several public hosted zones") && ended.said.contains("NAME_SERVERS"),
            "{name}: {ended:?}"
        );
    }
    // Those with IPv6 would reach the primary in spite of the lock.
    let simple = Record::new(APP, Kind::Aaaa, "2001:db8::1");
    site.world.lock().put([simple.clone()]);
    refused(&["attach", "app", "--yes"], "type AAAA that does not fail over").await;
    site.world.lock().change(vec![Change::Delete(simple.clone())]).expect("it is there");
    let alone = simple.primary(&own);
    site.world.lock().put([alone.clone()]);
    refused(&["attach", "app", "--yes"], "of type AAAA has no SECONDARY one").await;
    site.world.lock().change(vec![Change::Delete(alone)]).expect("it is there");
    let ended = run_with_route53(&site, &api, &["attach", "app", "--yes"]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    site.s3.put(A, KEY, "{}");
    refused(&["detach", "app", "--yes"], "without it the primary would serve").await;
    // Nothing says who serves.
    site.s3.remove(A, KEY);
    for server in 0..SERVERS {
        site.servers.set_fault(server, Silent);
    }
    refused(&["detach", "app", "--yes"], "do not say clearly which site serves").await;
}

async fn what_happens_while_a_record_is_about_to_be_changed_counts() {
    let address = |site: &Site| {
        let world = site.world.lock();
        let is_primary = |record: &&Record| record.name == APP && record.routing == Routing::Primary;
        world.records().iter().find(is_primary).expect("it has one").values.clone()
    };
    let changed = async {
        let (site, api) = unattached().await;
        let own = site.checks.primary.clone();
        let before = referred(&site);
        let meanwhile = async {
            site.s3.until(|_| holds(&site) == [true, true]).await;
            site.world.lock().put([Record::a(APP, "192.0.2.77").primary(&own)]);
        };
        let (ended, ()) = tokio::join!(run_with_route53(&site, &api, &["attach", "app", "--yes"]), meanwhile);
        let said = "nothing was changed: someone has changed the records meanwhile";
        assert!(ended.status == Some(3) && ended.said.contains(said), "{ended:?}");
        assert_eq!((address(&site), referred(&site)), (vec!["192.0.2.77".to_owned()], before));
        assert_eq!(holds(&site), [false, false]);
    };
    // Route 53 would leave it as it is.
    let added = async {
        let (site, api) = unattached().await;
        let (own, before) = (site.checks.primary.clone(), referred(&site));
        let meanwhile = async {
            site.s3.until(|_| holds(&site) == [true, true]).await;
            site.world.lock().put([Record::new(APP, Kind::Aaaa, "2001:db8::1").primary(&own)]);
        };
        let (ended, ()) = tokio::join!(run_with_route53(&site, &api, &["attach", "app", "--yes"]), meanwhile);
        let said = "nothing was changed: someone has changed the records meanwhile";
        assert!(ended.status == Some(3) && ended.said.contains(said), "{ended:?}");
        assert_eq!((referred(&site), holds(&site)), (before, [false, false]));
    };
    let broken_off = async {
        let (site, api) = unattached().await;
        let before = referred(&site);
        let folder = Folder::of(&site);
        let mut attach = program(&site, &folder, &["attach", "app", "--yes"]);
        attach.env("AWS_ENDPOINT_URL_ROUTE_53", api.url());
        let attach = attach.spawn().expect("it starts");
        site.s3.until(|_| holds(&site) == [true, true]).await;
        let ended = interrupted(attach).await;
        assert!(ended.status == Some(1) && ended.said.contains("interrupted"), "{ended:?}");
        assert_eq!((referred(&site), holds(&site)), (before, [false, false]));
    };
    let locked = async {
        let (site, api) = unattached().await;
        let ended = run_with_route53(&site, &api, &["attach", "app", "--yes"]).await;
        assert_eq!(ended.status, Some(0), "{ended:?}");
        let before = referred(&site);
        let meanwhile = async {
            site.s3.until(|_| holds(&site) == [true, true]).await;
            run(&site, &["lock", "app", "--yes", "--reason", "stop"]).await
        };
        let (ended, lock) =
            tokio::join!(run_with_route53(&site, &api, &["detach", "app", "--yes"]), meanwhile);
        assert_eq!(lock.status, Some(0), "{lock:?}");
        assert!(ended.status == Some(3) && ended.said.contains("it is locked"), "{ended:?}");
        assert_eq!((referred(&site), holds(&site), site.objects()), (before, [false, false], [true, true]));
    };
    let failed_over = async {
        let (site, api) = unattached().await;
        let ended = run_with_route53(&site, &api, &["attach", "app", "--yes"]).await;
        assert_eq!(ended.status, Some(0), "{ended:?}");
        let before = referred(&site);
        let meanwhile = async {
            site.s3.until(|_| holds(&site) == [true, true]).await;
            site.fails_over();
        };
        let (ended, ()) = tokio::join!(run_with_route53(&site, &api, &["detach", "app", "--yes"]), meanwhile);
        assert!(
            ended.status == Some(3) && ended.said.contains("do not say any more that the primary serves"),
            "{ended:?}"
        );
        assert_eq!((referred(&site), holds(&site)), (before, [false, false]));
    };
    tokio::join!(changed, added, broken_off, locked, failed_over);
}

async fn a_change_whose_answer_is_lost_is_seen_and_a_lock_at_it_holds() {
    const CHANGE: &str = "ChangeResourceRecordSets";
    let attached = async || {
        let (site, api) = unattached().await;
        let (own, latched) = (site.checks.primary.clone(), site.checks.serving.clone());
        {
            let mut world = site.world.lock();
            world.put([
                Record::a(APP, "192.0.2.1").primary(&latched),
                Record::txt(SERVING_SENTINEL, "primary").primary(&latched),
            ]);
            world.pass(Duration::from_mins(2));
        }
        (site, api, [Some(own.clone()), Some(own)])
    };
    let lost = async {
        let (site, api, own) = attached().await;
        api.lose(CHANGE);
        let ended = run_with_route53(&site, &api, &["detach", "app", "--yes"]).await;
        assert!(ended.status == Some(0) && ended.out.starts_with("detached"), "{ended:?}");
        assert_eq!((referred(&site), holds(&site)), (own, [false, false]));
    };
    let locked = async |is_lost: bool| {
        let (site, api, _) = attached().await;
        let before = referred(&site);
        let held = api.hold(CHANGE);
        if is_lost {
            api.lose(CHANGE);
        }
        let lock = async {
            held.reached().await;
            site.s3.put(A, KEY, "{}");
            held.release();
        };
        let (ended, ()) = tokio::join!(run_with_route53(&site, &api, &["detach", "app", "--yes"]), lock);
        assert!(ended.status == Some(3), "{is_lost}: {ended:?}");
        assert!(ended.said.contains("locked it meanwhile, and the records are as before again"), "{ended:?}");
        assert_eq!((referred(&site), site.objects()), (before, [true, false]), "{is_lost}");
    };
    let down = async {
        let (site, api, own) = attached().await;
        let (held, back) = (api.hold(CHANGE), api.hold(CHANGE));
        let lock = async {
            held.reached().await;
            site.s3.put(A, KEY, "{}");
            held.release();
            back.reached().await;
            api.set_down(true);
            back.release();
        };
        let (ended, ()) = tokio::join!(run_with_route53(&site, &api, &["detach", "app", "--yes"]), lock);
        assert!(
            ended.status == Some(3) && ended.said.contains("it is not certain that the lock holds"),
            "{ended:?}"
        );
        let check = format!("refer to the check {}", site.checks.serving);
        assert!(ended.said.contains(&check), "{ended:?}");
        assert_eq!(referred(&site), own);
    };
    tokio::join!(lost, locked(false), locked(true), down);
}

#[tokio::test]
async fn doctor_finds_what_is_wrong_and_hides_nothing_that_it_saw() {
    let (site, api) = unattached().await;
    for bucket in [A, B] {
        site.s3.put(bucket, "control", "{}");
    }
    site.world.lock().put([
        Record::a(APP, "192.0.2.1").primary(&site.checks.serving),
        Record::new(APP, Kind::Aaaa, "2001:db8::1"),
    ]);
    let client = Client::new(&aws_at(&api.url()).await);
    let disable = client.update_health_check().health_check_id(&site.checks.primary).disabled(true);
    disable.send().await.expect("it is allowed");
    let disable = client.update_health_check().health_check_id(&site.checks.standby).disabled(true);
    disable.send().await.expect("it is allowed");
    let control = HealthCheckConfig::builder()
        .r#type(HealthCheckType::Https)
        .fully_qualified_domain_name(format!("{B}.s3.eu-west-1.amazonaws.com"))
        .resource_path("/control")
        .request_interval(10)
        .disabled(true);
    let control = made(&client, "control", control).await;
    // Of a stack with another name than `latch`.
    site.world.lock().put([
        Record::txt("_control-web-eu-west-1.example.com", "healthy").primary(&control),
        Record::txt("_control-web-eu-west-1.example.com", "unhealthy").secondary(None),
    ]);
    // Every name server knows them then.
    site.checkers_look();
    site.s3.set_versioned(A, false);
    site.s3.set_blocks_public_access(B, false);
    site.s3.set_lifecycle(B, Some("<Rule><ID>tidy</ID><Status>Enabled</Status><Filter/><Expiration><Days>30</Days></Expiration></Rule>"));
    let ended = run_with_route53(&site, &api, &["doctor", "app"]).await;
    assert_eq!(ended.status, Some(3), "{ended:?}");
    for said in [
        "armed: serving primary, primary healthy, standby healthy",
        "acme-latch-a keeps no versions",
        "Block Public Access is not wholly on for acme-latch-b",
        "the lifecycle rule \"tidy\" removes or moves objects",
        "acme-latch-a does not deny a write that outlives its look",
        "acme-latch-a does not deny a deletion by another principal than the people",
        "acme-latch-a does not deny a hold by another principal than the people",
        "no check reads the control object of acme-latch-a",
        "the check that reads the control object of acme-latch-b is disabled or inverted",
        "the primary's own, is disabled",
        "the standby's own check, is disabled",
        "record of type AAAA that does not fail over",
        "failoverctl latch attach app",
        "unseen  watchers",
        "unseen  race          the longest gap between two looks is not known",
        "WRONG   control       no sentinel _control shows whether Route 53's checkers see the control object of acme-latch-a",
        "ok      control       Route 53's checkers see the control object of acme-latch-b",
    ] {
        assert!(ended.out.contains(said), "{said}: {}", ended.out);
    }
    for none in ["text of _", "which is not in this account"] {
        assert!(!ended.out.contains(none), "{none}: {}", ended.out);
    }
    let of = |name: &str, routing: Routing| -> Vec<Change> {
        let world = site.world.lock();
        let records =
            world.records().iter().filter(|record| record.name == name && record.routing == routing);
        records.cloned().map(Change::Delete).collect()
    };
    let deleted =
        [of(STANDBY_SENTINEL, Routing::Secondary), of(SERVING_SENTINEL, Routing::Secondary)].concat();
    site.world.lock().change(deleted).expect("they are there");
    site.world.lock().put([
        Record::txt(PRIMARY_SENTINEL, "healthy").secondary(None),
        Record::txt("_control-web-eu-west-1.example.com", "healthy").secondary(None),
        Record::txt(STANDBY_SENTINEL, "healthy").primary("6dc5e927-6632-468a-b2ff-32e2947321c9"),
    ]);
    let ended = run_with_route53(&site, &api, &["doctor", "app"]).await;
    for said in [
        "the SECONDARY text of _control-web-eu-west-1.example.com., \"unhealthy\", is \"healthy\"",
        "the SECONDARY text of _serving.app.example.com., \"standby\", is missing",
        "the SECONDARY text of _primary.app.example.com., \"unhealthy\", is \"healthy\"",
        "the SECONDARY text of _standby.app.example.com., \"unhealthy\", is missing",
        "refers to 6dc5e927-6632-468a-b2ff-32e2947321c9, which is not in this account",
    ] {
        assert!(ended.out.contains(said), "{said}: {}", ended.out);
    }
    // Of two zones, the one that the watcher asks, whatever their names.
    api.add_zone("app.example.com");
    let folder = Folder::of(&site);
    let servers = NAMES.iter().enumerate().map(|(place, name)| format!("{name}=127.0.0.{}", 201 + place));
    let (file, servers) = (folder.0.join("failover-latch.env"), servers.collect::<Vec<_>>().join(","));
    let text = std::fs::read_to_string(&file).expect("it was written");
    let text = text.replace(&site.servers.variable(), &servers);
    std::fs::write(&file, text).expect("it can be written");
    let ended = with_route53(&site, &api, program(&site, &folder, &["doctor", "app"])).await;
    assert!(ended.out.contains("4 of the zone's own"), "{ended:?}");
}

#[tokio::test]
async fn doctor_asks_a_resolver_for_the_domains_name_servers() {
    let (site, api) = unattached().await;
    let (resolver, served) = Resolver::start(&[]).await;
    let none = UdpSocket::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let silent = none.local_addr().expect("it has an address").to_string();
    let unseen = "unseen  delegation    the name servers of example.com. were not seen:";
    let cases: [(&str, &[&str], String); 5] = [
        // One by a name of the domain's own.
        (&resolver, &[NAMES[0], "ns1.vanity.example"], "answers with the zone's name servers for".to_owned()),
        // Another zone of the name has taken over the domain; a part of its servers is enough.
        (
            &resolver,
            &[NAMES[0], "NS-1.elsewhere.example"],
            "answers with ns-1.elsewhere.example for example.com., which do not serve this zone".to_owned(),
        ),
        (
            &resolver,
            &["ns1.nowhere.example"],
            "example.com. has the name server ns1.nowhere.example, whose address was not seen".to_owned(),
        ),
        (&resolver, &[], format!("{unseen} {resolver}: it knows none")),
        (&silent, &[], format!("{unseen} {silent}: no answer")),
    ];
    for (resolver, servers, said) in cases {
        served.set(servers);
        let ended = run_with_route53(&site, &api, &["doctor", "app", "--resolver", resolver]).await;
        assert!(ended.out.contains(&said), "{said}: {}", ended.out);
    }
}
