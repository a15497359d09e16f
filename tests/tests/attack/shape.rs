//! Messages that are no messages (`PROTOCOL.md#signed-messages`).

use keychain::error::Code;
use tests::World;
use tests::craft::{Device, Keys, key, message, payload, seal};
use tests::http::Http;

/// A valid message for each signed operation, with its path.
async fn valid_messages(auth: &Http) -> Vec<(&'static str, String)> {
    let mut device = Device::create(auth).await;
    device.open_session(auth).await;
    let (keys, other) = (device.keys.ahead(), device.another());
    let refresh = device.session().keys.ahead();
    let challenge = device.challenge(auth).await;
    let new = Device::draw();
    let gated = |request: String| message(&request, &keys.current);
    vec![
        ("/account/create", message(&new.create_request(), &new.keys.current)),
        ("/account/recover", message(&other.recover_request(&key()), &other.recovery)),
        ("/account/delete", gated(device.rotate_request(&keys))),
        (
            "/session/create",
            message(&device.session_request(&Keys::draw(), &challenge), &device.keys.current),
        ),
        ("/session/refresh", message(&device.session().refresh_request(&refresh), &refresh.current)),
        ("/device/rotate", gated(device.rotate_request(&keys))),
        ("/device/link", gated(device.link_request(&keys, &other.link_container()))),
        ("/device/unlink", gated(device.unlink_request(&keys, &device.device))),
        ("/recovery/change", gated(device.change_request(&keys, &key()))),
    ]
}

type Spoil = fn(&str) -> Vec<u8>;

/// What a signed message is turned into, and how that must be refused.
const SPOILT: [(&str, Spoil, Code); 22] = [
    ("empty body", |_| Vec::new(), Code::InvalidMessage),
    ("null", |_| b"null".to_vec(), Code::InvalidMessage),
    ("a list", |text| format!("[{text}]").into(), Code::InvalidMessage),
    ("an empty object", |_| b"{}".to_vec(), Code::InvalidMessage),
    ("cut short", |text| text[..text.len() - 1].into(), Code::InvalidMessage),
    ("something after it", |text| format!("{text}{{}}").into(), Code::InvalidMessage),
    ("a byte order mark", |text| format!("\u{feff}{text}").into(), Code::InvalidMessage),
    (
        "not UTF-8",
        |text| text.replace("publicKey", "public\u{1}ey").bytes().map(not_utf8).collect(),
        Code::InvalidMessage,
    ),
    ("a NUL in a name", |text| text.replace("publicKey", "publicKey\0").into(), Code::InvalidMessage),
    (
        "a NUL escaped in a value",
        |text| text.replacen("\"1AAI", "\"\\u00001AAI", 1).into(),
        Code::InvalidMessage,
    ),
    (
        "payload twice",
        |text| text.replacen("{\"payload\":", "{\"payload\":{},\"payload\":", 1).into(),
        Code::InvalidMessage,
    ),
    (
        "nonce twice",
        |text| text.replacen("{\"nonce\":", "{\"nonce\":\"\",\"nonce\":", 1).into(),
        Code::InvalidMessage,
    ),
    ("an unknown member outside", |text| text.replacen('{', "{\"x\":1,", 1).into(), Code::InvalidMessage),
    (
        "an unknown member in access",
        |text| text.replacen("{\"nonce\":", "{\"x\":1,\"nonce\":", 1).into(),
        Code::InvalidMessage,
    ),
    (
        "no signature",
        |text| {
            text.split(",\"signature\"")
                .next()
                .unwrap()
                .to_owned()
                .into_bytes()
                .into_iter()
                .chain(*b"}")
                .collect()
        },
        Code::InvalidMessage,
    ),
    ("an empty signature", |text| with_signature(text, ""), Code::InvalidMessage),
    (
        "a signature one character short",
        |text| with_signature(text, &"0I".repeat(44)[..87]),
        Code::InvalidMessage,
    ),
    (
        "a signature one character long",
        |text| with_signature(text, &format!("0I{}", "A".repeat(87))),
        Code::InvalidMessage,
    ),
    (
        "a signature that does not begin with 0I",
        |text| with_signature(text, &"A".repeat(88)),
        Code::InvalidMessage,
    ),
    (
        "a signature of zeroes",
        |text| with_signature(text, &format!("0I{}", "A".repeat(86))),
        Code::BadSignature,
    ),
    (
        "white space inside what is signed",
        |text| text.replacen("\"request\":{", "\"request\": {", 1).into(),
        Code::BadSignature,
    ),
    ("another nonce than the signed one", |text| other_nonce(text).into_bytes(), Code::BadSignature),
];

fn not_utf8(byte: u8) -> u8 {
    if byte == 1 { 0xff } else { byte }
}

fn with_signature(text: &str, signature: &str) -> Vec<u8> {
    let (payload, _) = text.rsplit_once(",\"signature\":").unwrap();
    format!("{payload},\"signature\":\"{signature}\"}}").into()
}

fn other_nonce(text: &str) -> String {
    let at = text.find("\"0A").unwrap() + 5;
    let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
    format!("{}{other}{}", &text[..at], &text[at + 1..])
}

#[tokio::test]
async fn nothing_but_a_whole_signed_message_is_read() {
    let world = World::shared().await;
    let auth = world.auth();
    for (path, valid) in valid_messages(&auth).await {
        for (what, spoil, code) in SPOILT {
            println!("{path}: {what}");
            auth.post(path, spoil(&valid)).await.refused(code);
        }
    }
}

/// Ten megabytes, and one byte more than the bound, which is 64 KiB.
#[tokio::test]
async fn a_message_is_bounded() {
    let world = World::shared().await;
    let auth = world.auth();
    for (path, valid) in valid_messages(&auth).await {
        for length in [65_537, 10_000_000] {
            let padded = format!("{valid}{}", " ".repeat(length - valid.len()));
            auth.post(path, padded).await.refused(Code::TooLarge);
        }
    }
}

/// Nesting as deep as the bound allows costs no stack.
#[tokio::test]
async fn depth_is_bounded() {
    let world = World::shared().await;
    let auth = world.auth();
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    let objects = format!("{}1{}", "{\"a\":".repeat(6_000), "}".repeat(6_000));
    for request in [deep, objects] {
        let signer = key();
        auth.post("/account/create", message(&request, &signer)).await.refused(Code::InvalidMessage);
        let body = format!(r#"{{"payload":{request},"signature":"0I{}"}}"#, "A".repeat(86));
        auth.post("/device/rotate", body).await.refused(Code::InvalidMessage);
    }
    world.app("rust").post("/foo/bar", "[".repeat(200_000)).await.refused(Code::InvalidMessage);
}

/// Primitives that are nearly right (`PROTOCOL.md#primitives`), in messages that are signed well.
#[tokio::test]
async fn primitives_have_one_spelling() {
    let world = World::shared().await;
    let auth = world.auth();
    let device = Device::draw();
    let public_key = device.keys.public_key().to_string();
    let hash = device.keys.rotation_hash().to_string();
    let off_curve = format!("1AAI{}", "_".repeat(44));
    let uncompressed_lead = public_key.replacen("1AAI", "1AAJ", 1);
    let spoilt = [
        (public_key.as_str(), off_curve.as_str()),
        (&public_key, &uncompressed_lead),
        (&public_key, ""),
        (&public_key, &public_key[..47]),
        (&hash, ""),
        (&hash, &hash[..43]),
        (&hash, &hash.replacen('E', "F", 1)),
        (&hash, &format!("{hash}=")),
        (&hash, &format!(" {hash}")),
        (&hash, &format!("{}+", &hash[..43])),
    ];
    for (right, wrong) in spoilt {
        let request = device.create_request().replace(right, wrong);
        println!("{wrong}");
        auth.post("/account/create", message(&request, &device.keys.current))
            .await
            .refused(Code::InvalidMessage);
    }
    // Right after all: nothing of the above was kept.
    let whole = message(&device.create_request(), &device.keys.current);
    auth.post("/account/create", whole).await.response();
}

/// A challenge is asked for without a signature; one that comes with any is not that message.
#[tokio::test]
async fn a_request_for_a_challenge_is_unsigned() {
    let world = World::shared().await;
    let auth = world.auth();
    let device = Device::create(&auth).await;
    let request = format!(r#"{{"authentication":{{"identity":"{}"}}}}"#, device.identity);
    let signed = seal(&payload(&request), &device.keys.current);
    auth.post("/session/request", signed).await.refused(Code::InvalidMessage);
    for spoilt in ["", "{}", r#"{"authentication":{}}"#, r#"{"authentication":{"identity":""}}"#] {
        let body = format!(r#"{{"payload":{}}}"#, payload(if spoilt.is_empty() { "null" } else { spoilt }));
        auth.post("/session/request", body).await.refused(Code::InvalidMessage);
    }
}
