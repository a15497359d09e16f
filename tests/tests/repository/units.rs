//! The systemd units, checked as far as that goes without booting them: by systemd's own tools, and
//! against the table in `systemd/HARDENING.md`. A tool that is missing fails the test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::root;

/// Column in the table, unit, and the highest exposure allowed, times ten.
const SERVICES: [(char, &str, u8); 5] = [
    ('H', "hsmd.service", 5),
    ('P', "hsm-publisher.service", 12),
    ('A', "authd.service", 13),
    ('E', "edge@.service", 12),
    ('K', "keysd.service", 12),
];

/// Everything in `[Service]` that is not a sandbox directive.
const RUNNING: [&str; 20] = [
    "BindReadOnlyPaths",
    "Environment",
    "ExecReload",
    "ExecStart",
    "FileDescriptorStoreMax",
    "Group",
    "IPAddressAllow",
    "LimitNOFILE",
    "LoadCredentialEncrypted",
    "OOMPolicy",
    "OOMScoreAdjust",
    "Restart",
    "RestartPreventExitStatus",
    "RestartSec",
    "StateDirectory",
    "StateDirectoryMode",
    "SupplementaryGroups",
    "TimeoutStartSec",
    "Type",
    "User",
];

fn units() -> Vec<PathBuf> {
    files_in(&root().join("systemd/units"))
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "nothing in {}", folder.display());
    files
}

fn read(unit: &str) -> String {
    fs::read_to_string(root().join("systemd/units").join(unit)).unwrap()
}

/// `key=value` lines of one section, in order.
fn section<'a>(text: &'a str, name: &str) -> Vec<(&'a str, &'a str)> {
    text.lines()
        .skip_while(|line| *line != name)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .collect()
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(text).unwrap()
}

/// Copies the units to where `verify` finds them, templates as an instance, with programs that
/// exist in the place of those that a package installs.
fn installed(folder: &Path) -> Vec<PathBuf> {
    let copy = |unit: &PathBuf| {
        let text = fs::read_to_string(unit).unwrap();
        let text: String = text.lines().map(with_existing_program).collect();
        let name = unit.file_name().unwrap().to_str().unwrap();
        fs::write(folder.join(name), &text).unwrap();
        let instance = folder.join(name.replace('@', "@8443"));
        fs::write(&instance, text).unwrap();
        instance
    };
    units().iter().map(copy).collect()
}

fn with_existing_program(line: &str) -> String {
    match line.strip_prefix("ExecStart=") {
        Some(command) => format!("ExecStart=/bin/true {}\n", command.split_once(' ').unwrap().1),
        None => format!("{line}\n"),
    }
}

#[test]
fn systemd_has_nothing_to_say_about_any_unit() {
    let folder = tempfile::tempdir().unwrap();
    let installed = installed(folder.path());
    let output = run(Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=one"])
        .args(&installed)
        .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display())));
    assert_eq!(said(&output), "");
    assert!(output.status.success(), "{}", output.status);
}

/// The check above is worth something: systemd's exit code alone would say nothing of a misspelt key.
#[test]
fn a_misspelt_key_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("x.service");
    fs::write(&unit, "[Service]\nExecStart=/bin/true\nProtectHomes=yes\n").unwrap();
    let output =
        run(Command::new("systemd-analyze").args(["verify", "--man=no", "--recursive-errors=one"]).arg(unit));
    assert!(said(&output).contains("ProtectHomes"), "{}", said(&output));
}

#[test]
fn security_ceiling() {
    let folder = tempfile::tempdir().unwrap();
    for (_, unit, ceiling) in SERVICES {
        let copy = folder.path().join(unit.replace('@', "@8443"));
        fs::write(&copy, read(unit)).unwrap();
        let output = run(Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", &format!("--threshold={ceiling}")])
            .arg(&copy));
        assert!(output.status.success(), "{unit} is more exposed than {ceiling}/10:\n{}", said(&output));
    }
}

#[test]
fn every_directive_has_its_row_and_every_row_its_directive() {
    let table = hardening_table();
    for (column, unit, _) in SERVICES {
        let text = read(unit);
        let set: BTreeSet<String> = section(&text, "[Service]")
            .into_iter()
            .filter(|(key, _)| !RUNNING.contains(key) && *key != "WatchdogSec")
            .map(|(key, value)| row_name(key, value, &table))
            .collect();
        let asked: BTreeSet<String> = table
            .iter()
            .filter(|(_, columns)| columns.contains(&column))
            .map(|(row, _)| row.clone())
            .collect();
        assert_eq!(set, asked, "{unit} and HARDENING.md disagree");
    }
}

/// Rows of the table by directive, with the columns that have it set.
fn hardening_table() -> BTreeMap<String, Vec<char>> {
    let text = fs::read_to_string(root().join("systemd/HARDENING.md")).unwrap();
    let rows: BTreeMap<_, _> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 9, "{line}");
            assert!(!cells[7].is_empty(), "a directive without a threat: {line}");
            let columns = SERVICES.iter().zip(&cells[2..7]);
            let set = columns.filter(|(_, cell)| **cell == "●").map(|((column, ..), _)| *column).collect();
            (cells[1].trim_matches('`').to_owned(), set)
        })
        .collect();
    assert!(rows.len() > 30, "the table was not understood");
    rows
}

/// A row names the directive with its value, or without one where the values differ.
fn row_name(key: &str, value: &str, table: &BTreeMap<String, Vec<char>>) -> String {
    let general = format!("{key}=");
    if table.contains_key(&general) { general } else { format!("{key}={value}") }
}

#[test]
fn what_every_service_needs_to_be_supervised() {
    let wanted = [("Type", "notify"), ("Restart", "on-failure"), ("RestartPreventExitStatus", "78")];
    for (_, unit, _) in SERVICES {
        let text = read(unit);
        let service = section(&text, "[Service]");
        for pair in wanted {
            assert!(service.contains(&pair), "{unit} lacks {}={}", pair.0, pair.1);
        }
        for key in ["WatchdogSec", "User", "TimeoutStartSec"] {
            assert!(service.iter().any(|(found, _)| *found == key), "{unit} lacks {key}=");
        }
        assert!(text.starts_with("# Do not edit: put changes into a drop-in"), "{unit}");
    }
}

/// Without a restart (status 78) the connection that waits at a socket starts the service again and again: the failed
/// service has its sockets stopped, all of them, and a crash, which is restarted, does not.
#[test]
fn a_refused_configuration_is_quiet_under_socket_activation() {
    let service = read("hsmd.service");
    let unit: BTreeMap<_, _> = section(&service, "[Unit]").into_iter().collect();
    assert_eq!((unit["OnFailure"], unit["StartLimitIntervalSec"]), ("hsmd-refused.target", "0"));
    let required: BTreeSet<_> = unit["Requires"].split(' ').collect();
    let target = read("hsmd-refused.target");
    let target: BTreeMap<_, _> = section(&target, "[Unit]").into_iter().collect();
    let stopped: BTreeSet<_> = target["Conflicts"].split(' ').collect();
    assert!(required.is_subset(&stopped), "`systemctl start hsmd` opens what was stopped");
    let mut sockets = BTreeSet::new();
    for path in units() {
        let text = fs::read_to_string(&path).unwrap();
        let socket: BTreeMap<_, _> = section(&text, "[Socket]").into_iter().collect();
        if socket.get("Service") == Some(&"hsmd.service") {
            let limits = (socket.get("TriggerLimitIntervalSec"), socket.get("TriggerLimitBurst"));
            assert_eq!(limits, (Some(&"1min"), Some(&"10")), "{}", path.display());
            sockets.insert(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    assert!(stopped.iter().copied().eq(sockets.iter().map(String::as_str)), "{stopped:?} {sockets:?}");
}

/// hsmd holds its clock against the ledger at its start: a time service that is waited for goes first.
#[test]
fn hsmd_starts_after_the_clock_was_set() {
    let service = read("hsmd.service");
    let unit = section(&service, "[Unit]");
    assert!(unit.contains(&("After", "time-sync.target")));
    assert!(!unit.iter().any(|(key, value)| *key != "After" && value.contains("time-sync")), "ordered only");
}

/// Each socket is named, because a daemon asks for its sockets by name.
#[test]
fn sockets_are_named_and_unix_sockets_are_closed_to_others() {
    let sockets: Vec<_> =
        units().into_iter().filter(|unit| unit.extension().is_some_and(|kind| kind == "socket")).collect();
    assert_eq!(sockets.len(), 9);
    for path in sockets {
        let text = fs::read_to_string(&path).unwrap();
        let socket: BTreeMap<_, _> = section(&text, "[Socket]").into_iter().collect();
        assert!(socket.contains_key("FileDescriptorName"), "{}", path.display());
        if socket["ListenStream"].starts_with('/') {
            assert_eq!(socket["SocketMode"], "0660", "{}", path.display());
            let daemon = socket["Service"].trim_end_matches("service");
            let group = socket["SocketGroup"].replace('-', ".");
            assert!(group.starts_with(daemon), "{}", path.display());
        }
    }
}

/// systemd filters an inherited socket by its own unit, whatever the service's says.
#[test]
fn the_socket_for_other_hosts_is_closed_until_opened() {
    let text = read("hsmd-remote.socket");
    let socket: BTreeMap<_, _> = section(&text, "[Socket]").into_iter().collect();
    assert_eq!((socket["IPAddressDeny"], socket["IPAddressAllow"]), ("any", "localhost"));
    let service = read("hsmd.service");
    assert!(!service.contains("hsmd-remote.socket"), "it must not come with the service");
    for line in ["PrivateNetwork=yes", "RestrictAddressFamilies=AF_UNIX", "IPAddressDeny=any"] {
        assert!(service.lines().any(|found| found == line), "{line}");
    }
}

/// Users, groups and folders are made in an empty root, where they can be looked at.
#[test]
fn users_and_folders_are_those_that_the_units_name() {
    let empty = tempfile::tempdir().unwrap();
    fs::create_dir(empty.path().join("etc")).unwrap();
    let sysusers = run(Command::new("systemd-sysusers")
        .arg(format!("--root={}", empty.path().display()))
        .args(files_in(&root().join("systemd/sysusers.d"))));
    assert!(sysusers.status.success(), "{}", said(&sysusers));
    let groups = fs::read_to_string(empty.path().join("etc/group")).unwrap();
    let users = fs::read_to_string(empty.path().join("etc/passwd")).unwrap();
    let group =
        |name: &str| groups.lines().find(|line| line.split(':').next() == Some(name)).map(str::to_owned);

    for (_, unit, _) in SERVICES {
        let text = read(unit);
        for (key, value) in section(&text, "[Service]") {
            match key {
                "User" => assert!(
                    users.lines().any(|line| line.split(':').next() == Some(value)),
                    "{unit}: {value}"
                ),
                "Group" | "SupplementaryGroups" => assert!(group(value).is_some(), "{unit}: {value}"),
                _ => {}
            }
        }
    }
    let members = group("hsmd-endorse").unwrap();
    let members: BTreeSet<_> = members.split(':').nth(3).unwrap().split(',').collect();
    assert_eq!(members, BTreeSet::from(["authd", "edge", "hsm-publisher", "keysd"]));
    for operators in ["hsmd-admin", "authd-admin"] {
        assert!(group(operators).unwrap().ends_with(':'), "nobody is an operator until made one");
    }

    let tmpfiles = run(Command::new("systemd-tmpfiles")
        .arg(format!("--root={}", empty.path().display()))
        .arg("--create")
        .args(files_in(&root().join("systemd/tmpfiles.d"))));
    assert!(tmpfiles.status.success() && said(&tmpfiles).is_empty(), "{}", said(&tmpfiles));
    for folder in ["etc/hsmd", "etc/hsm-publisher", "etc/authd", "etc/edge", "etc/keysd", "run/hsmd"] {
        assert!(empty.path().join(folder).is_dir(), "{folder}");
    }
}
