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
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpid, kill_process, kill_process_group,
    wait, waitid, waitpid,
};
#[cfg(any(target_os = "linux", target_os = "android"))]
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use tokio::task::yield_now;
use tokio::time::sleep;

/// The pause before another look whether a killed process has ended.
const SOON: Duration = Duration::from_millis(5);
const LATER: Duration = Duration::from_secs(1);
/// The most looks in a row for processes that were started since the look before. Of those that start the next one and
/// end, in a session of its own each, a look catches one that has not started the next one yet.
const LOOKS: u32 = 200;
/// Linux's `__WNOTHREAD`: wait for children of the calling thread only.
const OF_THIS_THREAD: WaitIdOptions = WaitIdOptions::from_bits_retain(0x2000_0000);

/// The capability to see other processes, as a bit.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CAP_SYS_PTRACE: u64 = 1 << 19;

/// The children that were there when this process first adopted its descendants, as one that a shell starts before its `exec`: they
/// are another's.
static OTHERS: OnceLock<BTreeSet<Process>> = OnceLock::new();

/// Some of the descendants of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Descendants {
    /// All of them.
    All,
    /// All but the children that the calling thread has started, and theirs.
    Adopted,
}

/// The processes that a library has started on the calling thread since a moment, and those that they have left behind if
/// this process [adopts][adopt] them. A library leaves them in this process's own group; none that this program starts
/// itself is in it.
#[derive(Debug)]
pub(super) struct OfLibrary {
    before: BTreeSet<i32>,
    /// Whether the orphans in the group may be another program's: one that was there before this program took its place, as
    /// the first process of a container may have, leaves its orphans to this process as well.
    may_be_others: bool,
}

/// Makes this process the parent of each of its descendants whose own parent ends.
///
/// # Errors
/// The system does not support it, as Linux does, or `/proc` does not show this process's namespace, so that its
/// descendants cannot be seen.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn adopt() -> io::Result<()> {
    if !shows_this(Path::new("/proc")) {
        return Err(io::Error::other(
            "/proc does not show the processes of this PID namespace, so that those that a command starts could not be \
             ended: mount it there (unshare --mount-proc)",
        ));
    }
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    if hides(&read("/proc/self/mountinfo"), &read("/proc/self/status")) {
        return Err(io::Error::other(
            "/proc hides processes from others (hidepid), so that one of a command that has become another user, or is \
             protected otherwise, could not be seen: run lease-keeper where /proc is mounted without hidepid (systemd: \
             without ProtectProc), or with CAP_SYS_PTRACE",
        ));
    }
    OTHERS.get_or_init(|| {
        let processes = Processes::now();
        processes.those(processes.children()).collect()
    });
    rustix::process::set_child_subreaper(Some(getpid())).map_err(Into::into)
}

/// Whether the processes that this folder shows are those of the namespace of this one.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn shows_this(processes: &Path) -> bool {
    let shown = fs::read_link(processes.join("self"));
    shown.is_ok_and(|shown| shown.as_os_str() == getpid().as_raw_pid().to_string().as_str())
}

/// Whether a descendant of this process may become one that `/proc` does not show, by the texts of its `mountinfo` and
/// `status`.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn hides(mounts: &str, status: &str) -> bool {
    // The last mount is the one that is seen.
    let own = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some("/proc"));
    let options = own.and_then(|line| line.split_once(" - ")?.1.split(' ').nth(2)).unwrap_or_default();
    let option =
        |name: &str| options.split(',').rev().find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    let effective = u64::from_str_radix(&field("CapEff"), 16).unwrap_or(0);
    let how = option("hidepid").filter(|how| !["0", "off"].contains(how));
    let groups = format!("{}\t{}", field("Groups"), field("Gid"));
    let of_group = option("gid").is_some_and(|gid| groups.split_whitespace().any(|group| group == gid))
        && how.is_none_or(|how| !["4", "ptraceable"].contains(&how));
    how.is_some() && !of_group && effective & CAP_SYS_PTRACE == 0
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
    /// Sends a signal to each of them.
    pub fn signal(self, signal: Signal) {
        let processes = Processes::now();
        send(signal, &processes.below(self.own(&processes)));
    }

    /// Kills them, until none is left.
    pub async fn end(self) {
        let mut pause = SOON;
        loop {
            let mut known = BTreeSet::new();
            for _ in 0..LOOKS {
                let processes = Processes::now();
                let found = processes.below(self.own(&processes));
                // A stopped process starts no other one while the others are killed, and keeps its number and its group's.
                let stopped = send(Signal::STOP, &found);
                for signal in [Signal::STOP, Signal::KILL] {
                    processes.send_to_groups(signal, &found, &stopped);
                }
                send(Signal::KILL, &stopped);
                // Their numbers stay theirs until this process has taken note of their ends.
                let direct = self.listed().into_iter().filter(|pid| !is_others(*pid));
                for pid in direct.filter_map(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL);
                }
                // One that ends without having been seen may have started another one.
                let mut has_ended = false;
                let is_left = self.reap(|_, _| has_ended = true);
                if !is_left && (self == Self::All || !has_ended) {
                    return;
                }
                if found.is_subset(&known) && !has_ended {
                    break;
                }
                known.extend(found);
                yield_now().await;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LATER);
        }
    }

    /// Takes note of the ends of those that are children of this process. Returns whether another one is left.
    pub fn reap(self, mut ended: impl FnMut(Pid, WaitStatus)) -> bool {
        // Without others, of which only `/proc` tells them: a rule of a security module may hide them there.
        if others().next().is_none() && (self == Self::All || !has_own_children()) {
            // The kernel knows also one that has started the next one and ended before it was seen.
            loop {
                match wait(WaitOptions::NOHANG) {
                    Ok(Some((pid, status))) => ended(pid, status),
                    Ok(None) | Err(Errno::INTR) => return true,
                    Err(_) => return false,
                }
            }
        }
        let processes = Processes::now();
        let mut is_left = processes.has_unseen;
        let known: BTreeSet<_> = self.children(&processes).chain(self.listed()).collect();
        for pid in known.into_iter().filter_map(Pid::from_raw) {
            match waitpid(Some(pid), WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => ended(pid, status),
                _ => is_left |= !is_others(pid.as_raw_pid()),
            }
        }
        is_left
    }

    /// Those children of which `/proc` may hide the state, for example behind a rule of a security module: of all threads, or of the
    /// main thread, whose are the adopted ones. Linux lists them where it was [built to][children].
    ///
    /// [children]: https://man7.org/linux/man-pages/man5/proc_tid_children.5.html
    fn listed(self) -> Vec<i32> {
        let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let main = getpid().as_raw_pid().to_string();
        let threads = threads.filter(|thread| self == Self::All || *thread.file_name() == *main);
        let listed = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        let listed = listed.flat_map(|pids| {
            pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()
        });
        listed.filter(|pid| self == Self::All || !is_of_this_thread(*pid)).collect()
    }

    /// Those that are children of this process, and not another's.
    fn own(self, processes: &Processes) -> BTreeSet<i32> {
        self.children(processes).filter(|pid| !is_others(*pid)).collect()
    }

    /// Those that are children of this process.
    fn children(self, processes: &Processes) -> impl Iterator<Item = i32> {
        processes.children().filter(move |pid| self == Self::All || !is_of_this_thread(*pid))
    }
}

// === impl OfLibrary ===

impl OfLibrary {
    pub fn from_now() -> Self {
        let before = of_own_group();
        let may_be_others = before.iter().any(|pid| !is_of_this_thread(*pid));
        Self { before, may_be_others }
    }

    /// Kills those that still run, with the processes that they have started.
    pub fn kill(self) {
        let since = of_own_group().into_iter().filter(|pid| !self.before.contains(pid));
        kill(&since.filter(|pid| !self.may_be_others || is_of_this_thread(*pid)).collect());
    }
}

/// The children of this process that are in its own group. If the group's leader is outside of the container, others look as
/// if they were in it: then only those that the calling thread has started.
fn of_own_group() -> BTreeSet<i32> {
    let processes = Processes::now();
    let own = processes.group(getpid().as_raw_pid());
    let children = processes.children().filter(|pid| processes.group(*pid) == own);
    children.filter(|pid| own != Some(0) || is_of_this_thread(*pid)).collect()
}

/// Kills these processes and their descendants, and what they start meanwhile.
fn kill(roots: &BTreeSet<i32>) {
    let (mut found, mut stopped) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..LOOKS {
        let processes = Processes::now();
        let now = processes.below(roots.clone());
        if now.is_subset(&found) {
            break;
        }
        // A stopped process starts no other one, and keeps its number and its group's.
        let now_stopped = send(Signal::STOP, &now);
        processes.send_to_groups(Signal::STOP, &now, &now_stopped);
        found.extend(now);
        stopped.extend(now_stopped);
    }
    Processes::now().send_to_groups(Signal::KILL, &found, &stopped);
    send(Signal::KILL, &stopped);
}

/// Whether the calling thread has started any child that no one has taken note of yet.
fn has_own_children() -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT | OF_THIS_THREAD;
    !matches!(waitid(WaitId::All, look), Err(Errno::CHILD))
}

/// The children that are another's and still there.
fn others() -> impl Iterator<Item = Process> {
    OTHERS.get().into_iter().flatten().copied().filter(|other| other.is_there())
}

fn is_others(pid: i32) -> bool {
    others().any(|other| other.pid == pid)
}

/// Whether the calling thread has started this child.
fn is_of_this_thread(pid: i32) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT | OF_THIS_THREAD;
    Pid::from_raw(pid).is_some_and(|pid| waitid(WaitId::Pid(pid), look).is_ok())
}

/// Sends a signal to each of these processes, and returns those that it has reached. One that has ended needs none.
fn send(signal: Signal, to: &BTreeSet<Process>) -> BTreeSet<Process> {
    to.iter().copied().filter(|process| process.send(signal)).collect()
}

/// A process: once it has ended, another one may have its number, which has begun later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    pid: i32,
    /// In the kernel's ticks since it started.
    begun: u64,
}

/// Every process, by its number. The number of a group whose leader is outside of the container is 0.
#[derive(Default)]
struct Processes {
    /// Whether some could not be read, for want of a handle or of memory: then nothing shows that none is left.
    has_unseen: bool,
    all: BTreeMap<i32, Stat>,
    children: BTreeMap<i32, Vec<i32>>,
    members: BTreeMap<i32, Vec<i32>>,
}

// === impl Process ===

impl Process {
    /// Whether its number is still its own.
    fn is_there(self) -> bool {
        stat(self.pid).is_ok_and(|stat| stat.is_some_and(|stat| stat.begun == self.begun))
    }

    /// Sends it a signal. Returns whether that has reached it.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn send(self, signal: Signal) -> bool {
        let Some(pid) = Pid::from_raw(self.pid) else { return false };
        // What has this number now, and keeps it for this handle.
        let sent = pidfd_open(pid, PidfdFlags::empty()).and_then(|process| {
            if self.is_there() { pidfd_send_signal(process, signal) } else { Err(Errno::SRCH) }
        });
        match sent {
            Ok(()) => true,
            Err(Errno::SRCH) => false,
            // Before Linux 5.3, in a sandbox, or without a handle to spare.
            Err(_) => self.is_there() && kill_process(pid, signal).is_ok(),
        }
    }

    /// Sends it a signal. Returns whether that has reached it.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn send(self, signal: Signal) -> bool {
        Pid::from_raw(self.pid).is_some_and(|pid| self.is_there() && kill_process(pid, signal).is_ok())
    }
}

// === impl Processes ===

impl Processes {
    fn now() -> Self {
        let mut processes = Self::default();
        let Ok(entries) = fs::read_dir("/proc") else { return Self { has_unseen: true, ..processes } };
        for entry in entries {
            let Ok(entry) = entry else {
                processes.has_unseen = true;
                continue;
            };
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            match stat(pid) {
                Ok(Some(stat)) => {
                    processes.children.entry(stat.parent).or_default().push(pid);
                    processes.members.entry(stat.group).or_default().push(pid);
                    processes.all.insert(pid, stat);
                }
                Ok(None) => {}
                Err(_) => processes.has_unseen = true,
            }
        }
        processes
    }

    fn group(&self, pid: i32) -> Option<i32> {
        self.all.get(&pid).map(|stat| stat.group)
    }

    /// The children of this process.
    fn children(&self) -> impl Iterator<Item = i32> {
        self.children_of(getpid().as_raw_pid())
    }

    fn children_of(&self, pid: i32) -> impl Iterator<Item = i32> {
        self.children.get(&pid).into_iter().flatten().copied()
    }

    /// These processes and their descendants.
    fn below(&self, roots: BTreeSet<i32>) -> BTreeSet<Process> {
        let mut next: Vec<_> = roots.iter().copied().collect();
        let mut found = roots;
        while let Some(of) = next.pop() {
            next.extend(self.children_of(of).filter(|pid| found.insert(*pid)));
        }
        self.those(found).collect()
    }

    /// The processes that have these numbers.
    fn those(&self, pids: impl IntoIterator<Item = i32>) -> impl Iterator<Item = Process> {
        pids.into_iter().filter_map(|pid| Some(Process { pid, begun: self.all.get(&pid)?.begun }))
    }

    /// Sends a signal to the groups in which nothing but these processes was seen, and of which a stopped one keeps the
    /// number: it reaches at once also what they have started since.
    fn send_to_groups(&self, signal: Signal, these: &BTreeSet<Process>, stopped: &BTreeSet<Process>) {
        let these: BTreeSet<_> = these.iter().map(|process| process.pid).collect();
        let groups = stopped.iter().filter_map(|process| self.group(process.pid)).filter(|group| *group > 1);
        let groups: BTreeSet<_> = groups.collect();
        for group in groups {
            let mut members = self.members.get(&group).into_iter().flatten();
            if members.all(|pid| these.contains(pid))
                && let Some(group) = Pid::from_raw(group)
            {
                let _ = kill_process_group(group, signal);
            }
        }
    }
}

/// Whether a process is stopped, by a signal or a tracer.
pub(super) fn is_stopped(pid: i32) -> bool {
    after_name(pid).is_ok_and(|rest| rest.is_some_and(|rest| rest.trim_start().starts_with(['T', 't'])))
}

/// Whether no part of a process runs any more. Its end may still be unknown to its parent: a tracer learns of it first,
/// however long that waits.
pub(super) fn has_ended(pid: i32) -> bool {
    match fs::read_dir(format!("/proc/{pid}/task")) {
        Ok(mut tasks) => tasks.all(|task| {
            let rest = task.and_then(|task| after_name_in(&task.path().join("stat")));
            rest.is_ok_and(|rest| rest.is_none_or(|rest| rest.trim_start().starts_with(['Z', 'X'])))
        }),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// Kills a process and its descendants. Returns whether none of these runs any more; a tracer may keep the process itself
/// from ending.
pub(super) fn kill_descendants(pid: i32) -> bool {
    let root = BTreeSet::from([pid]);
    kill(&root);
    let processes = Processes::now();
    !processes.has_unseen && processes.below(root).iter().all(|one| one.pid == pid || has_ended(one.pid))
}

/// What the kernel says of a process.
struct Stat {
    parent: i32,
    group: i32,
    begun: u64,
}

/// Reads that, as `after_name` does.
fn stat(pid: i32) -> io::Result<Option<Stat>> {
    let Some(rest) = after_name(pid)? else { return Ok(None) };
    let read = || {
        let mut fields = rest.split_whitespace().skip(1);
        let (parent, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        // The 22nd field of proc_pid_stat(5).
        Some(Stat { parent, group, begun: fields.nth(16)?.parse().ok()? })
    };
    Ok(read())
}

/// What the kernel says of a process after its name: state, parent, group and more; `None` if the process is gone, or is none
/// that this one may read.
///
/// # Errors
/// There is no handle or no memory to read it.
fn after_name(pid: i32) -> io::Result<Option<String>> {
    after_name_in(Path::new(&format!("/proc/{pid}/stat")))
}

fn after_name_in(stat: &Path) -> io::Result<Option<String>> {
    let stat = match fs::read(stat) {
        Ok(stat) => stat,
        Err(error) => {
            let wants = [Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(|errno| Some(errno.raw_os_error()));
            return if wants.contains(&error.raw_os_error()) { Err(error) } else { Ok(None) };
        }
    };
    // pid (name) state parent group …; a name may hold spaces and parentheses, and the kernel cuts it within a
    // character.
    let stat = String::from_utf8_lossy(&stat);
    Ok(stat.rsplit_once(')').map(|(_, rest)| rest.to_owned()))
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
