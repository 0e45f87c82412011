//! The guard: the parent of the command, which knows until when the command may run.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as Socket;
use std::os::unix::process::CommandExt as _;
use std::process::{self, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::select;
use tokio::signal::unix::{Signal as Receives, SignalKind, signal};
use tokio::sync::oneshot::{self, Receiver, error::TryRecvError};
use tokio::time::sleep;
use tracing::warn;

use super::{
    CannotRun, ENDED, FAILED, KILLED, LOST, RUNS, STATUS_OF_KILLED, STATUS_OF_MISSING, TERMINATED, send,
};
use crate::lease::claim::Moment;
use crate::lease::clock::{now, sleep_until};
use crate::lease::descendants::{self, Descendants};

/// The pause before another look whether a command that is being started has come.
const SOON: Duration = Duration::from_millis(1);

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
    // As its argument says: it was executed as /proc/self/exe.
    #[cfg(target_os = "linux")]
    let _ = std::fs::write("/proc/self/comm", "lease-keeper");
    let _survived = sent_to_all().map_err(failed)?;
    let mut ended = signal(SignalKind::child()).map_err(failed)?;
    let (orders, mut reports) = link_to_keeper().map_err(failed)?.into_split();
    let mut orders = BufReader::new(orders).lines();
    let (mut until, mut ends) = match orders.next_line().await {
        Ok(Some(order)) => moments(&order),
        _ => Default::default(),
    };
    if ends.may_have_come(now()) {
        warn!("the lease was lost before the command could be started");
        return Ok(STATUS_OF_KILLED);
    }
    let Some((program, arguments)) = command.split_first() else {
        return Err(failed(io::Error::other("it is empty")));
    };
    let mut starts = process::Command::new(program);
    // In a group without the guard, which can be stopped and killed as a whole.
    starts.args(arguments).stdin(Stdio::null()).process_group(0);
    let mut start = Start::of(starts);
    let (mut child, mut status, mut ending, mut lost) = (None, None, false, false);
    let of = |status: Option<u8>| status.unwrap_or(STATUS_OF_KILLED);
    loop {
        select! {
            biased;
            // The newest order first; and the ends of processes, which may never cease, hide none and no moment.
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
                        (until, ends) = moments(&order);
                    }
                }
                // The keeper has ended.
                Ok(None) | Err(_) => {
                    start.end_all(child.filter(|_| status.is_none())).await;
                    return Ok(of(status));
                }
            },
            // The keeper is stopped or blocked, or is about to say so.
            () = sleep_until(until), if !ending => {
                ending = true;
                send(&mut reports, TERMINATED).await;
                Descendants::All.signal(Signal::TERM);
            }
            () = sleep_until(ends) => {
                start.end_all(child.filter(|_| status.is_none())).await;
                send(&mut reports, KILLED).await;
                return Ok(of(status));
            }
            started = &mut start.result, if child.is_none() => match started.map_err(io::Error::other).flatten() {
                Ok(id) => {
                    child = i32::try_from(id).ok().and_then(Pid::from_raw);
                    // TERM may have come before it, or have ended it before it executed anything.
                    if ending {
                        Descendants::All.signal(Signal::TERM);
                    }
                    if !ending || !child.is_none_or(|child| descendants::has_ended(child.as_raw_pid())) {
                        send(&mut reports, &format!("{RUNS}{id}")).await;
                    }
                }
                Err(cause) => {
                    let number = cause.raw_os_error().unwrap_or_default();
                    send(&mut reports, &format!("{FAILED}{number}")).await;
                    return Ok(STATUS_OF_MISSING);
                }
            },
            // Until then, that of a program that does not start is the thread's that starts it.
            _ = ended.recv(), if child.is_some() => {
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
        }
    }
}

/// The start of the command, on a thread of its own: its program may be on a file system that does not answer. Killed
/// meanwhile, it executes nothing of it later.
struct Start {
    /// The process's number, if it was started.
    result: Receiver<io::Result<u32>>,
    /// Whether it has begun, or may not begin any more.
    is_decided: Arc<AtomicBool>,
}

impl Start {
    fn of(mut command: process::Command) -> Self {
        let (sends, result) = oneshot::channel();
        let is_decided = Arc::new(AtomicBool::new(false));
        let decides = Arc::clone(&is_decided);
        let started = thread::Builder::new().spawn(move || {
            if decides.swap(true, Ordering::Relaxed) {
                return;
            }
            let _ = sends.send(command.spawn().map(|child| child.id()));
            // A command that has asked for a signal at its parent's death gets it when this thread ends.
            loop {
                thread::park();
            }
        });
        let Err(cause) = started else { return Self { result, is_decided } };
        let (sends, result) = oneshot::channel();
        let _ = sends.send(Err(cause));
        Self { result, is_decided }
    }

    /// Kills everything that was started, until none is left and nothing will be: at once the command's own group, however many,
    /// if the command has not been reaped, so that the group's number is no one else's.
    async fn end_all(&mut self, group: Option<Pid>) {
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let has_begun = self.is_decided.swap(true, Ordering::Relaxed);
        loop {
            let may_come = has_begun && matches!(self.result.try_recv(), Err(TryRecvError::Empty));
            Descendants::All.end().await;
            if !may_come {
                return;
            }
            sleep(SOON).await;
        }
    }
}

/// The signals that do not end the guard: a terminal, a container or a supervisor sends one to every process, and the kernel
/// sends HUP to the guard's group when the keeper ends while a process of it is stopped.
fn sent_to_all() -> io::Result<Vec<Receives>> {
    let kinds = [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::quit(),
        SignalKind::hangup(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
        SignalKind::alarm(),
    ];
    kinds.into_iter().map(signal).collect()
}

/// The guard's end of the socket, its standard input.
fn link_to_keeper() -> io::Result<UnixStream> {
    let link = Socket::from(io::stdin().as_fd().try_clone_to_owned()?);
    link.set_nonblocking(true)?;
    UnixStream::from_std(link)
}

/// Reads an order: moments on the clocks, which all processes of the machine share.
fn moments(order: &str) -> (Moment, Moment) {
    let mut clocks = order.split(' ').map(|clock| Duration::from_nanos(clock.parse().unwrap_or(0)));
    let mut next = || clocks.next().unwrap_or_default();
    let mut moment = || Moment { adjusted: next(), raw: next() };
    (moment(), moment())
}
