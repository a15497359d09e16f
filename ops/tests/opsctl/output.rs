//! Standard output that is cut off: a full disk ends a command with 74 and a message, a reader that went away with 74
//! and none; neither with a panic, and nothing is left behind.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use tempfile::{NamedTempFile, TempDir};

use crate::{opsctl, stderr};

/// Commands that need nothing but a file, and print.
fn commands(chain: &NamedTempFile, authority: &TempDir) -> Vec<Vec<String>> {
    let chain = chain.path().to_str().unwrap();
    let dir = authority.path().join("ca");
    let dir = dir.to_str().unwrap();
    [
        vec!["--help"],
        vec!["--version"],
        vec!["completions", "bash"],
        vec!["identity", "export", chain],
        vec!["chain", "show", chain],
        vec!["chain", "show", "--json", chain],
        vec!["chain", "verify", chain],
        vec!["chain", "verify", "--json", chain],
        vec!["tls", "init", "--quiet", "--dir", dir],
    ]
    .into_iter()
    .map(|words| words.into_iter().map(str::to_owned).collect())
    .collect()
}

fn chain() -> NamedTempFile {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../keychain/tests/vectors/chain.json");
    let vectors: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let events = vectors["vectors"][0]["whole"].as_array().unwrap().clone();
    let mut file = NamedTempFile::new().unwrap();
    for event in events {
        let text = event.as_str().map_or_else(|| event.to_string(), str::to_owned);
        writeln!(file, "{text}").unwrap();
    }
    file
}

fn run(words: &[String], out: Stdio) -> Output {
    let mut command: Command = opsctl();
    command.args(words).stdin(Stdio::null()).stdout(out).stderr(Stdio::piped());
    command.spawn().unwrap().wait_with_output().unwrap()
}

#[test]
fn a_full_disk_ends_a_command_with_74() {
    let (chain, authority) = (chain(), tempfile::tempdir().unwrap());
    for words in commands(&chain, &authority) {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = run(&words, full.into());
        assert_eq!(output.status.code(), Some(74), "{words:?}: {}", stderr(&output));
        assert!(!stderr(&output).contains("panicked"), "{words:?}: {}", stderr(&output));
        let told = words[0].starts_with('-') || stderr(&output).contains("No space left");
        assert!(told, "{words:?}: {}", stderr(&output));
    }
}

#[test]
fn a_reader_that_went_away_ends_a_command_quietly() {
    let (chain, authority) = (chain(), tempfile::tempdir().unwrap());
    for words in commands(&chain, &authority) {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = run(&words, writer.into());
        assert_eq!((output.status.code(), stderr(&output)), (Some(74), ""), "{words:?}");
    }
}

/// What went wrong before is told, and its code stands.
#[test]
fn a_negative_answer_is_not_covered_by_what_became_of_its_text() {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(b"[]").unwrap();
    let words = ["chain", "verify", "--json", file.path().to_str().unwrap()].map(str::to_owned);
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(run(&words, full.into()).status.code(), Some(1));
}

/// Standard error may be full as well.
#[test]
fn nobody_to_talk_to_is_no_reason_to_panic() {
    let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let mut command = opsctl();
    let status =
        command.args(["chain", "verify", "/nowhere"]).stdout(full()).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(74));
}
