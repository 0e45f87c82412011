//! A command that runs while the lease is held, and never longer.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command as OwnCommand, ExitStatus};
use std::{env, io};

use rustix::process::{Pid, Signal, getpid, getppid, kill_process_group};
use thiserror::Error;
use tokio::process::{Child, Command};
use tokio::select;
use tracing::{info, warn};

use super::clock::sleep_until;
use super::keeper::{Held, Lease};

/// The program's own option for a command's process, before it becomes the command.
pub const CHILD_OF: &str = "--child-of";

/// The command cannot be started.
#[derive(Debug, Error)]
#[error("{} cannot be started: {cause}. Correct the command after --", program.display())]
pub struct CannotStart {
    program: OsString,
    cause: io::Error,
}

/// Runs the command whenever the lease is held, and ends it when that is lost: TERM at once, KILL at the moment by
/// which nothing may depend on the lease any more. It ends by itself, with this status, or, with `None`, when
/// the lease is given up.
///
/// The command's own children get the same signals, as long as they stay in its process group.
///
/// # Errors
/// The command cannot be started.
pub async fn run(
    lease: Lease,
    command: &[OsString],
    name: &str,
    owner: &str,
) -> Result<Option<ExitStatus>, CannotStart> {
    while let Some(held) = lease.held().await {
        let mut child = start(&held, command, name, owner).map_err(|cause| {
            let program = command.first().cloned().unwrap_or_default();
            CannotStart { program, cause }
        })?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let signal = |signal| {
            // A group that is gone needs no signal.
            group.is_some_and(|group| kill_process_group(group, signal).is_ok())
        };
        info!(epoch = held.epoch(), pid = child.id(), "the command runs");
        let ended = select! {
            ended = child.wait() => Some(ended),
            ends = held.lost() => {
                signal(Signal::TERM);
                let ended = select! {
                    ended = child.wait() => ended,
                    () = sleep_until(ends) => {
                        signal(Signal::KILL);
                        warn!("the command did not end when it was told to: it was killed");
                        child.wait().await
                    }
                };
                info!(status = said(ended), "the command was ended");
                None
            }
        };
        // Nothing that it left behind goes on, either.
        signal(Signal::KILL);
        if let Some(ended) = ended {
            let status = ended.map_err(|cause| CannotStart { program: command[0].clone(), cause })?;
            info!(%status, "the command ended by itself");
            return Ok(Some(status));
        }
    }
    Ok(None)
}

/// The exit status by which a shell tells of it.
#[must_use]
pub fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Becomes the command, in the process that was started for it. It does not outlive its keeper, not even one that
/// was killed.
#[must_use]
pub fn become_command(parent: i32, command: &[OsString]) -> CannotStart {
    let program = command.first().cloned().unwrap_or_default();
    #[cfg(target_os = "linux")]
    if let Err(cause) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return CannotStart { program, cause: cause.into() };
    }
    // The keeper may have ended before that.
    if getppid().map(Pid::as_raw_nonzero).map(i32::from) != Some(parent) {
        return CannotStart { program, cause: io::Error::other("its keeper is gone") };
    }
    let cause = OwnCommand::new(&program).args(&command[1..]).exec();
    CannotStart { program, cause }
}

fn start(held: &Held, command: &[OsString], name: &str, owner: &str) -> io::Result<Child> {
    Command::new(env::current_exe()?)
        .arg(CHILD_OF)
        .arg(getpid().as_raw_nonzero().to_string())
        .arg("--")
        .args(command)
        .env("LEASE_EPOCH", held.epoch().to_string())
        .env("LEASE_NAME", name)
        .env("LEASE_OWNER", owner)
        .process_group(0)
        .spawn()
}

fn said(ended: io::Result<ExitStatus>) -> String {
    ended.map_or_else(|error| error.to_string(), |status| status.to_string())
}
