//! Standard output that is cut off, over every command: it ends with 74, quietly if a reader went away, never in a panic.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::process::{Output, Stdio};

use tests::World;
use tests::craft::Device;
use tests::process::command;
use tests::world::binary;

/// What it ends with when its output is lost.
const LOST: i32 = 74;

/// Each command, with its code when nothing can be written: that of a command that writes nothing is its own. In their
/// order: what one does, the next finds.
const TABLE: [(&str, i32); 39] = [
    ("identity export ENDPOINTS", LOST),
    ("chain show ENDPOINTS", LOST),
    ("chain verify ENDPOINTS", LOST),
    ("hsm clock ENDPOINTS", LOST),
    ("hsm clock accept REASON --yes ENDPOINTS", 0),
    ("hsm lease show ENDPOINTS", LOST),
    ("hsm lease take REASON --yes ENDPOINTS", 0),
    ("hsm recover --yes ENDPOINTS", 1),
    ("hsm verify ENDPOINTS", 1),
    ("audit show ENDPOINTS", LOST),
    ("audit verify ENDPOINTS", LOST),
    ("audit export ENDPOINTS", LOST),
    ("audit archive --up-to 1 --file FOLDER/lines ENDPOINTS", 0),
    ("status ENDPOINTS", LOST),
    ("watch ENDPOINTS", LOST),
    ("account show IDENTITY ENDPOINTS", LOST),
    ("account export IDENTITY ENDPOINTS", LOST),
    ("device list IDENTITY ENDPOINTS", LOST),
    ("role grant IDENTITY moderator REASON ENDPOINTS", LOST),
    ("role list IDENTITY ENDPOINTS", LOST),
    ("role revoke IDENTITY moderator REASON ENDPOINTS", LOST),
    ("feed show ENDPOINTS", LOST),
    ("feed lift REASON --yes ENDPOINTS", 0),
    ("feed reopen REASON --yes --json ENDPOINTS", LOST),
    ("ban IDENTITY REASON WAIT ENDPOINTS", LOST),
    ("unban IDENTITY REASON WAIT ENDPOINTS", LOST),
    ("account delete IDENTITY REASON --yes WAIT ENDPOINTS", LOST),
    ("account restore IDENTITY REASON WAIT ENDPOINTS", LOST),
    ("device revoke IDENTITY DEVICE REASON --yes WAIT ENDPOINTS", LOST),
    ("probe ENDPOINTS", LOST),
    ("revoke-key KEY REASON --yes WAIT ENDPOINTS", LOST),
    ("revoke-service edge:ruby REASON --yes WAIT ENDPOINTS", LOST),
    ("open-service edge:ruby REASON --yes ENDPOINTS", LOST),
    ("roll WAIT ENDPOINTS", LOST),
    ("rotate ENDPOINTS", LOST),
    ("taint REASON --yes WAIT ENDPOINTS", LOST),
    ("red-button REASON --yes WAIT ENDPOINTS", LOST),
    ("reset redis --yes WAIT ENDPOINTS", LOST),
    ("reset everything REASON --yes WAIT ENDPOINTS", LOST),
];

/// Commands that are tried elsewhere, or that another program carries out.
const ELSEWHERE: [&str; 11] = [
    "completions",    // ops/tests/opsctl/output.rs
    "dev",            // the system of this test
    "reset database", // a part of `reset everything`
    "tls init",       // ops/tests/opsctl/output.rs
    "tls issue",      // ops/tests/opsctl/tls.rs
    // `hsm-backup` does these.
    "hsm backup",
    "hsm pair",
    "hsm pin retry",
    "hsm replace",
    "hsm restore",
    "hsm token accept",
];

#[tokio::test]
async fn no_command_panics_when_its_output_is_cut_off() {
    let world = World::start().await;
    let device = Device::create(&world.auth()).await;
    let folder = tempfile::tempdir().unwrap();
    let key = keychain::SigningKey::from_seed(&[9; 32]).unwrap().public_key();
    let words = |line: &str| -> Vec<String> {
        let endpoints = world.endpoints_file();
        let word = |word: &str| match word {
            "ENDPOINTS" => vec!["--endpoints".to_owned(), endpoints.display().to_string()],
            "IDENTITY" => vec![device.identity.to_string()],
            "DEVICE" => vec![device.device.to_string()],
            "KEY" => vec![key.to_string()],
            "REASON" => vec!["--reason".to_owned(), "drill".to_owned()],
            "WAIT" => vec!["--wait".to_owned(), "30s".to_owned()],
            word => vec![word.replace("FOLDER", &folder.path().display().to_string())],
        };
        line.split(' ').flat_map(word).collect()
    };
    for (line, code) in TABLE {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = run(&words(line), full.into());
        assert_eq!(output.status.code(), Some(code), "{line}: {}", said(&output));
        assert!(!said(&output).contains("panicked"), "{line}: {}", said(&output));
    }
    for line in ["chain show ENDPOINTS", "status ENDPOINTS", "watch ENDPOINTS", "audit show ENDPOINTS"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = run(&words(line), writer.into());
        assert_eq!((output.status.code(), said(&output).as_str()), (Some(LOST), ""), "{line}");
    }
}

#[test]
fn every_command_is_in_the_table() {
    let mut known: BTreeSet<String> = ELSEWHERE.iter().map(ToString::to_string).collect();
    let mut all = BTreeSet::new();
    leaves(&[], &mut all);
    for leaf in &all {
        if TABLE.iter().any(|(line, _)| line.starts_with(&format!("{leaf} "))) {
            known.insert(leaf.clone());
        }
    }
    assert_eq!(all.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// The commands without a further one, as the help names them.
fn leaves(path: &[String], found: &mut BTreeSet<String>) {
    let words = [path, &["--help".to_owned()]].concat();
    let help = String::from_utf8(run(&words, Stdio::piped()).stdout).unwrap();
    let Some((_, after)) = help.split_once("\nCommands:\n") else {
        found.insert(path.join(" "));
        return;
    };
    let names = after.lines().take_while(|line| !line.is_empty()).filter_map(|line| {
        let name = line.strip_prefix("  ")?.split(' ').next()?;
        (!name.is_empty() && name != "help").then(|| name.to_owned())
    });
    for name in names.collect::<Vec<_>>() {
        leaves(&[path, &[name]].concat(), found);
    }
}

fn run(words: &[String], out: Stdio) -> Output {
    let mut program = command(binary("opsctl"));
    program.args(words).stdin(Stdio::null()).stdout(out).stderr(Stdio::piped());
    program.spawn().unwrap().wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
