//! An HSM service in this process: `POST /sign` on a Unix socket, its events in the directory.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpResponse, HttpServer, web};
use keychain::Timestamp;
use keychain::directory::Directory;
use keychain::endorsement::SignRequest;
use keychain::statement::{Entries, Head};

use super::fixture::Hsm;
use super::world::ago;

/// The service; what it signs with can be changed while it runs.
pub(crate) struct HsmService {
    pub(crate) hsm: Arc<Mutex<Hsm>>,
    pub(crate) socket: PathBuf,
    server: ServerHandle,
    tells: Arc<AtomicBool>,
    /// Endorses nothing meanwhile.
    pub(crate) held: Arc<AtomicBool>,
}

impl HsmService {
    pub(crate) fn start(folder: &Path, hsm: Hsm) -> Self {
        Self::serve(folder, Arc::new(Mutex::new(hsm)))
    }

    /// Another door to the same HSM.
    pub(crate) fn beside(&self, folder: &Path) -> Self {
        Self::serve(folder, Arc::clone(&self.hsm))
    }

    fn serve(folder: &Path, hsm: Arc<Mutex<Hsm>>) -> Self {
        let socket = folder.join("endorse.sock");
        let shared = web::Data::from(Arc::clone(&hsm));
        let tells = Arc::new(AtomicBool::new(false));
        let told = web::Data::from(Arc::clone(&tells));
        let held = Arc::new(AtomicBool::new(false));
        let holds = Arc::clone(&held);
        let server = HttpServer::new(move || {
            let app = App::new().app_data(shared.clone()).app_data(told.clone());
            let holds = Arc::clone(&holds);
            let sign = move |hsm: web::Data<Mutex<Hsm>>, body: web::Bytes| {
                let answer = sign(&hsm, &body, &holds);
                async move { answer }
            };
            let app = app.route("/sign", web::post().to(sign)).route("/chain", web::get().to(chain));
            app.route("/statements", web::get().to(statements))
        });
        let server = server.workers(1).disable_signals().bind_uds(&socket).unwrap().run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { hsm, socket, server: handle, tells, held }
    }

    /// Publishes every event and the newest head, as a publisher does.
    pub(crate) async fn publish(&self, directory: &Directory) {
        let events: Vec<_> = {
            let hsm = self.hsm.lock().unwrap();
            hsm.events().iter().map(|event| (event.event().id, event.text().to_owned())).collect()
        };
        for (id, text) in events {
            directory.publish_event(&id, &text).await.unwrap();
        }
        let head = self.hsm.lock().unwrap().newest_head().to_owned();
        publish_head(directory, &head).await;
    }

    /// Makes a head that lists `entries`, and publishes it.
    pub(crate) async fn state(&self, directory: &Directory, entries: &Entries) {
        let head = self.hsm.lock().unwrap().state(entries, ago(1)).to_owned();
        publish_head(directory, &head).await;
    }

    /// Rotates or taints, and publishes.
    pub(crate) async fn rotate(&self, directory: &Directory, created: Timestamp, taint: bool) {
        self.hsm.lock().unwrap().rotate(created, taint);
        self.publish(directory).await;
    }

    /// Tells the chain and its newest head to whoever asks, from now on.
    pub(crate) fn tell(&self) {
        self.tells.store(true, Ordering::Relaxed);
    }

    /// Answers nobody any more.
    pub(crate) async fn stop(&self) {
        self.server.stop(false).await;
    }
}

/// How long a question waits for a head.
const PATIENCE: Duration = Duration::from_millis(100);

#[derive(serde::Deserialize)]
struct After {
    after: Option<u64>,
}

async fn chain(
    hsm: web::Data<Mutex<Hsm>>,
    tells: web::Data<AtomicBool>,
    query: web::Query<After>,
) -> HttpResponse {
    if !tells.load(Ordering::Relaxed) {
        return HttpResponse::NotFound().finish();
    }
    let known = query.after.map_or(0, |after| usize::try_from(after).unwrap() + 1);
    let hsm = hsm.lock().unwrap();
    let events: Vec<_> = hsm.events().iter().skip(known).map(keychain::chain::SignedEvent::text).collect();
    HttpResponse::Ok().body(format!("[{}]", events.join(",")))
}

async fn statements(
    hsm: web::Data<Mutex<Hsm>>,
    tells: web::Data<AtomicBool>,
    query: web::Query<After>,
) -> HttpResponse {
    if !tells.load(Ordering::Relaxed) {
        return HttpResponse::NotFound().finish();
    }
    let newest = || {
        let mut hsm = hsm.lock().unwrap();
        let head = hsm.newest_head().to_owned();
        (hsm.heads() as u64, head)
    };
    let (mut version, mut head) = newest();
    if query.after == Some(version) {
        tokio::time::sleep(PATIENCE).await;
        (version, head) = newest();
    }
    HttpResponse::Ok().body(format!("{{\"version\":{version},\"head\":{head}}}"))
}

/// Publishes a head as a publisher does.
pub(crate) async fn publish_head(directory: &Directory, text: &str) {
    let event = Head::parse(text).unwrap().event_id();
    directory.publish_head(&event, text, Duration::from_hours(12)).await.unwrap();
}

fn sign(hsm: &Mutex<Hsm>, body: &[u8], held: &AtomicBool) -> HttpResponse {
    if held.load(Ordering::Relaxed) {
        return HttpResponse::ServiceUnavailable().finish();
    }
    let request = SignRequest::parse(body).unwrap();
    let text = hsm.lock().unwrap().endorse_as(&request, "edge:test");
    HttpResponse::Ok().content_type("application/json").body(text)
}
