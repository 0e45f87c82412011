//! A command that runs while the lease is held, and never longer.
//!
//! A second process, the guard, is the parent of the command. It knows until when the command may run, and kills it
//! then, even if the keeper was stopped, or killed.

use std::convert::Infallible;
use std::env;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::process::{Pid, Signal, kill_process};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::process::{Child, Command};
use tokio::select;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

mod guard;
mod once;

pub use guard::guard;
pub(super) use once::once;

use super::claim::{Holding, Moment};
use super::clock::{now, sleep_until, wall};
use super::descendants::{self, Descendants};
use super::held::{Held, Lease, Obstacle};
use super::metrics::Metrics;
use super::status::Running;

/// The option with which the program runs as the guard of a command.
pub const GUARD: &str = "--guard";
/// The order to the guard that the lease is lost; all other orders say how long it lasts.
const LOST: &str = "lost";
/// The report of the guard that the command has ended by itself, before its status.
const ENDED: &str = "ended ";
/// The report of the guard that the command runs, before its process's number.
const RUNS: &str = "runs ";
/// The report of the guard that the command received TERM because its time is over.
const TERMINATED: &str = "terminated";
/// The report of the guard that the command could not be started, before the system's number of the cause.
const FAILED: &str = "failed ";
/// The report of the guard that it had to kill processes of the command.
const KILLED: &str = "killed";
/// Killing processes that can be killed takes less.
const LONG: Duration = Duration::from_secs(2);
/// What a guard that runs may take to kill thousands of processes, before this process does it.
const KILLING: Duration = Duration::from_millis(500);
/// The pause before another look whether the guard is stopped.
const LOOK: Duration = Duration::from_millis(10);
/// The status of a command that was killed, as a shell reports it.
const STATUS_OF_KILLED: u8 = 137;
/// The status of a command that could not be started, as a shell reports it.
const STATUS_OF_MISSING: u8 = 127;

/// The command cannot be run.
#[derive(Debug, Error)]
#[error("{} cannot be {done}: {cause}{}", program.display(), advice(cause))]
pub struct CannotRun {
    program: OsString,
    done: &'static str,
    #[source]
    cause: io::Error,
}

/// What to do about a command that cannot be run.
fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        // No process can be started now, or no memory is left.
        ErrorKind::WouldBlock | ErrorKind::OutOfMemory => "",
        ErrorKind::TimedOut => ". Look at the file system of its program",
        _ => ". Correct the command after --",
    }
}

impl CannotRun {
    fn new(command: &[OsString], done: &'static str, cause: io::Error) -> Self {
        Self { program: command.first().cloned().unwrap_or_default(), done, cause }
    }
}

/// Checks that the program exists: a candidate that is passive for months must not find out only when it becomes
/// active.
///
/// # Errors
/// The program does not exist, or cannot be executed.
pub fn check(command: &[OsString]) -> Result<(), CannotRun> {
    let Some(program) = command.first() else { return Ok(()) };
    let is_program = |file: &Path| {
        file.metadata().is_ok_and(|file| file.is_file()) && access(file, Access::EXEC_OK).is_ok()
    };
    let is_there = if program.as_bytes().contains(&b'/') {
        is_program(Path::new(program))
    } else {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).any(|folder| is_program(&folder.join(program)))
    };
    let cause = || io::Error::other("there is no such program, or this user may not execute it");
    if is_there { Ok(()) } else { Err(CannotRun::new(command, "started", cause())) }
}

/// Where the state of the command is shown.
#[derive(Clone, Copy)]
struct Shows<'a> {
    running: &'a watch::Sender<Running>,
    metrics: &'a Metrics,
}

/// How long a command may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until it runs: its program may be on a file system that does not answer.
    pub start: Duration,
    /// To end.
    pub stop: Duration,
}

/// The end of a command, as far as it is known.
#[derive(Debug, Default)]
struct End {
    /// The lease was lost while the command or a process that it has started still ran.
    lost: bool,
    /// When the command was started, in seconds since 1970.
    since: Option<i64>,
    /// Why it could not be started.
    failed: Option<io::Error>,
    /// The status of a command that ended by itself.
    by_itself: Option<u8>,
    /// A process was killed because it did not end after TERM.
    killed: bool,
}

/// Runs the command whenever the lease is held, and ends it when the lease is lost: TERM at once, KILL at the moment
/// by which no work may depend on the lease, both for every process that it has started. Returns the status of a
/// command that ended by itself, or `None` when the lease is released. `running` and `metrics` show its state.
///
/// All children of the process have to be started on the calling thread, which must not be the main thread.
///
/// # Errors
/// The guard or the command cannot be started, or not in its time.
pub async fn run(
    lease: Lease,
    command: &[OsString],
    name: &str,
    owner: &str,
    limits: Limits,
    running: &watch::Sender<Running>,
    metrics: &Metrics,
) -> Result<Option<u8>, CannotRun> {
    let shows = Shows { running, metrics };
    while let Some(held) = lease.held().await {
        let started = start(&held, command, name, owner);
        let (mut guard, link) = started.map_err(|cause| CannotRun::new(command, "started", cause))?;
        let (status, end) = until_ended(&held, &mut guard, link, limits, shows).await;
        // Nothing is left behind, whatever happened to the guard.
        if timeout(LONG, Descendants::Adopted.end()).await.is_err() {
            warn!(
                "processes of the command cannot be killed; this candidate takes no lease until they have ended"
            );
            let why = "processes of the command before cannot be killed".to_owned();
            lease.able(Obstacle::Leftovers, Err(why));
            Descendants::Adopted.end().await;
            lease.able(Obstacle::Leftovers, Ok(()));
        }
        running.send_replace(Running::No);
        let status = status.map_err(|cause| CannotRun::new(command, "waited for", cause))?;
        let has_run = end.since.is_some();
        match end {
            End { failed: Some(cause), .. } => return Err(CannotRun::new(command, "started", cause)),
            End { by_itself: Some(status), killed, .. } => {
                if killed {
                    warn!("processes that the command left behind did not end after TERM: they were killed");
                }
                return Ok(Some(status));
            }
            End { lost: false, .. } if held.is_held() && !has_run => {
                warn!(%status, "the guard has ended before it said that the command runs");
                return Ok(Some(1));
            }
            End { lost: false, .. } if held.is_held() => {
                warn!("the guard of the command was ended: the command was killed");
                metrics.command_ended(false);
                return Ok(Some(code(status)));
            }
            End { killed: true, .. } if has_run => warn!("the command did not end in time: it was killed"),
            End { .. } => {}
        }
        if has_run {
            metrics.command_ended(false);
            info!("the command was ended");
        }
    }
    Ok(None)
}

/// Gives the guard its orders until it has ended. Returns its status, and how the command ended.
async fn until_ended(
    held: &Held,
    guard: &mut Child,
    link: UnixStream,
    limits: Limits,
    shows: Shows<'_>,
) -> (io::Result<ExitStatus>, End) {
    let (reports, mut orders) = link.into_split();
    let mut reports = BufReader::new(reports).lines();
    let mut end = End::default();
    let Holding { mut until, mut ends, .. } = held.holding();
    let (starts, mut stops, mut is_open) = (now() + limits.start, None, true);
    let ended = loop {
        // It would not say that the command has ended, nor end it with TERM.
        if let Some(guard) = id_of(guard).filter(|id| descendants::is_stopped(id.as_raw_pid())) {
            let _ = kill_process(guard, Signal::CONT);
            warn!("the guard of the command was stopped: it is continued");
        }
        let sent = async {
            send(&mut orders, &order(until, ends)).await;
            if end.lost {
                send(&mut orders, LOST).await;
            }
        };
        // A guard that is stopped does not read.
        select! {
            () = sent => {}
            () = sleep_until(ends) => {}
        }
        if end.lost && stops.is_none() {
            stops = Some(now() + limits.stop);
        }
        select! {
            biased;
            status = guard.wait() => break Some(status),
            report = reports.next_line(), if is_open => match report {
                Ok(Some(report)) => end.note(&report, held.epoch(), shows),
                Ok(None) | Err(_) => is_open = false,
            },
            () = held.lost(), if !end.lost => end.loses(shows),
            // What a command has left behind that ended by itself has no more time, as its guard knows: otherwise one process
            // that cannot be killed would keep the lease for a command that has ended.
            later = held.extended(ends, end.lost), if end.by_itself.is_none() => Holding { until, ends, .. } = later,
            () = sleep_until(ends) => break None,
            () = sleep_until(stops.unwrap_or_default()), if stops.is_some() => break None,
            () = sleep_until(starts), if end.since.is_none() => {
                let cause = format!("it did not start within {:?}", limits.start);
                end.failed = Some(io::Error::new(ErrorKind::TimedOut, cause));
                break None;
            }
        }
    };
    let due_killed = ended.is_none();
    let status = if let Some(status) = ended {
        status
    } else {
        let due = order(now(), now());
        select! {
            () = send(&mut orders, &due) => {}
            () = sleep(LOOK) => {}
        }
        killed(guard).await
    };
    // A guard that a tracer keeps from ending keeps its end of the socket open.
    while let Ok(Ok(Some(report))) = timeout(KILLING, reports.next_line()).await {
        end.note(&report, held.epoch(), shows);
    }
    // Of a command that had ended by itself the guard knows whether anything was left to kill, unless it was killed.
    let guard_was_killed = status.as_ref().is_ok_and(|status| status.signal().is_some());
    end.killed |= due_killed && (end.by_itself.is_none() || guard_was_killed);
    (status, end)
}

/// The id of a process that has not been waited for.
fn id_of(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
}

/// Waits until the guard has killed everything and ended. It is killed only while it is stopped, or if it takes too long:
/// as long as it lives, nothing is left behind, even if this process ends now.
async fn killed(guard: &mut Child) -> io::Result<ExitStatus> {
    let pid = id_of(guard).map(Pid::as_raw_pid);
    let looks = async {
        while !pid.is_some_and(descendants::is_stopped) {
            sleep(LOOK).await;
        }
    };
    select! {
        status = guard.wait() => return status,
        _ = timeout(KILLING, looks) => {}
    }
    kill(guard).await
}

/// Kills a guard. A tracer may keep it from ending, or its end to itself: then its descendants are killed as well.
async fn kill(guard: &mut Child) -> io::Result<ExitStatus> {
    let pid = id_of(guard).map(Pid::as_raw_pid);
    let _ = guard.start_kill();
    let ended = async {
        while !pid.is_none_or(|pid| descendants::has_ended(pid) || descendants::kill_descendants(pid)) {
            sleep(LOOK).await;
        }
    };
    select! {
        biased;
        status = guard.wait() => status,
        () = ended => match guard.try_wait() {
            Ok(None) => Ok(ExitStatus::from_raw(Signal::KILL.as_raw())),
            status => status.map(Option::unwrap_or_default),
        }
    }
}

/// Kills the descendants, before this process exits at once. A guard that runs would kill them when its orders end; one
/// that is stopped, or was killed, does not.
pub async fn abandon() {
    let _ = timeout(KILLING, Descendants::All.end()).await;
}

/// Takes note of the ends of processes that this one has adopted, as the first process of a container has to.
///
/// All children of the process have to be started on the calling thread, which must not be the main thread.
///
/// # Errors
/// The system does not report them.
pub async fn reap() -> io::Result<Infallible> {
    let mut ended = signal(SignalKind::child())?;
    loop {
        ended.recv().await;
        Descendants::Adopted.reap(|_, _| {});
    }
}

/// The exit status that a shell would report.
#[must_use]
pub fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}

// === impl End ===

impl End {
    /// Takes note of a report of the guard.
    fn note(&mut self, report: &str, epoch: u64, shows: Shows<'_>) {
        let Shows { running, metrics } = shows;
        if report == KILLED {
            self.killed = true;
        } else if report == TERMINATED {
            self.loses(shows);
        } else if let Some(pid) = report.strip_prefix(RUNS) {
            info!(epoch, pid, "the command runs");
            let since = wall();
            metrics.command_started(since);
            self.since = Some(since);
            running.send_replace(if self.lost { Running::Ending(since) } else { Running::Since(since) });
        } else if let Some(number) = report.strip_prefix(FAILED) {
            self.failed = Some(cause(number));
        } else if let Some(Ok(status)) = report.strip_prefix(ENDED).map(str::parse) {
            info!(status, "the command ended by itself");
            self.by_itself = Some(status);
            metrics.command_ended(true);
            running.send_replace(Running::Leftovers(status));
        }
    }

    fn loses(&mut self, shows: Shows<'_>) {
        self.lost = true;
        if let (Some(since), None) = (self.since, self.by_itself) {
            shows.running.send_replace(Running::Ending(since));
        }
    }
}

/// The cause that the guard reports of a command that could not be started.
fn cause(number: &str) -> io::Error {
    io::Error::from_raw_os_error(number.parse().unwrap_or_default())
}

/// Starts the guard. Returns it, and the socket for orders to it and reports from it.
fn start(held: &Held, command: &[OsString], name: &str, owner: &str) -> io::Result<(Child, UnixStream)> {
    let (mut guard, link) = guard_of(command)?;
    guard.env("LEASE_EPOCH", held.epoch().to_string()).env("LEASE_NAME", name).env("LEASE_OWNER", owner);
    guard.process_group(0);
    Ok((guard.spawn()?, link))
}

/// The guard of this command, which is not started yet, and the socket for orders to it and reports from it.
fn guard_of(command: &[OsString]) -> io::Result<(Command, UnixStream)> {
    // On Linux this starts the running program even if its file has been replaced meanwhile.
    let own = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { env::current_exe()? };
    let (link, input) = UnixStream::pair()?;
    let mut guard = Command::new(own);
    guard.arg0("lease-keeper").args([GUARD, "--"]).args(command);
    guard.stdin(Stdio::from(OwnedFd::from(input.into_std()?)));
    Ok((guard, link))
}

/// Sends an order or a report. A receiver that has ended is noticed by its exit, or by the end of what it sends.
async fn send(to: &mut OwnedWriteHalf, line: &str) {
    let _ = to.write_all(format!("{line}\n").as_bytes()).await;
}

/// The order that the command runs until one moment, and everything has ended at another one.
fn order(until: Moment, ends: Moment) -> String {
    let nanoseconds =
        [until.adjusted, until.raw, ends.adjusted, ends.raw].map(|clock| clock.as_nanos().to_string());
    nanoseconds.join(" ")
}
