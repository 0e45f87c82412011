//! A command that runs while the lease is held, and never longer.
//!
//! A second process, the guard, is the parent of the command. It knows until when the command may run, and kills it
//! then, even if the keeper was stopped, or killed.

use std::convert::Infallible;
use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{self, ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::process::{Pid, Signal};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStdin, Command};
use tokio::select;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use super::claim::Moment;
use super::clock::{now, sleep_until, wall};
use super::descendants::{self, Descendants};
use super::held::{Held, Lease};

/// The option with which the program runs as the guard of a command.
pub const GUARD: &str = "--guard";
/// The order to the guard that the lease is lost; all other orders are the moment at which the lease ends.
const LOST: &str = "lost";
/// Killing processes that can be killed takes less.
const LONG: Duration = Duration::from_secs(2);
/// The status of a command that was killed, as a shell reports it.
const KILLED: u8 = 137;

/// The command cannot be run.
#[derive(Debug, Error)]
#[error("{} cannot be {done}: {cause}. Correct the command after --", program.display())]
pub struct CannotRun {
    program: OsString,
    done: &'static str,
    #[source]
    cause: io::Error,
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
    /// It was told to end, and it or a process that it has started still runs.
    Ending,
}

/// Runs the command whenever the lease is held, and ends it when the lease is lost: TERM at once, KILL at the moment
/// by which no work may depend on the lease, both for every process that it has started. Returns the status of a
/// command that ended by itself, or `None` when the lease is released. It may take `stop` to end at most. `running` shows its
/// state.
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
) -> Result<Option<u8>, CannotRun> {
    let failed = |cause| CannotRun::new(command, "started", cause);
    while let Some(held) = lease.held().await {
        let mut guard = start(&held, command, name, owner).map_err(failed)?;
        let no_pipe = || failed(io::Error::other("the guard has no pipe"));
        let mut orders = guard.stdin.take().ok_or_else(no_pipe)?;
        info!(epoch = held.epoch(), pid = guard.id(), "the command runs");
        running.send_replace(Running::Since(wall()));
        let (mut ends, mut lost, mut killed) = (held.ends(), false, false);
        let mut stops = ends;
        let ended = loop {
            let told = async {
                order(&mut orders, &format!("{} {}", ends.adjusted.as_nanos(), ends.raw.as_nanos())).await;
                if lost {
                    order(&mut orders, LOST).await;
                }
            };
            // A guard that is stopped does not read.
            select! {
                () = told => {}
                () = sleep_until(ends) => {}
            }
            select! {
                ended = guard.wait() => break ended,
                () = held.lost(), if !lost => {
                    (lost, stops) = (true, now() + stop);
                    running.send_replace(Running::Ending);
                }
                later = held.extended(ends, lost) => ends = later,
                () = sleep_until(ends) => killed = true,
                () = sleep_until(stops), if lost => killed = true,
            }
            if killed {
                let _ = guard.start_kill();
                break guard.wait().await;
            }
        };
        // Nothing is left behind, whatever became of the guard.
        if timeout(LONG, Descendants::Adopted.end()).await.is_err() {
            warn!(
                "processes of the command cannot be killed; this candidate takes no lease until they have ended"
            );
            lease.able(Err("processes of the command before cannot be killed".to_owned()));
            Descendants::Adopted.end().await;
            lease.able(Ok(()));
        }
        running.send_replace(Running::No);
        if killed {
            warn!("the command did not end after TERM: it was killed");
        }
        let status = ended.map_err(|cause| CannotRun::new(command, "waited for", cause))?;
        if lost || !held.is_held() {
            info!("the command was ended");
        } else {
            info!(%status, "the command ended by itself");
            return Ok(Some(code(status)));
        }
    }
    Ok(None)
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

/// Runs as the guard: runs the command as long as the orders on standard input allow it, and ends when no process
/// that it has started is left. Returns the command's status as a shell would report it.
///
/// # Errors
/// The command cannot be started.
pub async fn guard(command: &[OsString]) -> Result<u8, CannotRun> {
    let failed = |cause| CannotRun::new(command, "started", cause);
    descendants::adopt().map_err(failed)?;
    // A terminal sends it to the whole group.
    let _terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut ended = signal(SignalKind::child()).map_err(failed)?;
    let input = io::stdin().as_fd().try_clone_to_owned().and_then(pipe::Receiver::from_owned_fd);
    let mut orders = BufReader::new(input.map_err(failed)?).lines();
    let mut ends = match orders.next_line().await {
        Ok(Some(order)) => moment(&order),
        _ => Moment::default(),
    };
    if ends.may_have_come(now()) {
        return Err(failed(io::Error::other("the lease is already lost")));
    }
    let Some((program, arguments)) = command.split_first() else {
        return Err(failed(io::Error::other("it is empty")));
    };
    let child =
        process::Command::new(program).args(arguments).stdin(Stdio::null()).spawn().map_err(failed)?;
    let child = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let (mut status, mut ending, mut lost) = (None, false, false);
    let of = |status: Option<u8>| status.unwrap_or(KILLED);
    loop {
        select! {
            _ = ended.recv() => {
                let is_left = Descendants::All.reap(|pid, how| {
                    if Some(pid) == child {
                        let signal = how.terminating_signal().unwrap_or_default();
                        status = Some(u8::try_from(how.exit_status().unwrap_or(128 + signal)).unwrap_or(u8::MAX));
                    }
                });
                if !is_left {
                    return Ok(of(status));
                }
                if status.is_some() && !ending {
                    // What it leaves behind has the time until the term's end.
                    ending = true;
                    Descendants::All.signal(Signal::TERM);
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
                // What a command that ended by itself has left behind gets no more time.
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
                // Before the log, whose reader may be stopped.
                Descendants::All.end().await;
                warn!("the command did not end after TERM: it was killed");
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

fn start(held: &Held, command: &[OsString], name: &str, owner: &str) -> io::Result<Child> {
    // On Linux this starts the running program even if its file has been replaced meanwhile.
    let own = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { env::current_exe()? };
    let mut guard = Command::new(own);
    guard.arg0("lease-keeper").args([GUARD, "--"]).args(command);
    guard.env("LEASE_EPOCH", held.epoch().to_string()).env("LEASE_NAME", name).env("LEASE_OWNER", owner);
    guard.stdin(Stdio::piped()).process_group(0);
    guard.spawn()
}

/// Sends an order to the guard. A guard that has ended is noticed by its exit.
async fn order(orders: &mut ChildStdin, order: &str) {
    let _ = orders.write_all(format!("{order}\n").as_bytes()).await;
}

/// Reads a moment on the clocks, which all processes of the machine share.
fn moment(order: &str) -> Moment {
    let mut clocks = order.split(' ').map(|clock| Duration::from_nanos(clock.parse().unwrap_or(0)));
    let mut next = || clocks.next().unwrap_or_default();
    Moment { adjusted: next(), raw: next() }
}
