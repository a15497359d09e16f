//! Plays a plan before running servers, and writes down what was asked, when, and what came of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::join_all;
use keychain::token::Token;
use keychain::{Code, Digest, Nonce};
use tests::craft::{nonce, now, payload};
use tests::wire::{Broken, Place, Reply, Wire};

use super::call::{Answer, Asked, Call, Outcome, Rows, Said};
use super::cast::{Cast, Sent, To};
use super::plan::{Deed, Plan, Road, Step, Then};
use super::sham::Sham;

/// How often a request is sent again whose connection is cut each time.
const AGAIN_MAX: usize = 4;

/// Pause before it is sent again.
const PAUSE: Duration = Duration::from_millis(200);

/// Pause before an authd that does not listen is asked again, and how often: one that was killed comes back.
const RETRY: Duration = Duration::from_millis(50);
const RETRIES_MAX: usize = 1_200;

/// Which authd there are.
#[derive(Clone)]
pub(super) enum Servers {
    Real(Vec<Instance>),
    Sham(Arc<Sham>),
}

/// Where one authd listens.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub(super) public: Place,
    pub(super) admin: Place,
}

/// A history under way.
pub(super) struct Stagehand {
    servers: Servers,
    cast: Mutex<Cast>,
    /// Those that were never sent are taken out again.
    calls: Mutex<Vec<Option<Call>>>,
    moment: AtomicUsize,
}

/// The connections of one client.
struct Client<'a> {
    of: &'a Stagehand,
    /// To each authd, for devices and for operators.
    wires: Vec<(Wire, Wire)>,
    /// Which authd it asks.
    at: usize,
}

impl Stagehand {
    /// Begins a history with so many accounts.
    pub(super) fn new(servers: Servers, accounts: usize) -> Self {
        let cast = Mutex::new(Cast::of(accounts));
        Self { servers, cast, calls: Mutex::default(), moment: AtomicUsize::new(0) }
    }

    /// Plays all of a plan.
    pub(super) async fn play(&self, plan: &Plan) {
        let mut first = Client::of(self);
        for deed in &plan.opening {
            let (road, pause) = (Road::Whole, Duration::ZERO);
            first.perform(&Step { deed: *deed, road, second: false, pause }).await;
        }
        join_all(plan.clients.iter().map(|steps| async move {
            let mut client = Client::of(self);
            for step in steps {
                client.perform(step).await;
            }
        }))
        .await;
    }

    /// The last call of a history: the rows as they are now.
    pub(super) fn look(&self, rows: Rows) {
        let place = self.begin(Asked::Look);
        self.end(place, Outcome::Rows(rows));
    }

    /// The accounts that it is about.
    pub(super) fn identities(&self) -> Vec<Digest> {
        self.cast().identities()
    }

    /// What was asked.
    pub(super) fn into_calls(self) -> Vec<Call> {
        self.calls.into_inner().unwrap().into_iter().flatten().collect()
    }

    /// The same while the history is not at its end.
    pub(super) fn with_calls<T>(&self, see: impl FnOnce(&mut dyn Iterator<Item = &Call>) -> T) -> T {
        see(&mut self.calls.lock().unwrap().iter().flatten())
    }

    fn cast(&self) -> MutexGuard<'_, Cast> {
        self.cast.lock().unwrap()
    }

    fn begin(&self, asked: Asked) -> usize {
        let mut calls = self.calls.lock().unwrap();
        let begun = self.moment.fetch_add(1, Ordering::SeqCst);
        calls.push(Some(Call { asked, begun, at: now(), answer: None }));
        calls.len() - 1
    }

    fn end(&self, place: usize, outcome: Outcome) {
        let mut calls = self.calls.lock().unwrap();
        let ended = self.moment.fetch_add(1, Ordering::SeqCst);
        calls[place].as_mut().unwrap().answer = Some(Answer { ended, at: now(), outcome });
    }

    /// It was never sent: nothing can have come of it.
    fn forget(&self, place: usize) {
        self.calls.lock().unwrap()[place] = None;
    }
}

impl<'a> Client<'a> {
    fn of(stagehand: &'a Stagehand) -> Self {
        let wires = |it: &Instance| (Wire::to(it.public.clone()), Wire::to(it.admin.clone()));
        let wires = match &stagehand.servers {
            Servers::Real(instances) => instances.iter().map(wires).collect(),
            Servers::Sham(_) => Vec::new(),
        };
        Self { of: stagehand, wires, at: 0 }
    }

    async fn perform(&mut self, step: &Step) {
        if !step.pause.is_zero() {
            tokio::time::sleep(step.pause).await;
        }
        self.at = usize::from(step.second) % self.wires.len().max(1);
        if let Deed::Open { who, earlier: None } = step.deed {
            let identity = self.of.cast().identity(who);
            self.challenge(identity).await;
        }
        let sent = self.of.cast().request(step.deed);
        let Some(sent) = sent else { return };
        match step.road {
            Road::Whole => self.insist(&sent).await,
            Road::Cut { after, then } => {
                self.ask_and_cut(&sent, after).await;
                match then {
                    Then::Again => self.insist(&sent).await,
                    Then::Believe => self.of.cast().gain(&sent, None),
                    Then::Forget => {}
                }
            }
        }
    }

    /// Asks for a challenge: no row tells of it, so it is no part of the history.
    async fn challenge(&mut self, identity: Digest) {
        if let Servers::Sham(_) = self.of.servers {
            return self.of.cast().learn(identity, nonce());
        }
        let request = format!(r#"{{"authentication":{{"identity":"{identity}"}}}}"#);
        let body = format!(r#"{{"payload":{}}}"#, payload(&request));
        for _ in 0..self.wires.len() {
            let reply = self.wires[self.at].0.post("/session/request", &body).await;
            let challenge = reply.ok().and_then(|it| text(&it, "/payload/response/authentication/nonce"));
            if let Some(challenge) = challenge {
                return self.of.cast().learn(identity, Nonce::parse(&challenge).unwrap());
            }
            self.turn();
        }
    }

    /// Asks until there is an answer.
    async fn insist(&mut self, sent: &Sent) {
        for _ in 0..AGAIN_MAX {
            if self.ask(sent).await {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks, and writes down what came of it. Says whether that is known.
    async fn ask(&mut self, sent: &Sent) -> bool {
        for _ in 0..RETRIES_MAX {
            let (path, body) = sent.message();
            let place = self.of.begin(sent.asked(&body));
            let read = match &self.of.servers {
                Servers::Sham(sham) => Some(sham.carry_out(sent.asked(&body)).await),
                Servers::Real(_) => match self.wire(sent).post(path, &body).await {
                    Ok(reply) => read(&reply),
                    Err(Broken::Unanswered) => None,
                    Err(Broken::Unsent(_)) => {
                        self.of.forget(place);
                        self.turn();
                        tokio::time::sleep(RETRY).await;
                        continue;
                    }
                },
            };
            let Some((outcome, token)) = read else { return false };
            self.of.end(place, outcome.clone());
            if !matches!(outcome, Outcome::Refused(_)) {
                self.of.cast().gain(sent, token.as_deref());
            }
            return true;
        }
        panic!("no authd listens any more");
    }

    async fn ask_and_cut(&mut self, sent: &Sent, after: Duration) {
        let (path, body) = sent.message();
        let place = self.of.begin(sent.asked(&body));
        if let Servers::Sham(sham) = &self.of.servers {
            // Half of them never arrive.
            if after.as_micros().is_multiple_of(2) {
                let (sham, asked) = (Arc::clone(sham), sent.asked(&body));
                tokio::spawn(async move { drop(sham.carry_out(asked).await) });
            }
            return;
        }
        if let Err(Broken::Unsent(_)) = self.wire(sent).post_and_cut(path, &body, after).await {
            self.of.forget(place);
        }
    }

    fn wire(&mut self, sent: &Sent) -> &mut Wire {
        let wires = &mut self.wires[self.at];
        if matches!(sent.to, To::Device { .. }) { &mut wires.0 } else { &mut wires.1 }
    }

    /// Goes to the next authd.
    fn turn(&mut self) {
        self.at = (self.at + 1) % self.wires.len();
    }
}

/// What a reply says; nothing if it does not say whether anything was done.
fn read(reply: &Reply) -> Option<(Outcome, Option<String>)> {
    // The request's head was not read in time: on a machine that is far too busy.
    if reply.status == 408 {
        return None;
    }
    if reply.status != 200 {
        let code = text(reply, "/error/code");
        let code = code.unwrap_or_else(|| panic!("no code: {} {}", reply.status, reply.body));
        let unknown = [Code::Unavailable, Code::TooMany].map(Code::as_str).contains(&code.as_str());
        return (!unknown).then_some((Outcome::Refused(code), None));
    }
    if let Some(token) = text(reply, "/payload/response/access/token") {
        let said = Said::from(Token::parse(&token).unwrap().claims());
        return Some((Outcome::Token(Box::new(said)), Some(token)));
    }
    let json: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    if let Some(changed) = json.get("changed").and_then(serde_json::Value::as_bool) {
        return Some((Outcome::Ordered(changed), None));
    }
    assert_eq!(json.pointer("/payload/response"), Some(&serde_json::json!({})), "{}", reply.body);
    Some((Outcome::Done, None))
}

fn text(reply: &Reply, pointer: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(&reply.body).unwrap_or_default();
    json.pointer(pointer)?.as_str().map(str::to_owned)
}
