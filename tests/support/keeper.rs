//! `lease-keeper` processes around one table, each behind a proxy of its own, and an observer that asks them all
//! the time which of them is active.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use failover::lease::claim::NOBODY_MAY;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use super::emulator::{Emulator, path};
use super::program::program;
use super::proxy::{PATIENCE, Proxy};

pub const TABLE: &str = "admiral-lease";
pub const LEASE: &str = "mylease";

/// A table for leases.
pub async fn create_table(emulator: &Emulator) {
    let key = "AttributeName=leaseName,AttributeType=S";
    let schema = "AttributeName=leaseName,KeyType=HASH";
    let create = ["dynamodb", "create-table", "--table-name", TABLE, "--billing-mode", "PAY_PER_REQUEST"];
    let keys = ["--attribute-definitions", key, "--key-schema", schema];
    emulator.aws(&[&create[..], &keys].concat()).await;
}

/// The record as it is in the table.
pub async fn record(emulator: &Emulator) -> Value {
    let key = json!({ "leaseName": { "S": LEASE } }).to_string();
    let get = ["dynamodb", "get-item", "--table-name", TABLE, "--key", &key, "--consistent-read"];
    emulator.aws(&get).await["Item"].clone()
}

/// Writes the four attributes that Admiral's checker, or a person, writes, and nothing else.
pub async fn put(emulator: &Emulator, owner: &str, updated_time: &str) {
    let item = json!({
        "leaseName": { "S": LEASE },
        "leaseOwner": { "S": owner },
        "updatedTime": { "N": updated_time },
        "notes": { "S": "by hand" },
    });
    emulator.aws(&["dynamodb", "put-item", "--table-name", TABLE, "--item", &item.to_string()]).await;
}

/// Pins the lease: keeps all candidates passive.
pub async fn pin(emulator: &Emulator) {
    put(emulator, NOBODY_MAY, "0").await;
}

/// A candidate's configuration, with further lines: a period of one second and a term of three, unless these set others.
pub fn config(name: &str, more: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let file = format!("lease-{}-{number}.yaml", std::process::id());
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
    let defaults = [("waitTimeInSeconds", 1), ("failureThreshold", 3), ("longestTermInSeconds", 3)];
    let defaults = defaults.into_iter().filter(|(key, _)| !more.contains(key));
    let defaults: Vec<_> = defaults.map(|(key, value)| format!("  {key}: {value}")).collect();
    let config = format!(
        "dynamoDB:\n  leaseName: {LEASE}\n  podIdentifier: {name}\n  tableName: {TABLE}\n  region: us-east-1\n{}\n{more}",
        defaults.join("\n")
    );
    fs::write(&file, config).expect("target/tmp can be written");
    file
}

/// A running keeper. Dropped, it is killed.
pub struct Keeper {
    pub proxy: Proxy,
    /// Where it answers.
    pub address: String,
    process: Child,
    log: watch::Receiver<Vec<String>>,
}

// === impl Keeper ===

impl Keeper {
    /// A candidate of this name.
    pub async fn start(emulator: &Emulator, name: &str) -> Self {
        Self::start_with(emulator, name, "", &[]).await
    }

    /// The same, with further lines of the configuration, and arguments.
    pub async fn start_with(emulator: &Emulator, name: &str, more: &str, arguments: &[&str]) -> Self {
        Self::start_behind(&emulator.url, emulator, name, more, arguments).await
    }

    /// The same, with a proxy between it and the emulator.
    pub async fn start_behind(
        upstream: &str,
        emulator: &Emulator,
        name: &str,
        more: &str,
        arguments: &[&str],
    ) -> Self {
        let proxy = Proxy::start(upstream).await;
        let spawned = spawn((&proxy.url, &emulator.key), name, more, arguments);
        Self::of(proxy, spawned).await
    }

    /// A keeper that was spawned behind this proxy, as soon as it listens.
    pub async fn of(proxy: Proxy, (process, log): (Child, watch::Receiver<Vec<String>>)) -> Self {
        let mut keeper = Self { proxy, address: String::new(), process, log };
        let started = keeper.says("\"starting\"").await;
        let started: Value = serde_json::from_str(&started).expect("log lines are JSON");
        started["listen"].as_str().expect("it says where it listens").clone_into(&mut keeper.address);
        keeper
    }

    /// A log line that has all of this in it, as soon as there is one.
    pub async fn says(&self, text: &str) -> String {
        let mut log = self.log.clone();
        let find = |lines: &[String]| lines.iter().find(|line| line.contains(text)).cloned();
        let said = timeout(PATIENCE, log.wait_for(|lines| find(lines).is_some())).await;
        match said {
            Ok(Ok(lines)) => find(&lines).expect("it was waited for"),
            _ => panic!("it does not say {text:?}: {:#?}", self.log.borrow()),
        }
    }

    /// How many log lines so far have this in them.
    pub fn said(&self, text: &str) -> usize {
        self.log.borrow().iter().filter(|line| line.contains(text)).count()
    }

    /// Sends a signal, by its name.
    pub async fn signal(&self, name: &str) {
        let id = self.process.id().expect("it runs").to_string();
        let sent = Command::new("sh").args(["-c", r#"kill -s "$0" "$1""#, name, &id]).status().await;
        let sent = sent.expect("sh is there");
        assert!(sent.success(), "{name} cannot be sent");
    }

    /// Its process's number, as long as it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.process.wait()).await.expect("it ends").expect("it was started")
    }

    /// What it answers on a path: the status, and the body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        get(&self.address, path).await.expect("it answers")
    }

    pub async fn state(&self) -> Value {
        serde_json::from_str(&self.get("/state").await.1).expect("the state is JSON")
    }

    /// Waits until the state has this in it.
    pub async fn states(&self, text: &str) -> Value {
        let mut ticks = interval(Duration::from_millis(20));
        let stated = async {
            loop {
                ticks.tick().await;
                let state = self.state().await;
                if state.to_string().contains(text) {
                    return state;
                }
            }
        };
        timeout(PATIENCE, stated).await.unwrap_or_else(|_| panic!("its state never has {text:?}"))
    }
}

/// Starts a keeper whose AWS is at this URL, with this key, and collects what it logs. It may not come to listening.
pub fn spawn(
    (url, key): (&str, &str),
    name: &str,
    more: &str,
    arguments: &[&str],
) -> (Child, watch::Receiver<Vec<String>>) {
    let file = config(name, more);
    let keys = [("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", key)];
    spawn_with(url, &file, &keys, arguments)
}

/// A keeper whose AWS is at this URL, with this configuration file and these variables.
pub fn command(url: &str, file: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Command {
    let listen: &[_] = if arguments.contains(&"--listen") { &[] } else { &["--listen", "127.0.0.1:0"] };
    let mut command = Command::new(program("lease-keeper"));
    command
        .args(["--config", file.to_str().expect("its name is UTF-8")])
        .args(listen)
        .args(arguments)
        .env_clear()
        .env("AWS_ENDPOINT_URL", url)
        .envs(variables.iter().copied())
        .env("PATH", path())
        .kill_on_drop(true);
    command
}

/// Starts a keeper whose AWS is at this URL, with this configuration file and these variables, and collects what it logs.
pub fn spawn_with(
    url: &str,
    file: &Path,
    variables: &[(&str, &str)],
    arguments: &[&str],
) -> (Child, watch::Receiver<Vec<String>>) {
    collect(&mut command(url, file, variables, arguments))
}

/// Starts this keeper, and collects what it logs.
pub fn collect(command: &mut Command) -> (Child, watch::Receiver<Vec<String>>) {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = piped.spawn().expect("lease-keeper starts");
    let (lines, log) = watch::channel(Vec::new());
    let mut out = BufReader::new(process.stdout.take().expect("it is piped")).lines();
    let mut err = BufReader::new(process.stderr.take().expect("it is piped")).lines();
    tokio::spawn(async move {
        let (mut out_open, mut err_open) = (true, true);
        while out_open || err_open {
            let line = tokio::select! {
                line = out.next_line(), if out_open => { out_open = matches!(line, Ok(Some(_))); line }
                line = err.next_line(), if err_open => { err_open = matches!(line, Ok(Some(_))); line }
            };
            if let Ok(Some(line)) = line {
                lines.send_modify(|lines| lines.push(line));
            }
        }
    });
    (process, log)
}

/// Asks once, on a connection of its own.
pub async fn get(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: keeper\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    status.zip(body).ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
}

/// Asks keepers all the time whether they are active, and notices if two are at once.
///
/// An answer 200 carries the epoch. Once one has come, every request that is *sent after it* and answered 200 must
/// carry the same epoch from the same keeper, or a higher one: otherwise the previous
/// active keeper is still active, beside the next one.
pub struct Observer {
    seen: watch::Sender<Seen>,
    asking: JoinSet<()>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    /// The epoch of each active keeper, by its address.
    active: BTreeMap<String, u64>,
    /// How often each keeper was seen passive after it was active.
    lost: BTreeMap<String, usize>,
    /// The highest epoch so far, and whose it is.
    highest: (u64, String),
    wrong: Option<String>,
}

// === impl Observer ===

impl Observer {
    /// Asks these keepers.
    pub fn of(keepers: &[&Keeper]) -> Self {
        let mut observer = Self { seen: watch::Sender::default(), asking: JoinSet::new() };
        for keeper in keepers {
            observer.add(keeper);
        }
        observer
    }

    /// Also asks this keeper.
    pub fn add(&mut self, keeper: &Keeper) {
        let (seen, address) = (self.seen.clone(), keeper.address.clone());
        self.asking.spawn(async move {
            let mut ticks = interval(Duration::from_millis(10));
            loop {
                ticks.tick().await;
                ask(&seen, &address).await;
            }
        });
    }

    /// Waits until this keeper is active: the epoch.
    pub async fn active(&self, keeper: &Keeper) -> u64 {
        let address = &keeper.address;
        self.until(&format!("{address} is active"), |seen| seen.active.get(address).copied()).await
    }

    /// Waits until this keeper is passive.
    pub async fn passive(&self, keeper: &Keeper) {
        let address = &keeper.address;
        let passive = |seen: &Seen| (!seen.active.contains_key(address)).then_some(());
        self.until(&format!("{address} is passive"), passive).await;
    }

    /// How often this keeper was seen to lose the lease.
    pub fn losses(&self, keeper: &Keeper) -> usize {
        self.seen.borrow().lost.get(&keeper.address).copied().unwrap_or_default()
    }

    /// Waits until any keeper is active: the epoch.
    pub async fn anyone(&self) -> u64 {
        self.until("anyone is active", |seen| seen.active.values().max().copied()).await
    }

    /// That two have never been active at once, so far.
    pub fn vouch(&self) {
        assert_eq!(self.seen.borrow().wrong, None);
    }

    async fn until<T>(&self, what: &str, wanted: impl Fn(&Seen) -> Option<T>) -> T {
        let mut seen = self.seen.subscribe();
        let come = timeout(PATIENCE, seen.wait_for(|seen| wanted(seen).is_some())).await;
        let Ok(Ok(now)) = come else { panic!("never: {what}; seen: {:?}", self.seen.borrow()) };
        assert_eq!(now.wrong, None);
        wanted(&now).expect("it was waited for")
    }
}

async fn ask(seen: &watch::Sender<Seen>, address: &str) {
    let before = seen.borrow().highest.clone();
    let epoch = match get(address, "/leader").await {
        Ok((200, body)) => serde_json::from_str::<Value>(&body).ok().and_then(|body| body["epoch"].as_u64()),
        _ => None,
    };
    seen.send_modify(|seen| match epoch {
        None => {
            if seen.active.remove(address).is_some() {
                *seen.lost.entry(address.to_owned()).or_default() += 1;
            }
        }
        Some(epoch) => {
            let whose = (epoch, address.to_owned());
            if epoch < before.0 || (epoch == before.0 && before.1 != address) {
                seen.wrong = Some(format!("{before:?} was active, and {whose:?} still is"));
            }
            if epoch > seen.highest.0 {
                seen.highest = whose;
            }
            seen.active.insert(address.to_owned(), epoch);
        }
    });
}
