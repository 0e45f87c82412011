//! The sidecar: keeps one candidate's claim to a lease, and reports over HTTP whether the lease is held.

use std::error::Error;
use std::ffi::OsString;
use std::future::{pending, poll_fn};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::task::Poll;
use std::time::Duration;
use std::{env, fs, io, panic, process, thread};

use clap::Parser;
use failover::lease::check::{self, Check, Rhythm};
use failover::lease::command::{self, CannotRun, Limits};
use failover::lease::config::Config;
use failover::lease::descendants;
use failover::lease::listener::{self, Address, Listener};
use failover::lease::server::Callers;
use failover::lease::site::Site;
use failover::lease::status::Running;
use failover::lease::{Keeper, Table};
use failover::program::lines::Lines;
use failover::program::{VERSION, logging, run, variables};
use failover::remote::https::Https;
use failover::remote::sdk;
use nix::sys::signal::SigSet;
use tokio::select;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

/// musl's own allocator returns pages and requests them again all the time, with a page fault for each.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// How long the keeper may take to notice that it is to end, before it counts as blocked.
const NOTICED: Duration = Duration::from_secs(5);
/// How long its start may take before it counts as blocked.
const STARTED: Duration = Duration::from_mins(1);
/// How often the front looks whether the keeper is blocked.
const LOOK: Duration = Duration::from_secs(1);
/// How long it may take to end at once.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Keeps a lease in DynamoDB, so that one of several instances is active at most.
#[derive(Debug, Parser)]
#[command(
    name = "lease-keeper",
    version = VERSION,
    override_usage = "lease-keeper --config <FILE> [OPTIONS] [-- <COMMAND>...]",
    after_help = "/leader answers 200 while the lease is held and 503 otherwise; /healthz, /ready, /state and /metrics report more. \
                  SIGTERM releases the lease.\n\nExit status: that of COMMAND when it ends by itself; 0 after SIGTERM; 1 an error, or a command that cannot be ended; 2 wrong usage."
)]
struct Arguments {
    /// The configuration file, in the format of Admiral's state checker.
    #[arg(long, value_name = "FILE", required_unless_present = "guard")]
    config: Option<PathBuf>,
    /// Where to answer the service over HTTP. A Unix socket is created with mode 0660.
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH", default_value = "127.0.0.1:8095")]
    listen: Address,
    /// Where to answer probes and scrapes from outside: /healthz, /ready and /metrics, nothing else.
    #[arg(long, value_name = "ADDRESS:PORT")]
    probes: Option<SocketAddr>,
    /// Every candidate's configuration names the same region, so that a global table in eventual mode is suitable.
    #[arg(long)]
    one_region: bool,
    /// How to check the service: a URL that is answered with a status of 2xx or 3xx, or a program with arguments that
    /// exits with status 0. While the service is unhealthy, the lease is released and not taken.
    #[arg(long, value_name = "URL|COMMAND")]
    check: Option<Check>,
    /// The time between two checks, and the longest that one may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..), requires = "check")]
    check_every: u32,
    /// So many failures in a row make the service unhealthy.
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..), requires = "check")]
    check_failures: u32,
    /// So many successes in a row make it healthy again.
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..), requires = "check")]
    check_successes: u32,
    /// The time that COMMAND may take to become healthy after its start.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "check")]
    check_start: u32,
    /// The longest time that COMMAND may take to end; the lease is renewed meanwhile. By default a term.
    #[arg(long, value_name = "SECONDS", requires = "command")]
    stop: Option<u32>,
    /// The command to run while the lease is held. It receives `LEASE_NAME`, `LEASE_OWNER` and `LEASE_EPOCH`.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// Runs as the guard of the command.
    #[arg(long, hide = true, requires = "command")]
    guard: bool,
}

fn main() -> ExitCode {
    // A parent may have blocked some, and the ends of children and SIGTERM would not be noticed.
    if let Err(error) = SigSet::empty().thread_set_mask() {
        eprintln!("signals cannot be unblocked: {error}");
    }
    let arguments = Arguments::parse();
    // A log that no one reads must not cost the lease.
    let (lines, _last) = Lines::to(io::stderr());
    let logged = lines.clone();
    let logging = logging::start_logging(&variables::environment, move || logged.clone());
    let ended = match logging {
        Err(error) => Err(error.into()),
        Ok(()) if arguments.guard => guard(&arguments.command),
        // The main thread is the parent of adopted processes only.
        Ok(()) => thread::spawn(|| run::run(keep(arguments, lines))?)
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic)),
    };
    ended.unwrap_or_else(|error| {
        error!(error = %error, "lease-keeper ends");
        ExitCode::FAILURE
    })
}

#[tokio::main(flavor = "current_thread")]
async fn guard(command: &[OsString]) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    Ok(command::guard(command).await?.into())
}

/// The thread that answers callers and takes note of signals. The other one may be blocked: the SDK reads credentials'
/// files as any file, and a file system may not answer.
struct Front {
    thread: Joined,
    service: String,
    probes: Option<String>,
    /// What it shows, once that is known.
    shows: oneshot::Sender<Site>,
    /// How many signals have asked it to end.
    asked: watch::Receiver<u32>,
    /// That the first one has been noticed.
    noticed: oneshot::Sender<()>,
    /// Why it does not listen any more, if that is what asks it to end.
    silent: oneshot::Receiver<JoinError>,
}

/// Waits for a thread when it is dropped.
struct Joined(Option<thread::JoinHandle<io::Result<()>>>);

impl Drop for Joined {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}

impl Front {
    async fn start(
        listen: Address,
        probes: Option<SocketAddr>,
        lines: Lines,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let (opened, addresses) = oneshot::channel();
        let (shows, site) = oneshot::channel();
        let (asks, asked) = watch::channel(0);
        let (noticed, seen) = oneshot::channel();
        let (silences, silent) = oneshot::channel();
        let thread = thread::spawn(move || {
            let exits = run::run(front(listen, probes, opened, site, (asks, seen, silences)))?;
            if exits {
                drop(lines.last());
                process::exit(1);
            }
            Ok(())
        });
        let (service, probes) = addresses.await??;
        Ok(Self { thread: Joined(Some(thread)), service, probes, shows, asked, noticed, silent })
    }
}

/// Answers callers and takes note of signals until the program ends. Returns whether it has to end at once.
async fn front(
    listen: Address,
    probes: Option<SocketAddr>,
    opened: oneshot::Sender<Result<(String, Option<String>), String>>,
    site: oneshot::Receiver<Site>,
    (asks, seen, silences): (watch::Sender<u32>, oneshot::Receiver<()>, oneshot::Sender<JoinError>),
) -> bool {
    let open = async {
        let service = open("--listen", &listen).await?;
        let probes = match probes {
            Some(address) => Some(open("--probes", &Address::Tcp(address)).await?),
            None => None,
        };
        let on = |kind: SignalKind| signal(kind).map_err(|error| error.to_string());
        // The last one is how images of some web servers have their containers stopped.
        let ends = [on(SignalKind::terminate())?, on(SignalKind::interrupt())?, on(SignalKind::quit())?];
        Ok((service, probes, ends, on(SignalKind::hangup())?))
    };
    let (service, probes, mut ends, hangup) = match open.await {
        Ok(open) => open,
        Err(error) => {
            let _ = opened.send(Err(error));
            return false;
        }
    };
    let addresses =
        (service.address().to_string(), probes.as_ref().map(|probes| probes.address().to_string()));
    let _ = opened.send(Ok(addresses));
    tokio::spawn(ignore(hangup));
    let (tells, mut shown) = watch::channel(None::<Site>);
    let started = shown.clone();
    let listening = tokio::spawn(async move {
        let Ok(site) = site.await else { return pending().await };
        tells.send_replace(Some(site.clone()));
        let service = listener::serve(service, site.clone(), Callers::Service);
        match probes {
            Some(probes) => {
                select! { never = service => never, never = listener::serve(probes, site, Callers::Probes) => never }
            }
            None => service.await,
        }
    });
    let watches = async {
        select! {
            () = any(&mut ends) => {}
            // It would keep the lease for a service that cannot ask whether it has it.
            Err(error) = listening => drop(silences.send(error)),
        }
        asks.send_modify(|asked| *asked += 1);
        // Passive at once, whatever the keeper does now.
        let leaving = async {
            if let Some(site) = known(&mut shown).await {
                site.lease.leave();
            }
            pending::<()>().await;
        };
        let is_blocked = async {
            if timeout(NOTICED, seen).await.is_ok() {
                pending::<()>().await;
            }
        };
        select! {
            () = leaving => {}
            () = is_blocked => {}
            () = any(&mut ends) => {
                warn!("a second signal: lease-keeper ends at once. If it had the lease, other candidates wait until the term ends");
                asks.send_modify(|asked| *asked += 1);
                sleep(AT_ONCE).await;
            }
        }
    };
    select! {
        // The program ends, and its listeners with it.
        () = asks.closed() => return false,
        () = watches => {}
        () = stuck(started) => {}
    }
    error!(
        "lease-keeper is blocked, perhaps by a file of credentials that cannot be read: it ends without a release of the lease"
    );
    command::abandon().await;
    true
}

/// What is shown, once that is known.
async fn known(shown: &mut watch::Receiver<Option<Site>>) -> Option<Site> {
    shown.wait_for(Option::is_some).await.ok()?.clone()
}

/// Waits until the keeper has been blocked for so long that only a new start may help, and is passive.
async fn stuck(mut shown: watch::Receiver<Option<Site>>) {
    let Ok(Some(site)) = timeout(STARTED, known(&mut shown)).await else { return };
    // Twice in a row: a process that was stopped and continues has not shown yet that nothing blocks it.
    let mut before = false;
    loop {
        let is_stuck = site.metrics.is_stuck() && site.lease.status().is_over_since(NOTICED);
        if is_stuck && before {
            return;
        }
        before = is_stuck;
        sleep(LOOK).await;
    }
}

async fn open(option: &str, address: &Address) -> Result<Listener, String> {
    Listener::open(address).await.map_err(|error| format!("{option} {address}: {error}"))
}

fn configured(file: &Path) -> Result<Config, String> {
    let unusable = |error: &dyn Error| format!("--config {}: {error}", file.display());
    let config = fs::read_to_string(file).map_err(|error| unusable(&error))?;
    Config::parse(&config, &variables::environment).map_err(|error| unusable(&error))
}

async fn keep(arguments: Arguments, lines: Lines) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let config = configured(&arguments.config.expect("clap requires it"))?;
    sdk::no_endpoint_is_empty(env::vars_os())?;
    command::check(&arguments.command)?;
    if let Some(check) = &arguments.check {
        check.exists()?;
    }
    if arguments.check.as_ref().is_some_and(Check::has_user) {
        return Err("--check: its URL holds a user, who would be in the log: use a URL without".into());
    }
    // Dropped from the last one to the first.
    let Front { thread: _thread, service, probes, shows, mut asked, noticed, mut silent } =
        Front::start(arguments.listen, arguments.probes, lines).await?;
    info!(version = VERSION, %config, listen = service, probes, writer = config.me.writer, "starting");
    let table = Table::open(&config, Https::new(&variables::environment)?.client()).await?;
    if !config.ignored.is_empty() {
        info!(
            sections = config.ignored.join(", "),
            "the other sections of the configuration file are ignored"
        );
    }

    let (name, me) = (config.lease, config.me);
    let table = if arguments.one_region { table.in_one_region() } else { table };
    let (keeper, lease) = Keeper::new(table, me.clone(), config.period, config.terms, config.longest);
    let seconds = |count: u32| Duration::from_secs(count.into());
    let term = config.terms.term();
    let stop = arguments.stop.map_or(term, seconds);
    let keeper = keeper.with_stop(stop);
    let start = if arguments.check.is_some() { seconds(arguments.check_start).max(term) } else { term };
    let limits = Limits { start, stop };
    let (running, runs) = watch::channel(Running::No);
    let runs = Some(runs).filter(|_| !arguments.command.is_empty());
    // Otherwise only what a process for credentials leaves behind is adopted, and that is not required.
    let adopts = descendants::adopt();
    if runs.is_some() || matches!(arguments.check, Some(Check::Command(_))) {
        adopts?;
    }
    tokio::spawn(command::reap());
    let mut checks = None;
    if let Some(check) = arguments.check {
        let rhythm = Rhythm {
            every: seconds(arguments.check_every),
            failures: arguments.check_failures,
            successes: arguments.check_successes,
            start: seconds(arguments.check_start),
            rest: term * 3,
        };
        checks = Some(tokio::spawn(check::watch(check, rhythm, lease.clone(), runs.clone())));
    }
    let metrics = keeper.metrics();
    let left = runs.clone();
    let site = Site {
        name: name.clone(),
        me: me.clone(),
        lease: lease.clone(),
        metrics: metrics.clone(),
        running: runs,
    };
    let _ = shows.send(site);
    let mut keeping = tokio::spawn(keeper.run());
    let worked = lease.clone();
    let mut working = tokio::spawn(async move {
        if arguments.command.is_empty() {
            return std::future::pending().await;
        }
        command::run(worked, &arguments.command, &name, &me.name, limits, &running, &metrics).await
    });
    let mut has_broken = false;
    let ended: Result<_, CannotRun> = select! {
        biased;
        _ = asked.wait_for(|asked| *asked > 0) => {
            let _ = noticed.send(());
            if let Ok(error) = silent.try_recv() {
                error!(%error, "no caller is answered any more");
                has_broken = true;
            }
            Ok(None)
        }
        kept = &mut keeping => return kept?.map(|()| ExitCode::SUCCESS).map_err(Into::into),
        ended = &mut working => ended?,
        // It would keep the lease for a service that it does not check any more.
        error = broken(&mut checks) => {
            error!(%error, "the service is not checked any more");
            has_broken = true;
            Ok(None)
        }
    };
    info!("ending");
    lease.leave();
    // First the candidate becomes passive, then the work ends, and then the lease is released.
    select! {
        kept = &mut keeping => {
            kept??;
            if left.is_some_and(|runs| *runs.borrow() != Running::No) {
                return Err("processes of the command cannot be killed and still run: end them before lease-keeper \
                            starts again, which does not know them".into());
            }
        }
        _ = asked.wait_for(|asked| *asked > 1) => return Ok(at_once(keeping, working).await),
    }
    let otherwise = if has_broken { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    ended.map(|status| status.map_or(otherwise, ExitCode::from)).map_err(Into::into)
}

/// Ends without a release: what would release the lease ends first, because what works under it is not known to end.
async fn at_once<K, W>(keeping: JoinHandle<K>, working: JoinHandle<W>) -> ExitCode {
    keeping.abort();
    let _ = keeping.await;
    working.abort();
    command::abandon().await;
    ExitCode::FAILURE
}

/// Waits until the checks, if there are any, break off. They end with the keeper.
async fn broken(checks: &mut Option<JoinHandle<()>>) -> JoinError {
    match checks {
        Some(checks) => match checks.await {
            Err(error) => error,
            Ok(()) => pending().await,
        },
        None => pending().await,
    }
}

/// Waits until one of these signals has come.
async fn any(signals: &mut [Signal]) {
    poll_fn(|context| {
        let has_come = signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
        if has_come { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Without this, SIGHUP would end the process.
async fn ignore(mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        warn!(
            "SIGHUP is ignored: the configuration is read at the start only. To apply a change, restart lease-keeper"
        );
    }
}
