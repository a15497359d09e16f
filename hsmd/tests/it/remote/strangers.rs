//! Who gets what through the socket for other hosts.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use keychain::endorsement::Purpose;
use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};

use super::{Client, Remote, client::verdict};
use crate::support::{
    authority::Authority,
    world::{service_key, sign_request, verify},
};

const HOUR: Duration = Duration::from_hours(1);

fn body() -> String {
    sign_request(Purpose::Response, service_key(1), HOUR)
}

#[test]
fn a_caller_of_another_host_is_who_its_certificate_says() {
    let remote = Remote::new();
    let mut hsmd = remote.start();
    let authority = &remote.authority;
    let key = service_key(1);
    for (names, service) in [
        (&["URI:keelson:edge:far"][..], "edge:far"),
        (&["DNS:Edge-1.EXAMPLE"], "edge:one"),
        (&["DNS:unknown.example", "URI:keelson:edge:far"], "edge:far"),
    ] {
        let answer = remote.client(Some(&authority.client(names))).ask("POST", "/sign", &body());
        let text = answer.unwrap().ok();
        verify(&text, &remote.world.chain(), Purpose::Response, &key, service);
    }
    // A certificate of the right authority, but of no name that the policy knows: its common name, by the way,
    // is the name of a service.
    let far = "URI:keelson:edge:far";
    let many: Vec<_> = (0..17).map(|number| format!("DNS:h{number}.example")).collect();
    let many: Vec<_> = [far].into_iter().chain(many.iter().map(String::as_str)).collect();
    for names in [
        &[][..],
        &["URI:keelson:edge:demo"],
        &["URI:keelson:authd"],
        &["URI:KEELSON:edge:far"],
        &["URI:keelson:edge:far/x"],
        &["DNS:edge-2.example"],
        &["DNS:*.example"],
        &["DNS:keelson-edge-far"],
        &many,
    ] {
        let client = remote.client(Some(&authority.client(names)));
        assert_eq!(client.verdict("POST", "/sign", &body()), "403 BA303", "{names:?}");
        assert_eq!(client.verdict("POST", "/sign", "junk"), "403 BA303", "{names:?}");
    }
    // A known caller is judged as any other is.
    let client = remote.client(Some(&authority.client(&[far])));
    for (method, path, body, expected) in [
        ("POST", "/sign", sign_request(Purpose::Access, key, HOUR), "403 BA303"),
        ("POST", "/sign", sign_request(Purpose::Response, key, 13 * HOUR), "403 BA303"),
        ("POST", "/sign", "{}".to_owned(), "400 BA101"),
        ("POST", "/sign", " ".repeat(5000), "413 BA105"),
        ("GET", "/sign", String::new(), "405 BA107"),
        ("PUT", "/sign", body(), "405 BA107"),
        ("POST", "/rotate", "{}".to_owned(), "404 BA106"),
        ("POST", "/taint", "{}".to_owned(), "404 BA106"),
        ("POST", "/recover", "{}".to_owned(), "404 BA106"),
        ("GET", "/chain", String::new(), "200"),
        ("GET", "/health", String::new(), "200"),
    ] {
        assert_eq!(client.verdict(method, path, &body), expected, "{method} {path}");
    }
    assert_eq!(remote.world.chain().len(), 1);
    hsmd.stop();
}

#[test]
fn without_a_certificate_that_holds_nobody_gets_past_the_handshake() {
    let remote = Remote::new();
    let mut hsmd = remote.start();
    let (ours, other) = (&remote.authority, Authority::named("another"));
    let names = &["URI:keelson:edge:far"];
    let old = ours.client_with(2, names, |params| params.not_after = date_time_ymd(2021, 1, 1));
    let early = ours.client_with(3, names, |params| params.not_before = date_time_ymd(3000, 1, 1));
    let server = ours.client_with(4, names, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    for (what, issued, expected) in [
        ("none", None, "alert CertificateRequired"),
        ("another authority's", Some(other.client(names)), "alert UnknownCA"),
        ("another authority's of that name", Some(Authority::new().client(names)), "alert DecryptError"),
        ("expired", Some(old), "alert CertificateExpired"),
        ("not valid yet", Some(early), "alert CertificateExpired"),
        ("a server's", Some(server), "alert UnsupportedCertificate"),
    ] {
        let client = remote.client(issued.as_ref());
        assert_eq!(client.refusal(), expected, "{what}");
        for (method, path) in [("POST", "/sign"), ("GET", "/chain")] {
            assert!(client.ask(method, path, &body()).is_err(), "{what}");
        }
    }
    let good = ours.client(names);
    let old = Client::speaking(&[&rustls::version::TLS12], remote.address(), ours.pem(), Some(&good));
    assert_eq!(old.refusal(), "alert ProtocolVersion");
    // Plain HTTP is no handshake.
    let mut plain = TcpStream::connect(remote.address()).unwrap();
    plain.write_all(b"GET /chain HTTP/1.1\r\nHost: hsmd\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).ok();
    assert!(!answer.starts_with(b"HTTP"), "{}", answer.escape_ascii());
    assert_eq!(remote.client(Some(&good)).verdict("POST", "/sign", &body()), "200");
    hsmd.stop();
}

/// What a proxy adds to a request says nothing of who sent it.
#[test]
fn nothing_that_a_caller_says_about_itself_counts() {
    let remote = Remote::new();
    let mut hsmd = remote.start();
    let stranger = remote.client(Some(&remote.authority.client(&["DNS:proxy.example"])));
    let far = remote.client(Some(&remote.authority.client(&["URI:keelson:edge:far"])));
    let claims = "Forwarded: for=127.0.0.1;proto=https\r\nX-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\n\
                  X-Forwarded-User: authd\r\nX-Remote-User: authd\r\nX-Client-Cert: keelson:authd\r\n\
                  X-SSL-Client-S-DN: CN=keelson:authd\r\nX-SSL-Client-Verify: SUCCESS\r\n\
                  X-Forwarded-Client-Cert: URI=keelson:authd\r\nClient-Cert: :MIIB:\r\nX-Keelson-Service: authd\r\n\
                  Authorization: Bearer authd\r\nX-HTTP-Method-Override: POST\r\nX-Original-URL: /rotate\r\n";
    let answer = stranger.connect().ask("POST", "/sign", claims, &body());
    assert_eq!(verdict(answer), "403 BA303");
    let answer = far.connect().ask("POST", "/sign", claims, &body()).unwrap().ok();
    verify(&answer, &remote.world.chain(), Purpose::Response, &service_key(1), "edge:far");
    let access = sign_request(Purpose::Access, service_key(1), HOUR);
    assert_eq!(verdict(far.connect().ask("POST", "/sign", claims, &access)), "403 BA303");
    assert_eq!(verdict(far.connect().ask("GET", "/sign", claims, "")), "405 BA107");
    assert_eq!(remote.world.chain().len(), 1);
    hsmd.stop();
}

/// A proxy that carries every byte, and keeps what the client sent: what it replays or alters gets no answer.
#[test]
fn what_was_recorded_or_altered_on_the_way_is_worth_nothing() {
    let remote = Remote::new();
    let mut hsmd = remote.start();
    let upstream = remote.address();
    let carry = |alter: Option<usize>| {
        let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = proxy.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        std::thread::spawn(move || {
            let (mut client, _) = proxy.accept().unwrap();
            let mut server = TcpStream::connect(upstream).unwrap();
            let (mut back_from, mut back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back_from, &mut back_to).ok());
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = client.read(&mut piece) {
                let mut kept = kept.lock().unwrap();
                let start = kept.len();
                kept.extend_from_slice(&piece[..length]);
                if let Some(index) = alter.filter(|index| (start..start + length).contains(index)) {
                    piece[index - start] ^= 1;
                }
                if server.write_all(&piece[..length]).is_err() {
                    break;
                }
            }
        });
        (address, seen)
    };
    let issued = remote.authority.client(&["URI:keelson:edge:far"]);
    let through = |address| Client::new(address, remote.authority.pem(), Some(&issued));
    let (address, seen) = carry(None);
    assert_eq!(through(address).verdict("POST", "/sign", &body()), "200");
    let recorded = seen.lock().unwrap().clone();
    assert_eq!(remote.world.endorsed(), 1);

    // The whole of it again: hsmd's part of the handshake is another each time.
    let mut replay = TcpStream::connect(upstream).unwrap();
    replay.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    replay.write_all(&recorded).unwrap();
    let mut answer = Vec::new();
    replay.read_to_end(&mut answer).ok();
    // One bit of the request, which is the end of what was sent.
    let (address, _) = carry(Some(recorded.len() - 30));
    let altered = through(address).verdict("POST", "/sign", &body());
    assert!(altered.starts_with("alert BadRecordMac") || altered == "closed", "{altered}");
    assert_eq!(remote.world.endorsed(), 1, "something else was endorsed");
    hsmd.stop();
}

/// Opens a connection from another address of this host.
fn connect_from(source: Ipv4Addr, target: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let descriptor = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&descriptor, &SocketAddr::from((source, 0))).unwrap();
    connect(&descriptor, &target).unwrap();
    descriptor.into()
}

/// Connections of one address that say nothing count in no bound of another's: it is answered while they are still open.
#[test]
fn idle_connections_of_one_address_hold_up_no_other() {
    const IDLE: usize = 600;
    let remote = Remote::new();
    let mut hsmd = remote.start();
    let client = remote.client(Some(&remote.authority.client(&["URI:keelson:edge:far"])));
    let from = Ipv4Addr::new(127, 0, 0, 2);
    // A machine that is so busy that the first ends meanwhile proves nothing.
    let answered_before_the_first_ended = (0..5).any(|_| {
        let idle: Vec<_> = (0..IDLE).map(|_| connect_from(from, remote.address())).collect();
        assert_eq!(client.verdict("POST", "/sign", &body()), "200");
        let mut first = &idle[0];
        first.set_nonblocking(true).unwrap();
        first.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    });
    assert!(answered_before_the_first_ended);
    hsmd.stop();
}

#[test]
fn handshakes_and_heads_are_bounded() {
    let remote = Remote::new();
    let mut hsmd = remote.start();
    let began = Instant::now();
    let mut silent = TcpStream::connect(remote.address()).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(silent.read(&mut [0; 16]).unwrap_or(0), 0);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let client = remote.client(Some(&remote.authority.client(&["URI:keelson:edge:far"])));
    for fields in ["X: y\r\n".repeat(200), format!("X: {}\r\n", "y".repeat(200_000))] {
        let outcome = client.connect().ask("POST", "/sign", &fields, &body());
        assert!(outcome.as_ref().map_or(true, |answer| (400..500).contains(&answer.status)), "{outcome:?}");
    }
    assert_eq!(client.verdict("POST", "/sign", &body()), "200");
    hsmd.stop();
}
