//! The sample configurations, read by the daemons that they are for.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tests::world::binary;

use super::root;

const DAEMONS: [&str; 5] = ["hsmd", "hsm-publisher", "authd", "edge", "keysd"];

/// What a wrong configuration ends with, so that systemd does not try again.
const CONFIG: i32 = 78;

/// What a wrong command line ends with.
const USAGE: i32 = 64;

fn sample(daemon: &str) -> String {
    fs::read_to_string(root().join("systemd/config").join(format!("{daemon}.toml"))).unwrap()
}

fn check(daemon: &str, text: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("{daemon}.toml"));
    fs::write(&path, text).unwrap();
    check_file(daemon, &path)
}

/// With the credentials at hand that the units, or their drop-ins, pass.
fn check_file(daemon: &str, path: &Path) -> Output {
    let credentials = tempfile::tempdir().unwrap();
    for name in ["pin", "app-secret"] {
        fs::write(credentials.path().join(name), "1234567890123456").unwrap();
    }
    let mut command = Command::new(binary(daemon));
    command.arg("--config").arg(path).arg("--check-config");
    command.env("CREDENTIALS_DIRECTORY", credentials.path()).output().unwrap()
}

fn complaint(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn every_daemon_accepts_its_sample() {
    for daemon in DAEMONS {
        let output = check(daemon, &sample(daemon));
        assert_eq!(output.status.code(), Some(0), "{daemon}: {}", complaint(&output));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "ok\n", "{daemon}");
    }
}

/// Keys that are shown with their defaults are spelled right and may be taken in.
#[test]
fn every_commented_key_can_be_taken_in() {
    for daemon in DAEMONS {
        let text = sample(daemon);
        let taken_in: Vec<_> = text.lines().map(take_in).collect();
        let output = check(daemon, &taken_in.join("\n"));
        assert_eq!(output.status.code(), Some(0), "{daemon}: {}", complaint(&output));
    }
}

/// `#key = value` is a default, `# Words` a comment, and `…` stands for what only the reader knows.
fn take_in(line: &str) -> &str {
    match line.strip_prefix('#') {
        Some(key)
            if key.starts_with(|first: char| first.is_ascii_lowercase() || first == '[')
                && !key.contains('…') =>
        {
            key
        }
        _ => line,
    }
}

#[test]
fn a_mistake_is_told_with_its_file_and_key() {
    for daemon in DAEMONS {
        let misspelt = format!("metrisc = \"127.0.0.1:1\"\n{}", sample(daemon));
        let wrong_type = format!("{}\nredis = 1\n", sample(daemon).replace("\nredis = ", "\n#redis = "));
        for (text, key) in [(misspelt, "metrisc"), (wrong_type, "redis"), ("= \n".to_owned(), "line 1")] {
            let output = check(daemon, &text);
            let complaint = complaint(&output);
            assert_eq!(output.status.code(), Some(CONFIG), "{daemon}: {complaint}");
            for part in [daemon, ".toml", key] {
                assert!(complaint.contains(part), "{daemon}: `{part}` is not in: {complaint}");
            }
        }
        let absent = check_file(daemon, Path::new("/nonexistent/x.toml"));
        assert_eq!(absent.status.code(), Some(CONFIG), "{daemon}: {}", complaint(&absent));
        assert!(complaint(&absent).contains("/nonexistent/x.toml"), "{daemon}: {}", complaint(&absent));
    }
}

/// Told apart from a wrong configuration, which the units do not retry.
#[test]
fn a_command_line_that_makes_no_sense_is_a_usage_error() {
    for daemon in DAEMONS {
        let output = Command::new(binary(daemon)).arg("--no-such-option").output().unwrap();
        assert_eq!(output.status.code(), Some(USAGE), "{daemon}: {}", complaint(&output));
        let help = Command::new(binary(daemon)).arg("--help").output().unwrap();
        assert_eq!(help.status.code(), Some(0), "{daemon}");
    }
}
