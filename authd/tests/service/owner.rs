//! What the owner of an account asks of authd by access requests.

use std::time::Duration;

use authd::operation::owner::Operation;
use authd::operation::session::{Grant, Refresh, RefreshView};
use authd::store::{Refreshing, Verdict};
use keychain::access::{Response, seal_request};
use keychain::directory::Db;
use keychain::endorsement::Purpose;
use keychain::feed::Denials;
use keychain::token::{Claims, Token};
use keychain::{Code, Digest, Nonce, SigningKey, Timestamp};
use serde_json::Value;
use tests::craft::{Device, Keys, Session, key, nonce, now, same};
use tests::until;

use crate::stage::Stage;

crate::on_both!(
    the_owner_sees_every_device_and_when_it_was_seen,
    a_request_counts_once_at_every_authd,
    a_request_must_be_recent_signed_and_for_this_operation,
    only_tokens_of_authd_are_believed,
    who_is_revoked_banned_or_deleted_may_ask_nothing,
    a_tainted_issuers_token_is_refused_until_it_is_made_anew,
    names_are_given_changed_and_taken_away,
    another_accounts_device_is_as_one_that_is_not_there,
    an_ended_session_is_refused_everywhere_and_a_new_one_admitted,
    a_refresh_that_races_an_end_is_decided_on_it,
    all_others_sessions_end_at_once,
);

const LIST: &str = "/owner/devices/list";

/// What asks for a list.
fn listing(session: &Session) -> String {
    session.access(&format!(r#"{{"operation":"{LIST}"}}"#))
}

async fn devices(stage: &Stage, session: &Session) -> Vec<Value> {
    let answer = stage.auth.post(LIST, listing(session)).await.response();
    assert_eq!(answer.get("unreadable"), None);
    answer["devices"].as_array().unwrap().clone()
}

/// The session's keys with another token.
fn with_token(session: &Session, token: String) -> Session {
    let keys = Keys { current: same(&session.keys.current), next: same(&session.keys.next) };
    Session { token, keys }
}

fn claims(session: &Session) -> Claims {
    Token::parse(&session.token).unwrap().claims().clone()
}

fn time(entry: &Value, name: &str) -> Timestamp {
    Timestamp::parse(entry[name].as_str().unwrap()).unwrap()
}

async fn the_owner_sees_every_device_and_when_it_was_seen(stage: Stage) {
    let auth = &stage.auth;
    let begun = now().to_millis();
    let (mut device, mut other) = stage.couple().await;
    let mut stranger = Device::create(auth).await;
    stranger.open_session(auth).await;
    device.open_session(auth).await;
    let session = device.session();
    let nonce = nonce();
    let request = format!(r#"{{"operation":"{LIST}"}}"#);
    let body = session.access_with(&request, &nonce, &now().to_string(), &session.token);
    let answer = auth.post(LIST, body).await;
    let signed = Response::parse(answer.body.as_bytes()).unwrap();
    signed.verify(&nonce).unwrap();
    assert_eq!(signed.server_identity, stage.response_key());
    let answer = answer.response();
    let listed = answer["devices"].as_array().unwrap();
    assert_eq!(listed.len(), 2, "{answer}");
    for (entry, (name, is_current)) in listed.iter().zip([(device.device, true), (other.device, false)]) {
        assert_eq!(entry["device"], name.to_string());
        assert_eq!(entry["current"], is_current);
        let (first, last) = (time(entry, "firstSeen"), time(entry, "lastSeen"));
        assert!(begun <= first && first <= last && last <= now(), "{entry}");
        assert_eq!(entry.as_object().unwrap().len(), 4, "{entry}");
    }
    // The device that asks was seen when its token was issued; it never refreshed.
    assert_eq!(time(&listed[0], "lastSeen"), claims(device.session()).issued_at);

    other.open_session(auth).await;
    for _ in 0..2 {
        other.try_refresh(auth).await.response();
        let listed = devices(&stage, device.session()).await;
        assert_eq!(time(&listed[1], "lastSeen"), claims(other.session()).issued_at);
    }
    let gone = other.device;
    device.gated(auth, "/device/unlink", |by, keys| by.unlink_request(keys, &gone)).await.response();
    let listed = devices(&stage, device.session()).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    // It was seen when it took part in that.
    assert!(time(&listed[0], "lastSeen") > claims(device.session()).issued_at);
}

async fn a_request_counts_once_at_every_authd(stage: Stage) {
    let (_second, other_auth) = stage.another("second").await;
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    let body = listing(device.session());
    stage.auth.post(LIST, body.clone()).await.response();
    stage.refuses(LIST, body.clone(), Code::Replay).await;
    other_auth.post(LIST, body).await.refused(Code::Replay);

    // The nonce of another device is not spent by it.
    let used = nonce();
    let mut other = device.link(&stage.auth).await;
    other.open_session(&stage.auth).await;
    let request = format!(r#"{{"operation":"{LIST}"}}"#);
    for session in [device.session(), other.session()] {
        let body = session.access_with(&request, &used, &now().to_string(), &session.token);
        other_auth.post(LIST, body.clone()).await.response();
        stage.refuses(LIST, body, Code::Replay).await;
    }
    // Nor is a challenge.
    let challenge = device.challenge(&stage.auth).await;
    let named = Nonce::parse(&challenge).unwrap();
    let session = device.session();
    let body = session.access_with(&request, &named, &now().to_string(), &session.token);
    stage.auth.post(LIST, body).await.response();
    let access = Keys::draw();
    let opening = tests::craft::message(&device.session_request(&access, &challenge), &device.keys.current);
    stage.auth.post("/session/create", opening).await.response();

    // As long as it could be sent again it is remembered, whatever is removed meanwhile.
    let body = listing(device.session());
    stage.auth.post(LIST, body.clone()).await.response();
    stage.service().store.prune(now().plus(Duration::from_mins(1))).await.unwrap();
    stage.refuses(LIST, body, Code::Replay).await;
}

async fn a_request_must_be_recent_signed_and_for_this_operation(stage: Stage) {
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    let session = device.session();
    let request = format!(r#"{{"operation":"{LIST}"}}"#);
    let made = |request: &str, at: Timestamp| {
        session.access_with(request, &nonce(), &at.to_string(), &session.token)
    };
    let stale = made(&request, now().minus(Duration::from_secs(32)));
    stage.refuses(LIST, stale, Code::StaleRequest).await;
    stage.refuses(LIST, made(&request, now().plus(Duration::from_secs(10))), Code::FutureRequest).await;
    // What an app asks is nothing that is asked here; neither is anything of another shape.
    for other in [
        r#"{"foo":1}"#,
        "{}",
        "[]",
        "1",
        r#"{"operation":"/device/unlink"}"#,
        r#"{"operation":"/owner/devices/list","device":"E"}"#,
        r#"{"operation":"\/owner\/devices\/list"}"#,
    ] {
        stage.refuses(LIST, session.access(other), Code::InvalidMessage).await;
    }
    for signer in [&session.keys.next, &device.keys.current, &key()] {
        let keys = Keys { current: same(signer), next: key() };
        let forged = Session { keys, token: session.token.clone() };
        stage.refuses(LIST, listing(&forged), Code::BadSignature).await;
    }
    let elsewhere = sealed(session, Some("https://elsewhere.example/owner/devices/list"));
    stage.refuses(LIST, elsewhere, Code::AudienceMismatch).await;
    for body in ["", "{}", r#"{"payload":{}}"#] {
        stage.refuses(LIST, body, Code::InvalidMessage).await;
    }
    let service = stage.service();
    let body = listing(session);
    for (shift, code) in [(16, Code::ExpiredToken), (10, Code::StaleRequest)] {
        let at = now().plus(Duration::from_mins(shift));
        let refused = service.answer_owner(Operation::DevicesList, body.as_bytes(), at).await;
        assert_eq!(refused.unwrap_err().into_refusal().code(), code);
    }
    // None of this spent it.
    stage.auth.post(LIST, body).await.response();
}

fn sealed(session: &Session, audience: Option<&str>) -> String {
    let request = format!(r#"{{"operation":"{LIST}"}}"#);
    seal_request(&session.keys.current, &nonce(), now(), &session.token, audience, &request).unwrap()
}

async fn only_tokens_of_authd_are_believed(stage: Stage) {
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    let good = claims(device.session());
    let forged = |issuer: &SigningKey| {
        let claims = Claims { server_identity: issuer.public_key(), ..good.clone() };
        listing(&with_token(device.session(), claims.issue(issuer).unwrap()))
    };
    stage.refuses(LIST, forged(&key()), Code::UnknownKey).await;
    let entries = [
        (Db::Response, Purpose::Response, "edge:demo", Code::UnknownKey),
        // Somebody who writes to the directory put it among the access keys.
        (Db::Access, Purpose::Response, "edge:demo", Code::WrongPurpose),
        (Db::Access, Purpose::Response, "authd", Code::WrongPurpose),
        (Db::Access, Purpose::Access, "edge:demo", Code::WrongPurpose),
    ];
    for (database, purpose, service, code) in entries {
        let issuer = key();
        let text = stage.hsm.endorse_for(purpose, issuer.public_key(), service);
        let life = Duration::from_hours(1);
        stage.directory.publish(database, &issuer.public_key(), &text, life).await.unwrap();
        stage.refuses(LIST, forged(&issuer), code).await;
    }
    // Another authd's, which this one has not met.
    let other = key();
    let text = stage.hsm.endorse_for(Purpose::Access, other.public_key(), "authd");
    let life = Duration::from_hours(1);
    stage.directory.publish(Db::Access, &other.public_key(), &text, life).await.unwrap();
    stage.auth.post(LIST, forged(&other)).await.response();
    // A token that lives longer than any may.
    let long = Claims { expiry: good.issued_at.plus(Duration::from_mins(30)), ..good.clone() };
    let long = Claims { server_identity: other.public_key(), ..long };
    let long = listing(&with_token(device.session(), long.issue(&other).unwrap()));
    stage.refuses(LIST, long, Code::InvalidToken).await;
}

async fn who_is_revoked_banned_or_deleted_may_ask_nothing(stage: Stage) {
    let auth = &stage.auth;
    let (mut device, mut revoked) = stage.couple().await;
    let (mut banned, mut deleted) = (Device::create(auth).await, Device::create(auth).await);
    for device in [&mut revoked, &mut banned, &mut deleted] {
        device.open_session(auth).await;
    }
    let gone = revoked.device;
    device.gated(auth, "/device/unlink", |by, keys| by.unlink_request(keys, &gone)).await.response();
    deleted.gated(auth, "/account/delete", Device::rotate_request).await.response();
    assert!(stage.set_banned(&banned.identity, true).await);
    for device in [&revoked, &banned, &deleted] {
        stage.refuses(LIST, listing(device.session()), Code::Revoked).await;
    }
    assert!(stage.set_banned(&banned.identity, false).await);
    assert_eq!(devices(&stage, banned.session()).await.len(), 1);
    // Never registered, or registered elsewhere: only authd's own key could make such a token.
    let nobody = Device::draw();
    let claims = Claims { device: nobody.device, ..claims(banned.session()) };
    let issuer = key();
    let text = stage.hsm.endorse_for(Purpose::Access, issuer.public_key(), "authd");
    let life = Duration::from_hours(1);
    stage.directory.publish(Db::Access, &issuer.public_key(), &text, life).await.unwrap();
    for device in [nobody.device, device.device] {
        let claims = Claims { server_identity: issuer.public_key(), device, ..claims.clone() };
        let token = claims.issue(&issuer).unwrap();
        stage.refuses(LIST, listing(&with_token(banned.session(), token)), Code::Revoked).await;
    }
}

async fn a_tainted_issuers_token_is_refused_until_it_is_made_anew(stage: Stage) {
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    devices(&stage, device.session()).await;
    let before = stage.service().access.current().public_key();
    stage.hsm.rotate(true);
    stage.hsm.publish(&stage.directory).await;
    until("new keys of authd", Duration::from_secs(20), || async {
        let service = stage.service();
        let key = service.access.usable(now()).ok().filter(|key| key.public_key() != before);
        key.and_then(|_| service.response.usable(now()).ok()).map(drop)
    })
    .await;
    stage.refuses(LIST, listing(device.session()), Code::DeadKey).await;
    device.open_session(&stage.auth).await;
    assert_eq!(devices(&stage, device.session()).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_authd_stands_is_demanded_if_it_is_told() {
    let stage = Stage::prepared("audience = \"https://auth.example\"", |_| {}).await;
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    for audience in [
        None,
        Some("https://app.example/owner/devices/list"),
        Some("https://auth.example/owner/devices/name"),
        Some("https://auth.example"),
    ] {
        stage.refuses(LIST, sealed(device.session(), audience), Code::AudienceMismatch).await;
    }
    let good = sealed(device.session(), Some("https://auth.example/owner/devices/list"));
    stage.auth.post(LIST, good).await.response();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_who_asks_too_often_is_told_when_to_come_again_and_goes_on_refreshing() {
    let stage = Stage::prepared("[limits]\ndevice = \"3/min\"", |_| {}).await;
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    for _ in 0..3 {
        assert_eq!(devices(&stage, device.session()).await.len(), 1);
    }
    let body = listing(device.session());
    let refused = stage.refuses(LIST, body.clone(), Code::TooMany).await;
    let seconds: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=20).contains(&seconds), "{seconds}");
    device.try_refresh(&stage.auth).await.response();
    // The refused request spent nothing, so that it is good when its time has come.
    let at = now().plus(Duration::from_secs(seconds));
    stage.service().answer_owner(Operation::DevicesList, body.as_bytes(), at).await.unwrap();
}

const NAME: &str = "/owner/devices/name";
const END: &str = "/owner/sessions/end";
const END_OTHERS: &str = "/owner/sessions/end-others";

fn about(session: &Session, path: &str, device: &Device, more: &str) -> String {
    session.access(&format!(r#"{{"device":"{}","operation":"{path}"{more}}}"#, device.device))
}

fn end_others(session: &Session) -> String {
    session.access(&format!(r#"{{"operation":"{END_OTHERS}"}}"#))
}

async fn names_are_given_changed_and_taken_away(stage: Stage) {
    let auth = &stage.auth;
    let (mut device, other) = stage.couple().await;
    device.open_session(auth).await;
    let session = device.session();
    for (more, expected) in [
        (r#","name":"my tablet""#, Some("my tablet")),
        (r#","name":"~ an old one, No. 2 ~""#, Some("~ an old one, No. 2 ~")),
        ("", None),
        ("", None),
        (r#","name":"x""#, Some("x")),
    ] {
        let body = about(session, NAME, &other, more);
        assert_eq!(auth.post(NAME, body.clone()).await.response(), serde_json::json!({}));
        stage.refuses(NAME, body, Code::Replay).await;
        let listed = devices(&stage, session).await;
        let named: Vec<_> = listed.iter().map(|entry| entry.get("name").and_then(Value::as_str)).collect();
        assert_eq!(named, [None, expected]);
    }
    // Operators see it too.
    let shown = stage.admin().get(&format!("/account?identity={}", device.identity)).await;
    assert_eq!(shown.json()["devices"].as_array().unwrap().iter().filter(|it| it["name"] == "x").count(), 1);
    let exported = stage.admin().get(&format!("/account/export?identity={}", device.identity)).await;
    assert!(exported.body.contains(r#""name":"x""#), "{}", exported.body);
    for bad in [r#","name":"""#, r#","name":"a&b""#, r#","name":1"#] {
        stage.refuses(NAME, about(session, NAME, &other, bad), Code::InvalidMessage).await;
    }
}

/// One and the same answer, so that nobody learns whose a device is, or whether it is there.
async fn another_accounts_device_is_as_one_that_is_not_there(stage: Stage) {
    let auth = &stage.auth;
    let (mut device, revoked) = stage.couple().await;
    let gone = revoked.device;
    device.gated(auth, "/device/unlink", |by, keys| by.unlink_request(keys, &gone)).await.response();
    device.open_session(auth).await;
    let mut stranger = Device::create(auth).await;
    stranger.open_session(auth).await;
    let nobody = Device::draw();
    for (path, more) in [(NAME, r#","name":"mine""#), (END, "")] {
        let mut answers = Vec::new();
        for other in [&stranger, &revoked, &nobody] {
            let body = about(device.session(), path, other, more);
            let answer = stage.refuses(path, body, Code::UnknownDevice).await;
            answers.push((answer.status, answer.body));
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{answers:?}");
    }
    stage.auth.post(END_OTHERS, end_others(device.session())).await.response();
    stranger.try_refresh(auth).await.response();
}

async fn an_ended_session_is_refused_everywhere_and_a_new_one_admitted(stage: Stage) {
    let (_second, other_auth) = stage.another("second").await;
    let auth = &stage.auth;
    let (mut device, mut other) = stage.couple().await;
    let mut third = device.link(auth).await;
    for device in [&mut device, &mut other, &mut third] {
        device.open_session(auth).await;
    }
    let before = claims(other.session());
    let unspent = listing(other.session());
    let body = about(device.session(), END, &other, "");
    let answer = auth.post(END, body.clone()).await.response();
    assert_eq!(answer["devices"], 1);
    let from = time(&answer, "signInFrom");
    assert!(from > now() && from < now().plus(Duration::from_secs(21)), "{answer}");
    stage.refuses(END, body.clone(), Code::Replay).await;
    other_auth.post(END, body).await.refused(Code::Replay);
    // Neither authd refreshes it, and it asks for nothing more.
    for auth in [auth, &other_auth] {
        other.try_refresh(auth).await.refused(Code::RefreshExpired);
        auth.post(LIST, unspent.clone()).await.refused(Code::ExpiredToken);
        let wait = other.try_session(auth).await;
        wait.refused(Code::TooMany);
        let seconds: u64 = wait.header("retry-after").parse().unwrap();
        assert!((1..=21).contains(&seconds), "{seconds}");
    }
    // The others are as they were.
    device.try_refresh(auth).await.response();
    third.try_refresh(auth).await.response();

    // What edges are told: this token, and none of a later session.
    let denials = fed(&stage, &device).await;
    assert!(denials.ends(&before, now()) && !denials.denies(&other.device, now()));
    assert!(!denials.ends(&claims(third.session()), now()));
    assert_eq!(stage.names(3).await, Vec::<String>::new(), "database 3 would refuse new sessions too");

    stage.hand.set(now().plus(Duration::from_secs(22)));
    other.open_session(&other_auth).await;
    other.try_refresh(auth).await.response();
    assert!(!denials.ends(&claims(other.session()), now()));
    assert_eq!(devices(&stage, other.session()).await.len(), 3);
}

/// The end comes between the reading and the writing of a refresh.
async fn a_refresh_that_races_an_end_is_decided_on_it(stage: Stage) {
    let (mut device, mut other) = stage.couple().await;
    device.open_session(&stage.auth).await;
    other.open_session(&stage.auth).await;
    let (before, keys) = (claims(other.session()), other.session().keys.ahead());
    let (identity, digest, next) = (before.identity, before.rotation_hash, keys.rotation_hash());
    let case = Refreshing { identity, device: before.device, digest, next };
    let grant = Grant {
        identity,
        device: before.device,
        public_key: keys.public_key(),
        rotation_hash: next,
        issued_at: now(),
        expiry: now().plus(Duration::from_mins(15)),
        refresh_expiry: before.refresh_expiry,
    };
    let refresh = Refresh { digest, cause: Digest::of("cause"), grant };
    let seen = std::sync::Mutex::new(Vec::new());
    let outcome = stage.service().store.decide(&case, now(), |view: &RefreshView| {
        seen.lock().unwrap().push(view.session.ended);
        if view.session.ended.is_some() {
            return Ok(Verdict::Answer(false));
        }
        let end = async {
            let body = about(device.session(), END, &other, "");
            stage.auth.post(END, body).await.response();
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(end));
        Ok(Verdict::Write(refresh.clone(), true))
    });
    assert!(!outcome.await.unwrap(), "the refresh was written beside the end");
    let seen = seen.into_inner().unwrap();
    assert!(seen.len() == 2 && seen[0].is_none() && seen[1].is_some(), "{seen:?}");
}

async fn all_others_sessions_end_at_once(stage: Stage) {
    let auth = &stage.auth;
    let (mut device, mut other) = stage.couple().await;
    let mut third = device.link(auth).await;
    for device in [&mut device, &mut other, &mut third] {
        device.open_session(auth).await;
    }
    let answer = auth.post(END_OTHERS, end_others(device.session())).await.response();
    assert_eq!(answer["devices"], 2);
    for ended in [&mut other, &mut third] {
        ended.try_refresh(auth).await.refused(Code::RefreshExpired);
        stage.refuses(END_OTHERS, end_others(ended.session()), Code::ExpiredToken).await;
    }
    let denials = fed(&stage, &device).await;
    for ended in [&other, &third] {
        assert!(denials.ends(&claims(ended.session()), now()));
    }
    assert!(!denials.ends(&claims(device.session()), now()));
    device.try_refresh(auth).await.response();
    // Again, and its own.
    let answer = auth.post(END_OTHERS, end_others(device.session())).await.response();
    assert_eq!(answer["devices"], 2);
    let own = about(device.session(), END, &device, "");
    auth.post(END, own).await.response();
    device.try_refresh(auth).await.refused(Code::RefreshExpired);
    stage.hand.set(now().plus(Duration::from_secs(22)));
    // What has ended is forgotten once nothing of it could be refreshed, and not before.
    let store = &stage.service().store;
    store.prune(now().plus(Duration::from_hours(12))).await.unwrap();
    assert!(stage.dump().await.contains("session_ends"));
    store.prune(now().plus(Duration::from_hours(14))).await.unwrap();
    assert!(!stage.dump().await.contains("session_ends"));
}

/// Whom edges deny, once they were told all of an account.
async fn fed(stage: &Stage, device: &Device) -> Denials {
    let store = &stage.service().store;
    until("the feed to have told it", Duration::from_secs(20), || async {
        store.fed_up_to(&device.identity, now()).await.unwrap()
    })
    .await;
    let mut denials = Denials::default();
    for entry in store.feed_state(now()).await.unwrap().1 {
        denials.set(&entry);
    }
    denials
}
