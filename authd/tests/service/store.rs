//! The store when it is damaged, busy or gone.

use keychain::{Code, Digest};
use sea_orm::{ConnectionTrait, DbBackend, TransactionTrait};
use tests::craft::{Device, message};

use crate::stage::{Stage, gated};

crate::on_both!(
    an_edited_row_is_an_error_and_never_an_input,
    a_store_that_does_not_answer_is_a_503_and_changes_nothing,
    every_record_keeps_what_the_device_signed,
);

async fn an_edited_row_is_an_error_and_never_an_input(stage: Stage) {
    let (device, _) = stage.couple().await;
    // Whoever edits the commitment wants a key of his own to be believed.
    let his = tests::craft::Keys::draw();
    for (table, column, value) in [
        ("device_records", "rotation_hash", his.public_key().digest().to_string()),
        ("device_records", "state", "revoked".to_owned()),
        ("device_records", "public_key", his.public_key().to_string()),
        ("device_records", "payload", "{}".to_owned()),
        ("device_records", "rotation_hash", "E".to_owned()),
        ("account_records", "recovery_hash", Digest::of("his").to_string()),
        ("account_records", "state", "deleted".to_owned()),
    ] {
        let keep = stage.sql.begin().await.unwrap();
        let edit = format!("UPDATE {table} SET {column} = '{value}' WHERE identity = '{}'", device.identity);
        keep.execute_unprepared(&format!("CREATE TABLE kept AS SELECT id, {column} FROM {table}"))
            .await
            .unwrap();
        keep.execute_unprepared(&edit).await.unwrap();
        keep.commit().await.unwrap();
        let (rotate, _, _) = gated(&device, Device::rotate_request);
        stage.refuses("/device/rotate", rotate, Code::Internal).await;
        let theft = message(&device.rotate_request(&his), &his.current);
        stage.refuses("/device/rotate", theft, Code::Internal).await;
        let restore =
            format!("UPDATE {table} SET {column} = (SELECT {column} FROM kept WHERE kept.id = {table}.id)");
        stage.sql.execute_unprepared(&restore).await.unwrap();
        stage.sql.execute_unprepared("DROP TABLE kept").await.unwrap();
    }
    let mut device = device;
    assert_eq!(device.rotate(&stage.auth).await.status, 200);
}

async fn a_store_that_does_not_answer_is_a_503_and_changes_nothing(stage: Stage) {
    let device = Device::create(&stage.auth).await;
    let before = stage.dump().await;
    let busy = stage.sql.begin().await.unwrap();
    let hold = match stage.sql.get_database_backend() {
        DbBackend::Postgres => "LOCK TABLE device_records IN EXCLUSIVE MODE",
        _ => "UPDATE outbox SET sent_at = sent_at",
    };
    busy.execute_unprepared(hold).await.unwrap();
    let (rotate, _, _) = gated(&device, Device::rotate_request);
    let answer = stage.auth.post("/device/rotate", rotate.clone()).await;
    answer.refused(Code::Unavailable);
    assert!(answer.headers.contains_key("retry-after"));
    busy.rollback().await.unwrap();
    assert_eq!(stage.dump().await, before);
    assert_eq!(stage.auth.post("/device/rotate", rotate).await.status, 200);
}

async fn every_record_keeps_what_the_device_signed(stage: Stage) {
    let mut device = Device::create(&stage.auth).await;
    device.rotate(&stage.auth).await.response();
    let keys = device.keys.ahead();
    let body = message(&device.change_request(&keys, &device.recovery), &keys.current);
    stage.auth.post("/recovery/change", body.clone()).await.response();
    let sent: serde_json::Value = serde_json::from_str(&body).unwrap();
    let (payload, signature) = (sent["payload"].to_string(), sent["signature"].as_str().unwrap());
    let dump = stage.dump().await;
    for table in ["account_records", "device_records"] {
        let row =
            dump.lines().rfind(|line| line.starts_with(table) && line.contains("/recovery/change")).unwrap();
        assert!(row.contains(&payload) && row.ends_with(signature), "{row}");
    }
}
