//! The guard of a command, and the processes that it and lease-keeper start.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::command::{eventually, is_gone, runs_as};
use crate::configuration::{Home, create_released};
use crate::support::emulator::Emulator;
use crate::support::keeper::{Keeper, create_table};

#[tokio::test]
async fn a_process_for_credentials_outlives_the_guard_and_its_status_is_its_own() {
    let emulator = Emulator::ministack().await;
    create_released(&emulator).await;
    let home = Home::new();
    let (log, slow, go) = (home.path("log"), home.path("slow"), home.path("go"));
    // Credentials that are loaded again for every call.
    let printed = json!({
        "Version": 1,
        "AccessKeyId": emulator.key,
        "SecretAccessKey": emulator.key,
        "SessionToken": "token",
        "Expiration": "EXPIRATION",
    });
    let printed =
        printed.to_string().replace("EXPIRATION", "'$(date -u -d '5 seconds' +%Y-%m-%dT%H:%M:%SZ)'");
    let script = home.write(
        "credentials.sh",
        &format!(
            "if test -e {slow}; then echo waits >>{log}; until test -e {go}; do sleep 0.05; done; fi\n\
             echo finished >>{log}\nprintf '%s' '{printed}'\n"
        ),
    );
    home.write(".aws/config", &format!("[default]\ncredential_process = sh \"{script}\"\n"));
    let section = "dynamoDB:\n  leaseName: mylease\n  podIdentifier: site-a\n  waitTimeInSeconds: 2\n  \
                   failureThreshold: 20\n  tableName: admiral-lease\n  region: us-east-1\n";
    let command = ["--", "sh", "-c", "echo child of $PPID; echo runs as $$; exec sleep 600"];
    let mut holder = home.keeper(&emulator, section, &[], &command).await;
    let id = &runs_as(&holder).await;
    let guard = holder.says("child of").await;
    let guard = guard.rsplit(' ').next().unwrap().parse().ok().and_then(Pid::from_raw).unwrap();
    let count = |what: &str| fs::read_to_string(&log).map_or(0, |log| log.matches(what).count());
    eventually("they are loaded again", async || count("finished") > 4).await;
    assert_eq!(holder.said("could not be claimed or renewed"), 0);

    home.write("slow", "");
    eventually("the process waits", async || count("waits") > 0).await;
    let before = count("finished");
    kill_process(guard, Signal::KILL).unwrap();
    holder.says("\"the command ended by itself\"").await;
    eventually("the command is killed", async || is_gone(id)).await;
    home.write("go", "");
    eventually("the process finishes", async || count("finished") > before).await;
    assert_eq!(holder.ended().await.code(), Some(137));
}

#[tokio::test]
async fn a_check_that_gives_no_result_leaves_no_process_behind() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let home = Home::new();
    let started = home.path("started");
    let script = home.write(
        "check.sh",
        &format!("for with in '' setsid; do $with sleep 600 & echo $! >>{started}; done; wait\n"),
    );
    let check = format!("sh {script}");
    let _keeper =
        Keeper::start_with(&emulator, "site-a", "", &["--check", &check, "--check-every", "1"]).await;
    eventually("the processes of a check are gone", async || {
        let started = fs::read_to_string(&started).unwrap_or_default();
        let first: Vec<_> = started.lines().take(2).collect();
        first.len() == 2 && first.into_iter().all(is_gone)
    })
    .await;
}
