//! Every `PROTOCOL.md#…` cited anywhere in the repository exists, and the page's table of error codes
//! is the table of the code.

#![expect(clippy::unwrap_used, reason = "tests assert by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use keychain::Code;

const PAGE: &str = include_str!("../PROTOCOL.md");

#[test]
fn every_anchor_cited_exists() {
    let anchors: BTreeSet<&str> = PAGE.split("<a id=\"").skip(1).filter_map(until_quote).collect();
    let mut missing = BTreeSet::new();
    for path in sources(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()) {
        let text = fs::read_to_string(&path).unwrap();
        for cited in text.split("PROTOCOL.md#").skip(1).map(slug).chain(links_within(&path, &text)) {
            if !cited.is_empty() && !anchors.contains(cited) {
                missing.insert(format!("{}: #{cited}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn anchors_are_unique() {
    let mut seen = BTreeSet::new();
    for anchor in PAGE.split("<a id=\"").skip(1).filter_map(until_quote) {
        assert!(seen.insert(anchor), "#{anchor} stands twice");
    }
}

#[test]
fn the_table_of_codes_is_that_of_the_code() {
    let rows: BTreeSet<String> = PAGE
        .lines()
        .map(|line| line.replace("**", ""))
        .filter(|line| line.starts_with("| BA"))
        .map(|line| line.split('|').skip(1).take(3).map(str::trim).collect::<Vec<_>>().join(" "))
        .collect();
    let codes: BTreeSet<String> =
        Code::ALL.iter().map(|code| format!("{} {} {}", code.as_str(), code.name(), code.status())).collect();
    assert_eq!(rows, codes);
}

/// Links of the page to itself.
fn links_within<'a>(path: &Path, text: &'a str) -> Vec<&'a str> {
    let page = path.ends_with("keychain/PROTOCOL.md");
    text.split("](#").skip(1).filter(|_| page).map(slug).collect()
}

fn until_quote(text: &str) -> Option<&str> {
    text.split_once('"').map(|(anchor, _)| anchor)
}

fn slug(text: &str) -> &str {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).next().unwrap()
}

/// The texts of the repository: no build output, nothing hidden.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with('.') || name == "target" || name == "node_modules" {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path));
        } else if matches!(path.extension().and_then(|ending| ending.to_str()), Some("rs" | "md" | "py")) {
            found.push(path);
        }
    }
    found
}
