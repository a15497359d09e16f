//! Bad input and strangers at the HTTP border: each gets its code and status, and changes nothing.

use std::time::Duration;

use keychain::endorsement::Purpose;

use crate::support::{
    daemon::{raw, request, try_request},
    world::{Database, World, now, service_key, sign_request, verify},
};

const HOUR: Duration = Duration::from_hours(1);

#[test]
fn bad_input_is_refused_with_its_code() {
    let world = World::new(Database::Sqlite);
    let _hsmd = world.start();
    let good = sign_request(Purpose::Response, service_key(1), HOUR);
    let key = service_key(1).to_string();
    let edited = |from: &str, to: &str| good.replacen(from, to, 1).into_bytes();
    let expires = |life: Duration| sign_request(Purpose::Response, service_key(1), life).into_bytes();
    let past = good.replace(&good[good.len() - 27..good.len() - 3], &now().minus(HOUR).to_string());
    let deep = [b"[".repeat(2000), b"]".repeat(2000)].concat();
    let off_curve = format!("1AAI{}", "A".repeat(44));
    for (what, path, body, status, code) in [
        ("empty", "/sign", vec![], 400, "BA101"),
        ("no JSON", "/sign", b"hello".to_vec(), 400, "BA101"),
        ("an array", "/sign", b"[]".to_vec(), 400, "BA101"),
        ("deep", "/sign", deep, 400, "BA101"),
        ("huge", "/sign", vec![b' '; 10 << 20], 413, "BA105"),
        ("just too long", "/sign", vec![b' '; 4097], 413, "BA105"),
        (
            "not UTF-8",
            "/sign",
            edited("response", "resp\u{0}nse").into_iter().map(|b| b | 0x80).collect(),
            400,
            "BA101",
        ),
        ("NUL", "/sign", edited("response", "respons\u{0}"), 400, "BA101"),
        ("escaped NUL", "/sign", edited("response", "respons\\u0000"), 400, "BA101"),
        ("another purpose", "/sign", edited("response", "key-authorization"), 400, "BA101"),
        ("purpose in capitals", "/sign", edited("response", "Response"), 400, "BA101"),
        ("access for an edge", "/sign", edited("response", "access"), 403, "BA303"),
        (
            "duplicate member",
            "/sign",
            edited("\"purpose\"", "\"purpose\":\"access\",\"purpose\""),
            400,
            "BA101",
        ),
        ("own service", "/sign", edited("\"purpose\"", "\"service\":\"authd\",\"purpose\""), 400, "BA101"),
        ("extra outside", "/sign", edited("{\"payload\"", "{\"x\":1,\"payload\""), 400, "BA101"),
        ("trailing", "/sign", edited("}}", "}}}"), 400, "BA101"),
        ("no key", "/sign", edited(&key, ""), 400, "BA101"),
        ("key off the curve", "/sign", edited(&key, &off_curve), 400, "BA101"),
        ("key in another case", "/sign", edited(&key, &key.to_lowercase()), 400, "BA101"),
        ("past", "/sign", past.into_bytes(), 400, "BA101"),
        ("now", "/sign", expires(Duration::ZERO), 400, "BA101"),
        ("too long a life", "/sign", expires(HOUR + Duration::from_secs(7)), 403, "BA303"),
        ("the year 9999", "/sign", expires(Duration::MAX), 403, "BA303"),
    ] {
        let answer = try_request(&world.socket("edge"), "POST", path, &body).expect(what);
        assert_eq!((answer.status, answer.code()), (status, code), "{what}");
    }
    let newest = world.chain()[0].id();
    let [no_reason, line_break] =
        ["{}", "\"a\\nb\""].map(|reason| format!("{{\"generationId\":\"{newest}\",\"reason\":{reason}}}"));
    for (what, path, body, status, code) in [
        ("no digest", "/rotate", "{\"from\":\"x\"}", 400, "BA101"),
        ("no text", "/rotate", "{\"from\":1}", 400, "BA101"),
        ("unknown member", "/rotate", "{\"to\":\"x\"}", 400, "BA101"),
        ("taint's member", "/rotate", "{\"reason\":\"x\"}", 400, "BA101"),
        ("no object", "/taint", "null", 400, "BA101"),
        ("no generation", "/taint", "{ }", 400, "BA101"),
        ("no body", "/taint", "", 400, "BA101"),
        ("only a reason", "/taint", "{\"reason\":\"x\"}", 400, "BA101"),
        ("no digest to taint", "/taint", "{\"generationId\":\"newest\"}", 400, "BA101"),
        ("no reason", "/taint", no_reason.as_str(), 400, "BA101"),
        ("a line break", "/taint", line_break.as_str(), 400, "BA101"),
        ("no time", "/clock", "{}", 400, "BA101"),
        ("no date", "/clock", "{\"time\":\"now\"}", 400, "BA101"),
        ("sign here", "/sign", "{}", 404, "BA106"),
    ] {
        let answer = request(&world.socket("admin"), "POST", path, body);
        assert_eq!((answer.status, answer.code()), (status, code), "{what}");
    }
    let long = format!("{{\"generationId\":\"{newest}\",\"reason\":\"{}\"}}", "a".repeat(501));
    assert_eq!(request(&world.socket("admin"), "POST", "/taint", &long).code(), "BA101");
    assert_eq!(world.chain().len(), 1, "nothing changed");
}

#[test]
fn only_post_changes_anything() {
    let world = World::new(Database::Sqlite);
    let _hsmd = world.start();
    for (socket, path) in
        [("edge", "/sign"), ("admin", "/recover"), ("admin", "/rotate"), ("admin", "/taint")]
    {
        for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "post", "ROTATE"] {
            let answer = request(&world.socket(socket), method, path, "");
            assert_eq!((answer.status, answer.code()), (405, "BA107"), "{method} {path}");
        }
        assert_eq!(request(&world.socket(socket), "HEAD", path, "").status, 405, "HEAD {path}");
    }
    for (method, path, status) in [
        ("POST", "/chain", 405),
        ("POST", "/health", 405),
        ("GET", "/", 404),
        ("GET", "/rotate", 404),
        ("POST", "/rotate", 404),
        ("POST", "/taint", 404),
        ("GET", "/chain/", 404),
        ("GET", "/chain?after=-1", 400),
        ("GET", "/chain?after=0&wait=61", 400),
        ("GET", "/chain?before=1", 400),
        ("GET", "/chain?after=18446744073709551616", 400),
    ] {
        assert_eq!(request(&world.socket("edge"), method, path, "").status, status, "{method} {path}");
    }
    for bytes in [&b"\0\0\0\0\r\n\r\n"[..], b"GET /chain HTTP/9.9\r\n\r\n", &vec![0xff; 70_000]] {
        let answer = raw(&world.socket("edge"), bytes);
        assert!(answer.as_ref().is_ok_and(|answer| answer.status >= 400) || answer.is_err(), "{answer:?}");
    }
    assert_eq!(world.chain().len(), 1);
}

/// Which service a caller is, is the socket's and the kernel's word; a caller that no rule names gets
/// nothing, before its request is looked at.
#[test]
fn strangers_get_nothing() {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    let body = sign_request(Purpose::Response, service_key(1), HOUR);
    for (socket, path, body) in
        [("other", "/sign", body.as_str()), ("other", "/sign", ""), ("other-admin", "/rotate", "{}")]
    {
        let answer = request(&world.socket(socket), "POST", path, body);
        assert_eq!((answer.status, answer.code()), (403, "BA303"), "{socket}");
    }
    assert_eq!(request(&world.socket("other-admin"), "POST", "/taint", "{}").code(), "BA303");
    assert_eq!(world.chain().len(), 1);
    // The chain and the health are open to every caller that may connect: they are public.
    request(&world.socket("other"), "GET", "/chain", "").ok();
    let health = request(&world.socket("other"), "GET", "/health", "").ok();
    let identity = world.chain()[0].id();
    assert!(
        health.starts_with("{\"status\":\"healthy\"") && health.contains(&identity.to_string()),
        "{health}"
    );
    hsmd.stop();
}

#[test]
fn no_network_socket_is_opened_but_the_insecure_one() {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    assert_eq!(network_sockets(hsmd.pid()), 0);
    hsmd.stop();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    world.configure(&format!("insecure_plain_http_endorse = \"{free}\""));
    let _hsmd = world.start();
    let post = |body: &str| {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(free).unwrap();
        let head = format!(
            "POST /sign HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let key = service_key(3);
    let answer = post(&sign_request(Purpose::Response, key, HOUR));
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    verify(body, &world.chain(), Purpose::Response, &key, "edge:insecure");
    assert!(post(&sign_request(Purpose::Access, key, HOUR)).contains("BA303"));
    world.configure("insecure_plain_http_endorse = \"0.0.0.0:8082\"");
    let mut refused = world.spawn();
    assert_eq!(refused.ready().unwrap_err().code(), Some(78));
}

#[test]
fn metrics_and_health_have_a_socket_of_their_own() {
    let world = World::new(Database::Sqlite);
    let _hsmd = world.start();
    let body = sign_request(Purpose::Response, service_key(1), HOUR);
    request(&world.socket("edge"), "POST", "/sign", &body).ok();
    world.rotate("{}");
    let page = request(&world.socket("metrics"), "GET", "/metrics", "").ok();
    for line in [
        "hsmd_sign_duration_seconds_count{op=\"sign\",result=\"ok\"} 1",
        "hsmd_sign_duration_seconds_count{op=\"rotate\",result=\"ok\"} 1",
        "hsmd_token_up 1",
        "hsmd_token_objects{state=\"live\"} 1",
        "hsmd_token_objects{state=\"next\"} 1",
        "hsmd_token_objects{state=\"retired\"} 0",
        "hsmd_chain_sequence 1",
        "hsmd_key_created_timestamp_seconds 1",
        // After each event a head is made and the token's room asked for, perhaps just now.
        "hsmd_queue_depth{class=\"chain\"} ",
        "hsmd_queue_depth{class=\"statement\"} ",
        "hsmd_queue_depth{class=\"endorsement\"} 0",
        "hsmd_queue_depth{class=\"probe\"} ",
        "hsmd_build_info{",
    ] {
        assert!(page.contains(line), "{line}");
    }
    request(&world.socket("metrics"), "GET", "/readyz", "").ok();
}

/// Sockets of address families other than AF_UNIX that a process holds.
fn network_sockets(pid: u32) -> usize {
    let inodes: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    assert!(!inodes.is_empty());
    let tables = ["tcp", "tcp6", "udp", "udp6", "raw", "netlink"];
    let tables =
        tables.map(|name| std::fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default());
    inodes
        .iter()
        .filter(|inode| tables.iter().any(|table| table.split_whitespace().any(|word| word == *inode)))
        .count()
}
