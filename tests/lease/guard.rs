//! The guard of a command, and the processes that it and lease-keeper start.

use std::fs;
use std::io::{PipeWriter, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::command::{STUBBORN, eventually, is_gone, runs_as};
use crate::configuration::{Home, create_released};
use crate::support::emulator::Emulator;
use crate::support::keeper::{self, Keeper, Observer, config, create_table, record};
use crate::support::program::fill;
use crate::support::proxy::{Fault, PATIENCE, Proxy};

/// The reader of a pipe.
type Log = Lines<BufReader<Receiver>>;

/// A file that does not exist yet.
fn absent(name: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = fs::remove_file(&file);
    file
}

/// The number of the guard, by what its command says.
async fn guard_of(keeper: &Keeper) -> String {
    let said = keeper.says("child of").await;
    said.rsplit(' ').next().expect("it ends with a number").to_owned()
}

fn pid(id: &str) -> Pid {
    id.parse().ok().and_then(Pid::from_raw).expect("it is a process's number")
}

/// What a process for credentials prints, between single quotes of a shell: they are loaded again for every call.
fn short_lived(key: &str) -> String {
    let credentials = json!({
        "Version": 1,
        "AccessKeyId": key,
        "SecretAccessKey": key,
        "SessionToken": "token",
        "Expiration": "EXPIRATION",
    });
    credentials.to_string().replace("EXPIRATION", "'$(date -u -d '5 seconds' +%Y-%m-%dT%H:%M:%SZ)'")
}

/// A holder whose command has ended by itself with status 3, and has left a process behind that ignores TERM.
async fn ended_by_itself(emulator: &Emulator, name: &str) -> (Keeper, Observer, String) {
    create_table(emulator).await;
    let end = absent(name);
    let command = format!(
        "(setsid sh -c '{STUBBORN}' &); until test -e {}; do sleep 0.05; done; exit 3",
        end.display()
    );
    let more = "  failureThreshold: 8\n  longestTermInSeconds: 8\n";
    let holder = Keeper::start_with(emulator, "site-a", more, &["--", "sh", "-c", &command]).await;
    let observer = Observer::of(&[&holder]);
    observer.active(&holder).await;
    let left = runs_as(&holder).await;
    // The command may speak before its keeper knows that it runs.
    holder.states("\"running\":true").await;
    assert_eq!(holder.get("/ready").await.0, 200);
    let metrics = holder.get("/metrics").await.1;
    for line in [
        "lease_keeper_command_running{lease=\"mylease\"} 1.0",
        "lease_keeper_command_ending{lease=\"mylease\"} 0.0",
        "lease_keeper_command_start_time_seconds{lease=\"mylease\"} 1",
        "lease_keeper_command_exits_total{lease=\"mylease\",by=\"itself\"} 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    fs::write(&end, "").unwrap();
    let state = holder.states("\"ending\":true").await;
    assert_eq!(state["command"], json!({ "running": false, "ending": true, "status": 3 }));
    assert!(!is_gone(&left));
    (holder, observer, left)
}

#[tokio::test]
async fn a_command_that_has_ended_by_itself_is_not_reported_as_running_while_others_are_left() {
    let emulator = Emulator::ministack().await;
    let (mut holder, observer, left) = ended_by_itself(&emulator, "reported").await;
    assert_eq!(holder.get("/leader").await.0, 200);
    assert_eq!(holder.get("/ready").await.0, 503);
    let metrics = holder.get("/metrics").await.1;
    for line in [
        "lease_keeper_command_running{lease=\"mylease\"} 0.0",
        "lease_keeper_command_ending{lease=\"mylease\"} 1.0",
        "lease_keeper_command_exits_total{lease=\"mylease\",by=\"itself\"} 1",
        "lease_keeper_command_exits_total{lease=\"mylease\",by=\"lease_keeper\"} 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    holder.says("processes that the command left behind did not end after TERM: they were killed").await;
    assert_eq!(holder.ended().await.code(), Some(3));
    assert!(is_gone(&left));
    observer.vouch();
}

#[tokio::test]
async fn a_command_that_has_ended_by_itself_is_not_started_again_when_the_lease_is_lost_meanwhile() {
    let emulator = Emulator::ministack().await;
    let (mut holder, mut observer, left) = ended_by_itself(&emulator, "lost").await;
    let contender = Keeper::start(&emulator, "site-b").await;
    observer.add(&contender);
    holder.proxy.all(Fault::Lost);
    observer.active(&contender).await;
    assert!(is_gone(&left));
    assert_eq!(holder.ended().await.code(), Some(3));
    assert_eq!(holder.said("\"the command runs\""), 1);
    observer.vouch();
}

#[tokio::test]
async fn a_guard_that_is_stopped_hides_no_end_of_its_command() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let end = absent("stopped");
    let command =
        format!("echo child of $PPID; until test -e {}; do sleep 0.05; done; exit 3", end.display());
    let mut holder = Keeper::start_with(&emulator, "site-a", "", &["--", "sh", "-c", &command]).await;
    let guard = pid(&guard_of(&holder).await);
    kill_process(guard, Signal::STOP).unwrap();
    fs::write(&end, "").unwrap();
    holder.says("the guard of the command was stopped: it is continued").await;
    assert_eq!(holder.ended().await.code(), Some(3));
}

#[tokio::test]
async fn a_process_for_credentials_outlives_the_guard_and_its_status_is_its_own() {
    let emulator = Emulator::ministack().await;
    create_released(&emulator).await;
    let home = Home::new();
    let (log, slow, go) = (home.path("log"), home.path("slow"), home.path("go"));
    let printed = short_lived(&emulator.key);
    let script = home.write(
        "credentials.sh",
        &format!(
            "if test -e {slow}; then echo $$ waits >>{log}; until test -e {go}; do sleep 0.05; done; fi\n\
             echo $$ finished >>{log}\nprintf '%s' '{printed}'\n"
        ),
    );
    home.write(".aws/config", &format!("[default]\ncredential_process = sh \"{script}\"\n"));
    // The process may take two fifths of a period.
    let section = "dynamoDB:\n  leaseName: mylease\n  podIdentifier: site-a\n  waitTimeInSeconds: 15\n  \
                   failureThreshold: 20\n  tableName: admiral-lease\n  region: us-east-1\n";
    let command = ["--", "sh", "-c", "echo child of $PPID; echo runs as $$; exec sleep 600"];
    let mut holder = home.keeper(&emulator, section, &[], &command).await;
    let id = &runs_as(&holder).await;
    let guard = pid(&guard_of(&holder).await);
    let logged = || fs::read_to_string(&log).unwrap_or_default();
    eventually("they are loaded again", async || logged().matches("finished").count() > 2).await;
    assert_eq!(holder.said("could not be claimed or renewed"), 0);

    home.write("slow", "");
    eventually("the process waits", async || logged().contains("waits")).await;
    let waits = logged().lines().find(|line| line.contains("waits")).unwrap().to_owned();
    kill_process(guard, Signal::KILL).unwrap();
    holder.says("the guard of the command was ended: the command was killed").await;
    assert_eq!(holder.said("the command ended by itself"), 0);
    eventually("the command is killed", async || is_gone(id)).await;
    home.write("go", "");
    let finished = waits.replace("waits", "finished");
    eventually("the process finishes", async || logged().contains(&finished)).await;
    assert_eq!(holder.ended().await.code(), Some(137));
}

#[tokio::test]
async fn a_command_whose_orphans_end_all_the_time_is_ended_although_its_keeper_is_stopped() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let busy = "trap '' TERM; echo runs as $$; while :; do (: &); done";
    let holder = Keeper::start_with(&emulator, "site-a", "", &["--", "sh", "-c", busy]).await;
    let id = runs_as(&holder).await;
    holder.signal("STOP").await;
    eventually("it is killed", async || is_gone(&id)).await;
    holder.signal("CONT").await;
    holder.says("\"the command was ended\"").await;
}

#[tokio::test]
async fn a_command_keeps_its_grace_when_its_guard_is_the_first_to_report_that_the_time_is_over() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let log = absent("finishes");
    let finishes = format!(
        "trap 'echo TERM >>{log}; sleep 1; echo finished >>{log}; exit 0' TERM; echo runs as $$; while :; do sleep 0.05; done",
        log = log.display()
    );
    let more = "  failureThreshold: 10\n  graceInMilliseconds: 4000\n  longestTermInSeconds: 10\n";
    let holder = Keeper::start_with(&emulator, "site-a", more, &["--", "sh", "-c", &finishes]).await;
    runs_as(&holder).await;
    let logged = || fs::read_to_string(&log).unwrap_or_default();
    holder.proxy.all(Fault::Lost);
    holder.signal("STOP").await;
    eventually("the guard has sent TERM", async || logged().contains("TERM")).await;
    holder.signal("CONT").await;
    holder.says("\"the command was ended\"").await;
    assert_eq!(logged(), "TERM\nfinished\n");
    assert_eq!(holder.said("it was killed"), 0);
}

#[tokio::test]
async fn orphans_that_the_keeper_inherits_are_reaped() {
    let emulator = Emulator::ministack().await;
    create_released(&emulator).await;
    let home = Home::new();
    let log = home.path("log");
    let printed = short_lived(&emulator.key);
    // Its parent ends at once, and the process some calls later.
    let script = home.write(
        "credentials.sh",
        &format!(
            "(sh -c 'echo orphan $$ >>{log}; exec sleep 1' >/dev/null 2>&1 &)\nprintf '%s' '{printed}'\n"
        ),
    );
    home.write(".aws/config", &format!("[default]\ncredential_process = sh \"{script}\"\n"));
    let section = "dynamoDB:\n  leaseName: mylease\n  podIdentifier: site-a\n  waitTimeInSeconds: 2\n  \
                   failureThreshold: 20\n  tableName: admiral-lease\n  region: us-east-1\n";
    let holder = home.keeper(&emulator, section, &[], &["--", "sleep", "600"]).await;
    holder.says("\"the command runs\"").await;
    let orphans = || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        log.lines().filter_map(|line| line.rsplit(' ').next().map(str::to_owned)).collect::<Vec<_>>()
    };
    eventually("there are some", async || orphans().len() > 2).await;
    let first = orphans()[0].clone();
    eventually("nothing is left of it, not even its status", async || {
        !Path::new(&format!("/proc/{first}")).exists()
    })
    .await;
}

#[tokio::test]
async fn signals_that_a_parent_has_blocked_are_noticed() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let blocks = "import os, signal, sys\n\
                  signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n\
                  os.execv(sys.argv[1], sys.argv[1:])";
    for (command, signal, status) in [("exit 3", None, 3), ("exec sleep 600", Some("TERM"), 0)] {
        let proxy = Proxy::start(&emulator.url).await;
        let file = config("site-a", "");
        let keys = [("AWS_ACCESS_KEY_ID", &*emulator.key), ("AWS_SECRET_ACCESS_KEY", &*emulator.key)];
        let keeper = keeper::command(&proxy.url, &file, &keys, &["--", "sh", "-c", command]);
        let keeper = keeper.as_std();
        let mut blocked = Command::new("python3");
        blocked.args(["-c", blocks]).arg(keeper.get_program()).args(keeper.get_args());
        blocked.env_clear().envs(keeper.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut keeper = Keeper::of(proxy, keeper::collect(&mut blocked)).await;
        keeper.says("\"the command runs\"").await;
        if let Some(signal) = signal {
            keeper.signal(signal).await;
        }
        assert_eq!(keeper.ended().await.code(), Some(status));
    }
}

#[tokio::test]
async fn a_command_that_cannot_be_started_is_not_said_to_run_or_to_have_ended() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let script = absent("no-interpreter");
    fs::write(&script, "#!/does/not/exist\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut holder = Keeper::start_with(&emulator, "site-a", "", &["--", script.to_str().unwrap()]).await;
    assert_eq!(holder.ended().await.code(), Some(1));
    let said = holder.says("lease-keeper ends").await;
    assert!(
        said.contains("cannot be started: No such file") && said.contains("Correct the command"),
        "{said}"
    );
    for never in ["\"the command runs\"", "\"the command ended by itself\"", "\"the command was ended\""] {
        assert_eq!(holder.said(never), 0, "{never}");
    }
    assert_eq!(record(&emulator).await["leaseReleased"]["BOOL"], true);
}

#[tokio::test]
async fn a_command_has_the_time_until_the_terms_end_also_when_its_keeper_is_stopped() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let log = absent("tidies");
    let tidies = format!(
        "trap 'echo tidied >>{}; exit 0' TERM; echo runs as $$; while :; do sleep 0.05; done",
        log.display()
    );
    let more = "  failureThreshold: 8\n  longestTermInSeconds: 8\n";
    let holder = Keeper::start_with(&emulator, "site-a", more, &["--", "sh", "-c", &tidies]).await;
    let id = runs_as(&holder).await;
    holder.signal("STOP").await;
    eventually("it has ended", async || is_gone(&id)).await;
    assert_eq!(fs::read_to_string(&log).unwrap_or_default(), "tidied\n");
    holder.signal("CONT").await;
    holder.says("\"the command was ended\"").await;
    assert_eq!(holder.said("it was killed"), 0);
}

#[tokio::test]
async fn a_signal_to_every_process_leaves_the_command_its_time_to_end() {
    let emulator = Emulator::ministack().await;
    create_released(&emulator).await;
    for signal in ["INT", "QUIT", "TERM"] {
        let log = absent("tidies");
        let tidies = format!(
            "trap 'sleep 0.5; echo tidied >>{}; exit 0' TERM; echo child of $PPID; while :; do sleep 0.05; done",
            log.display()
        );
        let mut holder = Keeper::start_with(&emulator, "site-a", "", &["--", "sh", "-c", &tidies]).await;
        let guard = pid(&guard_of(&holder).await);
        let sent = match signal {
            "INT" => Signal::INT,
            "QUIT" => Signal::QUIT,
            _ => Signal::TERM,
        };
        kill_process(guard, sent).expect("it runs");
        holder.signal(signal).await;
        assert_eq!(holder.ended().await.code(), Some(0), "{signal}");
        assert_eq!(fs::read_to_string(&log).unwrap_or_default(), "tidied\n", "{signal}");
    }
}

#[tokio::test]
async fn a_process_for_credentials_that_hangs_is_killed_and_the_next_one_is_used() {
    let emulator = Emulator::ministack().await;
    create_released(&emulator).await;
    let home = Home::new();
    let (started, hangs) = (home.path("started"), home.write("hangs", ""));
    let printed = json!({ "Version": 1, "AccessKeyId": emulator.key, "SecretAccessKey": emulator.key });
    let script = home.write(
        "credentials.sh",
        &format!(
            "if test -e {hangs}; then\n\
             for with in '' setsid; do $with sleep 600 & echo $! >>{started}; done; echo $$ >>{started}; wait\n\
             fi\necho '{printed}'\n"
        ),
    );
    home.write(".aws/config", &format!("[default]\ncredential_process = sh \"{script}\"\n"));
    let section = "dynamoDB:\n  leaseName: mylease\n  podIdentifier: site-a\n  waitTimeInSeconds: 2\n  \
                   failureThreshold: 20\n  tableName: admiral-lease\n  region: us-east-1\n";
    let keeper = home.keeper(&emulator, section, &[], &[]).await;
    eventually("it hangs, and is gone", async || {
        first_three(&started).is_some_and(|first| first.iter().all(|id| is_gone(id)))
    })
    .await;
    fs::remove_file(&hangs).unwrap();
    Observer::of(&[&keeper]).active(&keeper).await;
}

#[tokio::test]
async fn what_a_process_for_credentials_leaves_behind_is_killed_if_it_holds_its_output() {
    let emulator = Emulator::ministack().await;
    create_released(&emulator).await;
    let home = Home::new();
    let (started, holds) = (home.path("started"), home.write("holds", ""));
    let printed = json!({ "Version": 1, "AccessKeyId": emulator.key, "SecretAccessKey": emulator.key });
    let script = home.write(
        "credentials.sh",
        &format!("if test -e {holds}; then sleep 600 & echo $! >>{started}; fi\necho '{printed}'\n"),
    );
    home.write(".aws/config", &format!("[default]\ncredential_process = sh \"{script}\"\n"));
    let section = "dynamoDB:\n  leaseName: mylease\n  podIdentifier: site-a\n  waitTimeInSeconds: 2\n  \
                   failureThreshold: 20\n  tableName: admiral-lease\n  region: us-east-1\n";
    let keeper = home.keeper(&emulator, section, &[], &[]).await;
    eventually("they are gone", async || {
        first_three(&started).is_some_and(|first| first.iter().all(|id| is_gone(id)))
    })
    .await;
    fs::remove_file(&holds).unwrap();
    Observer::of(&[&keeper]).active(&keeper).await;
}

/// A check whose processes hide in the group, in another session, and there as orphans, and which then ends so. The
/// file holds their numbers.
fn hiding(home: &Home, end: &str) -> (String, String) {
    let started = home.path("started");
    let script = home.write(
        "check.sh",
        &format!(
            "(setsid sh -c 'echo $$ >>{started}; exec sleep 600' &)\n\
             for with in '' setsid; do $with sleep 600 & echo $! >>{started}; done\n\
             until test $(wc -l <{started}) -ge 3; do sleep 0.05; done\n{end}\n"
        ),
    );
    (format!("sh {script}"), started)
}

/// The first three processes whose numbers this file holds.
fn first_three(started: &str) -> Option<Vec<String>> {
    let started = fs::read_to_string(started).unwrap_or_default();
    let first: Vec<_> = started.lines().take(3).map(str::to_owned).collect();
    Some(first).filter(|first| first.len() == 3)
}

#[tokio::test]
async fn a_check_leaves_no_process_behind_whether_or_not_it_gives_a_result() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    for end in ["wait", "exit 0", "exit 1"] {
        let home = Home::new();
        let (check, started) = hiding(&home, end);
        let check = ["--check", &check, "--check-every", "1"];
        let _keeper = Keeper::start_with(&emulator, "site-a", "", &check).await;
        eventually("the processes of a check are gone", async || {
            first_three(&started).is_some_and(|first| first.iter().all(|id| is_gone(id)))
        })
        .await;
    }
}

#[tokio::test]
async fn a_check_does_not_outlive_a_keeper_that_is_killed() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let home = Home::new();
    let (check, started) = hiding(&home, "wait");
    let check = ["--check", &check, "--check-every", "600"];
    let mut keeper = Keeper::start_with(&emulator, "site-a", "", &check).await;
    eventually("its processes run", async || first_three(&started).is_some()).await;
    keeper.signal("KILL").await;
    keeper.ended().await;
    let first = first_three(&started).unwrap();
    eventually("they are gone", async || first.iter().all(|id| is_gone(id))).await;
}

#[tokio::test]
async fn a_check_has_no_more_than_its_time_although_its_keeper_is_stopped() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let home = Home::new();
    let (check, started) = hiding(&home, "wait");
    let check = ["--check", &check, "--check-every", "5"];
    let keeper = Keeper::start_with(&emulator, "site-a", "", &check).await;
    eventually("its processes run", async || first_three(&started).is_some()).await;
    let first = first_three(&started).unwrap();
    keeper.signal("STOP").await;
    assert!(!first.iter().all(|id| is_gone(id)), "its time is not over yet");
    eventually("they are gone", async || first.iter().all(|id| is_gone(id))).await;
}

/// A keeper that logs to a pipe: where it listens, the pipe's reader and its writer.
async fn logging_to_a_pipe(
    emulator: &Emulator,
    proxy: &Proxy,
    command: &[&str],
) -> (Child, String, Log, PipeWriter) {
    create_released(emulator).await;
    let keys = [("AWS_ACCESS_KEY_ID", &*emulator.key), ("AWS_SECRET_ACCESS_KEY", &*emulator.key)];
    let (reader, writer) = pipe().unwrap();
    let keeper = keeper::command(&proxy.url, &config("site-a", ""), &keys, command)
        .stdout(Stdio::null())
        .stderr(writer.try_clone().unwrap())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(Receiver::from_owned_fd(OwnedFd::from(reader)).unwrap()).lines();
    let started: Value = serde_json::from_str(&line(&mut log, "\"starting\"").await).unwrap();
    (keeper, started["listen"].as_str().unwrap().to_owned(), log, writer)
}

/// The next line that has this in it.
async fn line(log: &mut Log, text: &str) -> String {
    let said = async {
        loop {
            let line = log.next_line().await.unwrap().expect("it runs");
            if line.contains(text) {
                return line;
            }
        }
    };
    timeout(PATIENCE, said).await.unwrap_or_else(|_| panic!("it does not say {text:?}"))
}

async fn ends_well(keeper: &mut Child) {
    signal(keeper, Signal::TERM);
    let status = timeout(PATIENCE, keeper.wait()).await.expect("it ends").unwrap();
    assert_eq!(status.code(), Some(0));
}

fn signal(process: &Child, signal: Signal) {
    let id = process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    kill_process(id.unwrap(), signal).unwrap();
}

#[tokio::test]
async fn a_keeper_whose_log_no_one_reads_keeps_its_lease_and_reports_the_lines_that_it_dropped() {
    let emulator = Emulator::ministack().await;
    let proxy = Proxy::start(&emulator.url).await;
    let (mut holder, address, mut log, writer) = logging_to_a_pipe(&emulator, &proxy, &[]).await;
    eventually("it is active", async || keeper::get(&address, "/leader").await.unwrap().0 == 200).await;
    fill(&writer).await;
    let dropped = "lease_keeper_log_lines_dropped_total{lease=\"mylease\"} ";
    eventually("lines are dropped", async || {
        // Each is a line in the log.
        signal(&holder, Signal::HUP);
        let metrics = keeper::get(&address, "/metrics").await.unwrap().1;
        let count = metrics.split_once(dropped).unwrap().1.lines().next().unwrap().parse::<u64>().unwrap();
        count > 0
    })
    .await;
    let renewed = proxy.calls("UpdateItem") + 3;
    proxy.arrived("UpdateItem", renewed).await;
    assert_eq!(keeper::get(&address, "/leader").await.unwrap().0, 200);
    let report: Value = serde_json::from_str(&line(&mut log, "lines were dropped").await).unwrap();
    assert!(report["lines"].as_u64() > Some(0), "{report}");
    // It ends with its last line, if that is read.
    let (ended, ()) = tokio::join!(line(&mut log, "\"ending\""), ends_well(&mut holder));
    assert!(ended.contains("INFO"), "{ended}");
}

#[tokio::test]
async fn a_keeper_ends_although_no_one_reads_its_log() {
    for is_open in [true, false] {
        let emulator = Emulator::ministack().await;
        let proxy = Proxy::start(&emulator.url).await;
        let (mut holder, address, log, writer) = logging_to_a_pipe(&emulator, &proxy, &[]).await;
        eventually("it is active", async || keeper::get(&address, "/leader").await.unwrap().0 == 200).await;
        fill(&writer).await;
        let _unread = is_open.then_some(log);
        ends_well(&mut holder).await;
        assert_eq!(record(&emulator).await["leaseReleased"]["BOOL"], true);
    }
}

#[tokio::test]
async fn a_guard_kills_the_command_and_ends_when_no_one_reads_its_log() {
    let emulator = Emulator::ministack().await;
    let proxy = Proxy::start(&emulator.url).await;
    let command = format!("exec >&2; echo child of $PPID; {STUBBORN}");
    let command = ["--", "sh", "-c", &command];
    let (_keeper, _, mut log, writer) = logging_to_a_pipe(&emulator, &proxy, &command).await;
    let last = |line: String| line.rsplit(' ').next().unwrap().to_owned();
    let guard = last(line(&mut log, "child of").await);
    let id = last(line(&mut log, "runs as").await);
    fill(&writer).await;
    proxy.all(Fault::Lost);
    eventually("the command is killed", async || is_gone(&id)).await;
    eventually("the guard ends", async || is_gone(&guard)).await;
}

/// The kernel cuts a name at 15 bytes, so that it may end within a character.
#[tokio::test]
async fn a_descendant_whose_name_is_no_utf_8_ends_with_the_lease() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let (folder, written) = (absent("names"), absent("pid"));
    fs::create_dir_all(&folder).unwrap();
    let command = format!(
        "worker={}/$(printf '\\377worker'); cp /bin/sleep \"$worker\"; setsid \"$worker\" 1000 & echo $! >{1}.new; \
         mv {1}.new {1}; wait",
        folder.display(),
        written.display()
    );
    let holder = Keeper::start_with(&emulator, "site-a", "", &["--", "sh", "-c", &command]).await;
    let observer = Observer::of(&[&holder]);
    observer.active(&holder).await;
    eventually("the worker runs", async || written.exists()).await;
    let pid = fs::read_to_string(&written).unwrap().trim().to_owned();
    assert!(!is_gone(&pid));
    holder.signal("TERM").await;
    holder.says("\"the command was ended\"").await;
    assert!(is_gone(&pid), "it was said to be ended");
    fs::remove_dir_all(&folder).unwrap();
}

/// A program that starts itself again and ends, for longer than a test waits, in the same group or in a session of its own
/// each time. Each writes a byte into the file.
fn chain(home: &Home, name: &str, hides: &str) -> (String, String) {
    let alive = home.path(name);
    let script = home.write(
        "chain.py",
        "import os, sys, time\n\
         file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND)\n\
         end = time.time() + 100\n\
         while time.time() < end:\n    os.write(file, b'.')\n    if os.fork(): os._exit(0)\n    if sys.argv[2:]: os.setsid()\n",
    );
    (format!("python3 {script} {alive} {hides}"), alive)
}

/// Waits until a chain has begun, and then until nothing writes any more.
async fn has_ended(alive: &str) {
    let length = || fs::metadata(alive).map_or(0, |file| file.len());
    eventually("the chain begins", async || length() > 0).await;
    let (mut before, mut same) = (0, 0);
    eventually("the chain ends", async || {
        same = if length() == before { same + 1 } else { 0 };
        before = length();
        same == 20
    })
    .await;
}

#[tokio::test]
async fn a_process_that_starts_itself_again_and_again_is_ended_in_whatever_group() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    for hides in ["", "setsid"] {
        let home = Home::new();
        let (command, alive) = chain(&home, "alive", hides);
        let command: Vec<_> = ["--"].into_iter().chain(command.split_whitespace()).collect();
        let mut holder = Keeper::start_with(&emulator, "site-a", "", &command).await;
        // Its first process has ended at once, the others when the term did.
        assert_eq!(holder.ended().await.code(), Some(0));
        has_ended(&alive).await;

        // Behind a first process that stays, and while the lease is lost.
        let (command, alive) = chain(&home, "behind", hides);
        let holder = Keeper::start_with(
            &emulator,
            "site-a",
            "",
            &["--", "sh", "-c", &format!("{command} & exec sleep 600")],
        )
        .await;
        Observer::of(&[&holder]).active(&holder).await;
        holder.proxy.all(Fault::Lost);
        holder.says("the command was ended").await;
        has_ended(&alive).await;
        drop(holder);

        let (check, alive) = chain(&home, "checked", hides);
        let check = ["--check", &check, "--check-every", "10"];
        let mut keeper = Keeper::start_with(&emulator, "site-a", "", &check).await;
        Observer::of(&[&keeper]).active(&keeper).await;
        keeper.signal("TERM").await;
        keeper.ended().await;
        has_ended(&alive).await;
    }
}

#[tokio::test]
async fn a_check_that_kills_or_stops_its_guard_leaves_no_process_behind() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    for signal in ["KILL", "STOP"] {
        let home = Home::new();
        let alive = home.path("alive");
        let script = home.write(
            "check.sh",
            "[ ! -e $1 ] || exit 0\nsetsid sh -c 'while echo >>$0; do sleep 0.02; done' $1 &\n\
             while [ ! -e $1 ]; do sleep 0.02; done\nkill -$2 $PPID\nsleep 100\n",
        );
        let check = format!("sh {script} {alive} {signal}");
        let keeper =
            Keeper::start_with(&emulator, "site-a", "", &["--check", &check, "--check-every", "1"]).await;
        has_ended(&alive).await;
        Observer::of(&[&keeper]).active(&keeper).await;
    }
}

/// The most files that a process may open from here on.
fn allow_files(id: &str, count: u64) {
    let limit = Rlimit { current: Some(count), maximum: Some(1024) };
    prlimit(Some(pid(id)), Resource::Nofile, limit).expect("it is this user's process");
}

/// A process is found by the file in which the kernel shows it.
#[tokio::test]
async fn a_command_is_not_said_to_be_ended_while_no_file_can_be_opened_to_see_that() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let command = format!("(setsid sh -c '{STUBBORN}' &); echo child of $PPID; exec sleep 600");
    let holder = Keeper::start_with(&emulator, "site-a", "", &["--", "sh", "-c", &command]).await;
    let observer = Observer::of(&[&holder]);
    observer.active(&holder).await;
    let left = runs_as(&holder).await;
    let guard = pid(&guard_of(&holder).await);
    let keeper = holder.id().expect("it runs").to_string();
    allow_files(&keeper, 3);
    kill_process(guard, Signal::KILL).expect("it runs");
    holder.says("processes of the command cannot be killed").await;
    assert!(!is_gone(&left));
    assert_eq!((holder.said("\"the command was ended\""), holder.said("\"released\"")), (0, 0));
    allow_files(&keeper, 1024);
    eventually("it is ended", async || is_gone(&left)).await;
}

#[tokio::test]
async fn a_second_signal_releases_no_lease_while_a_process_of_the_command_lives() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let command = format!("(setsid sh -c '{STUBBORN}' &); echo child of $PPID; exec sleep 600");
    let mut holder = Keeper::start_with(&emulator, "site-a", "", &["--", "sh", "-c", &command]).await;
    Observer::of(&[&holder]).active(&holder).await;
    let left = runs_as(&holder).await;
    let guard = guard_of(&holder).await;
    let keeper = holder.id().expect("it runs").to_string();
    holder.signal("TERM").await;
    holder.says("\"ending\"").await;
    // They find no process any more, and so they kill none.
    allow_files(&guard, 3);
    allow_files(&keeper, 3);
    holder.signal("TERM").await;
    assert_eq!(holder.ended().await.code(), Some(1));
    assert!(!is_gone(&left));
    assert!(record(&emulator).await["leaseReleased"].is_null(), "it was released");
    allow_files(&guard, 1024);
    eventually("it is ended", async || is_gone(&left)).await;
}

#[tokio::test]
async fn what_cannot_be_killed_keeps_no_lease_for_a_command_that_has_ended_by_itself() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let end = absent("unseen");
    let command = format!(
        "(setsid sh -c '{STUBBORN}' &); echo child of $PPID; until test -e {}; do sleep 0.05; done; exit 3",
        end.display()
    );
    let mut holder = Keeper::start_with(&emulator, "site-a", "", &["--", "sh", "-c", &command]).await;
    let mut observer = Observer::of(&[&holder]);
    observer.active(&holder).await;
    let contender = Keeper::start(&emulator, "site-b").await;
    observer.add(&contender);
    contender.states("it is site-a's").await;
    let left = runs_as(&holder).await;
    let guard = guard_of(&holder).await;
    let keeper = holder.id().expect("it runs").to_string();
    holder.states("\"running\":true").await;
    // They find no process any more, and so they kill none.
    allow_files(&guard, 3);
    fs::write(&end, "").unwrap();
    holder.says("the command ended by itself").await;
    allow_files(&keeper, 3);
    holder.says("processes of the command cannot be killed").await;
    observer.active(&contender).await;
    assert!(!is_gone(&left));
    allow_files(&keeper, 1024);
    assert_eq!(holder.ended().await.code(), Some(3));
    assert!(is_gone(&left));
}

/// Holds a file so that no one can open it to execute it, as one of a file system that does not answer, until its input
/// ends.
const HOLD: &str = "import fcntl, os, signal, sys\n\
                    signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
                    file = os.open(sys.argv[1], os.O_RDWR)\n\
                    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
                    print('held', flush=True)\n\
                    sys.stdin.read()";

/// Holds it until what is returned is dropped or killed.
async fn hold(program: &str) -> Child {
    let mut holding = Command::new("python3");
    holding.args(["-c", HOLD, program]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut holding = holding.spawn().expect("python3 is there");
    let mut held = BufReader::new(holding.stdout.take().unwrap()).lines();
    assert_eq!(held.next_line().await.unwrap().as_deref(), Some("held"));
    holding
}

#[tokio::test]
async fn a_command_whose_program_does_not_open_costs_the_lease() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let program = absent("hangs");
    fs::copy("/bin/sleep", &program).unwrap();
    let program = program.to_str().unwrap();
    let _held = hold(program).await;
    let mut holder = Keeper::start_with(&emulator, "site-a", "", &["--", program, "600"]).await;
    let said = holder.says("it did not start within 3s").await;
    assert!(said.contains("Look at the file system of its program"), "{said}");
    assert_eq!(holder.ended().await.code(), Some(1));
    assert_eq!(holder.said("\"the command runs\""), 0);
    assert_eq!(record(&emulator).await["leaseReleased"]["BOOL"], true);
}

/// A process that this one has started, once there is one.
async fn first_child(of: &str) -> String {
    let mut found = None;
    eventually("it starts a process", async || {
        let threads = fs::read_dir(format!("/proc/{of}/task")).expect("it runs").flatten();
        let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        found = children.collect::<String>().split_whitespace().next().map(str::to_owned);
        found.is_some()
    })
    .await;
    found.expect("it was found")
}

#[tokio::test]
async fn a_program_that_opens_only_after_the_term_is_not_executed() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    for signal in ["KILL", "STOP"] {
        let program = absent("late");
        fs::copy("/bin/touch", &program).unwrap();
        let program = program.to_str().unwrap();
        let mut held = hold(program).await;
        let made = absent("made");
        let keeper =
            Keeper::start_with(&emulator, "site-a", "", &["--", program, made.to_str().unwrap()]).await;
        let guard = first_child(&keeper.id().expect("it runs").to_string()).await;
        let command = first_child(&guard).await;
        keeper.signal(signal).await;
        eventually("guard and command have ended", async || is_gone(&guard) && is_gone(&command)).await;
        let opened = open(program, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty());
        assert_eq!(opened.expect_err("it still does not open"), Errno::WOULDBLOCK);
        held.kill().await.unwrap();
        keeper.signal("CONT").await;
        drop(keeper);
        fs::write(program, "").expect("no one executes it");
        assert!(!made.exists(), "it was executed");
    }
}

#[tokio::test]
async fn what_was_there_before_lease_keeper_is_not_ended_with_the_command() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let keys = [("AWS_ACCESS_KEY_ID", emulator.key.as_str()), ("AWS_SECRET_ACCESS_KEY", &emulator.key)];
    let proxy = Proxy::start(&emulator.url).await;
    let arguments = ["--", "sh", "-c", "echo child of $(cat /proc/$PPID/comm) $PPID; sleep 600"];
    let keeper = keeper::command(&proxy.url, &config("site-a", ""), &keys, &arguments);
    let mut shell = Command::new("sh");
    shell.args(["-c", "sleep 600 & echo runs as $!; exec \"$0\" \"$@\""]).kill_on_drop(true);
    shell.arg(keeper.as_std().get_program()).args(keeper.as_std().get_args());
    shell.env_clear();
    for (name, value) in keeper.as_std().get_envs() {
        shell.env(name, value.expect("it has a value"));
    }
    let mut keeper = Keeper::of(proxy, keeper::collect(&mut shell)).await;
    let helper = runs_as(&keeper).await;
    // As pgrep and ps show it.
    keeper.says("child of lease-keeper").await;
    keeper.signal("TERM").await;
    assert_eq!(keeper.ended().await.code(), Some(0));
    assert!(!is_gone(&helper), "it was killed");
    kill_process(pid(&helper), Signal::KILL).expect("it runs");
}
