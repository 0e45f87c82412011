//! The source's layers: which room of `src` may import which, and that no files import each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
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

/// A module's path, in words.
type Module = Vec<String>;

fn module(file: &str) -> Module {
    let words = file.trim_end_matches(".rs").trim_end_matches("/mod").split('/');
    words.map(str::to_owned).collect()
}

/// The modules that this one names after `super::` and `crate::`, without those around it and inside it.
fn imports(of: &Module, text: &str, modules: &BTreeSet<Module>) -> BTreeSet<Module> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut found = BTreeSet::new();
    for (keyword, mut base) in [("super::", of.clone()), ("crate::", Vec::new())] {
        for at in code.match_indices(keyword).map(|(at, _)| at).filter(|at| !code[..*at].ends_with("super::"))
        {
            let mut rest = &code[at + keyword.len()..];
            if keyword == "super::" {
                base.clone_from(of);
                base.pop();
                while let Some(further) = rest.strip_prefix("super::") {
                    (rest, _) = (further, base.pop());
                }
            }
            for path in paths(rest) {
                let mut target = base.clone();
                for word in path {
                    target.push(word);
                    if !modules.contains(&target) {
                        target.pop();
                        break;
                    }
                }
                found.insert(target);
            }
        }
    }
    found.retain(|module| modules.contains(module) && !module.starts_with(of) && !of.starts_with(module));
    found
}

/// The paths with which a text begins: one, or those of a group.
fn paths(text: &str) -> Vec<Vec<String>> {
    if let Some(group) = text.strip_prefix('{') {
        return members(group).into_iter().flat_map(paths).collect();
    }
    let first = word(text);
    match text[first.len()..].strip_prefix("::") {
        Some(rest) if !first.is_empty() => {
            paths(rest).into_iter().map(|path| [vec![first.clone()], path].concat()).collect()
        }
        _ => vec![vec![first]],
    }
}

/// The members of a group of imports, up to its closing brace.
fn members(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut members) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                members.push(group[start..at].trim());
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    members
}

/// The files that import each other in circles, and those above them.
fn circles(files: &[(String, String)]) -> BTreeMap<Module, BTreeSet<Module>> {
    let modules: BTreeSet<_> = files.iter().map(|(file, _)| module(file)).collect();
    let imported = files.iter().map(|(file, text)| (module(file), imports(&module(file), text, &modules)));
    let mut left: BTreeMap<_, BTreeSet<_>> = imported.collect();
    while let Some(lowest) =
        left.iter().find(|(_, imports)| imports.is_empty()).map(|(module, _)| module.clone())
    {
        left.remove(&lowest);
        for imports in left.values_mut() {
            imports.remove(&lowest);
        }
    }
    left
}

/// The rooms that a text names after `crate::`, or after enough `super::` to leave its own room.
fn imported(text: &str) -> BTreeSet<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut rooms = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        let heads = paths(after).into_iter().filter_map(|path| path.into_iter().next());
        rooms.extend(heads.filter(|head| !head.is_empty()));
    }
    let outside = code.split("super::super::").skip(1).map(word);
    rooms.extend(outside.filter(|name| SYSTEMS.contains(&name.as_str()) || name == "cli"));
    rooms
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
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
    for room in ["failover_lock", "latch", "site_fence", "lease", "program", "remote", "lambda", "cli", "bin"]
    {
        assert!(files.iter().any(|file| file.starts_with(src.join(room))), "src/{room} is gone");
    }
    let read = |file: &PathBuf| {
        let name = file.strip_prefix(&src).expect("it is below src").to_string_lossy().into_owned();
        (name, fs::read_to_string(file).expect("a source file can be read"))
    };
    let files: Vec<_> = files.iter().map(read).collect();
    let breaches: Vec<_> = files.iter().flat_map(|(name, text)| breaches(name, text)).collect();
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
    assert_eq!(circles(&files), BTreeMap::new());
}

#[test]
fn each_circle_of_files_is_found() {
    let files = |files: &[(&str, &str)]| -> Vec<_> {
        files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect()
    };
    let found = |given: &[(&str, &str)]| circles(&files(given)).into_keys().collect::<Vec<_>>();
    let [look, status, room] = ["cli/look.rs", "cli/status.rs", "cli/mod.rs"];
    let circle = [module(look), module(status)];
    assert_eq!(
        found(&[(look, "use super::status::Status;"), (status, "use super::look;"), (room, "")]),
        circle
    );
    assert_eq!(
        found(&[
            (look, "fn f() { super::status::f() }"),
            (status, "use crate::cli::{look, name};"),
            (room, "")
        ]),
        circle
    );
    let below = "cli/status/cells.rs";
    let around = [module(look), module(below)];
    assert_eq!(
        found(&[
            (look, "use super::status::cells::Cell;"),
            (below, "use super::super::look::one;"),
            (status, ""),
            (room, "")
        ]),
        around
    );
    for fine in [
        // A room and what is inside it know each other.
        [
            (room, "use self::look::Look;"),
            (look, "use super::Ended;"),
            (status, "use super::look::{self, Look};"),
        ],
        [(look, "//! As super::status\nuse super::name;"), (status, "use super::look;"), (room, "")],
    ] {
        assert!(found(&fine).is_empty(), "{fine:?}");
    }
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
