//! What the signer must not do for whoever reaches one of its sockets (`PROTOCOL.md#endorsement`).

use std::time::Duration;

use keychain::error::Code;
use reqwest::Method;
use tests::World;
use tests::craft::{key, now};
use tests::http::Http;

fn sign_request(purpose: &str, lifetime: Duration) -> String {
    let (public_key, expiration) = (key().public_key(), now().plus(lifetime));
    format!(
        r#"{{"payload":{{"purpose":"{purpose}","publicKey":"{public_key}","expiration":"{expiration}"}}}}"#
    )
}

async fn generation(hsm: &Http) -> String {
    let chain = hsm.get("/chain").await.json();
    chain.as_array().unwrap().last().unwrap()["payload"]["id"].as_str().unwrap().to_owned()
}

/// A public HSM service rotated at any GET, from anywhere.
#[tokio::test]
async fn only_post_changes_anything() {
    let world = World::shared().await;
    let before = generation(&world.endorse()).await;
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::HEAD] {
        for path in ["/rotate", "/taint"] {
            let answer = world.admin().method(method.clone(), path).await;
            assert_eq!(answer.status, 405, "{method} {path}: {}", answer.body);
        }
        let answer = world.endorse().method(method.clone(), "/sign").await;
        assert_eq!(answer.status, 405, "{method} /sign: {}", answer.body);
    }
    assert_eq!(generation(&world.endorse()).await, before);
}

/// The socket for services is not for administration, and the other way round.
#[tokio::test]
async fn each_socket_is_for_its_own() {
    let world = World::shared().await;
    let before = generation(&world.endorse()).await;
    for path in ["/rotate", "/taint"] {
        world.endorse().post(path, "{}").await.refused(Code::NoSuchRoute);
    }
    let request = sign_request("response", Duration::from_mins(1));
    world.admin().post("/sign", request).await.refused(Code::NoSuchRoute);
    assert_eq!(generation(&world.endorse()).await, before);
}

/// Keys that issue tokens are authd's alone.
#[tokio::test]
async fn an_edge_gets_no_access_key() {
    let world = World::shared().await;
    let request = sign_request("access", Duration::from_mins(1));
    world.endorse().post("/sign", request.clone()).await.refused(Code::Forbidden);
    if let Some(plain) = &world.endpoints().hsm {
        Http::to(plain).post("/sign", request).await.refused(Code::Forbidden);
    }
}

#[tokio::test]
async fn an_endorsement_has_a_longest_life() {
    let world = World::shared().await;
    let endorse = world.endorse();
    let longest = Duration::from_mins(12 * 60 + 1);
    assert_eq!(endorse.post("/sign", sign_request("response", longest)).await.status, 200);
    let longer = longest + Duration::from_mins(1);
    endorse.post("/sign", sign_request("response", longer)).await.refused(Code::Forbidden);
    endorse.post("/sign", sign_request("response", Duration::ZERO)).await.refused(Code::InvalidMessage);
}

/// Nothing but the three members is ever signed: no other purpose, no further member, no other bytes.
#[tokio::test]
async fn only_what_is_an_endorsement_is_signed() {
    let world = World::shared().await;
    let endorse = world.endorse();
    let good = sign_request("response", Duration::from_mins(1));
    let extra = good.replacen("{\"purpose\"", "{\"service\":\"authd\",\"purpose\"", 1);
    let purpose = good.replacen("\"response\"", "\"key-authorization\"", 1);
    let twice = good.replacen("{\"purpose\"", "{\"purpose\":\"access\",\"purpose\"", 1);
    let no_point = good.replacen("1AAI", "1AAJ", 1);
    for body in ["", "{}", "null", r#"{"payload":{}}"#, r#"{"payload":"x"}"#, &extra, &twice, &no_point] {
        println!("{body}");
        endorse.post("/sign", body.to_owned()).await.refused(Code::InvalidMessage);
    }
    endorse.post("/sign", purpose).await.refused(Code::InvalidMessage);
    endorse.post("/sign", " ".repeat(1_000_000)).await.refused(Code::TooLarge);
}
