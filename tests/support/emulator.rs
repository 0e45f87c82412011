//! AWS emulators and the AWS CLI, installed by the first test that needs them into a virtual
//! environment below `target/`.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command as BlockingCommand, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_config::SdkConfig;
use serde_json::Value;
use tokio::process::Command;
use tokio::task::spawn_blocking;

use super::aws::{aws_at, credentials};
use super::program::program;

const REQUIREMENTS: &str = include_str!("../requirements.txt");
/// The AWS CLI as it is installed.
const AWS_CLI: &str = include_str!("aws_cli.py");
/// Runs an emulator in a process group of its own until standard input ends, which it does when the test drops the
/// emulator, and when the test program ends, however it ends. Then the group and the folder go.
const WITH_THE_TEST: &str = r#"
    set -m
    trap "" INT
    "$@" </dev/null 2>&1 &
    exec >/dev/null 2>&1
    read -r
    kill -KILL -- "-$!"
    rm -rf -- "$TMPDIR"
"#;
/// Zips a program as `infra/package` does, with this version.
const ZIPPED: &str = "
import sys, zipfile
with zipfile.ZipFile('function.zip.new', 'w') as archive:
    archive.writestr('VERSION', sys.argv[1] + '\\n')
    archive.write('bootstrap', compress_type=zipfile.ZIP_DEFLATED)
";
/// The access key that an emulator treats as the owner of account 000000000000, as whom its functions act.
const OWNER: &str = "test";

/// Variables of an emulator.
type Variables = Vec<(&'static str, String)>;

/// An account of a running emulator.
pub struct Emulator {
    /// Where it listens.
    pub url: String,
    /// The access key id, and the secret: the number of an account that is the test's own, or the owner of account
    /// 000000000000.
    pub key: String,
    tools: PathBuf,
    _process: Arc<Process>,
}

/// A running emulator; dropped, its process ends.
struct Process {
    url: String,
    _input: ChildStdin,
}

// === impl Emulator ===

impl Emulator {
    /// An account of its own in the one `MiniStack` of the test program. For a test whose functions run in the
    /// emulator, this is not enough: they act in account 000000000000.
    pub async fn ministack() -> Self {
        static ACCOUNTS: AtomicU32 = AtomicU32::new(1);
        let account = format!("{:012}", ACCOUNTS.fetch_add(1, Ordering::Relaxed));
        Self::of(shared(Vec::new()).await, account)
    }

    /// Account 000000000000 in the one `MiniStack` of the test program in which every call needs a permission.
    pub async fn common_ministack_enforcing_permissions() -> Self {
        Self::of(shared(enforcing()).await, OWNER.to_owned())
    }

    /// A `MiniStack` of its own, which runs functions as processes of this machine.
    pub async fn own_ministack() -> Self {
        Self::alone(Vec::new()).await
    }

    /// The same, where every call needs a permission.
    pub async fn own_ministack_enforcing_permissions() -> Self {
        Self::alone(enforcing()).await
    }

    /// The same, where functions find Global Accelerator at `url`.
    pub async fn own_ministack_beside(url: &str) -> Self {
        let beside = ("AWS_ENDPOINT_URL_GLOBAL_ACCELERATOR", url.to_owned());
        Self::alone(enforcing().into_iter().chain([beside]).collect()).await
    }

    /// moto's server, an independent second opinion on the wire protocol.
    pub async fn moto() -> Self {
        let started = spawn_blocking(|| {
            Process::at_free_port(|port| {
                Process::start("moto_server", &["-H", "127.0.0.1", "-p", port], &Vec::new(), port)
            })
        });
        Self::of(Arc::new(started.await.expect("moto starts")), OWNER.to_owned())
    }

    async fn alone(variables: Variables) -> Self {
        let started = spawn_blocking(move || Process::ministack(&variables)).await;
        Self::of(Arc::new(started.expect("MiniStack starts")), OWNER.to_owned())
    }

    fn of(process: Arc<Process>, key: String) -> Self {
        Self { url: process.url.clone(), key, tools: tools(), _process: process }
    }

    /// The configuration of a system in the account.
    pub async fn config(&self) -> SdkConfig {
        aws_at(&self.url).await.into_builder().credentials_provider(credentials(&self.key)).build()
    }

    /// The number of the account.
    pub fn account(&self) -> &str {
        if self.key == OWNER { "000000000000" } else { &self.key }
    }

    /// Runs an AWS CLI command against the emulator and returns what it prints: JSON, or text.
    pub async fn aws(&self, arguments: &[&str]) -> Value {
        match self.try_aws(arguments).await {
            Ok(answer) => answer,
            Err(error) => panic!("aws {}: {error}", arguments.join(" ")),
        }
    }

    /// The same, for a command that may fail.
    pub async fn try_aws(&self, arguments: &[&str]) -> Result<Value, String> {
        let output = self
            .command(self.tools.join("aws"))
            .args(arguments)
            .args(["--endpoint-url", &self.url])
            .output()
            .await
            .expect("the AWS CLI starts");
        let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() {
            Ok(serde_json::from_str(&printed).unwrap_or(Value::String(printed)))
        } else {
            Err(format!("{printed}{}", String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// Runs a command line of bash against the emulator: its exit status, and all that it prints.
    pub async fn bash(&self, script: &str, variables: &[(&str, &str)]) -> (Option<i32>, String) {
        let output = self
            .command("bash")
            .args(["-euo", "pipefail", "-c", script])
            .envs(variables.iter().copied())
            .current_dir(super::root())
            .output()
            .await
            .expect("bash starts");
        let printed = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&printed).into_owned())
    }

    /// Runs `infra/deploy` with the binary under test as its artifact.
    pub async fn deploy(&self, options: &str) -> (Option<i32>, String) {
        let artifact = self.package("failover-lock");
        let artifact = artifact.to_str().expect("the target folder's name is UTF-8");
        self.bash(
            &format!(r#"infra/deploy --artifact "$ARTIFACT" --arch x86_64 --wait 0 {options}"#),
            &[("ARTIFACT", artifact)],
        )
        .await
    }

    /// A health check of the kind that this emulator can keep; its id.
    pub async fn health_check(&self, port: u16) -> String {
        let config = format!("Type=HTTP,IPAddress=127.0.0.1,Port={port},ResourcePath=/lb-check");
        let reference = port.to_string();
        let create = ["--caller-reference", &reference, "--health-check-config", &config];
        let check = self.aws(&[&["route53", "create-health-check"], &create[..]].concat()).await;
        check["HealthCheck"]["Id"].as_str().expect("a health check has an id").to_owned()
    }

    /// The path that this health check asks for.
    pub async fn path(&self, check: &str) -> String {
        let found = self.aws(&["route53", "get-health-check", "--health-check-id", check]).await;
        found["HealthCheck"]["HealthCheckConfig"]["ResourcePath"].as_str().unwrap_or_default().to_owned()
    }

    /// Reports on this health check as Route 53's checkers do, 1 for healthy and 0 for unhealthy.
    pub async fn report(&self, check: &str, value: &str, seconds_ago: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970").as_secs();
        let at = (now - seconds_ago).to_string();
        let dimension = format!("HealthCheckId={check}");
        let metric =
            ["--namespace", "AWS/Route53", "--metric-name", "HealthCheckStatus", "--dimensions", &dimension];
        let datum = ["--value", value, "--timestamp", &at];
        self.aws(&[&["cloudwatch", "put-metric-data"], &metric[..], &datum].concat()).await;
    }

    /// This program, zipped as Lambda takes it, with its version as `infra/package` writes it.
    pub fn package(&self, name: &str) -> PathBuf {
        let binary = program(name);
        let mut hasher = DefaultHasher::new();
        binary.hash(&mut hasher);
        let folder = format!("package/{name}-{:016x}", hasher.finish());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
        fs::create_dir_all(&folder).expect("target/tmp can be written");
        let zip = folder.join("function.zip");
        let _alone = locked("package.lock");
        let made = |file: &Path| fs::metadata(file).and_then(|file| file.modified());
        if !made(&zip).is_ok_and(|zip| zip > made(&binary).expect("the binary is there")) {
            fs::copy(&binary, folder.join("bootstrap")).expect("the binary can be copied");
            run(BlockingCommand::new(self.tools.join("python"))
                .args(["-c", ZIPPED, &format!("{name} {} (tests)", env!("CARGO_PKG_VERSION"))])
                .current_dir(&folder));
            fs::rename(folder.join("function.zip.new"), &zip).expect("target/tmp can be written");
        }
        zip
    }

    /// A program that sees this account, and nothing of the one who runs the tests.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs(isolated(&self.tools, &self.url, &self.key))
            .env("AWS_CLI_SERVER", aws_cli());
        command
    }
}

// === impl Process ===

impl Process {
    fn ministack(variables: &Variables) -> Self {
        Self::at_free_port(|port| {
            let own = [
                ("BIND_HOST", "127.0.0.1"),
                ("GATEWAY_PORT", port),
                ("LAMBDA_EXECUTOR", "local"),
                ("IOT_MTLS_ENABLED", "0"),
            ];
            let own = own.map(|(name, value)| (name, value.to_owned()));
            Self::start("ministack", &[], &own.into_iter().chain(variables.clone()).collect(), port)
        })
    }

    /// Another program may take a free port before the emulator does.
    fn at_free_port(start: impl Fn(&str) -> Result<Self, String>) -> Self {
        loop {
            match start(&free_port()) {
                Ok(process) => return process,
                Err(said) if said.contains(" in use") => {}
                Err(said) => panic!("the emulator ended before it listened:\n{said}"),
            }
        }
    }

    /// Starts an emulator at this port. Returns what it has said if it ends before it listens.
    fn start(program: &str, arguments: &[&str], variables: &Variables, port: &str) -> Result<Self, String> {
        let tools = tools();
        let url = format!("http://127.0.0.1:{port}");
        // What functions are unpacked into, some hundred megabytes.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{program}-{port}-{:08x}", fastrand::u32(..)));
        fs::create_dir_all(&folder).expect("target/tmp can be written");
        let mut child = BlockingCommand::new("bash")
            .args(["-c", WITH_THE_TEST, "bash"])
            .arg(tools.join(program))
            .args(arguments)
            .env_clear()
            .envs(isolated(&tools, &url, OWNER))
            .env("TMPDIR", &folder)
            .env("PYTHONUNBUFFERED", "1")
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash starts");
        let input = child.stdin.take().expect("stdin is piped");
        let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (lines, seen) = mpsc::channel();
        // Its pipe must not fill up, even if no test reads the lines.
        thread::spawn(move || {
            output.lines().map_while(Result::ok).for_each(|line| drop(lines.send(line)));
            // Whoever waits for a line is not to wait for the shell as well, which ends with the test.
            drop(lines);
            child.wait()
        });
        let listens = format!("Running on {url}");
        let mut said = Vec::new();
        for line in seen {
            if line.contains(&listens) {
                return Ok(Self { url, _input: input });
            }
            said.push(line);
        }
        Err(said.join("\n"))
    }
}

/// The test program's one `MiniStack` with these variables.
async fn shared(variables: Variables) -> Arc<Process> {
    static SHARED: Mutex<BTreeMap<Variables, Arc<Process>>> = Mutex::new(BTreeMap::new());
    let shared = spawn_blocking(move || {
        // Where the start panicked for another test, this one tries again.
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || Arc::new(Process::ministack(&variables));
        Arc::clone(shared.entry(variables.clone()).or_insert_with(start))
    });
    shared.await.expect("MiniStack starts")
}

fn enforcing() -> Variables {
    vec![("AUTH", "true".to_owned())]
}

/// The socket of the test program's AWS CLI. It ends with the program.
fn aws_cli() -> &'static Path {
    static SERVER: OnceLock<(PathBuf, ChildStdin)> = OnceLock::new();
    let start = || {
        // A socket's path has at most 107 bytes.
        let folder = env::temp_dir().join(format!("failover-aws-{}", free_port()));
        fs::create_dir_all(&folder).expect("a temporary folder can be made");
        let (tools, socket) = (tools(), folder.join("socket"));
        let mut child = BlockingCommand::new("bash")
            .args(["-c", WITH_THE_TEST, "bash"])
            .args([tools.join("python"), tools.join("aws"), "--serve".into(), socket.clone()])
            .env_clear()
            .envs(isolated(&tools, "", OWNER))
            .env("TMPDIR", &folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash starts");
        let mut said = String::new();
        let output = child.stdout.take().expect("stdout is piped");
        BufReader::new(output).read_line(&mut said).expect("the AWS CLI's output is UTF-8");
        assert_eq!(said, "listening\n");
        let input = child.stdin.take().expect("stdin is piped");
        thread::spawn(move || child.wait());
        (socket, input)
    };
    &SERVER.get_or_init(start).0
}

/// The environment of a child that must not reach AWS, or find anyone's credentials.
fn isolated(tools: &Path, url: &str, key: &str) -> [(&'static str, String); 7] {
    let home = env!("CARGO_TARGET_TMPDIR");
    [
        ("PATH", format!("{}:{}", tools.display(), path())),
        ("HOME", home.to_owned()),
        ("TMPDIR", home.to_owned()),
        ("AWS_ENDPOINT_URL", url.to_owned()),
        ("AWS_ACCESS_KEY_ID", key.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", key.to_owned()),
        ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
    ]
}

/// Where this machine's own programs are.
pub fn path() -> String {
    env::var("PATH").expect("cargo was found by PATH")
}

/// A port of loopback on which no process listens.
pub fn free_port() -> String {
    let socket = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    socket.local_addr().expect("a bound socket has an address").port().to_string()
}

/// The folder of the installed programs. The first test installs them; the others wait.
pub fn tools() -> PathBuf {
    let mut hasher = DefaultHasher::new();
    (REQUIREMENTS, AWS_CLI).hash(&mut hasher);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = target.join(format!("python-{:016x}", hasher.finish()));
    let _alone = locked("python.lock");
    // Its Python may have gone since.
    if !folder.join("complete").exists() || !folder.join("bin/python").exists() {
        run(BlockingCommand::new("python3").args(["-m", "venv", "--clear"]).arg(&folder));
        run(BlockingCommand::new(folder.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
            .arg(super::root().join("tests/requirements.txt")));
        let python = folder.join("bin/python");
        fs::write(folder.join("bin/aws"), format!("#!{} -I\n{AWS_CLI}", python.display()))
            .expect("target/tmp can be written");
        fs::write(folder.join("complete"), "").expect("target/tmp can be written");
    }
    folder.join("bin")
}

/// The holder of this file is the only one among all the tests' processes.
pub fn locked(name: &str) -> File {
    let file =
        File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)).expect("target/tmp can be written");
    file.lock().expect("files can be locked");
    file
}

fn run(command: &mut BlockingCommand) {
    const NEEDED: &str = "The tests need python3 (3.10 or later) with its venv module (Debian: apt-get install \
        python3-venv) and a package index that pip reaches.";
    match command.output() {
        Err(error) => panic!("{} cannot be run: {error}. {NEEDED}", command.get_program().display()),
        Ok(output) if !output.status.success() => panic!(
            "{command:?} failed:\n{}{}{NEEDED}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Ok(_) => {}
    }
}
