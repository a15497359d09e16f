//! The commands of hsmd/AUDIT.md, on the trail of a system that has lived a little.

use std::time::Duration;

use tests::{World, until};

use crate::page::{commands, run_in};

const PAGE: &str = include_str!("../../../hsmd/AUDIT.md");

#[tokio::test]
async fn the_trail_is_read_with_the_commands_of_the_page() {
    let world = World::start().await;
    let endpoints = world.endpoints_file();
    let here = |mark: &str| {
        let endpoints = endpoints.display();
        ["audit verify", "audit show", "audit archive", "audit export", "chain show"]
            .iter()
            .fold(commands(PAGE, mark).to_owned(), |text, command| {
                text.replace(command, &format!("{command} --endpoints {endpoints}"))
            })
            .replace(&format!("audit verify --endpoints {endpoints} --file"), "audit verify --file")
    };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let prints = async |mark: &str, part: &str| {
        until(part, Duration::from_mins(1), async || {
            let printed = run_in(folder, &here(mark));
            printed.contains(part).then_some(printed)
        })
        .await
    };
    let chain = world.admin().get("/chain").await.json();
    let newest = chain.as_array().unwrap().last().unwrap()["payload"]["id"].as_str().unwrap().to_owned();
    let taint = format!("{{\"generationId\":\"{newest}\",\"reason\":\"stolen disk image\"}}");
    let answer = world.admin().post("/taint", taint).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let printed = prints("read", "events    2, each with its line").await;
    for part in ["valid: lines 0 to", "operation=\"taint\"", "stolen disk image", "outcome=\"ok\""] {
        assert!(printed.contains(part), "`{part}` is not in: {printed}");
    }
    let printed = run_in(folder, &here("keep"));
    assert!(printed.contains("valid: "), "{printed}");
    // The head of the new generation covers the first lines.
    run_in(folder, &here("archive"));
    let printed = run_in(folder, &here("read"));
    assert!(printed.contains("archived  up to line 3"), "{printed}");
    let archived = std::fs::read_to_string(folder.join("audit-1.jsonl")).unwrap();
    assert_eq!(archived.lines().count(), 4);
}
