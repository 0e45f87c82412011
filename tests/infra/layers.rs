//! The source's layers: which room of `src` may import which.

use std::fs;
use std::path::{Path, PathBuf};

const SYSTEMS: [&str; 4] = ["failover_lock", "latch", "site_fence", "lease"];
const MOST_LINES: usize = 500;

/// The rooms that a room may import, besides itself.
fn may_import(room: &str) -> &'static [&'static str] {
    match room {
        "program" => &[],
        "remote" => &["program"],
        "lambda" => &["program", "remote"],
        "cli" => &["failover_lock", "lambda", "latch", "lease", "program", "remote", "site_fence"],
        room if SYSTEMS.contains(&room) => &["lambda", "program", "remote"],
        room => panic!("src/{room} is a new room: say here which rooms it may import"),
    }
}

/// Each breach of a rule in a file of `src`, named as in `src`.
fn breaches(file: &str, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    let lines = text.lines().count();
    if lines > MOST_LINES {
        breaches.push(format!("{file} has {lines} lines, more than {MOST_LINES}: split it"));
    }
    if file == "lib.rs" {
        return breaches;
    }
    if text.contains("cfg(feature") || text.contains("cfg(any(feature") || text.contains("cfg(all(feature") {
        breaches.push(format!("{file} depends on a feature: only src/lib.rs does"));
    }
    let room = file.split(['/', '.']).next().unwrap_or_default();
    if room != "bin" {
        let foreign = imported(text).into_iter().filter(|found| found != room);
        let forbidden = foreign.filter(|found| !may_import(room).contains(&found.as_str()));
        breaches.extend(forbidden.map(|found| format!("{file} imports {found}, which {room} must not know")));
    }
    breaches
}

/// The rooms that a text names after `crate::`, or after enough `super::` to leave its own room.
fn imported(text: &str) -> Vec<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut rooms = Vec::new();
    for after in code.split("crate::").skip(1) {
        match after.strip_prefix('{') {
            Some(group) => rooms.extend(heads(group)),
            None => rooms.push(word(after)),
        }
    }
    let outside = code.split("super::super::").skip(1).map(word);
    rooms.extend(outside.filter(|name| SYSTEMS.contains(&name.as_str()) || name == "cli"));
    rooms
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first words of a group of imports, up to its closing brace.
fn heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                heads.push(word(group[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("src can be read").map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

#[test]
fn no_system_imports_another_one_and_the_ground_floor_imports_none() {
    let src = crate::support::root().join("src");
    let files = sources(&src);
    for room in ["failover_lock", "site_fence", "lease", "program", "remote", "lambda", "cli", "bin"] {
        assert!(files.iter().any(|file| file.starts_with(src.join(room))), "src/{room} is gone");
    }
    let breaches: Vec<_> = files
        .iter()
        .flat_map(|file| {
            let name = file.strip_prefix(&src).expect("it is below src").to_string_lossy().into_owned();
            breaches(&name, &fs::read_to_string(file).expect("a source file can be read"))
        })
        .collect();
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn each_breach_of_the_layers_is_found() {
    for (file, text, found) in [
        (
            "site_fence/fence.rs",
            "use crate::failover_lock::alarm;",
            "site_fence/fence.rs imports failover_lock",
        ),
        (
            "lease/keeper.rs",
            "fn f() { crate::site_fence::notes::read() }",
            "lease/keeper.rs imports site_fence",
        ),
        (
            "latch/mod.rs",
            "use crate::{\n    lease::{Held, Lease},\n    program,\n};",
            "latch/mod.rs imports lease",
        ),
        ("failover_lock/lock.rs", "use super::super::cli::arn;", "failover_lock/lock.rs imports cli"),
        ("remote/aws.rs", "use crate::site_fence::site::Site;", "remote/aws.rs imports site_fence"),
        ("lambda/mod.rs", "use crate::cli::screen;", "lambda/mod.rs imports cli"),
        ("program/variables.rs", "use crate::remote::http;", "program/variables.rs imports remote"),
        ("program/logging.rs", "use crate::lambda::Report;", "program/logging.rs imports lambda"),
        ("lease/mod.rs", "#[cfg(feature = \"ctl\")]\nmod x;", "lease/mod.rs depends on a feature"),
        ("bin/site-fence.rs", "#[cfg(any(feature = \"a\"))]", "bin/site-fence.rs depends on a feature"),
        ("cli/doctor.rs", &"\n".repeat(501), "cli/doctor.rs has 501 lines"),
    ] {
        let breaches = breaches(file, text);
        assert!(breaches.len() == 1 && breaches[0].starts_with(found), "{file}: {breaches:?}");
    }
    for (file, text) in [
        ("lib.rs", "#[cfg(feature = \"lock\")]\npub mod failover_lock;"),
        (
            "site_fence/fence.rs",
            "//! [`crate::lease`]\nuse crate::lambda::{self, metrics};\nuse crate::site_fence::site;",
        ),
        ("cli/lock.rs", "use crate::failover_lock::FailoverLock;\nuse crate::{lease, site_fence};"),
    ] {
        assert_eq!(breaches(file, text), [""; 0]);
    }
}
