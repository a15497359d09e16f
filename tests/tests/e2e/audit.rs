//! The commands of hsmd/AUDIT.md, on the trail of a system that has lived a little.

use std::time::Duration;

use tests::{World, until};

use crate::page::{commands, run_in};

const PAGE: &str = include_str!("../../../hsmd/AUDIT.md");

#[tokio::test]
async fn the_trail_is_read_with_the_commands_of_the_page() {
    let world = World::start().await;
    let admin = world.admin();
    admin.post("/taint", "{\"reason\":\"stolen disk image\"}").await;
    let endpoints = world.endpoints_file();
    let trail = endpoints.parent().unwrap().join("dev/hsmd/audit");
    let here = |mark| {
        let (trail, endpoints) = (trail.display(), endpoints.display());
        commands(PAGE, mark)
            .replace("audit verify\n", &format!("audit verify --endpoints {endpoints}\n"))
            .replace("audit verify", &format!("audit verify --dir {trail}"))
            .replace("audit show", &format!("audit show --dir {trail}"))
            .replace("chain show", &format!("chain show --endpoints {endpoints}"))
    };
    let folder = tempfile::tempdir().unwrap();
    let covered = || async {
        let told = run_in(folder.path(), &here("read"));
        told.contains("covered   up to line").then_some(told)
    };
    let told = until("a checkpoint of the new generation", Duration::from_mins(1), covered).await;
    for part in
        ["valid: lines 0 to", "worthless", "operation=\"taint\"", "stolen disk image", "outcome=\"ok\""]
    {
        assert!(told.contains(part), "`{part}` is not in: {told}");
    }
    let told = run_in(folder.path(), &here("keep"));
    assert!(told.contains("valid: "), "{told}");
}
