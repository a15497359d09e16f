//! An edge that is restarted while hsmd and the directory are away: it goes on from its own state with its own key, which
//! the service manager kept.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use keychain::access::Response;
use keychain::{Nonce, PublicKey};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use serde_json::Value;

use crate::support::clock;
use crate::support::fixture::{Session, key};
use crate::support::until;
use crate::support::world::{Answer, INNER, World};
use tests::service_manager::Kept;

const NAME: &str = "response-key";

/// Asks with a fresh request, and says which key signed the answer.
async fn signer(world: &World, session: &Session) -> PublicKey {
    let nonce = world.nonce();
    let answer = world.post("/foo/bar", session.request(nonce, clock::now(), INNER)).await;
    signed(&answer, &nonce)
}

fn signed(answer: &Answer, nonce: &Nonce) -> PublicKey {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let response = Response::parse(answer.body.as_bytes()).unwrap();
    response.verify(nonce).unwrap();
    response.server_identity
}

/// What is kept, once it is all that a start in an outage needs.
async fn left(world: &World) -> Vec<Kept> {
    until("the state to be on disk", async || world.has_kept_all().then_some(())).await;
    let kept = world.edge.kept();
    assert_eq!(kept.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [NAME]);
    kept
}

fn content(kept: &[Kept]) -> Vec<u8> {
    let file = File::from(kept[0].1.try_clone().unwrap());
    let mut content = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut content, 0).unwrap();
    content
}

fn memory(content: &[u8], seals: SealFlags) -> Kept {
    let descriptor = memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = File::from(descriptor);
    file.write_all(content).unwrap();
    fcntl_add_seals(&file, seals).unwrap();
    (NAME.to_owned(), OwnedFd::from(file))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_restarted_in_an_outage_goes_on_with_its_key() {
    let mut world = World::start().await;
    let session = world.session(200);
    let before = signer(&world, &session).await;
    let kept = left(&world).await;
    world.hsm.stop().await;
    world.redis.stop();

    world.edge.kill();
    world.restart_with(kept);
    let first = until("an answer", async || world.try_ask(&session).await).await;
    assert!(first.status == 200 || first.code() == "BA603", "{}", first.body);
    world.edge.ready().await;
    assert_eq!(signer(&world, &session).await, before, "the same key");
    let page: Value = serde_json::from_str(&world.daemon_page("readyz?verbose").await).unwrap();
    assert_eq!((&page["ready"], &page["serving"]), (&false.into(), &true.into()), "{page}");
    let banned = world.edge.log();
    assert!(banned.contains("goes on with the key from before the restart"), "{banned}");

    // When all is back, so is the entry that names the key.
    world.redis.start_again().await;
    world.hsm.publish(&world.directory).await;
    world.publish_issuer(100).await;
    until("the key to be put back", async || {
        world.directory.endorsement(keychain::directory::Db::Response, &before).await.unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_in_an_outage_without_a_kept_key_says_what_it_waits_for() {
    let mut world = World::start().await;
    let session = world.session(200);
    signer(&world, &session).await;
    left(&world).await;
    world.hsm.stop().await;
    world.redis.stop();
    world.edge.terminate();
    assert!(world.edge.ended().await.success());
    world.restart();
    until("the reason", async || {
        let answer = world.try_ask(&session).await?;
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        let waits_for = body["error"]["context"]["waitsFor"].as_str().unwrap().to_owned();
        (answer.code() == "BA603" && waits_for.contains("response key")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_of_a_new_key_replaces_the_kept_one() {
    let world = World::start().await;
    let session = world.session(200);
    let before = signer(&world, &session).await;
    let old = content(&left(&world).await);
    world.edge.hang_up();
    until("another key to be kept", async || {
        let kept = world.edge.kept();
        (kept.len() == 1 && content(&kept) != old).then_some(())
    })
    .await;
    assert_ne!(signer(&world, &session).await, before);
}

/// Whatever else comes back under the name is refused and dropped, and a new key is made.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_key_is_refused() {
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    let mut world = World::start().await;
    let session = world.session(200);
    let mut before = signer(&world, &session).await;
    for case in ["another length", "not sealed", "another key", "two of them", "a file on disk"] {
        let kept = left(&world).await;
        let whole = content(&kept);
        let hostile = match case {
            "another length" => vec![memory(&whole[..whole.len() - 1], all)],
            "not sealed" => vec![memory(&whole, all.difference(SealFlags::WRITE))],
            "another key" => {
                let other = [key(7_777).seed().as_slice(), &whole[32..]].concat();
                vec![memory(&other, all)]
            }
            "two of them" => vec![memory(&whole, all), memory(&whole, all)],
            _ => {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(&whole).unwrap();
                vec![(NAME.to_owned(), file.into())]
            }
        };
        world.edge.kill();
        world.restart_with(hostile);
        world.edge.ready().await;
        let now = signer(&world, &session).await;
        assert_ne!(now, before, "{case}");
        let log = world.edge.log();
        assert!(log.contains("over the restart"), "{case}: {log}");
        before = now;
    }
    // The key itself is taken, so the cases were refused for what they were.
    let kept = left(&world).await;
    world.edge.kill();
    world.restart_with(kept);
    world.edge.ready().await;
    assert_eq!(signer(&world, &session).await, before);
    let inner = world.request(&session, INNER);
    assert_eq!(world.post("/foo/bar", inner).await.status, 200);
}
