//! What passes an edge, and what does not.

use std::time::Duration;

use crate::support::clock;
use keychain::Code;
use tokio::io::AsyncWriteExt as _;

use crate::support::fixture::{Session, key};
use crate::support::world::{INNER, World, ago, url};

#[tokio::test(flavor = "multi_thread")]
async fn a_genuine_request_reaches_the_app_and_its_answer_comes_back_signed() {
    let world = World::start().await;
    let session = world.session(200);
    let nonce = world.nonce();
    let body = session.request(nonce, clock::now(), INNER);
    let request = world
        .client()
        .post(url("/foo/bar?x=1"))
        .header("keelson-identity", "EVIL")
        .header("Keelson-Device", "EVIL")
        .header("keelson_attributes", "EVIL")
        .header("keelson-edge-secret", "EVIL")
        .header("x-forwarded-for", "1.2.3.4")
        .header("x-allowed", "yes")
        .header("te", "trailers")
        .header("cookie", "a=b")
        .header("authorization", "Bearer x")
        .body(body.clone());
    let answer = world.send(request).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    assert_eq!(world.verified(&answer, &nonce).await, INNER);
    let asked = world.app.asked().pop().unwrap();
    assert_eq!((asked.place.as_str(), asked.body.as_str()), ("/foo/bar?x=1", INNER));
    let identity = session.claims.identity.to_string();
    assert_eq!(asked.header("keelson-identity"), [identity.as_str()]);
    assert_eq!(asked.header("keelson-device"), [session.claims.device.to_string().as_str()]);
    assert_eq!(asked.header("keelson-nonce"), [nonce.to_string().as_str()]);
    assert_eq!(asked.header("keelson-attributes"), [r#"{"permissionsByRole":{"user":["read"]}}"#]);
    assert_eq!(asked.header("x-allowed"), ["yes"]);
    assert_eq!(asked.header("content-type"), ["application/json"]);
    for dropped in
        ["keelson_attributes", "keelson-edge-secret", "x-forwarded-for", "te", "cookie", "authorization"]
    {
        assert!(asked.header(dropped).is_empty(), "{dropped}: {asked:?}");
    }
    let again = world.post("/foo/bar", body).await;
    assert_eq!((again.status, again.code().as_str()), (409, "BA205"));
    assert!(world.app.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_its_code_and_status_and_open_cors_and_never_reaches_the_app() {
    let world = World::start_with("max_request = \"64KiB\"").await;
    let session = world.session(200);
    let stranger = Session::open(&key(199), 200, ago(1));
    let expired = Session::open(&world.authd, 200, ago(16 * 60));
    let forged = Session { key: key(201), claims: session.claims.clone(), token: session.token.clone() };
    let good = || world.request(&session, INNER);
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    for (place, body, code) in [
        ("/foo/bar", String::new(), Code::InvalidMessage),
        ("/foo/bar", "\0".repeat(100), Code::InvalidMessage),
        ("/foo/bar", "[".repeat(60_000), Code::InvalidMessage),
        ("/foo/bar", world.request(&session, &deep), Code::InvalidMessage),
        (
            "/foo/bar",
            good().replace("\"signature\"", "\"signature\":\"\",\"signature\""),
            Code::InvalidMessage,
        ),
        ("/foo/bar", " ".repeat(65 * 1024), Code::TooLarge),
        ("/foo/bar", "x".repeat(10 << 20), Code::TooLarge),
        ("/foo//bar", good(), Code::InvalidMessage),
        ("/%66oo/bar", good(), Code::InvalidMessage),
        ("/foo/bar", good().replace(INNER, r#"{"foo":2}"#), Code::BadSignature),
        ("/foo/bar", world.request(&forged, INNER), Code::BadSignature),
        ("/foo/bar", world.request(&stranger, INNER), Code::UnknownKey),
        ("/foo/bar", world.request(&expired, INNER), Code::ExpiredToken),
        ("/foo/bar", session.request(world.nonce(), ago(31), INNER), Code::StaleRequest),
        (
            "/foo/bar",
            session.request(world.nonce(), clock::now().plus(Duration::from_secs(9)), INNER),
            Code::FutureRequest,
        ),
        ("/admin/x", good(), Code::Forbidden),
        ("/ADMIN/x/", good(), Code::Forbidden),
        (
            "/foo/bar",
            session.request_to("https://a/foo/bar", world.nonce(), clock::now(), INNER),
            Code::AudienceMismatch,
        ),
    ] {
        let answer = world.post(place, body).await;
        assert_eq!((answer.code().as_str(), answer.status), (code.as_str(), code.status()), "{place} {code}");
        assert_eq!(answer.headers["access-control-allow-origin"], "*", "{code}");
        assert_eq!(answer.headers["content-type"], "application/json", "{code}");
    }
    let not_text = world.post("/foo/bar", b"{\"payload\":\"\xff\"}".to_vec()).await;
    assert_eq!((not_text.code().as_str(), not_text.status), ("BA101", 400));
    let get = world.send(world.client().get(url("/foo/bar"))).await;
    assert_eq!((get.code().as_str(), get.status), ("BA107", 405));
    assert_eq!(get.headers["access-control-allow-origin"], "*");
    assert!(world.app.asked().is_empty());
    assert_eq!(world.ask(&session).await.status, 200);
    let metrics = world.metrics().await;
    assert!(metrics.contains("edge_decisions_total{decision=\"refused\",code=\"BA206\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_may_ask_from_everywhere() {
    let world = World::start().await;
    for place in ["/", "/foo/bar", "/no/such"] {
        let answer = world.send(world.client().request(reqwest::Method::OPTIONS, url(place))).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["access-control-allow-origin"], "*");
        assert_eq!(answer.headers["access-control-allow-methods"], "POST, GET, OPTIONS");
        assert_eq!(answer.headers["access-control-allow-headers"], "Content-Type, Authorization");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_reach_the_device_as_every_client_respells_them_or_not_at_all() {
    let world = World::start_with("max_answer = \"1KiB\"").await;
    let session = world.session(200);
    let ok = Code::BadAnswer;
    for (status, body, expected) in [
        (
            200,
            r#" { "b" : 1.0 , "10":1e2, "9":"\u00e9" } "#.to_owned(),
            Ok((200, r#"{"9":"é","10":100,"b":1}"#)),
        ),
        (201, "{}".to_owned(), Ok((200, "{}"))),
        (404, r#"{"error":"no"}"#.to_owned(), Ok((404, r#"{"error":"no"}"#))),
        (500, "null".to_owned(), Ok((500, "null"))),
        (302, "{}".to_owned(), Err(ok)),
        (200, String::new(), Err(ok)),
        (200, "oops".to_owned(), Err(ok)),
        (404, "<html>".to_owned(), Ok((404, "{}"))),
        (503, String::new(), Ok((503, "{}"))),
        (404, "9007199254740993".to_owned(), Err(ok)),
        (200, "9007199254740993".to_owned(), Err(ok)),
        (200, "1e400".to_owned(), Err(ok)),
        (200, r#""\ud800""#.to_owned(), Err(ok)),
        (200, "[".repeat(300), Err(ok)),
        (200, format!("\"{}\"", "a".repeat(2_000)), Err(ok)),
    ] {
        world.app.answer_with("/a", status, body.clone(), Duration::ZERO);
        let nonce = world.nonce();
        let answer = world.post("/a", session.request(nonce, clock::now(), INNER)).await;
        match expected {
            Ok((status, json)) => {
                assert_eq!(answer.status, status, "{body}: {}", answer.body);
                assert_eq!(world.verified(&answer, &nonce).await, json);
            }
            Err(code) => assert_eq!((answer.status, answer.code().as_str()), (502, code.as_str()), "{body}"),
        }
    }
    world.app.answer_with("/a", 200, b"\"\xff\"".to_vec(), Duration::ZERO);
    assert_eq!(world.post("/a", world.request(&session, INNER)).await.code(), "BA701");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_is_slow_or_gone_is_a_502() {
    let world = World::start().await;
    let session = world.session(200);
    world.app.answer_with("/slow", 200, "{}", Duration::from_secs(20));
    let slow = world.post("/slow", world.request(&session, INNER)).await;
    assert_eq!((slow.status, slow.code().as_str()), (502, "BA702"));
    world.app.stop().await;
    let gone = world.post("/foo/bar", world.request(&session, INNER)).await;
    assert_eq!((gone.status, gone.code().as_str()), (502, "BA702"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_edge_finishes_what_it_began() {
    let mut world = World::start().await;
    let session = world.session(200);
    world.app.answer_with("/slow", 200, "{}", Duration::from_secs(1));
    let asking = tokio::spawn({
        let request = world.client().post(url("/slow")).body(world.request(&session, INNER));
        request.send()
    });
    crate::support::until("the app to be asked", async || world.app.asked().pop()).await;
    world.edge.terminate();
    assert_eq!(asking.await.unwrap().unwrap().status(), 200);
    assert!(world.edge.ended().await.success());
}

/// Connections whose senders never get to the end of their bodies.
async fn dawdlers(world: &World, count: usize, head: &str) -> Vec<tokio::net::UnixStream> {
    let mut dawdlers = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = tokio::net::UnixStream::connect(world.socket()).await.unwrap();
        let begun = format!("POST /foo/bar HTTP/1.1\r\nhost: edge\r\n{head}\r\n\r\n");
        stream.write_all(begun.as_bytes()).await.unwrap();
        dawdlers.push(stream);
    }
    dawdlers
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_who_dawdle_stand_in_nobodys_way() {
    let world = World::start().await;
    let session = world.session(200);
    let short = dawdlers(&world, 600, "content-length: 100").await;
    assert_eq!(world.ask(&session).await.status, 200);
    drop(short);
    let _long = dawdlers(&world, 300, "transfer-encoding: chunked").await;
    let padded = format!("{}{}", " ".repeat(20_000), world.request(&session, INNER));
    crate::support::until("the places of long bodies to be taken", async || {
        (world.post("/foo/bar", padded.clone()).await.code() == "BA603").then_some(())
    })
    .await;
    assert_eq!(world.ask(&session).await.status, 200);
}
