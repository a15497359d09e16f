//! Commands as a page shows them, run as they stand there.

use std::path::Path;

use tests::process::{command, run};
use tests::world::binary;

/// The block of commands that follows a mark in the page.
pub(crate) fn commands<'a>(page: &'a str, mark: &str) -> &'a str {
    let after = page.split_once(&format!("<!-- {mark} -->")).unwrap_or_else(|| panic!("no mark {mark}")).1;
    after.split("```sh\n").nth(1).and_then(|block| block.split("```").next()).unwrap()
}

/// Runs a block in a folder, with our programs on the path; answers what it printed.
pub(crate) fn run_in(folder: &Path, block: &str) -> String {
    let programs = binary("opsctl").parent().unwrap().to_owned();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut shell = command("bash");
    shell.args(["-euo", "pipefail", "-c", block]).current_dir(folder).env("PATH", &path);
    run(shell)
}
