//! Own keys outlive a restart and a crash of their service in systemd's descriptor store, and nothing else.

use std::collections::BTreeMap;

use tests::craft::Device;
use tests::until;

use crate::host::{Host, SERVICES, SOON, UNITS};

const REQUEST: &str = r#"{"foo":"a","bar":"b"}"#;

/// What hsmd and the directory are, to be taken away. A socket that is wanted would start hsmd again.
const REST: &str =
    "hsmd.service hsmd-endorse.socket hsmd-admin.socket hsmd-publish.socket hsmd-metrics.socket";

type Keys = BTreeMap<String, Vec<String>>;

impl Host {
    /// What systemd says of a unit.
    fn property(&self, unit: &str, name: &str) -> String {
        self.machine.run(&format!("systemctl show --property={name} --value {unit}")).trim().to_owned()
    }

    /// How many descriptors systemd keeps for each unit.
    fn kept(&self) -> Vec<(&'static str, String)> {
        SERVICES.map(|(_, unit, _)| (unit, self.property(unit, "NFileDescriptorStore"))).into()
    }

    /// Asserts that each kept its keys over its last start, and says so.
    async fn kept_its_keys(&self, before: &Keys) {
        assert_eq!(self.own_keys().await, *before);
        for (_, unit, count) in SERVICES {
            let run = self.property(unit, "InvocationID");
            let log = self.machine.run(&format!("journalctl --no-pager _SYSTEMD_INVOCATION_ID={run}"));
            let lines = log.matches("goes on with the key from before the restart").count();
            assert_eq!(lines, usize::from(count), "{unit}: {log}");
        }
    }

    /// The key that signed the edge's answer to a request that it admitted.
    async fn signer(&self, device: &Device) -> String {
        // For a moment after a start an edge may be unable to decide.
        let answer = until("the edge to decide", SOON, async || {
            let answer = self.app().post("/foo/bar", device.session().access(REQUEST)).await;
            (answer.status != 503).then_some(answer)
        })
        .await;
        answer.response();
        answer.json()["payload"]["access"]["serverIdentity"].as_str().unwrap().to_owned()
    }
}

fn all_differ(one: &Keys, other: &Keys) {
    for (service, _, _) in SERVICES {
        assert!(one[service].iter().all(|key| !other[service].contains(key)), "{service}: {one:?} {other:?}");
    }
}

/// One machine for all of it: what one step leaves, the next goes by.
#[tokio::test(flavor = "multi_thread")]
async fn own_keys_outlive_restarts_and_crashes_and_nothing_else() {
    let host = Host::start().await;
    let mut device = Device::create(&host.auth()).await;
    device.open_session(&host.auth()).await;
    let first = host.own_keys().await;
    assert_eq!(host.signer(&device).await, first["edge:demo"][0]);
    let all_kept = SERVICES.map(|(_, unit, count)| (unit, count.to_string()));
    assert_eq!(host.kept(), all_kept);

    host.machine.run(&format!("systemctl restart {UNITS}"));
    host.kept_its_keys(&first).await;
    assert_eq!(host.kept(), all_kept, "kept for the next restart");

    let before = SERVICES.map(|(_, unit, _)| host.property(unit, "MainPID"));
    host.machine.run(&format!("systemctl kill --kill-whom=main --signal=KILL {UNITS}"));
    until("systemd to start them again", SOON, async || {
        let now = SERVICES.map(|(_, unit, _)| host.property(unit, "MainPID"));
        let is_other = now.iter().zip(&before).all(|(now, before)| now != "0" && now != before);
        let is_up = SERVICES.iter().all(|(_, unit, _)| host.property(unit, "ActiveState") == "active");
        (is_other && is_up).then_some(())
    })
    .await;
    host.kept_its_keys(&first).await;

    // An order of new keys replaces what is kept.
    host.machine.run("opsctl roll --wait 1m");
    let second = host.own_keys().await;
    all_differ(&second, &first);
    host.machine.run(&format!("systemctl restart {UNITS}"));
    host.kept_its_keys(&second).await;

    host.machine.run(&format!("systemctl reload {UNITS}"));
    let third = until("new keys", SOON, async || {
        let keys = host.own_keys().await;
        SERVICES.iter().all(|(service, _, _)| keys[*service] != second[*service]).then_some(keys)
    })
    .await;
    all_differ(&third, &second);

    // A stop ends it.
    host.machine.run(&format!("systemctl stop {UNITS}"));
    assert_eq!(host.kept(), SERVICES.map(|(_, unit, _)| (unit, "0".to_owned())));
    host.machine.run(&format!("systemctl start {UNITS}"));
    let fourth = host.own_keys().await;
    all_differ(&fourth, &third);

    // In an outage a restart goes on with the key.
    device.open_session(&host.auth()).await;
    host.signer(&device).await;
    let published = host.keys().get("/keys").await.json();
    host.machine.run(&format!("systemctl mask --runtime --now {REST}\nsystemctl stop directory"));
    host.machine.run(&format!("systemctl restart {UNITS}"));
    assert_eq!(host.signer(&device).await, fourth["edge:demo"][0]);
    device.try_refresh(&host.auth()).await.response();
    assert_eq!(host.keys().get("/keys").await.json(), published);

    host.machine.run(&format!(
        "systemctl unmask --runtime {REST}\n\
         systemd-run --quiet --unit=directory redis-server --bind 127.0.0.1 --port 6379 --save '' --appendonly no\n\
         systemctl start hsmd"
    ));
    host.kept_its_keys(&fourth).await;
    device.try_refresh(&host.auth()).await.response();
    host.signer(&device).await;

    the_sandbox_shows_swap(&host);
}

/// `ProcSubset=pid` hides the kernel's list of swap from the services that have to judge it: it is shown to them elsewhere.
fn the_sandbox_shows_swap(host: &Host) {
    for (_, unit, _) in SERVICES {
        let root = format!("/proc/{}/root", host.property(unit, "MainPID"));
        let own = host.machine.run(&format!("test ! -e {root}/proc/swaps; cat {root}/run/keelson/swaps"));
        assert_eq!(own, host.machine.run("cat /proc/swaps"), "{unit}");
        assert!(own.starts_with("Filename"), "{unit}: {own}");
    }
}
