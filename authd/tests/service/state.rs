//! What authd makes of its state folder when that is damaged: what keeps it from being rolled back is guarded, and what it
//! would start in an outage with is read again from its sources.

use std::fs;
use std::time::Duration;

use keychain::Code;
use rustix::process::Signal;
use tests::craft::Device;
use tests::damage::{Damage, befall, cut, edited, endless, foreign, invented};
use tests::service_manager::ServiceManager;
use tests::until;

use crate::restart::launch;
use crate::stage::Stage;

const PATIENCE: Duration = Duration::from_secs(20);

const TRUST: &str = "trust.json";
const CHAIN: &str = "chain.json";

/// What a start on a damaged state comes to.
#[derive(Debug)]
enum Start {
    /// It ends with that status, and names the file.
    Ends(i32),
    /// It serves.
    Serves,
    /// It answers nobody but with what it waits for.
    Waits,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_damage_of_the_state_has_its_outcome() {
    let mut stage = Stage::on_sqlite().await;
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    stage.dismiss().await;
    let state = stage.folder.path().join("restarted");
    let read = |name: &str| fs::read_to_string(state.join(name)).unwrap_or_default();
    let mut manager = ServiceManager::start(stage.folder.path());
    let (mut first, _) = launch(&stage, &mut manager, Vec::new());
    until("everything to be on disk", PATIENCE, async || {
        (read(CHAIN).contains("signature") && read(TRUST).contains("chain-head")).then_some(())
    })
    .await;
    first.stop();
    let good = [TRUST, CHAIN].map(|name| (name, read(name)));
    let cases: [(&str, &str, Option<Damage>, Start); 10] = [
        (TRUST, "missing", None, Start::Serves),
        (TRUST, "cut", Some(cut), Start::Ends(78)),
        (TRUST, "edited", Some(edited), Start::Ends(78)),
        (TRUST, "endless", Some(endless), Start::Ends(74)),
        (TRUST, "foreign", Some(foreign), Start::Ends(78)),
        (TRUST, "invented", Some(invented), Start::Waits),
        (CHAIN, "missing", None, Start::Serves),
        (CHAIN, "cut", Some(cut), Start::Serves),
        (CHAIN, "edited", Some(edited), Start::Serves),
        (CHAIN, "foreign", Some(|_| "[\"{}\"]".to_owned()), Start::Serves),
    ];
    for (name, how, damage, start) in cases {
        println!("{name} {how}: {start:?}");
        for (name, text) in &good {
            fs::write(state.join(name), text).unwrap();
        }
        befall(&state.join(name), damage);
        let mut manager = ServiceManager::start(stage.folder.path());
        let (mut authd, auth) = launch(&stage, &mut manager, Vec::new());
        match start {
            Start::Ends(status) => {
                let ended = until("authd to end", PATIENCE, async || authd.ended()).await;
                assert_eq!(ended.code(), Some(status), "{name} {how}: {}", authd.log());
                assert!(authd.log().contains(name), "{name} {how}: {}", authd.log());
                continue;
            }
            Start::Serves => {
                until("readiness", PATIENCE, async || manager.heard(|line| line == "READY=1").then_some(()))
                    .await;
                device.try_refresh(&auth).await.response();
            }
            Start::Waits => {
                let what = "the chain to be seen to be rolled back";
                until(what, PATIENCE, async || {
                    authd.output().contains("contested or rolled back").then_some(())
                })
                .await;
                auth.get("/health").await.refused(Code::Unavailable);
                assert!(!manager.heard(|line| line == "READY=1"), "{}", authd.log());
            }
        }
        authd.signal(Signal::TERM);
        authd.stop();
    }
}
