//! What an operator declares about keys and generations, at every verifier: from the command to the refusal.

use std::time::Duration;

use keychain::Code;
use serde_json::Value;
use tests::craft::{Device, payload};
use tests::process::{command, run};
use tests::world::binary;
use tests::{World, until};

const REQUEST: &str = r#"{"foo":"a","bar":"b"}"#;

/// From the command to the refusal, and to a new key. Both take well under a second on a machine that has nothing
/// else to do.
const SOON: Duration = Duration::from_secs(10);

const APPS: [&str; 4] = ["python", "ruby", "rust", "typescript"];

fn opsctl(world: &World, arguments: &[&str]) {
    let mut program = command(binary("opsctl"));
    program.args(arguments).arg("--endpoints").arg(world.endpoints_file());
    run(program);
}

fn declare(world: &World, arguments: &[&str]) {
    opsctl(world, &[arguments, &["--reason", "drill", "--yes"]].concat());
}

/// The keys that issue tokens, by the endorsements in the directory.
async fn issuers(world: &World) -> Vec<String> {
    let mut access = world.directory(0).await;
    redis::cmd("KEYS").arg("1AAI*").query_async(&mut access).await.unwrap()
}

/// Waits until every edge refuses this device's token with that code.
async fn refused_everywhere(world: &World, device: &Device, code: Code) {
    for app in APPS {
        until("the edge to refuse the token", SOON, async || {
            let answer = world.app(app).post("/foo/bar", device.session().access(REQUEST)).await;
            (answer.status != 200 && answer.status != 503).then(|| answer.refused(code))
        })
        .await;
    }
}

/// Waits until a new session of this device is admitted everywhere.
async fn new_session_everywhere(world: &World, device: &mut Device) {
    let ask = format!(r#"{{"authentication":{{"identity":"{}"}}}}"#, device.identity);
    until("a new session to be admitted everywhere", SOON, async || {
        let asked =
            world.auth().post("/session/request", format!(r#"{{"payload":{}}}"#, payload(&ask))).await;
        if asked.status != 200 || device.try_session(&world.auth()).await.status != 200 {
            return None;
        }
        for app in APPS {
            let answer = world.app(app).post("/foo/bar", device.session().access(REQUEST)).await;
            if answer.status != 200 {
                return None;
            }
        }
        Some(())
    })
    .await;
}

async fn device_with_session(world: &World) -> Device {
    let mut device = Device::create(&world.auth()).await;
    device.open_session(&world.auth()).await;
    device.try_refresh(&world.auth()).await.response();
    for app in APPS {
        world.app(app).post("/foo/bar", device.session().access(REQUEST)).await.response();
    }
    device
}

/// A revoked access key: its tokens are refused at every edge and at refresh, authd goes on with a new key, and the
/// entry that was taken out of the directory stays out of it.
#[tokio::test]
async fn tokens_of_a_revoked_access_key_are_refused() {
    let world = World::start().await;
    let mut device = device_with_session(&world).await;
    let old = issuers(&world).await;
    let [key] = old.as_slice() else { panic!("one access key: {old:?}") };
    declare(&world, &["revoke-key", key]);
    refused_everywhere(&world, &device, Code::Revoked).await;
    until("authd to have a new key", SOON, async || (!issuers(&world).await.is_empty()).then_some(())).await;
    device.try_refresh(&world.auth()).await.refused(Code::Revoked);
    new_session_everywhere(&world, &mut device).await;
    assert!(!issuers(&world).await.contains(key));
}

/// A generation that was left long before a taint could reach it, denied.
#[tokio::test]
async fn tokens_of_a_denied_generation_are_refused() {
    let world = World::start().await;
    let mut device = device_with_session(&world).await;
    let chain = world.endorse().get("/chain").await.json();
    let old = chain[0]["payload"]["id"].as_str().unwrap().to_owned();
    opsctl(&world, &["rotate"]);
    for app in APPS {
        world.app(app).post("/foo/bar", device.session().access(REQUEST)).await.response();
    }
    opsctl(&world, &["rotate"]);
    declare(&world, &["taint", "--generation", &old]);
    refused_everywhere(&world, &device, Code::DeadKey).await;
    until("authd to refuse to refresh", SOON, async || {
        let answer = device.try_refresh(&world.auth()).await;
        (answer.status != 503).then(|| answer.refused(Code::DeadKey))
    })
    .await;
    new_session_everywhere(&world, &mut device).await;
}

/// Edges and authd hear hsmd itself over the road by which it endorses them: a directory that hangs delays no denial.
#[tokio::test]
async fn a_directory_that_hangs_delays_no_denial() {
    let world = World::start().await;
    let device = device_with_session(&world).await;
    let keys = issuers(&world).await;
    let [key] = keys.as_slice() else { panic!("one access key: {keys:?}") };
    let mut redis = world.directory(0).await;
    let () = redis::cmd("CLIENT").arg(&["PAUSE", "60000", "ALL"]).query_async(&mut redis).await.unwrap();
    // No acknowledgement comes through a directory that hangs.
    declare(&world, &["revoke-key", key, "--no-wait"]);
    refused_everywhere(&world, &device, Code::Revoked).await;
    let chain = world.endorse().get("/chain").await.json();
    let newest = chain[0]["payload"]["id"].as_str().unwrap();
    declare(&world, &["taint", "--generation", newest, "--no-wait"]);
    for app in APPS {
        until("the edge to refuse tokens of the denied generation", SOON, async || {
            let answer = world.app(app).post("/foo/bar", device.session().access(REQUEST)).await;
            answer.body.contains(Code::DeadKey.as_str()).then_some(())
        })
        .await;
    }
}

/// A service that an intruder holds: its keys leave keysd and it can sign no answer, until it is opened again.
#[tokio::test]
async fn a_revoked_service_is_refused_until_it_is_opened_again() {
    let world = World::start().await;
    let mut device = device_with_session(&world).await;
    let of_python = async || {
        let all = world.keys().get("/keys").await.json();
        let is_python = |one: &&Value| one["body"]["payload"]["service"] == "edge:python";
        all.as_object().unwrap().values().filter(is_python).count()
    };
    assert_eq!(of_python().await, 1);
    declare(&world, &["revoke-service", "edge:python"]);
    until("keysd to stop serving its key", SOON, async || (of_python().await == 0).then_some(())).await;
    until("the edge to sign no answer", SOON, async || {
        let answer = world.app("python").post("/foo/bar", device.session().access(REQUEST)).await;
        (answer.status == 503).then_some(())
    })
    .await;
    world.app("ruby").post("/foo/bar", device.session().access(REQUEST)).await.response();
    declare(&world, &["open-service", "edge:python"]);
    until("keysd to serve a new key", SOON, async || (of_python().await == 1).then_some(())).await;
    new_session_everywhere(&world, &mut device).await;

    declare(&world, &["revoke-service", "authd"]);
    refused_everywhere(&world, &device, Code::Revoked).await;
    declare(&world, &["open-service", "authd"]);
    new_session_everywhere(&world, &mut device).await;
}
