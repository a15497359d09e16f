//! How the databases find the rows of each statement that authd makes: by an index, never by looking at all of them.
//!
//! PostgreSQL writes down the plan of each statement as it is carried out, with sequential scans forbidden where there
//! is any other way: what is scanned even so has no index. SQLite is asked for its plan of the same texts.

use std::collections::BTreeSet;

use keychain::Digest;
use sea_orm::{ConnectionTrait, Database, DbBackend, Statement};
use serde_json::Value;
use tests::craft::{Device, Keys, key, message, now};

use crate::macs;
use crate::stage::{Stage, gated};

/// What each connection is told before its first statement.
const SETTINGS: [&str; 5] = [
    "session_preload_libraries=auto_explain",
    "auto_explain.log_min_duration=0",
    "auto_explain.log_format=json",
    "enable_seqscan=off",
    // Of what is not about authd's tables there are no plans to judge.
    "log_line_prefix=%p:%a:",
];

/// The tables of authd.
const TABLES: [&str; 16] = [
    "account_records",
    "audit_lines",
    "ban_records",
    "device_names",
    "device_records",
    "endorsements",
    "feeds",
    "marks",
    "outbox",
    "refreshes",
    "role_records",
    "secrets",
    "session_ends",
    "signers",
    "spent_challenges",
    "seaql_migrations",
];

/// Statements that concern all rows of a table: those of a reset, and of a start.
fn concerns_all(text: &str) -> bool {
    text.starts_with("DELETE FROM") && !text.contains("WHERE")
        || text.contains("SELECT DISTINCT")
        || text.contains(r#""held_at" IS NULL AND "outbox"."lifted""#)
        || text.contains("seaql_migrations")
}

/// A statement and what is wrong with its plan.
type Flaws = BTreeSet<(String, String)>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_finds_its_rows_by_an_index() {
    let mut stage = Stage::on_postgres_with(&SETTINGS).await;
    exercise(&mut stage).await;
    let plans = plans(&stage.postgres_log());
    let texts: BTreeSet<&str> = plans.iter().map(|(text, _)| text.as_str()).collect();
    for table in TABLES.iter().filter(|table| **table != "seaql_migrations") {
        for word in ["SELECT", "INSERT INTO"] {
            let is_made = texts.iter().any(|text| text.starts_with(word) && text.contains(table));
            assert!(is_made || *table == "signers", "no {word} of {table} was seen");
        }
    }
    let mut flaws = Flaws::new();
    for (text, plan) in plans.iter().filter(|(text, _)| !concerns_all(text)) {
        judge(text, &plan["Plan"], false, &mut flaws);
    }
    assert!(flaws.is_empty(), "PostgreSQL: {flaws:#?}");

    let flaws = on_sqlite(&texts).await;
    assert!(flaws.is_empty(), "SQLite: {flaws:#?}");
}

/// What an unproven sign-in reads does not grow with the rotations of the device that it names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_of_a_device_are_found_by_its_first_row() {
    let mut stage = Stage::on_postgres_with(&SETTINGS).await;
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    let log = stage.postgres_log();
    let plans = plans(&log);
    let (text, plan) = plans.iter().find(|(text, _)| text.contains("AS owners")).unwrap();
    assert!(plan["Plan"].to_string().contains("device_records_owners"), "{plan}");
    let details = details(&sqlite(&stage).await, text).await;
    assert!(details.iter().any(|line| line.contains("device_records_owners")), "{details:?}");
    stage.dismiss().await;
}

/// Each operation, order and task, refusals and repeats among them.
async fn exercise(stage: &mut Stage) {
    let (mut device, other) = stage.couple().await;
    let auth = stage.auth.clone();
    device.rotate(&auth).await.response();
    device.open_session(&auth).await;
    for _ in 0..2 {
        device.try_refresh(&auth).await.response();
    }
    let list = device.session().access(r#"{"operation":"/owner/devices/list"}"#);
    auth.post("/owner/devices/list", list).await.response();
    for (path, more) in [("/owner/devices/name", r#","name":"a""#), ("/owner/sessions/end", "")] {
        let request = format!(r#"{{"device":"{}","operation":"{path}"{more}}}"#, other.device);
        auth.post(path, device.session().access(&request)).await.response();
    }
    let end = device.session().access(r#"{"operation":"/owner/sessions/end-others"}"#);
    auth.post("/owner/sessions/end-others", end).await.response();
    let shown = stage.admin().get(&format!("/account/export?identity={}", device.identity)).await;
    assert_eq!(shown.status, 200, "{}", shown.body);
    let (rotate, _, keys) = gated(&device, Device::rotate_request);
    auth.post("/device/rotate", rotate.clone()).await.response();
    auth.post("/device/rotate", rotate).await.response();
    device.keys = keys;
    let spare = device.link(&auth).await;
    let gone = spare.device;
    device.gated(&auth, "/device/unlink", |by, keys| by.unlink_request(keys, &gone)).await.response();
    let (recovery, next) = (key(), key());
    device.gated(&auth, "/recovery/change", |by, keys| by.change_request(keys, &recovery)).await.response();
    let mut fresh = device.another();
    fresh.recovery = recovery;
    let recover = message(&fresh.recover_request(&next), &fresh.recovery);
    auth.post("/account/recover", recover).await.response();
    let stranger = Keys::draw();
    let junk = message(&other.rotate_request(&stranger), &stranger.current);
    auth.post("/device/rotate", junk).await.refused(keychain::Code::UnknownDevice);

    let identity = fresh.identity;
    for (path, more) in [
        ("/ban", ""),
        ("/unban", ""),
        ("/roles/grant", r#","role":"moderator""#),
        ("/roles/revoke", r#","role":"moderator""#),
        ("/devices/revoke", ""),
        ("/account/delete", ""),
        ("/account/restore", ""),
    ] {
        let body = format!(r#"{{"identity":"{identity}","reason":"a test"{more}}}"#);
        let answer = stage.admin().post(path, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    }
    let mut last = Device::create(&auth).await;
    last.open_session(&auth).await;
    last.gated(&auth, "/account/delete", Device::rotate_request).await.response();
    for path in [format!("/account?identity={identity}"), "/audit?from=0".to_owned(), "/feed".to_owned()] {
        assert_eq!(stage.admin().get(&path).await.status, 200, "{path}");
    }
    for (path, more) in [("/feed/lift", r#","upTo":1000"#), ("/feed/reopen", ""), ("/reset", "")] {
        let answer = stage.admin().post(path, format!(r#"{{"reason":"a test"{more}}}"#)).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    }
    let store = &stage.service().store;
    store.prune(now()).await.unwrap();
    store.denial(&Digest::of("subject"), now()).await.unwrap();
    stage.dump().await;
    stage.dismiss().await;
    stage.restart().await;
}

/// The statements of authd in PostgreSQL's log, with their plans.
fn plans(log: &str) -> Vec<(String, Value)> {
    let mut plans = Vec::new();
    let mut lines = log.lines().peekable();
    while let Some(line) = lines.next() {
        if !(line.contains(":authd:LOG:") && line.ends_with("plan:")) {
            continue;
        }
        let mut plan = String::new();
        while let Some(more) = lines.next_if(|line| line.starts_with('\t')) {
            plan.push_str(more);
        }
        let plan: Value = serde_json::from_str(&plan).unwrap();
        let text = plan["Query Text"].as_str().unwrap().to_owned();
        plans.push((text, plan));
    }
    plans
}

/// Notes what in a plan looks at rows that no index led to. The first or last row of an index needs no condition.
fn judge(text: &str, node: &Value, is_limited: bool, flaws: &mut Flaws) {
    let kind = node["Node Type"].as_str().unwrap();
    let table = node["Relation Name"].as_str().unwrap_or_default();
    let is_led = match kind {
        "Seq Scan" => false,
        "Index Scan" | "Index Only Scan" | "Bitmap Index Scan" => {
            is_limited || node.get("Index Cond").is_some()
        }
        _ => true,
    };
    if !is_led && (table.is_empty() || TABLES.contains(&table)) {
        flaws.insert((text.to_owned(), format!("{kind} of {table}")));
    }
    let is_limited = kind == "Limit" || is_limited && matches!(kind, "LockRows" | "Result");
    for child in node["Plans"].as_array().into_iter().flatten() {
        judge(text, child, is_limited, flaws);
    }
}

/// The same schema on SQLite.
async fn sqlite(stage: &Stage) -> sea_orm::DatabaseConnection {
    let url = format!("sqlite://{}", stage.folder.path().join("plans.db").display());
    authd::store::Store::open(&url, macs::keys()).await.unwrap();
    Database::connect(&url).await.unwrap()
}

async fn details(sqlite: &sea_orm::DatabaseConnection, text: &str) -> Vec<String> {
    let explain = Statement::from_string(DbBackend::Sqlite, format!("EXPLAIN QUERY PLAN {text}"));
    let rows = sqlite.query_all_raw(explain).await.unwrap_or_else(|error| panic!("{text}: {error}"));
    rows.iter().map(|row| row.try_get("", "detail").unwrap()).collect()
}

async fn on_sqlite(texts: &BTreeSet<&str>) -> Flaws {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("plans.db").display());
    authd::store::Store::open(&url, macs::keys()).await.unwrap();
    let sqlite = Database::connect(&url).await.unwrap();
    let mut flaws = Flaws::new();
    // Locks are PostgreSQL's alone, and so is what a migration looks up.
    let is_locking = |text: &str| text.contains("pg_") || text.contains("FOR UPDATE");
    let is_shared = |text: &&&str| !is_locking(text) && !concerns_all(text);
    for text in texts.iter().filter(is_shared) {
        // The probe asks PostgreSQL for its settings besides.
        let text = text.split(" RETURNING current_setting(").next().unwrap_or_default();
        let details = details(&sqlite, text).await;
        // The first or last rows in the order of a key or an index.
        let is_first = text.contains("LIMIT") && !details.iter().any(|detail| detail.contains("B-TREE"));
        for detail in details {
            let scanned = detail.strip_prefix("SCAN ").and_then(|rest| rest.split(' ').next());
            if scanned.is_some_and(|name| TABLES.contains(&name)) && !(is_first && text.contains("ORDER BY"))
            {
                flaws.insert((text.to_owned(), detail));
            }
        }
    }
    flaws
}
