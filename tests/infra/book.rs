//! The site that `just book` makes: its pages, their links and their pictures. `just book-check` looks at it in a browser.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::alarms::anchor;
use crate::support::docs::{links, sections};
use crate::support::root;

const SUMMARY: &str = "docs/SUMMARY.md";

/// What a link means: the file, below the repository's root, and the anchor.
fn resolved<'a>(page: &str, link: &'a str) -> (String, Option<&'a str>) {
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    if path.is_empty() {
        return (page.to_owned(), anchor);
    }
    let mut parts: Vec<_> = page.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    (parts.join("/"), anchor)
}

/// The pages of the summary.
fn pages() -> Vec<String> {
    links(SUMMARY).iter().map(|link| resolved(SUMMARY, link).0).collect()
}

/// The names of the files in `docs` or below it with this extension.
fn files(folder: &str, extension: &str) -> BTreeSet<String> {
    let files = fs::read_dir(root().join(folder)).unwrap().map(|file| file.unwrap().file_name());
    let named = files.map(|name| format!("{folder}/{}", name.into_string().unwrap()));
    named.filter(|name| Path::new(name).extension().is_some_and(|is| is == extension)).collect()
}

/// The anchors of a page's headings: of equal ones, the second has `-1` at its end.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut counts = BTreeMap::new();
    let numbered = sections(page).into_iter().map(|(heading, _)| {
        let anchor = anchor(&heading);
        let count = counts.entry(anchor.clone()).or_insert(0);
        *count += 1;
        if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
    });
    numbered.collect()
}

#[test]
fn the_summary_lists_each_page_once() {
    let listed = pages();
    let set: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(set.len(), listed.len(), "{listed:#?}");
    for page in files("docs", "md").iter().filter(|page| *page != SUMMARY) {
        assert!(set.contains(page), "{SUMMARY} lacks {page}");
    }
}

#[test]
fn each_link_leads_to_a_file_and_to_a_heading_there() {
    let mut broken = String::new();
    let mut count = 0;
    for page in [SUMMARY.to_owned()].into_iter().chain(pages()) {
        for link in links(&page).iter().filter(|link| !link.contains("://")) {
            count += 1;
            let (path, anchor) = resolved(&page, link);
            let is_file = root().join(&path).is_file();
            if !is_file || anchor.is_some_and(|anchor| !anchors(&path).contains(anchor)) {
                let _ = writeln!(broken, "{page}: {link}");
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{broken}");
    assert!(count > 500, "only {count} links were found");
}

#[test]
fn each_picture_is_shown_and_is_drawn_from_its_source_as_it_is_now() {
    let shown: BTreeSet<_> =
        pages().iter().flat_map(|page| links(page).into_iter().map(|link| resolved(page, &link).0)).collect();
    let pictures: Vec<_> = ["svg", "png"].iter().flat_map(|kind| files("docs/pictures", kind)).collect();
    for picture in &pictures {
        assert!(shown.contains(picture), "no page shows {picture}");
    }
    let sources = files("docs/pictures", "dot");
    let drawn: BTreeSet<_> =
        files("docs/pictures", "svg").iter().map(|svg| svg.replace(".svg", ".dot")).collect();
    assert_eq!(sources, drawn, "each picture has a source, and each source a picture: run book/draw.py");
    for source in sources {
        let text = fs::read(root().join(&source)).unwrap();
        let mut hash = String::new();
        for byte in ring::digest::digest(&ring::digest::SHA256, &text).as_ref() {
            let _ = write!(hash, "{byte:02x}");
        }
        let picture = fs::read_to_string(root().join(source.replace(".dot", ".svg"))).unwrap();
        assert!(picture.contains(&hash), "{source} has changed since it was drawn: run book/draw.py");
    }
}
