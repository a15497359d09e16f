//! What authd is told: one TOML file, whose defaults are right for most (`systemd/config/authd.toml`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edge::http::{Proxies, server};
use edge::verifier::Audience;
use keychain::acknowledgement::Instance;
use keychain::{Digest, Refusal, limits};
use serde::Deserialize;
use systemd::config::{self, Span};
use systemd::listen::{Address, Mode};
use systemd::tls;

use crate::admin::policy::Policy;
use crate::operation::owner::Margins;
use crate::operation::session::Lifetimes;
use crate::roles::Roles;
use crate::store::{KEYS_LENGTH_MAX, MacKeys};
use crate::throttle::Limits;

/// How long a device may still be sending a request whose token was checked in time.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// How long after it was asked for a revocation may be committed. Tokens that are asked for by then may still be given.
const COMMIT_DEADLINE: Duration = Duration::from_secs(15);

/// Denials are rounded up to whole minutes: with the defaults, 16.
const MINUTE: u64 = 60;

/// Longest that an access token may live: the window of edges allows no more.
const ACCESS_LIFETIME_MAX: Duration = Duration::from_mins(15);

/// Longest that a session may last: refresh keys are verified against endorsements of 24 h at most, and a
/// token issued at the end of its key's use must still be refreshable.
const REFRESH_LIFETIME_MAX: Duration = Duration::from_hours(12);

/// The configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The HSM identity: the chain's prefix, as `opsctl identity export` prints it.
    pub identity: Digest,
    /// Which of several processes of authd this is, as hsmd's policy names it.
    #[serde(default = "Instance::only")]
    pub instance: Instance,
    /// Where devices reach authd.
    pub listen: Address,
    /// TLS of its own; without it, a reverse proxy has it.
    pub tls: Option<tls::Files>,
    /// Whose word counts for the id of a request.
    #[serde(default)]
    pub trusted_proxies: Proxies,
    /// How long requests under way may take once authd is asked to stop.
    #[serde(default = "drain")]
    pub drain: Span,
    /// `sqlite:///path` or `postgres://…`.
    pub database: String,
    /// Whether the database may lose in a crash what it acknowledged.
    #[serde(default)]
    pub insecure_lossy_database: bool,
    /// The keys of the MACs by which the rows of the database are believed: a credential's name, or the
    /// absolute path of a private file.
    #[serde(default = "store_mac_key")]
    pub store_mac_key: String,
    /// The key directory.
    pub redis: String,
    /// hsmd's endorse socket: `unix:/path`, or `https://host:port`.
    pub endorse: String,
    /// The certificates for an hsmd on another host.
    pub endorse_tls: Option<edge::endorser::Tls>,
    /// Where `/metrics` is served.
    pub metrics: Address,
    /// Clock difference between machines that is tolerated.
    #[serde(default = "clock_skew")]
    pub clock_skew: Span,
    /// Where the highest event seen is kept.
    pub state: PathBuf,
    /// The event that decides a contested chain.
    pub chain_pin: Option<Digest>,
    /// How long ago a head of hsmd may have shown at most that nothing newer exists; beyond it, requests are
    /// answered with BA607.
    #[serde(default = "head_max_age")]
    pub head_max_age: Span,
    /// Whether heads may be of any age: a directory that withholds denials is then believed for ever.
    #[serde(default)]
    pub insecure_any_head_age: bool,
    /// How often everything in the key directory is read again, whatever it announced.
    #[serde(default = "reread_every")]
    pub reread_every: Span,
    /// Each keysd that is asked for chain and heads besides: `unix:/path`, `http://host:port` or `https://host`.
    #[serde(default)]
    pub keysd: Vec<String>,
    /// The authorities that the certificates of those over https must come from: a PEM file.
    pub keysd_ca: Option<PathBuf>,
    /// What every account may do: role to permissions.
    #[serde(default = "roles")]
    pub roles: BTreeMap<String, Vec<String>>,
    /// What operators may let an account do besides: role to permissions.
    #[serde(default)]
    pub grantable_roles: BTreeMap<String, Vec<String>>,
    /// How often somebody may ask.
    #[serde(default)]
    pub limits: Limits,
    /// The admin socket; none if unset.
    pub admin: Option<Admin>,
    /// Its origin as devices name it in access requests to authd itself, `https://host`. Unset, a request that names an
    /// audience is refused.
    pub audience: Option<String>,
    /// Whether such requests must name it; by default they must where one is configured.
    pub audience_required: Option<bool>,
    /// How long an access token lasts.
    #[serde(default = "access_lifetime")]
    pub access_lifetime: Span,
    /// How long a session lasts from its first token.
    #[serde(default = "refresh_lifetime")]
    pub refresh_lifetime: Span,
    /// How often own keys are replaced.
    #[serde(default = "cycle")]
    pub cycle: Span,
    /// Whether public auth servers share the directory: each spent refresh key is then written there for them.
    #[serde(default)]
    pub public_auth_servers: bool,
}

/// `[admin]`: where operators reach authd.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// A Unix socket: its peers are known by the kernel's word.
    pub listen: Address,
    /// Permission bits of the socket, if authd makes it.
    #[serde(default = "admin_mode")]
    pub mode: Mode,
    /// The file that says who may order what.
    pub policy: PathBuf,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("`{key}`: {because}")]
pub struct Unusable {
    /// The setting.
    pub key: &'static str,
    /// What is wrong with it, and what would be right.
    pub because: String,
}

impl Config {
    /// Reads the file at `path`, and checks it.
    pub fn load(path: &Path) -> Result<Self, config::Error> {
        let config: Self = config::load(path)?;
        config.check().map_err(|error| config::Error::value(path, error.key, error.because))?;
        Ok(config)
    }

    /// Checks what the types of the settings do not say.
    pub fn check(&self) -> Result<(), Unusable> {
        let unusable = |key, because| Unusable { key, because };
        crate::store::Store::check_url(&self.database)
            .map_err(|fault| unusable("database", fault.to_string()))?;
        edge::endorser::Endorser::new(&self.endorse, self.endorse_tls.as_ref())
            .map_err(|error| unusable("endorse", error.to_string()))?;
        edge::trust::head_max_age(self.head_max_age, self.insecure_any_head_age)
            .map_err(|error| unusable("head_max_age", error.to_string()))?;
        self.keysd().map_err(|error| unusable("keysd", error.to_string()))?;
        edge::updates::reread_every(self.reread_every)
            .map_err(|error| unusable("reread_every", error.to_string()))?;
        self.audience()?;
        server::drain(self.drain).map_err(|error| unusable("drain", error.to_string()))?;
        server::check_tls(&self.listen, self.tls.as_ref())
            .map_err(|error| unusable("tls", error.to_string()))?;
        self.roles().map_err(|refusal| unusable("roles", refusal.because().to_owned()))?;
        if let Some(shared) = self.grantable_roles.keys().find(|role| self.roles.contains_key(*role)) {
            let because = format!("every account has `{shared}` already; name it here or in [roles]");
            return Err(unusable("grantable_roles", because));
        }
        if self.admin.as_ref().is_some_and(|admin| matches!(admin.listen, Address::Tcp(_))) {
            let because = "over TCP nobody knows who calls; give unix:/PATH, or fd:NAME of a Unix socket";
            return Err(unusable("admin.listen", because.to_owned()));
        }
        let bounds = [
            ("access_lifetime", self.access_lifetime, ACCESS_LIFETIME_MAX),
            ("refresh_lifetime", self.refresh_lifetime, REFRESH_LIFETIME_MAX),
            ("cycle", self.cycle, limits::RESPONSE_KEY_LIFETIME / 2),
            ("clock_skew", self.clock_skew, Duration::from_secs(30)),
        ];
        for (key, span, most) in bounds {
            if span.duration() > most || (span.duration().is_zero() && key != "clock_skew") {
                let most = most.as_secs();
                return Err(unusable(key, format!("give more than zero and at most {most} s")));
            }
        }
        Ok(())
    }

    /// Where this authd stands, for access requests that name a place.
    pub fn audience(&self) -> Result<Audience, Unusable> {
        Audience::configured(self.audience.as_deref(), self.audience_required)
            .map_err(|(key, because)| Unusable { key, because })
    }

    /// What tokens permit.
    pub fn roles(&self) -> Result<Roles, Refusal> {
        Roles::new(self.roles.clone(), self.grantable_roles.clone())
    }

    /// Each keysd that is asked for chain and heads.
    pub fn keysd(&self) -> Result<Vec<edge::trust::Keysd>, edge::trust::KeysdUnusable> {
        edge::trust::Keysd::list(&self.keysd, self.keysd_ca.as_deref())
    }

    /// The keys of the rows' MACs.
    pub fn mac_keys(&self) -> Result<MacKeys, Unusable> {
        let unusable = |because| Unusable { key: "store_mac_key", because };
        let text = systemd::credential::read(&self.store_mac_key, KEYS_LENGTH_MAX).map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            let cause = cause.unwrap_or_default();
            unusable(format!(
                "{error}{cause}; a new store's is made with `authd mac-key`, which authd/STORE.md shows"
            ))
        })?;
        MacKeys::parse(&text).map_err(|error| unusable(error.to_string()))
    }

    /// Who may order what, if there is an admin socket.
    pub fn policy(&self) -> Result<Option<Policy>, config::Error> {
        self.admin.as_ref().map(|admin| Policy::read(&admin.policy)).transpose()
    }

    /// How long tokens and sessions last.
    pub fn lifetimes(&self) -> Lifetimes {
        Lifetimes {
            access: self.access_lifetime.duration(),
            refresh: self.refresh_lifetime.duration(),
            skew: self.clock_skew.duration(),
        }
    }

    /// How long ends of sessions hold. A token that was asked for before an end was committed may have been issued by
    /// another authd, whose clock is ahead.
    pub fn margins(&self) -> Margins {
        Margins { late: self.clock_skew.duration() + COMMIT_DEADLINE, denial: self.denial() }
    }

    /// How long edges are to deny a revoked device: until its last token has ended on every clock, and
    /// requests begun by then with it. The last token was asked for before the revocation was committed.
    pub fn denial(&self) -> Duration {
        let (access, skew) = (self.access_lifetime.duration(), self.clock_skew.duration());
        let least = access + 2 * skew + REQUEST_DEADLINE + COMMIT_DEADLINE;
        Duration::from_secs(least.as_secs().saturating_add(1).div_ceil(MINUTE) * MINUTE)
    }
}

/// Longer than any wait of the store.
fn drain() -> Span {
    Span::seconds(15)
}

fn head_max_age() -> Span {
    Span::seconds(edge::trust::HEAD_MAX_AGE.as_secs())
}

fn clock_skew() -> Span {
    Span::seconds(limits::CLOCK_SKEW.as_secs())
}

fn reread_every() -> Span {
    edge::updates::REREAD_EVERY
}

fn store_mac_key() -> String {
    "store-mac-key".to_owned()
}

fn admin_mode() -> Mode {
    Mode::GROUP
}

fn roles() -> BTreeMap<String, Vec<String>> {
    BTreeMap::from([("user".to_owned(), vec!["read".to_owned(), "write".to_owned()])])
}

fn access_lifetime() -> Span {
    Span::seconds(limits::ACCESS_LIFETIME.as_secs())
}

fn refresh_lifetime() -> Span {
    Span::seconds(limits::REFRESH_LIFETIME.as_secs())
}

fn cycle() -> Span {
    Span::seconds(6 * 3_600)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("authd.toml");
        let text = format!(
            "identity = \"{}\"\nlisten = \"127.0.0.1:0\"\ndatabase = \"sqlite:///a.db\"\nredis = \"redis://h\"\n\
             endorse = \"unix:/e\"\nmetrics = \"127.0.0.1:0\"\nstate = \"/s\"\n{more}",
            Digest::of("chain")
        );
        std::fs::write(&path, text).unwrap();
        config::load(&path).unwrap()
    }

    #[test]
    fn a_denial_outlasts_the_last_token_and_the_request_that_it_began() {
        let table = [
            ("", 16),
            ("clock_skew = \"30s\"", 17),
            ("access_lifetime = \"5m\"", 6),
            ("access_lifetime = \"1s\"\nclock_skew = \"0s\"", 1),
        ];
        for (more, minutes) in table {
            let config = config(more);
            config.check().unwrap();
            assert_eq!(config.denial(), Duration::from_mins(minutes), "{more}");
        }
    }

    #[test]
    fn an_unset_role_is_that_of_a_user() {
        let attributes = config("").roles().unwrap().attributes(None).unwrap();
        assert!(attributes.allows("user", "read") && attributes.allows("user", "write"));
        assert!(!attributes.allows("admin", "read"));
        let attributes = config("[roles]\nguest = [\"read\"]").roles().unwrap().attributes(None).unwrap();
        assert!(attributes.allows("guest", "read") && !attributes.allows("user", "read"));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let table = [
            ("[admin]\nlisten = \"unix:/a\"\npolicy = \"/p\"", None),
            ("[admin]\nlisten = \"fd:admin\"\npolicy = \"/p\"", None),
            ("[admin]\nlisten = \"127.0.0.1:1\"\npolicy = \"/p\"", Some("admin.listen")),
            ("[grantable_roles]\nuser = [\"read\"]", Some("grantable_roles")),
            ("[grantable_roles]\nadmin = [\"write\"]", None),
            ("audience = \"https://auth.example\"", None),
            ("audience = \"auth.example\"", Some("audience")),
            ("audience_required = true", Some("audience_required")),
        ];
        for (more, key) in table {
            assert_eq!(config(more).check().err().map(|unusable| unusable.key), key, "{more}");
        }
    }
}
