//! `edge.toml`: what an edge is told.

use std::path::{Path, PathBuf};

use keychain::Digest;
use keychain::acknowledgement::Instance;
use serde::Deserialize;
use systemd::config::{self, ByteSize, Span};
use systemd::listen::Address;
use systemd::tls;

use crate::http::{Proxies, server};
use crate::trust::{Keysd, KeysdUnusable};
use crate::verifier::Audience;
use crate::{denials, endorser, revocations, trust, updates};

/// The file as it stands. Every key but the first eight has a default.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The HSM identity: the prefix of the key chain that everything is verified against.
    pub identity: Digest,
    /// The name of this edge, for its log.
    pub name: String,
    /// Which of several processes of one service this is, as hsmd's policy names it.
    #[serde(default = "Instance::only")]
    pub instance: Instance,
    /// Where devices reach it.
    pub listen: Address,
    /// TLS of its own; without it, a reverse proxy has it.
    pub tls: Option<tls::Files>,
    /// Whose word counts for the id of a request.
    #[serde(default)]
    pub trusted_proxies: Proxies,
    /// How long requests under way may take once the edge is asked to stop.
    #[serde(default = "defaults::drain")]
    pub drain: Span,
    /// The app behind it: `http://host:port` or `unix:/path`.
    pub app: String,
    /// The key directory.
    pub redis: String,
    /// hsmd's endorsement socket: `unix:/path`, `https://host:port`, or `http://host:port` of a laboratory.
    pub endorse: String,
    /// The certificates for an hsmd on another host.
    pub endorse_tls: Option<endorser::Tls>,
    /// Where operators of this host order new keys: a Unix socket; none if unset.
    pub admin: Option<Address>,
    /// Where `/metrics`, `/livez` and `/readyz` are served.
    pub metrics: Address,
    /// The directory that remembers the highest event of the chain.
    pub state: PathBuf,
    /// The secret that tells the app which edge is its own: a credential's name or an absolute path.
    /// Required for an app over TCP, which anyone on the host could reach otherwise.
    pub app_secret: Option<String>,
    /// How far clocks may differ.
    #[serde(default = "defaults::clock_skew")]
    pub clock_skew: Span,
    /// The event that resolves a contested chain.
    pub chain_pin: Option<Digest>,
    /// How long ago a head of hsmd may have shown at most that nothing newer exists; beyond it, requests are
    /// answered with BA607.
    #[serde(default = "defaults::head_max_age")]
    pub head_max_age: Span,
    /// Whether heads may be of any age: a directory that withholds denials is then believed for ever.
    #[serde(default)]
    pub insecure_any_head_age: bool,
    /// Each keysd that is asked for chain and heads besides: `unix:/path`, `http://host:port` or `https://host`.
    #[serde(default)]
    pub keysd: Vec<String>,
    /// The authorities that the certificates of those over https must come from: a PEM file.
    pub keysd_ca: Option<PathBuf>,
    /// How long ago it may have been confirmed at most who is revoked; beyond it, requests are answered with BA608.
    #[serde(default = "defaults::revocations_max_age")]
    pub revocations_max_age: Span,
    /// How often everything in the key directory is read again, whatever it announced.
    #[serde(default = "defaults::reread_every")]
    pub reread_every: Span,
    /// Whether there is a denial feed. Without one, as with a public auth server, whoever can write to the directory
    /// can un-ban.
    #[serde(default)]
    pub denial_feed: denials::Presence,
    /// This edge's origin as devices name it, `https://host`. Requests that name an audience must name this
    /// origin and the path they come to.
    pub audience: Option<String>,
    /// Whether requests must name an audience; by default they must where one is configured.
    pub audience_required: Option<bool>,
    /// Headers of the device that reach the app; all others are dropped.
    #[serde(default = "defaults::forward_headers")]
    pub forward_headers: Vec<String>,
    /// Longest request taken.
    #[serde(default = "defaults::max_request")]
    pub max_request: ByteSize,
    /// Longest answer of the app passed on.
    #[serde(default = "defaults::max_answer")]
    pub max_answer: ByteSize,
    /// Most nonces remembered at a time; each is for some 40 seconds.
    #[serde(default = "defaults::nonce_capacity")]
    pub nonce_capacity: usize,
    /// How long the app may take to answer.
    #[serde(default = "defaults::deadline")]
    pub deadline: Span,
    /// The age at which this edge replaces its own key.
    #[serde(default = "defaults::cycle")]
    pub cycle: Span,
    /// What a path that no route names asks for.
    #[serde(default)]
    pub default: Default,
    /// What paths ask for.
    #[serde(default)]
    pub route: Vec<Route>,
}

/// What a path that no route names asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, std::default::Default)]
#[serde(rename_all = "lowercase")]
pub enum Default {
    /// A genuine request of a device with a session.
    #[default]
    Authenticated,
    /// Nothing helps: only named paths are served.
    Deny,
}

/// What one path, or all below it, asks for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The path; with `/*` at its end, everything below it.
    pub path: String,
    /// The role that must be held.
    pub role: Option<String>,
    /// The permission that the role must have.
    pub permission: Option<String>,
}

mod defaults {
    use super::{ByteSize, Span};
    use crate::verifier;

    pub(super) const fn clock_skew() -> Span {
        Span::seconds(5)
    }

    pub(super) const fn head_max_age() -> Span {
        Span::seconds(crate::trust::HEAD_MAX_AGE.as_secs())
    }

    pub(super) const fn revocations_max_age() -> Span {
        Span::seconds(crate::revocations::MAX_AGE.as_secs())
    }

    pub(super) const fn reread_every() -> Span {
        crate::updates::REREAD_EVERY
    }

    pub(super) fn forward_headers() -> Vec<String> {
        ["accept-language", "user-agent"].map(str::to_owned).to_vec()
    }

    pub(super) const fn max_request() -> ByteSize {
        ByteSize::new(1 << 20)
    }

    pub(super) const fn max_answer() -> ByteSize {
        ByteSize::new(4 << 20)
    }

    pub(super) const fn nonce_capacity() -> usize {
        verifier::NONCES_DEFAULT
    }

    /// Beyond the app's deadline nobody waits for an answer any more.
    pub(super) const fn drain() -> Span {
        Span::seconds(35)
    }

    pub(super) const fn deadline() -> Span {
        Span::seconds(30)
    }

    pub(super) const fn cycle() -> Span {
        Span::seconds(6 * 3_600)
    }
}

/// Fewest nonces that make sense: less is a denial of service by oneself.
const NONCES_MIN: usize = 1_000;

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, config::Error> {
        let config: Self = config::load(path)?;
        config.check().map_err(|(key, because)| config::Error::value(path, key, because))?;
        Ok(config)
    }

    /// What the file's types cannot say.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let over_tcp = !self.app.starts_with("unix:");
        if over_tcp && self.app_secret.is_none() {
            return Err((
                "app_secret",
                "is missing; an app over TCP must be able to tell its edge from others".into(),
            ));
        }
        if matches!(self.admin, Some(Address::Tcp(_))) {
            return Err(("admin", "over TCP nobody knows who calls; give unix:/PATH".into()));
        }
        server::drain(self.drain).map_err(|error| ("drain", error.to_string()))?;
        server::check_tls(&self.listen, self.tls.as_ref()).map_err(|error| ("tls", error.to_string()))?;
        if self.nonce_capacity < NONCES_MIN {
            return Err((
                "nonce_capacity",
                format!("is below {NONCES_MIN}; requests would be refused at once"),
            ));
        }
        Audience::configured(self.audience.as_deref(), self.audience_required)?;
        trust::head_max_age(self.head_max_age, self.insecure_any_head_age)
            .map_err(|error| ("head_max_age", error.to_string()))?;
        self.keysd().map_err(|error| ("keysd", error.to_string()))?;
        revocations::max_age(self.revocations_max_age)
            .map_err(|error| ("revocations_max_age", error.to_string()))?;
        updates::reread_every(self.reread_every).map_err(|error| ("reread_every", error.to_string()))?;
        if self.cycle.duration().as_secs() < 60 || self.cycle.duration().as_secs() > 11 * 3_600 {
            return Err(("cycle", "must lie between 1m and 11h; the key's endorsement lasts 12h".into()));
        }
        self.forward_headers.iter().try_for_each(|name| check_forwarded(name))
    }

    /// Each keysd that is asked.
    pub fn keysd(&self) -> Result<Vec<Keysd>, KeysdUnusable> {
        Keysd::list(&self.keysd, self.keysd_ca.as_deref())
    }
}

/// Headers that mean something between two neighbours only, or that the edge itself writes. A device that
/// takes compressed answers is no neighbour of the app: the edge reads what the app says.
const NEVER_FORWARDED: [&str; 16] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
];

fn check_forwarded(name: &str) -> Result<(), (&'static str, String)> {
    // CGI-like servers do not tell `-` from `_`, so neither does this.
    let plain = name.to_ascii_lowercase().replace('_', "-");
    if plain.starts_with("keelson-") {
        return Err(("forward_headers", format!("`{name}` is the edge's own to write; remove it")));
    }
    if NEVER_FORWARDED.contains(&plain.as_str()) {
        return Err(("forward_headers", format!("`{name}` belongs to one connection; remove it")));
    }
    match reqwest::header::HeaderName::from_bytes(name.as_bytes()) {
        Ok(_) => Ok(()),
        Err(_) => Err(("forward_headers", format!("`{name}` is not the name of a header"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = r#"
        identity = "EAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        name = "demo"
        listen = "127.0.0.1:0"
        app = "unix:/run/app.sock"
        redis = "redis://127.0.0.1:6379"
        endorse = "unix:/run/hsmd/endorse.sock"
        metrics = "127.0.0.1:0"
        state = "/var/lib/edge"
    "#;

    fn load(text: &str) -> Result<Config, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("edge.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_enough() {
        let config = load(LEAST).unwrap();
        assert_eq!(config.default, Default::Authenticated);
        assert_eq!(config.max_request.bytes(), 1 << 20);
        assert_eq!(config.forward_headers, ["accept-language", "user-agent"]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_key() {
        for (line, key) in [
            ("forward_headers = [\"Keelson-Identity\"]", "forward_headers"),
            ("forward_headers = [\"keelson_identity\"]", "forward_headers"),
            ("forward_headers = [\"Transfer_Encoding\"]", "forward_headers"),
            ("forward_headers = [\"a b\"]", "forward_headers"),
            ("forward_headers = [\"Accept-Encoding\"]", "forward_headers"),
            ("audience = \"app.example\"", "audience"),
            ("audience = \"https://app.example/path\"", "audience"),
            ("audience_required = true", "audience_required"),
            ("admin = \"127.0.0.1:1\"", "admin"),
            ("nonce_capacity = 1", "nonce_capacity"),
            ("cycle = \"12h\"", "cycle"),
            ("keysd = [\"https://keys.example\"]", "keysd"),
            ("keysd = [\"\"]", "keysd"),
            ("keysd_ca = \"/etc/ssl/certs/ca-certificates.crt\"", "keysd_ca"),
            ("reread_every = \"500ms\"", "reread_every"),
            ("revocations_max_age = \"9m\"", "revocations_max_age"),
            ("revocations_max_age = \"25h\"", "revocations_max_age"),
            ("reread_every = \"2h\"", "reread_every"),
            ("default = \"allow\"", "default"),
            ("instance = \"two words\"", "instance"),
            ("max_reqest = \"1MiB\"", "max_reqest"),
        ] {
            let error = load(&format!("{LEAST}\n{line}")).unwrap_err();
            assert!(error.contains(key), "{line}: {error}");
        }
        let over_tcp = LEAST.replace("unix:/run/app.sock", "http://127.0.0.1:3000");
        assert!(load(&over_tcp).unwrap_err().contains("app_secret"));
        assert!(load(&format!("{over_tcp}\napp_secret = \"app-secret\"")).is_ok());
    }
}
