//! Sessions outlive the authd that opened them and the directory that named its key.

use std::time::Duration;

use keychain::statement::Entries;
use keychain::{Code, PublicKey};
use tests::craft::{Device, now};
use tests::until;

use crate::stage::Stage;

crate::on_both!(sessions_outlive_authd_and_the_directory, a_revoked_key_is_not_put_back);

const PATIENCE: Duration = Duration::from_secs(20);

/// An authd that has opened a session and kept the endorsements of its two keys.
async fn with_session(stage: &Stage) -> Device {
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    until("both endorsements to be kept", PATIENCE, || async {
        (stage.service().store.endorsements(now()).await.unwrap().len() == 2).then_some(())
    })
    .await;
    device
}

async fn is_back(stage: &Stage, database: u8, key: &PublicKey) {
    let key = key.to_string();
    until(&format!("{key} to be back"), PATIENCE, || async {
        stage.names(database).await.contains(&key).then_some(())
    })
    .await;
}

async fn sessions_outlive_authd_and_the_directory(mut stage: Stage) {
    let mut device = with_session(&stage).await;
    let (access, response) = (stage.service().access.current().public_key(), stage.response_key());
    stage.dismiss().await;
    stage.redis(0, &["FLUSHALL"]).await;
    stage.hsm.publish(&stage.directory).await;
    stage.restart().await;
    assert_ne!(stage.service().access.current().public_key(), access);
    is_back(&stage, 0, &access).await;
    is_back(&stage, 1, &response).await;
    device.try_refresh(&stage.auth).await.response();

    // A row that has ended is removed.
    stage.service().store.prune(now().plus(Duration::from_hours(25))).await.unwrap();
    assert!(stage.service().store.endorsements(now()).await.unwrap().is_empty());
}

async fn a_revoked_key_is_not_put_back(mut stage: Stage) {
    let mut device = with_session(&stage).await;
    let (access, response) = (stage.service().access.current().public_key(), stage.response_key());
    stage.dismiss().await;
    stage.redis(0, &["FLUSHALL"]).await;
    stage.hsm.publish(&stage.directory).await;
    let revoked = Entries {
        keys: [(access.name(), now().plus(Duration::from_hours(24)))].into(),
        ..Entries::default()
    };
    stage.hsm.publish_head(&stage.directory, 2, &revoked, Duration::ZERO).await;
    stage.restart().await;
    is_back(&stage, 1, &response).await;
    // When it is back a second time, all was done that followed from its first loss.
    stage.redis(1, &["DEL", &response.to_string()]).await;
    is_back(&stage, 1, &response).await;
    assert!(!stage.names(0).await.contains(&access.to_string()), "a revoked key was put back");
    device.try_refresh(&stage.auth).await.refused(Code::UnknownKey);
}
