//! The processes that a process has started, directly or through others, whatever group or session they are in.
//!
//! A process that [adopts][adopt] its descendants becomes the parent of each whose own parent has ended, so that none is
//! lost from sight. It then has to take note of their ends, as the first process of a container has to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, waitpid};
use tokio::process::{Child, Command};
use tokio::time::sleep;

/// The pause before it is looked again whether a process that was killed is gone.
const SOON: Duration = Duration::from_millis(5);
const LATER: Duration = Duration::from_secs(1);

/// The children whose ends are waited for where they were started. All others were adopted.
#[derive(Clone, Debug, Default)]
pub struct Children(Arc<Mutex<BTreeSet<i32>>>);

/// A child that was started by [`Children::start`].
#[derive(Debug)]
pub(super) struct Started {
    child: Child,
    pid: i32,
    children: Children,
}

/// Makes this process the parent of each of its descendants whose own parent ends.
///
/// # Errors
/// The system cannot do that; Linux can.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn adopt() -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(getpid())).map_err(Into::into)
}

/// Makes this process the parent of each of its descendants whose own parent ends.
///
/// # Errors
/// The system cannot do that; Linux can.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn adopt() -> io::Result<()> {
    Err(io::Error::other("only Linux lets a process adopt its descendants"))
}

// === impl Children ===

impl Children {
    /// Starts a child.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(&self, command: &mut Command) -> io::Result<Started> {
        // Locked, so that a child that ends at once is not taken for an orphan.
        let mut known = self.known();
        let child = command.spawn()?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default();
        known.insert(pid);
        Ok(Started { child, pid, children: self.clone() })
    }

    /// Sends a signal to every descendant but these children and theirs. Returns how many there were.
    pub(super) fn signal(&self, signal: Signal) -> usize {
        let found = descendants(&self.known());
        for pid in found.iter().filter_map(|pid| Pid::from_raw(*pid)) {
            // One that has ended needs no signal.
            let _ = kill_process(pid, signal);
        }
        found.len()
    }

    /// Kills every descendant but these children and theirs, until none is left.
    pub(super) async fn end_others(&self) {
        // Stopped, none starts another one while the others are killed.
        self.signal(Signal::STOP);
        let mut pause = SOON;
        while self.signal(Signal::KILL) > 0 {
            self.reap(|_, _| {});
            sleep(pause).await;
            pause = (pause * 2).min(LATER);
        }
    }

    /// Takes note of the ends of adopted children. Returns whether another one is left.
    pub fn reap(&self, mut ended: impl FnMut(Pid, WaitStatus)) -> bool {
        let (known, own) = (self.known(), getpid().as_raw_pid());
        let orphans = parents().into_iter().filter(|(pid, parent)| *parent == own && !known.contains(pid));
        let mut is_left = false;
        for pid in orphans.filter_map(|(pid, _)| Pid::from_raw(pid)) {
            match waitpid(Some(pid), WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => ended(pid, status),
                _ => is_left = true,
            }
        }
        is_left
    }

    fn known(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Started ===

impl Started {
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub async fn wait(&mut self) -> io::Result<std::process::ExitStatus> {
        self.child.wait().await
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.children.known().remove(&self.pid);
    }
}

fn descendants(except: &BTreeSet<i32>) -> BTreeSet<i32> {
    let parents = parents();
    let mut found = BTreeSet::new();
    let mut next = vec![getpid().as_raw_pid()];
    while let Some(of) = next.pop() {
        for (pid, _) in parents.iter().filter(|(pid, parent)| **parent == of && !except.contains(pid)) {
            if found.insert(*pid) {
                next.push(*pid);
            }
        }
    }
    found
}

/// Every process's parent, by its number.
fn parents() -> BTreeMap<i32, i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // pid (name) state parent …; a name may hold spaces and parentheses.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent))
    });
    processes.collect()
}
