//! Refreshes with tokens that are forged, spent, foreign or hostile (`PROTOCOL.md#token`).

use keychain::error::Code;
use tests::World;
use tests::craft::{Device, Keys, Session, key, message, same};
use tests::http::{Answer, Http};

use crate::unharmed;

/// Sends a refresh with chosen keys and token.
async fn refresh(auth: &Http, keys: &Keys, token: &str) -> Answer {
    let session = Session { keys: Keys::draw(), token: token.to_owned() };
    auth.post("/session/refresh", message(&session.refresh_request(keys), &keys.current)).await
}

#[tokio::test]
async fn a_refresh_takes_the_key_committed_to() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut device = Device::create(&auth).await;
    device.open_session(&auth).await;
    let token = device.session().token.clone();

    refresh(&auth, &Keys::draw(), &token).await.refused(Code::RotationMismatch);
    // The access key itself, as a thief of one request's keys has it.
    let current = Keys { current: same(&device.session().keys.current), next: key() };
    refresh(&auth, &current, &token).await.refused(Code::RotationMismatch);
    let keys = device.session().keys.ahead();
    let request = device.session().refresh_request(&keys);
    auth.post("/session/refresh", message(&request, &key())).await.refused(Code::BadSignature);
    device.try_refresh(&auth).await.response();
    unharmed(&mut device, &auth).await;
}

/// A token changed in any way, or issued by a key that nobody endorsed.
#[tokio::test]
async fn a_forged_token_is_refused() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut device = Device::create(&auth).await;
    device.open_session(&auth).await;
    let keys = device.session().keys.ahead();
    let token = device.session().token.clone();

    let claims = keychain::token::Token::parse(&token).unwrap().claims().clone();
    let forger = key();
    let forged = keychain::token::Claims { server_identity: forger.public_key(), ..claims.clone() };
    let unendorsed = forged.issue(&forger).unwrap();
    refresh(&auth, &keys, &unendorsed).await.refused(Code::UnknownKey);
    // Claims to be of the real issuer, signed by another.
    let impersonated = claims.issue(&forger).unwrap();
    refresh(&auth, &keys, &impersonated).await.refused(Code::BadSignature);
    // The signature of one token before the claims of another.
    let mut other = Device::create(&auth).await;
    let grafted = format!("{}{}", &other.open_session(&auth).await.token[..88], &token[88..]);
    refresh(&auth, &keys, &grafted).await.refused(Code::BadSignature);

    for (what, malformed) in [
        ("empty", String::new()),
        ("a signature alone", token[..88].to_owned()),
        ("cut short", token[..token.len() - 8].to_owned()),
        ("no gzip", format!("{}AAAA", &token[..88])),
        ("not base64url", format!("{}+///", &token[..token.len() - 4])),
        ("not ASCII", format!("{}é{}", &token[..87], &token[88..])),
    ] {
        println!("{what}");
        refresh(&auth, &keys, &malformed).await.refused(Code::InvalidToken);
    }
    unharmed(&mut device, &auth).await;
}

/// A thousand to one: what looks like a token inflates to megabytes. It is refused by its size, after at
/// most 64 KiB.
#[tokio::test]
async fn a_decompression_bomb_is_refused() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut device = Device::create(&auth).await;
    device.open_session(&auth).await;
    let keys = device.session().keys.ahead();
    let signature = device.session().token[..88].to_owned();
    let bomb = |bytes: usize| {
        use std::io::Write as _;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![b' '; bytes]).unwrap();
        format!("{signature}{}", base64url(&gzip.finish().unwrap()))
    };
    // As much as fits into a message, and 100 MB in 100 KB, which does not.
    refresh(&auth, &keys, &bomb(25_000_000)).await.refused(Code::InvalidToken);
    refresh(&auth, &keys, &bomb(100_000_000)).await.refused(Code::TooLarge);

    let app = world.app("rust");
    let session = device.session();
    for size in [25_000_000, 100_000_000] {
        let (nonce, now) = (tests::craft::nonce(), tests::craft::now().to_string());
        let access = session.access_with("{}", &nonce, &now, &bomb(size));
        app.post("/foo/bar", access).await.refused(Code::InvalidToken);
    }
    unharmed(&mut device, &auth).await;
}

/// However many devices race with one refresh key, exactly one successor is made.
#[tokio::test]
async fn of_racing_refreshes_one_successor_wins() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut device = Device::create(&auth).await;
    device.open_session(&auth).await;
    let (session, keys) = (device.session(), device.session().keys.ahead());
    let racers: Vec<_> = (0..20)
        .map(|_| {
            let mut fork = keys.ahead();
            fork.current = same(&keys.current);
            let request = message(&session.refresh_request(&fork), &fork.current);
            let auth = auth.clone();
            tokio::spawn(async move { auth.post("/session/refresh", request).await })
        })
        .collect();
    let mut won = 0;
    for racer in racers {
        let answer = racer.await.unwrap();
        if answer.status == 200 {
            won += 1;
        } else {
            answer.refused(Code::RefreshSpent);
        }
    }
    assert_eq!(won, 1);
    unharmed(&mut device, &auth).await;
}

/// One request, sent a hundred times at once, as an impatient device does: all are answered with the one
/// session that was made.
#[tokio::test]
async fn a_hundred_copies_of_one_refresh_get_one_session() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut device = Device::create(&auth).await;
    device.open_session(&auth).await;
    let keys = device.session().keys.ahead();
    let request = device.session().refresh_request(&keys);
    let copies: Vec<_> = (0..100)
        .map(|_| {
            let (auth, copy) = (auth.clone(), message(&request, &keys.current));
            tokio::spawn(async move { auth.post("/session/refresh", copy).await })
        })
        .collect();
    let mut sessions = Vec::new();
    for copy in copies {
        let response = copy.await.unwrap().response();
        let token = response["access"]["token"].as_str().unwrap().to_owned();
        sessions.push(keychain::token::Token::parse(&token).unwrap().claims().clone());
    }
    assert!(sessions.iter().all(|session| *session == sessions[0]));
    unharmed(&mut device, &auth).await;
}

/// The reply to a refresh is lost: the same request gets a token with the same times again. Once a later
/// refresh was made, it does not.
#[tokio::test]
async fn a_repeated_refresh_gets_the_same_session() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut device = Device::create(&auth).await;
    device.open_session(&auth).await;
    let keys = device.session().keys.ahead();
    let request = device.session().refresh_request(&keys);
    let claims = |answer: &Answer| {
        let response = answer.response();
        let token = response.pointer("/access/token").and_then(|token| token.as_str()).unwrap();
        keychain::token::Token::parse(token).unwrap().claims().clone()
    };
    let first = auth.post("/session/refresh", message(&request, &keys.current)).await;
    let again = auth.post("/session/refresh", message(&request, &keys.current)).await;
    assert_eq!(claims(&first), claims(&again));

    let token = again.response()["access"]["token"].as_str().unwrap().to_owned();
    let signer = same(&keys.current);
    device.session = Some(Session { keys, token });
    device.try_refresh(&auth).await.response();
    auth.post("/session/refresh", message(&request, &signer)).await.refused(Code::RefreshSpent);
    unharmed(&mut device, &auth).await;
}

/// A device that was unlinked has no refresh from that moment on.
#[tokio::test]
async fn a_revoked_device_refreshes_nothing() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut owner = Device::create(&auth).await;
    let mut other = owner.link(&auth).await;
    other.open_session(&auth).await;
    let gone = other.device;
    owner.gated(&auth, "/device/unlink", |device, keys| device.unlink_request(keys, &gone)).await.response();
    other.try_refresh(&auth).await.refused(Code::UnknownDevice);
    unharmed(&mut owner, &auth).await;
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            let index = usize::try_from(bits >> (18 - 6 * place) & 63).unwrap();
            text.push(char::from(ALPHABET[index]));
        }
    }
    text
}
