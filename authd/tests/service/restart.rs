//! authd that is restarted while hsmd and the directory are away: it goes on from its own state and its store, with the
//! keys that the service manager kept.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::craft::{Device, now};
use tests::http::Http;
use tests::port::Port;
use tests::process::Process;
use tests::service_manager::{Kept, ServiceManager};
use tests::until;

use crate::stage::Stage;

const PATIENCE: Duration = Duration::from_secs(20);

/// Starts authd as a process under `manager`, and waits until it serves.
async fn start(stage: &Stage, manager: &mut ServiceManager, kept: Vec<Kept>) -> (Process, Http) {
    let (process, auth) = launch(stage, manager, kept);
    until("authd to serve", PATIENCE, || async {
        auth.try_get("/health").await.ok().filter(|answer| answer.status == 200).map(drop)
    })
    .await;
    (process, auth)
}

pub(crate) fn launch(stage: &Stage, manager: &mut ServiceManager, kept: Vec<Kept>) -> (Process, Http) {
    let reserved = Port::reserve();
    let listen = format!("listen = \"127.0.0.1:{}\"", reserved.number());
    let path = stage.configuration("restarted");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("listen = \"127.0.0.1:0\"", &listen)).unwrap();
    let mut program = manager.launch(Path::new(env!("CARGO_BIN_EXE_authd")), kept);
    program.arg("--config").arg(&path);
    let process = Process::start("restarted", program, stage.folder.path());
    (process, Http::to(&format!("http://127.0.0.1:{}", reserved.number())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authd_that_is_restarted_in_an_outage_refreshes_sessions() {
    let mut stage = Stage::on_sqlite().await;
    let mut early = Device::create(&stage.auth).await;
    early.open_session(&stage.auth).await;
    let store = stage.service().store.clone();
    stage.dismiss().await;
    let mut manager = ServiceManager::start(stage.folder.path());
    let (mut first, auth) = start(&stage, &mut manager, Vec::new()).await;
    let mut late = Device::create(&auth).await;
    late.open_session(&auth).await;
    let chain = stage.folder.path().join("restarted/chain.json");
    let heads = stage.folder.path().join("restarted/trust.json");
    until("all that a restart goes by", PATIENCE, || async {
        let is_kept = store.endorsements(now()).await.unwrap().len() == 4 && manager.kept().len() == 2;
        (is_kept && chain.is_file() && heads.is_file()).then_some(())
    })
    .await;
    let kept = manager.kept();
    stage.hsm.break_down();
    stage.redis.process().stop();
    first.signal(Signal::KILL);
    first.stop();

    let (second, auth) = start(&stage, &mut manager, kept).await;
    late.try_refresh(&auth).await.response();
    // The key of the authd before that one is in the store alone.
    until("the session of the authd before", PATIENCE, async || {
        (early.try_refresh(&auth).await.status == 200).then_some(())
    })
    .await;
    drop(second);
}

/// That no signal is lost between start and service is shown by the unit tests of `systemd::shutdown`; authd goes through
/// that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authd_that_is_asked_to_stop_when_it_is_ready_stops() {
    let mut stage = Stage::on_sqlite().await;
    stage.dismiss().await;
    for _ in 0..5 {
        let mut manager = ServiceManager::start(stage.folder.path());
        let (mut authd, _) = launch(&stage, &mut manager, Vec::new());
        let started = Instant::now();
        while !manager.heard(|line| line == "READY=1") {
            assert!(started.elapsed() < PATIENCE, "it does not become ready: {}", authd.log());
            std::thread::yield_now();
        }
        authd.signal(Signal::TERM);
        let ended = until("authd to end", PATIENCE, async || authd.ended()).await;
        assert_eq!(ended.code(), Some(0), "{}", authd.log());
        assert!(authd.log().contains("asked to stop"), "{}", authd.log());
    }
}
