//! What operators order through the admin socket, and what is left of it.

use std::os::unix::fs::PermissionsExt as _;

use keychain::audit::{Kind, Trail};
use keychain::{Code, Digest};
use sea_orm::ConnectionTrait;
use tests::craft::{Device, Keys, message};

use crate::stage::{Stage, gated};

crate::on_both!(
    a_ban_with_an_end_is_refused_and_denied_until_then,
    an_account_is_deleted_and_restored_with_its_devices_as_they_were,
    devices_are_revoked_one_by_one_or_all_but_one,
    roles_are_granted_to_tokens_made_from_then_on,
    every_order_has_its_lines_and_every_record_its_signature,
    an_order_whose_lines_cannot_be_written_changes_nothing,
    everything_that_names_an_identity_is_exported_and_nothing_else,
);

async fn left(stage: &Stage, who: &Digest) -> i64 {
    let redis::Value::Int(left) = stage.redis(3, &["TTL", &who.to_string()]).await else { panic!("no TTL") };
    left
}

async fn show(stage: &Stage, identity: &Digest) -> serde_json::Value {
    let answer = stage.admin().get(&format!("/account?identity={identity}")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

async fn refused(stage: &Stage, path: &str, body: &str, code: Code) {
    let answer = stage.admin().post(path, body.to_owned()).await;
    assert!(answer.body.contains(code.as_str()), "{path} {body}: {} {}", answer.status, answer.body);
}

/// Every row that the admin socket exports of an identity, page by page.
async fn exported(stage: &Stage, identity: &Digest) -> Vec<serde_json::Value> {
    let (mut rows, mut after) = (Vec::new(), String::new());
    loop {
        let page = stage.admin().get(&format!("/account/export?identity={identity}{after}")).await;
        assert_eq!(page.status, 200, "{}", page.body);
        let page = page.json();
        rows.extend(page["rows"].as_array().unwrap().iter().cloned());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return rows,
        }
    }
}

async fn everything_that_names_an_identity_is_exported_and_nothing_else(stage: Stage) {
    let (mut device, other) = stage.couple().await;
    let (stranger, _) = stage.couple().await;
    device.open_session(&stage.auth).await;
    assert_eq!(device.try_refresh(&stage.auth).await.status, 200);
    // More than a page of one table.
    for _ in 0..103 {
        assert_eq!(device.rotate(&stage.auth).await.status, 200);
    }
    assert!(stage.order("/roles/grant", &device.identity, r#","role":"moderator""#).await);
    assert!(stage.set_banned(&device.identity, true).await);
    let rows = exported(&stage, &device.identity).await;
    let count = |table: &str| rows.iter().filter(|row| row["table"] == table).count();
    let tables = ["account_records", "device_records", "ban_records", "role_records", "refreshes", "outbox"];
    // The link was made behind a rotation; three subjects are denied.
    assert_eq!(tables.map(count), [1, 106, 1, 1, 1, 3]);
    let ids: std::collections::BTreeSet<_> = rows.iter().map(ToString::to_string).collect();
    assert_eq!(ids.len(), rows.len(), "a row was told twice");
    let text = rows.iter().map(ToString::to_string).collect::<String>();
    assert!(text.contains(&other.device.to_string()) && text.contains("a test"));
    for foreign in [stranger.identity, stranger.device] {
        assert!(!text.contains(&foreign.to_string()), "a row of another account was told");
    }
    assert!(exported(&stage, &Digest::of("nobody")).await.is_empty());
    for bad in ["", "?identity=x", "?identity=E", "?after=accounts."] {
        stage.admin().get(&format!("/account/export{bad}")).await.refused(Code::InvalidMessage);
    }
}

async fn a_ban_with_an_end_is_refused_and_denied_until_then(stage: Stage) {
    let (mut device, other) = stage.couple().await;
    device.open_session(&stage.auth).await;
    assert!(stage.order("/ban", &device.identity, r#","for":604800"#).await);
    for subject in [device.identity, device.device, other.device] {
        assert!((604_700..=604_800).contains(&left(&stage, &subject).await), "a week in DB 3");
    }
    let keys = device.session().keys.ahead();
    let refresh = message(&device.session().refresh_request(&keys), &keys.current);
    stage.refuses("/session/refresh", refresh, Code::Revoked).await;
    let ban = &show(&stage, &device.identity).await["ban"];
    assert_eq!((&ban["reason"], &ban["signed"]), (&"a test".into(), &true.into()), "{ban}");
    // A nearer end shortens it in the directory too.
    assert!(stage.order("/ban", &device.identity, r#","for":60"#).await);
    assert!((1..=60).contains(&left(&stage, &device.device).await));
    assert!(stage.set_banned(&device.identity, false).await);
    assert_eq!(left(&stage, &device.device).await, -2);
    assert_eq!(device.rotate(&stage.auth).await.status, 200);
    for bad in ["59", "315360001", "1.5", "\"60\""] {
        let body = format!(r#"{{"identity":"{}","reason":"x","for":{bad}}}"#, device.identity);
        refused(&stage, "/ban", &body, Code::InvalidMessage).await;
    }
}

async fn an_account_is_deleted_and_restored_with_its_devices_as_they_were(stage: Stage) {
    let (mut device, other) = stage.couple().await;
    assert!(stage.order("/account/delete", &device.identity, "").await);
    assert!(!stage.order("/account/delete", &device.identity, "").await);
    assert!(left(&stage, &other.device).await > 900);
    let (rotate, _, _) = gated(&device, Device::rotate_request);
    stage.refuses("/device/rotate", rotate, Code::UnknownDevice).await;
    assert_eq!(show(&stage, &device.identity).await["account"]["state"], "deleted");
    assert!(stage.order("/account/restore", &device.identity, "").await);
    assert_eq!(left(&stage, &other.device).await, -2);
    assert_eq!(device.rotate(&stage.auth).await.status, 200);
    // What a device deleted is restored as well, and the captured deletion deletes nothing again.
    let (delete, _, _) = gated(&device, Device::rotate_request);
    stage.auth.post("/account/delete", delete.clone()).await.response();
    assert!(stage.order("/account/restore", &device.identity, "").await);
    stage.repeats("/account/delete", delete).await;
    assert_eq!(show(&stage, &device.identity).await["account"]["state"], "active");
    let nobody = format!(r#"{{"identity":"{}","reason":"x"}}"#, Digest::of("nobody"));
    for path in ["/account/delete", "/account/restore", "/devices/revoke"] {
        refused(&stage, path, &nobody, Code::Conflict).await;
    }
}

async fn devices_are_revoked_one_by_one_or_all_but_one(stage: Stage) {
    let (mut device, other) = stage.couple().await;
    let third = device.link(&stage.auth).await;
    let identity = device.identity;
    assert!(stage.order("/devices/revoke", &identity, &format!(r#","device":"{}""#, other.device)).await);
    assert!(!stage.order("/devices/revoke", &identity, &format!(r#","device":"{}""#, other.device)).await);
    assert!(left(&stage, &other.device).await > 900);
    // A device that is none, or revoked, cannot be the one that is kept.
    for kept in [Digest::of("typo"), other.device] {
        let body = format!(r#"{{"identity":"{identity}","reason":"x","allBut":"{kept}"}}"#);
        refused(&stage, "/devices/revoke", &body, Code::Conflict).await;
    }
    assert!(stage.order("/devices/revoke", &identity, &format!(r#","allBut":"{}""#, device.device)).await);
    assert!(left(&stage, &third.device).await > 900);
    assert_eq!(left(&stage, &device.device).await, -2);
    assert_eq!(device.rotate(&stage.auth).await.status, 200);
    let (rotate, _, _) = gated(&third, Device::rotate_request);
    stage.refuses("/device/rotate", rotate, Code::UnknownDevice).await;
    // One that is revoked while the identity is banned is not denied for ever by that ban.
    assert!(stage.set_banned(&identity, true).await);
    assert!(stage.order("/devices/revoke", &identity, "").await);
    assert!(stage.set_banned(&identity, false).await);
    assert!((900..=960).contains(&left(&stage, &device.device).await));
}

async fn roles_are_granted_to_tokens_made_from_then_on(stage: Stage) {
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    let permits = |device: &Device| {
        let token = keychain::token::Token::parse(&device.session().token).unwrap();
        token.claims().attributes.allows("moderator", "hide")
    };
    assert!(!permits(&device));
    assert!(stage.order("/roles/grant", &device.identity, r#","role":"moderator""#).await);
    assert!(!stage.order("/roles/grant", &device.identity, r#","role":"moderator""#).await);
    device.try_refresh(&stage.auth).await.response();
    assert!(permits(&device));
    assert_eq!(show(&stage, &device.identity).await["roles"], serde_json::json!(["moderator"]));
    assert!(stage.order("/roles/revoke", &device.identity, r#","role":"moderator""#).await);
    device.try_refresh(&stage.auth).await.response();
    assert!(!permits(&device));
    let body = format!(r#"{{"identity":"{}","reason":"x","role":"king"}}"#, device.identity);
    refused(&stage, "/roles/grant", &body, Code::InvalidMessage).await;
}

async fn every_order_has_its_lines_and_every_record_its_signature(stage: Stage) {
    let device = Device::create(&stage.auth).await;
    assert!(stage.set_banned(&device.identity, true).await);
    assert!(!stage.set_banned(&device.identity, true).await);
    let body = format!(r#"{{"identity":"{}","reason":"say \"why\""}}"#, Digest::of("nobody"));
    refused(&stage, "/account/delete", &body, Code::Conflict).await;
    let (_another, _) = stage.another("another").await;
    let other = tests::http::Http::to_socket(&stage.folder.path().join("another.sock"));
    let body = format!(r#"{{"identity":"{}","reason":"by the other"}}"#, device.identity);
    assert_eq!(other.post("/unban", body).await.status, 200);

    let page = stage.admin().get("/audit?from=0").await;
    let page: serde_json::Value = serde_json::from_str(&page.body).unwrap();
    let lines: Vec<String> = page["lines"].as_array().unwrap().iter().map(ToString::to_string).collect();
    // The lines verbatim: serde_json sorts members, so they come from the store.
    let dump = stage.dump().await;
    let verbatim: Vec<_> = dump.lines().filter(|line| line.starts_with("audit_lines")).collect();
    assert_eq!((lines.len(), verbatim.len()), (9, 9), "{dump}");
    let mut text: Vec<_> = verbatim
        .iter()
        .map(|line| {
            let line = line.split_once(": ").unwrap().1.splitn(3, '|');
            let parts: Vec<_> = line.collect();
            (parts[0].parse::<u64>().unwrap(), parts[2])
        })
        .collect();
    text.sort_unstable();
    let text: String = text.iter().flat_map(|(_, line)| [line, "\n"]).collect();
    let mut kinds = Vec::new();
    let mut outcomes = Vec::new();
    let walked = Trail::new().walk(&text, |entry| {
        kinds.push(entry.kind);
        outcomes.extend(entry.raw("outcome").map(ToOwned::to_owned));
    });
    assert!(walked.because.is_none() && walked.lines == 9, "{walked:?}");
    assert_eq!(kinds[..3], [Kind::Trail, Kind::Intent, Kind::Outcome]);
    let conflict = format!("\"{}\"", Code::Conflict.as_str());
    assert_eq!(outcomes, ["\"ok\"", "\"ok\"", conflict.as_str(), "\"ok\""]);
    assert!(text.contains(r#""reason":"say \"why\"""#) && text.contains(r#""caller":"uid "#), "{text}");
}

async fn an_order_whose_lines_cannot_be_written_changes_nothing(stage: Stage) {
    let device = Device::create(&stage.auth).await;
    let before = stage.dump().await;
    stage.sql.execute_unprepared("ALTER TABLE audit_lines RENAME TO away").await.unwrap();
    let body = format!(r#"{{"identity":"{}","reason":"x"}}"#, device.identity);
    assert_eq!(stage.admin().post("/ban", body).await.status, 503);
    stage.sql.execute_unprepared("ALTER TABLE away RENAME TO audit_lines").await.unwrap();
    assert_eq!(stage.dump().await, before);
    let challenge = device.challenge(&stage.auth).await;
    let keys = Keys::draw();
    let create = message(&device.session_request(&keys, &challenge), &device.keys.current);
    assert_eq!(stage.auth.post("/session/create", create).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_no_row_of_the_policy_lets_in_is_refused_unread() {
    let folder = tempfile::tempdir().unwrap();
    let user = rustix::process::getuid().as_raw();
    let policy = format!(
        "[[allow]]\nuser = {}\noperations = [\"ban\"]\n[[allow]]\nuser = {user}\noperations = [\"audit\"]\n",
        user + 1
    );
    std::fs::write(folder.path().join("policy.toml"), policy).unwrap();
    let path = folder.path().join("policy.toml");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let stage = Stage::with_policy(folder).await;
    let identity = Digest::of("identity");
    let body = format!(r#"{{"identity":"{identity}","reason":"x"}}"#);
    for path in ["/ban", "/unban", "/account/delete", "/account/restore", "/devices/revoke"] {
        assert_eq!(stage.admin().post(path, body.clone()).await.status, 403, "{path}");
    }
    assert_eq!(stage.admin().get(&format!("/account?identity={identity}")).await.status, 403);
    assert_eq!(stage.admin().get("/audit").await.status, 200);
    assert_eq!(stage.admin().get("/ban").await.status, 405);
    assert_eq!(stage.admin().post("/device/rotate", body).await.status, 404);
}
