//! What somebody can make of rows without the keys of devices, recoveries and authd, self-addresses computed
//! anew. That what the operations decide does follow is asserted by their own tests.

use keychain::message::{self, Operation, body};
use keychain::{Nonce, SigningKey, Timestamp};

use super::*;
use crate::record::Mandate;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32]).unwrap()
}

fn hash(seed: u8) -> Digest {
    key(seed).public_key().digest()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_millis(1_800_000_000_000 + seconds * 1_000)
}

/// What a device asks with the key of `seed`, committing to that of the next.
fn asking(seed: u8) -> Authentication {
    let (first, next) = (key(10).public_key(), hash(11));
    let device = Digest::of_parts(&[&first.to_string(), &next.to_string()]);
    let identity = Digest::of_parts(&[&first.to_string(), &next.to_string(), &hash(200).to_string()]);
    Authentication { device, identity, public_key: key(seed).public_key(), rotation_hash: hash(seed + 1) }
}

fn signed(operation: Operation, signer: u8, request: &str) -> SignedRequest {
    let text = message::request(&key(signer), &Nonce::from_bytes([1; 16]), request).unwrap();
    let verified = message::parse(operation, text.as_bytes()).unwrap().verify().unwrap();
    SignedRequest {
        operation,
        digest: verified.cause(),
        payload: verified.payload().to_owned(),
        signature: verified.signature().unwrap(),
    }
}

fn created() -> (AccountRecord, DeviceRecord) {
    let asking = asking(10);
    let request = signed(Operation::AccountCreate, 10, &body::with_recovery_hash(&asking, &hash(200)));
    let state = AccountState::Active;
    let account = AccountRecord::new(None, asking.identity, hash(200), state, request.clone(), at(0));
    let owner = (asking.identity, asking.device);
    let keys = (asking.public_key, asking.rotation_hash);
    (account, DeviceRecord::new(None, owner, keys, DeviceState::Active, request, at(0)))
}

/// The device's next record, as it asked with the key of `seed`.
fn rotated_to(seed: u8, before: &DeviceRecord) -> DeviceRecord {
    let asking = asking(seed);
    let request = signed(Operation::DeviceRotate, seed, &body::of_device(&asking));
    let keys = (asking.public_key, asking.rotation_hash);
    DeviceRecord::new(
        Some(before),
        (before.identity, before.device),
        keys,
        DeviceState::Active,
        request,
        at(1),
    )
}

/// The record with its address computed anew, as whoever changes a row can.
fn readdressed(
    before: Option<&DeviceRecord>,
    record: &DeviceRecord,
    change: fn(&mut DeviceRecord),
) -> DeviceRecord {
    let mut record = record.clone();
    change(&mut record);
    let Cause::Device(request) = record.cause.clone() else { panic!("a device's") };
    let (owner, keys) = ((record.identity, record.device), (record.public_key, record.rotation_hash));
    DeviceRecord::new(before, owner, keys, record.state, request, record.version.created_at)
}

type Change = fn(&mut DeviceRecord);

#[test]
fn a_devices_record_says_what_its_request_asked_for() {
    let (_, first) = created();
    let second = rotated_to(11, &first);
    assert_eq!(device(None, &first), Ok(Open::Made(Witness::Account, cause_of(&first))));
    assert_eq!(device(Some(&first), &second), Ok(Open::Nothing));
    let changes: [(&str, Change, Broken); 6] = [
        ("a commitment to another's key", |r| r.rotation_hash = hash(99), NOT_ASKED),
        ("another's key", |r| r.public_key = key(99).public_key(), NOT_ASKED),
        ("another state", |r| r.state = DeviceState::Revoked, NOT_ASKED),
        (
            "another operation",
            |r| request(r).operation = Operation::AccountDelete,
            Broken("its cause is not the digest of its request"),
        ),
        (
            "another payload",
            |r| request(r).payload = request(r).payload.replace("0A", "0B"),
            Broken("the signature of its request does not hold"),
        ),
        (
            "another cause",
            |r| request(r).digest = Digest::of("x"),
            Broken("its cause is not the digest of its request"),
        ),
    ];
    for (what, change, expected) in changes {
        let changed = readdressed(Some(&first), &second, change);
        assert!(changed.is_intact());
        assert_eq!(device(Some(&first), &changed), Err(expected), "{what}");
    }
}

fn request(record: &mut DeviceRecord) -> &mut SignedRequest {
    let Cause::Device(request) = &mut record.cause else { panic!("a device's") };
    request
}

fn cause_of(record: &DeviceRecord) -> Digest {
    let Cause::Device(request) = &record.cause else { panic!("a device's") };
    request.digest
}

#[test]
fn records_have_their_places() {
    let (_, first) = created();
    let second = rotated_to(11, &first);
    let third = rotated_to(12, &second);
    for (before, record, because) in [
        (None, &second, "the rows before it are missing"),
        (Some(&first), &third, "rows before it are missing"),
        (Some(&third), &second, "its place is taken by another row"),
        (Some(&second), &second, "its place is taken by another row"),
    ] {
        assert_eq!(device(before, record), Err(Broken(because)));
    }
    // Signed by the device, and not what it committed to.
    let other = rotated_to(13, &first);
    assert_eq!(
        device(Some(&first), &other),
        Err(Broken("its key is not the one that the row before committed to"))
    );
    let forked = rotated_to(12, &rotated_to(13, &first));
    assert_eq!(device(Some(&second), &forked), Err(Broken("it does not follow the row before")));
    // Revoked is for good.
    let signer = key(9);
    let mandate = Mandate { action: Action::DeviceRevoke, operator: "uid 0", reason: "a test", key: &signer };
    let revoked = first.revoked_by_order(&mandate, at(1)).unwrap();
    assert!(matches!(device(Some(&first), &revoked), Ok(Open::Endorsed(_))));
    let back = rotated_to(11, &revoked);
    assert_eq!(device(Some(&revoked), &back), Err(Broken("the device was revoked, for good")));
}

#[test]
fn an_account_says_what_its_request_or_order_asked_for() {
    let (first, founder) = created();
    let made = Ok(Open::Made(Witness::Device(founder.device), cause_of(&founder)));
    assert_eq!(account(None, &first), made);
    let Cause::Device(request) = first.cause.clone() else { panic!("a device's") };
    // The same request with another recovery key, another state, another account.
    let (identity, active) = (first.identity, AccountState::Active);
    for (identity, hash, state) in [
        (identity, hash(99), active),
        (identity, hash(200), AccountState::Deleted),
        (Digest::of("x"), hash(200), active),
    ] {
        let changed = AccountRecord::new(None, identity, hash, state, request.clone(), at(0));
        assert_eq!(account(None, &changed), Err(NOT_ASKED));
    }
    // A recovery by a key that was not committed to.
    let fresh = Authentication { device: Digest::of("x"), ..asking(70) };
    let fresh = {
        let (public_key, rotation_hash) = (fresh.public_key, fresh.rotation_hash);
        let device = Digest::of_parts(&[&public_key.to_string(), &rotation_hash.to_string()]);
        Authentication { device, ..fresh }
    };
    let recover = |recovery: u8| {
        let asked = body::recover(&fresh, &hash(210), &key(recovery).public_key());
        let request = signed(Operation::AccountRecover, recovery, &asked);
        AccountRecord::new(Some(&first), identity, hash(210), active, request, at(1))
            .revealing(hash(recovery))
    };
    assert!(matches!(account(Some(&first), &recover(200)), Ok(Open::Made(Witness::Device(_), _))));
    let because = Broken("its recovery key is not the one committed to");
    assert_eq!(account(Some(&first), &recover(201)), Err(because));
    // Orders.
    let signer = key(9);
    let order = |action| Mandate { action, operator: "uid 0", reason: "a test", key: &signer };
    let deleted = first.ordered(AccountState::Deleted, &order(Action::AccountDelete), at(1)).unwrap();
    assert!(matches!(account(Some(&first), &deleted), Ok(Open::Endorsed(_))));
    for (before, state, action) in [
        (&first, AccountState::Deleted, Action::Ban),
        (&first, AccountState::Active, Action::AccountRestore),
        (&deleted, AccountState::Active, Action::AccountDelete),
    ] {
        let record = before.ordered(state, &order(action), at(2)).unwrap();
        assert_eq!(account(Some(before), &record), Err(NOT_ORDERED));
    }
    let change = signed(Operation::RecoveryChange, 11, &body::with_recovery_hash(&asking(11), &hash(99)));
    let after = AccountRecord::new(Some(&deleted), identity, hash(99), active, change, at(2));
    let because = Broken("the account was deleted, and no operator restored it");
    assert_eq!(account(Some(&deleted), &after), Err(because));
}

#[test]
fn an_order_says_what_was_signed() {
    let signer = key(9);
    let order = |action| Mandate { action, operator: "uid 0", reason: "a test", key: &signer };
    let identity = Digest::of("identity");
    let never = Some(crate::record::BanEnd::Never);
    let banned = BanRecord::new(None, identity, never, &order(Action::Ban), at(0)).unwrap();
    let lifted = BanRecord::new(Some(&banned), identity, None, &order(Action::Unban), at(1)).unwrap();
    assert!(ban(None, &banned).is_ok() && ban(Some(&banned), &lifted).is_ok());
    let wrong = BanRecord::new(None, identity, None, &order(Action::Ban), at(0)).unwrap();
    assert_eq!(ban(None, &wrong), Err(NOT_ORDERED));
    let changed = BanRecord { banned: false, ..banned.clone() };
    assert_eq!(ban(None, &changed), Err(Broken("the signature of its order does not hold")));

    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let granted = RoleRecord::new(None, identity, names(&["a"]), &order(Action::RoleGrant), at(0)).unwrap();
    assert!(matches!(roles(None, &granted), Ok(Open::Endorsed(_))));
    for (names, action) in [
        (names(&["a", "b", "c"]), Action::RoleGrant),
        (names(&["b"]), Action::RoleGrant),
        (names(&["b"]), Action::RoleRevoke),
        (names(&["a", "b"]), Action::RoleRevoke),
    ] {
        let record = RoleRecord::new(Some(&granted), identity, names, &order(action), at(1)).unwrap();
        assert_eq!(roles(Some(&granted), &record), Err(NOT_ORDERED));
    }
}
