//! A command that runs while the lease is held, and never longer.
//!
//! A second process, the guard, is the parent of the command. It knows until when the command may run, and kills it
//! then, even if the keeper was stopped, or killed.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_current_process_group, kill_process_group};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStdin, Command};
use tokio::select;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::claim::Moment;
use super::clock::{now, sleep_until};
use super::held::{Held, Lease};

/// The option with which the program runs as the guard of a command.
pub const GUARD: &str = "--guard";
/// The order to the guard that the lease is lost; all other orders are the moment at which the lease ends.
const LOST: &str = "lost";

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
        file.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let is_there = if program.as_bytes().contains(&b'/') {
        is_program(Path::new(program))
    } else {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).any(|folder| is_program(&folder.join(program)))
    };
    let cause = || io::Error::other("there is no such program, or it is not executable");
    if is_there { Ok(()) } else { Err(CannotRun::new(command, "started", cause())) }
}

/// Runs the command whenever the lease is held, and ends it when the lease is lost: TERM at once, KILL at the moment
/// by which no work may depend on the lease. Returns the status of a command that ended by itself, or `None` when
/// the lease is released.
///
/// The command's own children get the same signals, as long as they stay in its process group.
///
/// # Errors
/// The guard cannot be started.
pub async fn run(
    lease: Lease,
    command: &[OsString],
    name: &str,
    owner: &str,
) -> Result<Option<ExitStatus>, CannotRun> {
    while let Some(held) = lease.held().await {
        let failed = |cause| CannotRun::new(command, "started", cause);
        let mut guard = start(&held, command, name, owner).map_err(failed)?;
        let no_pipe = || failed(io::Error::other("the guard has no pipe"));
        let mut orders = guard.stdin.take().ok_or_else(no_pipe)?;
        let group = guard.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        // A process group that has ended needs no signal.
        let kill = || group.is_some_and(|group| kill_process_group(group, Signal::KILL).is_ok());
        info!(epoch = held.epoch(), pid = guard.id(), "the command runs");
        let mut ends = held.ends();
        let ended = loop {
            order(&mut orders, &ends.as_nanos().to_string()).await;
            select! {
                ended = guard.wait() => break Some(ended),
                renewed = held.renewed(ends) => match renewed {
                    Some(later) => ends = later,
                    None => break None,
                }
            }
        };
        if let Some(ended) = ended {
            // Processes that the command left behind also end.
            kill();
            let failed = |cause| CannotRun::new(command, "waited for", cause);
            let status = ended.map_err(failed)?;
            info!(%status, "the command ended by itself");
            return Ok(Some(status));
        }
        order(&mut orders, LOST).await;
        let ended = select! {
            ended = guard.wait() => ended,
            () = sleep_until(ends) => {
                kill();
                guard.wait().await
            }
        };
        kill();
        match ended {
            Ok(status) if status.signal() == Some(Signal::KILL.as_raw()) => {
                warn!("the command did not end after TERM: it was killed");
            }
            _ => info!("the command was ended"),
        }
    }
    Ok(None)
}

/// Runs as the guard: runs the command as long as the orders on standard input allow it, and ends with it.
///
/// # Errors
/// The command cannot be started.
pub async fn guard(command: &[OsString]) -> Result<ExitStatus, CannotRun> {
    let failed = |cause| CannotRun::new(command, "started", cause);
    // TERM goes to the whole process group, which includes the guard.
    let _terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let input = io::stdin().as_fd().try_clone_to_owned().and_then(pipe::Receiver::from_owned_fd);
    let mut orders = BufReader::new(input.map_err(failed)?).lines();
    let mut ends = match orders.next_line().await {
        Ok(Some(order)) => moment(&order),
        _ => Moment::ZERO,
    };
    if now() >= ends {
        return Err(failed(io::Error::other("the lease is already lost")));
    }
    let Some((program, arguments)) = command.split_first() else {
        return Err(failed(io::Error::other("it is empty")));
    };
    let mut child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn().map_err(failed)?;
    loop {
        select! {
            ended = child.wait() => return ended.map_err(failed),
            order = orders.next_line() => match order {
                Ok(Some(order)) if order == LOST => drop(kill_current_process_group(Signal::TERM)),
                Ok(Some(order)) => ends = moment(&order),
                // The keeper has ended.
                Ok(None) | Err(_) => drop(kill_current_process_group(Signal::KILL)),
            },
            () = sleep_until(ends) => drop(kill_current_process_group(Signal::KILL)),
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
    Command::new(own)
        .args([GUARD, "--"])
        .args(command)
        .env("LEASE_EPOCH", held.epoch().to_string())
        .env("LEASE_NAME", name)
        .env("LEASE_OWNER", owner)
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()
}

/// Sends an order to the guard. A guard that has ended is noticed by its exit.
async fn order(orders: &mut ChildStdin, order: &str) {
    let _ = orders.write_all(format!("{order}\n").as_bytes()).await;
}

/// Reads a moment on the clock that all processes of the machine share.
fn moment(order: &str) -> Moment {
    Duration::from_nanos(order.parse().unwrap_or(0))
}
