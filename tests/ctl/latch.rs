//! `failoverctl latch`, beside watchers, on an S3 that enforces the rights of a person and of a watcher.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::failoverctl::{Ended, FAILOVERCTL, command};
use crate::support::miniature::latch::SERVING_SENTINEL;
use crate::support::s3::{Down, Fault, PERSON, WATCHER};
use crate::support::site::{A, B, HOLD, KEY, Site, look};
use serde_json::Value;
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

/// `failoverctl latch` with a person's credentials. Every service but S3 leads nowhere.
fn program(site: &Site, folder: &Folder, typed: &[&str]) -> Command {
    let arguments = [&["latch"], typed].concat();
    let mut command = command(Path::new(FAILOVERCTL), "http://127.0.0.1:9", &arguments);
    command
        .current_dir(&folder.0)
        .env("AWS_ENDPOINT_URL_S3", site.s3.url())
        .envs([("AWS_ACCESS_KEY_ID", PERSON), ("AWS_SECRET_ACCESS_KEY", PERSON)])
        .stdin(Stdio::null());
    command
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

#[tokio::test]
async fn a_release_brings_the_primary_back_and_no_watcher_locks_meanwhile() {
    let site = locked().await;
    let watchers = [site.watcher().await, site.watcher().await];
    let release = run(&site, &["release", "app", "--yes", "--reason", "synchronised"]);
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

#[tokio::test]
async fn a_deletion_that_cannot_be_confirmed_puts_the_others_back() {
    let site = locked().await;
    site.s3.fail_always("DeleteObject", B, Fault::Hang);
    // The holds are deleted once the objects are back.
    let ended = run(&site, &["release", "app", "--yes"]).await;
    assert_eq!(ended.status, Some(3), "{ended:?}");
    for said in ["was not released", "acme-latch-a: the object was put back", "acme-latch-b: it is not known"]
    {
        assert!(ended.said.contains(said), "{said}: {ended:?}");
    }
    assert_eq!(site.objects(), [true, true]);
    assert_eq!(holds(&site), [false, true], "a hold that cannot be deleted grows old");
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
    site.fails_over();
    assert_eq!(look(&site.watcher().await).await.as_deref(), Ok("locked"));
    site.checkers_look();
    refused(&site, &[], "do not say that the primary is healthy").await;
    site.primary(true);
    site.s3.down(B, Down::Refused);
    refused(&site, &["--force"], "Repeat the release when every bucket answers").await;
    site.s3.up(B);
    site.s3.put(A, HOLD, r#"{"id":"1","by":"ada@laptop","at":"2026-11-26T03:00:00Z"}"#);
    refused(&site, &["--force"], "another release is under way, of ada@laptop since 2026-11-26T03:00:00Z")
        .await;
    assert_eq!(site.objects(), [true, true]);
}

#[tokio::test]
async fn what_a_broken_off_release_left_behind_is_deleted() {
    let site = Site::start().await;
    for bucket in [A, B] {
        site.s3.put_aged(bucket, HOLD, r#"{"id":"1"}"#, std::time::Duration::from_secs(700));
    }
    let ended = run(&site, &["release", "app", "--yes"]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert_eq!(holds(&site), [false, false]);
}

#[tokio::test]
async fn status_shows_each_latch_and_json_has_the_same() {
    let site = locked().await;
    let ended = run(&site, &["status"]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    for said in ["STATE", "locked", "app", "standby", "healthy", "present (0 s), present (0 s)"] {
        assert!(ended.out.contains(said), "{said}: {ended:?}");
    }
    let ended = run(&site, &["status", "--output", "json"]).await;
    let json: Value = serde_json::from_str(&ended.out).unwrap();
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
    let ended = run(&site, &["lock", "app", "--yes", "--reason", "maintenance"]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
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
