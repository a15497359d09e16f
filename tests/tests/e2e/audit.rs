//! The commands of hsmd/AUDIT.md, on the trail of a system that has lived a little.

use std::time::Duration;

use tests::{World, until};

use crate::page::{commands, run_in};

const PAGE: &str = include_str!("../../../hsmd/AUDIT.md");

#[tokio::test]
async fn the_trail_is_read_with_the_commands_of_the_page() {
    let world = World::start().await;
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
    let folder = folder.path();
    let tells = async |part: &str| {
        until(part, Duration::from_mins(1), async || {
            let told = run_in(folder, &here("read"));
            told.contains(part).then_some(told)
        })
        .await
    };
    tells("covered   up to line").await;
    let chain = world.admin().get("/chain").await.json();
    let newest = chain.as_array().unwrap().last().unwrap()["payload"]["id"].as_str().unwrap().to_owned();
    let taint = format!("{{\"generationId\":\"{newest}\",\"reason\":\"stolen disk image\"}}");
    let answer = world.admin().post("/taint", taint).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    // The checkpoint of the tainted generation counts nothing, and that of the next covers what came before.
    tells("worthless").await;
    let told = tells("covered   up to line").await;
    for part in ["valid: lines 0 to", "operation=\"taint\"", "stolen disk image", "outcome=\"ok\""] {
        assert!(told.contains(part), "`{part}` is not in: {told}");
    }
    let told = run_in(folder, &here("keep"));
    assert!(told.contains("valid: "), "{told}");
}
