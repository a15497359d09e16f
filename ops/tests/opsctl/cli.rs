//! Exit codes and output of the commands that need no running system.

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::{opsctl, stderr, stdout};

/// The published events of a chain of four generations and its identity, made by another implementation.
fn chain() -> (Vec<Value>, String) {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../keychain/tests/vectors/chain.json");
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let vector = &vectors["vectors"][0];
    (vector["whole"].as_array().unwrap().clone(), vector["prefix"].as_str().unwrap().to_owned())
}

/// An event in its published form; vectors hold it as text or as the object itself.
fn published(event: &Value) -> String {
    event.as_str().map_or_else(|| event.to_string(), str::to_owned)
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn chains_verify_offline_with_an_exit_code() {
    let (events, identity) = chain();
    let texts: Vec<_> = events.iter().map(published).collect();
    let array = |texts: &[String]| format!("[{}]", texts.join(","));
    let reversed: Vec<_> = texts.iter().rev().cloned().collect();
    let holed = [&texts[..1], &texts[2..]].concat();
    let altered = array(&texts).replacen("key-authorization", "key-authorisation", 1);
    let other = "EAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let table = [
        ("an array", array(&texts), identity.as_str(), 0),
        ("one a line", texts.join("\n"), &identity, 0),
        ("in any order", array(&reversed), &identity, 0),
        ("rolled back is still a chain", array(&texts[..2]), &identity, 0),
        ("a hole", array(&holed), &identity, 1),
        ("without its beginning", array(&texts[1..]), &identity, 1),
        ("altered", altered, &identity, 1),
        ("of another identity", array(&texts), other, 1),
        ("nothing", String::new(), &identity, 1),
        ("an empty array", "[]".to_owned(), &identity, 1),
        ("not JSON", "[{".to_owned(), &identity, 65),
    ];
    for (name, text, identity, code) in table {
        let file = file(&text);
        let output = opsctl()
            .args(["chain", "verify", "--json", "--identity", identity])
            .arg(file.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{name}: {}", stderr(&output));
        if code <= 1 {
            let verdict: Value = serde_json::from_str(stdout(&output)).unwrap();
            assert_eq!(verdict["version"], 1, "{name}");
            assert_eq!(verdict["valid"], code == 0, "{name}");
        }
    }
}

#[test]
fn a_chain_is_shown_and_its_identity_exported_from_standard_input() {
    let (events, identity) = chain();
    let text: String = events.iter().map(|event| published(event) + "\n").collect();
    let run = |arguments: &[&str]| {
        let mut command = opsctl();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stderr(&output), "", "talk where there is nothing to say");
        stdout(&output).to_owned()
    };
    assert_eq!(run(&["identity", "export", "-"]), format!("{identity}\n"));
    let shown = run(&["chain", "show", "-"]);
    assert_eq!(shown.lines().count(), 1 + events.len(), "{shown}");
    // What is printed as JSON is what was read, byte for byte.
    let texts: Vec<_> = events.iter().map(published).collect();
    assert_eq!(run(&["chain", "show", "--json", "-"]), format!("[{}]\n", texts.join(",")));
}

#[test]
fn what_went_wrong_shows_in_the_exit_code() {
    let table: [(&[&str], i32); 9] = [
        (&["--help"], 0),
        (&["--version"], 0),
        (&["completions", "bash"], 0),
        (&["no-such-command"], 64),
        (&["taint"], 64),
        (&["chain", "verify", "/nowhere/chain.json"], 74),
        (&["rotate", "--admin", "/nowhere/admin.sock"], 69),
        (&["status", "--endpoints", "/nowhere/endpoints.json"], 74),
        (&["dev", "--dir", "/proc/nowhere"], 74),
    ];
    for (arguments, code) in table {
        let output = opsctl().args(arguments).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        let (data, talk) = (stdout(&output).is_empty(), stderr(&output).is_empty());
        assert_eq!((data, talk), (code != 0, code == 0), "{arguments:?}");
    }
}
