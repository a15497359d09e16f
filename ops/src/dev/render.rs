//! The daemons' configuration files, as `opsctl dev` writes them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::layout::write_private;
use crate::failure::{Exit, Failure, OrFail};

/// The token's label and the service name of the socket that tests and people use.
pub(crate) const TOKEN_LABEL: &str = "keelson";
const LABORATORY: &str = "edge:dev";
pub(crate) const KEYSD: &str = "keysd:dev";

/// `hsmd.toml`.
#[derive(Debug, Serialize)]
pub(crate) struct Hsmd {
    pub(crate) ledger: String,
    pub(crate) policy: PathBuf,
    pub(crate) chain_copy: PathBuf,
    /// A developer's machine sleeps for weeks and tells of no time service.
    pub(crate) clock_ahead_max_unsynchronized: &'static str,
    pub(crate) metrics: String,
    pub(crate) insecure_plain_http_endorse: SocketAddr,
    pub(crate) insecure_plain_http_service: &'static str,
    pub(crate) hsm: Hsm,
    pub(crate) listen: Vec<Listen>,
}

/// The token.
#[derive(Debug, Serialize)]
pub(crate) struct Hsm {
    pub(crate) module: PathBuf,
    pub(crate) token_label: &'static str,
    pub(crate) pin: PathBuf,
    pub(crate) refused_pin: PathBuf,
}

/// One of hsmd's sockets.
#[derive(Debug, Serialize)]
pub(crate) struct Listen {
    address: String,
    role: &'static str,
    mode: &'static str,
}

/// `policy.toml`: who may do what through which of them.
#[derive(Debug, Serialize)]
pub(crate) struct Policy {
    allow: Vec<Allow>,
}

#[derive(Debug, Serialize)]
struct Allow {
    user: u32,
    socket: String,
    operations: &'static [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purposes: Option<&'static [&'static str]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instances: Option<[&'static str; 0]>,
    rate: &'static str,
}

impl Hsmd {
    pub(crate) fn new(folder: &Path, module: &Path, plain_http: SocketAddr, doors: &[Door]) -> Self {
        Self {
            ledger: sqlite(&folder.join("ledger.db")),
            policy: folder.join("policy.toml"),
            chain_copy: folder.join("copy/chain.jsonl"),
            clock_ahead_max_unsynchronized: "10years",
            metrics: unix(&folder.join("metrics.sock")),
            insecure_plain_http_endorse: plain_http,
            insecure_plain_http_service: LABORATORY,
            hsm: Hsm {
                module: module.to_owned(),
                token_label: TOKEN_LABEL,
                pin: folder.join("pin"),
                refused_pin: folder.join("refused-pin"),
            },
            listen: doors.iter().map(Door::listen).collect(),
        }
    }
}

/// One of hsmd's sockets with who may do what there. Everything runs as one user here, so each service is
/// told apart by a socket of its own.
#[derive(Debug)]
pub(crate) struct Door {
    socket: PathBuf,
    role: &'static str,
    service: Option<(String, &'static [&'static str])>,
}

impl Door {
    pub(crate) fn endorse(socket: PathBuf, service: Service<'_>) -> Self {
        let (service, purposes): (_, &[_]) = match service {
            Service::Authd => ("authd".to_owned(), &["access", "response"]),
            Service::Edge(name) => (format!("edge:{name}"), &["response"]),
            Service::Keysd => (KEYSD.to_owned(), &["response"]),
            Service::Laboratory => (LABORATORY.to_owned(), &["response"]),
        };
        Self { socket, role: "endorse", service: Some((service, purposes)) }
    }

    pub(crate) fn admin(socket: PathBuf) -> Self {
        Self { socket, role: "admin", service: None }
    }

    pub(crate) fn publish(socket: PathBuf) -> Self {
        Self { socket, role: "publish", service: None }
    }

    fn listen(&self) -> Listen {
        Listen { address: unix(&self.socket), role: self.role, mode: "0600" }
    }

    fn allow(&self, user: u32) -> Allow {
        let operations: &[_] = match self.role {
            "endorse" => &["endorse"],
            "publish" => &["report"],
            _ => &[
                "accept-clock",
                "audit",
                "open-service",
                "recover",
                "revoke-keys",
                "revoke-service",
                "roll-service",
                "rotate",
                "taint",
            ],
        };
        let (service, purposes) = self.service.clone().unzip();
        // Tests and people have keys endorsed there: nobody ought to be there.
        let instances = service.as_deref().filter(|service| *service == LABORATORY).map(|_| []);
        // What is tried out here may be load: the token is its only limit.
        Allow {
            user,
            socket: unix(&self.socket),
            operations,
            service,
            purposes,
            instances,
            rate: "1000000/s",
        }
    }
}

impl Policy {
    pub(crate) fn new(user: u32, doors: &[Door]) -> Self {
        Self { allow: doors.iter().map(|door| door.allow(user)).collect() }
    }
}

/// Whose endorsements a socket gives.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Service<'a> {
    Authd,
    Edge(&'a str),
    Keysd,
    Laboratory,
}

/// `hsm-publisher.toml`.
#[derive(Debug, Serialize)]
pub(crate) struct Publisher {
    pub(crate) endorse: String,
    pub(crate) publish: String,
    pub(crate) redis: String,
    pub(crate) metrics: SocketAddr,
}

/// What authd, edge and keysd have in common: they verify.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Verifier {
    pub(crate) identity: String,
    pub(crate) listen: SocketAddr,
    pub(crate) redis: String,
    pub(crate) metrics: SocketAddr,
    pub(crate) state: PathBuf,
}

/// `keysd.toml`.
#[derive(Debug, Serialize)]
pub(crate) struct Keysd {
    #[serde(flatten)]
    pub(crate) verifier: Verifier,
    pub(crate) admin: String,
    pub(crate) endorse: String,
}

/// `authd.toml`.
#[derive(Debug, Serialize)]
pub(crate) struct Authd {
    #[serde(flatten)]
    pub(crate) verifier: Verifier,
    pub(crate) endorse: String,
    pub(crate) database: String,
    pub(crate) store_mac_key: PathBuf,
    pub(crate) grantable_roles: BTreeMap<&'static str, [&'static str; 1]>,
    pub(crate) limits: BTreeMap<&'static str, &'static str>,
    pub(crate) admin: Admin,
}

/// As good as none: the few devices of a test ask as often as the many of a fleet.
pub(crate) const LIMITS: [(&str, &str); 3] =
    [("address", "1000000/s"), ("device", "1000000/s"), ("identity", "1000000/s")];

/// A role that can be granted here.
pub(crate) const SAMPLE_GRANTABLE: [(&str, [&str; 1]); 1] = [("moderator", ["hide"])];

/// authd's admin socket.
#[derive(Debug, Serialize)]
pub(crate) struct Admin {
    pub(crate) listen: String,
    pub(crate) mode: &'static str,
    pub(crate) policy: PathBuf,
}

/// authd's `policy.toml`: one user, everything.
#[derive(Debug, Serialize)]
pub(crate) struct AuthdPolicy {
    allow: [AuthdAllow; 1],
}

#[derive(Debug, Serialize)]
struct AuthdAllow {
    user: u32,
    operations: [&'static str; 15],
    rate: &'static str,
}

impl AuthdPolicy {
    pub(crate) fn new(user: u32) -> Self {
        let operations = [
            "account-delete",
            "account-export",
            "account-restore",
            "account-show",
            "audit",
            "ban",
            "device-revoke",
            "feed-lift",
            "feed-reopen",
            "feed-show",
            "reset",
            "role-grant",
            "role-revoke",
            "roll",
            "unban",
        ];
        Self { allow: [AuthdAllow { user, operations, rate: "1000000/s" }] }
    }
}

/// `edge.toml`.
#[derive(Debug, Serialize)]
pub(crate) struct Edge {
    #[serde(flatten)]
    pub(crate) verifier: Verifier,
    pub(crate) admin: String,
    pub(crate) endorse: String,
    pub(crate) name: String,
    pub(crate) app: String,
    pub(crate) app_secret: PathBuf,
    pub(crate) route: Vec<Route>,
}

/// What a path of an app requires.
#[derive(Debug, Serialize)]
pub(crate) struct Route {
    pub(crate) path: &'static str,
    pub(crate) role: &'static str,
    pub(crate) permission: &'static str,
}

/// The one path that the sample apps serve.
pub(crate) const SAMPLE_ROUTE: Route = Route { path: "/foo/bar", role: "user", permission: "read" };

/// Writes a configuration file.
pub(crate) fn write(path: &Path, configuration: &impl Serialize) -> Result<(), Failure> {
    let text = toml::to_string(configuration)
        .or_fail(Exit::Software, || format!("cannot write `{}` as TOML", path.display()))?;
    write_private(path, text.as_bytes())
}

/// A Unix socket's address in a configuration.
pub(crate) fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// A SQLite file's URL in a configuration.
pub(crate) fn sqlite(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: &str = "EPbuZh5cD6_UzVaYhQKa2gsnMGTOjbtjeTVH37nP9zv0";

    fn port(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    /// The binaries lie beside the tests' folder.
    fn check(binary: &str, file: &Path) {
        let test = std::env::current_exe().unwrap();
        let program = test.parent().unwrap().with_file_name(binary);
        let output = std::process::Command::new(&program)
            .arg("--config")
            .arg(file)
            .arg("--check-config")
            .output()
            .unwrap_or_else(|error| panic!("`{}`: {error}: build the workspace first", program.display()));
        let said = (output.stdout.escape_ascii(), output.stderr.escape_ascii());
        assert!(output.status.success(), "{binary}: {said:?}\n{}", std::fs::read_to_string(file).unwrap());
    }

    #[test]
    fn every_daemon_accepts_its_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        super::super::layout::secret(&folder.join("pin")).unwrap();
        super::super::layout::secret(&folder.join("app-secret")).unwrap();
        let user = rustix::process::getuid().as_raw();
        let socket = |name: &str| folder.join(format!("{name}.sock"));
        let doors = [
            Door::admin(socket("admin")),
            Door::endorse(socket("authd"), Service::Authd),
            Door::endorse(socket("edge"), Service::Edge("python")),
            Door::endorse(socket("keysd"), Service::Keysd),
            Door::endorse(socket("endorse"), Service::Laboratory),
            Door::publish(socket("publish")),
        ];
        let verifier = Verifier {
            identity: IDENTITY.to_owned(),
            listen: port(1),
            redis: "redis://127.0.0.1:2".to_owned(),
            metrics: port(3),
            state: folder.to_owned(),
        };
        let endorse = unix(&socket("authd"));
        let file = |name: &str| folder.join(name);
        write(
            &file("hsmd"),
            &Hsmd::new(folder, Path::new("/usr/lib/softhsm/libsofthsm2.so"), port(4), &doors),
        )
        .unwrap();
        write(&file("policy.toml"), &Policy::new(user, &doors)).unwrap();
        let publisher = Publisher {
            endorse: endorse.clone(),
            publish: unix(&socket("publish")),
            redis: verifier.redis.clone(),
            metrics: port(5),
        };
        write(&file("hsm-publisher"), &publisher).unwrap();
        let database = sqlite(&file("accounts.db"));
        let policy = file("authd-policy.toml");
        write(&policy, &AuthdPolicy::new(user)).unwrap();
        let authd = Authd {
            verifier: verifier.clone(),
            endorse: endorse.clone(),
            database,
            store_mac_key: file("store-mac-key"),
            grantable_roles: SAMPLE_GRANTABLE.into(),
            limits: LIMITS.into(),
            admin: Admin { listen: unix(&socket("accounts")), mode: "0600", policy },
        };
        write(&file("authd"), &authd).unwrap();
        let admin = unix(&socket("roll"));
        let keysd = Keysd { verifier: verifier.clone(), admin: admin.clone(), endorse: endorse.clone() };
        write(&file("keysd"), &keysd).unwrap();
        let edge = Edge {
            verifier,
            admin,
            endorse,
            name: "python".to_owned(),
            app: "http://127.0.0.1:6".to_owned(),
            app_secret: folder.join("app-secret"),
            route: vec![SAMPLE_ROUTE],
        };
        write(&file("edge"), &edge).unwrap();
        for binary in ["hsmd", "hsm-publisher", "authd", "keysd", "edge"] {
            check(binary, &file(binary));
        }
    }
}
