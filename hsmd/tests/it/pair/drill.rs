//! The drill: the real daemon with two SoftHSM tokens that mirror each other, each of which is lost, replaced and brought
//! back.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use p11fault::{Mode, Plan, Rule};

use crate::{
    faults::{Fixture, SOON},
    support::{self, daemon::Daemon, eventually, in_parallel},
};

/// Long enough for a token that is tried on ever less often.
const BACK: Duration = Duration::from_secs(30);

/// The labels of the tokens, in the order of their slots.
pub const LABELS: [&str; 2] = ["keelson", "spare"];

/// From now on the token does not answer.
pub fn gone(label: &str) -> Plan {
    bound(label, Rule::new("*", "CKR_DEVICE_REMOVED", Mode::Before))
}

pub fn bound(label: &str, rule: Rule) -> Plan {
    Plan::of(Rule { token: Some(label.to_owned()), ..rule })
}

pub fn rotate(fixture: &Fixture) -> (u16, String) {
    fixture.post("admin", "/rotate", "{}")
}

/// How many objects are on the first token and on the second.
pub fn objects(fixture: &Fixture) -> [usize; 2] {
    LABELS.map(|label| fixture.world.softhsm.objects_of(label))
}

/// What health says of the tokens: for each whether it answers, holds the live key, and the next.
pub fn tokens(fixture: &Fixture) -> Vec<(bool, bool, bool)> {
    let health: serde_json::Value = serde_json::from_str(&fixture.health().1).unwrap();
    let tokens = health["tokens"].as_array().unwrap();
    let says = |token: &serde_json::Value, name: &str| token[name].as_bool().unwrap();
    assert_eq!([&tokens[0]["name"], &tokens[1]["name"]], ["first", "second"]);
    tokens.iter().map(|token| (says(token, "answers"), says(token, "live"), says(token, "next"))).collect()
}

pub const MIRRORED: [(bool, bool, bool); 2] = [(true, true, true); 2];

#[test]
fn each_key_is_on_both_tokens() {
    let fixture = Fixture::pair();
    let mut hsmd = fixture.start();
    for round in 0..6 {
        assert_eq!(tokens(&fixture), MIRRORED, "{round}");
        assert_eq!(objects(&fixture), [4, 4]);
        assert!(fixture.signs());
        if round == 3 {
            hsmd.stop();
            hsmd = fixture.start();
        }
        let path = if round == 4 { "/taint" } else { "/rotate" };
        assert_eq!(fixture.post("admin", path, "{}").0, 200);
    }
    assert_eq!(fixture.chain().unwrap().len(), 7);
    let (status, health) = fixture.health();
    assert!(status == 200 && health.contains("\"warnings\":{}"), "{health}");
    hsmd.stop();
}

/// Signs, rotates or taints past the loss, and sees that the chain is the same.
fn goes_on(fixture: &Fixture, hsmd: &Daemon, path: &str) {
    let start = Instant::now();
    assert!(fixture.signs(), "{}", hsmd.log());
    assert!(start.elapsed() < SOON, "failover took {:?}", start.elapsed());
    let before = fixture.chain().unwrap();
    let (status, body) = fixture.post("admin", path, "{}");
    assert_eq!(status, 200, "{body} {}", hsmd.log());
    assert!(fixture.signs(), "{}", hsmd.log());
    let after = fixture.chain().unwrap();
    assert_eq!((after.len(), after[0].id()), (before.len() + 1, before[0].id()));
    assert_eq!(after.last().unwrap().event().taint_previous, path == "/taint");
    assert_eq!(fixture.health().0, 200);
}

#[test]
fn either_token_is_lost_and_comes_back() {
    in_parallel([(0, "first"), (1, "second")], |(lost, name)| {
        let fixture = Fixture::pair();
        let mut hsmd = fixture.start();
        fixture.plan(gone(LABELS[lost]));
        goes_on(&fixture, &hsmd, "/rotate");
        goes_on(&fixture, &hsmd, "/taint");
        eventually("a warning", SOON, || {
            let (status, health) = fixture.health();
            let shown = format!("the token `{name}` does not answer");
            status == 200 && health.contains(&shown) && health.contains("nothing must happen to the other")
        });
        let (lines, page) = (tokens(&fixture), fixture.metrics());
        assert_eq!((lines[lost].0, lines[1 - lost]), (false, (true, true, true)));
        assert!(page.contains(&format!("hsmd_token_answers{{token=\"{name}\"}} 0")), "{page}");
        fixture.lift();
        eventually("both keys on both tokens", BACK, || objects(&fixture) == [4, 4]);
        eventually("no warning", BACK, || fixture.health().1.contains("\"warnings\":{}"));
        assert_eq!(tokens(&fixture), MIRRORED);
        assert_eq!(rotate(&fixture).0, 200);
        assert_eq!(objects(&fixture), [4, 4]);
        hsmd.stop();
    });
}

/// hsmd starts anew with either token alone.
#[test]
fn a_restart_with_one_token_signs_and_rotates() {
    in_parallel([0, 1], |lost| {
        let fixture = Fixture::pair();
        let mut hsmd = fixture.start();
        hsmd.stop();
        fixture.plan(gone(LABELS[lost]));
        let mut hsmd = fixture.start();
        goes_on(&fixture, &hsmd, "/taint");
        goes_on(&fixture, &hsmd, "/rotate");
        fixture.lift();
        eventually("both keys on both tokens", BACK * 2, || objects(&fixture) == [4, 4]);
        hsmd.stop();
    });
}

fn folder_of(fixture: &Fixture, label: &str) -> PathBuf {
    let mut folders = fixture.world.softhsm.token_folders().into_iter();
    folders.find(|folder| holds_label(folder, label)).unwrap()
}

fn holds_label(folder: &Path, label: &str) -> bool {
    let token = fs::read(folder.join("token.object")).unwrap();
    token.windows(label.len()).any(|part| part == label.as_bytes())
}

/// Either token is destroyed for good, an empty one is put in its slot, and the officers pair the two anew.
#[test]
fn a_lost_token_is_replaced() {
    in_parallel([0, 1], |lost| {
        let fixture = Fixture::pair();
        let mut hsmd = fixture.start();
        assert_eq!(rotate(&fixture).0, 200);
        hsmd.stop();
        fs::remove_dir_all(folder_of(&fixture, LABELS[lost])).unwrap();
        let mut hsmd = fixture.start();
        goes_on(&fixture, &hsmd, "/rotate");

        fixture.world.softhsm.add_token(LABELS[lost]);
        eventually("the new token", BACK * 3, || tokens(&fixture)[lost].0);
        eventually("the exchange is named", BACK, || {
            let health = fixture.health().1;
            health.contains("is another than before") && health.contains("opsctl hsm token accept")
        });
        let exchanged = |value| {
            let name = ["first", "second"][lost];
            fixture.metrics().contains(&format!("hsmd_token_exchanged{{token=\"{name}\"}} {value}"))
        };
        assert!(exchanged(1));
        assert!(fixture.signs());
        assert_eq!(rotate(&fixture).0, 200, "the tokens are not paired yet");
        if lost == 0 {
            // A word alone, before the officers' act.
            support::operators_word("accept-token", &fixture.world.config());
            eventually("the word is heard", BACK, || !fixture.health().1.contains("is another than before"));
            assert!(exchanged(0));
        }
        eventually("a warning with its cure", SOON, || fixture.health().1.contains("opsctl hsm pair"));
        let shown = fixture.world.softhsm.ceremony("replace", &fixture.world.config());
        assert!(shown.contains("2 keys are on both and sign"), "{shown}");
        assert_eq!(objects(&fixture), [4, 4], "{}", hsmd.log());
        assert!(fixture.signs());
        assert_eq!(rotate(&fixture).0, 200, "{}", hsmd.log());
        assert_eq!(objects(&fixture), [4, 4]);
        eventually("no warning", BACK, || fixture.health().1.contains("\"warnings\":{}"));
        assert!(exchanged(0));
        // The survivor was needed for it, and is not any more.
        fixture.plan(gone(LABELS[1 - lost]));
        goes_on(&fixture, &hsmd, "/rotate");
        fixture.lift();
        hsmd.stop();
    });
}

#[test]
fn a_second_token_is_added_to_a_chain() {
    let fixture = Fixture::new();
    let mut hsmd = fixture.start();
    assert_eq!(rotate(&fixture).0, 200);
    hsmd.stop();
    fixture.world.softhsm.add_token("spare");
    fixture.add_second("token_label = \"spare\"");
    let mut hsmd = fixture.start();
    assert_eq!(tokens(&fixture), [(true, true, true), (true, false, false)]);
    eventually("a warning", SOON, || fixture.health().1.contains("are on one token only, `first`"));
    let shown = fixture.world.softhsm.ceremony("pair", &fixture.world.config());
    assert!(shown.contains("keys are on both after two rotations"), "{shown}");
    assert_eq!(rotate(&fixture).0, 200);
    assert_eq!(tokens(&fixture), [(true, true, true), (true, false, true)]);
    assert!(fixture.health().1.contains("\"mirroredFrom\":3"), "{}", fixture.health().1);
    assert_eq!(rotate(&fixture).0, 200);
    assert_eq!(tokens(&fixture), MIRRORED);
    eventually("no warning", SOON, || fixture.health().1.contains("\"warnings\":{}"));
    assert_eq!(objects(&fixture), [4, 4]);
    let shown = fixture.world.softhsm.ceremony("pair", &fixture.world.config());
    assert!(shown.contains("paired already"), "{shown}");
    hsmd.stop();
}

#[test]
fn a_rotation_waits_for_both_tokens_if_they_are_required() {
    let fixture = Fixture::pair();
    let config = fs::read_to_string(fixture.world.config()).unwrap();
    fs::write(fixture.world.config(), format!("require_both_tokens = true\n{config}")).unwrap();
    let mut hsmd = fixture.start();
    fixture.plan(gone("spare"));
    assert!(fixture.signs());
    let (status, body) = rotate(&fixture);
    assert!(status == 503 && body.contains("\"token\":\"second\""), "{status} {body}");
    assert!(fixture.signs());
    fixture.lift();
    eventually("a rotation", BACK, || rotate(&fixture).0 == 200);
    assert_eq!(objects(&fixture), [4, 4]);
    hsmd.stop();
}

#[test]
fn a_token_with_two_names_is_used_once() {
    let fixture = Fixture::new();
    let serial = fixture.world.softhsm.token_folders();
    assert_eq!(serial.len(), 1);
    let mut hsmd = fixture.start();
    hsmd.stop();
    let shown = {
        let settings = "token_label = \"nobody\"";
        fixture.add_second(settings);
        let mut hsmd = fixture.start();
        eventually("a warning", SOON, || fixture.health().1.contains("serial `"));
        let health = fixture.health().1;
        hsmd.stop();
        health
    };
    // Health names the serial numbers of the tokens that are there.
    let serial = shown.split("serial `").nth(1).unwrap().split('`').next().unwrap().to_owned();
    let config = fs::read_to_string(fixture.world.config()).unwrap();
    let config = config.replace("token_label = \"nobody\"", &format!("token_serial = \"{serial}\""));
    fs::write(fixture.world.config(), config).unwrap();
    // Health says so, and the one token signs.
    let mut hsmd = fixture.start();
    eventually("a warning", SOON, || fixture.health().1.contains("one and the same token"));
    assert!(fixture.signs());
    assert_eq!(fixture.health().0, 200);
    hsmd.stop();
}

/// A wrong PIN of one token is a warning, and is presented once.
#[test]
fn a_refused_pin_of_one_token_is_presented_once() {
    let fixture = Fixture::pair();
    let mut hsmd = fixture.start();
    hsmd.stop();
    fixture.plan(bound("spare", Rule::new("C_Login", "CKR_PIN_INCORRECT", Mode::Before)));
    let mut hsmd = fixture.start();
    eventually("a warning", SOON, || fixture.health().1.contains("refused the PIN"));
    assert!(fixture.signs());
    std::thread::park_timeout(Duration::from_secs(7));
    assert_eq!(fixture.logged("login 160"), 1);
    assert_eq!(rotate(&fixture).0, 200);
    hsmd.stop();
}

/// A chain begins only with both tokens, whichever comes last.
#[test]
fn a_first_start_waits_for_both_tokens() {
    let fixture = Fixture::pair();
    fixture.plan(Plan::of(Rule::new("*", "CKR_DEVICE_REMOVED", Mode::Before)));
    let mut hsmd = fixture.spawn_with(&[]);
    hsmd.notified("STATUS=not ready: token-silent: the token of the HSM does not answer").unwrap();
    fixture.plan(gone("spare"));
    hsmd.notified("a chain begins with its keys on every token").unwrap();
    assert_eq!(objects(&fixture), [0, 0]);
    fixture.lift();
    hsmd.ready().unwrap();
    assert!(fixture.signs());
    assert_eq!(objects(&fixture), [4, 4]);
    hsmd.stop();
}
