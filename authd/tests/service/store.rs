//! The store when it is damaged, busy or gone.

use std::time::Duration;

use keychain::{Code, Digest};
use sea_orm::{ConnectionTrait, DbBackend, TransactionTrait};
use tests::craft::{Device, key, message};

use crate::stage::{Stage, gated};

crate::on_both!(
    an_edited_row_is_an_error_and_never_an_input,
    a_recovery_cuts_off_a_device_whose_row_is_damaged,
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

async fn a_recovery_cuts_off_a_device_whose_row_is_damaged(stage: Stage) {
    let auth = &stage.auth;
    let elsewhere = Digest::of("elsewhere");
    for (column, value) in [
        ("rotation_hash", format!("'{elsewhere}'")),
        ("rotation_hash", "'E'".to_owned()),
        ("public_key", "'E'".to_owned()),
        ("state", "'retired'".to_owned()),
        ("id", "'E'".to_owned()),
        ("prefix", format!("'{elsewhere}'")),
        ("device", format!("'{elsewhere}'")),
        ("sequence_number", "7".to_owned()),
        ("format", "2".to_owned()),
    ] {
        let (device, mut other) = stage.couple().await;
        other.rotate(auth).await.response();
        let row = format!("device = '{}' AND sequence_number = 1", other.device);
        let kept = format!("CREATE TABLE kept AS SELECT * FROM device_records WHERE {row}");
        stage.sql.execute_unprepared(&kept).await.unwrap();
        let edit = format!("UPDATE device_records SET {column} = {value} WHERE {row}");
        stage.sql.execute_unprepared(&edit).await.unwrap();

        let mut fresh = device.another();
        let recover = message(&fresh.recover_request(&key()), &fresh.recovery);
        auth.post("/account/recover", recover).await.response();
        tests::until("the denials in DB 3", Duration::from_secs(10), || async {
            let names = stage.names(3).await;
            [&device, &other].iter().all(|gone| names.contains(&gone.device.to_string())).then_some(())
        })
        .await;
        fresh.rotate(auth).await.response();

        // It is put right, and the device is cut off like the others.
        let rest = format!("signature = (SELECT signature FROM kept) AND identity = '{}'", other.identity);
        let remove = format!("DELETE FROM device_records WHERE path = '/device/rotate' AND {rest}");
        stage.sql.execute_unprepared(&remove).await.unwrap();
        stage.sql.execute_unprepared("INSERT INTO device_records SELECT * FROM kept").await.unwrap();
        stage.sql.execute_unprepared("DROP TABLE kept").await.unwrap();
        other.rotate(auth).await.refused(Code::UnknownDevice);
        other.try_session(auth).await.refused(Code::UnknownDevice);
    }
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
