//! What services say of the heads that they applied.

use std::time::Duration;

use keychain::acknowledgement::{Acknowledgement, BudgetEnd, Instance};
use keychain::chain::windows;
use keychain::directory::Directory;
use keychain::statement::{Entries, Head, HeadPlace};
use keychain::{Code, PublicKey, Timestamp};

use crate::support::hsm::HsmService;
use crate::support::until;
use crate::support::world::{World, ago};

fn soon() -> Timestamp {
    crate::support::clock::now().plus(Duration::from_hours(1))
}

/// The newest head of this HSM.
pub(crate) fn newest(hsm: &HsmService) -> HeadPlace {
    HeadPlace::of(&Head::parse(hsm.hsm.lock().unwrap().newest_head()).unwrap())
}

/// What the instance has acknowledged.
pub(crate) async fn acknowledgement(directory: &Directory, instance: &str) -> Acknowledgement {
    let instance = Instance::parse(instance).unwrap();
    let read = directory.acknowledgements(&[("edge:test", &instance)]).await.unwrap().remove(0);
    Acknowledgement::parse(&read.unwrap()).unwrap()
}

/// Waits until the instance has acknowledged the newest head with a live key.
pub(crate) async fn acknowledged(directory: &Directory, hsm: &HsmService, instance: &str) -> Acknowledgement {
    let instance = Instance::parse(instance).unwrap();
    until("the newest head to be acknowledged", async || {
        let read = directory.acknowledgements(&[("edge:test", &instance)]).await.unwrap().remove(0)?;
        let read = Acknowledgement::parse(&read).unwrap();
        let now = crate::support::clock::now();
        let mut chain = hsm.hsm.lock().unwrap().chain(now);
        let text = hsm.hsm.lock().unwrap().newest_head().to_owned();
        let head = Head::parse(&text).unwrap();
        chain.hear(&head.verify(&chain.clone(), windows::AUTHD, now).unwrap(), now);
        let verdict = read.verify("edge:test", &instance, &chain, windows::DEVICE, now);
        (verdict.is_ok() && read.head() == newest(hsm)).then_some(read)
    })
    .await
}

fn key(read: &Acknowledgement) -> PublicKey {
    read.endorsements()[0].subject.public_key
}

/// Each head as it comes; with its own key revoked, under the next one; a taint under a key of the new generation.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_acknowledges_what_it_applied_with_a_live_key() {
    let world = World::start_with("instance = \"b\"").await;
    let first = acknowledged(&world.directory, &world.hsm, "b").await;
    // The head is an hour old.
    assert_eq!(first.budget().ended_by, BudgetEnd::Head);
    assert!(first.budget().until > crate::support::clock::now().plus(Duration::from_hours(10)), "{first:?}");
    world.hsm.state(&world.directory, &Entries::default()).await;
    let second = acknowledged(&world.directory, &world.hsm, "b").await;
    assert_eq!(key(&first), key(&second));
    assert!(second.head().number > first.head().number);

    let mut revoked = Entries::default();
    revoked.keys.insert(key(&first).name(), soon());
    world.hsm.state(&world.directory, &revoked).await;
    let third = acknowledged(&world.directory, &world.hsm, "b").await;
    assert_ne!(key(&third), key(&first));

    world.hsm.rotate(&world.directory, ago(1), true).await;
    let fourth = acknowledged(&world.directory, &world.hsm, "b").await;
    assert_ne!(key(&fourth), key(&third));
    assert_eq!(fourth.endorsements()[0].generation_id, newest(&world.hsm).event_id);
}

/// What was acknowledged before proves nothing for a later head, and what a dead key signed nothing at all.
#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_of_before_does_not_count_for_a_taint() {
    let world = World::start().await;
    let old = acknowledged(&world.directory, &world.hsm, "main").await;
    world.hsm.rotate(&world.directory, ago(1), true).await;
    assert_ne!(old.head(), newest(&world.hsm));
    let now = crate::support::clock::now();
    let chain = world.hsm.hsm.lock().unwrap().chain(now);
    let verdict = old.verify("edge:test", &Instance::only(), &chain, windows::DEVICE, now);
    assert_eq!(verdict.unwrap_err().code(), Code::DeadKey);
}

/// A directory that lost everything has it again, though nothing was declared meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_directory_is_told_again() {
    let world = World::start().await;
    acknowledged(&world.directory, &world.hsm, "main").await;
    world.redis.flush().await;
    acknowledged(&world.directory, &world.hsm, "main").await;
}
