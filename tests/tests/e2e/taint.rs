//! Rotation and taint: the fleet re-keys itself, and nobody is logged out.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tests::craft::Device;
use tests::{World, until};

const REQUEST: &str = r#"{"foo":"a","bar":"b"}"#;

/// From the taint to new keys of every service. It takes about one second.
const HEALED: Duration = Duration::from_secs(10);

/// The generations that the published response keys were endorsed by.
async fn generations(world: &World) -> BTreeSet<String> {
    let all = world.keys().get("/keys").await.json();
    let generation =
        |endorsement: &Value| endorsement["body"]["hsm"]["generationId"].as_str().unwrap().to_owned();
    all.as_object().unwrap().values().map(generation).collect()
}

async fn rotate(world: &World, path: &str) -> Value {
    let chain = world.admin().get("/chain").await.json();
    let newest = chain.as_array().unwrap().last().unwrap()["payload"]["id"].as_str().unwrap().to_owned();
    let member = if path == "/taint" { "generationId" } else { "from" };
    let answer = world.admin().post(path, format!("{{\"{member}\":\"{newest}\"}}")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

#[tokio::test]
async fn a_rotation_disturbs_nobody() {
    let world = World::start().await;
    let auth = world.auth();
    let mut device = Device::create(&auth).await;
    device.open_session(&auth).await;
    for _ in 0..5 {
        rotate(&world, "/rotate").await;
        for name in ["python", "ruby", "rust", "typescript"] {
            world.app(name).post("/foo/bar", device.session().access(REQUEST)).await.response();
        }
        device.try_refresh(&auth).await.response();
    }
    let newest = world.endorse().get("/chain").await.json();
    until("the chain to be published", HEALED, async || {
        (world.keys().get("/hsm/keys").await.json() == newest).then_some(())
    })
    .await;
    assert_eq!(newest.as_array().unwrap().len(), 6);
}

/// Every service has new keys within seconds; nobody restarts anything, nobody is logged out of an
/// account.
#[tokio::test]
async fn a_taint_re_keys_every_service() {
    let world = World::start().await;
    let auth = world.auth();
    let mut device = Device::create(&auth).await;
    device.open_session(&auth).await;
    let before = world.keys().get("/keys").await.json();
    let old: BTreeSet<_> = before.as_object().unwrap().keys().cloned().collect();
    let tainted = rotate(&world, "/taint").await;
    let new_generation = tainted["newGenerationId"].as_str().unwrap().to_owned();

    until("every service to have a key of the new generation", HEALED, async || {
        let all = world.keys().get("/keys").await.json();
        let live =
            all.as_object()?.values().filter(|one| one["body"]["hsm"]["generationId"] == new_generation);
        (live.count() >= old.len()).then_some(())
    })
    .await;

    // Tokens of the tainted generation end with it; the account and its device do not.
    until("a new session to be let in everywhere", HEALED, async || {
        if device.try_session(&auth).await.status != 200 {
            return None;
        }
        for name in ["python", "ruby", "rust", "typescript"] {
            let answer = world.app(name).post("/foo/bar", device.session().access(REQUEST)).await;
            if answer.status != 200 {
                return None;
            }
        }
        Some(())
    })
    .await;
    assert!(generations(&world).await.contains(&new_generation));
}

/// Both commands name the generation that they mean: said twice, they act once.
#[tokio::test]
async fn a_repeated_rotation_or_taint_acts_once() {
    let world = World::start().await;
    let chain = async || world.endorse().get("/chain").await.json().as_array().unwrap().clone();
    let head = chain().await.last().unwrap()["payload"]["id"].as_str().unwrap().to_owned();

    let rotation = format!(r#"{{"from":"{head}"}}"#);
    let first = world.admin().post("/rotate", rotation.clone()).await.json();
    assert_eq!(world.admin().post("/rotate", rotation).await.json(), first);
    assert_eq!(chain().await.len(), 2);

    let head = chain().await.last().unwrap()["payload"]["id"].as_str().unwrap().to_owned();
    let taint = format!(r#"{{"generationId":"{head}","reason":"drill"}}"#);
    let first = world.admin().post("/taint", taint.clone()).await.json();
    assert_eq!(first["taintedGenerationId"], head.as_str());
    assert_eq!(world.admin().post("/taint", taint).await.json(), first);
    assert_eq!(chain().await.len(), 3);
}
