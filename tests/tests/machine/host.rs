//! A host with everything on it, installed as a package does it: units, users, folders, sample configurations.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tests::http::Http;
use tests::machine::Machine;
use tests::until;
use tests::world::binary;

/// A machine is one core's worth beside other tests.
pub(crate) const SOON: Duration = Duration::from_mins(1);

const PROGRAMS: [&str; 6] = ["authd", "edge", "hsm-publisher", "hsmd", "keysd", "opsctl"];

/// The samples and where they are installed.
const SAMPLES: [(&str, &str); 8] = [
    ("authd.toml", "etc/authd/authd.toml"),
    ("authd-policy.toml", "etc/authd/policy.toml"),
    ("edge.toml", "etc/edge/8443.toml"),
    ("hsm-publisher.toml", "etc/hsm-publisher/hsm-publisher.toml"),
    ("hsmd.toml", "etc/hsmd/hsmd.toml"),
    ("keysd.toml", "etc/keysd/keysd.toml"),
    ("policy.toml", "etc/hsmd/policy.toml"),
    ("softhsm2.conf", "etc/hsmd/softhsm2.conf"),
];

/// What stands in a sample for the identity.
const NO_IDENTITY: &str = "EAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The services that keep keys of their own, with the unit of each, and how many.
pub(crate) const SERVICES: [(&str, &str, u8); 3] =
    [("authd", "authd", 2), ("edge:demo", "edge@8443", 1), ("keysd:demo", "keysd", 1)];

/// The units of [`SERVICES`].
pub(crate) const UNITS: &str = "authd edge@8443 keysd";

/// A PIN of the token, authd's MAC key, and the app that the sample edge stands before: what is behind its socket answers over TCP.
const PREPARE: &str = r#"
systemd-sysusers
systemd-tmpfiles --create
systemd-run --quiet --unit=directory redis-server --bind 127.0.0.1 --port 6379 --save "" --appendonly no
systemd-run --quiet --unit=demo-app python3 /srv/app.py 127.0.0.1:3000
install -d -o hsmd -g hsmd -m 0700 /var/lib/hsmd /var/lib/hsmd/tokens
SOFTHSM2_CONF=/etc/hsmd/softhsm2.conf setpriv --reuid=hsmd --regid=hsmd --init-groups \
    softhsm2-util --init-token --free --label keelson --pin 123456 --so-pin 12345678
printf 123456 | systemd-creds encrypt --with-key=host --name=pin - /etc/hsmd/pin.cred
authd mac-key | systemd-creds encrypt --with-key=host --name=store-mac-key - /etc/authd/store-mac-key.cred
door() {
    systemd-run --quiet --unit="door-$1" --socket-property=ListenStream="$2" --socket-property=SocketMode=0666 \
        /lib/systemd/systemd-socket-proxyd "$3"
}
door demo /run/demo/app.sock 127.0.0.1:3000
door auth /shared/auth.sock 127.0.0.1:8080
door keys /shared/keys.sock 127.0.0.1:8081
door app /shared/app.sock 127.0.0.1:8443
systemctl start hsmd hsm-publisher
"#;

/// The host, and how its services are reached from outside.
pub(crate) struct Host {
    pub(crate) machine: Machine,
    _folder: TempDir,
}

impl Host {
    /// Installs everything and waits until all of it is well.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (files, shared) = (folder.path().join("files"), folder.path().join("shared"));
        fs::create_dir(&shared).unwrap();
        install(&files);
        let machine = Machine::boot(&files, &shared, &PROGRAMS.map(binary));
        let host = Self { machine, _folder: folder };
        host.machine.run(PREPARE);
        let identity = host.machine.run("opsctl identity export");
        let identity = identity.trim();
        host.machine.run(&format!(
            "sed -i s/{NO_IDENTITY}/{identity}/ /etc/authd/authd.toml /etc/edge/8443.toml /etc/keysd/keysd.toml\n\
             systemctl start {UNITS}"
        ));
        host.is_well().await;
        host
    }

    pub(crate) fn auth(&self) -> Http {
        Http::to_socket(&self.machine.shared().join("auth.sock"))
    }

    pub(crate) fn keys(&self) -> Http {
        Http::to_socket(&self.machine.shared().join("keys.sock"))
    }

    pub(crate) fn app(&self) -> Http {
        Http::to_socket(&self.machine.shared().join("app.sock"))
    }

    /// Waits until `opsctl status` ends with 0.
    pub(crate) async fn is_well(&self) {
        until("all to be well", SOON, async || {
            self.machine.attempt("opsctl status").status.success().then_some(())
        })
        .await;
    }

    /// The public keys of each service, which it proves to have by what it acknowledges from now on.
    pub(crate) async fn own_keys(&self) -> BTreeMap<String, Vec<String>> {
        self.machine.run("redis-cli -n 7 flushdb");
        self.is_well().await;
        let status: Value = serde_json::from_str(&self.machine.run("opsctl status --json")).unwrap();
        let rows = status["verifiers"].as_array().unwrap().iter();
        let known: BTreeMap<String, Vec<String>> = rows
            .map(|row| {
                let keys = row["keys"].as_array().unwrap().iter();
                let keys = keys.map(|key| key.as_str().unwrap().to_owned()).collect();
                (row["service"].as_str().unwrap().to_owned(), keys)
            })
            .collect();
        for (service, _, count) in SERVICES {
            assert_eq!(known[service].len(), usize::from(count), "{service}: {known:?}");
        }
        known
    }
}

/// Lays out what packages bring.
fn install(files: &Path) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let put = |source: PathBuf, target: &str| {
        let target = files.join(target);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(source, target).unwrap();
    };
    for (folder, target) in [
        ("systemd/units", "usr/lib/systemd/system"),
        ("systemd/sysusers.d", "usr/lib/sysusers.d"),
        ("systemd/tmpfiles.d", "usr/lib/tmpfiles.d"),
    ] {
        for entry in fs::read_dir(repository.join(folder)).unwrap() {
            let entry = entry.unwrap();
            put(entry.path(), &format!("{target}/{}", entry.file_name().to_str().unwrap()));
        }
    }
    for (sample, target) in SAMPLES {
        put(repository.join("systemd/config").join(sample), target);
    }
    put(repository.join("tests/apps/python/server.py"), "srv/app.py");
    // The sample's edge of another host is not there.
    let policy = files.join("etc/hsmd/policy.toml");
    let far = "service = \"edge:far\"\n";
    let text = fs::read_to_string(&policy).unwrap();
    assert!(text.contains(far), "{text}");
    fs::write(policy, text.replace(far, &format!("{far}instances = []\n"))).unwrap();
}
