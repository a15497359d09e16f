//! A fleet of verifiers and an operator: how long until each refuses what is declared, and what that costs.
//!
//! The edges of a whole system ([`crate::World`]) are processes under traffic; further followers are simulated in this
//! process, each with connections and state of its own (`follower`). A declaration is an `opsctl` that a person
//! could have typed. Every verifier is asked all the while, so that a latency is the time from the start of that
//! command to an answer that refuses what was admitted before.

mod declaration;
mod follower;
mod meter;
mod traffic;
mod verifier;
mod watch;

use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use keychain::token::Token;
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use declaration::Declaration;
use declaration::Subject;
pub use follower::Follower;
pub use meter::Cost;
use meter::Meter;
use traffic::Traffic;
use verifier::Requests;
pub use verifier::{Verdict, Verifier};
use watch::Watch;
pub use watch::pace;

use crate::craft::{Device, message};
use crate::process::command;
use crate::world::binary;
use crate::{World, until};

/// What the sample apps serve.
const PATH: &str = "/foo/bar";

/// Longest wait for the fleet to be whole again.
const HEALED: Duration = Duration::from_mins(2);

/// How long the fleet is left alone before and after a declaration, so that what is acknowledged a moment later is
/// counted too.
const PAUSE: Duration = Duration::from_millis(500);

/// Followers that start at a time.
const STARTING_MAX: usize = 16;

/// A running system with its followers.
pub struct Fleet {
    world: World,
    followers: Vec<Arc<Follower>>,
    verifiers: Vec<Verifier>,
    meter: Meter,
    traffic: Traffic,
}

/// What one declaration came to. Times are from the start of the command.
#[derive(Clone, Debug)]
pub struct Measured {
    /// When each verifier first refused what it had admitted.
    pub refused: Vec<Duration>,
    /// When each first refused it with the code of that declaration.
    pub denied: Vec<Duration>,
    /// When the command ended.
    pub ended: Duration,
    /// What was used from a moment before the command until the fleet was whole again.
    pub cost: Cost,
    /// Requests of a device that the declaration is not about: not admitted, and admitted.
    pub bystander: (u64, u64),
}

impl Fleet {
    /// Starts a system with its edges and as many simulated followers as make `count`.
    pub async fn start(count: usize) -> Self {
        let world = World::start().await;
        let edges: Vec<_> =
            world.endpoints().apps.keys().map(|name| Verifier::Edge(world.app(name))).collect();
        let followers = start_followers(&world, count.saturating_sub(edges.len())).await;
        let simulated = followers.iter().map(|follower| Verifier::Simulated(Arc::clone(follower)));
        let verifiers: Vec<_> = edges.iter().cloned().chain(simulated).collect();
        let bystander = admitted_by(&verifiers, &world).await;
        let (meter, traffic) = (Meter::of(&world).await, Traffic::start(&edges, bystander));
        Self { world, followers, verifiers, meter, traffic }
    }

    /// What a second at rest costs, taken over `span`. The traffic at the edges goes on.
    pub async fn rest(&mut self, span: Duration) -> Cost {
        let before = self.meter.read().await;
        tokio::time::sleep(span).await;
        let cost = self.meter.read().await.since(&before);
        cost.by(cost.span.as_secs_f64())
    }

    /// Declares, and waits until every verifier refuses and the fleet is whole again.
    pub async fn declare(&mut self, declaration: Declaration) -> Measured {
        let (device, subject) = self.prepare(declaration).await;
        tokio::time::sleep(PAUSE).await;
        let before = self.meter.read().await;
        let bystander = self.traffic.counts();
        let begin = Arc::new(Barrier::new(self.verifiers.len() + 1));
        let requests = Arc::new(Requests::of(device));
        let (pace, code) = (pace(self.verifiers.len()), declaration.code().as_str());
        let watch = Watch { requests, pace, code, begin: Arc::clone(&begin) };
        let mut watched = JoinSet::new();
        for (verifier, delay) in self.verifiers.iter().zip(delays(pace, self.verifiers.len())) {
            watched.spawn(watch.clone().over(verifier.clone(), delay));
        }
        begin.wait().await;
        let begun = Instant::now();
        let command = self.opsctl(&declaration.words(&subject));
        let command = tokio::spawn(async { (command.await, Instant::now()) });
        let (mut refused, mut denied) = (Vec::new(), Vec::new());
        while let Some(seen) = watched.join_next().await {
            let seen = seen.unwrap_or_else(|error| panic!("{}: {error}", declaration.name()));
            refused.push(seen.refused.duration_since(begun));
            denied.push(seen.denied.duration_since(begun));
        }
        let (output, ended) = command.await.unwrap();
        demand_success(&output);
        self.settled().await;
        tokio::time::sleep(PAUSE).await;
        let cost = self.meter.read().await.since(&before);
        let now = self.traffic.counts();
        let bystander = (now.0 - bystander.0, now.1 - bystander.1);
        if declaration != Declaration::Ban {
            // Its token was of the same key.
            self.traffic.replace(admitted_by(&self.verifiers, &self.world).await);
        }
        Measured { refused, denied, ended: ended.duration_since(begun), cost, bystander }
    }

    /// The system that the fleet is part of.
    pub const fn world(&self) -> &World {
        &self.world
    }

    /// A device that every verifier admits, and what is to be declared of it.
    async fn prepare(&self, declaration: Declaration) -> (Arc<Device>, Subject) {
        let generation = self.newest_event().await;
        let device = admitted_by(&self.verifiers, &self.world).await;
        let token = Token::parse(&device.session().token).unwrap();
        let issuer = token.claims().server_identity.to_string();
        if declaration == Declaration::Deny {
            demand_success(&self.opsctl(&["rotate"]).await);
            until("every verifier to have acknowledged the rotation", HEALED, async || {
                let status = self.opsctl(&["status", "--json"]).await;
                let status: serde_json::Value = serde_json::from_slice(&status.stdout).ok()?;
                let rows = status.get("verifiers")?.as_array()?;
                rows.iter().all(|row| row.get("state").is_some_and(|it| it == "acknowledged")).then_some(())
            })
            .await;
            self.settled().await;
        }
        let subject = Subject { identity: device.identity.to_string(), issuer, generation };
        (Arc::new(device), subject)
    }

    /// Waits until every simulated follower has the newest event, and a key that is live under it.
    async fn settled(&self) {
        let newest = self.newest_event().await;
        until("the followers to be whole again", HEALED, async || {
            self.followers.iter().all(|follower| follower.is_at(&newest)).then_some(())
        })
        .await;
    }

    /// The id of the chain's newest event, as hsmd has it.
    async fn newest_event(&self) -> String {
        let chain = self.world.endorse().get("/chain").await.json();
        let newest = chain.as_array().and_then(|events| events.last()).unwrap();
        newest.pointer("/payload/id").and_then(|id| id.as_str()).unwrap().to_owned()
    }

    /// Runs `opsctl` to its end.
    fn opsctl(&self, words: &[&str]) -> impl Future<Output = Output> + use<> {
        let mut program = command(binary("opsctl"));
        program.args(words).arg("--endpoints").arg(self.world.endpoints_file());
        let ended = tokio::task::spawn_blocking(move || program.output().unwrap());
        async { ended.await.unwrap() }
    }
}

async fn start_followers(world: &World, count: usize) -> Vec<Arc<Follower>> {
    let starting = Arc::new(Semaphore::new(STARTING_MAX));
    let mut started = JoinSet::new();
    for number in 0..count {
        let (starting, endpoints) = (Arc::clone(&starting), world.endpoints().clone());
        started.spawn(async move {
            let _turn = starting.acquire().await.unwrap();
            Arc::new(Follower::start(number, &endpoints).await)
        });
    }
    started.join_all().await
}

/// A new device with a session that every one of these admits.
async fn admitted_by(verifiers: &[Verifier], world: &World) -> Device {
    let auth = world.auth();
    until("a new session to be admitted everywhere", HEALED, async || {
        let mut device = Device::draw();
        let create = message(&device.create_request(), &device.keys.current);
        let created = auth.post("/account/create", create).await;
        if created.status != 200 || device.try_session(&auth).await.status != 200 {
            return None;
        }
        let device = Arc::new(device);
        let requests = Requests::of(Arc::clone(&device));
        for (number, verifier) in verifiers.iter().enumerate() {
            if verifier.ask(&requests.number(number)).await != Verdict::Admitted {
                return None;
            }
        }
        drop(requests);
        Arc::into_inner(device)
    })
    .await
}

/// A pause for each of so many verifiers, so that they are not all asked at the same moment.
fn delays(pace: Duration, count: usize) -> impl Iterator<Item = Duration> {
    let count = u32::try_from(count).unwrap();
    (0..count).map(move |number| pace * number / count)
}

fn demand_success(output: &Output) {
    assert!(output.status.success(), "opsctl: {}\n{}", output.status, output.stderr.escape_ascii());
}
