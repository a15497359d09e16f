//! The drill: the real daemon with two SoftHSM tokens that mirror each other, each of which is lost, replaced and brought
//! back.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use p11fault::{Mode, Plan, Rule};

use crate::{
    faults::{Place, SOON},
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

pub fn rotate(place: &Place) -> (u16, String) {
    place.post("admin", "/rotate", "{}")
}

/// How many objects are on the first token and on the second.
pub fn objects(place: &Place) -> [usize; 2] {
    LABELS.map(|label| place.world.softhsm.objects_of(label))
}

/// What health says of the tokens: for each whether it answers, holds the live key, and the next.
pub fn tokens(place: &Place) -> Vec<(bool, bool, bool)> {
    let health: serde_json::Value = serde_json::from_str(&place.health().1).unwrap();
    let tokens = health["tokens"].as_array().unwrap();
    let says = |token: &serde_json::Value, name: &str| token[name].as_bool().unwrap();
    assert_eq!([&tokens[0]["name"], &tokens[1]["name"]], ["first", "second"]);
    tokens.iter().map(|token| (says(token, "answers"), says(token, "live"), says(token, "next"))).collect()
}

pub const MIRRORED: [(bool, bool, bool); 2] = [(true, true, true); 2];

#[test]
fn each_key_is_on_both_tokens() {
    let place = Place::pair();
    let mut hsmd = place.start();
    for round in 0..6 {
        assert_eq!(tokens(&place), MIRRORED, "{round}");
        assert_eq!(objects(&place), [4, 4]);
        assert!(place.signs());
        if round == 3 {
            hsmd.stop();
            hsmd = place.start();
        }
        let path = if round == 4 { "/taint" } else { "/rotate" };
        assert_eq!(place.post("admin", path, "{}").0, 200);
    }
    assert_eq!(place.chain().unwrap().len(), 7);
    let (status, health) = place.health();
    assert!(status == 200 && health.contains("\"warnings\":{}"), "{health}");
    hsmd.stop();
}

/// Signs, rotates or taints past the loss, and sees that the chain is the same.
fn goes_on(place: &Place, hsmd: &Daemon, path: &str) {
    let start = Instant::now();
    assert!(place.signs(), "{}", hsmd.log());
    assert!(start.elapsed() < SOON, "failover took {:?}", start.elapsed());
    let before = place.chain().unwrap();
    let (status, body) = place.post("admin", path, "{}");
    assert_eq!(status, 200, "{body} {}", hsmd.log());
    assert!(place.signs(), "{}", hsmd.log());
    let after = place.chain().unwrap();
    assert_eq!((after.len(), after[0].id()), (before.len() + 1, before[0].id()));
    assert_eq!(after.last().unwrap().event().taint_previous, path == "/taint");
    assert_eq!(place.health().0, 200);
}

#[test]
fn either_token_is_lost_and_comes_back() {
    in_parallel([(0, "first"), (1, "second")], |(lost, name)| {
        let place = Place::pair();
        let mut hsmd = place.start();
        place.plan(gone(LABELS[lost]));
        goes_on(&place, &hsmd, "/rotate");
        goes_on(&place, &hsmd, "/taint");
        eventually("a warning", SOON, || {
            let (status, health) = place.health();
            let told = format!("the token `{name}` does not answer");
            status == 200 && health.contains(&told) && health.contains("nothing must happen to the other")
        });
        let (lines, page) = (tokens(&place), place.metrics());
        assert_eq!((lines[lost].0, lines[1 - lost]), (false, (true, true, true)));
        assert!(page.contains(&format!("hsmd_token_answers{{token=\"{name}\"}} 0")), "{page}");
        place.lift();
        eventually("both keys on both tokens", BACK, || objects(&place) == [4, 4]);
        eventually("no warning", BACK, || place.health().1.contains("\"warnings\":{}"));
        assert_eq!(tokens(&place), MIRRORED);
        assert_eq!(rotate(&place).0, 200);
        assert_eq!(objects(&place), [4, 4]);
        hsmd.stop();
    });
}

/// hsmd starts anew with either token alone.
#[test]
fn a_restart_with_one_token_signs_and_rotates() {
    in_parallel([0, 1], |lost| {
        let place = Place::pair();
        let mut hsmd = place.start();
        hsmd.stop();
        place.plan(gone(LABELS[lost]));
        let mut hsmd = place.start();
        goes_on(&place, &hsmd, "/taint");
        goes_on(&place, &hsmd, "/rotate");
        place.lift();
        eventually("both keys on both tokens", BACK * 2, || objects(&place) == [4, 4]);
        hsmd.stop();
    });
}

fn folder_of(place: &Place, label: &str) -> PathBuf {
    let mut folders = place.world.softhsm.token_folders().into_iter();
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
        let place = Place::pair();
        let mut hsmd = place.start();
        assert_eq!(rotate(&place).0, 200);
        hsmd.stop();
        fs::remove_dir_all(folder_of(&place, LABELS[lost])).unwrap();
        let mut hsmd = place.start();
        goes_on(&place, &hsmd, "/rotate");

        place.world.softhsm.add_token(LABELS[lost]);
        eventually("the new token", BACK * 3, || tokens(&place)[lost].0);
        eventually("the exchange is named", BACK, || {
            let health = place.health().1;
            health.contains("is another than before") && health.contains("opsctl hsm token accept")
        });
        let exchanged = |value| {
            let name = ["first", "second"][lost];
            place.metrics().contains(&format!("hsmd_token_exchanged{{token=\"{name}\"}} {value}"))
        };
        assert!(exchanged(1));
        assert!(place.signs());
        assert_eq!(rotate(&place).0, 200, "the tokens are not paired yet");
        if lost == 0 {
            // A word alone, before the officers' act.
            support::operators_word("accept-token", &place.world.config());
            eventually("the word is heard", BACK, || !place.health().1.contains("is another than before"));
            assert!(exchanged(0));
        }
        eventually("a warning with its cure", SOON, || place.health().1.contains("opsctl hsm pair"));
        let told = place.world.softhsm.ceremony("replace", &place.world.config());
        assert!(told.contains("2 keys are on both and sign"), "{told}");
        assert_eq!(objects(&place), [4, 4], "{}", hsmd.log());
        assert!(place.signs());
        assert_eq!(rotate(&place).0, 200, "{}", hsmd.log());
        assert_eq!(objects(&place), [4, 4]);
        eventually("no warning", BACK, || place.health().1.contains("\"warnings\":{}"));
        assert!(exchanged(0));
        // The survivor was needed for it, and is not any more.
        place.plan(gone(LABELS[1 - lost]));
        goes_on(&place, &hsmd, "/rotate");
        place.lift();
        hsmd.stop();
    });
}

#[test]
fn a_second_token_is_added_to_a_chain() {
    let place = Place::new();
    let mut hsmd = place.start();
    assert_eq!(rotate(&place).0, 200);
    hsmd.stop();
    place.world.softhsm.add_token("spare");
    place.add_second("token_label = \"spare\"");
    let mut hsmd = place.start();
    assert_eq!(tokens(&place), [(true, true, true), (true, false, false)]);
    eventually("a warning", SOON, || place.health().1.contains("are on one token only, `first`"));
    let told = place.world.softhsm.ceremony("pair", &place.world.config());
    assert!(told.contains("keys are on both after two rotations"), "{told}");
    assert_eq!(rotate(&place).0, 200);
    assert_eq!(tokens(&place), [(true, true, true), (true, false, true)]);
    assert!(place.health().1.contains("\"mirroredFrom\":3"), "{}", place.health().1);
    assert_eq!(rotate(&place).0, 200);
    assert_eq!(tokens(&place), MIRRORED);
    eventually("no warning", SOON, || place.health().1.contains("\"warnings\":{}"));
    assert_eq!(objects(&place), [4, 4]);
    let told = place.world.softhsm.ceremony("pair", &place.world.config());
    assert!(told.contains("paired already"), "{told}");
    hsmd.stop();
}

#[test]
fn a_rotation_waits_for_both_tokens_if_they_are_required() {
    let place = Place::pair();
    let config = fs::read_to_string(place.world.config()).unwrap();
    fs::write(place.world.config(), format!("require_both_tokens = true\n{config}")).unwrap();
    let mut hsmd = place.start();
    place.plan(gone("spare"));
    assert!(place.signs());
    let (status, body) = rotate(&place);
    assert!(status == 503 && body.contains("\"token\":\"second\""), "{status} {body}");
    assert!(place.signs());
    place.lift();
    eventually("a rotation", BACK, || rotate(&place).0 == 200);
    assert_eq!(objects(&place), [4, 4]);
    hsmd.stop();
}

#[test]
fn a_token_with_two_names_is_used_once() {
    let place = Place::new();
    let serial = place.world.softhsm.token_folders();
    assert_eq!(serial.len(), 1);
    let mut hsmd = place.start();
    hsmd.stop();
    let told = {
        let settings = "token_label = \"nobody\"";
        place.add_second(settings);
        let mut hsmd = place.start();
        eventually("a warning", SOON, || place.health().1.contains("serial `"));
        let health = place.health().1;
        hsmd.stop();
        health
    };
    // Health names the serial numbers of the tokens that are there.
    let serial = told.split("serial `").nth(1).unwrap().split('`').next().unwrap().to_owned();
    let config = fs::read_to_string(place.world.config()).unwrap();
    let config = config.replace("token_label = \"nobody\"", &format!("token_serial = \"{serial}\""));
    fs::write(place.world.config(), config).unwrap();
    // Health says so, and the one token signs.
    let mut hsmd = place.start();
    eventually("a warning", SOON, || place.health().1.contains("one and the same token"));
    assert!(place.signs());
    assert_eq!(place.health().0, 200);
    hsmd.stop();
}

/// A wrong PIN of one token is a warning, and is presented once.
#[test]
fn a_refused_pin_of_one_token_is_presented_once() {
    let place = Place::pair();
    let mut hsmd = place.start();
    hsmd.stop();
    place.plan(bound("spare", Rule::new("C_Login", "CKR_PIN_INCORRECT", Mode::Before)));
    let mut hsmd = place.start();
    eventually("a warning", SOON, || place.health().1.contains("refused the PIN"));
    assert!(place.signs());
    std::thread::park_timeout(Duration::from_secs(7));
    assert_eq!(place.logged("login 160"), 1);
    assert_eq!(rotate(&place).0, 200);
    hsmd.stop();
}

/// A chain begins only with both tokens, whichever comes last.
#[test]
fn a_first_start_waits_for_both_tokens() {
    let place = Place::pair();
    place.plan(Plan::of(Rule::new("*", "CKR_DEVICE_REMOVED", Mode::Before)));
    let mut hsmd = place.spawn_with(&[]);
    hsmd.told("STATUS=not ready: token-silent: the token of the HSM does not answer").unwrap();
    place.plan(gone("spare"));
    hsmd.told("a chain begins with its keys on every token").unwrap();
    assert_eq!(objects(&place), [0, 0]);
    place.lift();
    hsmd.ready().unwrap();
    assert!(place.signs());
    assert_eq!(objects(&place), [4, 4]);
    hsmd.stop();
}
