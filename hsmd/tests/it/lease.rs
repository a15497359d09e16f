//! The lease, taken over by an operator's word: by the commands of `RECOVERY.md`, section `standby`.

use std::time::Duration;

use keychain::{audit::Kind, endorsement::Purpose};
use serde_json::Value;

use crate::support::{
    daemon::{Answer, request, try_request},
    eventually, page, trail,
    world::{Database, World, service_key, sign_request},
};

const SOON: Duration = Duration::from_secs(20);

fn endorse(world: &World) -> u16 {
    let body = sign_request(Purpose::Response, service_key(5), Duration::from_mins(5));
    try_request(&world.socket("edge"), "POST", "/sign", body.as_bytes()).map_or(0, |answer| answer.status)
}

fn lease(world: &World) -> Value {
    serde_json::from_str(&request(&world.socket("admin"), "GET", "/lease", "").ok()).unwrap()
}

fn is_here(world: &World) -> bool {
    lease(world)["here"] == Value::Bool(true)
}

/// Runs the page's commands, as an operator types them on the host of `world`.
fn take(world: &World) -> Answer {
    let commands = page::commands("standby");
    let [show, take] = commands[..] else { panic!("{commands:?}") };
    assert_eq!(show, "opsctl hsm lease show");
    let fence = lease(world)["fence"].as_u64().unwrap();
    let reason = take.strip_prefix("opsctl hsm lease take --reason ").expect(take);
    post(world, &format!("{{\"fence\":\"{fence}\",\"reason\":{reason}}}"))
}

fn post(world: &World, body: &str) -> Answer {
    request(&world.socket("admin"), "POST", "/lease", body)
}

#[test]
fn a_standby_takes_the_lease_by_word_and_the_holder_is_fenced() {
    let world = World::new(Database::Postgres);
    let mut first = world.start();
    let other = World::beside(&world);
    let mut second = other.start();
    assert!(is_here(&world) && !is_here(&other));
    let fence = lease(&other)["fence"].as_u64().unwrap();
    let stale = post(&other, &format!("{{\"fence\":\"{}\",\"reason\":\"drill\"}}", fence + 1));
    assert_eq!(stale.status, 409, "{}", stale.body);
    world.rotate("{}");

    // There and back, while the holder lives and beats.
    for (to, from) in [(&other, &world), (&world, &other)] {
        take(to).ok();
        assert!(is_here(to), "{}", lease(to));
        eventually("a rotation", SOON, || {
            try_request(&to.socket("admin"), "POST", "/rotate", b"{}")
                .is_ok_and(|answer| answer.status == 200)
        });
        eventually("an endorsement", SOON, || endorse(to) == 200);
        let refused = try_request(&from.socket("admin"), "POST", "/rotate", b"{}").unwrap();
        assert_eq!(refused.status, 503, "{}", refused.body);
        assert_ne!(endorse(from), 200, "only one signs");
        eventually("the other stands by", SOON, || {
            request(&from.socket("edge"), "GET", "/health", "").body.contains("\"name\":\"standby\"")
        });
        assert!(is_here(to) && !is_here(from));
    }
    take(&world).ok();
    assert_eq!(world.chain().len(), 4);
    second.stop();
    first.stop();
    let lines = trail::read(&world.ledger);
    let shown =
        lines.iter().filter(|line| line.kind == Kind::Intent && line.raw("details").contains("leaseOf"));
    assert_eq!(shown.count(), 3);
}

#[test]
fn the_lease_of_a_file_ends_with_its_process() {
    let world = World::new(Database::Sqlite);
    let mut first = world.start();
    let other = World::beside(&world);
    let mut second = other.start();
    let refused = take(&other);
    assert!(refused.status == 409 && refused.body.contains("stop that hsmd"), "{}", refused.body);
    world.rotate("{}");
    first.stop();
    eventually("it takes over", SOON, || endorse(&other) == 200);
    second.stop();
}
