//! The commands that README.md shows, run as they stand there.

use std::path::Path;

use tests::World;
use tests::process::{command, run};
use tests::world::binary;

/// Every block marked `sh`, in the order of the page and in one folder, as a reader would go through it
/// after `opsctl dev --dir dev --endpoints dev.json`.
#[tokio::test]
async fn the_commands_of_the_readme_work() {
    let readme = include_str!("../../../README.md");
    let blocks: Vec<_> =
        readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 5, "README.md has lost its commands: {blocks:?}");

    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(world.endpoints_file(), folder.path().join("dev.json")).unwrap();
    let programs = binary("opsctl").parent().map(Path::to_path_buf).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    for block in blocks {
        let mut shell = command("bash");
        shell.args(["-euo", "pipefail", "-c", block]).current_dir(folder.path()).env("PATH", &path);
        let printed = run(shell);
        assert!(!printed.is_empty(), "it printed nothing:\n{block}");
    }
}
