//! `hsmd.toml`, read and resolved.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use cryptoki::types::AuthPin;
use keychain::endorsement::Purpose;
use serde::Deserialize;
use systemd::{
    config::{self, Error, Span},
    credential,
    listen::{Address, Mode},
};

use crate::{
    backend::{KeyIds, pkcs11},
    policy::{Caller, Policy, Role, Rule, Service, User},
};

/// Longest PIN: PKCS#11 tokens take up to 255 bytes.
const PIN_MAX: usize = 255;

/// What `hsmd.toml` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The ledger's database.
    #[serde(default = "default_ledger")]
    pub ledger: String,
    /// How far other clocks may be off.
    #[serde(default = "default_skew")]
    pub clock_skew: Span,
    /// Where metrics are served.
    #[serde(default = "default_metrics")]
    pub metrics: Address,
    /// For a laboratory: plain HTTP for response keys, to anybody on this host.
    pub insecure_plain_http_endorse: Option<SocketAddr>,
    /// The service that endorsements through it bear.
    #[serde(default = "default_insecure_service")]
    pub insecure_plain_http_service: Service,
    hsm: Hsm,
    #[serde(default)]
    listen: Vec<Listen>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hsm {
    module: PathBuf,
    token_label: Option<String>,
    token_serial: Option<String>,
    #[serde(default = "default_pin")]
    pin: String,
    #[serde(default)]
    key_ids: KeyIds,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listen {
    address: Address,
    role: RoleName,
    mode: Option<Mode>,
    #[serde(default)]
    allow: Vec<Allow>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Allow {
    user: User,
    service: Option<Service>,
    #[serde(default)]
    purposes: Vec<PurposeName>,
    longest_access: Option<Span>,
    longest_response: Option<Span>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RoleName {
    Admin,
    Endorse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PurposeName {
    Access,
    Response,
}

/// A socket to be opened, with its policy.
#[derive(Debug)]
pub struct Socket {
    /// Where.
    pub address: Address,
    /// Permission bits of a Unix socket.
    pub mode: Mode,
    /// Who may do what through it.
    pub policy: Policy,
}

impl Config {
    /// Reads and checks the file; secrets are not read yet.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let config: Self = config::load(path)?;
        let wrong = |key: &str, because: &str| Err(Error::value(path, key, because));
        if !config.ledger.starts_with("sqlite:") && !config.ledger.starts_with("postgres") {
            return wrong("ledger", "is neither sqlite:///… nor postgres://…");
        }
        if config.hsm.token_label.is_none() && config.hsm.token_serial.is_none() {
            return wrong("hsm.token_label", "is needed, or `token_serial`: a slot's number is not used");
        }
        if config.insecure_plain_http_endorse.is_some_and(|address| !address.ip().is_loopback()) {
            return wrong("insecure_plain_http_endorse", "must be a loopback address such as 127.0.0.1:8082");
        }
        if config.insecure_plain_http_service.is_authd() {
            return wrong("insecure_plain_http_service", "must not be authd: write edge: and a name");
        }
        for listen in &config.listen {
            listen.check().map_err(|because| {
                Error::value(path, "listen", format!("at `{}`: {because}", listen.address))
            })?;
        }
        Ok(config)
    }

    /// Where the token is; reads its PIN.
    pub fn token(&self) -> Result<pkcs11::Settings, credential::Error> {
        let pin = credential::read(&self.hsm.pin, PIN_MAX)?;
        let text =
            std::str::from_utf8(&pin).map_err(|_| credential::Error::Name { name: self.hsm.pin.clone() })?;
        Ok(pkcs11::Settings {
            module: self.hsm.module.clone(),
            token_label: self.hsm.token_label.clone(),
            token_serial: self.hsm.token_serial.clone(),
            pin: AuthPin::new(text.into()),
            key_ids: self.hsm.key_ids,
        })
    }

    /// The ids that keys are made under.
    pub const fn key_ids(&self) -> KeyIds {
        self.hsm.key_ids
    }

    /// The sockets to open. A rule for a user that this host does not have matches nobody, and is logged.
    pub fn sockets(&self) -> std::io::Result<Vec<Socket>> {
        let skew = self.clock_skew.duration();
        let mut sockets = Vec::new();
        for listen in &self.listen {
            let mut rules = Vec::new();
            for allow in &listen.allow {
                if let Some(number) = allow.user.number()? {
                    rules.push(allow.rule(Caller::User(number)));
                } else {
                    let (user, address) = (&allow.user, &listen.address);
                    tracing::warn!(%user, %address, "listen.allow names a user that /etc/passwd does not have");
                }
            }
            sockets.push(Socket {
                address: listen.address.clone(),
                mode: listen.mode.unwrap_or(Mode::GROUP),
                policy: Policy::new(listen.role.into(), rules, skew),
            });
        }
        sockets.extend(self.insecure_plain_http_endorse.map(|address| Socket {
            address: Address::Tcp(address),
            mode: Mode::PRIVATE,
            policy: Policy::new(Role::Endorse, vec![self.insecure_rule()], skew),
        }));
        Ok(sockets)
    }

    fn insecure_rule(&self) -> Rule {
        Rule {
            caller: Caller::Loopback,
            service: Some(self.insecure_plain_http_service.clone()),
            purposes: vec![(Purpose::Response, Purpose::Response.longest_lifetime())],
        }
    }
}

impl Listen {
    fn check(&self) -> Result<(), String> {
        if matches!(self.address, Address::Tcp(_)) {
            return Err("must be a Unix socket or fd:NAME: hsmd opens no network socket".to_owned());
        }
        for Allow { user, service, purposes, .. } in &self.allow {
            if self.role == RoleName::Admin && (service.is_some() || !purposes.is_empty()) {
                return Err(format!(
                    "user `{user}`: an admin socket endorses nothing; leave out service and purposes"
                ));
            }
            if service.is_none() && !purposes.is_empty() {
                return Err(format!("user `{user}`: purposes need a service to bear"));
            }
            let authd = service.as_ref().is_some_and(Service::is_authd);
            if purposes.contains(&PurposeName::Access) && !authd {
                return Err(format!("user `{user}`: purpose access is for service authd alone"));
            }
        }
        self.allow.iter().try_for_each(Allow::check)
    }
}

impl Allow {
    fn check(&self) -> Result<(), String> {
        for (key, span, longest) in [
            ("longest_access", self.longest_access, Purpose::Access.longest_lifetime()),
            ("longest_response", self.longest_response, Purpose::Response.longest_lifetime()),
        ] {
            if span.is_some_and(|span| span.duration() > longest) {
                let hours = longest.as_secs_f64() / 3600.0;
                return Err(format!("user `{}`: {key} is more than the protocol's {hours:.2} h", self.user));
            }
        }
        Ok(())
    }

    fn rule(&self, caller: Caller) -> Rule {
        let purposes = self.purposes.iter().map(|name| {
            let (purpose, own) = match name {
                PurposeName::Access => (Purpose::Access, self.longest_access),
                PurposeName::Response => (Purpose::Response, self.longest_response),
            };
            (purpose, own.map_or(purpose.longest_lifetime(), Span::duration))
        });
        Rule { caller, service: self.service.clone(), purposes: purposes.collect() }
    }
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Admin => Self::Admin,
            RoleName::Endorse => Self::Endorse,
        }
    }
}

fn default_ledger() -> String {
    "sqlite:///var/lib/hsmd/ledger.db".to_owned()
}

const fn default_skew() -> Span {
    Span::seconds(keychain::limits::CLOCK_SKEW.as_secs())
}

fn default_metrics() -> Address {
    Address::Unix(PathBuf::from("/run/hsmd/metrics.sock"))
}

fn default_insecure_service() -> Service {
    Service::insecure()
}

fn default_pin() -> String {
    "pin".to_owned()
}
