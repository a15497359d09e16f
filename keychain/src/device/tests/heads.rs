//! What heads deny and revoke, a device that takes them refuses (`PROTOCOL.md#device-heads`).

use std::time::Duration;

use super::server::Server;
use super::world::{World, key, recovery_hash};
use crate::{
    cesr::Digest,
    device::{Device, Heads, take_heads},
    error::Code,
    limits,
    statement::{Entries, ServiceRevocation},
};

/// The code with which a device whose chain this is refuses the auth server's next answer; none if it takes it.
fn refusal(world: &World) -> Option<Code> {
    let (mut server, mut device) = (Server::default(), Device::new());
    let mut drawn = 0_u8;
    let mut entropy = |bytes: &mut [u8]| {
        drawn += 1;
        bytes.fill(drawn);
    };
    let outgoing = device.create(&recovery_hash(30), &mut entropy).unwrap();
    let before = device.save().unwrap();
    let refused = world.exchange(&mut server, &mut device, &outgoing).err();
    assert_eq!(*device.save().unwrap() == *before, refused.is_some(), "a refusal changes nothing");
    refused.map(|refusal| refusal.code())
}

fn revoking_the_response_key(world: &World) -> Entries {
    let mut entries = Entries::default();
    entries.keys.insert(world.response_key.public_key().name(), world.now.plus(Duration::from_hours(1)));
    entries
}

fn list(heads: &[&str]) -> String {
    format!("[{}]", heads.join(","))
}

#[test]
fn a_revoked_key_and_a_revoked_service_are_refused_until_their_end() {
    let mut by_service = Entries::default();
    let mut world = World::new();
    let until = world.now.plus(Duration::from_hours(1));
    by_service.services.insert("authd".to_owned(), ServiceRevocation { endorsed_up_to: 0, until });
    for entries in [revoking_the_response_key(&world), by_service] {
        world = World::new();
        let head = world.head(1, &entries);
        assert_eq!(refusal(&world), None, "a device that has taken no head");
        let now = world.now;
        let taken = take_heads(&mut world.chain, &list(&[&head]), now);
        assert_eq!(taken, Ok(Heads { taken: 1, passed_over: 0 }));
        assert_eq!(refusal(&world), Some(Code::Revoked));
        // A later list that lacks it, or is empty, takes nothing back.
        let lacking = world.head(2, &Entries::default());
        for heads in [list(&[&lacking]), list(&[])] {
            take_heads(&mut world.chain, &heads, now).unwrap();
            assert_eq!(refusal(&world), Some(Code::Revoked));
        }
        world.pass(Duration::from_hours(1));
        assert_eq!(refusal(&world), None, "the revocation has ended");
    }
}

#[test]
fn a_denied_generation_is_refused() {
    let mut world = World::new();
    let denied = Entries { denied: [world.chain.prefix()].into(), ..Entries::default() };
    world.rotate(false);
    assert_eq!(refusal(&world), None, "the generation of before is live for its window");
    let (head, now) = (world.head(1, &denied), world.now);
    take_heads(&mut world.chain, &list(&[&head]), now).unwrap();
    assert_eq!(refusal(&world), Some(Code::DeadKey));
}

/// A key service in wrong hands can hide heads, and can make none.
#[test]
fn what_is_no_head_of_this_chain_is_passed_over_and_hides_nothing() {
    let mut world = World::new();
    let revoked = revoking_the_response_key(&world);
    let good = world.head(1, &revoked);
    let endorsement = world.endorse(&key(22), crate::endorsement::Purpose::Response, "authd");
    let own = world.chain.prefix().to_string();
    let bad = [
        good.replace("\"number\":1", "\"number\":2"),
        good.replace(&own, &Digest::of("another chain").to_string()),
        good.replace("chain-head", "chain-heads"),
        endorsement.text().to_owned(),
        "7".to_owned(),
        "\"head\"".to_owned(),
        "{}".to_owned(),
        format!("{{\"body\":\"{}\"}}", "x".repeat(limits::HEAD_MAX)),
    ];
    let now = world.now;
    for text in &bad {
        assert_ne!(text, &good);
        let passed = take_heads(&mut world.chain, &list(&[text]), now);
        assert_eq!(passed, Ok(Heads { taken: 0, passed_over: 1 }), "{text}");
        assert_eq!(refusal(&world), None, "{text}");
    }
    let all: Vec<&str> = bad.iter().map(String::as_str).chain([good.as_str()]).collect();
    let passed = take_heads(&mut world.chain, &list(&all), now);
    assert_eq!(passed, Ok(Heads { taken: 1, passed_over: bad.len() }));
    assert_eq!(refusal(&world), Some(Code::Revoked));
}

#[test]
fn a_text_that_is_no_list_errs() {
    let mut world = World::new();
    let (now, head) = (world.now, world.head(1, &Entries::default()));
    for (text, code) in [
        (String::new(), Code::InvalidMessage),
        (head.clone(), Code::InvalidMessage),
        (list(&[&head])[1..].to_owned(), Code::InvalidMessage),
        (format!("{}x", list(&[&head])), Code::InvalidMessage),
        (" ".repeat(limits::HEADS_LIST_MAX + 1), Code::TooLarge),
    ] {
        assert_eq!(take_heads(&mut world.chain, &text, now).unwrap_err().code(), code);
    }
    let longest = vec!["x".repeat(limits::HEAD_MAX); limits::HEADS_LISTED_MAX].join(",");
    assert!(longest.len() + 2 <= limits::HEADS_LIST_MAX, "what the key service lists is taken");
}
