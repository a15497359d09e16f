//! TLS of authd's own: both versions of HTTP, certificates that change under load, and hostile peers.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use keychain::Code;
use keychain::message::Operation;
use reqwest::{ClientBuilder, Version};
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tests::certificate::Authority;
use tests::craft::{Device, message};
use tests::http::Http;
use tests::until;

use crate::program::Program;
use crate::stage::Stage;

const PATIENCE: Duration = Duration::from_secs(20);

/// An authd with TLS, and the authority of its certificate.
async fn start(stage: &Stage) -> (Program, Authority) {
    let authority = Authority::new();
    authority.issue(stage.folder.path());
    let program = Program::start(stage, &Authority::lines(stage.folder.path())).await;
    (program, authority)
}

fn https(program: &Program) -> String {
    format!("https://127.0.0.1:{}", program.port)
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_speak_either_version_of_http() {
    let stage = Stage::on_sqlite().await;
    let (program, authority) = start(&stage).await;
    let second = Http::trusting(&https(&program), authority.pem());
    let first = Http::trusting_with(&https(&program), authority.pem(), ClientBuilder::http1_only);
    for (auth, version) in [(&second, Version::HTTP_2), (&first, Version::HTTP_11)] {
        let mut device = Device::create(auth).await;
        device.open_session(auth).await;
        assert_eq!(device.try_refresh(auth).await.status, 200);
        assert_eq!(device.rotate(auth).await.status, 200);
        let other = device.link(auth).await;
        assert_ne!(other.device, device.device);
        let answer = auth.post(Operation::DeviceRotate.path(), "{}").await;
        answer.refused(Code::InvalidMessage);
        assert_eq!(answer.version, version);
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("link"), "</errors#BA101>; rel=\"help\"");
        for path in ["/nowhere", "/health?x=1"] {
            let (whole, head) = (auth.get(path).await, auth.method(reqwest::Method::HEAD, path).await);
            assert_eq!((head.status, head.body.as_str()), (whole.status, ""), "{path}");
            assert_eq!(head.header("content-length"), whole.body.len().to_string(), "{path}");
        }
        auth.post(Operation::AccountCreate.path(), vec![b' '; 64 * 1024 + 1]).await.refused(Code::TooLarge);
    }
    // Many requests over one connection: more than there are streams wait for their turn.
    let device = Device::create(&second).await;
    let asked = (0..200).map(|_| {
        let (auth, rotate) =
            (second.clone(), message(&device.rotate_request(&device.keys), &device.keys.current));
        tokio::spawn(async move { auth.post("/device/rotate", rotate).await.status })
    });
    for answer in asked.collect::<Vec<_>>() {
        assert_eq!(answer.await.unwrap(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_more_of_a_connection_than_its_bounds() {
    let stage = Stage::on_sqlite().await;
    let (program, authority) = start(&stage).await;
    let auth = Http::trusting(&https(&program), authority.pem());
    assert_eq!(auth.get("/health").await.status, 200);
    // Header fields of 16 KiB and more are refused, and the connection goes on.
    let large = "x".repeat(17 * 1024);
    assert_eq!(auth.get_with("/health", "x-large", &large).await.status, 431);
    assert_eq!(auth.get("/health").await.status, 200);
    // A peer that speaks no TLS, or stops in the middle of its handshake, hears nothing and hinders nobody.
    let mut plain = TcpStream::connect(("127.0.0.1", program.port)).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: authd\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).ok();
    assert!(!answer.starts_with(b"HTTP"), "{}", answer.escape_ascii());
    let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(("127.0.0.1", program.port)).unwrap()).collect();
    until("handshakes beyond an address's share to be refused", PATIENCE, || async {
        let page = program.observe.get("/metrics").await.body;
        page.contains("\nauthd_handshakes_refused_total ").then_some(())
    })
    .await;
    drop(silent);
    until("the places to be free again", PATIENCE, || async {
        let fresh = Http::trusting(&https(&program), authority.pem());
        (fresh.try_get("/health").await.ok()?.status == 200).then_some(())
    })
    .await;
}

/// A connection of HTTP/1.1 that is kept, and the certificate that its server showed.
struct Kept {
    stream: StreamOwned<ClientConnection, TcpStream>,
    certificate: Vec<u8>,
}

impl Kept {
    fn open(program: &Program, authority: &Authority) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let socket = TcpStream::connect(("127.0.0.1", program.port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), socket);
        let mut kept = Self { stream, certificate: Vec::new() };
        kept.ask();
        kept.certificate = kept.stream.conn.peer_certificates().unwrap()[0].to_vec();
        kept
    }

    /// Asks for the health over this very connection.
    fn ask(&mut self) {
        self.stream.write_all(b"GET /health HTTP/1.1\r\nhost: authd\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        while !answer.ends_with(b"\"keys\":\"ok\"}") {
            let length = self.stream.read(&mut piece).unwrap();
            assert!(length > 0, "the connection ended: {}", answer.escape_ascii());
            answer.extend_from_slice(&piece[..length]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
    }
}

async fn shown(program: &Program, authority: &Authority, certificate: &[u8]) {
    until("the certificate to be shown", PATIENCE, || async {
        (Kept::open(program, authority).certificate == certificate).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_without_a_dropped_connection() {
    let stage = Stage::on_sqlite().await;
    let (program, authority) = start(&stage).await;
    let folder = stage.folder.path();
    let auth = Http::trusting(&https(&program), authority.pem());
    let mut device = Device::create(&auth).await;
    let mut kept = Kept::open(&program, &authority);
    let traffic = {
        let (address, pem) = (https(&program), authority.pem().to_owned());
        let (ended, mut ending) = tokio::sync::watch::channel(false);
        let asking = (0..4).map(|number| {
            let (address, pem, ending) = (address.clone(), pem.clone(), ending.clone());
            tokio::spawn(async move {
                let mut asked = 0_u32;
                let mut auth = Http::trusting(&address, &pem);
                while !*ending.borrow() {
                    // Two keep their connection, two make one each time.
                    if number % 2 == 0 {
                        auth = Http::trusting(&address, &pem);
                    }
                    assert_eq!(auth.get("/health").await.status, 200);
                    asked += 1;
                }
                asked
            })
        });
        let asking: Vec<_> = asking.collect();
        ending.mark_unchanged();
        (ended, asking)
    };
    for _ in 0..10 {
        let renewed = authority.issue(folder);
        program.process.signal(Signal::HUP);
        shown(&program, &authority, &renewed).await;
        assert_ne!(kept.certificate, renewed);
        kept.ask();
        assert_eq!(device.rotate(&auth).await.status, 200);
    }
    let (ended, asking) = traffic;
    ended.send(true).unwrap();
    for asked in asking {
        assert!(asked.await.unwrap() > 0);
    }
    // Files that are not right change nothing, and it is told.
    let last = Kept::open(&program, &authority).certificate;
    std::fs::write(folder.join("tls.crt"), "no certificate").unwrap();
    program.process.signal(Signal::HUP);
    until("the refusal to be told", PATIENCE, || async {
        let page = program.observe.get("/readyz").await;
        assert_eq!(page.status, 200, "{}", page.body);
        page.body.contains("tls_certificate: the one of before stays: ").then_some(())
    })
    .await;
    assert!(program.observe.get("/metrics").await.body.contains("\ntls_certificate_refused 1"));
    shown(&program, &authority, &last).await;
    let renewed = authority.issue(folder);
    program.process.signal(Signal::HUP);
    shown(&program, &authority, &renewed).await;
    until("the cure to be told", PATIENCE, || async {
        program.observe.get("/readyz").await.body.contains("tls_certificate: ok").then_some(())
    })
    .await;
}
