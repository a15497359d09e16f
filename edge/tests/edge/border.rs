//! What every answer of an edge has, and what an edge tells about itself.

use keychain::Code;
use reqwest::Method;
use reqwest::header::HeaderMap;

use crate::support::clock;
use crate::support::world::{INNER, World, url};

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_one_name_in_its_answer_in_the_log_and_for_the_app() {
    let world = World::start_with("trusted_proxies = [\"unix\"]").await;
    let session = world.session(200);
    let body = session.request(world.nonce(), clock::now(), INNER);
    let request = world.client().post(url("/foo/bar")).header("x-request-id", "front-1").body(body);
    let answer = world.send(request.header("keelson-request", "EVIL")).await;
    assert_eq!((answer.status, header(&answer.headers, "x-request-id")), (200, "front-1"));
    assert_eq!(header(&answer.headers, "cache-control"), "no-store");
    let asked = world.app.asked().pop().unwrap();
    assert_eq!(asked.header("keelson-request"), ["front-1"]);
    let refused = world.client().post(url("/foo/bar")).header("x-request-id", "front-2").body("{}");
    let refused = world.send(refused).await;
    assert_eq!((refused.code().as_str(), header(&refused.headers, "x-request-id")), ("BA101", "front-2"));
    assert_eq!(header(&refused.headers, "cache-control"), "no-store");
    assert_eq!(header(&refused.headers, "link"), "</errors#BA101>; rel=\"help\"");
    crate::support::until("the refusal to be logged", async || {
        world.edge.log().contains("request=front-2 operation=\"access\" code=\"BA101\"").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_name_no_request_and_fill_no_log() {
    let world = World::start().await;
    let before = world.edge.log().lines().count();
    for _ in 0..300 {
        let request = world.client().post(url("/foo/bar")).header("x-request-id", "mine").body("{}");
        let answer = world.send(request).await;
        assert_eq!(answer.code(), Code::InvalidMessage.as_str());
        assert_eq!(header(&answer.headers, "x-request-id").len(), 32);
    }
    let log = world.edge.log();
    assert!(log.lines().count() < before + 20, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_read_and_everything_else_is_the_apps() {
    let world = World::start_with("default = \"deny\"").await;
    let document = world.send(world.client().get(url("/openapi.json"))).await;
    assert_eq!((document.status, header(&document.headers, "content-type")), (200, "application/json"));
    let paths = ["/errors", "/openapi.json", "/{path}"];
    tests::interface::check(
        &serde_json::from_str(&document.body).unwrap(),
        env!("CARGO_PKG_VERSION"),
        &paths,
    );
    let page = world.send(world.client().get(url("/errors"))).await;
    assert_eq!(page.body, keychain::error::PAGE);
    let head = world.send(world.client().head(url("/errors"))).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let answer = world.send(world.client().request(method, url("/foo/bar"))).await;
        assert_eq!((answer.status, header(&answer.headers, "allow")), (405, "POST, OPTIONS"));
    }
    // An app may have such a path too: it is asked with POST, as all of them.
    let session = world.session(200);
    let posted = world.client().post(url("/openapi.json")).body(world.request(&session, INNER));
    assert_eq!(world.send(posted).await.code(), Code::Forbidden.as_str());
    assert!(world.app.asked().is_empty());
}
