//! The sample configurations, read by the daemons that they are for.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tests::world::binary;

use super::root;

const DAEMONS: [&str; 5] = ["hsmd", "hsm-publisher", "authd", "edge", "keysd"];

/// Every sample, and the daemon that it is for.
const SAMPLES: [(&str, &str); 6] = [
    ("hsmd", "hsmd"),
    ("hsmd", "hsmd-yubihsm"),
    ("hsm-publisher", "hsm-publisher"),
    ("authd", "authd"),
    ("edge", "edge"),
    ("keysd", "keysd"),
];

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
    // hsmd.toml and authd.toml name other files, which are checked with them.
    let beside = format!("{}/", folder.path().display());
    let policy = if daemon == "authd" { "authd-policy" } else { "policy" };
    let policy = sample(policy).lines().map(take_in).collect::<Vec<_>>().join("\n");
    fs::write(folder.path().join("policy.toml"), policy).unwrap();
    write_certificates(folder.path());
    let folders = ["/etc/hsmd/", "/etc/authd/", "/etc/edge/", "/etc/keysd/"];
    let text = folders.iter().fold(text.to_owned(), |text, folder| text.replace(folder, &beside));
    fs::write(&path, text).unwrap();
    check_file(daemon, &path)
}

/// What sockets with TLS need, under the names of the samples.
fn write_certificates(folder: &Path) {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2020, 1, 1),
        next_update: rcgen::date_time_ymd(2120, 1, 1),
        crl_number: rcgen::SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&rcgen::Issuer::new(params, key)).unwrap().pem().unwrap();
    for (name, text) in [
        ("remote.crt", &certificate),
        ("tls.crt", &certificate),
        ("client-ca.crt", &certificate),
        ("client-ca.crl", &list),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
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
fn every_daemon_accepts_its_samples() {
    for (daemon, name) in SAMPLES {
        let output = check(daemon, &sample(name));
        assert_eq!(output.status.code(), Some(0), "{daemon}: {}", complaint(&output));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "ok\n", "{daemon}");
    }
}

/// Keys that are shown with their defaults are spelled right and may be taken in.
#[test]
fn every_commented_key_can_be_taken_in() {
    for (daemon, name) in SAMPLES {
        let text = sample(name);
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
