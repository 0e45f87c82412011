//! `docs/dependencies.md` has each direct dependency once.

use crate::support::root;

/// The keys of a table of `Cargo.toml`.
fn keys(manifest: &str, table: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|line| *line != table).skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| line.split_once(" = ").map(|(key, _)| key.to_owned())).collect()
}

#[test]
fn each_direct_dependency_has_its_reason() {
    let read = |file: &str| std::fs::read_to_string(root().join(file)).expect("it is there");
    let (manifest, page) = (read("Cargo.toml"), read("docs/dependencies.md"));
    let named = |heading: &str| -> Vec<String> {
        let section =
            page.split("\n## ").find_map(|section| section.strip_prefix(heading)).expect("a section");
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
        rows.map(|(name, reason)| {
            assert!(reason.len() > 5, "{name} has no reason");
            name.to_owned()
        })
        .collect()
    };
    let mut used = keys(&manifest, "[dependencies]");
    used.sort();
    assert_eq!(named("In the programs"), used);
    let mut of_tests = keys(&manifest, "[dev-dependencies]");
    of_tests.retain(|name| !used.contains(name));
    of_tests.sort();
    assert_eq!(named("In the tests alone"), of_tests);
}
