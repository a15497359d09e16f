//! The commands of hsmd/RECOVERY.md, in the situations that it is about.

use std::time::Duration;

use tests::{World, until};

use crate::page::{commands, run_in};

const PAGE: &str = include_str!("../../../hsmd/RECOVERY.md");

/// Restarting hsmd and looking, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_mins(1);

/// The ledger is lost with its disk; what keysd still has brings it back, and the identity with it.
#[tokio::test]
async fn a_lost_ledger_is_brought_back_with_the_commands_of_the_page() {
    let world = World::start().await;
    let admin = world.admin();
    admin.post("/rotate", "{}").await;
    let published = || async {
        let answer = world.keys().try_get("/hsm/keys").await.ok()?;
        (answer.json().as_array()?.len() == 2).then_some(answer.body)
    };
    let before = until("the rotation to be published", SOON, published).await;

    let ledgers = std::fs::read_dir(world.endpoints_file().parent().unwrap().join("dev/hsmd")).unwrap();
    let ledgers = ledgers.map(|file| file.unwrap().path());
    for file in ledgers.filter(|path| path.to_string_lossy().contains("ledger")) {
        std::fs::remove_file(file).unwrap();
    }
    world.kill("hsmd");
    until("hsmd to say what it lacks", SOON, async || {
        let health = admin.try_get("/health").await.ok()?;
        (health.status == 503 && health.body.contains("opsctl hsm recover")).then_some(())
    })
    .await;

    let folder = tempfile::tempdir().unwrap();
    let here = format!("hsm recover --endpoints {}", world.endpoints_file().display());
    let block = commands(PAGE, "recover").replace("https://keys.example", &world.endpoints().keys);
    run_in(folder.path(), &block.replace("hsm recover", &here));

    until("hsmd to be ready", SOON, async || {
        (admin.try_get("/health").await.ok()?.status == 200).then_some(())
    })
    .await;
    assert_eq!(world.keys().get("/hsm/keys").await.body, before, "the same chain, byte for byte");
    admin.post("/rotate", "{}").await;
    until("the next rotation to be published", SOON, async || {
        let answer = world.keys().try_get("/hsm/keys").await.ok()?;
        (answer.json().as_array()?.len() == 3).then_some(())
    })
    .await;
}
