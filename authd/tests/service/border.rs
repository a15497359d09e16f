//! What no device would send: at every route, with its code, and nothing changed.

use authd::operation::owner;
use keychain::Code;
use keychain::message::Operation;
use reqwest::Method;
use tests::craft::{Device, Keys, message, payload};

use crate::stage::{Stage, gated};

crate::on_both!(
    malformed_bodies_are_refused_at_every_operation,
    malformed_members_are_refused,
    large_bodies_are_refused_before_they_are_read,
    routes_methods_and_browsers,
    every_answer_names_its_request_and_is_not_kept,
    documents_say_what_there_is,
    health_says_what_is_wrong,
);

async fn malformed_bodies_are_refused_at_every_operation(stage: Stage) {
    let device = Device::create(&stage.auth).await;
    let request = device.rotate_request(&device.keys);
    let (inner, good) = (payload(&request), message(&request, &device.keys.current));
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(4_000), close.repeat(4_000));
    let bodies: Vec<Vec<u8>> = [
        String::new(),
        "\0".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "\"\"".to_owned(),
        "{}".to_owned(),
        "{\"payload\":{}}".to_owned(),
        "{\"payload\":[],\"signature\":\"\"}".to_owned(),
        format!("[{good}]"),
        format!("{good}{good}"),
        format!("{good}x"),
        format!("\u{feff}{good}"),
        good.replacen("{\"payload\"", "{\"extra\":1,\"payload\"", 1),
        good.replacen("{\"payload\"", "{\"payload\":{},\"payload\"", 1),
        good.replacen("\"signature\"", "\"signature\":\"0I\",\"signature\"", 1),
        good.replacen("{\"access\"", "{\"access\":{},\"access\"", 1),
        good.replacen("\"request\":{", "\"request\":[", 1),
        deep("{\"payload\":", "}"),
        deep("[", "]"),
        format!("{{\"payload\":{inner},\"signature\":null}}"),
        format!("{{\"payload\":{inner},\"signature\":[\"0I\"]}}"),
    ]
    .into_iter()
    .map(String::into_bytes)
    .chain([good.clone().into_bytes().into_iter().chain([0xff]).collect(), vec![0xff; 100], vec![0; 60_000]])
    .collect();
    for operation in Operation::ALL {
        for body in &bodies {
            stage.refuses(operation.path(), body.clone(), Code::InvalidMessage).await;
        }
    }
}

async fn malformed_members_are_refused(stage: Stage) {
    let device = Device::create(&stage.auth).await;
    let (good, request, keys) = gated(&device, Device::rotate_request);
    let key = keys.public_key().to_string();
    let hash = keys.rotation_hash().to_string();
    // Right length and alphabet, but x is no point's: of these last letters, some must be off the curve.
    let off_curve = (b'A'..=b'Z')
        .map(|last| format!("{}{}", &key[..47], char::from(last)))
        .find(|text| keychain::PublicKey::parse(text).is_err())
        .unwrap();
    for (member, bad) in [
        (&key, String::new()),
        (&key, key[..47].to_owned()),
        (&key, format!("{key}A")),
        (&key, key.replacen("1AAI", "1AAJ", 1)),
        (&key, off_curve),
        (&key, "\\u0000".repeat(48)),
        (&hash, String::new()),
        (&hash, hash[..43].to_owned()),
        (&hash, format!("{hash}=")),
        (&hash, hash.replacen('E', "F", 1)),
        (&hash, format!("{}+", &hash[..43])),
        (&hash, format!("{}\u{e9}", &hash[..43])),
        (&device.identity.to_string(), "identity".to_owned()),
        (&device.device.to_string(), "\\u0000".to_owned()),
    ] {
        let request = request.replacen(member.as_str(), &bad, 1);
        let answer = stage.auth.post("/device/rotate", message(&request, &keys.current)).await;
        assert_eq!(answer.status, 400, "{bad}: {}", answer.body);
    }
    for (member, bad) in [
        ("\"authentication\":{", "\"authentication\":[{"),
        ("\"device\":", "\"Device\":"),
        ("\"device\":", "\"device\":\"\",\"device\":"),
        ("\"device\":", "\"extra\":1,\"device\":"),
        ("\"device\":", "\"device\":1,\"other\":"),
    ] {
        let request = request.replacen(member, bad, 1);
        stage.refuses("/device/rotate", message(&request, &keys.current), Code::InvalidMessage).await;
    }
    let start = good.find("\"signature\":\"").unwrap() + 13;
    let signature = good[start..start + 88].to_owned();
    for bad in ["", "0I", &signature[..87], &format!("{signature}A"), &signature.replacen("0I", "0J", 1)] {
        let body = good.replacen(&signature, bad, 1);
        stage.refuses("/device/rotate", body, Code::InvalidMessage).await;
    }
    for bad in ["", "0A", &"A".repeat(24), &format!("0A{}", "A".repeat(23))] {
        let payload = format!(r#"{{"access":{{"nonce":"{bad}"}},"request":{request}}}"#);
        let body = tests::craft::seal(&payload, &keys.current);
        stage.refuses("/device/rotate", body, Code::InvalidMessage).await;
    }
    let create = message(&device.session_request(&Keys::draw(), "0A"), &device.keys.current);
    stage.refuses("/session/create", create, Code::InvalidMessage).await;
}

async fn large_bodies_are_refused_before_they_are_read(stage: Stage) {
    for operation in Operation::ALL {
        stage.refuses(operation.path(), vec![b' '; 64 * 1024 + 1], Code::TooLarge).await;
    }
    // Ten megabytes: the answer may come before the body has gone out, or the connection end with it.
    match stage.auth.try_post("/account/create", vec![b'{'; 10_000_000]).await {
        Ok(answer) => answer.refused(Code::TooLarge),
        Err(error) => assert!(error.is_request() || error.is_body(), "{error}"),
    }
    Device::create(&stage.auth).await;
}

async fn routes_methods_and_browsers(stage: Stage) {
    let auth = &stage.auth;
    let mut answers = vec![
        auth.get("/health").await,
        auth.get("/").await,
        auth.get("/nowhere").await,
        auth.post("/nowhere", "{}").await,
        auth.post("/account/create/", "{}").await,
        auth.post("/account/create", "{}").await,
    ];
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 200, 404, 404, 404, 400]);
    answers[2].refused(Code::NoSuchRoute);
    for operation in Operation::ALL {
        for method in [Method::GET, Method::PUT, Method::DELETE, Method::PATCH] {
            let answer = auth.method(method, operation.path()).await;
            answer.refused(Code::MethodNotAllowed);
            answers.push(answer);
        }
    }
    for path in ["/account/create", "/health", "/", "/nowhere", "/a/b/c"] {
        let answer = auth.method(Method::OPTIONS, path).await;
        assert_eq!(answer.status, 200, "{path}");
        let header = |name: &str| answer.headers.get(name).unwrap().to_str().unwrap();
        assert_eq!(header("access-control-allow-methods"), "POST, GET, OPTIONS");
        assert_eq!(header("access-control-allow-headers"), "Content-Type, Authorization");
        answers.push(answer);
    }
    for answer in answers {
        let origins: Vec<_> = answer.headers.get_all("access-control-allow-origin").iter().collect();
        assert_eq!(origins, ["*"], "{} {}", answer.status, answer.body);
    }
}

async fn every_answer_names_its_request_and_is_not_kept(stage: Stage) {
    let auth = &stage.auth;
    let mut ids = std::collections::BTreeSet::new();
    for answer in [
        auth.get("/health").await,
        auth.get("/nowhere").await,
        auth.get("/errors").await,
        auth.get("/openapi.json").await,
        auth.method(Method::HEAD, "/health").await,
        auth.method(Method::OPTIONS, "/health").await,
        auth.post("/account/create", "{}").await,
        auth.get("/account/create").await,
        auth.get_with("/health", "x-request-id", "mine").await,
    ] {
        assert_eq!(answer.header("cache-control"), "no-store", "{}", answer.body);
        let id = answer.header("x-request-id").to_owned();
        assert_eq!(id.len(), 32, "a stranger names no request: {id}");
        assert!(ids.insert(id), "{ids:?}");
        if answer.status >= 400 {
            assert_eq!(answer.header("link"), format!("</errors#{}>; rel=\"help\"", answer.code()));
        }
    }
    assert_eq!(auth.get("/account/create").await.header("allow"), "POST, OPTIONS");
    assert_eq!(auth.post("/health", "").await.header("allow"), "GET, HEAD, OPTIONS");
    let head = auth.method(Method::HEAD, "/health").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

async fn documents_say_what_there_is(stage: Stage) {
    let document = stage.auth.get("/openapi.json").await;
    assert_eq!(document.header("content-type"), "application/json");
    let (paths, owner) =
        (Operation::ALL.map(Operation::path), owner::Operation::ALL.map(owner::Operation::path));
    let paths = [&paths[..], &owner, &["/", "/errors", "/health", "/openapi.json"]].concat();
    tests::interface::check(&document.json(), env!("CARGO_PKG_VERSION"), &paths);
    let page = stage.auth.get("/errors").await;
    assert_eq!(page.header("content-type"), "text/markdown; charset=utf-8");
    for code in Code::ALL {
        assert!(page.body.contains(&format!("<a id=\"{}\"></a>", code.as_str())), "{code}");
    }
}

async fn health_says_what_is_wrong(stage: Stage) {
    let healthy = stage.auth.get("/health").await;
    assert_eq!(healthy.json(), serde_json::json!({"status": "healthy", "store": "ok", "keys": "ok"}));
    // Without a live generation there is no key to answer with, and nothing is decided.
    let device = Device::create(&stage.auth).await;
    stage.hsm.break_down();
    stage.hsm.rotate(true);
    stage.hsm.publish(&stage.directory).await;
    tests::until("authd to notice the taint", std::time::Duration::from_secs(20), || async {
        (stage.auth.get("/health").await.status == 503).then_some(())
    })
    .await;
    let (rotate, _, _) = gated(&device, Device::rotate_request);
    stage.refuses("/device/rotate", rotate, Code::Unavailable).await;
}
