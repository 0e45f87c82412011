//! A program that checks the service: it runs once, and leaves nothing behind.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tracing::warn;

use super::{ENDED, FAILED, LONG, RUNS, cause, guard_of, kill, order, send};
use crate::lease::clock::now;
use crate::lease::descendants::Descendants;

/// Runs a program under a guard of its own, for at most so long. Returns its status as a shell would report it, when no
/// process is left that the program has started: the guard kills them, also if this is dropped, and if this process is
/// stopped.
///
/// # Errors
/// The program cannot be started, has no result in its time, or its guard has ended.
pub(in crate::lease) async fn once(command: &[String], longest: Duration) -> io::Result<u8> {
    let command: Vec<_> = command.iter().map(OsString::from).collect();
    let (mut guard, link) = guard_of(&command)?;
    guard.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut running = OfCheck(Some(guard.spawn()?));
    // It has the guard's end of the socket.
    drop(guard);
    // The end of the orders is the order to kill everything, also if this is dropped.
    let (reports, mut orders) = link.into_split();
    let end = now() + longest;
    send(&mut orders, &order(end, end)).await;
    let mut reports = BufReader::new(reports).lines();
    let mut report = reports.next_line().await?.unwrap_or_default();
    if report.starts_with(RUNS) {
        report = reports.next_line().await?.unwrap_or_default();
    }
    drop(orders);
    if let Some(guard) = &mut running.0 {
        let status = guard.wait().await?;
        running.0 = None;
        without_leftovers(status).await;
    }
    if let Some(number) = report.strip_prefix(FAILED) {
        return Err(io::Error::other(format!("{}. Correct --check", cause(number))));
    }
    let status = report.strip_prefix(ENDED).and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::Error::other("its guard has ended, or its time was over"))
}

/// The guard of a check, whose orders have ended. Dropped, it is killed if it does not end as well.
struct OfCheck(Option<Child>);

impl Drop for OfCheck {
    fn drop(&mut self) {
        if let (Some(mut guard), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move {
                let in_time = timeout(LONG, guard.wait()).await;
                let ended = match in_time {
                    Ok(ended) => ended,
                    Err(_) => kill(&mut guard).await,
                };
                if let Ok(status) = ended {
                    without_leftovers(status).await;
                }
            });
        }
    }
}

/// Kills what the guard of a check has left behind, if it was killed before it could do so. They are this process's now.
async fn without_leftovers(status: ExitStatus) {
    if status.signal().is_some() && timeout(LONG, Descendants::Adopted.end()).await.is_err() {
        warn!("processes that a check has started cannot be killed");
    }
}
