//! The key directory as devices and public peers read it, and what heals it.

use std::time::Duration;

use serde_json::{Value, json};
use tests::craft::Device;
use tests::{World, until};

const HEALED: Duration = Duration::from_secs(5);

#[tokio::test]
async fn the_public_directory_serves_what_the_protocol_says() {
    let world = World::shared().await;
    let keys = world.keys();
    assert_eq!(keys.get("/health").await.status, 200);
    assert_eq!(keys.get("/").await.status, 200);

    let all = keys.get("/keys").await.json();
    let all = all.as_object().unwrap();
    assert!(all.len() >= 5, "authd and four edges publish a key each: {all:?}");
    for (key, endorsement) in all {
        assert_eq!(endorsement["body"]["payload"]["publicKey"], json!(key));
        let one = keys.get(&format!("/keys/{key}")).await;
        assert_eq!(one.json(), *endorsement);
    }

    let published = keys.get("/hsm/keys").await;
    let chain = world.endorse().get("/chain").await;
    assert_eq!(published.json(), chain.json());
    let first = &published.json()[0]["payload"];
    assert_eq!(first["prefix"], json!(world.endpoints().identity));
    assert_eq!(first["purpose"], "key-authorization");
}

async fn contents(world: &World, number: u8) -> Vec<(String, String)> {
    let mut database = world.directory(number).await;
    let mut names: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut database).await.unwrap();
    names.sort();
    let mut all = Vec::new();
    for name in names {
        let value: Option<String> = redis::cmd("GET").arg(&name).query_async(&mut database).await.unwrap();
        all.extend(value.map(|value| (name, value)));
    }
    all
}

/// Everything that is lost with the directory is put back, byte for byte, without anybody doing
/// anything.
#[tokio::test]
async fn an_emptied_directory_heals_within_seconds() {
    let world = World::start().await;
    let auth = world.auth();
    let mut device = Device::create(&auth).await;
    device.open_session(&auth).await;
    let mut before = Vec::new();
    for number in [0, 1, 4] {
        before.push(contents(&world, number).await);
    }
    assert!(before.iter().all(|database| !database.is_empty()), "{before:?}");

    let mut connection = world.directory(0).await;
    let () = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
    until("the directory to be as it was", HEALED, async || {
        let mut now = Vec::new();
        for number in [0, 1, 4] {
            now.push(contents(&world, number).await);
        }
        (now == before).then_some(())
    })
    .await;
    device.try_refresh(&auth).await.response();
    let access = device.session().access(r#"{"foo":"a","bar":"b"}"#);
    world.app("python").post("/foo/bar", access).await.response();
}

/// Public peers parse all that they find in databases 0, 1 and 4.
#[tokio::test]
async fn nothing_else_stands_in_the_databases_that_peers_read() {
    let world = World::shared().await;
    for (number, lead) in [(0, "1AAI"), (1, "1AAI"), (4, "E")] {
        for (name, value) in contents(&world, number).await {
            assert!(name.starts_with(lead), "database {number}: {name}");
            let value: Value = serde_json::from_str(&value).unwrap();
            let named =
                if number == 4 { &value["payload"]["id"] } else { &value["body"]["payload"]["publicKey"] };
            assert_eq!(*named, json!(name));
        }
    }
}
