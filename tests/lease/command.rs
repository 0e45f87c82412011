//! The command that runs while the lease is held, and the check of the service beside.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::configuration::Home;
use crate::support::docs::words_below;
use crate::support::emulator::Emulator;
use crate::support::keeper::{Keeper, Observer, create_table, pin, record};
use crate::support::primary::Primary;
use crate::support::proxy::{Fault, PATIENCE};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{interval, timeout};

/// Works until it is killed: TERM does not end it.
pub(crate) const STUBBORN: &str = "trap \"\" TERM; echo runs as $$; while :; do sleep 0.05; done";

/// The process that the command says it is.
pub(crate) async fn runs_as(keeper: &Keeper) -> String {
    let said = keeper.says("runs as").await;
    said.rsplit(' ').next().expect("it ends with a number").to_owned()
}

/// Whether a process has ended, or is at least dead.
pub(crate) fn is_gone(id: &str) -> bool {
    let stat = fs::read(format!("/proc/{id}/stat"));
    stat.map_or(true, |stat| stat.windows(4).any(|bytes| bytes == b") Z "))
}

/// The zombies whose parent is one of these.
fn zombies_of(parents: &[u32]) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let processes = processes.filter_map(|entry| fs::read(entry.path().join("stat")).ok());
    let processes = processes.map(|stat| String::from_utf8_lossy(&stat).into_owned());
    let is_one = |stat: &String| {
        let mut fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
        let (state, parent) = (fields.next(), fields.next().and_then(|parent| parent.parse().ok()));
        state == Some("Z") && parent.is_some_and(|parent: u32| parents.contains(&parent))
    };
    processes.filter(is_one).count()
}

pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let mut ticks = interval(Duration::from_millis(20));
    let so = async {
        while !is_so().await {
            ticks.tick().await;
        }
    };
    timeout(PATIENCE, so).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A holder that runs this command, and a contender without one.
async fn holder_with(emulator: &Emulator, command: &str) -> (Keeper, Keeper, Observer) {
    create_table(emulator).await;
    let holder = Keeper::start_with(emulator, "site-a", "", &["--", "sh", "-c", command]).await;
    let mut observer = Observer::of(&[&holder]);
    observer.active(&holder).await;
    let contender = Keeper::start(emulator, "site-b").await;
    observer.add(&contender);
    contender.states("it is site-a's").await;
    (holder, contender, observer)
}

#[tokio::test]
async fn no_descendant_works_beside_the_next_holder_wherever_it_hides() {
    for hidden in [
        // Another session, another process group, an orphan of a parent that has ended, and all of that.
        format!("setsid sh -c '{STUBBORN}' & wait"),
        format!("timeout 600 sh -c '{STUBBORN}'"),
        format!("(sh -c '{STUBBORN}' &); sleep 600"),
        format!("(setsid sh -c '{STUBBORN}' &); exec sleep 600"),
    ] {
        let emulator = Emulator::ministack().await;
        let (holder, contender, observer) = holder_with(&emulator, &hidden).await;
        let id = &runs_as(&holder).await;
        assert!(!is_gone(id), "{hidden}");
        holder.proxy.all(Fault::Lost);
        observer.active(&contender).await;
        assert!(is_gone(id), "it works beside the next one: {hidden}");
        holder.says("\"the command was ended\"").await;
        observer.vouch();
    }
}

#[tokio::test]
async fn a_descendant_of_a_keeper_that_is_killed_ends_with_it() {
    let emulator = Emulator::ministack().await;
    let hidden = format!("(setsid sh -c '{STUBBORN}' &); exec sleep 600");
    let (mut holder, _contender, _observer) = holder_with(&emulator, &hidden).await;
    let id = &runs_as(&holder).await;
    holder.signal("KILL").await;
    holder.ended().await;
    eventually("it is gone", async || is_gone(id)).await;
}

#[tokio::test]
async fn a_worker_behind_a_shell_has_time_to_finish() {
    let emulator = Emulator::ministack().await;
    let worker = "sh -c 'trap \"sleep 0.3; echo finished; exit\" TERM; echo works; while :; do sleep 0.05; done' & wait";
    let (mut holder, contender, observer) = holder_with(&emulator, worker).await;
    holder.says("works").await;
    holder.signal("TERM").await;
    holder.says("finished").await;
    assert_eq!(holder.ended().await.code(), Some(0));
    observer.active(&contender).await;
    observer.vouch();
}

#[tokio::test]
async fn the_lease_is_renewed_while_the_command_takes_longer_than_a_term_to_end() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    // The term is 3 s.
    let slow = "trap 'sleep 5; echo finished; exit' TERM; echo works; while :; do sleep 0.05; done";
    let arguments = ["--stop", "20", "--", "sh", "-c", slow];
    let mut holder = Keeper::start_with(&emulator, "site-a", "", &arguments).await;
    let mut observer = Observer::of(&[&holder]);
    observer.active(&holder).await;
    holder.says("works").await;
    let contender = Keeper::start(&emulator, "site-b").await;
    observer.add(&contender);
    contender.states("it is site-a's").await;
    holder.signal("TERM").await;
    observer.passive(&holder).await;
    holder.states("\"ending\":true").await;
    holder.says("finished").await;
    assert_eq!(observer.losses(&contender), 0);
    assert_eq!(contender.state().await["active"], false, "work has only just ended");
    assert_eq!(holder.ended().await.code(), Some(0));
    observer.active(&contender).await;
    observer.vouch();
}

#[tokio::test]
async fn a_command_that_does_not_end_in_the_time_to_stop_is_killed() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let arguments = ["--stop", "1", "--", "sh", "-c", STUBBORN];
    let mut holder = Keeper::start_with(&emulator, "site-a", "", &arguments).await;
    let observer = Observer::of(&[&holder]);
    observer.active(&holder).await;
    let id = &runs_as(&holder).await;
    holder.signal("TERM").await;
    holder.says("it was killed").await;
    holder.ended().await;
    assert!(is_gone(id));
}

#[tokio::test]
async fn a_worker_behind_a_shell_has_longer_than_a_term_to_finish() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let worker =
        "sh -c 'trap \"sleep 5; echo finished; exit\" TERM; echo works; while :; do sleep 0.05; done' & wait";
    let mut holder =
        Keeper::start_with(&emulator, "site-a", "", &["--stop", "20", "--", "sh", "-c", worker]).await;
    let observer = Observer::of(&[&holder]);
    observer.active(&holder).await;
    holder.says("works").await;
    holder.signal("TERM").await;
    holder.says("finished").await;
    assert_eq!(holder.ended().await.code(), Some(0));
    assert_eq!(record(&emulator).await["leaseReleased"]["BOOL"], true);
}

#[tokio::test]
async fn a_command_that_has_to_end_has_no_more_time_when_the_lease_is_won_back() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    // A grace of a second, in which the lease is renewed again.
    let more = "  failureThreshold: 4\n  graceInMilliseconds: 1500\n  longestTermInSeconds: 4\n";
    let holder =
        Keeper::start_with(&emulator, "site-a", more, &["--stop", "600", "--", "sh", "-c", STUBBORN]).await;
    let observer = Observer::of(&[&holder]);
    observer.active(&holder).await;
    let id = &runs_as(&holder).await;
    holder.proxy.all(Fault::Lost);
    observer.passive(&holder).await;
    holder.proxy.all(Fault::None);
    eventually("it is killed", async || is_gone(id)).await;
    // And it is started anew.
    observer.active(&holder).await;
    observer.vouch();
}

#[tokio::test]
async fn a_command_that_is_ending_under_a_lost_lease_keeps_its_time_after_a_signal() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let slow = "trap 'sleep 2; echo finished; exit' TERM; echo works; while :; do sleep 0.05; done";
    let more = "  failureThreshold: 8\n  longestTermInSeconds: 8\n";
    let mut holder = Keeper::start_with(&emulator, "site-a", more, &["--", "sh", "-c", slow]).await;
    let observer = Observer::of(&[&holder]);
    observer.active(&holder).await;
    holder.says("works").await;
    pin(&emulator).await;
    observer.passive(&holder).await;
    holder.signal("TERM").await;
    holder.says("finished").await;
    assert_eq!(holder.ended().await.code(), Some(0));
}

#[tokio::test]
async fn orphans_that_have_ended_are_reaped() {
    let emulator = Emulator::ministack().await;
    let orphans =
        "for number in 1 2 3 4 5 6 7 8 9; do (sh -c 'exit 0' &); done; echo made $PPID; exec sleep 600";
    let (holder, _contender, _observer) = holder_with(&emulator, orphans).await;
    let said = holder.says("made").await;
    let guard = said.rsplit(' ').next().unwrap().parse().unwrap();
    let keeper = holder.id().unwrap();
    eventually("no zombie is left", async || zombies_of(&[guard, keeper]) == 0).await;
}

/// A lower bound holds however slow the machine is.
#[tokio::test]
async fn a_lease_is_not_released_before_those_who_have_just_read_that_it_is_held_had_their_grace() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let more = "  failureThreshold: 20\n  graceInMilliseconds: 2000\n  longestTermInSeconds: 20\n";
    let mut holder = Keeper::start_with(&emulator, "site-a", more, &[]).await;
    Observer::of(&[&holder]).active(&holder).await;
    let asked = Instant::now();
    holder.signal("TERM").await;
    eventually("it is released", async || record(&emulator).await["leaseReleased"]["BOOL"] == true).await;
    assert!(asked.elapsed() >= Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_eq!(holder.ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_state_shows_whether_the_command_runs() {
    let emulator = Emulator::ministack().await;
    let (holder, contender, _observer) = holder_with(&emulator, STUBBORN).await;
    let state = holder.states("\"running\":true").await;
    assert!(state["command"]["since"].as_i64().is_some_and(|since| since > 1_700_000_000), "{state}");
    assert_eq!(contender.state().await["command"], json!(null), "it has none");
    holder.proxy.all(Fault::Lost);
    holder.states("\"running\":false").await;
}

#[tokio::test]
async fn a_site_whose_service_is_dead_gives_the_lease_up_and_takes_it_again_when_it_is_healthy() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let service = Primary::start("/healthz").await;
    let url = format!("http://{}/healthz", service.address);
    let documented = words_below("lease.md", "## Check the service", ("http://127.0.0.1:8080/healthz", &url));
    let [_, _, _, check, url] = &documented[..] else { panic!("{documented:?}") };
    let check = [check, url, "--check-every", "1", "--check-failures", "2", "--check-successes", "2"];
    service.set_up(false);
    let first = Keeper::start_with(&emulator, "site-a", "", &check).await;
    let mut observer = Observer::of(&[&first]);
    first.states("has not been seen healthy yet: status 503").await;
    first.says("the service has not been seen healthy yet").await;
    // The first success counts, although two would have to later.
    service.set_up(true);
    observer.active(&first).await;
    let second = Keeper::start(&emulator, "site-b").await;
    observer.add(&second);
    second.states("it is site-a's").await;

    service.set_up(false);
    observer.active(&second).await;
    let state = first.states("the service is unhealthy: status 503").await;
    assert_eq!(state["active"], false, "{state}");
    // As long as it is, it takes nothing.
    second.signal("TERM").await;
    eventually("it is released", async || record(&emulator).await["leaseReleased"]["BOOL"] == true).await;
    first.proxy.arrived("GetItem", 3).await;
    assert_eq!(first.state().await["active"], false);
    service.set_up(true);
    observer.active(&first).await;
    observer.vouch();
}

#[tokio::test]
async fn a_service_that_never_comes_to_its_answer_is_unhealthy() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/healthz", service.local_addr().unwrap());
    let (fail, fails) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = service.accept().await {
            let fails = *fails.borrow();
            tokio::spawn(async move {
                while fails && stream.write_all(&b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1000)).await.is_ok()
                {
                }
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            });
        }
    });
    let check = ["--check", &url, "--check-every", "1", "--check-failures", "2"];
    let mut holder = Keeper::start_with(&emulator, "site-a", "", &check).await;
    Observer::of(&[&holder]).active(&holder).await;
    fail.send_replace(true);
    holder.says("the service is unhealthy").await;
    let passive = holder.says("\"passive\"").await;
    assert!(passive.contains("it releases the lease"), "it was not starved meanwhile: {passive}");
    eventually("it is released", async || record(&emulator).await["leaseReleased"]["BOOL"] == true).await;
    holder.signal("TERM").await;
    assert_eq!(holder.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_command_that_is_unhealthy_is_ended_and_another_site_goes_first() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let home = Home::new();
    let (sick, seen) = (home.path("sick"), home.path("seen"));
    let script = home.write("check.sh", "[ ! -e $1 ] && echo >$2\n");
    let check = format!("sh {script} {sick} {seen}");
    let arguments = [
        "--check",
        &check,
        "--check-every",
        "1",
        "--check-failures",
        "2",
        "--",
        "sh",
        "-c",
        "echo works; exec sleep 600",
    ];
    let first = Keeper::start_with(&emulator, "site-a", "", &arguments).await;
    let mut observer = Observer::of(&[&first]);
    observer.active(&first).await;
    let second = Keeper::start(&emulator, "site-b").await;
    observer.add(&second);
    second.states("it is site-a's").await;
    // Failures count from the first success on, which has been taken note of when the next check runs.
    for _ in 0..2 {
        eventually("it is checked", async || Path::new(&seen).exists()).await;
        fs::remove_file(&seen).unwrap();
    }
    fs::write(&sick, "").unwrap();
    first.says("the command is unhealthy").await;
    observer.active(&second).await;
    assert_eq!(first.said("\"the command runs\""), 1, "the other site goes first");
    fs::remove_file(&sick).unwrap();
    observer.vouch();
}
