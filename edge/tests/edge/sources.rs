//! A keysd as a source of chain and heads.

use std::path::Path;

use tempfile::TempDir;

use crate::directory::is;
use crate::support::daemon::Daemon;
use crate::support::fixture::{Session, revoking};
use crate::support::hsm::HsmService;
use crate::support::redis::Redis;
use crate::support::until;
use crate::support::world::{World, ago};

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
