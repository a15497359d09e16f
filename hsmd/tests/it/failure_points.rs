//! hsmd and hsm-publisher killed, and their writes failing, at every labelled step: the table of labels is
//! walked, so that none is left untried, and each must be reached.

use std::{
    collections::BTreeSet,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, ExitStatus},
    time::Duration,
};

use hsmd::failure_point::{LABELS, Label, VARIABLE};
use keychain::{audit::Kind, endorsement::Purpose};

use crate::{
    publisher::Published,
    support::{
        daemon::{Answer, Daemon, try_request},
        in_parallel, trail,
        world::{Database, World, service_key, sign_request, verify},
    },
};

/// What is done at a label, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Kill,
    Fail,
}

/// A label and what is done there.
#[derive(Clone, Copy, Debug)]
struct Case {
    label: Label,
    action: Action,
}

impl Case {
    fn plan(self) -> String {
        let action = if self.action == Action::Kill { "kill" } else { "fail" };
        format!("{}:{action}:1", self.label.name)
    }
}

/// Every label of a step, to be killed at, and to fail at if it is a write's.
fn cases(step: &str) -> Vec<Case> {
    let labels = LABELS.iter().filter(|label| label.name.split('/').next() == Some(step));
    let cases = labels.flat_map(|label| {
        let fail = label.write.then_some(Case { label: *label, action: Action::Fail });
        [Some(Case { label: *label, action: Action::Kill }), fail].into_iter().flatten()
    });
    let cases: Vec<_> = cases.collect();
    assert!(!cases.is_empty(), "{step}");
    cases
}

/// The tests below between them walk the whole table.
#[test]
fn every_step_has_its_test() {
    let steps: BTreeSet<_> = LABELS.iter().map(|label| label.name.split('/').next().unwrap()).collect();
    // Of the step `ledger` see `audit::whatever_the_disk_does_nothing_answered_is_lost`.
    let tried = ["endorse", "first", "ledger", "publish", "recover", "rotate", "settle", "taint"];
    assert!(steps.into_iter().eq(tried));
}

/// The rules that hold after whatever happened: the chain is valid and goes on from `before`, its newest
/// generation signs, and the token holds the live key and the next.
fn check(world: &World, before: &[String], case: Case) -> Vec<String> {
    let chain = world.chain();
    let texts: Vec<_> = chain.iter().map(|event| event.text().to_owned()).collect();
    assert!(texts.starts_with(before), "{case:?}: forked");
    assert!(texts.len() <= before.len() + 1, "{case:?}: one command, one event");
    let key = service_key(3);
    let body = sign_request(Purpose::Response, key, Duration::from_mins(5));
    let endorsed = try_request(&world.socket("edge"), "POST", "/sign", body.as_bytes()).unwrap().ok();
    let signer = verify(&endorsed, &chain, Purpose::Response, &key, "edge:demo");
    assert_eq!(signer, chain.last().unwrap().id(), "{case:?}");
    assert_eq!(world.softhsm.objects(), 4, "{case:?}");
    texts
}

fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(9)
}

#[test]
fn first_start_on_sqlite() {
    in_parallel(cases("first"), |case| first_start(Database::Sqlite, case));
}

#[test]
fn first_start_on_postgres() {
    let cases = cases("first").into_iter().filter(|case| case.label.name.ends_with("commit"));
    in_parallel(cases, |case| first_start(Database::Postgres, case));
}

fn first_start(database: Database, case: Case) {
    let world = World::new(database);
    let mut hsmd = world.spawn_to_fail(&case.plan());
    let ended = hsmd.ready();
    match (case.action, ended) {
        (Action::Kill, Err(status)) => assert!(was_killed(status), "{case:?}: {status}: {}", hsmd.log()),
        (Action::Kill, Ok(())) => panic!("{case:?}: not reached"),
        (Action::Fail, _) => assert!(hsmd.log().contains(case.label.name), "{case:?}: {}", hsmd.log()),
    }
    if case.action == Action::Kill || ended.is_err() {
        hsmd = world.start();
    }
    let first = check(&world, &[], case);
    assert_eq!(first.len(), 1);
    world.rotate("{}");
    assert_eq!(check(&world, &first, case).len(), 2);
    hsmd.stop();
}

#[test]
fn rotations_on_sqlite() {
    advances(Database::Sqlite, "rotate");
}

#[test]
fn rotations_on_postgres() {
    advances(Database::Postgres, "rotate");
}

#[test]
fn taints_on_sqlite() {
    advances(Database::Sqlite, "taint");
}

/// One world through all of it: each case begins where the one before left the chain.
fn advances(database: Database, step: &str) {
    let world = World::new(database);
    world.start().stop();
    for case in cases(step) {
        let (before, answer, hsmd) = act(&world, case, "admin", &format!("/{step}"), "{}");
        let after = check(&world, &before, case);
        let advanced = after.len() - before.len();
        match (case.action, &answer) {
            (Action::Kill, None) => {}
            (Action::Kill, Some(answer)) => assert!(answer.status == 200 && advanced == 1, "{case:?}"),
            (Action::Fail, answer) => {
                let done = case.label.name.ends_with("after-commit");
                let status = answer.as_ref().unwrap().status;
                assert_eq!((status, advanced), if done { (200, 1) } else { (503, 0) }, "{case:?}");
            }
        }
        if let Some(shown) = answer.filter(|answer| answer.status == 200) {
            let newest = world.chain().last().unwrap().id().to_string();
            assert!(shown.body.contains(&newest), "{case:?}: what was answered stands");
        }
        world.rotate("{}");
        check(&world, &after, case);
        drop(hsmd);
    }
}

#[test]
fn endorsements_on_sqlite() {
    let world = World::new(Database::Sqlite);
    world.start().stop();
    for case in cases("endorse") {
        let body = sign_request(Purpose::Response, service_key(4), Duration::from_mins(5));
        let (before, answer, _hsmd) = act(&world, case, "edge", "/sign", &body);
        assert_eq!(answer, None, "{case:?}");
        let after = check(&world, &before, case);
        assert_eq!(after, before, "{case:?}");
        world.rotate("{}");
        check(&world, &after, case);
    }
}

/// Starts hsmd with the plan and sends it the request during which it is to be carried out; starts it again
/// if it died of that. Answers the chain as it was before, the answer if there was one, and the hsmd that runs.
fn act(
    world: &World,
    case: Case,
    socket: &str,
    path: &str,
    body: &str,
) -> (Vec<String>, Option<Answer>, Daemon) {
    let mut hsmd = world.spawn_to_fail(&case.plan());
    hsmd.ready().unwrap();
    let before: Vec<_> = world.chain().iter().map(|event| event.text().to_owned()).collect();
    let answer = try_request(&world.socket(socket), "POST", path, body.as_bytes()).ok();
    if case.action == Action::Kill {
        assert!(was_killed(hsmd.ended()), "{case:?}");
        hsmd = world.start();
    }
    let log = hsmd.log();
    assert!(log.contains("failure point") && log.contains(case.label.name), "{case:?}: not reached: {log}");
    std::fs::remove_file(world.path().join("hsmd.log")).unwrap();
    (before, answer, hsmd)
}

/// Killed while it clears away what an earlier death left.
#[test]
fn reconciliations_on_sqlite() {
    let world = World::new(Database::Sqlite);
    world.start().stop();
    for case in cases("settle") {
        let mut hsmd = world.spawn_to_fail("rotate/after-commit:kill:1");
        hsmd.ready().unwrap();
        let before: Vec<_> = world.chain().iter().map(|event| event.text().to_owned()).collect();
        assert!(try_request(&world.socket("admin"), "POST", "/rotate", b"{}").is_err());
        assert!(was_killed(hsmd.ended()));
        assert_eq!(world.softhsm.objects(), 6, "the key that was left is still there");
        let status = world.spawn_to_fail(&case.plan()).ready().unwrap_err();
        assert!(was_killed(status), "{case:?}: {status}");
        let mut hsmd = world.start();
        let after = check(&world, &before, case);
        assert_eq!(after.len(), before.len() + 1, "{case:?}");
        world.rotate("{}");
        check(&world, &after, case);
        hsmd.stop();
    }
}

/// Killed, or failing, while it imports the published chain into a ledger that was lost.
#[test]
fn recoveries_on_sqlite() {
    in_parallel(cases("recover"), |case| {
        let world = World::new(Database::Sqlite);
        let mut hsmd = world.start();
        world.rotate("{}");
        let before: Vec<_> = world.chain().iter().map(|event| event.text().to_owned()).collect();
        hsmd.stop();
        world.restore_ledger(None);
        let chain = format!("[{}]", before.join(","));
        let mut hsmd = world.start_behind(Some(&case.plan()));
        let answer = try_request(&world.socket("admin"), "POST", "/recover", chain.as_bytes());
        if case.action == Action::Kill {
            assert!(answer.is_err() && was_killed(hsmd.ended()), "{case:?}");
            let imported = case.label.name.contains("after");
            hsmd = if imported { world.start() } else { world.start_behind(None) };
        } else {
            assert_eq!(answer.unwrap().status, 503, "{case:?}");
            assert!(hsmd.log().contains(case.label.name), "{case:?}");
        }
        world.recover("", &chain).ok();
        assert_eq!(check(&world, &before, case), before);
        world.rotate("{}");
        check(&world, &before, case);
        hsmd.stop();
        // Whenever it was killed, the import has its line: both are one transaction.
        let lines = trail::read(&world.ledger);
        let imports = lines.iter().filter(|line| line.is(Kind::Outcome, "recover"));
        let imports = imports.filter(|line| line.raw("details").contains("\"imported\":\"2\""));
        assert_eq!(imports.count(), 1, "{case:?}");
    });
}

/// What the publisher was killed over, or failed to write, is published all the same.
#[test]
fn publications() {
    in_parallel(cases("publish"), |case| {
        let mut published = Published::new();
        let _hsmd = published.world.start();
        let mut publisher = published.spawn(&[(VARIABLE, &case.plan())]);
        if case.action == Action::Kill {
            assert!(was_killed(publisher.ended()), "{case:?}");
            publisher = published.spawn(&[]);
        }
        publisher.ready().unwrap();
        assert!(publisher.log().contains(case.label.name), "{case:?}: {}", publisher.log());
        published.settles();
        published.world.rotate("{}");
        published.settles();
        publisher.stop();
    });
}

/// A release build holds nothing of this: the module compiled as a release is has neither label nor variable,
/// and the daemon that the tests run has both.
#[test]
fn a_release_holds_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/src/failure_point.rs");
    let source = format!(
        "#[path = {module:?}] pub mod failure_point;\nuse failure_point::{{Step, pass, write}};\n\
         fn main() {{\n pass(Step::Rotate, \"after-show\");\n \
         if let Err(error) = write(Step::Rotate, \"after-commit\") {{ panic!(\"{{error}}\") }}\n}}\n"
    );
    std::fs::write(folder.path().join("main.rs"), source).unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = Command::new(rustc)
        .args([
            "--edition",
            "2024",
            "-O",
            "-C",
            "strip=debuginfo",
            "-A",
            "warnings",
            "main.rs",
            "-o",
            "release",
        ])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8(built.stderr).unwrap());
    assert_eq!(VARIABLE, crate::support::world::FAILURE_POINT);
    for trace in ["after-show", "after-commit", VARIABLE] {
        assert!(!holds(&folder.path().join("release"), trace), "{trace}");
        assert!(holds(env!("CARGO_BIN_EXE_hsmd").as_ref(), trace), "{trace}");
    }
}

fn holds(program: &Path, text: &str) -> bool {
    std::fs::read(program).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
}
