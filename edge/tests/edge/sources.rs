//! A keysd as a source of chain and heads.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tests::port::Port;

use crate::directory::is;
use crate::support::daemon::Daemon;
use crate::support::fixture::{Session, revoking};
use crate::support::hsm::HsmService;
use crate::support::redis::Redis;
use crate::support::until;
use crate::support::world::{World, ago, url};

/// A keysd of the world's HSM, on a directory of its own.
struct Keysd {
    _daemon: Daemon,
    _redis: Redis,
    _hsm: HsmService,
}

impl Keysd {
    /// It follows hsmd itself if it `has_road`, and its directory alone otherwise.
    async fn start(world: &World, folder: &Path, has_road: bool) -> Self {
        let redis = Redis::start(folder).await;
        let hsm = world.hsm.beside(folder);
        hsm.tell();
        hsm.publish(&redis.directory()).await;
        let at = folder.display();
        let road = format!("endorse = \"unix:{}\"\n", hsm.socket.display());
        let configuration = format!(
            "identity = \"{}\"\nlisten = \"unix:{at}/keysd.sock\"\nredis = \"{}\"\n\
             metrics = \"unix:{at}/metrics.sock\"\nstate = \"{at}/state\"\n{}",
            hsm.hsm.lock().unwrap().prefix(),
            redis.url(),
            if has_road { &road } else { "" },
        );
        let mut daemon = Daemon::spawn(env!("CARGO_BIN_EXE_keysd"), folder, &configuration);
        daemon.ready().await;
        Self { _daemon: daemon, _redis: redis, _hsm: hsm }
    }
}

/// A world whose edge asks a keysd, where that is to be, and what the edge calls it.
async fn start() -> (World, TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("unix:{}/keysd.sock", folder.path().display());
    let world = World::start_with(&format!("keysd = [\"{address}\"]")).await;
    (world, folder, format!("keysd {address}"))
}

async fn answers(world: &World, session: &Session, status: u16) {
    let what = format!("the answer {status}");
    until(&what, async || (world.ask(session).await.status == status).then_some(())).await;
}

/// The directory withholds what hsmd stated, and the edge does not hear hsmd: a keysd that does tells it.
#[tokio::test(flavor = "multi_thread")]
async fn a_keysd_that_hears_hsmd_tells_what_the_directory_withholds() {
    let (world, folder, name) = start().await;
    let session = world.session(200);
    answers(&world, &session, 200).await;
    let because = is(&world, &name, "lost").await;
    assert!(because.contains("does not answer"), "{because}");

    let _keysd = Keysd::start(&world, folder.path(), true).await;
    is(&world, &name, "ok").await;
    let follows = format!("{name} follows: hsmd\n");
    until("it to be independent", async || {
        world.daemon_page("readyz").await.contains(&follows).then_some(())
    })
    .await;
    let soon = crate::support::clock::now().plus(std::time::Duration::from_hours(1));
    world.hsm.hsm.lock().unwrap().state(&revoking(&world.authd, soon), ago(1));
    answers(&world, &session, 403).await;
    // An event that the directory withholds as well.
    world.hsm.hsm.lock().unwrap().rotate(ago(1), true);
    let grown = "edge_chain_sequence 1\n";
    until(grown, async || world.metrics().await.contains(grown).then_some(())).await;
}

/// One that follows its directory alone is no independent source, and is not taken for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_keysd_that_follows_the_directory_alone_is_said_to() {
    let (world, folder, name) = start().await;
    let _keysd = Keysd::start(&world, folder.path(), false).await;
    is(&world, &name, "ok").await;
    let follows = format!("{name} follows: the directory alone\n");
    until("it to be named", async || world.daemon_page("readyz").await.contains(&follows).then_some(()))
        .await;
    let metrics = world.metrics().await;
    let dependent = format!("verifier_source_independent{{source=\"{name}\"}} 0");
    assert!(metrics.contains(&dependent), "{metrics}");
    assert!(world.edge.log().contains("follows the key directory alone"), "{}", world.edge.log());
}

/// An authority: its certificate as PEM, and what it issues with.
fn authority() -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), Issuer::new(params, key))
}

/// What terminates TLS before a keysd, with a certificate of `issuer` for `address`.
fn terminate_tls(port: u16, issuer: &Issuer<'static, KeyPair>, address: &str, keysd: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress(address.parse().unwrap())];
    let certificate = params.signed_by(&key, issuer).unwrap().der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let client = reqwest::Client::builder().unix_socket(keysd).build().unwrap();
    let forward = move |request: HttpRequest| {
        let client = client.clone();
        async move {
            let answer = client.get(url(request.path())).send().await.unwrap();
            let status = actix_web::http::StatusCode::from_u16(answer.status().as_u16()).unwrap();
            HttpResponse::build(status).body(answer.bytes().await.unwrap())
        }
    };
    let server = HttpServer::new(move || App::new().default_service(web::to(forward.clone())));
    let server = server.workers(1).disable_signals().bind_rustls_0_23(("127.0.0.1", port), tls).unwrap();
    tokio::spawn(server.run());
}

/// Over https the certificate counts: one of the authority configured, for the name configured.
#[tokio::test(flavor = "multi_thread")]
async fn a_keysd_over_https_proves_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (pem, issuer) = authority();
    let ca: PathBuf = folder.path().join("ca.crt");
    std::fs::write(&ca, &pem).unwrap();
    let ports = [(); 3].map(|()| Port::reserve());
    let addresses = ports.each_ref().map(|port| format!("https://127.0.0.1:{}", port.number()));
    let world = World::start_with(&format!("keysd = {addresses:?}\nkeysd_ca = {ca:?}")).await;
    let _keysd = Keysd::start(&world, folder.path(), true).await;
    let socket = folder.path().join("keysd.sock");
    terminate_tls(ports[0].number(), &authority().1, "127.0.0.1", &socket);
    terminate_tls(ports[1].number(), &issuer, "127.0.0.2", &socket);
    terminate_tls(ports[2].number(), &issuer, "127.0.0.1", &socket);
    is(&world, &format!("keysd {}", addresses[2]), "ok").await;
    let session = world.session(200);
    answers(&world, &session, 200).await;
    let soon = crate::support::clock::now().plus(std::time::Duration::from_hours(1));
    world.hsm.hsm.lock().unwrap().state(&revoking(&world.authd, soon), ago(1));
    answers(&world, &session, 403).await;
    let page = world.daemon_page("readyz").await;
    for (address, is_heard) in addresses.iter().zip([false, false, true]) {
        let follows = page.contains(&format!("keysd {address} follows: hsmd\n"));
        assert_eq!(follows, is_heard, "{address}: {page}");
        let state = if is_heard { "ok" } else { "lost" };
        is(&world, &format!("keysd {address}"), state).await;
    }
}
