//! `authd check`, `take-in`, `renew-macs` and `mac-key`, as `authd/STORE.md` shows them.

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use authd::record::{DeviceRecord, DeviceState, SignedRequest};
use keychain::message::Operation;
use keychain::{Digest, PublicKey, Signature, Timestamp};
use tests::craft::{Device, key};
use tests::process::command;
use tests::until;

use crate::macs::{self, Row, Value};
use crate::stage::{Stage, write_private};

crate::on_both!(
    a_summary_shows_what_is_gone_and_proves_itself,
    rows_of_an_earlier_authd_are_taken_in_once,
    a_forged_row_is_not_taken_in,
    the_key_is_changed_while_authd_serves,
    a_lost_key_is_no_lost_store,
    without_its_key_authd_does_not_start,
);

const PAGE: &str = include_str!("../../STORE.md");
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the commands of the page that follow a mark, with this stage's files in place of an installed authd's.
async fn page(stage: &Stage, mark: &str) -> Output {
    let after = PAGE.split_once(&format!("<!-- {mark} -->")).unwrap_or_else(|| panic!("no mark {mark}")).1;
    let block = after.split("```sh\n").nth(1).and_then(|block| block.split("```").next()).unwrap();
    let folder = stage.folder.path().display().to_string();
    shell(stage, &block.replace("/etc/authd", &folder).replace("/var/backups", &folder)).await
}

/// Runs commands in which `authd` is this one, with this stage's configuration.
async fn shell(stage: &Stage, block: &str) -> Output {
    let (program, configuration) = (env!("CARGO_BIN_EXE_authd"), path(stage, "authd.toml"));
    let has_config = "if [[ $1 == mac-key ]]; then";
    let authd = format!(
        "authd() {{ {has_config} {program} \"$@\"; else {program} \"$@\" --config {}; fi; }}\n",
        configuration.display()
    );
    let mut shell = command("bash");
    shell.args(["-euo", "pipefail", "-c", &format!("{authd}{block}")]);
    tokio::task::spawn_blocking(move || shell.output().unwrap()).await.unwrap()
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(text).unwrap()
}

#[track_caller]
fn ends(output: &Output, code: i32, words: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "no `{word}` in {said}");
    }
}

/// Ends authd once it has kept the chain, by which commands judge.
async fn end(stage: &mut Stage) {
    let kept = stage.folder.path().join("authd/chain.json");
    until("the chain to be kept", PATIENCE, || async { kept.exists().then_some(()) }).await;
    stage.dump().await; // all is told
    stage.dismiss().await;
}

fn path(stage: &Stage, name: &str) -> PathBuf {
    stage.folder.path().join(name)
}

async fn a_summary_shows_what_is_gone_and_proves_itself(mut stage: Stage) {
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    assert!(stage.set_banned(&Digest::of("somebody"), true).await);
    let kept = path(&stage, "authd/chain.json");
    until("the chain to be kept", PATIENCE, || async { kept.exists().then_some(()) }).await;
    stage.dump().await;
    // authd serves meanwhile.
    ends(&page(&stage, "check").await, 0, &["account_records 1", "ban_records 1", "summary ", "ok"]);
    ends(&page(&stage, "against").await, 0, &["against ", "ok"]);
    ends(&page(&stage, "check").await, 2, &["exists"]);

    // Others come, rows are added: it still stands.
    device.rotate(&stage.auth).await.response();
    Device::create(&stage.auth).await;
    ends(&page(&stage, "against").await, 0, &["account_records 2", "ok"]);

    end(&mut stage).await;
    let bans = stage.rows("ban_records").await;
    stage.put_back("ban_records", &[]).await;
    ends(&page(&stage, "against").await, 1, &["found", "of `ban_records`", "is gone", "STORE.md"]);
    stage.put_back("ban_records", &bans).await;
    ends(&page(&stage, "against").await, 0, &["ok"]);

    // A summary that somebody changed is none.
    let summary = path(&stage, "authd-summary");
    let text = std::fs::read_to_string(&summary).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let (last, rest) = lines.split_last().unwrap();
    let record = rest.iter().position(|line| line.starts_with("record ban_records")).unwrap();
    let without = [&rest[..record], &rest[record + 1..], &[*last]].concat().join("\n") + "\n";
    let dated = text.replace(r#""madeAt":"2"#, r#""madeAt":"1"#);
    for (what, changed, because) in [
        ("a line taken out", without, "not the ones that were signed"),
        ("its end cut off", rest.join("\n") + "\n", "its end is missing"),
        ("a line that was cut", text[..text.len() - 9].to_owned(), "cut"),
        ("another time", dated, "no summary to go by"),
        ("something after it", format!("{text}denial 1 never\n"), "something follows"),
        ("no summary at all", "hello\n".to_owned(), "does not begin as one"),
        ("nothing", String::new(), "empty"),
    ] {
        std::fs::write(&summary, changed).unwrap();
        let output = page(&stage, "against").await;
        assert_eq!(output.status.code(), Some(2), "{what}: {}", said(&output));
        assert!(said(&output).contains(because), "{what}: {}", said(&output));
    }
    std::fs::remove_file(&summary).unwrap();
    ends(&page(&stage, "against").await, 2, &["authd-summary"]);
    stage.hsm.break_down();
    ends(&page(&stage, "check").await, 2, &["refused with status 503"]);
    assert!(!summary.exists());
    std::fs::remove_file(kept).unwrap();
    ends(&shell(&stage, "authd check").await, 2, &["has no chain of this identity"]);
}

/// Takes every trace of MACs away, as in a database of before.
async fn forget_macs(stage: &Stage) {
    for table in macs::TABLES.iter().filter(|table| table.name != "marks") {
        stage.execute(&format!("UPDATE {} SET mac = NULL", table.name)).await;
    }
    stage.execute("DELETE FROM marks").await;
}

async fn starts(stage: &Stage) -> Output {
    let configuration = path(stage, "authd.toml");
    let mut authd = command(env!("CARGO_BIN_EXE_authd"));
    authd.arg("--config").arg(configuration);
    tokio::task::spawn_blocking(move || authd.output().unwrap()).await.unwrap()
}

async fn rows_of_an_earlier_authd_are_taken_in_once(mut stage: Stage) {
    let (mut device, _) = stage.couple().await;
    device.open_session(&stage.auth).await;
    assert!(stage.set_banned(&Digest::of("somebody"), true).await);
    end(&mut stage).await;
    forget_macs(&stage).await;
    // Never silently.
    ends(&starts(&stage).await, 78, &["have no MACs", "authd take-in"]);
    ends(&shell(&stage, "authd check").await, 2, &["authd take-in"]);
    ends(&page(&stage, "take-in").await, 0, &["device_records 3", "ok"]);
    stage.restart().await;
    device.rotate(&stage.auth).await.response();
    device.try_refresh(&stage.auth).await.response();
    end(&mut stage).await;

    // Once: what has no MAC later was not written by authd.
    ends(&page(&stage, "take-in").await, 2, &["nothing is to be done"]);
    stage.execute("UPDATE refreshes SET mac = NULL").await;
    ends(&shell(&stage, "authd check").await, 1, &["found", "of `refreshes`", "it has no MAC"]);
    ends(&page(&stage, "take-in").await, 2, &["nothing is to be done"]);
    stage.execute("DELETE FROM marks").await;
    ends(&page(&stage, "take-in").await, 2, &["the mark that says so was removed"]);
    ends(&starts(&stage).await, 78, &["somebody removed the mark"]);
}

async fn a_forged_row_is_not_taken_in(mut stage: Stage) {
    Device::create(&stage.auth).await;
    end(&mut stage).await;
    let good = stage.rows("device_records").await.remove(0);
    forget_macs(&stage).await;
    let digest = |column: &str| Digest::parse(good.word(column)).unwrap();
    let request = SignedRequest {
        operation: Operation::AccountCreate,
        digest: digest("cause"),
        payload: good.word("payload").to_owned(),
        signature: Signature::parse(good.word("signature")).unwrap(),
    };
    let keys = (PublicKey::parse(good.word("public_key")).unwrap(), key().public_key().digest());
    let made = Timestamp::from_unix_millis(good.number("created_at"));
    let owner = (digest("identity"), digest("device"));
    let record = DeviceRecord::new(None, owner, keys, DeviceState::Active, request, made);
    let mut forged = Row { mac: None, ..good.clone() };
    for (column, text) in [
        ("id", record.version.id),
        ("prefix", record.version.prefix),
        ("rotation_hash", record.rotation_hash),
    ] {
        let place = forged.place(column).unwrap();
        forged.values[place] = Some(Value::Word(text.to_string()));
    }
    stage.put_back("device_records", &[forged]).await;
    let found = ["of `device_records`: it is not what its request asked for"];
    ends(&page(&stage, "take-in").await, 1, &found);
    ends(&starts(&stage).await, 78, &["not all taken in"]);
    // Begun again, it goes on.
    ends(&page(&stage, "take-in").await, 1, &found);
    stage.put_back("device_records", &[Row { mac: None, ..good }]).await;
    ends(&page(&stage, "take-in").await, 0, &["ok"]);
    stage.restart().await;
    end(&mut stage).await;
}

/// The ids of the keys that the rows name.
async fn named(stage: &Stage) -> std::collections::BTreeSet<String> {
    let mut named = std::collections::BTreeSet::new();
    for table in &macs::TABLES {
        for row in stage.rows(table.name).await {
            named.insert(row.mac.unwrap().split_once('.').unwrap().0.to_owned());
        }
    }
    named
}

async fn the_key_is_changed_while_authd_serves(mut stage: Stage) {
    let (mut device, _) = stage.couple().await;
    device.open_session(&stage.auth).await;
    assert!(stage.set_banned(&Digest::of("somebody"), true).await);
    end(&mut stage).await;
    let keys = path(&stage, "store-mac-key");
    let old = std::fs::read_to_string(&keys).unwrap();
    let old_id = old.split(' ').nth(1).unwrap().to_owned();

    // One after the other, authd serving in between.
    let block = PAGE.split("<!-- change -->\n```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = stage.folder.path().display().to_string();
    let lines: Vec<String> = block.lines().map(|line| line.replace("/etc/authd", &folder)).collect();
    let [add, renew, drop] = lines.as_slice() else { panic!("{lines:?}") };
    ends(&shell(&stage, add).await, 0, &[]);
    let both = std::fs::read_to_string(&keys).unwrap();
    assert!(both.ends_with(&old) && both.lines().count() == 2, "the old line is not the second");
    stage.restart().await;
    device.rotate(&stage.auth).await.response();
    device.try_refresh(&stage.auth).await.response();
    assert_eq!(named(&stage).await.len(), 2);

    // The old one is not taken away too early.
    let first = both.lines().next().unwrap();
    write_private(&keys, first);
    ends(&starts(&stage).await, 78, &[&old_id, "store_mac_key"]);
    write_private(&keys, &both);

    // A row whose old MAC does not hold gets no new one.
    let good = stage.rows("refreshes").await;
    stage.execute("UPDATE refreshes SET expiry = expiry + 1").await;
    ends(&shell(&stage, renew).await, 1, &["found", "of `refreshes`"]);
    stage.put_back("refreshes", &good).await;

    ends(&shell(&stage, renew).await, 0, &["device_records ", "ok"]);
    assert_eq!(named(&stage).await.len(), 1);
    assert!(!named(&stage).await.contains(&old_id));
    ends(&shell(&stage, renew).await, 0, &["device_records 0", "ok"]);
    device.rotate(&stage.auth).await.response();
    end(&mut stage).await;
    ends(&shell(&stage, &format!("cd {folder}; {drop}")).await, 0, &[]);
    assert_eq!(std::fs::read_to_string(&keys).unwrap().trim_end(), first);
    stage.restart().await;
    device.rotate(&stage.auth).await.response();
    end(&mut stage).await;
    ends(&shell(&stage, "authd check").await, 0, &["ok"]);
}

async fn a_lost_key_is_no_lost_store(mut stage: Stage) {
    let mut device = Device::create(&stage.auth).await;
    end(&mut stage).await;
    let keys = path(&stage, "store-mac-key");
    std::fs::remove_file(&keys).unwrap();
    ends(&page(&stage, "key").await, 0, &[]);
    ends(&starts(&stage).await, 78, &["have MACs by the key", "authd/STORE.md"]);
    ends(&page(&stage, "take-in").await, 2, &["have MACs by the key"]);
    ends(&shell(&stage, "authd take-in --key-was-lost").await, 0, &["ok"]);
    stage.restart().await;
    device.rotate(&stage.auth).await.response();
    end(&mut stage).await;
}

async fn without_its_key_authd_does_not_start(mut stage: Stage) {
    end(&mut stage).await;
    let keys = path(&stage, "store-mac-key");
    let configuration = path(&stage, "authd.toml");
    let good = std::fs::read_to_string(&keys).unwrap();
    let text = std::fs::read_to_string(&configuration).unwrap();
    let starts_with = |text: String| {
        let (path, stage) = (path(&stage, "wrong.toml"), &stage);
        async move {
            std::fs::write(&path, text).unwrap();
            shell(stage, &format!("{} --config {}", env!("CARGO_BIN_EXE_authd"), path.display())).await
        }
    };
    let by_name = text.replace(&keys.display().to_string(), "store-mac-key");
    ends(
        &starts_with(by_name).await,
        78,
        &["no credential `store-mac-key`", "LoadCredential", "authd mac-key"],
    );
    std::fs::remove_file(&keys).unwrap();
    ends(&starts_with(text.clone()).await, 78, &["store_mac_key", "No such file", "authd mac-key"]);
    for (content, because) in [
        (good.replace("07", "08"), "its id is not that of its key"),
        (good.clone() + "\n" + &good, "both lines are the same key"),
        ("hunter2".to_owned(), "line 1 is no MAC key"),
        (macs::line([8; 32]), "have MACs by the key"),
    ] {
        write_private(&keys, &content);
        let output = starts_with(text.clone()).await;
        ends(&output, 78, &[because]);
        assert!(!said(&output).contains("hunter2") && !said(&output).contains("0707"), "{}", said(&output));
    }
    write_private(&keys, &good);
    std::fs::set_permissions(&keys, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    ends(&starts_with(text).await, 78, &["open to others"]);
}
