//! An app in this process, on a Unix socket: answers what it is told to, and shows what it was asked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};

/// What the app was asked last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    pub(crate) place: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Asked {
    /// All values of a header.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }
}

#[derive(Default)]
struct State {
    answers: HashMap<String, (u16, Vec<u8>, Duration)>,
    asked: Vec<Asked>,
    held: bool,
}

pub(crate) struct TestApp {
    state: Arc<Mutex<State>>,
    pub(crate) socket: PathBuf,
    server: ServerHandle,
}

impl TestApp {
    pub(crate) fn start(folder: &Path) -> Self {
        let socket = folder.join("app.sock");
        let state = Arc::<Mutex<State>>::default();
        let shared = web::Data::from(Arc::clone(&state));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(shared.clone())
                .app_data(web::PayloadConfig::new(16 << 20))
                .default_service(web::to(answer))
        });
        let server = server.workers(1).disable_signals().bind_uds(&socket).unwrap().run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { state, socket, server: handle }
    }

    /// What is answered at a path from now on; everywhere else the request's own body.
    pub(crate) fn answer_with(&self, path: &str, status: u16, body: impl Into<Vec<u8>>, after: Duration) {
        self.state.lock().unwrap().answers.insert(path.to_owned(), (status, body.into(), after));
    }

    /// Holds back every answer, or lets them go.
    pub(crate) fn hold(&self, held: bool) {
        self.state.lock().unwrap().held = held;
    }

    /// What it was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    pub(crate) async fn stop(&self) {
        self.server.stop(false).await;
    }
}

async fn answer(request: HttpRequest, body: web::Bytes, state: web::Data<Mutex<State>>) -> HttpResponse {
    let headers = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("?").to_owned()))
        .collect();
    let asked =
        Asked { place: request.uri().to_string(), headers, body: String::from_utf8(body.to_vec()).unwrap() };
    let answer = {
        let mut state = state.lock().unwrap();
        state.asked.push(asked);
        state.answers.get(request.path()).cloned()
    };
    let (status, body, after) = answer.unwrap_or((200, body.to_vec(), Duration::ZERO));
    tokio::time::sleep(after).await;
    while state.lock().unwrap().held {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    HttpResponse::build(StatusCode::from_u16(status).unwrap()).body(body)
}
