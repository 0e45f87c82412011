use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use super::*;

#[test]
fn a_process_has_ended_before_anyone_has_taken_note_of_it() {
    let mut process = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (pid, mut output) = (i32::try_from(process.id()).unwrap(), process.stdout.take().unwrap());
    kill_process(Pid::from_raw(pid).unwrap(), Signal::STOP).unwrap();
    assert!(!has_ended(pid), "it is stopped at most");
    process.kill().unwrap();
    std::io::copy(&mut output, &mut std::io::sink()).unwrap();
    let noted =
        waitid(WaitId::Pid(Pid::from_raw(pid).unwrap()), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    assert!(noted.unwrap().is_some() && has_ended(pid));
    process.wait().unwrap();
    assert!(has_ended(pid), "its number is no one's");
}

#[test]
fn a_signal_reaches_a_process_and_none_that_has_its_number_after_it() {
    let mut process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let pid = i32::try_from(process.id()).unwrap();
    let seen = Process { pid, begun: stat(pid).unwrap().unwrap().begun };
    Process { begun: seen.begun - 1, ..seen }.send(Signal::TERM);
    seen.send(Signal::KILL);
    assert_eq!(process.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
    assert!(!seen.is_there());
}

#[test]
fn a_descendant_can_hide_where_proc_shows_only_a_users_own_processes() {
    let mounts = |options: &str| {
        format!(
            "21 1 0:5 / /proc rw,relatime shared:14 - proc proc rw\n\
             22 1 0:5 / /proc rw,nosuid,relatime shared:14 - proc proc rw,{options}\n"
        )
    };
    let status = |capabilities: u64| {
        format!("Name:\tlease-keeper\nGid:\t7\t7\t7\t7\nGroups:\t5 \nCapEff:\t{capabilities:016x}\n")
    };
    for (options, capabilities, hides_them) in [
        ("gid=5", 0, false),
        ("hidepid=off", 0, false),
        ("hidepid=invisible", 0, true),
        ("hidepid=1", 1 << 7, true),
        ("hidepid=2,gid=6", 0, true),
        ("hidepid=2,gid=5", 0, false),
        ("hidepid=2,gid=7", 0, false),
        ("hidepid=ptraceable,gid=5", 0, true),
        ("hidepid=2", 1 << 19, false),
    ] {
        let status = status(capabilities);
        assert_eq!(hides(&mounts(options), &status), hides_them, "{options} {status}");
    }
}

#[test]
fn the_processes_of_another_namespace_are_not_taken_for_its_own() {
    assert!(shows_this(Path::new("/proc")));
    let other = std::env::temp_dir().join(format!("proc-{}", getpid().as_raw_pid()));
    fs::create_dir(&other).unwrap();
    assert!(!shows_this(&other), "it is not mounted");
    symlink("1000000", other.join("self")).unwrap();
    assert!(!shows_this(&other));
    fs::remove_dir_all(&other).unwrap();
}
