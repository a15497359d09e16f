//! The commands of hsmd/RECOVERY.md, in the situations that it is about.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

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

    lose_ledger(&world);
    world.kill("hsmd");
    says(&world, "opsctl hsm recover").await;

    let folder = tempfile::tempdir().unwrap();
    let block = commands(PAGE, "recover").replace("https://keys.example", &world.endpoints().keys);
    run_in(folder.path(), &here(&world, &block));

    is_ready(&world).await;
    assert_eq!(world.keys().get("/hsm/keys").await.body, before, "the same chain, byte for byte");
    admin.post("/rotate", "{}").await;
    until("the next rotation to be published", SOON, async || {
        let answer = world.keys().try_get("/hsm/keys").await.ok()?;
        (answer.json().as_array()?.len() == 3).then_some(())
    })
    .await;
}

/// Each copy that the page names, by its address.
#[tokio::test]
async fn each_copy_of_the_chain_brings_a_lost_ledger_back() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let copy = hsmd_folder(&world).join("copy/chain.jsonl");
    for command in commands(PAGE, "recover-from").lines() {
        world.admin().post("/rotate", "{}").await;
        let chain = world.endorse().get("/chain").await.body;
        let events = serde_json::from_str::<Vec<serde_json::Value>>(&chain).unwrap().len();
        let published = async || {
            let answer = world.keys().try_get("/hsm/keys").await.ok()?;
            (answer.json().as_array()?.len() == events).then_some(())
        };
        until("the rotation to be published", SOON, published).await;
        lose_ledger(&world);
        world.kill("hsmd");
        says(&world, "opsctl hsm recover").await;
        let command = command
            .replace("https://keys.example", &world.endpoints().keys)
            .replace("redis://127.0.0.1:6379", &world.endpoints().redis)
            .replace("/var/lib/hsmd/copy/chain.jsonl", copy.to_str().unwrap());
        run_in(folder.path(), &here(&world, &command));
        is_ready(&world).await;
        assert_eq!(world.endorse().get("/chain").await.body, chain, "{command}");
    }
}

/// A revocation that a backup of the ledger lacks, shown and taken over by an operator.
#[tokio::test]
async fn a_service_is_revoked_opened_and_taken_over_by_an_operator() {
    let world = World::start().await;
    let (folder, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let opsctl = |command: &str| run_in(folder.path(), &here(&world, command));
    let lists = async || world.endorse().get("/statements").await.body.contains("\"service\":\"edge:gone\"");
    copy_ledger(&hsmd_folder(&world), backup.path());
    assert_eq!(opsctl("opsctl revoke-service edge:gone --reason drill --yes"), "edge:gone\n");
    assert!(lists().await);
    assert_eq!(opsctl("opsctl open-service edge:gone --reason drill --yes"), "edge:gone\n");
    assert!(lists().await, "endorsements from before stay revoked");

    lose_ledger(&world);
    copy_ledger(backup.path(), &hsmd_folder(&world));
    world.kill("hsmd");
    says(&world, "\"name\":\"ledger-restored\"").await;
    let shown = opsctl("opsctl hsm recover --dry-run 2>&1");
    assert!(shown.contains("revoked     edge:gone up to endorsement"), "{shown}");
    opsctl("opsctl hsm recover --yes");
    is_ready(&world).await;
    until("a head that lists it again", SOON, async || lists().await.then_some(())).await;
    world.admin().post("/rotate", "{}").await;
}

/// A command as it is typed on this world.
fn here(world: &World, command: &str) -> String {
    let endpoints = format!(" --endpoints {}", world.endpoints_file().display());
    ["hsm recover", "revoke-service", "open-service"]
        .iter()
        .fold(command.to_owned(), |command, verb| command.replace(verb, &format!("{verb}{endpoints}")))
}

fn hsmd_folder(world: &World) -> PathBuf {
    world.endpoints_file().parent().unwrap().join("dev/hsmd")
}

/// The files of the ledger in a folder.
fn ledger_files(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("ledger")).collect()
}

fn lose_ledger(world: &World) {
    for file in ledger_files(&hsmd_folder(world)) {
        fs::remove_file(file).unwrap();
    }
}

/// Copies a ledger without the index of its log, which SQLite makes anew.
fn copy_ledger(from: &Path, to: &Path) {
    for file in ledger_files(from).into_iter().filter(|path| !path.to_string_lossy().ends_with("-shm")) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

async fn says(world: &World, told: &str) {
    until("hsmd to say what it lacks", SOON, async || {
        let health = world.admin().try_get("/health").await.ok()?;
        (health.status == 503 && health.body.contains(told)).then_some(())
    })
    .await;
}

async fn is_ready(world: &World) {
    until("hsmd to be ready", SOON, async || {
        (world.admin().try_get("/health").await.ok()?.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_fresh_system_can_note_what_it_has_to_remember_of_its_token() {
    let world = World::shared().await;
    let health = world.admin().get("/health").await.json();
    assert_eq!(health.get("warnings"), Some(&serde_json::json!({})), "{health}");
}
