//! An HSM service in software: a chain of its own, and `POST /sign`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::{App, HttpResponse, HttpServer, web};
use keychain::chain::Draft as Event;
use keychain::chain::SignedEvent;
use keychain::directory::Directory;
use keychain::endorsement::{Draft, Purpose, SignRequest};
use keychain::statement::{Entries, NewHead};
use keychain::{Digest, PublicKey, SigningKey, Timestamp};
use tests::craft::{key, now};

/// The chain's keys and its events; the last key but one signs.
pub(crate) struct Chain {
    keys: Vec<SigningKey>,
    events: Vec<SignedEvent>,
}

/// A running endorser.
#[derive(Clone)]
pub(crate) struct Hsm {
    chain: Arc<Mutex<Chain>>,
    broken: Arc<AtomicBool>,
    /// Longest endorsement of an access key, in seconds.
    access_seconds: Arc<AtomicU64>,
    address: String,
}

impl Hsm {
    /// Makes a chain of one event and serves endorsements to "authd".
    pub(crate) fn start() -> Self {
        let keys = vec![key(), key()];
        let created = now().minus(Duration::from_mins(1)).to_millis();
        let draft = Event::first(&keys[0].public_key(), &keys[1].public_key().digest(), created);
        let signature = keys[0].sign(draft.payload().as_bytes()).unwrap();
        let events = vec![draft.seal(&signature).unwrap()];
        let chain = Arc::new(Mutex::new(Chain { keys, events }));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let access_seconds = Arc::new(AtomicU64::new(u64::MAX >> 20));
        let hsm = Self { chain, broken: Arc::default(), access_seconds, address };
        let served = hsm.clone();
        let app = move || {
            let served = served.clone();
            let sign = move |body: web::Bytes| {
                let request = SignRequest::parse(&body).unwrap();
                let answer = if served.broken.load(Ordering::Relaxed) {
                    HttpResponse::ServiceUnavailable().finish()
                } else {
                    HttpResponse::Ok().body(served.endorse(&served.shorten(request), "authd"))
                };
                async move { answer }
            };
            // It is there, and tells nothing that the directory does not tell.
            let statements = async || HttpResponse::Ok().body(r#"{"version":1,"head":null}"#);
            let chain = async || HttpResponse::Ok().body("[]");
            let app = App::new().route("/statements", web::get().to(statements));
            app.route("/chain", web::get().to(chain)).route("/sign", web::post().to(sign))
        };
        let server = HttpServer::new(app).workers(1).disable_signals().listen(listener).unwrap().run();
        tokio::spawn(server);
        hsm
    }

    /// Endorses access keys for no longer than that from now on.
    pub(crate) fn limit_access(&self, longest: Duration) {
        self.access_seconds.store(longest.as_secs(), Ordering::Relaxed);
    }

    fn shorten(&self, request: SignRequest) -> SignRequest {
        let longest = Duration::from_secs(self.access_seconds.load(Ordering::Relaxed));
        match request.purpose {
            Purpose::Access => {
                SignRequest { expiration: request.expiration.min(now().plus(longest)), ..request }
            }
            Purpose::Response => request,
        }
    }

    /// Endorses nothing from now on.
    pub(crate) fn break_down(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The chain's prefix.
    pub(crate) fn identity(&self) -> Digest {
        self.chain.lock().unwrap().events[0].id()
    }

    /// The chain as a verifier sees it.
    pub(crate) fn seen(&self) -> keychain::chain::Chain {
        let mut seen = keychain::chain::Chain::new(self.identity(), keychain::chain::Settings::default());
        let chain = self.chain.lock().unwrap();
        seen.merge(chain.events.iter().map(|event| SignedEvent::parse(event.text()).unwrap()), now());
        seen
    }

    /// What it would answer, for any service.
    pub(crate) fn endorse(&self, request: &SignRequest, service: &str) -> String {
        let chain = self.chain.lock().unwrap();
        let head = chain.events.last().unwrap();
        let draft = Draft::new(request, service, &chain.events[0].id(), &head.id());
        let signer = &chain.keys[chain.keys.len() - 2];
        draft.seal(&signer.sign(draft.body().as_bytes()).unwrap())
    }

    /// An endorsement for a day.
    pub(crate) fn endorse_for(&self, purpose: Purpose, public_key: PublicKey, service: &str) -> String {
        let expiration = now().plus(Duration::from_hours(24));
        self.endorse(&SignRequest { purpose, public_key, expiration }, service)
    }

    /// Adds a generation, which may taint the one before.
    pub(crate) fn rotate(&self, taint: bool) {
        self.rotate_at(now(), taint);
    }

    /// The same at a moment.
    pub(crate) fn rotate_at(&self, created: Timestamp, taint: bool) {
        let mut chain = self.chain.lock().unwrap();
        chain.keys.push(key());
        let [.., signer, next] = chain.keys.as_slice() else { panic!("two keys at least") };
        let head = chain.events.last().unwrap().event();
        let draft = Event::next(head, &signer.public_key(), &next.public_key().digest(), created, taint);
        let signature = signer.sign(draft.payload().as_bytes()).unwrap();
        let event = draft.seal(&signature).unwrap();
        chain.events.push(event);
    }

    /// Publishes a head of the newest event, made `age` ago.
    pub(crate) async fn publish_head(
        &self,
        directory: &Directory,
        number: u64,
        entries: &Entries,
        age: Duration,
    ) {
        let (event, text) = {
            let chain = self.chain.lock().unwrap();
            let event = chain.events.last().unwrap().event().clone();
            let issued_at = now().minus(age);
            let expiration = issued_at.plus(Duration::from_hours(12));
            let head = NewHead { event: &event, number, issued_at, expiration, entries, audit: None };
            let draft = head.draft().unwrap();
            let signer = &chain.keys[chain.keys.len() - 2];
            let text = draft.seal(&signer.sign(draft.body().as_bytes()).unwrap());
            (event.id, text)
        };
        directory.publish_head(&event, &text, Duration::from_hours(12)).await.unwrap();
    }

    /// Publishes the chain, and the first head of its newest event.
    pub(crate) async fn publish(&self, directory: &Directory) {
        let texts: Vec<_> = {
            let chain = self.chain.lock().unwrap();
            chain.events.iter().map(|event| (event.id(), event.text().to_owned())).collect()
        };
        for (id, text) in texts {
            directory.publish_event(&id, &text).await.unwrap();
        }
        self.publish_head(directory, 1, &Entries::default(), Duration::ZERO).await;
    }
}
