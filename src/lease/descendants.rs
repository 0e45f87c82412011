//! The processes that a process has started, directly or through others, whatever group or session they are in.
//!
//! A process that [adopts][adopt] its descendants becomes the parent of each whose own parent has ended, so that none is
//! lost from sight. It then has to take note of their ends, as the first process of a container has to.
//!
//! Linux makes an adopted process a child of the main thread, and a process that was started a child of the thread that
//! started it. So a program that also starts processes for itself, or uses a library that does, starts them on another
//! thread: there `Descendants::Adopted` leaves them alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpid, kill_process, kill_process_group,
    waitid, waitpid,
};
use tokio::process::{Child, Command};
use tokio::time::sleep;

/// The pause before another look whether a killed process has ended.
const SOON: Duration = Duration::from_millis(5);
const LATER: Duration = Duration::from_secs(1);
/// Linux's `__WNOTHREAD`: wait for children of the calling thread only.
const OF_THIS_THREAD: WaitIdOptions = WaitIdOptions::from_bits_retain(0x2000_0000);

/// Some of the descendants of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Descendants {
    /// All of them.
    All,
    /// All but the children that the calling thread has started, and theirs.
    Adopted,
}

/// A child in a process group of its own. Dropped before it has ended, it is killed, with the processes that it has
/// started.
#[derive(Debug)]
pub(super) struct Group(Child);

/// The processes that a library has started on the calling thread since a moment. A library leaves them in this
/// process's own group; none that this program starts itself is in it.
#[derive(Debug)]
pub(super) struct OfLibrary {
    before: BTreeSet<i32>,
}

/// Makes this process the parent of each of its descendants whose own parent ends.
///
/// # Errors
/// The system does not support it; Linux does.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn adopt() -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(getpid())).map_err(Into::into)
}

/// Makes this process the parent of each of its descendants whose own parent ends.
///
/// # Errors
/// The system does not support it; Linux does.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn adopt() -> io::Result<()> {
    Err(io::Error::other("only Linux lets a process adopt its descendants"))
}

// === impl Descendants ===

impl Descendants {
    /// Sends a signal to each of them. Returns how many there were.
    pub fn signal(self, signal: Signal) -> usize {
        let parents = parents();
        let found = below(self.children(&parents).collect(), &parents);
        send(signal, &found);
        found.len()
    }

    /// Kills them, until none is left.
    pub async fn end(self) {
        // A stopped process starts no other one while the others are killed.
        self.signal(Signal::STOP);
        let mut pause = SOON;
        while self.signal(Signal::KILL) > 0 {
            self.reap(|_, _| {});
            sleep(pause).await;
            pause = (pause * 2).min(LATER);
        }
    }

    /// Takes note of the ends of those that are children of this process. Returns whether another one is left.
    pub fn reap(self, mut ended: impl FnMut(Pid, WaitStatus)) -> bool {
        let mut is_left = false;
        for pid in self.children(&parents()).filter_map(Pid::from_raw) {
            match waitpid(Some(pid), WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => ended(pid, status),
                _ => is_left = true,
            }
        }
        is_left
    }

    /// Those that are children of this process.
    fn children(self, parents: &BTreeMap<i32, i32>) -> impl Iterator<Item = i32> {
        let own = getpid().as_raw_pid();
        let children = parents.iter().filter(move |(_, parent)| **parent == own).map(|(pid, _)| *pid);
        children.filter(move |pid| self == Self::All || !is_of_this_thread(*pid))
    }
}

// === impl Group ===

impl Group {
    pub fn start(command: &mut Command) -> io::Result<Self> {
        command.process_group(0).spawn().map(Self)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A child that was waited for has no number any more.
        let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok()) else { return };
        kill(&BTreeSet::from([id]));
        if let Some(group) = Pid::from_raw(id) {
            // Also those of the group whose parent has ended. An empty group needs no signal.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

// === impl OfLibrary ===

impl OfLibrary {
    pub fn from_now() -> Self {
        Self { before: of_own_group() }
    }

    /// Kills those that still run, with the processes that they have started.
    pub fn kill(self) {
        kill(&of_own_group().difference(&self.before).copied().collect());
    }
}

/// The children that the calling thread has started, and that are in this process's own group.
fn of_own_group() -> BTreeSet<i32> {
    let own = getpid().as_raw_pid();
    let group = |pid| parent_and_group(pid).map(|(_, group)| group);
    let children = parents().into_iter().filter(|(_, parent)| *parent == own).map(|(pid, _)| pid);
    children.filter(|pid| group(*pid) == group(own) && is_of_this_thread(*pid)).collect()
}

/// Kills these processes and their descendants.
fn kill(roots: &BTreeSet<i32>) {
    let mut found = BTreeSet::new();
    loop {
        // A stopped process starts no other one.
        let now = below(roots.clone(), &parents());
        let new: BTreeSet<_> = now.difference(&found).copied().collect();
        if new.is_empty() {
            break;
        }
        send(Signal::STOP, &new);
        found.extend(new);
    }
    send(Signal::KILL, &found);
}

/// Whether the calling thread has started this child.
fn is_of_this_thread(pid: i32) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT | OF_THIS_THREAD;
    Pid::from_raw(pid).is_some_and(|pid| waitid(WaitId::Pid(pid), look).is_ok())
}

fn send(signal: Signal, to: &BTreeSet<i32>) {
    for pid in to.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        // A process that has ended needs no signal.
        let _ = kill_process(pid, signal);
    }
}

/// Returns these processes and their descendants.
fn below(roots: BTreeSet<i32>, parents: &BTreeMap<i32, i32>) -> BTreeSet<i32> {
    let mut next: Vec<_> = roots.iter().copied().collect();
    let mut found = roots;
    while let Some(of) = next.pop() {
        for (pid, _) in parents.iter().filter(|(_, parent)| **parent == of) {
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
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, parent_and_group(pid)?.0))
    });
    processes.collect()
}

/// A process's parent and group. The number of a group whose leader is outside of the container is 0.
fn parent_and_group(pid: i32) -> Option<(i32, i32)> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // pid (name) state parent group …; a name may hold spaces and parentheses, and the kernel cuts it within a
    // character.
    let stat = String::from_utf8_lossy(&stat);
    let mut numbers = stat.rsplit_once(')')?.1.split_whitespace().skip(1).map_while(|text| text.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}
