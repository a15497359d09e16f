//! What operators order with `opsctl`, on the whole system: refused at authd at once, and at edges once the directory
//! was told.

use std::process::{Command, Output};
use std::time::Duration;

use keychain::Digest;
use keychain::error::Code;
use tests::craft::Device;
use tests::http::Http;
use tests::world::binary;
use tests::{World, until};

const REQUEST: &str = r#"{"foo":"a","bar":"b"}"#;

/// From the end of a command to the edge's answer. It takes milliseconds.
const FOLLOWED: Duration = Duration::from_secs(20);

fn opsctl(world: &World, words: &[&str]) -> Output {
    let mut command = Command::new(binary("opsctl"));
    command.args(words).arg("--endpoints").arg(world.endpoints_file()).output().unwrap()
}

/// Runs a command that must succeed; answers its standard output. What it says never claims what no edge said.
#[track_caller]
fn done(world: &World, words: &[&str]) -> String {
    let output = opsctl(world, words);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{words:?}: {said}");
    for claim in ["banned", "revoked:", "denied:", "everywhere"] {
        assert!(!said.contains(claim), "{words:?} claims `{claim}`: {said}");
    }
    String::from_utf8(output.stdout).unwrap()
}

async fn admitted(app: &Http, device: &Device) -> u16 {
    app.post("/foo/bar", device.session().access(REQUEST)).await.status
}

async fn followed(app: &Http, device: &Device, status: u16) {
    until("the edge to follow", FOLLOWED, async || (admitted(app, device).await == status).then_some(()))
        .await;
}

#[tokio::test]
async fn a_ban_is_refused_at_authd_and_edges_and_its_end_lets_in_again() {
    let world = World::shared().await;
    let (auth, app) = (world.auth(), world.app("rust"));
    let mut device = Device::create(&auth).await;
    device.open_session(&auth).await;
    assert_eq!(admitted(&app, &device).await, 200);
    let identity = device.identity.to_string();

    for words in [["ban", "--for", "7d"].as_slice(), &["ban", "--for", "7d", "--dry-run"], &["ban"], &["ban"]]
    {
        let more = [words, &[&identity, "--reason", "spam, \"again\""]].concat();
        done(&world, &more);
        if words.contains(&"--dry-run") {
            continue;
        }
        device.try_refresh(&auth).await.refused(Code::Revoked);
        device.try_session(&auth).await.refused(Code::Revoked);
        followed(&app, &device, 403).await;
    }
    let shown = done(&world, &["account", "show", &identity]);
    for part in [
        "account     active",
        "until an operator lifts it",
        "by uid ",
        r#"ban: "spam, \"again\"""#,
        &device.device.to_string(),
    ] {
        assert!(shown.contains(part), "`{part}` is not in: {shown}");
    }

    assert_eq!(done(&world, &["unban", &identity, "--reason", "appeal"]), format!("{identity}\n"));
    followed(&app, &device, 200).await;
    device.try_refresh(&auth).await.response();
}

#[tokio::test]
async fn accounts_and_devices_are_managed_from_the_command_line() {
    let world = World::shared().await;
    let (auth, app) = (world.auth(), world.app("rust"));
    let mut phone = Device::create(&auth).await;
    let mut laptop = phone.link(&auth).await;
    phone.open_session(&auth).await;
    laptop.open_session(&auth).await;
    let (identity, phone_id, laptop_id) =
        (phone.identity.to_string(), phone.device.to_string(), laptop.device.to_string());

    let listed = done(&world, &["device", "list", &identity]);
    assert_eq!(listed.lines().count(), 2, "{listed}");
    let revoke = ["device", "revoke", &identity, "--all-but", &phone_id, "--reason", "stolen bag", "--yes"];
    done(&world, &revoke);
    followed(&app, &laptop, 403).await;
    laptop.try_refresh(&auth).await.refused(Code::UnknownDevice);
    assert_eq!(admitted(&app, &phone).await, 200);
    let listed = done(&world, &["device", "list", &identity]);
    let line = listed.lines().find(|line| line.starts_with(&laptop_id)).unwrap();
    assert!(line.contains("revoked") && line.contains("device-revoke: \"stolen bag\""), "{line}");

    done(&world, &["account", "delete", &identity, "--reason", "by letter", "--yes"]);
    phone.try_refresh(&auth).await.refused(Code::UnknownDevice);
    followed(&app, &phone, 403).await;
    done(&world, &["account", "restore", &identity, "--reason", "by mistake"]);
    followed(&app, &phone, 200).await;
    phone.try_refresh(&auth).await.response();

    done(&world, &["role", "grant", &identity, "moderator", "--reason", "joined"]);
    assert_eq!(done(&world, &["role", "list", &identity]), "moderator\n");
    done(&world, &["role", "revoke", &identity, "moderator", "--reason", "left"]);
    assert_eq!(done(&world, &["role", "list", &identity]), "");
}

#[tokio::test]
async fn commands_that_cannot_be_carried_out_say_why_in_their_exit_code() {
    let world = World::shared().await;
    let device = Device::create(&world.auth()).await;
    let (identity, nobody) = (device.identity.to_string(), Digest::of("nobody").to_string());
    let table: [(&[&str], i32); 10] = [
        (&["ban", &identity], 64),
        (&["ban", "E1", "--reason", "x"], 64),
        (&["ban", &identity, "--reason", "x", "--for", "59s"], 64),
        (&["device", "revoke", &identity, "--reason", "x", "--yes"], 64),
        (&["account", "delete", &identity, "--reason", "x"], 64),
        (&["role", "grant", &identity, "king", "--reason", "x"], 65),
        (&["account", "show", &nobody], 1),
        (&["account", "restore", &nobody, "--reason", "x"], 1),
        (&["device", "revoke", &identity, "--all-but", &nobody, "--reason", "x", "--yes"], 1),
        (&["unban", &identity, "--reason", "x", "--authd", "/nowhere/admin.sock"], 69),
    ];
    for (words, code) in table {
        let mut command = Command::new(binary("opsctl"));
        let output = command.args(words).arg("--endpoints").arg(world.endpoints_file());
        let output = output.stdin(std::process::Stdio::null()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(!said.is_empty(), "{words:?}");
    }
}

/// The directory takes no writes: what is stored is refused at authd, and the command does not say that it was sent.
#[tokio::test]
async fn an_order_that_the_directory_was_not_told_ends_with_two() {
    let world = World::start().await;
    let auth = world.auth();
    let mut device = Device::create(&auth).await;
    device.open_session(&auth).await;
    let identity = device.identity.to_string();
    let ban = ["ban", identity.as_str(), "--reason", "x"];
    let mut redis = world.directory(0).await;
    let mut replicas = redis::cmd("CONFIG");
    replicas.arg("SET").arg("min-replicas-to-write");
    replicas.clone().arg("1").exec_async(&mut redis).await.unwrap();
    let output = opsctl(&world, &ban);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("not yet sent to the directory"), "{said}");
    // Over a connection of its own: those of before were idle for as long as authd keeps them.
    device.try_session(&world.auth()).await.refused(Code::Revoked);
    replicas.arg("0").exec_async(&mut redis).await.unwrap();
    until("the same command to end with 0", Duration::from_mins(1), async || {
        (opsctl(&world, &ban).status.code() == Some(0)).then_some(())
    })
    .await;
    followed(&world.app("rust"), &device, 403).await;
}
