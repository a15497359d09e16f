//! `opsctl tls`: what it prints where, and two at once.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::{opsctl, stderr, stdout};

fn run(folder: &Path, line: &str) -> Output {
    let output = tls(folder, line).output().unwrap();
    for text in [stdout(&output), stderr(&output)] {
        assert!(!text.contains("PRIVATE"), "{line} prints a key: {text}");
    }
    output
}

fn tls(folder: &Path, line: &str) -> Command {
    let mut command = opsctl();
    command.arg("tls").args(line.split(' ')).current_dir(folder).stdin(Stdio::null());
    command
}

#[test]
fn data_is_on_standard_output_and_talk_is_not() {
    const ROW: &str = "[[allow]]\nsan = \"URI:keelson:edge:far\"\noperations = [\"endorse\"]\nservice = \"edge:far\"\n\
                       purposes = [\"response\"]\n";
    let folder = tempfile::tempdir().unwrap();
    let table = [
        ("init --dir ca --dry-run", ""),
        ("init --dir ca", "ca/ca.crt\n"),
        ("issue server --dir ca --san DNS:hsm.example --out remote", "remote.crt\n"),
        ("issue server --dir ca --san DNS:hsm.example --out remote --key remote.key", "remote.crt\n"),
        ("issue client --dir ca --san URI:keelson:edge:far --out far --dry-run", ""),
        ("issue client --dir ca --san URI:keelson:edge:far --out far", ROW),
    ];
    for (line, data) in table {
        let output = run(folder.path(), line);
        assert_eq!(output.status.code(), Some(0), "{line}: {}", stderr(&output));
        assert_eq!(stdout(&output), data, "{line}");
        assert!(stderr(&output).contains("until 2"), "{line}: {}", stderr(&output));
    }
    let output = run(folder.path(), "init --dir other --quiet");
    assert_eq!((stdout(&output), stderr(&output)), ("other/ca.crt\n", ""));
}

#[test]
fn json_has_a_version_and_everything_to_compare() {
    let folder = tempfile::tempdir().unwrap();
    let json = |line: &str| -> Value {
        let output = run(folder.path(), line);
        serde_json::from_str(stdout(&output)).unwrap_or_else(|_| panic!("{line}: {}", stderr(&output)))
    };
    let authority = json("init --dir ca --json");
    let server = json("issue server --dir ca --san DNS:hsm.example --san IP:10.0.0.5 --out remote --json");
    let client = json("issue client --dir ca --san URI:keelson:edge:far --out far --json");
    for (made, prefix, names) in [
        (&authority, "ca/ca", None),
        (&server, "remote", Some(serde_json::json!(["DNS:hsm.example", "IP:10.0.0.5"]))),
        (&client, "far", Some(serde_json::json!(["URI:keelson:edge:far"]))),
    ] {
        assert_eq!(made["version"], 1);
        assert_eq!(made["certificate"], format!("{prefix}.crt"));
        assert_eq!(made["key"], format!("{prefix}.key"));
        assert_eq!(made.get("names"), names.as_ref(), "{prefix}");
        assert_eq!(made["sha256"].as_str().map(str::len), Some(64), "{prefix}");
        assert_eq!(made["serial"].as_str().map(str::len), Some(32), "{prefix}");
        assert!(made["notBefore"].as_str() < made["notAfter"].as_str(), "{prefix}");
        assert_eq!(made.get("policy").is_some(), prefix == "far", "{prefix}");
    }
}

#[test]
fn of_several_at_once_one_makes_the_authority() {
    let folder = tempfile::tempdir().unwrap();
    let start = || tls(folder.path(), "init --dir ca").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let children: Vec<_> = (0..8).map(|_| start().unwrap()).collect();
    let mut made = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        match output.status.code() {
            Some(0) => made += 1,
            Some(65) => assert!(stderr(&output).contains("already"), "{}", stderr(&output)),
            Some(75) => assert!(stderr(&output).contains("wait for it"), "{}", stderr(&output)),
            other => panic!("{other:?}: {}", stderr(&output)),
        }
    }
    assert_eq!(made, 1);
    let issued = run(folder.path(), "issue server --dir ca --san DNS:hsm --out hsm");
    assert_eq!(issued.status.code(), Some(0), "the key is that of the certificate: {}", stderr(&issued));
}

#[test]
fn what_went_wrong_shows_in_the_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), "init --dir ca");
    for (line, code) in [
        ("init --dir ca", 65),
        ("init --dir nowhere/ca", 74),
        ("issue server --dir nowhere --san DNS:hsm --out x", 74),
        ("issue server --dir ca --san HSM --out x", 64),
        ("issue client --dir ca --san IP:::1 --out x", 64),
        ("issue server --dir ca --san DNS:hsm --out x --days 825", 0),
        ("issue server --dir ca --san DNS:hsm --out x --days 825", 65),
        ("issue server --dir ca --san DNS:hsm --out ca/ca --key ca/ca.key", 64),
    ] {
        let output = run(folder.path(), line);
        assert_eq!(output.status.code(), Some(code), "{line}: {}", stderr(&output));
        assert_eq!(stdout(&output).is_empty(), code != 0, "{line}");
    }
}
