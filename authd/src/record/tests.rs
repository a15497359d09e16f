use keychain::message::Operation;
use keychain::{Signature, SigningKey};

use super::*;

fn request() -> SignedRequest {
    SignedRequest {
        operation: Operation::DeviceRotate,
        digest: Digest::of("cause"),
        payload: r#"{"request":{}}"#.to_owned(),
        signature: Signature::from_bytes([1; 64]),
    }
}

fn of(record: &mut DeviceRecord) -> &mut SignedRequest {
    let Cause::Device(request) = &mut record.cause else { panic!("not a device's") };
    request
}

fn order(record: &mut DeviceRecord) -> &mut Order {
    let Cause::Operator(order) = &mut record.cause else { panic!("not an operator's") };
    order
}

fn mandate(action: Action, key: &SigningKey) -> Mandate<'_> {
    Mandate { action, operator: "uid 0", reason: "said \"stolen\"", key }
}

fn key(seed: u8) -> PublicKey {
    SigningKey::from_seed(&[seed; 32]).unwrap().public_key()
}

fn first() -> DeviceRecord {
    let owner = (Digest::of("identity"), Digest::of("device"));
    let keys = (key(1), Digest::of("next"));
    let now = Timestamp::from_unix_millis(1_800_000_000_000);
    DeviceRecord::new(None, owner, keys, DeviceState::Active, request(), now)
}

#[test]
fn a_record_follows_the_one_before_and_never_in_time_before_it() {
    let first = first();
    assert!(first.is_intact());
    assert_eq!(first.version.id, first.version.prefix);
    let earlier = first.version.created_at.minus(std::time::Duration::from_secs(9));
    let second = first.revoked(request(), earlier);
    assert!(second.is_intact());
    assert_eq!(second.version.prefix, first.version.id);
    assert_eq!(second.version.previous, Some(first.version.id));
    assert_eq!(second.version.sequence_number, 1);
    assert_eq!(second.version.created_at, first.version.created_at);
    assert_eq!(second.state, DeviceState::Revoked);
}

#[test]
fn any_change_of_a_record_is_found() {
    type Change = fn(&mut DeviceRecord);
    let changes: [(&str, Change); 14] = [
        ("id", |r| r.version.id = Digest::of("x")),
        ("prefix", |r| r.version.prefix = Digest::of("x")),
        ("previous", |r| r.version.previous = Some(Digest::of("x"))),
        ("sequence number", |r| r.version.sequence_number = 1),
        ("created at", |r| r.version.created_at = Timestamp::from_unix_millis(1)),
        ("identity", |r| r.identity = Digest::of("x")),
        ("device", |r| r.device = Digest::of("x")),
        ("public key", |r| r.public_key = key(2)),
        ("rotation hash", |r| r.rotation_hash = Digest::of("x")),
        ("state", |r| r.state = DeviceState::Revoked),
        ("path", |r| of(r).operation = Operation::AccountDelete),
        ("cause", |r| of(r).digest = Digest::of("x")),
        ("payload", |r| of(r).payload.push(' ')),
        ("signature", |r| of(r).signature = Signature::from_bytes([2; 64])),
    ];
    for (what, change) in changes {
        let mut record = first();
        change(&mut record);
        assert!(!record.is_intact(), "a changed {what} went unseen");
    }
}

#[test]
fn what_a_recovery_revealed_is_part_of_the_address() {
    let now = Timestamp::from_unix_millis(1_800_000_000_000);
    let (identity, hash) = (Digest::of("identity"), Digest::of("recovery"));
    let plain = AccountRecord::new(None, identity, hash, AccountState::Active, request(), now);
    let revealing = plain.clone().revealing(Digest::of("revealed"));
    assert!(plain.is_intact() && revealing.is_intact());
    assert_ne!(plain.version.id, revealing.version.id);
}

#[test]
fn states_have_words_and_words_states() {
    for state in [AccountState::Active, AccountState::Deleted] {
        assert_eq!(AccountState::parse(state.as_str()), Some(state));
    }
    for state in [DeviceState::Active, DeviceState::Revoked] {
        assert_eq!(DeviceState::parse(state.as_str()), Some(state));
    }
    assert_eq!((AccountState::parse("Active"), DeviceState::parse("")), (None, None));
}

#[test]
fn any_change_of_an_operators_record_is_found_and_no_address_mends_its_signature() {
    type Change = fn(&mut DeviceRecord);
    let signer = SigningKey::from_seed(&[9; 32]).unwrap();
    let now = Timestamp::from_unix_millis(1_800_000_000_000);
    let record = first().revoked_by_order(&mandate(Action::Ban, &signer), now).unwrap();
    assert!(record.is_intact() && record.state == DeviceState::Revoked);
    assert_eq!(record.verify_order(), Ok(()));
    let changes: [(&str, Change); 11] = [
        ("previous", |r| r.version.previous = Some(Digest::of("x"))),
        ("sequence number", |r| r.version.sequence_number = 7),
        ("when", |r| r.version.created_at = Timestamp::from_unix_millis(1)),
        ("identity", |r| r.identity = Digest::of("x")),
        ("device", |r| r.device = Digest::of("x")),
        ("state", |r| r.state = DeviceState::Active),
        ("action", |r| order(r).action = Action::Unban),
        ("who", |r| order(r).operator = "uid 1".to_owned()),
        ("why", |r| order(r).reason.push('!')),
        ("signer", |r| order(r).signer = key(2)),
        ("cause", |r| r.cause = Cause::Device(request())),
    ];
    for (what, change) in changes {
        let mut record = record.clone();
        change(&mut record);
        assert!(!record.is_intact(), "a changed {what} went unseen");
        let fields = record.fields();
        record.version.address(&fields, record.cause.signature());
        assert!(record.is_intact());
        assert_eq!(record.verify_order().is_ok(), what == "cause", "{what}");
    }
}

#[test]
fn bans_and_accounts_follow_one_another_by_order() {
    let signer = SigningKey::from_seed(&[9; 32]).unwrap();
    let (ban, unban) = (mandate(Action::Ban, &signer), mandate(Action::Unban, &signer));
    let at = |seconds: i64| Timestamp::from_unix_millis(1_800_000_000_000 + seconds * 1000);
    let identity = Digest::of("identity");
    let banned = BanRecord::new(None, identity, Some(BanEnd::At(at(9))), &ban, at(0)).unwrap();
    assert!(banned.is_in_force(at(8)) && !banned.is_in_force(at(9)));
    let lifted = BanRecord::new(Some(&banned), identity, None, &unban, at(1)).unwrap();
    assert!(!lifted.is_in_force(at(1)));
    let again = BanRecord::new(Some(&lifted), identity, Some(BanEnd::Never), &ban, at(2)).unwrap();
    assert!(again.is_in_force(at(1_000_000)));
    for (number, record) in [(0, &banned), (1, &lifted), (2, &again)] {
        assert!(record.is_intact() && record.version.sequence_number == number);
        assert_eq!(record.verify_order(), Ok(()));
    }
    let longer = BanRecord { until: Some(at(90)), ..banned };
    assert!(!longer.is_intact() && longer.verify_order().is_err());

    let hash = Digest::of("recovery");
    let account = AccountRecord::new(None, identity, hash, AccountState::Deleted, request(), at(0));
    let account = account.revealing(Digest::of("revealed"));
    let restored = account.ordered(AccountState::Active, &unban, at(1)).unwrap();
    assert!(restored.is_intact() && restored.version.previous == Some(account.version.id));
    assert_eq!((restored.verify_order(), restored.revealed), (Ok(()), None));
    assert!(matches!(restored.cause, Cause::Operator(_)));
}

#[test]
fn actions_have_words_and_words_actions() {
    for action in Action::ALL {
        assert_eq!(Action::parse(action.as_str()), Some(action));
    }
    assert_eq!(Action::parse("Ban"), None);
}
