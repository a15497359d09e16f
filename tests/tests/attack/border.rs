//! The HTTP borders: routes, methods, origins, sizes (`PROTOCOL.md#directory-service`).

use keychain::error::Code;
use reqwest::Method;
use tests::World;
use tests::http::{Answer, Http};

fn borders(world: &World) -> Vec<(&'static str, Http)> {
    vec![("authd", world.auth()), ("keysd", world.keys()), ("edge", world.app("rust"))]
}

#[track_caller]
fn open_to_browsers(answer: &Answer) {
    let origin = answer.headers.get("access-control-allow-origin");
    assert_eq!(origin.and_then(|value| value.to_str().ok()), Some("*"), "{answer:?}");
}

#[tokio::test]
async fn an_unknown_route_and_a_wrong_method_are_told_apart() {
    let world = World::shared().await;
    for path in ["/account", "/account/create/", "/Account/create", "/../etc/passwd", "/%00"] {
        let answer = world.auth().post(path, "{}").await;
        println!("authd {path}");
        answer.refused(Code::NoSuchRoute);
        open_to_browsers(&answer);
    }
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::PATCH] {
        for (path, border) in [("/device/rotate", world.auth()), ("/foo/bar", world.app("rust"))] {
            println!("{method} {path}");
            let answer = border.method(method.clone(), path).await;
            answer.refused(Code::MethodNotAllowed);
            open_to_browsers(&answer);
        }
    }
    let answer = world.keys().get("/nothing/here").await;
    answer.refused(Code::NoSuchRoute);
    open_to_browsers(&answer);
    world.keys().post("/keys", "{}").await.refused(Code::MethodNotAllowed);
}

/// A browser asks first, on any path.
#[tokio::test]
async fn every_path_answers_a_preflight() {
    let world = World::shared().await;
    for (name, border) in borders(&world) {
        for path in ["/", "/device/rotate", "/foo/bar", "/keys", "/no/such/path"] {
            let answer = border.method(Method::OPTIONS, path).await;
            println!("{name} {path}");
            assert_eq!(answer.status, 200);
            open_to_browsers(&answer);
            let allowed = |name: &str| answer.headers.get(name).unwrap().to_str().unwrap().to_owned();
            assert_eq!(allowed("access-control-allow-methods"), "POST, GET, OPTIONS");
            assert_eq!(allowed("access-control-allow-headers"), "Content-Type, Authorization");
        }
    }
}

#[tokio::test]
async fn a_refusal_has_its_code_and_opens_to_browsers() {
    let world = World::shared().await;
    for (border, path) in [(world.auth(), "/device/rotate"), (world.app("rust"), "/foo/bar")] {
        let answer = border.post(path, "{}").await;
        answer.refused(Code::InvalidMessage);
        open_to_browsers(&answer);
        assert_eq!(answer.headers["content-type"], "application/json");
    }
}

#[tokio::test]
async fn a_body_is_bounded_everywhere() {
    let world = World::shared().await;
    for (border, path) in [(world.auth(), "/device/rotate"), (world.app("rust"), "/foo/bar")] {
        let answer = border.post(path, vec![b' '; 10_000_000]).await;
        answer.refused(Code::TooLarge);
        open_to_browsers(&answer);
    }
}

/// A key that is none, or that nobody published.
#[tokio::test]
async fn the_directory_tells_no_more_than_it_publishes() {
    let world = World::shared().await;
    let keys = world.keys();
    let stranger = tests::craft::key().public_key();
    for path in [format!("/keys/{stranger}"), "/keys/*".to_owned(), "/keys/1AAI".to_owned()] {
        let answer = keys.get(&path).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.body);
        open_to_browsers(&answer);
    }
}
