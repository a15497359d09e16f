//! The shape of the workspace: which crate may use which, what must never enter the tree, and how
//! large a file may grow.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::root;

/// Which of our crates each may use. Everything points at `keychain`; daemons never depend on each
/// other, but for authd, which verifies at refresh and uses `edge`'s library for that.
const ARROWS: [(&str, &[&str]); 9] = [
    ("keychain", &[]),
    ("systemd", &[]),
    ("hsmd", &["keychain", "systemd"]),
    ("edge", &["keychain", "systemd"]),
    ("authd", &["edge", "keychain", "systemd"]),
    ("ops", &["keychain", "systemd"]),
    ("app-rust", &[]),
    ("p11fault", &[]),
    ("tests", &["edge", "keychain"]),
];

/// What only tests depend on.
const KITS: [&str; 2] = ["p11fault", "tests"];

/// The one member whose lints are its own, because it is a C ABI; they differ from the workspace's in that alone.
const UNSAFE: &str = "tests/p11fault";

/// One crypto and TLS stack: aws-lc-rs under rustls.
const OTHER_STACKS: [&str; 5] = ["native-tls", "openssl", "openssl-sys", "ring", "schannel"];

/// What does input and output, or holds a runtime: never under `keychain` without its feature.
const WORLDLY: [&str; 9] =
    ["actix-web", "async-std", "hyper", "mio", "redis", "reqwest", "socket2", "sqlx", "tokio"];

/// Lines of a source file: past the first it is split when touched, past this it does not land.
const FILE_LINES_MAX: usize = 600;

/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 8] =
    ["common", "helper", "helpers", "manager", "misc", "util", "utilities", "utils"];

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {complaints}");
    String::from_utf8(output.stdout).unwrap()
}

/// Every package under the given ones, by name, dependencies of tests included on demand.
fn tree(package: &[&str], edges: &str) -> BTreeSet<String> {
    let fixed = ["tree", "--locked", "--edges", edges, "--prefix", "none", "--format", "{p}"];
    let text = cargo(&[&fixed[..], package].concat());
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn sources() -> Vec<PathBuf> {
    let mut folders = vec![root()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 50, "the sources were not found");
    files
}

fn manifest(folder: &Path) -> toml::Table {
    fs::read_to_string(folder.join("Cargo.toml")).unwrap().parse().unwrap()
}

fn members() -> Vec<PathBuf> {
    let workspace = manifest(&root());
    let members = workspace["workspace"]["members"].as_array().unwrap();
    members.iter().map(|member| root().join(member.as_str().unwrap())).collect()
}

#[test]
fn crates_use_only_those_that_the_design_lets_them_use() {
    let metadata: serde_json::Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked"]))
            .unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let ours: BTreeSet<_> = packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
    assert_eq!(ours, ARROWS.iter().map(|(name, _)| *name).collect(), "a member without a row in ARROWS");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let (_, allowed) = ARROWS.iter().find(|(row, _)| *row == name).unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let used = dependency["name"].as_str().unwrap();
            // Any crate's tests may use a kit: that arrow ships nothing.
            let by_tests = KITS.contains(&used) && dependency["kind"] == "dev";
            if ours.contains(used) && !by_tests {
                assert!(allowed.contains(&used), "{name} must not depend on {used}");
            }
        }
    }
}

#[test]
fn there_is_one_crypto_stack() {
    let all = tree(&["--workspace"], "normal,build,dev");
    assert!(all.contains("aws-lc-rs"), "the tree was not read");
    for other in OTHER_STACKS {
        assert!(!all.contains(other), "{other} is in the tree: cargo tree -i {other}");
    }
}

#[test]
fn keychain_alone_touches_nothing() {
    let all = tree(&["--package", "keychain", "--no-default-features"], "normal,build");
    assert!(all.contains("p256"), "the tree was not read");
    for crate_name in WORLDLY {
        assert!(!all.contains(crate_name), "keychain without features depends on {crate_name}");
    }
}

#[test]
fn every_member_takes_the_lints_of_the_workspace() {
    for folder in members() {
        if folder == root().join(UNSAFE) {
            continue;
        }
        let inherited = manifest(&folder).get("lints").and_then(|lints| lints.get("workspace")?.as_bool());
        assert_eq!(inherited, Some(true), "{} lacks [lints] workspace = true", folder.display());
    }
}

#[test]
fn the_one_exception_has_every_other_lint() {
    let workspace = &manifest(&root())["workspace"]["lints"];
    let own = &manifest(&root().join(UNSAFE))["lints"];
    for kind in ["rust", "clippy"] {
        for (lint, level) in workspace[kind].as_table().unwrap() {
            let wanted = (lint != "unsafe_code").then_some(level);
            assert_eq!(own[kind].get(lint), wanted, "{UNSAFE}: {lint}");
        }
    }
}

#[test]
fn files_are_small_and_have_names_that_mean_something() {
    for path in sources() {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines; split it", path.display());
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(!EMPTY_NAMES.contains(&name), "{}: name it after what it does", path.display());
    }
}

#[test]
fn exceptions_have_a_lifetime_and_no_test_is_put_aside() {
    // Spelled in halves, so that this file does not find itself.
    let banned = [
        (concat!("#[", "allow("), "use #[expect(…, reason)]"),
        (concat!("#![", "allow("), "use #![expect(…, reason)]"),
        (concat!("todo", "!("), "finish it"),
    ];
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        for (banned, instead) in banned {
            assert!(!text.contains(banned), "{} has {banned}: {instead}", path.display());
        }
        // One that another test runs, in a process of its own, is not put aside.
        let ignored = text.split(concat!("#[", "ignore")).skip(1);
        for reason in ignored {
            let runner = reason.strip_prefix(" = \"run by `").and_then(|rest| rest.split('`').next());
            assert!(runner.is_some(), "{} has an ignored test that no test runs", path.display());
        }
    }
}

/// Which of hsmd's modules each may import. The list goes down: no arrow points back up, so that there is no circle.
const ROOMS: [(&str, &[&str]); 9] = [
    ("daemon", &["audit", "chain", "clock", "health", "http", "ledger", "policy", "publisher", "token"]),
    ("http", &["audit", "chain", "clock", "health", "ledger", "policy", "token"]),
    ("chain", &["audit", "clock", "health", "ledger", "policy", "token"]),
    ("audit", &["clock", "ledger", "policy"]),
    ("ledger", &["clock"]),
    ("policy", &["clock"]),
    ("token", &["clock"]),
    ("health", &[]),
    ("clock", &[]),
];

#[test]
fn hsmds_rooms_import_downwards_only() {
    let folder = root().join("hsmd/src");
    let mut seen = 0;
    for file in sources().into_iter().filter(|file| file.starts_with(&folder)) {
        let path = file.strip_prefix(&folder).unwrap().to_str().unwrap();
        let room = path.split(['/', '.']).next().unwrap();
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else { continue };
        for used in imports(&fs::read_to_string(&file).unwrap()) {
            let is_room = ROOMS.iter().any(|(name, _)| *name == used);
            assert!(!is_room || used == room || allowed.contains(&used.as_str()), "{path} imports {used}");
            seen += usize::from(is_room);
        }
    }
    assert!(seen > 50, "the imports were not found: {seen}");
}

/// The modules of its own crate that a file names in `use crate::…`, one or in a list.
fn imports(text: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for rest in text.split("use crate::").skip(1) {
        let statement = rest.split(';').next().unwrap();
        let list = statement.strip_prefix('{').map_or(statement, |list| list.trim_end_matches('}'));
        let mut depth = 0;
        let parts = list.split(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        });
        let names = parts.map(|part| part.trim().split("::").next().unwrap().to_owned());
        used.extend(names.filter(|name| !name.is_empty()));
    }
    used
}
