//! The listeners of `lease-keeper`: what they answer to whom, and that hostile callers do not silence them.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, getuid, prlimit, setrlimit};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::process::Command;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::command::eventually;
use crate::support::emulator::Emulator;
use crate::support::keeper::{Keeper, Observer, collect, config, create_table, get, spawn};
use crate::support::program::program;
use crate::support::proxy::{Fault, PATIENCE};

/// How many hostile connections a listener receives.
const HOSTILE: usize = 1_000;
/// The most that a keeper's memory may grow, in kB. An artifact uses 6 MB before, so it stays below 24 MB; a debug build
/// is larger from the start.
const GROWTH: u64 = 12 * 1024;
/// The most descriptors of a keeper with two listeners that are attacked: 256 connections and 16 streams for each.
const DESCRIPTORS: usize = 2 * (256 + 16) + 40;

/// What hostile callers do.
#[derive(Clone, Copy, Debug)]
enum Hostile {
    /// They send nothing.
    Idle,
    /// They do not finish the request's head.
    UnfinishedHead,
    /// They send a head without an end.
    EndlessHead,
    /// They send a body without an end.
    EndlessBody,
    /// They send request after request, and read no answer.
    Pipelining,
    /// They do not read the answer.
    Reading,
    /// They subscribe to events, and do not read them.
    Subscribing,
}

const HOSTILES: [Hostile; 7] = [
    Hostile::Idle,
    Hostile::UnfinishedHead,
    Hostile::EndlessHead,
    Hostile::EndlessBody,
    Hostile::Pipelining,
    Hostile::Reading,
    Hostile::Subscribing,
];

/// A thread with hostile connections. Dropped, it closes them.
struct Attack {
    open: watch::Receiver<usize>,
    expected: usize,
    _stop: oneshot::Sender<()>,
}

// === impl Hostile ===

impl Hostile {
    /// What a connection sends first.
    fn opening(self) -> String {
        match self {
            Self::Idle => String::new(),
            Self::UnfinishedHead => {
                format!("GET /leader HTTP/1.1\r\nHost: keeper\r\nX-Filler: {}", "x".repeat(8000))
            }
            Self::EndlessHead => "GET /leader HTTP/1.1\r\nHost: keeper\r\n".to_owned(),
            Self::EndlessBody => {
                "GET /leader HTTP/1.1\r\nHost: keeper\r\nContent-Length: 1000000000000\r\n\r\n".to_owned()
            }
            Self::Pipelining | Self::Reading => "GET /metrics HTTP/1.1\r\nHost: keeper\r\n\r\n".to_owned(),
            Self::Subscribing => {
                "GET /state HTTP/1.1\r\nHost: keeper\r\nAccept: text/event-stream\r\n\r\n".to_owned()
            }
        }
    }

    /// What it sends again and again, until its connection is ended.
    fn repeated(self) -> Option<String> {
        match self {
            Self::EndlessHead => Some("X-Filler: x\r\n".repeat(100)),
            Self::EndlessBody => Some("x".repeat(1000)),
            Self::Pipelining => Some(self.opening().repeat(20)),
            Self::Idle | Self::UnfinishedHead | Self::Reading | Self::Subscribing => None,
        }
    }
}

// === impl Attack ===

impl Attack {
    /// Opens the connections to each of the addresses, in turn.
    fn start(addresses: &[&str], hostile: Hostile) -> Self {
        let targets: Vec<String> = addresses.iter().map(|&address| address.to_owned()).collect();
        let expected = HOSTILE * targets.len();
        let (opened, open) = watch::channel(0);
        let (stop, stopped) = oneshot::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime starts").block_on(async move {
                let mut connections = JoinSet::new();
                for number in 0..expected {
                    let target = &targets[number % targets.len()];
                    connections.spawn(hold(connect(target).await, hostile));
                    opened.send_replace(number + 1);
                }
                // The sender is dropped with the attack.
                let _ = stopped.await;
            });
        });
        Self { open, expected, _stop: stop }
    }

    fn is_coming(&self) -> bool {
        *self.open.borrow() < self.expected
    }

    async fn has_come(&mut self) {
        let come = timeout(PATIENCE, self.open.wait_for(|open| *open == self.expected)).await;
        come.expect("all connect").expect("the attackers do not panic");
    }
}

/// A connection with a small buffer for what it receives.
async fn connect(address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("there are enough descriptors");
    socket.set_recv_buffer_size(4096).expect("a small buffer is possible");
    let address = address.parse().expect("it is an address");
    timeout(PATIENCE, socket.connect(address)).await.expect("it connects").expect("it is not refused")
}

/// Does what is hostile, and then keeps the connection open.
async fn hold(mut stream: TcpStream, hostile: Hostile) {
    // The keeper may have ended the connection already.
    let mut is_open = stream.write_all(hostile.opening().as_bytes()).await.is_ok();
    if let Some(repeated) = hostile.repeated() {
        while is_open {
            is_open = stream.write_all(repeated.as_bytes()).await.is_ok();
        }
    }
    std::future::pending::<()>().await;
}

/// A keeper that listens for probes as well, and the address for them.
async fn keeper_with_probes(emulator: &Emulator, name: &str) -> (Keeper, String) {
    let keeper = Keeper::start_with(emulator, name, "", &["--probes", "127.0.0.1:0"]).await;
    let started: Value = serde_json::from_str(&keeper.says("\"starting\"").await).expect("it is JSON");
    let probes = started["probes"].as_str().expect("it says where it listens").to_owned();
    (keeper, probes)
}

/// What is answered, which must come.
async fn ask(address: &str, path: &str) -> (u16, String) {
    let answer = timeout(PATIENCE, get(address, path)).await;
    answer.expect("an answer comes").unwrap_or_else(|error| panic!("{address}{path}: {error}"))
}

/// That both listeners answer, and that the keeper has its lease.
async fn answers(keeper: &Keeper, probes: &str, epoch: u64) {
    let leader = format!(r#"{{"active":true,"epoch":{epoch}}}"#);
    assert_eq!(ask(&keeper.address, "/leader").await, (200, leader));
    assert_eq!(ask(&keeper.address, "/healthz").await.0, 200);
    assert_eq!(ask(probes, "/ready").await.0, 200);
    assert_eq!(ask(probes, "/healthz").await.0, 200);
}

/// A field of a process's status, in kB.
fn memory(keeper: &Keeper, field: &str) -> u64 {
    let id = keeper.id().expect("it runs");
    let status =
        fs::read_to_string(format!("/proc/{id}/status")).expect("Linux has a status of each process");
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let value = value.and_then(|value| value.trim().strip_suffix(" kB")).expect("there is the field");
    value.trim().parse().expect("it is a number")
}

fn descriptors(keeper: &Keeper) -> usize {
    let id = keeper.id().expect("it runs");
    fs::read_dir(format!("/proc/{id}/fd")).expect("Linux lists the descriptors of each process").count()
}

#[tokio::test]
async fn a_thousand_hostile_connections_of_each_kind_do_not_silence_a_listener() {
    // For the hostile connections to two listeners.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("a process may do that");
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let (keeper, probes) = keeper_with_probes(&emulator, "site-a").await;
    let epoch = Observer::of(&[&keeper]).active(&keeper).await;
    answers(&keeper, &probes, epoch).await;
    let before = memory(&keeper, "VmHWM");
    for hostile in HOSTILES {
        let mut attack = Attack::start(&[&keeper.address, &probes], hostile);
        while attack.is_coming() {
            answers(&keeper, &probes, epoch).await;
        }
        attack.has_come().await;
        for _ in 0..20 {
            answers(&keeper, &probes, epoch).await;
        }
        let (open, used) = (descriptors(&keeper), memory(&keeper, "VmHWM"));
        println!("{hostile:?}: {open} descriptors, {used} kB at most, {before} kB before");
        assert!(open <= DESCRIPTORS, "{hostile:?}: {open} descriptors");
        assert!(used <= before + GROWTH, "{hostile:?}: {used} kB, and {before} kB before");
    }
    let metrics = ask(&probes, "/metrics").await.1;
    for listener in ["service", "probes"] {
        let ended =
            format!("lease_keeper_connections_ended_total{{lease=\"mylease\",listener=\"{listener}\"}} ");
        let ended = metrics.lines().find_map(|line| line.strip_prefix(&ended)).expect("it is counted");
        assert!(ended.parse::<u64>().expect("it is a number") > 0);
    }
    keeper.says("too many connections: the oldest are ended").await;
}

#[tokio::test]
async fn used_up_descriptors_do_not_silence_a_listener() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let (keeper, probes) = keeper_with_probes(&emulator, "site-a").await;
    let epoch = Observer::of(&[&keeper]).active(&keeper).await;
    let id = keeper.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    // Fewer than its listeners assume, and enough for what the keeper itself needs.
    let few = Rlimit { current: Some(64), maximum: Some(64) };
    prlimit(id, Resource::Nofile, few).expect("a child's limit can be lowered");
    let mut idle = Vec::new();
    for _ in 0..128 {
        idle.push(connect(&keeper.address).await);
        idle.push(connect(&probes).await);
    }
    keeper.says("a connection could not be accepted").await;
    for _ in 0..20 {
        answers(&keeper, &probes, epoch).await;
    }
    // It can still open a connection to the table.
    keeper.proxy.all(Fault::CutBefore);
    keeper.states("\"failing\":\"").await;
    keeper.proxy.all(Fault::None);
    keeper.states("\"failing\":null").await;
    drop(idle);
}

#[tokio::test]
async fn probes_are_answered_apart_from_the_service() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let (keeper, probes) = keeper_with_probes(&emulator, "site-a").await;
    assert_eq!(ask(&probes, "/ready").await, (503, r#"{"ready":false}"#.to_owned()));
    assert_eq!(keeper.get("/ready").await, (503, r#"{"ready":false}"#.to_owned()));
    Observer::of(&[&keeper]).active(&keeper).await;
    for address in [&probes, &keeper.address] {
        assert_eq!(ask(address, "/ready").await, (200, r#"{"ready":true}"#.to_owned()));
        assert_eq!(ask(address, "/healthz").await, (200, r#"{"running":true}"#.to_owned()));
        assert!(ask(address, "/metrics").await.1.contains("lease_keeper_active{lease=\"mylease\"} 1.0"));
    }
    for path in ["/leader", "/state", "/"] {
        let known = r#"{"paths":["/healthz","/metrics","/ready"]}"#;
        assert_eq!(ask(&probes, path).await, (404, known.to_owned()), "{path}");
    }
    let (mut process, log) = spawn(("http://127.0.0.1:1", "test"), "site-b", "", &["--probes", &probes]);
    assert_eq!(timeout(PATIENCE, process.wait()).await.expect("it ends").unwrap().code(), Some(1));
    said(log, &format!("--probes {probes}: Address ")).await;
}

/// Waits until a line of the log has this in it.
async fn said(mut log: watch::Receiver<Vec<String>>, text: &str) {
    let said = timeout(PATIENCE, log.wait_for(|lines| lines.iter().any(|line| line.contains(text)))).await;
    assert!(matches!(said, Ok(Ok(_))), "it does not say {text:?}");
}

/// A path for a socket. The tests' folder has a path that may be too long for one.
fn socket_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("lease-keeper-{}-{name}.sock", std::process::id()))
}

async fn ask_socket(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).await.expect("it listens");
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: keeper\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer comes").unwrap();
    answer
}

#[tokio::test]
async fn a_unix_socket_replaces_a_stale_one_and_is_removed_at_the_end() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let path = socket_path("service");
    let listen = format!("unix:{}", path.display());
    // Of a process that was killed.
    drop(UnixListener::bind(&path).expect("the folder can be written"));
    let mut keeper = Keeper::start_with(&emulator, "site-a", "", &["--listen", &listen]).await;
    assert_eq!(keeper.address, listen);
    let mode = fs::metadata(&path).expect("the file is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert!(ask_socket(&path, "GET /healthz").await.starts_with("HTTP/1.1 200 OK\r\n"));
    keeper.says("\"active\"").await;
    assert!(ask_socket(&path, "GET /leader").await.contains("\r\nlease-epoch: "));

    // Someone empties the folder.
    fs::remove_file(&path).expect("it is there");
    keeper.says("the file of the Unix socket was gone: listening on a new one").await;
    assert!(ask_socket(&path, "GET /leader").await.contains("\r\nlease-epoch: "));

    // A second keeper does not take its path.
    let arguments = ["--listen", &listen];
    let (mut process, log) = spawn(("http://127.0.0.1:1", "test"), "site-b", "", &arguments);
    assert_eq!(timeout(PATIENCE, process.wait()).await.expect("it ends").unwrap().code(), Some(1));
    said(log, &format!("--listen {listen}: another process listens there")).await;
    assert!(ask_socket(&path, "HEAD /state").await.starts_with("HTTP/1.1 200 OK\r\n"));

    keeper.signal("TERM").await;
    assert_eq!(keeper.ended().await.code(), Some(0));
    assert_eq!(fs::metadata(&path).unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_holder_that_its_service_cannot_ask_releases_the_lease_until_it_can() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let folder = socket_path("folder");
    fs::create_dir(&folder).expect("the folder can be written");
    let path = folder.join("keeper.sock");
    let listen = format!("unix:{}", path.display());
    let arguments = ["--listen", &listen, "--probes", "127.0.0.1:0"];
    let keeper = Keeper::start_with(&emulator, "site-a", "", &arguments).await;
    let started: Value = serde_json::from_str(&keeper.says("\"starting\"").await).expect("it is JSON");
    let probes = started["probes"].as_str().expect("it says where it listens").to_owned();
    keeper.says("\"active\"").await;

    // As systemd does when another unit with this RuntimeDirectory stops.
    fs::remove_dir_all(&folder).expect("it is there");
    let why =
        "it releases the lease: the file of its Unix socket is gone, and cannot be created: No such file";
    keeper.says(why).await;
    keeper.says("\"released\"").await;
    assert_eq!(ask(&probes, "/ready").await.0, 503);
    assert!(ask(&probes, "/metrics").await.1.contains("lease_keeper_unwilling{lease=\"mylease\"} 1.0"));

    fs::create_dir(&folder).expect("the folder can be written");
    eventually("it is active again", async || ask(&probes, "/ready").await.0 == 200).await;
    assert!(ask_socket(&path, "GET /leader").await.contains("\r\nlease-epoch: "));
    assert!(ask(&probes, "/metrics").await.1.contains("lease_keeper_unwilling{lease=\"mylease\"} 0.0"));
    drop(keeper);
    fs::remove_dir_all(&folder).expect("it is this test's");
}

#[tokio::test]
async fn a_listener_that_has_started_needs_no_thread_for_which_there_may_be_no_room() {
    let folder = socket_path("crowded");
    fs::create_dir(&folder).expect("the folder can be written");
    // Any user may read what is needed.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("it is this test's");
    let (copy, file) = (folder.join("lease-keeper"), folder.join("lease.yaml"));
    fs::copy(program("lease-keeper"), &copy).expect("the folder can be written");
    fs::copy(config("site-a", ""), &file).expect("the folder can be written");
    // Root has no such limit, and of another user only the keeper's own threads count.
    let is_root = getuid().is_root();
    for most in [3, 4, 5, 6, 100] {
        let path = folder.join(format!("{most}.sock"));
        let mut keeper = Command::new("prlimit");
        keeper.arg(format!("--nproc={most}"));
        if is_root {
            let user = 1_000_000 + std::process::id() * 10 + most % 10;
            keeper.args([
                "setpriv",
                "--clear-groups",
                &format!("--reuid={user}"),
                &format!("--regid={user}"),
            ]);
        }
        keeper.arg(&copy).arg("--config").arg(&file).arg(format!("--listen=unix:{}", path.display()));
        let keys = [("AWS_ENDPOINT_URL", "http://127.0.0.1:1"), ("AWS_ACCESS_KEY_ID", "key")];
        keeper.envs(keys).env("AWS_SECRET_ACCESS_KEY", "key").kill_on_drop(true);
        let (mut process, log) = collect(&mut keeper);
        let starts = {
            let mut log = log.clone();
            async move {
                log.wait_for(|lines| lines.iter().any(|line| line.contains("\"starting\""))).await.is_ok()
            }
        };
        let has_started = timeout(PATIENCE, starts).await.expect("it starts or it ends");
        assert!(has_started || most < 100, "{:#?}", log.borrow());
        if has_started {
            // Its first look at the socket's file is over.
            sleep(Duration::from_millis(500)).await;
            let is_heard = UnixStream::connect(&path).await.is_ok();
            assert!(is_heard || process.try_wait().unwrap().is_some(), "{most}: {:#?}", log.borrow());
        }
        let _ = process.kill().await;
    }
    fs::remove_dir_all(&folder).expect("it is this test's");
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_kept() {
    let path = socket_path("file");
    fs::write(&path, "precious").expect("the folder can be written");
    let listen = format!("unix:{}", path.display());
    let (mut process, log) = spawn(("http://127.0.0.1:1", "test"), "site-a", "", &["--listen", &listen]);
    assert_eq!(timeout(PATIENCE, process.wait()).await.expect("it ends").unwrap().code(), Some(1));
    said(log, "there is a file that is not a socket").await;
    assert_eq!(fs::read_to_string(&path).expect("it is there"), "precious");
    fs::remove_file(&path).expect("it is this test's");
}

/// The states that a keeper reports, one after the other.
struct States(Lines<BufReader<TcpStream>>);

// === impl States ===

impl States {
    async fn of(keeper: &Keeper) -> Self {
        let mut stream = TcpStream::connect(&keeper.address).await.expect("it listens");
        stream.write_all(Hostile::Subscribing.opening().as_bytes()).await.expect("it reads");
        Self(BufReader::new(stream).lines())
    }

    /// The next one, or `None` when the stream has ended.
    async fn next(&mut self) -> Option<Value> {
        let state = async {
            loop {
                // A stream that is ended to make room may end with an error.
                let line = self.0.next_line().await.ok()??;
                if let Some(state) = line.strip_prefix("data: ") {
                    return Some(serde_json::from_str(state).expect("a state is JSON"));
                }
            }
        };
        timeout(PATIENCE, state).await.expect("the next state comes")
    }

    /// The next one that is active, or is not.
    async fn until(&mut self, is_active: bool) -> Value {
        loop {
            let state = self.next().await.expect("the stream continues");
            if state["active"] == is_active {
                return state;
            }
        }
    }
}

#[tokio::test]
async fn every_change_comes_as_an_event_until_the_keeper_ends() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let holder = Keeper::start(&emulator, "site-a").await;
    let mut of_holder = States::of(&holder).await;
    assert_eq!(of_holder.next().await.expect("the state comes at once")["active"], false);
    let first = of_holder.until(true).await;
    let mut contender = Keeper::start(&emulator, "site-b").await;
    let mut of_contender = States::of(&contender).await;
    contender.states("it is site-a's").await;

    holder.proxy.all(Fault::Lost);
    let lost = of_holder.until(false).await;
    assert_eq!((&lost["epoch"], &lost["leaving"]), (&Value::Null, &Value::Bool(false)));
    let second = of_contender.until(true).await;
    assert!(second["epoch"].as_u64() > first["epoch"].as_u64(), "{second}");

    contender.signal("TERM").await;
    assert_eq!(of_contender.until(false).await["leaving"], true);
    contender.ended().await;
    while of_contender.next().await.is_some() {}
}

#[tokio::test]
async fn of_too_many_streams_of_events_the_oldest_is_ended() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let keeper = Keeper::start(&emulator, "site-a").await;
    let mut streams = Vec::new();
    for _ in 0..16 {
        let mut states = States::of(&keeper).await;
        states.next().await.expect("the state comes at once");
        streams.push(states);
    }
    let mut newest = States::of(&keeper).await;
    newest.next().await.expect("there is a place for a new one");
    while streams[0].next().await.is_some() {}
    newest.until(true).await;
    for states in &mut streams[1..] {
        states.until(true).await;
    }
}
