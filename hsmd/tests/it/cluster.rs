//! A ledger whose PostgreSQL was failed over, restored or exchanged: hsmd sees it by the cluster's identifier and
//! timeline, gives out no number twice, and says what is to be compared.

use std::{fs, path::Path, process::Command, time::Duration};

use keychain::{
    chain::SignedEvent,
    endorsement::{Endorsement, Purpose},
};
use sea_orm::{ConnectionTrait as _, Database as Connection};

use crate::support::{
    daemon::{request, try_request},
    eventually,
    world::{Database, World, service_key, sign_request, verify},
};

const SOON: Duration = Duration::from_secs(30);

/// As far as numbers leap.
const LEAP: u64 = 1 << 32;

fn health(world: &World) -> String {
    request(&world.socket("edge"), "GET", "/health", "").body
}

/// The number of an endorsement, as soon as there is one.
fn next_number(world: &World) -> u64 {
    let body = sign_request(Purpose::Response, service_key(5), Duration::from_mins(5));
    let mut number = None;
    eventually("an endorsement", SOON, || {
        let answer = try_request(&world.socket("edge"), "POST", "/sign", body.as_bytes());
        let Some(answer) = answer.ok().filter(|answer| answer.status == 200) else { return false };
        verify(&answer.body, &world.chain(), Purpose::Response, &service_key(5), "edge:demo");
        number = Endorsement::parse(&answer.body).unwrap().number;
        true
    });
    number.unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::remove_dir_all(to).ok();
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Has the server end its recovery on a new timeline, as a promoted standby does.
fn promote(data: &Path) {
    fs::write(data.join("recovery.signal"), "").unwrap();
    let config = data.join("postgresql.auto.conf");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}restore_command = 'false'\n")).unwrap();
}

#[test]
fn a_failover_is_seen_and_no_number_is_given_out_twice() {
    let mut world = World::new(Database::Postgres);
    let mut server = world.postgres.take().unwrap();
    let backup = world.path().join("backup");
    let mut hsmd = world.start();
    let first = next_number(&world);
    server.restart(world.path(), |data| copy(data, &backup));
    let again = next_number(&world);
    assert!((first..LEAP).contains(&again), "a restart of the server is no failover: {first} {again}");
    assert!(!health(&world).contains("ledgerCluster"), "{}", health(&world));

    server.restart(world.path(), promote);
    let promoted = next_number(&world);
    assert!(promoted > LEAP, "{promoted}");
    eventually("the warning", SOON, || health(&world).contains("on a later timeline than before"));
    let page = request(&world.socket("metrics"), "GET", "/metrics", "").ok();
    assert!(page.contains("hsmd_ledger_cluster_changed 1"), "{page}");
    hsmd.stop();
    let mut hsmd = world.start();
    assert!(!health(&world).contains("ledgerCluster"), "it is recorded: {}", health(&world));
    world.rotate("{}");

    // The server that was left is asked again: it knows neither of its successor nor of the rotation.
    let chain: Vec<_> = world.chain().iter().map(|event| event.text().to_owned()).collect();
    server.restart(world.path(), |data| copy(&backup, data));
    eventually("the warning", SOON, || health(&world).contains("on an earlier timeline than before"));
    eventually("the state", SOON, || health(&world).contains("\"name\":\"ledger-exchanged\""));
    world.recover("", &format!("[{}]", chain.join(","))).ok();
    assert!(next_number(&world) > promoted + LEAP / 2);
    world.rotate("{}");
    let ids: Vec<_> = world.chain().iter().map(SignedEvent::id).collect();
    assert_eq!(ids.len(), 3);
    hsmd.stop();
}

/// A dump brings along where it was made.
#[test]
fn a_dump_in_another_cluster_is_seen() {
    let world = World::new(Database::Postgres);
    let mut hsmd = world.start();
    let first = next_number(&world);
    hsmd.stop();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let database = Connection::connect(&world.ledger).await.unwrap();
        let moved = "UPDATE notes SET content = '7000000000000000001/1' WHERE name = 'cluster'";
        assert_eq!(database.execute_unprepared(moved).await.unwrap().rows_affected(), 1);
        database.close().await.unwrap();
    });
    let mut hsmd = world.start();
    eventually("the warning", SOON, || health(&world).contains("in another PostgreSQL cluster than before"));
    assert!(next_number(&world) > first + LEAP / 2);
    hsmd.stop();
}

/// Where the server does not tell, health does.
#[test]
fn a_cluster_that_is_not_known_is_a_warning() {
    let world = World::new(Database::Postgres);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let alter = |change: &'static str| {
        let ledger = world.ledger.clone();
        runtime.block_on(async move {
            let database = Connection::connect(ledger).await.unwrap();
            database.execute_unprepared(change).await.unwrap();
            database.close().await.unwrap();
        });
    };
    alter("ALTER FUNCTION pg_control_system() RENAME TO pg_control_system_hidden");
    let mut hsmd = world.start();
    next_number(&world);
    eventually("the warning", SOON, || health(&world).contains("ledgerClusterUnknown"));
    alter("ALTER FUNCTION pg_control_system_hidden() RENAME TO pg_control_system");
    eventually("it is learnt", SOON, || !health(&world).contains("ledgerCluster"));
    world.rotate("{}");
    hsmd.stop();
}
