//! New keys on order: without a restart, without a dropped request, and with the old ones refused where that is asked for.

use std::collections::BTreeSet;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keychain::Code;
use rustix::process::Signal;
use serde_json::Value;
use tests::craft::Device;
use tests::process::{command, send};
use tests::world::binary;
use tests::{World, until};

const REQUEST: &str = r#"{"foo":"a","bar":"b"}"#;
const SOON: Duration = Duration::from_secs(20);

fn opsctl(world: &World, arguments: &[&str]) -> Output {
    let mut program = command(binary("opsctl"));
    program.args(arguments).args(["--wait", "30s"]).arg("--endpoints").arg(world.endpoints_file());
    program.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The response keys that devices find of this service.
async fn keys(world: &World, service: &str) -> BTreeSet<String> {
    let all = world.keys().get("/keys").await.json();
    let is_its = |one: &Value| one["body"]["payload"]["service"] == service;
    all.as_object().unwrap().iter().filter(|(_, one)| is_its(one)).map(|(key, _)| key.clone()).collect()
}

/// All are rolled while an app is asked without a pause: each request is answered, and answers of before stay good.
#[tokio::test(flavor = "multi_thread")]
async fn a_roll_drops_no_request() {
    let world = Arc::new(World::start().await);
    let mut device = Device::create(&world.auth()).await;
    device.open_session(&world.auth()).await;
    let before = keys(&world, "edge:ruby").await;
    let done = Arc::new(AtomicBool::new(false));
    let asked = {
        let (world, done) = (Arc::clone(&world), Arc::clone(&done));
        tokio::spawn(async move {
            let mut answers = 0_u32;
            while !done.load(Ordering::Relaxed) {
                world.app("ruby").post("/foo/bar", device.session().access(REQUEST)).await.response();
                answers += 1;
            }
            answers
        })
    };
    let of_one = {
        let world = Arc::clone(&world);
        tokio::task::spawn_blocking(move || opsctl(&world, &["roll", "edge:ruby"])).await.unwrap()
    };
    let of_all = {
        let world = Arc::clone(&world);
        tokio::task::spawn_blocking(move || opsctl(&world, &["roll"])).await.unwrap()
    };
    done.store(true, Ordering::Relaxed);
    assert!(asked.await.unwrap() > 0);
    for output in [&of_one, &of_all] {
        assert_eq!(output.status.code(), Some(0), "{}", said(output));
    }
    assert_eq!(of_one.stdout, b"edge:ruby\n");
    let rolled: BTreeSet<_> = of_all.stdout.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    for service in ["authd", "edge:python", "edge:ruby", "edge:rust", "edge:typescript", "keysd:dev"] {
        assert!(rolled.contains(service.as_bytes()), "{service}");
    }
    let after = keys(&world, "edge:ruby").await;
    assert!(after.is_superset(&before) && after.len() == before.len() + 2, "{before:?} {after:?}");
}

/// A service whose socket is not at hand, as on another host, reads the order in hsmd's head; nothing of before is refused.
#[tokio::test]
async fn a_service_of_another_host_is_rolled_by_the_head() {
    let world = World::start().await;
    let mut device = Device::create(&world.auth()).await;
    device.open_session(&world.auth()).await;
    let before = [keys(&world, "edge:ruby").await, keys(&world, "authd").await];
    let text = std::fs::read_to_string(world.endpoints_file()).unwrap();
    let mut endpoints: Value = serde_json::from_str(&text).unwrap();
    endpoints["rolls"] = Value::Object(serde_json::Map::new());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("endpoints.json");
    std::fs::write(&file, endpoints.to_string()).unwrap();
    let mut program = command(binary("opsctl"));
    program.args(["roll", "authd", "edge:ruby", "--wait", "30s", "--endpoints"]).arg(&file);
    let rolled = program.output().unwrap();
    assert_eq!(rolled.status.code(), Some(0), "{}", said(&rolled));
    assert_eq!(rolled.stdout, b"authd\nedge:ruby\n");
    let after = [keys(&world, "edge:ruby").await, keys(&world, "authd").await];
    for (before, after) in before.iter().zip(&after) {
        assert!(after.is_superset(before) && after.len() == before.len() + 1, "{before:?} {after:?}");
    }
    world.app("ruby").post("/foo/bar", device.session().access(REQUEST)).await.response();
}

/// With the keys of before refused: tokens end, and a new session is admitted.
#[tokio::test]
async fn a_roll_that_revokes_has_the_old_keys_refused() {
    let world = World::start().await;
    let mut device = Device::create(&world.auth()).await;
    device.open_session(&world.auth()).await;
    let rolled = opsctl(&world, &["roll", "authd", "--revoke", "--reason", "drill", "--yes"]);
    assert_eq!(rolled.status.code(), Some(0), "{}", said(&rolled));
    // Acknowledged: refused by now, wherever it is shown.
    for app in ["python", "ruby", "rust", "typescript"] {
        world.app(app).post("/foo/bar", device.session().access(REQUEST)).await.refused(Code::Revoked);
    }
    // authd may never have heard of the key: the publisher took its endorsement out of the directory.
    assert!([401, 403].contains(&device.try_refresh(&world.auth()).await.status));
    device.open_session(&world.auth()).await;
    world.app("ruby").post("/foo/bar", device.session().access(REQUEST)).await.response();
}

/// `systemctl reload` sends SIGHUP.
#[tokio::test]
async fn a_hangup_rolls() {
    let world = World::start().await;
    let before = keys(&world, "edge:ruby").await;
    let file = world.endpoints_file().with_file_name("dev/run/edge-ruby.pid");
    send(std::fs::read_to_string(file).unwrap().parse().unwrap(), Signal::HUP);
    until("a new key", SOON, async || (keys(&world, "edge:ruby").await.len() > before.len()).then_some(()))
        .await;
}

/// A service that is not known is no order at all, and one that no order reaches is named.
#[tokio::test]
async fn who_cannot_be_reached_is_named() {
    let world = World::start().await;
    let unknown = opsctl(&world, &["roll", "edge:nobody"]);
    assert_eq!(unknown.status.code(), Some(64), "{}", said(&unknown));
    let unreached = opsctl(&world, &["roll", "edge:ruby", "--socket", "edge:ruby=/nonexistent.sock"]);
    assert_eq!(unreached.status.code(), Some(2), "{}", said(&unreached));
    assert!(said(&unreached).contains("no order reached edge:ruby"), "{}", said(&unreached));
}
