//! Every rule of the account and device operations, on rows in memory.

mod book;
mod orders;
mod owner;
mod sessions;

use book::{Book, Phone, at, change, create, delete, hash, link, recover, rotate, unlink};
use keychain::message::{Operation, Verified, body};
use keychain::{Code, Digest};

use super::{Change, DEVICES_MAX, Decision, decide, needs};
use crate::record::{AccountState, BanRecord, DeviceState, Remains, Version};

/// The recovery key of the accounts here.
const RECOVERY: u8 = 200;

/// An account with one device, whose key has seed 10.
fn account() -> (Book, Phone) {
    let (mut book, phone) = (Book::default(), Phone::founder(10, RECOVERY));
    book.take(&create(&phone, RECOVERY), at(0)).unwrap();
    (book, phone)
}

/// The same with a linked device, whose key has seed 40; the first one's has seed 11 by then.
fn couple() -> (Book, Phone, Phone) {
    let (mut book, phone) = account();
    let (phone, other) = (phone.next(), Phone::joining(phone.identity, 40));
    book.take(&link(&phone, &other), at(1)).unwrap();
    (book, phone, other)
}

#[track_caller]
fn applied(book: &mut Book, request: &Verified) -> Change {
    match book.take(request, at(50)).unwrap() {
        Decision::Apply(change) => *change,
        undone => panic!("was not applied: {undone:?}"),
    }
}

#[track_caller]
fn repeated(book: &mut Book, request: &Verified) {
    let before = book.clone();
    assert_eq!(book.take(request, at(60)), Ok(Decision::Repeat));
    assert_eq!(*book, before);
}

#[track_caller]
fn refused(book: &mut Book, request: &Verified, code: Code) {
    let before = book.clone();
    assert_eq!(book.take(request, at(60)).map_err(|refusal| refusal.code()), Err(code));
    assert_eq!(*book, before);
}

/// The same request with another nonce, as a device sends it when the answer was lost.
fn again(request: &Verified, signer: u8) -> Verified {
    let inner = request.payload().split_once(r#""request":"#).unwrap().1.strip_suffix('}').unwrap();
    book::signed(request.operation(), signer, 99, inner)
}

#[test]
fn creation_registers_an_account_and_its_first_device() {
    let (book, phone) = account();
    let account = book.account(&phone.identity).unwrap();
    assert!(account.is_intact() && account.state == AccountState::Active);
    assert_eq!(account.recovery_hash, hash(RECOVERY));
    let device = book.device(&phone).unwrap();
    assert!(device.is_intact() && device.state == DeviceState::Active);
    assert_eq!((device.public_key, device.rotation_hash), (phone.here().public_key, hash(11)));
    assert_eq!(device.cause, account.cause);
    assert_eq!(book::operation_of(&device.cause), Operation::AccountCreate);
}

#[test]
fn creation_is_repeated_while_it_is_the_devices_newest_record_and_conflicts_afterwards() {
    let (mut book, phone) = account();
    repeated(&mut book, &again(&create(&phone, RECOVERY), 10));
    applied(&mut book, &rotate(&phone.next()));
    refused(&mut book, &create(&phone, RECOVERY), Code::Conflict);
}

#[test]
fn rotation_moves_to_the_committed_key_and_no_other() {
    let (mut book, phone) = account();
    let change = applied(&mut book, &rotate(&phone.next()));
    assert_eq!(change.devices.len(), 1);
    assert!(change.account.is_none() && change.revoked.is_empty());
    let record = book.device(&phone).unwrap();
    assert!(record.is_intact() && record.version.sequence_number == 1);
    assert_eq!((record.public_key, record.rotation_hash), (book::public(11), hash(12)));
    refused(&mut book, &rotate(&Phone { seed: 77, ..phone }), Code::RotationMismatch);
    // The right next key committing elsewhere is another request, and now that key is spent.
    applied(&mut book, &rotate(&Phone { seed: 12, ..phone }));
    refused(&mut book, &rotate(&Phone { seed: 11, ..phone }), Code::Replay);
}

#[test]
fn a_rotation_naming_the_active_head_is_answered_whatever_made_the_head() {
    let (mut book, phone, other) = couple();
    // Made by a link: the first device rotated there, the second was registered there.
    repeated(&mut book, &rotate(&phone));
    repeated(&mut book, &rotate(&other));
    // The head's key with another commitment is not the head.
    let mut elsewhere = phone.here();
    elsewhere.rotation_hash = hash(99);
    let request = book::gated(Operation::DeviceRotate, &phone, &body::of_device(&elsewhere));
    refused(&mut book, &request, Code::Replay);
    // No other operation has that privilege.
    refused(&mut book, &change(&phone, 201), Code::Replay);
    refused(&mut book, &delete(&phone), Code::Replay);
    // Nor does a revoked device's head.
    applied(&mut book, &unlink(&phone.next(), &other.device));
    refused(&mut book, &rotate(&other), Code::UnknownDevice);
}

#[test]
fn gated_operations_are_repeated_with_another_nonce_and_refused_in_any_other_way() {
    type Make = fn(&Phone, &Phone) -> Verified;
    let operations: [(&str, Make); 5] = [
        ("rotate", |phone, _| rotate(phone)),
        ("link", |phone, new| link(phone, new)),
        ("unlink", |phone, _| unlink(phone, &Phone::joining(phone.identity, 40).device)),
        ("recovery change", |phone, _| change(phone, 201)),
        ("delete", |phone, _| delete(phone)),
    ];
    for (name, make) in operations {
        let (mut book, phone, _) = couple();
        let new = Phone::joining(phone.identity, 60);
        let request = make(&phone.next(), &new);
        let change = applied(&mut book, &request);
        assert!(change.devices.iter().all(|record| record.cause.is_request(&request.cause())), "{name}");
        repeated(&mut book, &request);
        repeated(&mut book, &again(&request, phone.seed + 1));
        if name == "delete" {
            continue;
        }
        // One more step, and the repeat is late: its key is spent.
        applied(&mut book, &rotate(&phone.next().next()));
        refused(&mut book, &request, Code::Replay);
    }
}

#[test]
fn whatever_fails_its_rotation_step_changes_nothing() {
    let (mut book, phone, other) = couple();
    let stranger = Phone { seed: 90, ..phone };
    let new = Phone::joining(phone.identity, 91);
    for request in [
        link(&stranger, &new),
        unlink(&stranger, &other.device),
        change(&stranger, 92),
        delete(&stranger),
        rotate(&stranger),
    ] {
        refused(&mut book, &request, Code::RotationMismatch);
    }
}

#[test]
fn a_device_of_one_account_is_unknown_in_another() {
    let (mut book, _, other) = couple();
    let stranger = Phone::founder(120, 121);
    book.take(&create(&stranger, 121), at(2)).unwrap();
    let borrowed = Phone { identity: stranger.identity, ..other };
    refused(&mut book, &rotate(&borrowed.next()), Code::UnknownDevice);
    let lent = Phone { identity: other.identity, ..stranger };
    refused(&mut book, &link(&lent.next(), &Phone::joining(other.identity, 60)), Code::UnknownDevice);
    // Nor does an unlink reach over: refused before anything is revoked.
    refused(&mut book, &unlink(&stranger.next(), &other.device), Code::UnknownDevice);
    refused(&mut book, &unlink(&stranger.next(), &Digest::of("nobody")), Code::UnknownDevice);
}

#[test]
fn a_container_is_good_once() {
    let (mut book, phone, other) = couple();
    let phone = phone.next();
    refused(&mut book, &link(&phone, &other), Code::Conflict);
    applied(&mut book, &unlink(&phone, &other.device));
    refused(&mut book, &link(&phone.next(), &other), Code::Conflict);
    // A device's own first container, too.
    let founder = Phone::founder(10, RECOVERY);
    let own = Phone { identity: phone.identity, ..founder };
    refused(&mut book, &link(&phone.next(), &own), Code::Conflict);
}

#[test]
fn unlinking_revokes_the_other_device_or_oneself() {
    let (mut book, phone, other) = couple();
    let change = applied(&mut book, &unlink(&phone.next(), &other.device));
    assert_eq!(change.revoked, [other.device]);
    assert_eq!(book.device(&other).unwrap().state, DeviceState::Revoked);
    assert_eq!(book.device(&phone).unwrap().state, DeviceState::Active);
    refused(&mut book, &unlink(&phone.next().next(), &other.device), Code::UnknownDevice);
    refused(&mut book, &rotate(&other.next()), Code::UnknownDevice);

    let itself = unlink(&phone.next().next(), &phone.device);
    assert_eq!(applied(&mut book, &itself).revoked, [phone.device]);
    assert_eq!(book.device(&phone).unwrap().state, DeviceState::Revoked);
    repeated(&mut book, &itself);
    refused(&mut book, &rotate(&Phone { seed: 14, ..phone }), Code::UnknownDevice);
}

#[test]
fn recovery_cuts_off_every_device_and_registers_one() {
    let (mut book, phone, other) = couple();
    let fresh = Phone::joining(phone.identity, 70);
    refused(&mut book, &recover(&fresh, 150, 201), Code::RotationMismatch);
    refused(&mut book, &recover(&other, RECOVERY, 201), Code::Conflict);
    let request = recover(&fresh, RECOVERY, 201);
    let mut revoked = applied(&mut book, &request).revoked;
    revoked.sort();
    let mut expected = vec![phone.device, other.device];
    expected.sort();
    assert_eq!(revoked, expected);
    let account = book.account(&phone.identity).unwrap();
    assert!(account.is_intact());
    assert_eq!((account.recovery_hash, account.revealed), (hash(201), Some(hash(RECOVERY))));
    repeated(&mut book, &again(&request, RECOVERY));
    for gone in [phone.next(), other.next()] {
        refused(&mut book, &rotate(&gone), Code::UnknownDevice);
    }
    // The spent recovery key is refused for good.
    let another = Phone::joining(phone.identity, 80);
    refused(&mut book, &recover(&another, RECOVERY, 202), Code::Replay);
    applied(&mut book, &rotate(&fresh.next()));
    refused(&mut book, &request, Code::Replay);
}

#[test]
fn no_account_commits_to_a_recovery_key_that_it_has_spent() {
    let (mut book, phone) = account();
    let fresh = Phone::joining(phone.identity, 70);
    applied(&mut book, &recover(&fresh, RECOVERY, 201));
    refused(&mut book, &change(&fresh.next(), RECOVERY), Code::InvalidHash);
    let another = Phone::joining(phone.identity, 80);
    refused(&mut book, &recover(&another, 201, RECOVERY), Code::InvalidHash);
    // A key that was committed to and never revealed may come back; and so may one that another spent.
    applied(&mut book, &change(&fresh.next(), 202));
    applied(&mut book, &change(&fresh.next().next(), 201));
    applied(&mut book, &recover(&another, 201, 202));
    let stranger = Phone::founder(120, 121);
    applied(&mut book, &create(&stranger, 121));
    applied(&mut book, &change(&stranger.next(), RECOVERY));
}

#[test]
fn no_thief_recovers_onto_a_device_of_another_account() {
    let (mut book, phone, other) = couple();
    let thief = Phone::founder(120, 121);
    applied(&mut book, &create(&thief, 121));
    let onto = |victim: Phone| Phone { identity: thief.identity, ..victim };
    for victim in [Phone::founder(10, RECOVERY), other] {
        refused(&mut book, &recover(&onto(victim), 121, 122), Code::Conflict);
    }
    // Nor when the victim has parted with it.
    applied(&mut book, &unlink(&phone.next(), &other.device));
    refused(&mut book, &recover(&onto(other), 121, 122), Code::Conflict);
    // The owner of a device may have it in two accounts by his own signature.
    let device = Phone::joining(thief.identity, 40);
    applied(&mut book, &link(&thief.next(), &device));
}

#[test]
fn a_device_that_a_thief_recovered_onto_first_is_nobody_elses() {
    let (mut book, phone) = account();
    let (thief, new, founder) =
        (Phone::founder(120, 121), Phone::joining(phone.identity, 40), Phone::founder(60, 61));
    applied(&mut book, &create(&thief, 121));
    applied(&mut book, &recover(&Phone { identity: thief.identity, ..new }, 121, 122));
    refused(&mut book, &link(&phone.next(), &new), Code::Conflict);
    refused(&mut book, &recover(&new, RECOVERY, 201), Code::Conflict);
    applied(&mut book, &recover(&Phone { identity: thief.identity, ..founder }, 122, 123));
    refused(&mut book, &create(&founder, 61), Code::Conflict);
    // What he has denied are names that no account holds; the victim goes on with new keys.
    assert_eq!(book.revoked, [thief.device, new.device]);
    applied(&mut book, &link(&phone.next(), &Phone::joining(phone.identity, 80)));
}

#[test]
fn recovery_needs_an_account_that_stands() {
    let fresh = Phone::joining(Digest::of("nobody"), 70);
    refused(&mut Book::default(), &recover(&fresh, RECOVERY, 201), Code::UnknownDevice);
    let (mut book, phone) = account();
    applied(&mut book, &delete(&phone.next()));
    let fresh = Phone::joining(phone.identity, 70);
    refused(&mut book, &recover(&fresh, RECOVERY, 201), Code::UnknownDevice);
}

#[test]
fn a_changed_recovery_key_replaces_the_old() {
    let (mut book, phone) = account();
    applied(&mut book, &change(&phone.next(), 201));
    assert_eq!(book.account(&phone.identity).unwrap().recovery_hash, hash(201));
    let fresh = Phone::joining(phone.identity, 70);
    refused(&mut book, &recover(&fresh, RECOVERY, 202), Code::RotationMismatch);
    applied(&mut book, &recover(&fresh, 201, 202));
}

#[test]
fn deletion_is_a_tombstone_that_keeps_the_devices_as_their_owners_hold_them() {
    let (mut book, phone, other) = couple();
    let request = delete(&phone.next());
    let mut revoked = applied(&mut book, &request).revoked;
    revoked.sort();
    let mut expected = vec![phone.device, other.device];
    expected.sort();
    assert_eq!(revoked, expected);
    let account = book.account(&phone.identity).unwrap();
    assert!(account.is_intact() && account.state == AccountState::Deleted);
    assert_eq!(account.recovery_hash, hash(RECOVERY));
    assert_eq!(book.device(&phone).unwrap().state, DeviceState::Active);
    assert_eq!(book.device(&phone).unwrap().public_key, book::public(phone.seed + 1));
    repeated(&mut book, &again(&request, phone.seed + 1));
    refused(&mut book, &rotate(&phone.next()), Code::UnknownDevice);
    refused(&mut book, &rotate(&phone.next().next()), Code::UnknownDevice);
    refused(&mut book, &change(&other.next(), 201), Code::UnknownDevice);
    refused(&mut book, &create(&Phone::founder(10, RECOVERY), RECOVERY), Code::Conflict);
}

#[test]
fn a_banned_identity_is_refused_whatever_it_asks_repeats_included() {
    let (mut book, phone, other) = couple();
    let done = rotate(&phone.next());
    applied(&mut book, &done);
    book.ban = Some(book::ban(phone.identity));
    let phone = phone.next().next();
    let new = Phone::joining(phone.identity, 60);
    for request in [
        done,
        create(&Phone::founder(10, RECOVERY), RECOVERY),
        rotate(&phone),
        link(&phone, &new),
        unlink(&phone, &other.device),
        change(&phone, 201),
        delete(&phone),
        recover(&new, RECOVERY, 201),
    ] {
        refused(&mut book, &request, Code::Revoked);
    }
}

#[test]
fn a_ban_is_told_only_to_those_who_prove_a_key_and_ends_by_itself() {
    let (book, phone, _) = couple();
    let stranger = Phone { device: Digest::of("no device"), ..phone };
    let requests = [
        (rotate(&stranger), Code::UnknownDevice),
        (rotate(&Phone { seed: 77, ..phone }), Code::RotationMismatch),
        (recover(&Phone::joining(phone.identity, 60), 99, 201), Code::RotationMismatch),
    ];
    let mut banned = Book { ban: Some(book::ban(phone.identity)), ..book.clone() };
    for (request, code) in requests {
        refused(&mut book.clone(), &request, code);
        refused(&mut banned, &request, code);
    }
    let ban = book::ban(phone.identity);
    let mut ended = Book { ban: Some(BanRecord { until: Some(at(60)), ..ban }), ..book };
    let request = rotate(&phone.next());
    assert_eq!(ended.clone().take(&request, at(59)).map_err(|refusal| refusal.code()), Err(Code::Revoked));
    assert!(matches!(ended.take(&request, at(60)), Ok(Decision::Apply(_))));
}

#[test]
fn a_thief_who_links_devices_uses_up_neither_links_nor_recoveries_for_good() {
    let (mut book, phone, other) = couple();
    let first = book.devices.first().unwrap().clone();
    while book.devices.iter().filter(|row| row.version.sequence_number == 0).count() < DEVICES_MAX - 1 {
        let mut row = first.clone();
        row.device = Digest::of(format!("device {}", book.devices.len()));
        book.devices.push(row);
    }
    let (phone, joining) = (phone.next(), |seed| Phone::joining(other.identity, seed));
    applied(&mut book, &link(&phone, &joining(60)));
    refused(&mut book, &link(&phone.next(), &joining(70)), Code::TooMany);
    let new = joining(80);
    let change = applied(&mut book, &recover(&new, RECOVERY, 201));
    assert_eq!(change.revoked.len(), DEVICES_MAX);
    applied(&mut book, &link(&new.next(), &joining(90)));
}

#[test]
fn nothing_that_grows_is_asked_for_before_the_proof_holds() {
    let (book, phone, other) = couple();
    let (new, stranger) = (Phone::joining(phone.identity, 60), Phone { seed: 90, ..phone });
    let proven = [delete(&phone.next()), link(&phone.next(), &new), recover(&new, RECOVERY, 201)];
    let junk = [delete(&stranger), link(&stranger, &new), recover(&new, 99, 201)];
    let nothing_listed =
        [rotate(&phone.next()), unlink(&phone.next(), &other.device), change(&phone.next(), 201)];
    let first = |request: &Verified| {
        let view = book.view(&needs(request.request()).unwrap());
        decide(request, &view, at(60)).map_err(|refusal| refusal.code())
    };
    for request in &proven {
        assert_eq!(first(request), Ok(Decision::Incomplete), "{}", request.operation());
    }
    for request in &junk {
        assert_eq!(first(request), Err(Code::RotationMismatch), "{}", request.operation());
    }
    for request in &nothing_listed {
        assert!(matches!(first(request), Ok(Decision::Apply(_))), "{}", request.operation());
    }
}

#[test]
fn no_device_commits_to_a_key_that_it_has_revealed() {
    let (mut book, phone) = account();
    applied(&mut book, &rotate(&phone.next()));
    let phone = phone.next().next();
    for revealed in [phone.seed - 1, phone.seed - 2] {
        let mut back = phone.here();
        back.rotation_hash = hash(revealed);
        let request = book::gated(Operation::DeviceRotate, &phone, &body::of_device(&back));
        refused(&mut book, &request, Code::InvalidHash);
    }
    applied(&mut book, &rotate(&phone));
}

#[test]
fn recovery_and_deletion_cut_off_a_device_whose_record_is_damaged() {
    let (book, phone, other) = couple();
    let row = book.device(&other).unwrap().clone();
    let version = Version { id: Digest::of("nonsense"), ..row.version.clone() };
    let (identity, device) = (row.identity, row.device);
    for public_key in [Some(row.public_key), None] {
        let rotation_hash = row.rotation_hash;
        let remains = Remains { version: version.clone(), identity, device, public_key, rotation_hash };
        let mut book = book.clone();
        book.devices.retain(|row| row.device != device);
        book.damaged = vec![remains];
        let new = Phone::joining(identity, 60);
        let change = applied(&mut book.clone(), &recover(&new, RECOVERY, 201));
        assert!(change.revoked.contains(&device));
        let revoked = change.devices.iter().find(|row| row.device == device).unwrap();
        assert!(revoked.is_intact() && revoked.state == DeviceState::Revoked);
        assert_eq!(revoked.public_key, public_key.unwrap_or(new.here().public_key));
        assert_eq!(revoked.version.sequence_number, version.sequence_number + 1);
        assert_eq!(revoked.version.previous, Some(version.id));
        let change = applied(&mut book, &delete(&phone.next()));
        assert!(change.revoked.contains(&device));
        assert!(change.devices.iter().all(|row| row.device != device));
    }
}
