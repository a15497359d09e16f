//! The program itself, as a service manager runs it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::http::Http;
use tests::port::Port;
use tests::process::{Process, command};
use tests::until;

use crate::stage::Stage;

/// A running authd, beside that of the stage.
pub(crate) struct Program {
    pub(crate) process: Process,
    /// Its metrics and health.
    pub(crate) observe: Http,
    /// The port that devices use.
    pub(crate) port: u16,
    log: PathBuf,
    _reserved: [Port; 2],
}

impl Program {
    /// Starts one with more lines in its configuration, and waits until it is ready.
    pub(crate) async fn start(stage: &Stage, lines: &str) -> Self {
        let reserved = [Port::reserve(), Port::reserve()];
        let [port, metrics] = reserved.each_ref().map(Port::number);
        let path = stage.configuration("program");
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace("listen = \"127.0.0.1:0\"", &format!("{lines}listen = \"127.0.0.1:{port}\""));
        let text = text.replace("metrics = \"127.0.0.1:0\"", &format!("metrics = \"127.0.0.1:{metrics}\""));
        std::fs::write(&path, text).unwrap();
        let process = launch(&path, stage.folder.path());
        let observe = Http::to(&format!("http://127.0.0.1:{metrics}"));
        until("authd to be ready", Duration::from_secs(20), || async {
            (observe.try_get("/readyz").await.ok()?.status == 200).then_some(())
        })
        .await;
        let log = stage.folder.path().join("authd.log");
        Self { process, observe, port, log, _reserved: reserved }
    }

    /// As devices see it, without TLS.
    pub(crate) fn auth(&self) -> Http {
        Http::to(&format!("http://127.0.0.1:{}", self.port))
    }

    /// Everything that it wrote.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

fn launch(configuration: &Path, folder: &Path) -> Process {
    let mut program = command(env!("CARGO_BIN_EXE_authd"));
    program.arg("--config").arg(configuration).env_remove("RUST_LOG");
    Process::start("authd", program, folder)
}
