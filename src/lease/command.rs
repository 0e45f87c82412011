//! A command that runs while the lease is held, and never longer.
//!
//! A second process, the guard, is the parent of the command. It knows until when the command may run, and kills it
//! then, even if the keeper was stopped, or killed.

use std::convert::Infallible;
use std::env;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream as Socket;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{self, ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::process::{Pid, Signal, kill_process_group};
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

mod once;

pub(super) use once::once;

use super::claim::Moment;
use super::clock::{now, sleep_until, wall};
use super::descendants::{self, Descendants};
use super::held::{Held, Lease};
use super::metrics::Metrics;

/// The option with which the program runs as the guard of a command.
pub const GUARD: &str = "--guard";
/// The order to the guard that the lease is lost; all other orders are the moment at which the lease ends.
const LOST: &str = "lost";
/// The report of the guard that the command has ended by itself, before its status.
const ENDED: &str = "ended ";
/// The report of the guard that the command could not be started, before the cause.
const FAILED: &str = "failed ";
/// The report of the guard that it had to kill processes of the command.
const KILLED: &str = "killed";
/// Killing processes that can be killed takes less.
const LONG: Duration = Duration::from_secs(2);
/// What a guard that runs may take to kill thousands of processes, before this process does it.
const KILLING: Duration = Duration::from_millis(500);
/// The pause before another look whether the guard is stopped.
const LOOK: Duration = Duration::from_millis(10);
/// Longer than any check may take.
const LONGEST: Duration = Duration::from_secs(1 << 32);
/// The status of a command that was killed, as a shell reports it.
const STATUS_OF_KILLED: u8 = 137;

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

/// Whether the command runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Running {
    /// It does not.
    #[default]
    No,
    /// It does, since this time in seconds since 1970.
    Since(i64),
    /// It received TERM, and it or a process that it has started still runs.
    Ending,
    /// It has ended by itself with this status, and a process that it has started still runs.
    Leftovers(u8),
}

/// The end of a command, as far as it is known.
#[derive(Debug, Default)]
struct End {
    /// The lease was lost while the command or a process that it has started still ran.
    lost: bool,
    /// The status of a command that ended by itself.
    by_itself: Option<u8>,
    /// A process was killed because it did not end after TERM.
    killed: bool,
}

/// Runs the command whenever the lease is held, and ends it when the lease is lost: TERM at once, KILL at the moment
/// by which no work may depend on the lease, both for every process that it has started. Returns the status of a
/// command that ended by itself, or `None` when the lease is released. It may take `stop` to end at most. `running` and
/// `metrics` show its state.
///
/// All children of the process have to be started on the calling thread, which must not be the main thread.
///
/// # Errors
/// The guard cannot be started.
pub async fn run(
    lease: Lease,
    command: &[OsString],
    name: &str,
    owner: &str,
    stop: Duration,
    running: &watch::Sender<Running>,
    metrics: &Metrics,
) -> Result<Option<u8>, CannotRun> {
    while let Some(held) = lease.held().await {
        let started = start(&held, command, name, owner);
        let (mut guard, link) = started.map_err(|cause| CannotRun::new(command, "started", cause))?;
        info!(epoch = held.epoch(), pid = guard.id(), "the command runs");
        let since = wall();
        metrics.command_started(since);
        running.send_replace(Running::Since(since));
        let (status, mut end) = until_ended(&held, &mut guard, link, stop, running, metrics).await;
        // Nothing is left behind, whatever happened to the guard.
        if timeout(LONG, Descendants::Adopted.end()).await.is_err() {
            warn!(
                "processes of the command cannot be killed; this candidate takes no lease until they have ended"
            );
            lease.able(Err("processes of the command before cannot be killed".to_owned()));
            Descendants::Adopted.end().await;
            lease.able(Ok(()));
        }
        let status = status.map_err(|cause| CannotRun::new(command, "waited for", cause))?;
        if end.by_itself.is_none() && !end.lost && held.is_held() {
            // The guard was killed, or could not start the command.
            end.ended_by_itself(code(status), running, metrics);
        }
        running.send_replace(Running::No);
        match end {
            End { by_itself: Some(status), killed, .. } => {
                if killed {
                    warn!("processes that the command left behind did not end after TERM: they were killed");
                }
                return Ok(Some(status));
            }
            End { killed: true, .. } => warn!("the command did not end after TERM: it was killed"),
            End { .. } => {}
        }
        metrics.command_ended(false);
        info!("the command was ended");
    }
    Ok(None)
}

/// Gives the guard its orders until it has ended. Returns its status, and how the command ended.
async fn until_ended(
    held: &Held,
    guard: &mut Child,
    link: UnixStream,
    stop: Duration,
    running: &watch::Sender<Running>,
    metrics: &Metrics,
) -> (io::Result<ExitStatus>, End) {
    let (reports, mut orders) = link.into_split();
    let mut reports = BufReader::new(reports).lines();
    let (mut end, mut ends, mut stops, mut is_open) = (End::default(), held.ends(), held.ends(), true);
    let ended = loop {
        let sent = async {
            send(&mut orders, &order(ends)).await;
            if end.lost {
                send(&mut orders, LOST).await;
            }
        };
        // A guard that is stopped does not read.
        select! {
            () = sent => {}
            () = sleep_until(ends) => {}
        }
        select! {
            status = guard.wait() => break Some(status),
            report = reports.next_line(), if is_open => match report {
                Ok(Some(report)) => end.note(&report, running, metrics),
                Ok(None) | Err(_) => is_open = false,
            },
            () = held.lost(), if !end.lost => {
                (end.lost, stops) = (true, now() + stop);
                if end.by_itself.is_none() {
                    running.send_replace(Running::Ending);
                }
            }
            later = held.extended(ends, end.lost) => ends = later,
            () = sleep_until(ends) => break None,
            () = sleep_until(stops), if end.lost => break None,
        }
    };
    let status = if let Some(status) = ended {
        status
    } else {
        let due = order(now());
        select! {
            () = send(&mut orders, &due) => {}
            () = sleep(LOOK) => {}
        }
        end.killed = true;
        killed(guard).await
    };
    // A guard that a tracer keeps from ending keeps its end of the socket open.
    while let Ok(Ok(Some(report))) = timeout(KILLING, reports.next_line()).await {
        end.note(&report, running, metrics);
    }
    (status, end)
}

/// Waits until the guard has killed everything and ended. It is killed only while it is stopped, or if it takes too long:
/// as long as it lives, nothing is left behind, even if this process ends now.
async fn killed(guard: &mut Child) -> io::Result<ExitStatus> {
    let pid = guard.id().and_then(|pid| i32::try_from(pid).ok());
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
    let pid = guard.id().and_then(|pid| i32::try_from(pid).ok());
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

/// Kills the descendants of a stopped guard, before this process exits at once. A guard that runs kills everything itself
/// when its orders end.
pub async fn abandon() {
    if Descendants::All.is_any_stopped() {
        let _ = timeout(KILLING, Descendants::All.end()).await;
    }
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

/// Runs as the guard: runs the command as long as the orders on standard input, a socket, allow it, and ends when no
/// process that it has started is left. Returns the command's status as a shell would report it.
///
/// It logs nothing while the command runs: the reader of its log may be stopped.
///
/// # Errors
/// The command cannot be started.
pub async fn guard(command: &[OsString]) -> Result<u8, CannotRun> {
    let failed = |cause| CannotRun::new(command, "started", cause);
    descendants::adopt().map_err(failed)?;
    // A terminal sends it to the whole group.
    let _terminate = signal(SignalKind::terminate()).map_err(failed)?;
    // The kernel sends it to this group when the keeper ends while a process of it is stopped.
    let _hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let mut ended = signal(SignalKind::child()).map_err(failed)?;
    let (orders, mut reports) = link_to_keeper().map_err(failed)?.into_split();
    let mut orders = BufReader::new(orders).lines();
    let mut ends = match orders.next_line().await {
        Ok(Some(order)) => moment(&order),
        _ => Moment::default(),
    };
    if ends.may_have_come(now()) {
        warn!("the lease was lost before the command could be started");
        return Ok(STATUS_OF_KILLED);
    }
    let Some((program, arguments)) = command.split_first() else {
        return Err(failed(io::Error::other("it is empty")));
    };
    let mut started = process::Command::new(program);
    // In a group without the guard, which can be stopped and killed as a whole.
    started.args(arguments).stdin(Stdio::null()).process_group(0);
    let child = match started.spawn() {
        Ok(child) => child,
        Err(cause) => {
            send(&mut reports, &format!("{FAILED}{cause}")).await;
            return Err(failed(cause));
        }
    };
    let child = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let (mut status, mut ending, mut lost) = (None, false, false);
    let of = |status: Option<u8>| status.unwrap_or(STATUS_OF_KILLED);
    loop {
        select! {
            _ = ended.recv() => {
                let is_left = Descendants::All.reap(|pid, how| {
                    if Some(pid) == child {
                        let signal = how.terminating_signal().unwrap_or_default();
                        status = Some(u8::try_from(how.exit_status().unwrap_or(128 + signal)).unwrap_or(u8::MAX));
                    }
                });
                let has_ended = if ending { None } else { status };
                if let Some(status) = has_ended {
                    // Processes that it leaves behind have the time until the term's end.
                    ending = true;
                    send(&mut reports, &format!("{ENDED}{status}")).await;
                    Descendants::All.signal(Signal::TERM);
                }
                if !is_left {
                    return Ok(of(status));
                }
            }
            order = orders.next_line() => match order {
                Ok(Some(order)) if order == LOST => {
                    lost = true;
                    if !ending {
                        ending = true;
                        Descendants::All.signal(Signal::TERM);
                    }
                }
                // Processes that a command has left behind which ended by itself have no more time.
                Ok(Some(order)) => {
                    if status.is_none() || lost {
                        ends = moment(&order);
                    }
                }
                // The keeper has ended.
                Ok(None) | Err(_) => {
                    Descendants::All.end().await;
                    return Ok(of(status));
                }
            },
            () = sleep_until(ends) => {
                // At once those of its own group, however many: its number is no one else's as long as it is not reaped.
                if let (None, Some(group)) = (status, child) {
                    let _ = kill_process_group(group, Signal::KILL);
                }
                Descendants::All.end().await;
                send(&mut reports, KILLED).await;
                return Ok(of(status));
            }
        }
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
    fn note(&mut self, report: &str, running: &watch::Sender<Running>, metrics: &Metrics) {
        if report == KILLED {
            self.killed = true;
        } else if let Some(Ok(status)) = report.strip_prefix(ENDED).map(str::parse) {
            self.ended_by_itself(status, running, metrics);
        }
    }

    fn ended_by_itself(&mut self, status: u8, running: &watch::Sender<Running>, metrics: &Metrics) {
        info!(status, "the command ended by itself");
        self.by_itself = Some(status);
        metrics.command_ended(true);
        running.send_replace(Running::Leftovers(status));
    }
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

/// The guard's end of the socket, its standard input.
fn link_to_keeper() -> io::Result<UnixStream> {
    let link = Socket::from(io::stdin().as_fd().try_clone_to_owned()?);
    link.set_nonblocking(true)?;
    UnixStream::from_std(link)
}

/// Sends an order or a report. A receiver that has ended is noticed by its exit, or by the end of what it sends.
async fn send(to: &mut OwnedWriteHalf, line: &str) {
    let _ = to.write_all(format!("{line}\n").as_bytes()).await;
}

/// Writes a moment for [`moment`].
fn order(ends: Moment) -> String {
    format!("{} {}", ends.adjusted.as_nanos(), ends.raw.as_nanos())
}

/// Reads a moment on the clocks, which all processes of the machine share.
fn moment(order: &str) -> Moment {
    let mut clocks = order.split(' ').map(|clock| Duration::from_nanos(clock.parse().unwrap_or(0)));
    let mut next = || clocks.next().unwrap_or_default();
    Moment { adjusted: next(), raw: next() }
}
