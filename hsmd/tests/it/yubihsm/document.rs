//! What `hsmd/YUBIHSM.md` tells operators to write, tried.

use std::{fs, process::Command};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/YUBIHSM.md");

#[test]
fn every_configuration_in_the_document_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(DOCUMENT).unwrap();
    let configurations: Vec<_> =
        text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(configurations.len(), 3);
    for configuration in configurations {
        let path = folder.path().join("hsmd.toml");
        let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd/config/policy.toml");
        fs::copy(policy, folder.path().join("policy.toml")).unwrap();
        let policy = format!("policy = \"{}/policy.toml\"\n", folder.path().display());
        fs::write(&path, policy + configuration).unwrap();
        let checked = Command::new(env!("CARGO_BIN_EXE_hsmd"))
            .arg("--config")
            .arg(&path)
            .arg("--check-config")
            .output()
            .unwrap();
        let shown = String::from_utf8(checked.stderr).unwrap();
        assert_eq!(checked.status.code(), Some(0), "{configuration}{shown}");
    }
}

/// The tests and files that the document names exist.
#[test]
fn what_the_document_names_is_there() {
    let text = fs::read_to_string(DOCUMENT).unwrap();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    for drop_in in ["yubihsm-usb.conf", "yubihsm-connector.conf"] {
        let path = format!("systemd/drop-ins/hsmd.service.d/{drop_in}");
        assert!(text.contains(&path) && fs::exists(format!("{root}/{path}")).unwrap(), "{path}");
    }
    let sources = ["backup", "daemon", "device", "mirror", "mock", "document"]
        .map(|name| fs::read_to_string(format!("{root}/hsmd/tests/it/yubihsm/{name}.rs")).unwrap());
    let named = text.split('`').filter(|word| word.split("::").last().unwrap().matches('_').count() >= 4);
    let mut count = 0;
    for name in named.filter(|word| !word.contains([' ', '/', '.', '\n'])) {
        let name = name.split("::").last().unwrap();
        let metric = name.starts_with("hsmd_");
        assert!(metric || sources.iter().any(|source| source.contains(&format!("fn {name}("))), "{name}");
        count += 1;
    }
    assert!(count >= 10, "{count}");
}
