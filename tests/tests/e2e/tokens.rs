//! The commands of hsmd/RECOVERY.md, "Two tokens": a second token is added, and the first one lost for good.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use tests::process::{command, run};
use tests::world::binary;
use tests::{World, until};

/// Restarting hsmd and looking, while other tests run.
const SOON: Duration = Duration::from_mins(1);

/// The block that follows a mark in the page.
fn block(mark: &str) -> &'static str {
    let page = include_str!("../../../hsmd/RECOVERY.md");
    let after = page.split_once(&format!("<!-- {mark} -->")).unwrap_or_else(|| panic!("no mark {mark}")).1;
    after.split("```").nth(1).and_then(|block| block.split_once('\n')).unwrap().1
}

/// Runs a block of the page against the world.
fn run_block(world: &World, mark: &str) {
    let folder = tempfile::tempdir().unwrap();
    let programs = binary("opsctl").parent().unwrap().to_owned();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let here = format!("--endpoints {}", world.endpoints_file().display());
    let mut block = block(mark).replace("https://keys.example", &world.endpoints().keys);
    for verb in ["rotate", "hsm verify"] {
        block = block.replace(&format!("opsctl {verb}"), &format!("opsctl {verb} {here}"));
    }
    let dev = world.endpoints_file().parent().unwrap().join("dev/hsmd");
    let officers = format!(
        "opsctl hsm pair -- --config {0}/hsmd.toml --officer-pin {0}/officer-pin --second-officer-pin {0}/second-officer-pin",
        dev.display()
    );
    block = block.replace("opsctl hsm pair", &officers);
    let mut shell = command("bash");
    shell.args(["-euo", "pipefail", "-c", &block]).current_dir(folder.path()).env("PATH", &path);
    shell.env("SOFTHSM2_CONF", dev.join("softhsm2.conf"));
    run(shell);
}

/// Makes the token that the page's table names, and adds the table to hsmd's configuration.
fn add_token(folder: &Path) {
    let [pin, _] = [("second-pin", "2468-wxyz"), ("second-officer-pin", "so-2468")].map(|(name, pin)| {
        let file = folder.join(name);
        fs::write(&file, pin).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        file
    });
    let mut softhsm = command("softhsm2-util");
    softhsm
        .args([
            "--init-token",
            "--free",
            "--label",
            "keelson-second",
            "--so-pin",
            "so-2468",
            "--pin",
            "2468-wxyz",
        ])
        .env("SOFTHSM2_CONF", folder.join("softhsm2.conf"));
    run(softhsm);
    let config = folder.join("hsmd.toml");
    let text = fs::read_to_string(&config).unwrap();
    let table = block("two-tokens-table");
    fs::write(&config, format!("{text}\n{table}pin = \"{}\"\n", pin.display())).unwrap();
}

#[tokio::test]
async fn a_second_token_takes_over_with_the_commands_of_the_page() {
    let world = World::start().await;
    let admin = world.admin();
    let folder = world.endpoints_file().parent().unwrap().join("dev/hsmd");
    let tokens = || fs::read_dir(folder.join("tokens")).unwrap().map(|entry| entry.unwrap().path());
    let first = tokens().next().unwrap();
    add_token(&folder);
    world.kill("hsmd");
    let told = async |what: &'static str| {
        until(what, SOON, async || {
            let health = admin.try_get("/health").await.ok()?;
            health.body.contains(what).then_some(health.body)
        })
        .await
    };
    told("are on one token only, `first`").await;
    run_block(&world, "two-tokens-set-up");
    let both = "\"answers\":true,\"live\":true,\"next\":true},{\"name\":\"second\",\"answers\":true,\"live\":true,\"next\":true";
    let identity = told(both).await;
    let published = async |events| {
        let told = async || {
            let answer = world.keys().try_get("/hsm/keys").await.ok()?;
            (answer.json().as_array()?.len() == events).then_some(answer.body)
        };
        until("the rotation to be published", SOON, told).await
    };
    let before = published(3).await;

    // The first is lost for good: the second signs and rotates, after a restart too.
    fs::remove_dir_all(first).unwrap();
    world.kill("hsmd");
    told("the token `first` does not answer").await;
    let mut rotate = command(binary("opsctl").to_str().unwrap());
    rotate.arg("rotate").arg("--endpoints").arg(world.endpoints_file());
    run(rotate);
    let after = published(4).await;
    assert!(after.starts_with(before.trim_end_matches(']')), "the same chain");
    until("hsmd to be ready", SOON, async || {
        (admin.try_get("/health").await.ok()?.status == 200).then_some(())
    })
    .await;
    let member = |body: &str| body.split("\"identity\":\"").nth(1).map(|rest| rest[..44].to_owned()).unwrap();
    assert_eq!(member(&admin.get("/health").await.body), member(&identity));
}
