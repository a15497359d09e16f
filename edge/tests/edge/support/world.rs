//! An edge with everything around it.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::support::clock;
use keychain::access::Response;
use keychain::directory::{Db, Directory};
use keychain::endorsement::{Endorsement, Expected, Purpose};
use keychain::feed::{Entry, Position};
use keychain::{Nonce, PublicKey, SigningKey, Timestamp};
use tempfile::TempDir;
use tests::service_manager::Kept;

use super::app::TestApp;
use super::daemon::Daemon;
use super::feed::Teller;
use super::fixture::{Hsm, Session, key, nonce};
use super::hsm::HsmService;
use super::redis::Redis;

/// Stands for a longer deadline of the app.
const PATIENT: &str = "# patient";

pub(crate) const INNER: &str = r#"{"foo":1,"bar":"x"}"#;

pub(crate) struct World {
    pub(crate) edge: Daemon,
    pub(crate) redis: Redis,
    pub(crate) directory: Directory,
    pub(crate) hsm: HsmService,
    pub(crate) app: TestApp,
    pub(crate) authd: SigningKey,
    client: reqwest::Client,
    configuration: String,
    folder: TempDir,
    nonces: AtomicU64,
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    /// The code of a refusal; empty for a success.
    pub(crate) fn code(&self) -> String {
        let value: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        assert!(value["error"].is_null() || value["payload"].is_null(), "{}", self.body);
        value["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// An edge that gives its app time.
    pub(crate) async fn start_patient() -> Self {
        Self::start_between(None, None, PATIENT).await
    }

    /// An edge with more lines in its configuration.
    pub(crate) async fn start_with(lines: &str) -> Self {
        Self::start_between(None, None, lines).await
    }

    /// An edge that listens and finds its app where it is told to, if it is.
    pub(crate) async fn start_between(listen: Option<&str>, app_at: Option<&str>, lines: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let redis = Redis::start(folder.path()).await;
        let directory = redis.directory();
        let hsm = HsmService::start(folder.path(), Hsm::new(0, ago(3_600)));
        hsm.publish(&directory).await;
        let app = TestApp::start(folder.path());
        let own =
            (format!("unix:{}/edge.sock", folder.path().display()), format!("unix:{}", app.socket.display()));
        let configuration = format!(
            "identity = \"{identity}\"\nname = \"test\"\nlisten = \"{listen}\"\n\
             app = \"{app}\"\nredis = \"{redis}\"\nendorse = \"unix:{endorse}\"\n\
             metrics = \"unix:{at}/metrics.sock\"\nstate = \"{at}/state\"\nforward_headers = [\"x-allowed\"]\n\
             deadline = \"{deadline}\"\n{lines}\n\
             [[route]]\npath = \"/foo/bar\"\nrole = \"user\"\npermission = \"read\"\n\
             [[route]]\npath = \"/admin/*\"\nrole = \"admin\"\npermission = \"write\"\n",
            identity = hsm.hsm.lock().unwrap().prefix(),
            at = folder.path().display(),
            deadline = if lines == PATIENT { "20s" } else { "2s" },
            listen = listen.unwrap_or(&own.0),
            app = app_at.unwrap_or(&own.1),
            redis = redis.url(),
            endorse = hsm.socket.display(),
        );
        let edge = Daemon::spawn(env!("CARGO_BIN_EXE_edge"), folder.path(), &configuration);
        let client = reqwest::Client::builder().unix_socket(folder.path().join("edge.sock")).build().unwrap();
        let nonces = AtomicU64::new(1);
        let mut world =
            Self { edge, redis, directory, hsm, app, authd: key(100), client, configuration, folder, nonces };
        world.publish_issuer(100).await;
        world.edge.ready().await;
        world
    }

    /// Endorses and publishes authd's access key of that number.
    pub(crate) async fn publish_issuer(&self, number: u32) -> SigningKey {
        self.publish_issuer_for(number, Duration::from_hours(24)).await
    }

    /// The same for so long.
    pub(crate) async fn publish_issuer_for(&self, number: u32, lifetime: Duration) -> SigningKey {
        let issuer = key(number);
        let expiration = clock::now().plus(lifetime);
        let text = self.hsm.hsm.lock().unwrap().endorse(Purpose::Access, issuer.public_key(), expiration);
        self.directory
            .publish(Db::Access, &issuer.public_key(), &text, Duration::from_hours(24))
            .await
            .unwrap();
        self.begin_epoch(number, &[]).await;
        issuer
    }

    /// Takes a key's endorsement out of the directory, as hsm-publisher does.
    pub(crate) async fn withdraw(&self, db: Db, key: PublicKey) {
        let text = self.directory.endorsement(db, &key).await.unwrap().unwrap();
        assert!(self.directory.withdraw_exactly(db, &key, &text).await.unwrap());
    }

    /// Begins an epoch of the denial feed, as authd does with a new key: with a snapshot.
    pub(crate) async fn begin_epoch(&self, access: u32, entries: &[Entry]) -> Position {
        let epoch = u64::try_from(clock::now().unix_millis()).unwrap();
        let position = Position { epoch, number: 0 };
        let teller = Teller::new(&self.hsm.hsm.lock().unwrap(), access);
        teller.publish_snapshot(&self.directory, position, entries).await;
        position
    }

    /// What authd with the access key of this world signs the denial feed with.
    pub(crate) fn teller(&self) -> Teller {
        Teller::new(&self.hsm.hsm.lock().unwrap(), 100)
    }

    /// Starts the edge again on the same state, without waiting for it.
    pub(crate) fn restart(&mut self) {
        self.restart_with(Vec::new());
    }

    /// The same with what a process before it left with the service manager.
    pub(crate) fn restart_with(&mut self, kept: Vec<Kept>) {
        self.edge = self.start_another(kept);
    }

    /// An edge in the place of the one that has ended.
    pub(crate) fn start_another(&self, kept: Vec<Kept>) -> Daemon {
        let program = env!("CARGO_BIN_EXE_edge");
        Daemon::spawn_with(program, self.folder.path(), &self.configuration, kept)
    }

    /// The configuration of another edge beside this one, with more lines, and where it listens.
    pub(crate) fn beside(&self, lines: &str) -> (PathBuf, PathBuf) {
        let folder = self.folder.path();
        let own = |name: &str| format!("{}/{name}", folder.display());
        let mut text = self.configuration.clone();
        for name in ["edge.sock", "metrics.sock", "state"] {
            text = text.replace(&own(name), &own(&format!("beside-{name}")));
        }
        let file = folder.join("beside.toml");
        std::fs::write(&file, text.replacen("deadline =", &format!("{lines}\ndeadline ="), 1)).unwrap();
        (file, folder.join("beside-edge.sock"))
    }

    /// A nonce that was not used before.
    pub(crate) fn nonce(&self) -> Nonce {
        nonce(self.nonces.fetch_add(1, Ordering::Relaxed))
    }

    /// A session of the device of that number.
    pub(crate) fn session(&self, number: u32) -> Session {
        Session::open(&self.authd, number, ago(1))
    }

    /// A request of a session, made now.
    pub(crate) fn request(&self, session: &Session, inner: &str) -> String {
        session.request(self.nonce(), clock::now(), inner)
    }

    /// Whether all is on disk that a start in an outage goes by.
    pub(crate) fn has_kept_all(&self) -> bool {
        let state = self.folder.path().join("state");
        let is_there = |name: &&str| std::fs::metadata(state.join(name)).is_ok_and(|file| file.len() > 2);
        ["chain.json", "denials.json", "issuers.json", "revocations.json", "trust.json"].iter().all(is_there)
    }

    pub(crate) async fn post(&self, place: &str, body: impl Into<reqwest::Body>) -> Answer {
        self.send(self.client.post(url(place)).body(body)).await
    }

    /// Sends a request that was put together by hand.
    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Answer { status, headers, body: answer.text().await.unwrap() }
    }

    /// Where the edge listens, unless it was told otherwise.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("edge.sock")
    }

    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// Asks with a fresh request of `session`.
    pub(crate) async fn ask(&self, session: &Session) -> Answer {
        self.post("/foo/bar", self.request(session, INNER)).await
    }

    /// The same, if anything answers.
    pub(crate) async fn try_ask(&self, session: &Session) -> Option<Answer> {
        let body = self.request(session, INNER);
        let answer = self.client.post(url("/foo/bar")).body(body).send().await.ok()?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Some(Answer { status, headers, body: answer.text().await.ok()? })
    }

    /// Starts the app again.
    pub(crate) fn restart_app(&mut self) {
        self.app = TestApp::start(self.folder.path());
    }

    /// The answer inside a signed message, verified as a device verifies it.
    pub(crate) async fn verified(&self, answer: &Answer, nonce: &Nonce) -> String {
        let response = Response::parse(answer.body.as_bytes()).unwrap();
        response.verify(nonce).unwrap();
        let key = response.server_identity;
        let text = self.directory.endorsement(Db::Response, &key).await.unwrap().expect("published");
        let chain = self.hsm.hsm.lock().unwrap().chain(clock::now());
        let expected = Expected { purpose: Purpose::Response, public_key: &key, service: Some("edge:test") };
        let window = keychain::chain::windows::DEVICE;
        Endorsement::parse(&text).unwrap().verify(&chain, expected, window, clock::now()).unwrap();
        response.response.to_owned()
    }

    /// What the daemon counts.
    pub(crate) async fn metrics(&self) -> String {
        self.daemon_page("metrics").await
    }

    /// A page beside the metrics.
    pub(crate) async fn daemon_page(&self, name: &str) -> String {
        let client =
            reqwest::Client::builder().unix_socket(self.folder.path().join("metrics.sock")).build().unwrap();
        client.get(url(&format!("/{name}"))).send().await.unwrap().text().await.unwrap()
    }

    /// The same, if anything answers.
    pub(crate) async fn try_daemon_page(&self, name: &str) -> Option<String> {
        let socket = self.folder.path().join("metrics.sock");
        let client = reqwest::Client::builder().unix_socket(socket).build().unwrap();
        client.get(url(&format!("/{name}"))).send().await.ok()?.text().await.ok()
    }

    /// What the edge remembers on disk.
    pub(crate) fn remembered(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("state/trust.json")).unwrap_or_default()
    }

    /// What the edge keeps of the denial feed.
    pub(crate) fn kept_denials(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("state/denials.json")).unwrap_or_default()
    }

    /// Cuts what the edge keeps of the denial feed.
    pub(crate) fn damage_denials(&self) {
        let path = self.folder.path().join("state/denials.json");
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 2]).unwrap();
    }

    /// Where the edge keeps its state.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Deletes what the edge remembers.
    pub(crate) fn forget_state(&self) {
        std::fs::remove_dir_all(self.folder.path().join("state")).unwrap();
    }

    /// Lets the next write into the edge's state folder hang until the pipe is released.
    pub(crate) fn hang_the_disk(&self) -> Pipe {
        self.hang_the_disk_under("trust.new")
    }

    /// The same for the file of that name in it.
    pub(crate) fn hang_the_disk_under(&self, name: &str) -> Pipe {
        let path = self.folder.path().join("state").join(name);
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        Pipe(path)
    }
}

/// A pipe where a file should be.
pub(crate) struct Pipe(PathBuf);

impl Pipe {
    /// Lets who waits for a reader go on, in vain, and takes the pipe away.
    pub(crate) fn release(self) {
        let reader = std::fs::OpenOptions::new().read(true).custom_flags(NONBLOCK).open(&self.0).unwrap();
        std::fs::remove_file(&self.0).unwrap();
        drop(reader);
    }
}

/// Opening to read waits for no writer.
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();

pub(crate) fn url(place: &str) -> String {
    format!("http://localhost{place}")
}

/// So many seconds before now.
pub(crate) fn ago(seconds: u64) -> Timestamp {
    clock::now().minus(Duration::from_secs(seconds))
}
