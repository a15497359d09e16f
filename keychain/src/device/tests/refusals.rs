//! An answer that is not proven changes nothing (`PROTOCOL.md#device-verify`).

use std::time::Duration;

use super::server::Server;
use super::world::{World, key, recovery_hash};
use crate::{
    access,
    cesr::Nonce,
    chain::windows,
    device::{Device, Trust, access_response, refusal_code, server_identity},
    endorsement::Purpose,
    error::{Code, Refusal},
    key::VerifyingKey,
    limits,
    message::Operation,
};

/// A device that waits for the answer to a rotation, and the answer.
struct Waiting {
    world: World,
    device: Device,
    nonce: Nonce,
    answer: String,
}

fn waiting() -> Waiting {
    let (mut world, mut server, mut device) = (World::new(), Server::default(), Device::new());
    let outgoing = device.create(&recovery_hash(30), &mut world.entropy()).unwrap();
    world.exchange(&mut server, &mut device, &outgoing).unwrap();
    let outgoing = device.rotate(&mut world.entropy()).unwrap();
    let answer = server.answer(&world, outgoing.operation, outgoing.body.as_bytes()).unwrap();
    let nonce = access::Response::parse(answer.as_bytes()).unwrap().nonce;
    Waiting { world, device, nonce, answer }
}

impl Waiting {
    /// Hands over an answer that must be refused without a trace, and then the true one.
    fn refuses(&mut self, answer: &str, trust: &Trust<'_>) -> Code {
        let before = self.device.save().unwrap();
        let refusal = self.device.handle_response(answer.as_bytes(), trust, self.world.now).unwrap_err();
        assert_eq!(*self.device.save().unwrap(), *before, "{refusal}");
        refusal.code()
    }

    fn accepts(&mut self) -> Result<Operation, Refusal> {
        self.device.handle_response(self.answer.as_bytes(), &self.world.trust(), self.world.now)
    }
}

#[test]
fn an_answer_counts_once_and_names_its_key() {
    let mut waiting = waiting();
    assert_eq!(server_identity(waiting.answer.as_bytes()).unwrap(), waiting.world.response_key.public_key());
    assert_eq!(waiting.accepts(), Ok(Operation::DeviceRotate));
    assert_eq!(waiting.accepts().unwrap_err().code(), Code::Conflict, "nothing waits any more");
}

#[test]
fn answers_that_are_wrong_in_themselves_are_refused() {
    let mut waiting = waiting();
    let world = World::new();
    let seal = |nonce: &Nonce| access::seal_response(&world.response_key, nonce, "{}").unwrap();
    let tampered = waiting.answer.replace("\"response\":{}", "\"response\":{ }");
    let cases = [
        (seal(&Nonce::from_bytes([9; 16])), Code::IncorrectNonce),
        (tampered, Code::BadSignature),
        (waiting.answer.replace("\"signature\":\"0I", "\"signature\":\"0J"), Code::InvalidMessage),
        (waiting.answer.replace("payload", "Payload"), Code::InvalidMessage),
        (waiting.answer[..waiting.answer.len() - 1].to_owned(), Code::InvalidMessage),
        (Refusal::new(Code::UnknownDevice, "x").body(), Code::InvalidMessage),
        (String::new(), Code::InvalidMessage),
        (" ".repeat(limits::MESSAGE_MAX + 1), Code::TooLarge),
    ];
    for (answer, code) in cases {
        assert_eq!(waiting.refuses(&answer, &world.trust()), code, "{answer}");
    }
    assert_eq!(waiting.accepts(), Ok(Operation::DeviceRotate));
}

#[test]
fn answers_by_keys_that_are_not_the_auth_servers_are_refused() {
    let mut waiting = waiting();
    let world = World::new();
    let other = key(22);
    let by_other = access::seal_response(&other, &waiting.nonce, "{}").unwrap();
    let by_access_key = access::seal_response(&world.access_key, &waiting.nonce, "{}").unwrap();
    let cases = [
        ("no endorsement of its own", &by_other, world.endorse(&key(20), Purpose::Response, "authd")),
        ("an app server", &by_other, world.endorse(&other, Purpose::Response, "edge:shop")),
        ("a name that begins alike", &by_other, world.endorse(&other, Purpose::Response, "authd2")),
        ("an access key", &by_access_key, world.endorse(&world.access_key, Purpose::Access, "authd")),
    ];
    for (name, answer, endorsement) in &cases {
        let trust = Trust { chain: &world.chain, endorsement };
        assert_eq!(waiting.refuses(answer, &trust), Code::WrongPurpose, "{name}");
    }
    assert_eq!(waiting.accepts(), Ok(Operation::DeviceRotate));
}

#[test]
fn answers_under_a_generation_that_is_not_live_are_refused() {
    for (taint, later, code) in [
        (false, Duration::ZERO, None),
        (true, Duration::ZERO, Some(Code::DeadKey)),
        (false, windows::DEVICE, Some(Code::DeadKey)),
    ] {
        let mut waiting = waiting();
        waiting.world.rotate(taint);
        waiting.world.pass(later);
        let trust = World::new();
        let chain = waiting.world.chain.clone();
        let trust = Trust { chain: &chain, endorsement: &trust.endorsement };
        match code {
            Some(code) => {
                let answer = waiting.answer.clone();
                assert_eq!(waiting.refuses(&answer, &trust), code, "{taint} {later:?}");
            }
            None => assert_eq!(waiting.accepts(), Ok(Operation::DeviceRotate)),
        }
    }
}

#[test]
fn a_generation_that_the_device_has_not_seen_is_refused_until_it_has() {
    let mut waiting = waiting();
    let mut ahead = World::new();
    ahead.pass(Duration::from_secs(1));
    ahead.rotate(false);
    let endorsement = ahead.endorse(&ahead.response_key, Purpose::Response, "authd");
    let answer = waiting.answer.clone();
    waiting.world.pass(Duration::from_secs(1));
    let chain = waiting.world.chain.clone();
    let behind = Trust { chain: &chain, endorsement: &endorsement };
    assert_eq!(waiting.refuses(&answer, &behind), Code::DeadKey);
    let seen = Trust { chain: &ahead.chain, endorsement: &endorsement };
    let done = waiting.device.handle_response(answer.as_bytes(), &seen, waiting.world.now);
    assert_eq!(done, Ok(Operation::DeviceRotate));
}

#[test]
fn a_token_for_somebody_else_is_refused() {
    let (mut world, mut server) = (World::new(), Server::default());
    let (mut mine, mut other) = (Device::new(), Device::new());
    for device in [&mut mine, &mut other] {
        let outgoing = device.create(&recovery_hash(30), &mut world.entropy()).unwrap();
        world.exchange(&mut server, device, &outgoing).unwrap();
        let outgoing = device.session_request(&mut world.entropy()).unwrap();
        world.exchange(&mut server, device, &outgoing).unwrap();
    }
    let created = other.session_create(&mut world.entropy()).unwrap();
    let foreign = server.answer(&world, created.operation, created.body.as_bytes()).unwrap();
    let foreign = access::Response::parse(foreign.as_bytes()).unwrap().response.to_owned();

    let created = mine.session_create(&mut world.entropy()).unwrap();
    let answer = server.answer(&world, created.operation, created.body.as_bytes()).unwrap();
    let nonce = access::Response::parse(answer.as_bytes()).unwrap().nonce;
    for (response, code) in [
        (foreign.as_str(), Code::InvalidToken),
        ("{\"access\":{\"token\":\"0I\"}}", Code::InvalidToken),
        ("{}", Code::InvalidMessage),
    ] {
        let bad = access::seal_response(&world.response_key, &nonce, response).unwrap();
        let refusal = mine.handle_response(bad.as_bytes(), &world.trust(), world.now).unwrap_err();
        assert_eq!(refusal.code(), code, "{response}");
    }
    assert_eq!(
        mine.handle_response(answer.as_bytes(), &world.trust(), world.now),
        Ok(Operation::SessionCreate)
    );
}

#[test]
fn access_requests_verify_and_their_answers_are_the_app_servers_alone() {
    let (mut world, mut server, mut device) = (World::new(), Server::default(), Device::new());
    let outgoing = device.create(&recovery_hash(30), &mut world.entropy()).unwrap();
    world.exchange(&mut server, &mut device, &outgoing).unwrap();
    let mut entropy = world.entropy();
    let refusal = device.access_request("{}", None, &mut entropy, world.now).unwrap_err();
    assert_eq!(refusal.code(), Code::Conflict, "no session");
    for step in [Device::session_request, Device::session_create] {
        let outgoing = step(&mut device, &mut entropy).unwrap();
        world.exchange(&mut server, &mut device, &outgoing).unwrap();
    }
    let malformed = device.access_request("{\"foo\":1},\"x\":{}", None, &mut entropy, world.now);
    assert_eq!(malformed.unwrap_err().code(), Code::InvalidMessage);

    // A refresh that waits does not stop access.
    device.session_refresh(&mut entropy).unwrap();
    let sent = device.access_request("{\"foo\":1}", Some("https://shop"), &mut entropy, world.now).unwrap();
    let received = access::AccessRequest::parse(sent.body.as_bytes()).unwrap();
    let claims = device.claims().unwrap();
    received.verify(&VerifyingKey::new(&claims.public_key).unwrap()).unwrap();
    assert_eq!((received.nonce, received.request), (sent.nonce, "{\"foo\":1}"));
    let again = device.access_request("{\"foo\":1}", None, &mut entropy, world.now).unwrap();
    assert_ne!(again.nonce, sent.nonce);

    let edge = key(22);
    let endorsement = world.endorse(&edge, Purpose::Response, "edge:shop");
    let trust = Trust { chain: &world.chain, endorsement: &endorsement };
    let answer = access::seal_response(&edge, &sent.nonce, "{\"bar\":2}").unwrap();
    let open = |nonce, service| access_response(answer.as_bytes(), nonce, service, &trust, world.now);
    assert_eq!(open(&sent.nonce, "edge:shop"), Ok("{\"bar\":2}"));
    assert_eq!(open(&again.nonce, "edge:shop").unwrap_err().code(), Code::IncorrectNonce);
    assert_eq!(open(&sent.nonce, "edge:other").unwrap_err().code(), Code::WrongPurpose);
}

#[test]
fn commands_that_do_not_fit_the_state_are_refused_and_change_nothing() {
    let mut world = World::new();
    let mut entropy = world.entropy();
    let mut device = Device::new();
    let empty = device.save().unwrap();
    let outcomes = [
        device.rotate(&mut entropy).map(drop),
        device.delete(&mut entropy).map(drop),
        device.session_request(&mut entropy).map(drop),
        device.session_create(&mut entropy).map(drop),
        device.session_refresh(&mut entropy).map(drop),
        device.retry(&mut entropy).map(drop),
        device.abandon(&mut entropy).map(drop),
    ];
    for outcome in outcomes {
        assert_eq!(outcome.unwrap_err().code(), Code::Conflict);
    }
    assert_eq!(*device.save().unwrap(), *empty);

    device.create(&recovery_hash(30), &mut entropy).unwrap();
    let waits = device.save().unwrap();
    assert_eq!(device.rotate(&mut entropy).unwrap_err().code(), Code::Conflict);
    assert_eq!(device.create(&recovery_hash(30), &mut entropy).unwrap_err().code(), Code::Conflict);
    assert_eq!(*device.save().unwrap(), *waits);
    assert!(device.abandon(&mut entropy).unwrap().is_none());
    assert_eq!(*device.save().unwrap(), *empty);
}

#[test]
fn what_the_auth_server_would_refuse_never_leaves() {
    let mut world = World::new();
    let mut entropy = world.entropy();
    let (mut server, mut device) = (Server::default(), Device::new());
    let outgoing = device.create(&recovery_hash(30), &mut entropy).unwrap();
    world.exchange(&mut server, &mut device, &outgoing).unwrap();
    let own = device.identity().unwrap();
    let foreign = Device::new().join(&recovery_hash(9), &mut entropy).unwrap();
    let container = Device::new().join(&own, &mut entropy).unwrap();
    for (container, code) in [
        (foreign.as_str(), Code::MismatchedIdentities),
        (container.replace("\"device\":\"E", "\"device\":\"F").as_str(), Code::InvalidMessage),
        (format!("{container},\"more\":1").as_str(), Code::InvalidMessage),
        ("", Code::InvalidMessage),
    ] {
        assert_eq!(device.link(container, &mut entropy).unwrap_err().code(), code, "{container}");
        assert_eq!(device.waits_for(), None);
    }
    let mut stuck = |bytes: &mut [u8]| bytes.fill(7);
    assert_eq!(Device::new().create(&own, &mut stuck).unwrap_err().code(), Code::InvalidHash);
    let mut broken = |bytes: &mut [u8]| bytes.fill(0);
    assert_eq!(Device::new().create(&own, &mut broken).unwrap_err().code(), Code::Internal);
    let refused = Device::new().recover(&own, &key(5), &recovery_hash(5), &mut entropy).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidHash);
}

#[test]
fn secrets_are_not_printed_and_damage_is_noticed() {
    let waiting = waiting();
    assert_eq!(format!("{:?}", waiting.device), "Device");
    let saved = waiting.device.save().unwrap();
    for damaged in [
        "",
        "{}x",
        &saved[1..],
        &saved.replace("\"current\":\"", "\"current\":\"x"),
        &saved.replace("account", "acount"),
    ] {
        assert_eq!(Device::restore(damaged).unwrap_err().code(), Code::Internal);
    }
}

#[test]
fn errors_are_read_but_not_believed() {
    let body = Refusal::new(Code::RefreshSpent, "x").body();
    assert_eq!(refusal_code(body.as_bytes()), Some(Code::RefreshSpent));
    for other in ["", "{}", "{\"error\":\"an error occurred\"}", "{\"error\":{\"code\":\"BA999\"}}"] {
        assert_eq!(refusal_code(other.as_bytes()), None);
    }
}
