//! `opsctl hsm`: what hsmd says of its tokens, and what is handed on to `hsm-backup`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use crate::{opsctl, stderr, stdout};

/// Asks with hsmd's health as told.
fn verify(status: u16, health: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /health "));
            let length = health.len();
            let head = format!(
                "HTTP/1.1 {status} x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{health}"
            );
            stream.write_all(head.as_bytes()).unwrap();
        });
        opsctl().args(["hsm", "verify", "--json", "--admin"]).arg(&socket).output().unwrap()
    })
}

#[test]
fn two_tokens_are_verified_through_the_admin_socket() {
    let token = |name: &str, answers: bool, live: bool, next: bool| {
        format!("{{\"name\":\"{name}\",\"answers\":{answers},\"live\":{live},\"next\":{next}}}")
    };
    let health = |tokens: &[String]| format!("{{\"status\":\"x\",\"tokens\":[{}]}}", tokens.join(","));
    let good = health(&[token("first", true, true, true), token("second", true, true, true)]);
    let silent = health(&[token("first", false, true, true), token("second", true, true, true)]);
    for (status, health, code, told) in [
        (200, good.as_str(), 0, "the live key and the next are on both tokens"),
        (503, &silent, 1, "the token `first` does not answer"),
        (200, "{\"status\":\"healthy\"}", 1, "one token"),
        (200, "nonsense", 65, "not that of its health"),
        (500, "{}", 69, "answers 500"),
    ] {
        let output = verify(status, health);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert!(stderr(&output).contains(told), "{}", stderr(&output));
        if code <= 1 {
            let verdict: serde_json::Value = serde_json::from_str(stdout(&output)).unwrap();
            assert_eq!((&verdict["version"], &verdict["good"]), (&1.into(), &(code == 0).into()));
            assert_eq!(verdict["reason"].is_null(), code == 0);
        }
    }
}

/// Runs a copy of opsctl beside a `hsm-backup` that tells how it was called, or beside none.
fn hand_on(folder: &Path, arguments: &[&str]) -> Output {
    let copy = folder.join("opsctl");
    if !copy.exists() {
        install_program(Path::new(env!("CARGO_BIN_EXE_opsctl")), &copy);
    }
    Command::new(copy).arg("hsm").args(arguments).env("PATH", folder).output().unwrap()
}

/// Copies a program by a process of its own: a file that this one has open for writing may still be open in a child
/// of another test, and cannot be run until that child has run its own program (`ETXTBSY`).
fn install_program(from: &Path, to: &Path) {
    assert!(Command::new("install").args(["-m", "755"]).args([from, to]).status().unwrap().success());
}

#[test]
fn backup_restore_and_verify_are_handed_on_with_their_arguments_and_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let backup = ["backup", "--connector", "usb", "--auth-key", "3", "--out", "a b"];
    let output = hand_on(folder.path(), &backup);
    assert_eq!(output.status.code(), Some(69));
    assert!(stderr(&output).contains("cannot run `hsm-backup`"), "{}", stderr(&output));

    let script = folder.path().join("script");
    fs::write(&script, "#!/bin/sh\nprintf '%s|' \"$@\"\nexit 78\n").unwrap();
    install_program(&script, &folder.path().join("hsm-backup"));
    for (arguments, told) in [
        (&backup[..], "backup|--connector|usb|--auth-key|3|--out|a b|"),
        (&["restore", "--backup", "b"], "restore|--backup|b|"),
        (&["verify", "--backup", "b", "--chain", "c"], "verify|--backup|b|--chain|c|"),
    ] {
        let output = hand_on(folder.path(), arguments);
        assert_eq!((output.status.code(), stdout(&output)), (Some(78), told), "{}", stderr(&output));
    }
}
