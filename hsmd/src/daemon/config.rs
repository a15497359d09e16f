//! `hsmd.toml`, read and resolved.

mod bytes;
mod hsm;
mod listen;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use keychain::endorsement::Purpose;
use serde::Deserialize;
use systemd::{
    config::{self, Error, Span},
    exit::Failure,
    listen::{Address, Mode},
};

use crate::{
    chain::statement,
    clock::{self, AheadMax, Clock},
    http::tls,
    ledger,
    policy::{Allows, Entrance, PolicyFile, Rate, Role, Rule, Scope, Service, Who},
    token::backend::{KeyIds, RefusedPin, officer::OfficerSettings},
    token::{KnownToken, Slot, Source},
};

pub use listen::Socket;

pub use bytes::Bytes;
use hsm::Hsm;
use listen::Listen;

/// That of trials through the insecure plain-HTTP address. A YubiHSM signs some 800 times a
/// minute: the laboratory is left short of that.
const LABORATORY_RATE: Rate = Rate::per_minute(600, 600);

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
    /// The file that the time service touches when it has set the clock.
    #[serde(default = "default_clock_synchronized")]
    pub clock_synchronized: PathBuf,
    /// How far ahead of every known date the clock is believed at start, if that file is there.
    #[serde(default = "default_clock_ahead_max")]
    pub clock_ahead_max: Span,
    /// The same if it is not there.
    #[serde(default = "default_clock_ahead_max_unsynchronized")]
    pub clock_ahead_max_unsynchronized: Span,
    /// The file that says who may do what.
    pub policy: PathBuf,
    /// Where each event's text is appended besides; better on another disk than the ledger.
    #[serde(default = "default_chain_copy")]
    pub chain_copy: PathBuf,
    /// Free room under an SQLite ledger below which no endorsement is written: the chain needs what is left.
    #[serde(default = "default_room_floor")]
    pub room_floor: Bytes,
    /// The longest pause between two heads.
    #[serde(default = "default_head_interval")]
    pub head_interval: Span,
    /// Where metrics are served.
    #[serde(default = "default_metrics")]
    pub metrics: Address,
    /// For a laboratory: plain HTTP for response keys, to anybody on this host.
    pub insecure_plain_http_endorse: Option<SocketAddr>,
    /// The service that endorsements through it bear.
    #[serde(default = "default_insecure_service")]
    pub insecure_plain_http_service: Service,
    hsm: Hsm,
    second_hsm: Option<Hsm>,
    /// Whether rotations wait while one of two tokens is silent.
    #[serde(default)]
    require_both_tokens: bool,
    #[serde(default)]
    listen: Vec<Listen>,
}

impl Config {
    /// Reads and checks the file; secrets are not read yet.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let config: Self = config::parse(path, &config::read_protected(path)?)?;
        let wrong = |key: &str, because: &str| Err(Error::value(path, key, because));
        if !config.ledger.starts_with("sqlite:") && !config.ledger.starts_with("postgres") {
            return wrong("ledger", "is neither sqlite:///… nor postgres://…");
        }
        if !config.policy.is_absolute() {
            return wrong("policy", "must be an absolute path such as \"/etc/hsmd/policy.toml\"");
        }
        if !config.clock_synchronized.is_absolute() {
            return wrong("clock_synchronized", "must be an absolute path such as that of systemd-timesyncd");
        }
        if !config.chain_copy.is_absolute() {
            return wrong(
                "chain_copy",
                "must be an absolute path such as \"/var/lib/hsmd/copy/chain.jsonl\"",
            );
        }
        if let Err((key, because)) = config.hsm.check() {
            return wrong(&format!("hsm.{key}"), because);
        }
        if let Some((key, because)) =
            config.second_hsm.as_ref().and_then(|second| config.hsm.check_second(second).err())
        {
            return wrong(&format!("second_hsm.{key}"), because);
        }
        if config.require_both_tokens && config.second_hsm.is_none() {
            return wrong("require_both_tokens", "needs `[second_hsm]`");
        }
        if !HEAD_INTERVALS.contains(&config.head_interval.duration()) {
            return wrong(
                "head_interval",
                "is not between 1s and 3h: verifiers warn after 6 h without a head",
            );
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

    /// Where the token is, or both are; what tells that reads the PIN each time.
    pub fn tokens(&self) -> (Source, Option<Source>) {
        let (key_ids, mirrored) = (self.key_ids(), self.second_hsm.is_some());
        let source = |hsm: &Hsm, slot| -> Source {
            let hsm = hsm.clone();
            Box::new(move || hsm.settings(slot, key_ids, mirrored))
        };
        let second = self.second_hsm.as_ref().map(|second| source(second, Slot::Second));
        (source(&self.hsm, Slot::First), second)
    }

    /// Whether rotations wait while one of two tokens is silent.
    pub const fn requires_both_tokens(&self) -> bool {
        self.require_both_tokens
    }

    /// Where the refused PINs of the tokens are remembered.
    pub fn refused_pins(&self) -> Vec<RefusedPin> {
        let second = self.second_hsm.as_ref().map(|second| second.refused_pin(Slot::Second));
        std::iter::once(self.hsm.refused_pin(Slot::First)).chain(second).collect()
    }

    /// Where it is noted which token was first seen in each slot.
    pub fn known_tokens(&self) -> Vec<KnownToken> {
        let second = self.second_hsm.as_ref().map(|second| second.known_token(Slot::Second));
        std::iter::once(self.hsm.known_token(Slot::First)).chain(second).collect()
    }

    /// Where the officers' acts of a pairing are done.
    pub fn officers(&self, pins: [&str; 2]) -> Result<[OfficerSettings; 2], Failure> {
        let second = self.second_hsm.as_ref();
        let second = second.ok_or_else(|| Failure::config("hsmd.toml has no `[second_hsm]` to pair with"))?;
        let [first_pin, second_pin] = pins;
        Ok([self.hsm.officer(first_pin)?, second.officer(second_pin)?])
    }

    /// Where the ledger is, and what goes with it.
    pub fn ledger_settings(&self) -> ledger::Settings {
        ledger::Settings {
            chain_copy: self.chain_copy.clone(),
            room_floor: self.room_floor.0,
            ..ledger::Settings::new(&self.ledger, Path::new(""))
        }
    }

    /// The ids that keys are made under, on each token.
    pub fn key_ids(&self) -> KeyIds {
        self.hsm.key_ids.unwrap_or_default()
    }

    /// When statements are made, and what they allow for.
    pub fn statements(&self) -> statement::Settings {
        let has_publisher = self.listen.iter().any(|listen| listen.entrance().role == Role::Publish);
        statement::Settings {
            head_interval: self.head_interval.duration(),
            skew: self.clock_skew.duration(),
            report_patience: has_publisher.then_some(statement::REPORT_PATIENCE),
        }
    }

    /// What the clock is judged by.
    pub fn clock(&self) -> clock::Settings {
        clock::Settings {
            ahead_max: AheadMax {
                synchronized: self.clock_ahead_max.duration(),
                unsynchronized: self.clock_ahead_max_unsynchronized.duration(),
            },
            synchronized: self.clock_synchronized.clone(),
        }
    }

    /// The sockets to open, with the files of their TLS read and checked.
    pub fn sockets(&self) -> Result<Vec<Socket>, tls::Error> {
        let insecure =
            self.insecure().map(|entrance| Ok(Socket { entrance, mode: Mode::PRIVATE, tls: None }));
        self.listen.iter().map(Listen::socket).chain(insecure).collect()
    }

    /// Checks the files that the configuration names, but for credentials.
    pub fn check_files(&self) -> Result<(), tls::Error> {
        self.listen.iter().try_for_each(Listen::check_files)
    }

    /// Reads and checks the policy. `clock` is what rates are counted by.
    pub fn policy(&self, clock: Box<dyn Clock>) -> Result<PolicyFile, Error> {
        let entrances = self.listen.iter().map(Listen::entrance).chain(self.insecure()).collect();
        let fixed = self.insecure().map(|entrance| self.insecure_rule(entrance)).into_iter().collect();
        let scope = Scope { entrances, fixed, skew: self.clock_skew.duration() };
        PolicyFile::open(&self.policy, scope, clock)
    }

    fn insecure(&self) -> Option<Entrance> {
        let address = self.insecure_plain_http_endorse?;
        Some(Entrance { address: Address::Tcp(address), role: Role::Endorse })
    }

    fn insecure_rule(&self, entrance: Entrance) -> Rule {
        Rule {
            who: Who::Loopback,
            socket: Some(entrance.address),
            allows: Allows::Endorsements {
                service: self.insecure_plain_http_service.clone(),
                purposes: vec![(Purpose::Response, Purpose::Response.longest_lifetime())],
                // A laboratory's: it has no processes that ought to be there.
                instances: BTreeSet::new(),
            },
            rate: LABORATORY_RATE,
        }
    }
}

fn default_ledger() -> String {
    "sqlite:///var/lib/hsmd/ledger.db".to_owned()
}

fn default_clock_synchronized() -> PathBuf {
    clock::Settings::default().synchronized
}

fn default_clock_ahead_max() -> Span {
    clock::Settings::default().ahead_max.synchronized.into()
}

fn default_clock_ahead_max_unsynchronized() -> Span {
    clock::Settings::default().ahead_max.unsynchronized.into()
}

fn default_chain_copy() -> PathBuf {
    PathBuf::from("/var/lib/hsmd/copy/chain.jsonl")
}

/// What a day of endorsements takes at most on a busy host, and a filesystem's own reserve.
const fn default_room_floor() -> Bytes {
    Bytes(64 << 20)
}

/// How long the pause between two heads may be: at most half of what verifiers begin to warn at.
const HEAD_INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(3);

/// A quarter of an hour: 24 heads may fail before verifiers warn (at 6 h without one) and 48 before they
/// deny, while a signature that often costs the slowest HSM nothing, and its audit log 96 entries a day.
const fn default_head_interval() -> Span {
    Span::seconds(5 * 60)
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
