//! Endorsements asked for while the chain moves: each is by the generation that it names.

use std::time::Duration;

use keychain::cesr::Digest;
use keychain::chain::{Chain, Settings, SignedEvent, windows};
use keychain::endorsement::{Endorsement, Expected, Purpose};
use keychain::error::Code;
use serde_json::value::RawValue;
use tests::World;
use tests::craft::{Device, key, nonce, now};

const REQUEST: &str = r#"{"foo":"a","bar":"b"}"#;

/// On a public HSM service 226 of 838 endorsements carried the wrong generation's name.
#[tokio::test]
async fn endorsements_during_rotations_name_the_generation_that_signed() {
    const ROTATIONS: usize = 30;
    let world = World::start().await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let askers: Vec<_> = (0..8).map(|_| tokio::spawn(ask(world.endorse(), stopped.clone()))).collect();
    for _ in 0..ROTATIONS {
        assert_eq!(world.admin().post("/rotate", "{}").await.status, 200);
    }
    stop.send(true).unwrap();

    let text = world.endorse().get("/chain").await.body;
    let events: Vec<&RawValue> = serde_json::from_str(&text).unwrap();
    assert_eq!(events.len(), ROTATIONS + 1);
    let mut chain = Chain::new(Digest::parse(&world.endpoints().identity).unwrap(), Settings::default());
    chain.merge(events.into_iter().map(|event| SignedEvent::parse(event.get()).unwrap()), now());
    let mut verified = 0;
    for asker in askers {
        for text in asker.await.unwrap() {
            let endorsement = Endorsement::parse(&text).unwrap();
            let public_key = endorsement.subject.public_key;
            let expected = Expected { purpose: Purpose::Response, public_key: &public_key, service: None };
            endorsement.verify(&chain, expected, windows::EDGE, now()).unwrap();
            verified += 1;
        }
    }
    assert!(verified > ROTATIONS, "only {verified} endorsements were made meanwhile");
}

async fn ask(endorse: tests::http::Http, stopped: tokio::sync::watch::Receiver<bool>) -> Vec<String> {
    let mut endorsements = Vec::new();
    while !*stopped.borrow() {
        let (public_key, expiration) = (key().public_key(), now().plus(Duration::from_mins(10)));
        let answer = endorse
            .post(
                "/sign",
                format!(
                    r#"{{"payload":{{"purpose":"response","publicKey":"{public_key}","expiration":"{expiration}"}}}}"#
                ),
            )
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        endorsements.push(answer.body.trim_end().to_owned());
    }
    endorsements
}

/// Tokens of issuers that nobody knows, each another: the directory is not asked for each, and devices
/// with a session do not feel it.
#[tokio::test]
async fn junk_issuers_cost_the_directory_next_to_nothing() {
    const JUNK: usize = 200;
    let world = World::start().await;
    let mut device = Device::create(&world.auth()).await;
    device.open_session(&world.auth()).await;
    let app = world.app("rust");
    app.post("/foo/bar", device.session().access(REQUEST)).await.response();
    let claims = keychain::token::Token::parse(&device.session().token).unwrap().claims().clone();

    let before = commands(&world).await;
    let mut flood = Vec::new();
    for _ in 0..JUNK {
        let stranger = key();
        let forged = keychain::token::Claims { server_identity: stranger.public_key(), ..claims.clone() };
        let token = forged.issue(&stranger).unwrap();
        let request = device.session().access_with(REQUEST, &nonce(), &now().to_string(), &token);
        let app = app.clone();
        flood.push(tokio::spawn(async move { app.post("/foo/bar", request).await }));
    }
    app.post("/foo/bar", device.session().access(REQUEST)).await.response();
    for answer in flood {
        answer.await.unwrap().refused(Code::UnknownKey);
    }
    let asked = commands(&world).await - before;
    assert!(asked < JUNK / 2, "{asked} commands to the directory for {JUNK} junk requests");
}

/// How many commands the directory has processed, by whomever.
async fn commands(world: &World) -> usize {
    let mut directory = world.directory(0).await;
    let text: String = redis::cmd("INFO").arg("stats").query_async(&mut directory).await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("total_commands_processed:")).unwrap();
    line.trim().parse().unwrap()
}
