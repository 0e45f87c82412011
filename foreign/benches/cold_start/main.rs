//! The cost of the first event for a function that has never run: each contestant between a Runtime API and stand-ins over
//! TLS on loopback, which check signatures and keep state.
//!
//! ```text
//! cargo bench --bench cold_start                      the tables in docs/performance.md, in a few minutes
//! cargo bench --bench cold_start -- count [FUNCTION]  instructions, for callgrind_annotate; of failover-lock, if none is named
//! cargo bench --bench cold_start -- check [FUNCTION]  instructions and size against baseline.json, of every function,
//!                                                     if none is named
//! cargo bench --bench cold_start -- record [FUNCTION] writes baseline.json, likewise
//! ```
//! in the folder `foreign`. Each builds the artifacts that it needs, as they are deployed: `.ci/run`, which has no time for
//! three, names failover-lock. A baseline is of one architecture, and of one kind of processor, whose extensions *ring* uses.
//! Needs valgrind and the tools of `infra/package`; site-fence and the tables also need the tools of the tests. Shares of CPU
//! are left out if no control group can be created, which requires root.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::timeout;
use wait4::Wait4 as _;

#[path = "../../../tests/support/mod.rs"]
mod support;
mod work;

use support::emulator;
use support::lambda::Runtime;
use work::{Stage, Work};

/// The Lambda functions, each with its first event.
const FUNCTIONS: [(&str, Work); 3] =
    [("failover-lock", LOCK), ("site-fence", Work::Fence), ("failover-latch", Work::Look)];
const LOCK: Work = Work::Lock { changed: false, answer: None };
const ROUNDS: usize = 15;
const WARM: u32 = 200;
/// How long a start or an answer may take.
const PATIENCE: Duration = Duration::from_mins(2);
/// The allowed growth of instructions and size over the baseline.
const GROWTH: f64 = 1.05;
/// Memory settings, in MB.
const SETTINGS: [u32; 3] = [128, 256, 512];

/// A function, and what it is invoked for.
#[derive(Clone)]
struct Contestant {
    name: &'static str,
    command: Vec<OsString>,
    artifact: Option<PathBuf>,
    work: Work,
}

/// Where all contestants run.
struct Arena {
    stage: Stage,
    folder: PathBuf,
    bundle: PathBuf,
}

/// A contestant's process, ready for its first event.
struct Running<'a> {
    arena: &'a Arena,
    contestant: &'a Contestant,
    runtime: Runtime,
    child: Child,
}

/// The measurements of one process.
#[derive(Default)]
struct Samples {
    init: Vec<f64>,
    first: Vec<f64>,
    warm: Vec<f64>,
    warm_cpu: Vec<f64>,
    cpu: Vec<f64>,
    memory: Vec<f64>,
    page_faults: Vec<f64>,
    at: [Vec<f64>; SETTINGS.len()],
    /// Start and first event, with the smallest setting from the start on.
    throttled: Vec<f64>,
}

/// A control group that has the share of a CPU that Lambda gives for a memory setting.
struct Share(PathBuf);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arena = Arena::new().await;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => table(&arena).await,
        ["count"] => count(&arena, FUNCTIONS[0].0).await,
        ["count", function] => count(&arena, function).await,
        ["check", named @ ..] => check(&arena, named).await,
        ["record", named @ ..] => record(&arena, named).await,
        other => panic!("{other:?}: the argument is count, check, record, or none"),
    }
}

async fn count(arena: &Arena, function: &str) {
    let counted = arena.instructions(&Contestant::function(function), 1).await[0];
    println!("{counted} instructions in {}", arena.folder.join("callgrind.out").display());
}

// === The baseline ===

async fn check(arena: &Arena, named: &[&str]) {
    let baseline: Value = serde_json::from_slice(&fs::read(baseline()).expect("baseline.json can be read"))
        .expect("baseline.json is JSON");
    let mut grown = Vec::new();
    for function in functions(named) {
        let Some(baseline) = baseline.get(env::consts::ARCH).and_then(|baseline| baseline.get(function))
        else {
            println!(
                "baseline.json has no {function} for {}: cargo bench --bench cold_start -- record {function}",
                env::consts::ARCH
            );
            continue;
        };
        for (what, now) in arena.counts(&Contestant::function(function)).await {
            let before = baseline[what].as_f64().expect("it was recorded");
            let percent = (now / before - 1.0) * 100.0;
            println!("{function}, {what}: {now:.0}, {percent:+.1} % over the baseline's {before:.0}");
            if now > before * GROWTH {
                grown.push(format!("the {what} of {function}"));
            }
        }
    }
    assert!(
        grown.is_empty(),
        "{} grew by more than {:.0} %: take it back, or say in the commit why it has to be and record it anew",
        grown.join(" and "),
        (GROWTH - 1.0) * 100.0
    );
}

async fn record(arena: &Arena, named: &[&str]) {
    let mut all: Value = fs::read(baseline())
        .map_or(json!({}), |text| serde_json::from_slice(&text).expect("baseline.json is JSON"));
    for function in functions(named) {
        for (what, count) in arena.counts(&Contestant::function(function)).await {
            all[env::consts::ARCH][function][what] = json!(count.round());
        }
    }
    fs::write(baseline(), format!("{all:#}\n")).expect("baseline.json can be written");
    println!("{all:#}");
}

/// Those that are named, or all.
fn functions<'a>(named: &[&'a str]) -> Vec<&'a str> {
    if named.is_empty() { FUNCTIONS.iter().map(|(name, _)| *name).collect() } else { named.to_vec() }
}

fn baseline() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/cold_start/baseline.json")
}

// === The table ===

async fn table(arena: &Arena) {
    let contestants = Contestant::all();
    let mut samples: Vec<Samples> = contestants.iter().map(|_| Samples::default()).collect();
    for round in 0..ROUNDS {
        // In turn, so that other load on the machine affects all of them.
        for turn in 0..contestants.len() {
            let turn = (turn + round) % contestants.len();
            let (contestant, samples) = (&contestants[turn], &mut samples[turn]);
            arena.cold(contestant, samples).await;
            for (index, megabytes) in SETTINGS.iter().enumerate() {
                if let Some(share) = Share::new(*megabytes) {
                    samples.at[index].push(arena.first_at(contestant, &share).await);
                    if index == 0 {
                        samples.throttled.push(arena.throttled(contestant, &share).await);
                    }
                }
            }
        }
    }
    for (contestant, samples) in contestants.iter().zip(&mut samples) {
        arena.warm(contestant, samples).await;
    }
    println!("| | zip, bytes | million instructions | memory, MB | minor page faults |");
    println!("|---|---|---|---|---|");
    for (contestant, samples) in contestants.iter().zip(&samples) {
        let zip = contestant.artifact.as_deref().map_or("–".to_owned(), |zip| size(zip).to_string());
        let instructions = median(&arena.instructions(contestant, 1).await) / 1e6;
        let (memory, page_faults) = (median(&samples.memory), median(&samples.page_faults));
        println!("| {} | {zip} | {instructions:.2} | {memory:.2} | {page_faults:.0} |", contestant.name);
    }
    println!("\nMedians of {ROUNDS} runs in turn, from the first to the third quartile in brackets.\n");
    println!("| ms | CPU | init | first event | warm event | CPU of a warm event |");
    println!("|---|---|---|---|---|---|");
    for (contestant, samples) in contestants.iter().zip(&samples) {
        let Samples { cpu, init, first, warm, warm_cpu, .. } = samples;
        let shown = [cpu, init, first, warm, warm_cpu].map(|samples| shown(samples));
        println!("| {} | {} |", contestant.name, shown.join(" | "));
    }
    if samples[0].at[0].is_empty() {
        println!("\nNo control group can be made here: shares of CPU are left out.");
        return;
    }
    println!("\n| ms | first event at 128 MB | at 256 MB | at 512 MB | start and first event at 128 MB |");
    println!("|---|---|---|---|---|");
    for (contestant, samples) in contestants.iter().zip(&samples) {
        let shown: Vec<_> = samples.at.iter().map(|samples| shown(samples)).collect();
        println!("| {} | {} | {} |", contestant.name, shown.join(" | "), self::shown(&samples.throttled));
    }
}

/// The median, and the first and the third quartile.
fn shown(samples: &[f64]) -> String {
    let at = |part: f64| quantile(samples, part);
    format!("{:.2} ({:.2}–{:.2})", at(0.5), at(0.25), at(0.75))
}

fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index"
)]
fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * part).round() as usize]
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "a few million bytes")]
fn size(file: &Path) -> f64 {
    fs::metadata(file).unwrap_or_else(|error| panic!("{}: {error}", file.display())).len() as f64
}

// === impl Contestant ===

impl Contestant {
    /// The artifact as it is deployed.
    fn function(name: &str) -> Self {
        let known = FUNCTIONS.iter().find(|(known, _)| *known == name);
        let (program, work) = known.unwrap_or_else(|| {
            let names = FUNCTIONS.map(|(name, _)| name).join(", ");
            panic!("{name} is not one of the functions: {names}")
        });
        Self::built(program, program, *work)
    }

    fn all() -> Vec<Self> {
        let python = emulator::tools().join("python");
        let mut all: Vec<_> = FUNCTIONS.iter().map(|(name, _)| Self::function(name)).collect();
        let changed = Self {
            name: "failover-lock, a check that was changed before",
            work: Work::Lock { changed: true, answer: None },
            ..all[0].clone()
        };
        let far = Self {
            name: "failover-lock, Route 53 takes 50 ms for an answer",
            work: Work::Lock { changed: false, answer: Some(Duration::from_millis(50)) },
            ..all[0].clone()
        };
        all.splice(1..1, [changed, far]);
        all.extend([
            Self {
                name: "the documented function, Python 3 and boto3",
                command: [python.into(), "-m".into(), "awslambdaric".into(), "documented.handler".into()]
                    .into(),
                artifact: None,
                work: LOCK,
            },
            Self::built("the floor: std, rustls and a signature", "cold-start-floor", LOCK),
            Self::built("an empty function on lambda_runtime", "cold-start-empty", Work::Nothing),
        ]);
        all
    }

    /// A program of this package, built as `infra/package` builds what is deployed.
    fn built(name: &'static str, program: &str, work: Work) -> Self {
        let root = support::root();
        let arch = if env::consts::ARCH == "aarch64" { "arm64" } else { env::consts::ARCH };
        let mut package = Command::new(root.join("infra/package"));
        package.args(["--program", program, arch]);
        // With what cargo says here of this package, build scripts would run again, and what depends on them be compiled.
        for (name, _) in env::vars_os() {
            let of_package = ["CARGO_PKG_", "CARGO_MANIFEST_"].map(str::as_bytes);
            if of_package.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix)) {
                package.env_remove(name);
            }
        }
        assert!(package.status().expect("bash is there").success(), "infra/package has said why");
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        let package = root.join(target).join("package");
        Self {
            name,
            command: vec![package.join(format!("{program}-{arch}/bootstrap")).into()],
            artifact: Some(package.join(format!("{program}-{arch}.zip"))),
            work,
        }
    }
}

// === impl Arena ===

impl Arena {
    async fn new() -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cold_start");
        fs::create_dir_all(&folder).expect("the target folder can be written");
        let stage = Stage::new().await;
        // Without a bundle a function reads five roots of its own: so many are in this one.
        let roots = fs::read_to_string(support::root().join("src/remote/amazon-roots.pem"));
        let roots = roots.expect("the roots can be read");
        let four: String = roots.split_inclusive("END CERTIFICATE-----\n").take(4).collect();
        let bundle = folder.join("bundle.pem");
        fs::write(&bundle, four + stage.root()).expect("the target folder can be written");
        Self { stage, folder, bundle }
    }

    /// Instructions to the end of the first event and the artifact's bytes.
    async fn counts(&self, contestant: &Contestant) -> [(&'static str, f64); 2] {
        let instructions = median(&self.instructions(contestant, 3).await);
        let zip = contestant.artifact.as_deref().expect("it was built");
        [("instructions", instructions), ("zip", size(zip))]
    }

    /// Instructions from the process's start to the end of the first event, run by run.
    async fn instructions(&self, contestant: &Contestant, runs: usize) -> Vec<f64> {
        let mut counted = Vec::new();
        for _ in 0..runs {
            let out = self.folder.join("callgrind.out");
            let mut file = OsString::from("--callgrind-out-file=");
            file.push(&out);
            let valgrind = ["valgrind".into(), "--tool=callgrind".into(), "--quiet".into(), file];
            let mut running = Running::start(self, contestant, &valgrind).await;
            running.handle(0).await;
            // It writes its counts when the program ends, also after a signal.
            let killed = Command::new("kill").args(["-TERM", &running.child.id().to_string()]).status();
            assert!(killed.expect("kill is there").success());
            running.child.wait().expect("a child can be waited for");
            let text = fs::read_to_string(&out).expect("callgrind has written its counts");
            let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
            counted.push(
                total.and_then(|total| total.trim().parse().ok()).expect("callgrind reports the total"),
            );
        }
        counted
    }

    async fn cold(&self, contestant: &Contestant, samples: &mut Samples) {
        let started = Instant::now();
        let mut running = Running::start(self, contestant, &[]).await;
        samples.init.push(milliseconds(started.elapsed()));
        samples.first.push(milliseconds(running.handle(0).await));
        samples.memory.push(running.peak_memory());
        samples.page_faults.push(running.page_faults());
        running.child.kill().expect("a child can be killed");
        let used = running.child.wait4().expect("a child can be waited for").rusage;
        samples.cpu.push(milliseconds(used.utime + used.stime));
    }

    async fn first_at(&self, contestant: &Contestant, share: &Share) -> f64 {
        let mut running = Running::start(self, contestant, &[]).await;
        share.admit(running.child.id());
        let first = running.handle(0).await;
        running.end();
        milliseconds(first)
    }

    async fn throttled(&self, contestant: &Contestant, share: &Share) -> f64 {
        let started = Instant::now();
        let mut running = Running::spawn(self, contestant, &[]).await;
        share.admit(running.child.id());
        running.asks().await;
        running.handle(0).await;
        let took = started.elapsed();
        running.end();
        milliseconds(took)
    }

    async fn warm(&self, contestant: &Contestant, samples: &mut Samples) {
        let mut running = Running::start(self, contestant, &[]).await;
        running.handle(0).await;
        for number in 1..=WARM {
            let before = running.cpu();
            samples.warm.push(milliseconds(running.handle(number).await));
            samples.warm_cpu.push(running.cpu() - before);
        }
        running.end();
    }
}

// === impl Running ===

impl<'a> Running<'a> {
    /// Starts the contestant, below `wrapper`, and waits until it asks for its first event.
    async fn start(arena: &'a Arena, contestant: &'a Contestant, wrapper: &[OsString]) -> Self {
        let mut running = Self::spawn(arena, contestant, wrapper).await;
        running.asks().await;
        running
    }

    async fn spawn(arena: &'a Arena, contestant: &'a Contestant, wrapper: &[OsString]) -> Self {
        let runtime = Runtime::start().await;
        let command = [wrapper, &contestant.command].concat();
        let log = File::create(arena.folder.join("output.log")).expect("the target folder can be written");
        let child = Command::new(&command[0])
            .args(&command[1..])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/cold_start"))
            .env_clear()
            .envs(runtime.variables())
            .env("PATH", "/usr/bin:/bin")
            // The documented function's folder is this one.
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("AWS_CA_BUNDLE", &arena.bundle)
            .envs(arena.stage.variables(contestant.work).await)
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("a file can be shared"))
            .stdout(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", command[0].display()));
        Self { arena, contestant, runtime, child }
    }

    /// Waits until it asks for its next event.
    async fn asks(&mut self) {
        if timeout(PATIENCE, self.runtime.asked()).await.is_err() {
            let log = self.arena.folder.join("output.log");
            let ended = self.child.try_wait();
            panic!("{} asks for no event: {ended:?}, {}", self.contestant.name, log.display());
        }
    }

    /// Handles the event of this number, until the answer.
    async fn handle(&mut self, number: u32) -> Duration {
        let (stage, Contestant { name, work, .. }) = (&self.arena.stage, self.contestant);
        let event = stage.event(*work, number).await;
        let started = Instant::now();
        let answer = timeout(PATIENCE, self.runtime.invoke(event, work.timeout())).await;
        let took = started.elapsed();
        let answer = answer.unwrap_or_else(|late| panic!("{name}: {late}, {:?}", self.child.try_wait()));
        let log = self.arena.folder.join("output.log");
        assert!(stage.is_done(*work, number, &answer).await, "{name}: {answer:?}, {}", log.display());
        self.asks().await;
        took
    }

    /// The largest resident set so far, in MB. `wait4` would tell the parent's where that is larger: a
    /// child begins as its parent.
    fn peak_memory(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("Linux");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak.and_then(|peak| peak.trim().parse::<f64>().ok()).expect("a process has a largest resident set")
            / 1e3
    }

    /// Pages that were mapped when they were first touched, so far.
    fn page_faults(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("Linux");
        // The tenth field; the second, the name, has no space here.
        stat.split(' ').nth(9).and_then(|faults| faults.parse().ok()).expect("a process has a count")
    }

    /// The time, in ms, that its first thread, which does all the work, has spent on a CPU.
    fn cpu(&self) -> f64 {
        let spent = fs::read_to_string(format!("/proc/{}/schedstat", self.child.id())).expect("Linux");
        let spent = spent.split(' ').next().and_then(|spent| spent.parse().ok());
        milliseconds(Duration::from_nanos(spent.expect("schedstat begins with a time")))
    }

    fn end(mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("a child can be killed");
    }
}

// === impl Share ===

impl Share {
    /// `None` if no control group can be created.
    ///
    /// A function with 1,769 MB has one CPU, and less memory a [proportional share][1]; it is dealt out
    /// in periods of 20 ms.
    ///
    /// [1]: https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html
    fn new(megabytes: u32) -> Option<Self> {
        const PERIOD: u32 = 20_000;
        let quota = megabytes * PERIOD / 1769;
        let name = format!("cold-start-{}", std::process::id());
        let make = |folder: &str, files: &[(&str, String)]| {
            let group = Path::new(folder).join(&name);
            fs::create_dir(&group).ok()?;
            let group = Self(group);
            let set = files.iter().all(|(file, value)| fs::write(group.0.join(file), value).is_ok());
            set.then_some(group)
        };
        make(
            "/sys/fs/cgroup/cpu",
            &[("cpu.cfs_period_us", PERIOD.to_string()), ("cpu.cfs_quota_us", quota.to_string())],
        )
        .or_else(|| make("/sys/fs/cgroup", &[("cpu.max", format!("{quota} {PERIOD}"))]))
    }

    fn admit(&self, process: u32) {
        fs::write(self.0.join("cgroup.procs"), process.to_string()).expect("the group is ours");
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
