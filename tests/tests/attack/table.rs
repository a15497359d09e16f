//! The table of attacks and the suite agree.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Every test of this suite has a row in `README.md`, and every row names a test that exists.
#[test]
fn every_attack_has_its_row_and_every_row_its_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attack");
    let mut tests = BTreeSet::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.extension().is_some_and(|kind| kind == "rs") && name != "table" {
            let text = fs::read_to_string(&path).unwrap();
            let found = text
                .split("#[tokio::test")
                .skip(1)
                .filter_map(|rest| Some(format!("{name}::{}", rest.split_once("fn ")?.1.split_once('(')?.0)));
            tests.extend(found);
        }
    }
    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    let rows = readme.lines().filter(|line| line.starts_with("| ") && line.contains(".rs)"));
    let linked: BTreeSet<_> =
        rows.filter_map(|row| Some(row.rsplit_once("[`")?.1.split_once('`')?.0.to_owned())).collect();
    assert_eq!(tests, linked, "the suite and its table disagree");
}
