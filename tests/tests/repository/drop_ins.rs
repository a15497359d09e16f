//! Drop-ins: each gives up what `systemd/HARDENING.md` says, and no more.

use std::fs;
use std::process::Command;

use tests::world::binary;

use super::root;

const SERVICE: &str = "[Service]";

/// Drop-in, what it gives up, and the exposure that systemd computes with it: of the table in HARDENING.md.
fn rows() -> Vec<(String, Vec<String>, f64)> {
    let text = fs::read_to_string(root().join("systemd/HARDENING.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| hsmd.service.d/"));
    rows.map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, gives_up, _, _, exposure] = cells[..] else { panic!("{line}") };
        let keys = gives_up.split(", ").map(|key| key.trim_matches(&['`', '='][..]).to_owned());
        (name.to_owned(), keys.collect(), exposure.parse().unwrap())
    })
    .collect()
}

#[test]
fn a_drop_in_gives_up_no_more_than_its_row_says() {
    let files = fs::read_dir(root().join("systemd/drop-ins/hsmd.service.d")).unwrap().count();
    assert_eq!(rows().len(), files, "a drop-in without a row, or a row without one");
    let unit = fs::read_to_string(root().join("systemd/units/hsmd.service")).unwrap();
    for (name, gives_up, exposure) in rows() {
        let drop_in = fs::read_to_string(root().join("systemd/drop-ins").join(&name)).unwrap();
        let (_, service) = drop_in.split_once(SERVICE).unwrap();
        let keys: Vec<_> = service
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| Some(line.split_once('=')?.0.to_owned()))
            .collect();
        let mut wanted = gives_up.clone();
        let mut given: Vec<_> = keys.clone();
        wanted.sort();
        given.sort();
        assert_eq!(given, wanted, "{name} and HARDENING.md disagree");

        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("hsmd.service");
        fs::write(&copy, format!("{unit}\n{SERVICE}{service}")).unwrap();
        let security = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(&copy)
            .output()
            .unwrap();
        let said = String::from_utf8(security.stdout).unwrap();
        let level = said.lines().rev().find(|line| line.contains("Overall exposure")).unwrap();
        assert!(level.contains(&format!(": {exposure:.1} ")), "{name}: {level}");
    }
}

/// libusb is LGPL: it is a shared library that can be exchanged, not a part of hsmd.
#[test]
fn hsmd_is_linked_to_libusb_and_does_not_contain_it() {
    let hsmd = fs::read(binary("hsmd")).unwrap();
    let needed = b"libusb-1.0.so.0\0";
    assert!(
        hsmd.windows(needed.len()).any(|window| window == needed),
        "hsmd was built without libusb's shared library: install pkg-config and libusb-1.0-0-dev, then \
         cargo clean -p libusb1-sys"
    );
}
