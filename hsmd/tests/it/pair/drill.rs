//! The drill: the real daemon with two SoftHSM tokens, each of which is lost, replaced and brought back.

use std::{fs, time::Duration};

use p11fault::{Mode, Plan, Rule};

use crate::{
    faults::{Place, SOON},
    support::{daemon::Daemon, eventually},
};

/// Long enough for a token that is tried on ever less often.
const BACK: Duration = Duration::from_secs(30);

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
fn objects(place: &Place) -> [usize; 2] {
    ["keelson", "spare"].map(|label| place.world.softhsm.objects_of(label))
}

/// What health says of the tokens: for each whether it answers, holds the live key, and the next.
pub fn tokens(place: &Place) -> Vec<(bool, bool, bool)> {
    let health: serde_json::Value = serde_json::from_str(&place.health().1).unwrap();
    let tokens = health["tokens"].as_array().unwrap();
    let says = |token: &serde_json::Value, name: &str| token[name].as_bool().unwrap();
    assert_eq!([&tokens[0]["name"], &tokens[1]["name"]], ["first", "second"]);
    tokens.iter().map(|token| (says(token, "answers"), says(token, "live"), says(token, "next"))).collect()
}

const ON_FIRST: [(bool, bool, bool); 2] = [(true, true, false), (true, false, true)];
const ON_SECOND: [(bool, bool, bool); 2] = [(true, false, true), (true, true, false)];

/// Brings to hsmd the chain as it was, and says that nobody has a newer one.
pub fn vouch(place: &Place, chain: &str) {
    place.world.recover("?unfinished=discard", chain).ok();
}

pub fn published(place: &Place) -> String {
    let texts: Vec<_> = place.chain().unwrap().iter().map(|event| event.text().to_owned()).collect();
    format!("[{}]", texts.join(","))
}

#[test]
fn each_token_holds_one_key_and_they_take_turns() {
    let place = Place::pair();
    let mut hsmd = place.start();
    for round in 0..6 {
        assert_eq!(tokens(&place), if round % 2 == 0 { ON_FIRST } else { ON_SECOND }, "{round}");
        assert_eq!(objects(&place), [2, 2]);
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

/// Rotates and taints past the loss, and sees that the chain is the same and that it signs soon.
fn fails_over(place: &Place, hsmd: &Daemon, path: &str) {
    let before = place.chain().unwrap();
    let (status, body) = place.post("admin", path, "{}");
    assert_eq!(status, 200, "{body} {}", hsmd.log());
    eventually("an endorsement", SOON, || place.signs());
    let after = place.chain().unwrap();
    assert_eq!(after.len(), before.len() + 1);
    assert_eq!(after[0].id(), before[0].id(), "the same identity");
    assert_eq!(after.last().unwrap().event().taint_previous, path == "/taint");
    eventually("readiness", SOON, || place.health().0 == 200);
}

#[test]
fn the_live_keys_token_is_lost_and_comes_back() {
    for path in ["/rotate", "/taint"] {
        let place = Place::pair();
        let mut hsmd = place.start();
        place.plan(gone("keelson"));
        fails_over(&place, &hsmd, path);
        assert_eq!(tokens(&place), [(false, false, false), (true, true, true)]);
        assert_eq!(place.world.softhsm.objects_of("spare"), 4, "both keys");
        eventually("a warning", SOON, || {
            let (status, health) = place.health();
            status == 200 && health.contains("the token `first` does not answer")
        });
        assert_eq!(rotate(&place).0, 200, "on one token the chain goes on");
        let page = place.metrics();
        for line in ["hsmd_token_answers{token=\"first\"} 0", "hsmd_token_answers{token=\"second\"} 1"] {
            assert!(page.contains(line), "{line}");
        }
        place.lift();
        eventually("what was left to be destroyed", BACK, || objects(&place) == [0, 4]);
        assert_eq!(rotate(&place).0, 200);
        assert_eq!(objects(&place), [2, 2]);
        assert_eq!(tokens(&place), ON_SECOND);
        assert_eq!(rotate(&place).0, 200);
        assert_eq!(tokens(&place), ON_FIRST);
        hsmd.stop();
    }
}

/// The folder of the live key's token is taken away, and hsmd starts anew: it comes up for the rotation alone.
#[test]
fn the_live_keys_token_is_lost_with_a_restart_and_replaced() {
    let place = Place::pair();
    let mut hsmd = place.start();
    assert_eq!(rotate(&place).0, 200);
    assert_eq!(tokens(&place), ON_SECOND);
    let chain = published(&place);
    hsmd.stop();
    let mut spare = place.world.softhsm.token_folders().into_iter();
    let spare = spare.find(|folder| holds_label(folder, "spare")).unwrap();
    fs::remove_dir_all(spare).unwrap();

    let mut hsmd = place.spawn_with(&[]);
    let told = hsmd.told("STATUS=not ready: signing").unwrap();
    assert!(told.contains("the token `second` does not answer"), "{told}");
    eventually("the admin socket", SOON, || rotate(&place).0 == 503);
    let (_, body) = rotate(&place);
    assert!(body.contains("\"token\":\"second\"") && body.contains("opsctl hsm recover"), "{body}");
    assert_eq!(place.endorse(3).0, 503);
    vouch(&place, &chain);
    fails_over(&place, &hsmd, "/rotate");
    hsmd.ready().unwrap();

    // Another token in its place, found without a restart.
    place.world.softhsm.add_token("spare");
    eventually("the new token", BACK * 3, || tokens(&place)[1].0);
    assert_eq!(rotate(&place).0, 200);
    assert_eq!(objects(&place), [2, 2]);
    assert_eq!(rotate(&place).0, 200);
    assert_eq!(objects(&place), [2, 2]);
    hsmd.stop();
}

fn holds_label(folder: &std::path::Path, label: &str) -> bool {
    let token = fs::read(folder.join("token.object")).unwrap();
    token.windows(label.len()).any(|part| part == label.as_bytes())
}

#[test]
fn the_next_keys_token_is_lost_and_comes_back() {
    let place = Place::pair();
    let mut hsmd = place.start();
    place.plan(gone("spare"));
    for restarted in [false, true] {
        if restarted {
            hsmd.stop();
            hsmd = place.start();
        }
        assert!(place.signs());
        for path in ["/rotate", "/taint"] {
            let (status, body) = place.post("admin", path, "{}");
            assert!(status == 503 && body.contains("\"token\":\"second\""), "{body}");
            assert!(place.signs(), "{}", hsmd.log());
        }
        eventually("a warning", SOON, || {
            let (status, health) = place.health();
            status == 200 && health.contains("no rotation is possible")
        });
    }
    assert_eq!(place.chain().unwrap().len(), 1);
    place.lift();
    eventually("a rotation", BACK, || rotate(&place).0 == 200);
    assert_eq!(objects(&place), [2, 2]);
    assert_eq!(tokens(&place), ON_SECOND);
    hsmd.stop();
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
    eventually("a warning", SOON, || place.health().1.contains("both keys are on one token, `first`"));
    assert_eq!(rotate(&place).0, 200);
    assert_eq!(tokens(&place), ON_FIRST);
    eventually("no warning", SOON, || place.health().1.contains("\"warnings\":{}"));
    assert_eq!(objects(&place), [2, 2]);
    hsmd.stop();
}

#[test]
fn two_names_of_one_token_are_refused() {
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
    let mut hsmd = place.spawn_with(&[]);
    assert_eq!(hsmd.ready().unwrap_err().code(), Some(78));
    assert!(hsmd.log().contains("one and the same token"), "{}", hsmd.log());
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
    assert_eq!(rotate(&place).0, 503);
    hsmd.stop();
}

#[test]
fn without_either_token_it_ends_as_with_one() {
    let place = Place::pair();
    place.plan(Plan::of(Rule::new("*", "CKR_DEVICE_REMOVED", Mode::Before)));
    let mut hsmd = place.spawn_with(&[]);
    assert_eq!(hsmd.ready().unwrap_err().code(), Some(69), "{}", hsmd.log());
    place.plan(gone("spare"));
    let mut hsmd = place.spawn_with(&[]);
    assert_eq!(hsmd.ready().unwrap_err().code(), Some(69), "{}", hsmd.log());
    assert!(hsmd.log().contains("a chain begins with a key on each of two tokens"), "{}", hsmd.log());
    assert_eq!(objects(&place), [0, 0]);
}
