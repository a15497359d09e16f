//! The daemon itself on the emulation, through the connector; and its keeper on the mock device.

use std::{sync::Arc, time::Duration};

use hsmd::{
    chain::{Advance, Keeper},
    clock::{System, TrustedClock},
    token::backend::{KeyIds, yubihsm::attestation::Attestation},
    token::signer::Signer,
};
use keychain::audit::Kind;
use keychain::{PublicKey, chain::verify_whole, endorsement::Purpose};
use yubihsm::{Client, Credentials, object::Filter, object::Type};

use super::{
    device::{AUTH_KEY, PASSWORD, emulator, kept},
    emulator::{Connector, Emulator},
    mock,
};
use crate::support::{
    self,
    daemon::request,
    eventually, trail,
    world::{Database, World, now, service_key, sign_request, verify},
};

const HOUR: Duration = Duration::from_hours(1);
const GENERATE_KEY: u8 = 0x46;
const DELETE_OBJECT: u8 = 0x58;

/// A world whose token is the emulation.
fn world() -> (World, Emulator, Connector) {
    let (device, connector) = emulator();
    let world = World::new(Database::Sqlite);
    let text = std::fs::read_to_string(world.config()).unwrap();
    let (before, rest) = text.split_once("[hsm]\n").unwrap();
    let (_, after) = rest.split_once("[[").unwrap();
    std::fs::write(world.softhsm.pin_file(), PASSWORD).unwrap();
    let table = format!(
        "[hsm]\nbackend = \"yubihsm\"\nconnector = \"http://{}\"\nserial = \"0012345678\"\nauth_key = {AUTH_KEY}\n\
         pin = \"{}\"\ndevice_log = \"{folder}/device-log.jsonl\"\nrefused_pin = \"{folder}/refused-pin\"\n",
        connector.address,
        world.softhsm.pin_file().display(),
        folder = world.path().display()
    );
    std::fs::write(world.config(), format!("{before}{table}[[{after}")).unwrap();
    (world, device, connector)
}

fn endorse(world: &World) -> Result<String, String> {
    let body = sign_request(Purpose::Response, service_key(7), HOUR);
    let answer = request(&world.socket("edge"), "POST", "/sign", &body);
    if answer.status == 200 { Ok(answer.ok()) } else { Err(format!("{}", answer.status)) }
}

fn verified(world: &World, endorsement: &str) {
    verify(endorsement, &world.chain(), Purpose::Response, &service_key(7), "edge:demo");
}

#[test]
fn a_chain_lives_on_the_emulation_under_forced_auditing() {
    let (world, device, _connector) = world();
    device.force_audit();
    let mut hsmd = world.start();
    assert_eq!(device.objects(), 2, "live and next");
    for rotation in 0..30 {
        verified(&world, &endorse(&world).unwrap());
        world.rotate("{}");
        assert_eq!(device.objects(), 2, "after rotation {rotation}");
    }
    request(&world.socket("admin"), "POST", "/taint", "{}").ok();
    hsmd.kill();
    let mut hsmd = world.start();
    assert_eq!(world.chain().len(), 32);
    verified(&world, &endorse(&world).unwrap());
    assert_eq!(device.objects(), 2);
    hsmd.stop();
    let (entries, gap) = kept(world.path());
    assert!(!gap && entries.len() > 200, "{}", entries.len());
    // Every key that was made and destroyed is in the device's own words, but for what it still holds.
    let shown = |code| entries.iter().filter(|entry| entry.fact[2] == code).count();
    assert!((25..=33).contains(&shown(GENERATE_KEY)), "{}", shown(GENERATE_KEY));
    assert!((25..=31).contains(&shown(DELETE_OBJECT)), "{}", shown(DELETE_OBJECT));
    // Our audit trail names the newest entries that were kept, and through their digests all before.
    let kept: Vec<_> = entries.iter().map(|entry| entry.to_hex()).collect();
    let lines = trail::read(&world.ledger);
    let tied: Vec<_> = lines.iter().filter(|line| line.kind == Kind::Device).collect();
    let known = |line: &&trail::Line| kept.contains(&line.text("newest")) && line.raw("gaps") == "0";
    assert!(!tied.is_empty() && tied.iter().all(known), "{tied:?}");
    let counted: usize = tied.iter().map(|line| line.raw("entries").parse::<usize>().unwrap()).sum();
    // What was kept in the last minute before the kill is in no trail.
    assert!(counted > 0 && counted <= kept.len(), "{counted} of {}", kept.len());
}

/// Sessions that die, an answer that is lost in the midst of a rotation, a device that is pulled out.
#[test]
fn what_a_device_does_costs_no_request_and_no_restart() {
    let (world, device, _connector) = world();
    let _hsmd = world.start();
    for _ in 0..3 {
        device.pass(Duration::from_secs(31));
        verified(&world, &endorse(&world).unwrap());
    }
    for command in [GENERATE_KEY, 0x56, DELETE_OBJECT] {
        let before = world.chain().len();
        device.lose_answer_to(command);
        world.rotate("{}");
        assert_eq!(world.chain().len(), before + 1);
        assert_eq!(device.objects(), 2, "after {command:02x} whose answer was lost");
    }
    device.plug(false);
    assert_eq!(endorse(&world).unwrap_err(), "503");
    device.plug(true);
    eventually("an endorsement", Duration::from_secs(5), || endorse(&world).is_ok());
}

#[test]
fn generations_are_attested_and_the_next_key_stays_unknown() {
    let (world, device, _connector) = world();
    let _hsmd = world.start();
    let listed = || -> Vec<serde_json::Value> {
        serde_json::from_str(&request(&world.socket("edge"), "GET", "/attestations", "").ok()).unwrap()
    };
    for generations in 1..4 {
        eventually("the attestation", Duration::from_secs(5), || listed().len() == generations);
        // The next key is attested before it is destroyed, and recorded only when its generation begins.
        eventually("both attestations", Duration::from_secs(5), || device.count(0x64) == generations + 1);
        assert_eq!(listed().len(), generations);
        if generations < 3 {
            world.rotate("{}");
        }
    }
    for (event, attested) in world.chain().iter().zip(listed()) {
        assert_eq!(attested["generationId"], event.id().to_string());
        let key = PublicKey::parse(attested["publicKey"].as_str().unwrap()).unwrap();
        assert_eq!(key, event.event().public_key);
        let der = base64(attested["certificate"].as_str().unwrap());
        Attestation::parse(&der).unwrap().demand(&key, false, Some("0012345678".parse().unwrap())).unwrap();
    }
    assert_eq!(request(&world.socket("edge"), "POST", "/attestations", "").status, 405);
}

fn base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

/// A spare with the same keys is put in the slot: it signs, and is named until somebody has said that it is meant.
#[test]
fn another_device_in_the_slot_is_named() {
    let (world, device, _connector) = world();
    let config = std::fs::read_to_string(world.config()).unwrap();
    std::fs::write(world.config(), config.replace("serial = \"0012345678\"\n", "")).unwrap();
    let mut hsmd = world.start();
    let health = || request(&world.socket("edge"), "GET", "/health", "").ok();
    let gauge = |value| {
        let page = request(&world.socket("metrics"), "GET", "/metrics", "").ok();
        page.contains(&format!("hsmd_token_exchanged{{token=\"first\"}} {value}"))
    };
    eventually("the device to be known", Duration::from_secs(20), || gauge(0));
    device.set_serial(7_550_001);
    world.rotate("{}");
    eventually("the warning", Duration::from_secs(20), || {
        let health = health();
        ["tokenExchanged", "0012345678", "0007550001", "opsctl hsm token accept"]
            .iter()
            .all(|part| health.contains(part))
    });
    assert!(gauge(1));
    verified(&world, &endorse(&world).unwrap());
    // A restart does not forget which was first.
    hsmd.stop();
    let mut hsmd = world.start();
    world.rotate("{}");
    eventually("the warning", Duration::from_secs(20), || health().contains("tokenExchanged"));
    support::operators_word("accept-token", &world.config());
    eventually("no warning", Duration::from_secs(20), || health().contains("\"warnings\":{}"));
    assert!(gauge(0));
    hsmd.stop();
}

#[test]
fn little_room_is_a_warning() {
    let (world, device, _connector) = world();
    device.fill(10);
    let mut hsmd = world.start();
    let health = || request(&world.socket("edge"), "GET", "/health", "");
    eventually("the warning", Duration::from_secs(5), || health().ok().contains("room for 8 more objects"));
    hsmd.stop();
}

#[test]
fn a_wrong_password_is_a_state_and_is_told_to_nobody() {
    let (world, device, _connector) = world();
    std::fs::write(world.softhsm.pin_file(), "not the password").unwrap();
    let mut hsmd = world.spawn();
    hsmd.notified("STATUS=not ready: pin-refused: the token refused the PIN").unwrap();
    assert!(hsmd.log().contains("not tried again"), "{}", hsmd.log());
    assert!(!hsmd.log().contains("not the password"));
    assert_eq!(device.count(GENERATE_KEY), 0);
    // The right one is taken without a restart.
    std::fs::write(world.softhsm.pin_file(), PASSWORD).unwrap();
    hsmd.ready().unwrap();
    verified(&world, &endorse(&world).unwrap());
    hsmd.stop();
}

/// First start, probe, rotations, taint and a restart of the keeper, on the mock device.
#[tokio::test]
async fn a_keeper_lives_on_the_mock() {
    let folder = tempfile::tempdir().unwrap();
    let mock = yubihsm::Connector::mockhsm();
    let ledger = folder.path().join("ledger.db");
    let start = || async {
        let device = mock::open(&mock, mock::settings(folder.path())).unwrap();
        let (signer, _) = Signer::start(Box::new(device)).unwrap();
        let ledger = support::ledger::open(&ledger).await.unwrap();
        let clock = TrustedClock::new(Box::new(System::start()));
        Arc::new(Keeper::start(ledger, signer, clock, KeyIds::default()).await.unwrap())
    };
    let client = Client::open(mock.clone(), Credentials::default(), true).unwrap();
    let objects = || client.list_objects(&[Filter::Type(Type::AsymmetricKey)]).unwrap().len();
    let keeper = start().await;
    for taint in [false, true, false] {
        keeper.probe().await.unwrap();
        keeper.advance(Advance { from: None, taint }).await.unwrap();
        assert_eq!(objects(), 2);
    }
    keeper.close().await.unwrap();
    drop(keeper);
    let keeper = start().await;
    keeper.probe().await.unwrap();
    let chain: Vec<_> = keeper.view().unwrap().events().cloned().collect();
    assert_eq!(chain.len(), 4);
    verify_whole(&chain, &chain[0].id(), now(), Duration::ZERO).unwrap();
    assert_eq!(objects(), 2);
    assert_eq!(keeper.free_objects().await.unwrap(), Some(256));
}
