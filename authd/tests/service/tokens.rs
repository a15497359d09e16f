//! Refreshes, and every token that must not be refreshed.

use std::io::Write as _;
use std::time::Duration;

use keychain::directory::Db;
use keychain::endorsement::Purpose;
use keychain::message::Operation;
use keychain::statement::Entries;
use keychain::token::{Claims, Token};
use keychain::{Code, Digest, PublicKey, SigningKey};
use tests::craft::{Device, Keys, Session, key, message, now};

use crate::stage::Stage;

crate::on_both!(
    a_refresh_keeps_the_session_and_is_repeated_with_the_same_times,
    a_spent_key_is_refused_but_for_the_repeat,
    a_token_is_refreshed_by_its_key_in_its_time,
    only_endorsed_access_keys_of_authd_are_believed,
    hostile_tokens_are_refused,
    a_tainted_issuer_is_refused_at_once_and_authd_goes_on_with_new_keys,
    what_a_head_revokes_or_denies_is_refused_at_refresh,
    a_key_endorsed_again_after_a_taint_is_believed_again,
    without_a_recent_head_no_token_is_given,
    the_mirror_holds_what_was_spent,
);

fn refresh(session: &Session, keys: &Keys) -> String {
    message(&session.refresh_request(keys), &keys.current)
}

fn claims(text: &str) -> Claims {
    Token::parse(text).unwrap().claims().clone()
}

fn token_in(answer: &tests::http::Answer) -> String {
    answer.response()["access"]["token"].as_str().unwrap().to_owned()
}

async fn a_refresh_keeps_the_session_and_is_repeated_with_the_same_times(stage: Stage) {
    let auth = &stage.auth;
    let mut device = Device::create(auth).await;
    let first = claims(&device.open_session(auth).await.token);
    let keys = device.session().keys.ahead();
    let inner = device.session().refresh_request(&keys);
    let once = claims(&token_in(&auth.post("/session/refresh", message(&inner, &keys.current)).await));
    assert_eq!(once.refresh_expiry, first.refresh_expiry);
    assert_eq!((once.public_key, once.rotation_hash), (keys.public_key(), keys.rotation_hash()));
    assert!(once.issued_at >= first.issued_at);
    assert_eq!((once.device, once.identity), (first.device, first.identity));

    let before = stage.dump().await;
    for _ in 0..3 {
        let again = auth.post("/session/refresh", message(&inner, &keys.current)).await;
        assert_eq!(claims(&token_in(&again)), once);
    }
    assert_eq!(stage.dump().await, before);
}

async fn a_spent_key_is_refused_but_for_the_repeat(stage: Stage) {
    let auth = &stage.auth;
    let (mut device, mut other) = stage.couple().await;
    other.open_session(auth).await;
    let keys = other.session().keys.ahead();
    let first = refresh(other.session(), &keys);
    let elsewhere = Keys { next: key(), current: SigningKey::from_seed(keys.current.seed()).unwrap() };
    let second = refresh(other.session(), &elsewhere);
    let answer = auth.post("/session/refresh", first.clone()).await;
    let next = Session { token: token_in(&answer), keys };
    stage.refuses("/session/refresh", second, Code::RefreshSpent).await;
    stage.repeats("/session/refresh", first.clone()).await;

    // After a refresh made from it, the repeat is late.
    let later = next.keys.ahead();
    assert_eq!(auth.post("/session/refresh", refresh(&next, &later)).await.status, 200);
    stage.refuses("/session/refresh", first, Code::RefreshSpent).await;

    // And a revoked device repeats nothing.
    let body = refresh(&next, &later);
    stage.repeats("/session/refresh", body.clone()).await;
    let gone = other.device;
    device.gated(auth, "/device/unlink", |by, keys| by.unlink_request(keys, &gone)).await.response();
    stage.refuses("/session/refresh", body, Code::UnknownDevice).await;
}

async fn a_token_is_refreshed_by_its_key_in_its_time(stage: Stage) {
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    let session = device.session();
    let stranger = Keys::draw();
    stage.refuses("/session/refresh", refresh(session, &stranger), Code::RotationMismatch).await;
    let ahead = session.keys.ahead();
    for signer in [&session.keys.current, &stranger.current, &device.keys.current] {
        let body = message(&session.refresh_request(&ahead), signer);
        stage.refuses("/session/refresh", body, Code::BadSignature).await;
    }
    let itself = Keys { current: copy(&ahead.current), next: copy(&ahead.current) };
    stage.refuses("/session/refresh", refresh(session, &itself), Code::InvalidHash).await;

    let service = stage.service();
    let body = refresh(session, &ahead);
    let mut codes = Vec::new();
    for shift in [Duration::from_hours(12), Duration::from_hours(11)] {
        let outcome = service.answer(Operation::SessionRefresh, body.as_bytes(), now().plus(shift)).await;
        codes.push(outcome.map(|_| ()).map_err(|failure| failure.into_refusal().code()));
    }
    assert_eq!(codes, [Err(Code::RefreshExpired), Ok(())]);
    let earlier = now().minus(Duration::from_mins(1));
    let outcome = service.answer(Operation::SessionRefresh, body.as_bytes(), earlier).await;
    assert_eq!(outcome.unwrap_err().into_refusal().code(), Code::FutureToken);
}

async fn only_endorsed_access_keys_of_authd_are_believed(stage: Stage) {
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    let ahead = device.session().keys.ahead();
    let good = claims(&device.session().token);
    let forged = |issuer: &SigningKey| {
        let claims = Claims { server_identity: issuer.public_key(), ..good.clone() };
        let session =
            Session { token: claims.issue(issuer).unwrap(), keys: copy_keys(&device.session().keys) };
        refresh(&session, &ahead)
    };
    // Nobody endorsed it.
    let nobody = key();
    stage.refuses("/session/refresh", forged(&nobody), Code::UnknownKey).await;
    // It stands among the response keys.
    let response = key();
    let text = stage.hsm.endorse_for(Purpose::Response, response.public_key(), "authd");
    publish(&stage, Db::Response, response.public_key(), &text).await;
    stage.refuses("/session/refresh", forged(&response), Code::UnknownKey).await;
    // Somebody with write access put such an endorsement, another key's, or another service's among the
    // access keys.
    let response = key();
    let text = stage.hsm.endorse_for(Purpose::Response, response.public_key(), "authd");
    publish(&stage, Db::Access, response.public_key(), &text).await;
    stage.refuses("/session/refresh", forged(&response), Code::WrongPurpose).await;
    let other = key();
    let text = stage.hsm.endorse_for(Purpose::Access, key().public_key(), "authd");
    publish(&stage, Db::Access, other.public_key(), &text).await;
    stage.refuses("/session/refresh", forged(&other), Code::WrongPurpose).await;
    let edge = key();
    let text = stage.hsm.endorse_for(Purpose::Access, edge.public_key(), "edge:demo");
    publish(&stage, Db::Access, edge.public_key(), &text).await;
    stage.refuses("/session/refresh", forged(&edge), Code::WrongPurpose).await;
    // The endorsement's signature was changed.
    let altered = key();
    let text = stage.hsm.endorse_for(Purpose::Access, altered.public_key(), "authd");
    publish(&stage, Db::Access, altered.public_key(), &text.replace("2026", "2036").replace("2027", "2037"))
        .await;
    stage.refuses("/session/refresh", forged(&altered), Code::BadSignature).await;
    // Another chain's.
    let foreign = key();
    let text = crate::hsm::Hsm::start().endorse_for(Purpose::Access, foreign.public_key(), "authd");
    publish(&stage, Db::Access, foreign.public_key(), &text).await;
    stage.refuses("/session/refresh", forged(&foreign), Code::DeadKey).await;
    // A key of another authd of the same chain is good.
    let sister = key();
    let text = stage.hsm.endorse_for(Purpose::Access, sister.public_key(), "authd");
    publish(&stage, Db::Access, sister.public_key(), &text).await;
    assert_eq!(stage.auth.post("/session/refresh", forged(&sister)).await.status, 200);
}

async fn hostile_tokens_are_refused(stage: Stage) {
    let auth = &stage.auth;
    let mut device = Device::create(auth).await;
    device.open_session(auth).await;
    let ahead = device.session().keys.ahead();
    let good = device.session().token.clone();
    let with = |token: String| refresh(&Session { token, keys: copy_keys(&device.session().keys) }, &ahead);
    let (signature, _) = good.split_at(88);
    let json = claims(&good).to_json();
    let device_text = device.device.to_string();
    let elsewhere = json.replace(&device_text, &Digest::of("other").to_string());
    stage
        .refuses("/session/refresh", with(packed(signature, elsewhere.as_bytes())), Code::BadSignature)
        .await;
    let longer = json.replace(&claims(&good).expiry.to_string(), "2099-01-01T00:00:00.000Z");
    stage.refuses("/session/refresh", with(packed(signature, longer.as_bytes())), Code::BadSignature).await;
    for json in [&b"{}"[..], b"[]", b"\xff\xfe", b"", &vec![b'0'; 20_000_000]] {
        stage.refuses("/session/refresh", with(packed(signature, json)), Code::InvalidToken).await;
    }
    for text in [
        String::new(),
        signature.to_owned(),
        signature[..87].to_owned(),
        "0I".to_owned(),
        format!("{good}AAAA"),
    ] {
        stage.refuses("/session/refresh", with(text), Code::InvalidToken).await;
    }
    // With padding it is the same token.
    let padded = format!("{good}{}", "=".repeat((4 - (good.len() - 88) % 4) % 4));
    assert_eq!(auth.post("/session/refresh", with(padded)).await.status, 200);
}

async fn a_tainted_issuer_is_refused_at_once_and_authd_goes_on_with_new_keys(stage: Stage) {
    let auth = &stage.auth;
    let mut device = Device::create(auth).await;
    device.open_session(auth).await;
    let issuer = stage.service().access.current().public_key();
    let ahead = device.session().keys.ahead();
    let lost = refresh(device.session(), &ahead);
    stage.hsm.rotate(true);
    stage.hsm.publish(&stage.directory).await;
    tests::until("keys of the new generation", Duration::from_secs(20), || async {
        let service = stage.service();
        let usable = service.access.usable(now()).is_ok() && service.response.usable(now()).is_ok();
        (usable && service.access.current().public_key() != issuer).then_some(())
    })
    .await;
    stage.refuses("/session/refresh", lost, Code::DeadKey).await;
    device.open_session(auth).await;
    // A rotation without a taint disturbs nobody.
    stage.hsm.rotate(false);
    stage.hsm.publish(&stage.directory).await;
    assert_eq!(device.try_refresh(auth).await.status, 200);
}

async fn what_a_head_revokes_or_denies_is_refused_at_refresh(stage: Stage) {
    let auth = &stage.auth;
    let mut device = Device::create(auth).await;
    device.open_session(auth).await;
    device.try_refresh(auth).await.response();
    let issuer = stage.service().access.current().public_key();
    let ahead = device.session().keys.ahead();
    let lost = refresh(device.session(), &ahead);
    let mut listed = Entries::default();
    listed.keys.insert(issuer.name(), now().plus(Duration::from_hours(1)));
    stage.hsm.publish_head(&stage.directory, 2, &listed, Duration::ZERO).await;
    let new_key = async |old: PublicKey| {
        tests::until("a new key", Duration::from_secs(20), || async {
            let service = stage.service();
            let usable = service.access.usable(now()).is_ok() && service.response.usable(now()).is_ok();
            (usable && service.access.current().public_key() != old).then_some(())
        })
        .await;
    };
    new_key(issuer).await;
    stage.refuses("/session/refresh", lost, Code::Revoked).await;
    device.open_session(auth).await;
    device.try_refresh(auth).await.response();

    // The generation before, which no taint reaches.
    let issuer = stage.service().access.current().public_key();
    let ahead = device.session().keys.ahead();
    let lost = refresh(device.session(), &ahead);
    listed.denied.insert(stage.hsm.identity());
    stage.hsm.rotate(false);
    stage.hsm.publish(&stage.directory).await;
    stage.hsm.publish_head(&stage.directory, 2, &listed, Duration::ZERO).await;
    new_key(issuer).await;
    stage.refuses("/session/refresh", lost, Code::DeadKey).await;
    device.open_session(auth).await;
}

/// As a public auth server does, which keeps its key.
async fn a_key_endorsed_again_after_a_taint_is_believed_again(stage: Stage) {
    let auth = &stage.auth;
    let mut device = Device::create(auth).await;
    device.open_session(auth).await;
    let sister = key();
    let endorse = async || {
        let text = stage.hsm.endorse_for(Purpose::Access, sister.public_key(), "authd");
        publish(&stage, Db::Access, sister.public_key(), &text).await;
    };
    let by_sister = |device: &Device| {
        let claims = Claims { server_identity: sister.public_key(), ..claims(&device.session().token) };
        let keys = copy_keys(&device.session().keys);
        let ahead = keys.ahead();
        refresh(&Session { token: claims.issue(&sister).unwrap(), keys }, &ahead)
    };
    endorse().await;
    assert_eq!(auth.post("/session/refresh", by_sister(&device)).await.status, 200);
    device.open_session(auth).await;
    let lost = by_sister(&device);
    stage.hsm.rotate(true);
    stage.hsm.publish(&stage.directory).await;
    tests::until("the taint to bite", Duration::from_secs(20), || async {
        let answer = auth.post("/session/refresh", lost.clone()).await;
        (answer.status == 401).then(|| answer.refused(Code::DeadKey))
    })
    .await;
    endorse().await;
    tests::until("the key to be believed again", Duration::from_secs(20), || async {
        (auth.post("/session/refresh", lost.clone()).await.status == 200).then_some(())
    })
    .await;
}

async fn without_a_recent_head_no_token_is_given(stage: Stage) {
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    let aged = async |number, minutes| {
        let age = Duration::from_mins(minutes);
        stage.hsm.publish_head(&stage.directory, number, &Entries::default(), age).await;
    };
    aged(2, 11).await;
    let (daemon, auth) = stage.another_with_recent_heads("demanding").await;
    assert!(!daemon.health()().ready);
    device.try_session(&auth).await.refused(Code::StaleHead);
    device.try_refresh(&auth).await.refused(Code::StaleHead);
    aged(3, 1).await;
    tests::until("the head to be heard", Duration::from_secs(20), || async {
        daemon.health()().ready.then_some(())
    })
    .await;
    device.try_refresh(&auth).await.response();
    device.open_session(&auth).await;
}

async fn the_mirror_holds_what_was_spent(stage: Stage) {
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    assert_eq!(device.try_refresh(&stage.auth).await.status, 200);
    assert!(stage.names(2).await.is_empty(), "nothing is written for auth servers that are not there");

    let (_daemon, auth) = &stage.another_beside_public_servers().await;
    let spent = device.session().keys.rotation_hash().to_string();
    assert_eq!(device.try_refresh(auth).await.status, 200);
    assert_eq!(stage.names(2).await, [spent.as_str()]);
    let redis::Value::Int(left) = stage.redis(2, &["TTL", &spent]).await else { panic!("no TTL") };
    assert!((43_000..=43_200).contains(&left), "{left}");
    // A mirror that is away, or says otherwise, decides nothing.
    let next = device.session().keys.rotation_hash().to_string();
    stage.redis(2, &["SET", &next, "taken"]).await;
    assert_eq!(device.try_refresh(auth).await.status, 200);
    stage.redis(0, &["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    assert_eq!(device.try_refresh(auth).await.status, 200);
}

async fn publish(stage: &Stage, db: Db, key: PublicKey, text: &str) {
    stage.directory.publish(db, &key, text, Duration::from_mins(1)).await.unwrap();
}

fn packed(signature: &str, json: &[u8]) -> String {
    use flate2::{Compression, GzBuilder};
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(json).unwrap();
    format!("{signature}{}", base64(&gzip.finish().unwrap()))
}

/// base64url without padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let block = chunk.iter().fold(0_usize, |block, byte| block << 8 | usize::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(LETTERS[block >> (18 - 6 * place) & 63]));
        }
    }
    text
}

fn copy(key: &SigningKey) -> SigningKey {
    SigningKey::from_seed(key.seed()).unwrap()
}

fn copy_keys(keys: &Keys) -> Keys {
    Keys { current: copy(&keys.current), next: copy(&keys.next) }
}
