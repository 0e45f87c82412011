//! AWS emulators and the AWS CLI, installed by the first test that needs them into a virtual
//! environment below `target/`.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command as BlockingCommand, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

const REQUIREMENTS: &str = include_str!("../requirements.txt");

/// A running emulator; dropped, its process ends.
pub struct Emulator {
    /// Where it listens.
    pub url: String,
    tools: PathBuf,
    /// What its functions are unpacked into, some hundred megabytes.
    folder: PathBuf,
    process: Child,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Whoever is still writing there leaves a little behind.
        let _ = self.process.start_kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

// === impl Emulator ===

impl Emulator {
    /// `MiniStack`, which runs functions as processes of this machine.
    pub async fn ministack() -> Self {
        Self::ministack_with(&[]).await
    }

    /// The same, where every call needs a permission.
    pub async fn ministack_enforcing_permissions() -> Self {
        Self::ministack_with(&[("AUTH", "true")]).await
    }

    /// The same, where functions find Global Accelerator at `url`.
    pub async fn ministack_beside(url: &str) -> Self {
        Self::ministack_with(&[("AWS_ENDPOINT_URL_GLOBAL_ACCELERATOR", url), ("AUTH", "true")]).await
    }

    async fn ministack_with(more: &[(&str, &str)]) -> Self {
        let port = free_port();
        let variables = [
            ("BIND_HOST", "127.0.0.1"),
            ("GATEWAY_PORT", &port),
            ("LAMBDA_EXECUTOR", "local"),
            ("IOT_MTLS_ENABLED", "0"),
            ("PYTHONUNBUFFERED", "1"),
        ];
        Self::start("ministack", &[], &[&variables, more].concat(), &port).await
    }

    /// moto's server, an independent second opinion on the wire protocol.
    pub async fn moto() -> Self {
        let port = free_port();
        Self::start("moto_server", &["-H", "127.0.0.1", "-p", &port], &[("PYTHONUNBUFFERED", "1")], &port)
            .await
    }

    async fn start(program: &str, arguments: &[&str], variables: &[(&str, &str)], port: &str) -> Self {
        let tools = tools();
        let url = format!("http://127.0.0.1:{port}");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{program}-{port}"));
        fs::create_dir_all(&folder).expect("target/tmp can be written");
        let mut child = isolated(Command::new(tools.join(program)), &tools, &url)
            .args(arguments)
            .env("TMPDIR", &folder)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{program} does not start: {error}"));
        let out = child.stdout.take().expect("stdout is piped");
        let err = child.stderr.take().expect("stderr is piped");
        // Each announces its address on one of the two once it listens.
        tokio::select! {
            () = announced(out, &url) => {}
            () = announced(err, &url) => {}
        }
        Self { url, tools, folder, process: child }
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
        let output = isolated(Command::new(self.tools.join("aws")), &self.tools, &self.url)
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
        let output = isolated(Command::new("bash"), &self.tools, &self.url)
            .args(["-euo", "pipefail", "-c", script])
            .envs(variables.iter().copied())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .await
            .expect("bash starts");
        let printed = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&printed).into_owned())
    }

    /// Runs `infra/deploy` with the binary under test as its artifact.
    pub async fn deploy(&self, options: &str) -> (Option<i32>, String) {
        let artifact = self.package();
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

    /// The binary under test, zipped as Lambda wants it.
    pub fn package(&self) -> PathBuf {
        self.package_of(env!("CARGO_BIN_EXE_failover-lock"))
    }

    /// This binary, zipped as Lambda wants it.
    pub fn package_of(&self, binary: &str) -> PathBuf {
        let binary = Path::new(binary);
        let name = binary.file_name().expect("a binary has a name");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("package").join(name);
        fs::create_dir_all(&folder).expect("target/tmp can be written");
        let zip = folder.join("function.zip");
        let _alone = locked("package.lock");
        let made = |file: &Path| fs::metadata(file).and_then(|file| file.modified());
        if !made(&zip).is_ok_and(|zip| zip > made(binary).expect("the binary is there")) {
            fs::copy(binary, folder.join("bootstrap")).expect("the binary can be copied");
            run(BlockingCommand::new(self.tools.join("python"))
                .args(["-m", "zipfile", "-c", "function.zip.new", "bootstrap"])
                .current_dir(&folder));
            fs::rename(folder.join("function.zip.new"), &zip).expect("target/tmp can be written");
        }
        zip
    }
}

/// Nothing that a child does reaches AWS, or knows anybody's credentials.
fn isolated(mut command: Command, tools: &Path, url: &str) -> Command {
    let path = format!("{}:/usr/bin:/bin", tools.display());
    let home = env!("CARGO_TARGET_TMPDIR");
    command.env_clear().envs([
        ("PATH", path.as_str()),
        ("HOME", home),
        ("TMPDIR", home),
        ("AWS_ENDPOINT_URL", url),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ]);
    command
}

async fn announced(output: impl AsyncRead + Unpin + Send + 'static, url: &str) {
    let mut lines = BufReader::new(output).lines();
    let mut seen = Vec::new();
    while let Ok(Some(line)) = lines.next_line().await {
        if line.contains(&format!("Running on {url}")) {
            // Its pipe must not fill up.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return;
        }
        seen.push(line);
    }
    panic!("the emulator ended before it listened:\n{}", seen.join("\n"));
}

/// A port of loopback that nobody listens on.
pub fn free_port() -> String {
    let socket = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    socket.local_addr().expect("a bound socket has an address").port().to_string()
}

/// The folder of the installed programs. Whoever comes first installs; others wait.
pub fn tools() -> PathBuf {
    let mut hasher = DefaultHasher::new();
    REQUIREMENTS.hash(&mut hasher);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = target.join(format!("python-{:016x}", hasher.finish()));
    let _alone = locked("python.lock");
    if !folder.join("complete").exists() {
        let requirements = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/requirements.txt");
        run(BlockingCommand::new("python3").args(["-m", "venv", "--clear"]).arg(&folder));
        run(BlockingCommand::new(folder.join("bin/python")).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--requirement",
            requirements,
        ]));
        fs::write(folder.join("complete"), "").expect("target/tmp can be written");
    }
    folder.join("bin")
}

/// Whoever holds this file is the only one among all the tests' processes.
pub fn locked(name: &str) -> File {
    let file =
        File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)).expect("target/tmp can be written");
    file.lock().expect("files can be locked");
    file
}

fn run(command: &mut BlockingCommand) {
    const NEEDED: &str = "The tests against MiniStack and moto need python3 (3.10 or later) with its venv module \
        (Debian: apt-get install python3-venv) and a package index that pip reaches.";
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
