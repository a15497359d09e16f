//! A simulated follower: what an edge follows with, in this process, with connections and state of its own.
//!
//! It runs the code of edge's library that the daemon runs (`edge/src/proxy/daemon.rs`): trust from the directory and
//! from hsmd, issuers, denials, an own endorsed key, acknowledgements. It has no HTTP server and no app.

use std::path::Path;
use std::time::Duration;

use edge::acknowledger::{Acknowledger, Speaker};
use edge::clock::Clock;
use edge::denials::{self, DenialFeed, Presence};
use edge::endorser::Endorser;
use edge::gate::Gate;
use edge::health::{Dependencies, End, Ends};
use edge::own_key::{OwnKey, Plan};
use edge::revocations;
use edge::trust::{self, Confirmation, TrustFeed};
use edge::updates::{REREAD_EVERY, Updates};
use edge::verifier::{Audience, Demand, Settings};
use keychain::acknowledgement::Instance;
use keychain::directory::Directory;
use keychain::{Code, Digest, limits};
use tempfile::TempDir;

use super::verifier::Verdict;
use crate::world::Endpoints;

/// What the edges before the sample apps demand.
const DEMAND: Demand<'_> = Demand { place: super::PATH, permission: Some(("user", "read")) };

/// How long it uses a key, as an edge does by default.
const CYCLE: Duration = Duration::from_hours(6);

/// Nonces that it holds at most: a bench shows it a few hundred requests.
const NONCES_MAX: usize = 16_384;

/// Where simulated followers keep their state if it is there. Each edge has a disk of its own; hundreds that share
/// one would measure that disk.
const MEMORY: &str = "/dev/shm";

/// One follower; it ends when dropped.
pub struct Follower {
    gate: Gate,
    key: OwnKey,
    trust: TrustFeed,
    _acknowledger: Acknowledger,
    _updates: Updates,
    _state: TempDir,
}

impl Follower {
    /// Starts the follower of that number, and waits until it serves.
    pub(super) async fn start(number: usize, endpoints: &Endpoints) -> Self {
        let state = if Path::new(MEMORY).is_dir() { TempDir::new_in(MEMORY) } else { TempDir::new() };
        let state = state.unwrap();
        let identity = Digest::parse(&endpoints.identity).unwrap();
        let directory = Directory::connect(&endpoints.redis).unwrap();
        let endorser = Endorser::new(&socket(number, endpoints), None).unwrap();
        let dependencies = Dependencies::expect(&[], Clock::system());
        let updates = Updates::follow(&directory, dependencies, REREAD_EVERY.duration());
        let settings = trust::Settings {
            identity,
            clock_skew: limits::CLOCK_SKEW,
            pin: None,
            state: state.path().to_owned(),
            head_max_age: Some(trust::HEAD_MAX_AGE),
            keysd: Vec::new(),
        };
        let trust = TrustFeed::start(&directory, &updates, Some(endorser.clone()), &settings).unwrap();
        let settings =
            denials::Settings { identity, state: state.path().to_owned(), presence: Presence::Required };
        let denials = DenialFeed::start(&directory, &updates, trust.clone(), &settings).unwrap();
        let applied = denials.applied();
        let settings = Settings {
            clock_skew: limits::CLOCK_SKEW,
            audience: Audience::default(),
            nonce_capacity: NONCES_MAX,
        };
        let demand = Confirmation { max_age: revocations::MAX_AGE, skew: limits::CLOCK_SKEW, has_feed: true };
        let gate = Gate::start(&directory, &updates, trust.clone(), denials, demand, settings, state.path());
        gate.ready().await;
        let plan = Plan::response(CYCLE);
        let key = OwnKey::await_first(plan, endorser, directory.clone(), &updates, trust.clone()).await;
        let speaker = Speaker {
            instance: Instance::parse(&format!("simulated-{number}")).unwrap(),
            version: env!("CARGO_PKG_VERSION"),
            response: key.clone(),
            access: None,
            feed: Some(applied),
            ends: ends(&gate, &key),
        };
        let acknowledger = Acknowledger::start(speaker, directory, &updates, trust.clone());
        Self { gate, key, trust, _acknowledger: acknowledger, _updates: updates, _state: state }
    }

    /// Its verdict on a request.
    pub(super) async fn ask(&self, request: &str) -> Verdict {
        match self.gate.admit(request.as_bytes(), DEMAND).await {
            Ok(_admitted) => Verdict::Admitted,
            Err(refusal) if refusal.code().status() == Code::Unavailable.status() => Verdict::Unknown,
            Err(refusal) => Verdict::Refused(refusal.code().as_str().to_owned()),
        }
    }

    /// Whether it holds a key that is live under what it trusts, and its chain ends in that event.
    pub(super) fn is_at(&self, newest: &str) -> bool {
        let trust = self.trust.state();
        let is_there = trust.chain().head().is_some_and(|event| event.id().to_string() == newest);
        is_there && self.key.usable(Clock::system().now()).is_ok()
    }
}

/// What it acknowledges that its time by itself ends with.
fn ends(gate: &Gate, key: &OwnKey) -> Ends {
    let (gate, key) = (gate.clone(), key.clone());
    Ends::new(move |trust| {
        let issuers = gate.verifier().issuers().end(trust);
        vec![key.end(trust), issuers, End::of_head(trust), End::of_revocations(trust.denied())]
    })
}

/// hsmd's socket for the follower of that number. All of them run as one user, and hsmd gives each user a bounded
/// number of connections of each socket: the followers are dealt out over the sockets for response keys.
fn socket(number: usize, endpoints: &Endpoints) -> String {
    let edges = endpoints.apps.keys().map(|name| format!("edge-{name}.sock"));
    let all: Vec<_> = ["endorse.sock", "keysd.sock"].map(str::to_owned).into_iter().chain(edges).collect();
    let name = all.iter().cycle().nth(number).unwrap();
    format!("unix:{}", endpoints.endorse.with_file_name(name).display())
}
