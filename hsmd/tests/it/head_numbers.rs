//! Numbers of heads over every way in which a ledger loses them: none is used twice, no hsmd takes its own earlier
//! head for a rival's, and a rival's is found all the same.

use std::{fs, time::Duration};

use keychain::statement::Head;

use crate::support::{
    daemon::{Daemon, request},
    eventually,
    world::{Database, World, service_key},
};

const SOON: Duration = Duration::from_secs(20);

impl World {
    /// The newest head, once one of the newest event is shown.
    fn head_now(&self) -> Head {
        let newest = self.chain().last().unwrap().id();
        let mut shown = None;
        eventually("a head of the newest event", SOON, || {
            let answer = request(&self.socket("edge"), "GET", "/statements", "").ok();
            let (_, head) = answer.split_once("\"head\":").unwrap();
            let head = Head::parse(head.strip_suffix('}').unwrap()).ok();
            shown = head.filter(|head| head.event_id() == newest);
            shown.is_some()
        });
        shown.unwrap()
    }

    /// Has another head made, which lists what the one before does not.
    fn revoke(&self, number: u8) {
        let body = format!("{{\"publicKeys\":[\"{}\"]}}", service_key(number));
        request(&self.socket("admin"), "POST", "/revoke-keys", &body).ok();
    }

    /// Takes over what a published head proves.
    fn take_over(&self) {
        let shown = request(&self.socket("admin"), "GET", "/restored", "").ok();
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let proof = shown["restored"]["proof"].as_str().unwrap_or_else(|| panic!("{shown}"));
        let body = format!("{{\"proof\":\"{proof}\",\"take\":\"sound\"}}");
        request(&self.socket("admin"), "POST", "/take-over", &body).ok();
    }

    fn published_chain(&self) -> String {
        request(&self.socket("edge"), "GET", "/chain", "").ok()
    }

    /// Takes the ledger away with what stands beside it, and brings it back from the published chain.
    fn lose_and_recover(&self, hsmd: &mut Daemon, has_copy: bool) -> Daemon {
        let chain = self.published_chain();
        hsmd.stop();
        self.restore_ledger(None);
        if !has_copy {
            fs::remove_dir_all(self.path().join("copy")).unwrap();
        }
        let mut hsmd = self.start_behind(None);
        self.recover("", &chain).ok();
        hsmd.ready().unwrap();
        hsmd
    }
}

/// Tried: after a ledger was lost and recovered from the published chain, the first head had a number that a published
/// one had, hsmd took its own for a rival's, and rotations stopped.
#[test]
fn a_lost_ledger_that_was_recovered_is_no_rival_of_itself() {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    world.rotate("{}");
    let mut newest = world.head_now();
    assert_eq!(newest.event_id(), world.chain()[1].id());
    // Also when it happens again, of the same event.
    for has_copy in [true, false, false] {
        hsmd = world.lose_and_recover(&mut hsmd, has_copy);
        let head = world.head_now();
        assert_eq!(head.event_id(), newest.event_id());
        assert!(head.number() > newest.number(), "{} after {}", head.number(), newest.number());
        assert_eq!(world.report(&[&newest]), "agrees");
        newest = head;
    }
    world.rotate("{}");
    assert_eq!(world.head_now().number(), 1, "numbers begin anew with an event that was made here");
    hsmd.stop();
}

/// The chain goes on from what the ledger had when it was backed up.
#[test]
fn a_backup_from_before_the_newest_event_is_no_rival_of_itself() {
    let world = World::new(Database::Sqlite);
    world.start().stop();
    let backup = world.back_up_ledger();
    let mut hsmd = world.start();
    world.rotate("{}");
    let (newest, chain) = (world.head_now(), world.published_chain());
    hsmd.stop();
    world.restore_ledger(Some(&backup));
    let mut hsmd = world.start_behind(None);
    world.recover("", &chain).ok();
    hsmd.ready().unwrap();
    assert!(world.head_now().number() > newest.number());
    assert_eq!(world.report(&[&newest]), "agrees");
    world.rotate("{}");
    hsmd.stop();
}

/// The newest event is the same, and heads of it were made since.
#[test]
fn a_backup_of_the_same_event_leaves_numbers_behind() {
    for has_copy in [true, false] {
        let world = World::new(Database::Sqlite);
        world.start().stop();
        let backup = world.back_up_ledger();
        let mut hsmd = world.start();
        for number in 1..4 {
            world.revoke(number);
        }
        let newest = world.head_now();
        hsmd.stop();
        world.restore_ledger(Some(&backup));
        if !has_copy {
            fs::remove_dir_all(world.path().join("copy")).unwrap();
        }
        // What is kept beside the chain copy names it at the start.
        let mut hsmd = if has_copy { world.start_behind(None) } else { world.start() };
        assert_eq!(world.report(&[&newest]), "restored");
        world.take_over();
        // Nothing rests on it before what is published was compared once more.
        let answer = request(&world.socket("admin"), "POST", "/rotate", "{}");
        assert!(answer.status == 503 && answer.body.contains("\"state\":\"uncompared\""), "{}", answer.body);
        assert_eq!(world.report(&[&newest]), "agrees");
        eventually("a head that lists it again", SOON, || {
            let head = world.head_now();
            head.number() > newest.number() && head.entries().keys.len() == 3
        });
        world.rotate("{}");
        hsmd.stop();
    }
}

/// The whole disk is restored, so that nothing on it shows what is lost: the published head does, also if it has the
/// very number that was given out again.
#[test]
fn a_restored_disk_is_named_by_the_published_number() {
    for heads in 1..3 {
        let world = World::new(Database::Sqlite);
        world.start().stop();
        let (backup, folder) = (world.back_up_ledger(), world.path().join("copy"));
        let kept = fs::read(folder.join("head.json")).unwrap();
        let mut hsmd = world.start();
        for number in 1..heads {
            world.revoke(number);
        }
        let newest = world.head_now();
        hsmd.stop();
        world.restore_ledger(Some(&backup));
        fs::write(folder.join("head.json"), kept).unwrap();
        let mut hsmd = world.start();
        assert_eq!(world.head_now().number(), 2, "nothing is known yet");
        assert_eq!(world.report(&[&newest]), "restored", "{heads}");
        world.take_over();
        assert_eq!(world.report(&[&newest]), "agrees");
        eventually("another head", SOON, || world.head_now().number() > newest.number());
        world.rotate("{}");
        hsmd.stop();
    }
}

/// A copy of the host numbers its heads as the original does, or lower after the original has left numbers behind.
#[test]
fn a_copy_that_signs_heads_is_found_on_either_side() {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    world.rotate("{}");
    hsmd.stop();
    let copy = world.copy();
    let mut hsmd = world.start();
    let mut its_hsmd = copy.start();
    let (original, theirs) = (world.head_now(), copy.head_now());
    assert_eq!((original.event_id(), original.number()), (theirs.event_id(), theirs.number()));
    assert_eq!(world.report(&[&theirs]), "rival");
    let answer = request(&world.socket("admin"), "POST", "/rotate", "{}");
    assert_eq!(answer.status, 503, "{}", answer.body);

    hsmd = world.lose_and_recover(&mut hsmd, false);
    assert!(world.head_now().number() > theirs.number());
    assert_eq!(copy.report(&[&world.head_now()]), "rival");
    hsmd.stop();
    its_hsmd.stop();
}
