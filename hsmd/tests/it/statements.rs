//! Heads: made in time, listing what was denied and revoked, and forgetting nothing.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use hsmd::{
    chain::statement::{Effect, Finding, Report, Settings, Statements},
    chain::{Advance, Error, Keeper, State},
    clock::{Clock, TrustedClock},
    health::Health,
    token::backend::KeyIds,
    token::signer::Signer,
};
use keychain::{
    Digest, PublicKey, Timestamp,
    chain::{self, Chain, SignedEvent, windows},
    endorsement::Purpose,
    statement::Head,
};
use serde_json::value::RawValue;

use crate::support::{
    self,
    daemon::request,
    eventually,
    memory::{Device, Plan},
    world::{Database, World, now, service_key, sign_request},
};

const SOON: Duration = Duration::from_secs(20);
const SKEW: Duration = Duration::from_secs(5);

#[derive(serde::Deserialize)]
struct Stated {
    version: u64,
    head: Box<RawValue>,
}

impl World {
    fn stated(&self, query: &str) -> Stated {
        let answer = request(&self.socket("edge"), "GET", &format!("/statements{query}"), "").ok();
        serde_json::from_str(&answer).unwrap()
    }

    fn verifier(&self) -> Chain {
        let events = self.chain();
        let mut chain = Chain::new(events[0].id(), chain::Settings { skew: SKEW, ..Default::default() });
        chain.merge(events, now());
        chain
    }

    /// The newest head, verified, and what it denies.
    fn head(&self) -> (Head, Vec<Digest>) {
        let head = Head::parse(self.stated("").head.get()).unwrap();
        let verifier = self.verifier();
        let proven = head.verify(&verifier, windows::EDGE, now()).unwrap();
        assert!(proven.age(&verifier, now()).unwrap() < SOON);
        let denied = head.entries().denied.iter().copied().collect();
        (head, denied)
    }

    /// The keys revoked now, with the generation that states it.
    fn revoked(&self) -> (Vec<PublicKey>, Digest) {
        let head = Head::parse(self.stated("").head.get()).unwrap();
        head.verify(&self.verifier(), windows::EDGE, now()).unwrap();
        (head.entries().keys.keys().map(|name| name.key().unwrap()).collect(), head.event_id())
    }

    fn taint(&self, generation: &Digest) -> String {
        let body = format!("{{\"generationId\":\"{generation}\",\"reason\":\"drill\"}}");
        request(&self.socket("admin"), "POST", "/taint", &body).ok()
    }
}

fn sorted(mut ids: [Digest; 2]) -> Vec<Digest> {
    ids.sort_unstable();
    ids.to_vec()
}

fn revocation(keys: &[PublicKey]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| format!("\"{key}\"")).collect();
    format!("{{\"publicKeys\":[{}],\"reason\":\"a stolen disk\"}}", keys.join(","))
}

#[test]
fn heads_are_made_at_the_start_on_a_schedule_and_with_each_event() {
    let world = World::new(Database::Sqlite);
    world.configure("head_interval = \"1s\"");
    let mut hsmd = world.start();
    let first = world.stated("");
    let (head, denied) = world.head();
    assert_eq!((head.event_id(), denied), (world.chain()[0].id(), vec![]));
    assert_eq!(head.expiration(), head.issued_at().plus(Duration::from_hours(12)));

    // On its schedule, and each caller that waits is answered.
    let next = world.stated(&format!("?after={}&wait=60", first.version));
    assert!(next.version > first.version);
    let newer = Head::parse(next.head.get()).unwrap();
    assert!(newer.number() > head.number() && newer.event_id() == head.event_id());

    hsmd.stop();
    world.configure("");
    let mut hsmd = world.start();
    assert!(world.stated("").version > next.version, "also over a restart");
    // With the next in five minutes, only an event brings one.
    for path in ["/rotate", "/taint"] {
        let version = world.stated("").version;
        request(&world.socket("admin"), "POST", path, "{}").ok();
        assert!(world.stated(&format!("?after={version}&wait=60")).version > version);
        eventually("a head of the newest event", SOON, || {
            world.head().0.event_id() == world.chain().last().unwrap().id()
        });
    }
    let health = request(&world.socket("admin"), "GET", "/health", "").ok();
    assert!(health.contains("\"headIssuedAt\":\"") && health.contains("\"deniedGenerations\":0"), "{health}");
    let metrics = request(&world.socket("metrics"), "GET", "/metrics", "").ok();
    assert!(metrics.contains("hsmd_head_issued_timestamp_seconds "), "{metrics}");
    for bad in ["?after=-1", "?wait=61&after=1", "?before=1"] {
        let answer = request(&world.socket("edge"), "GET", &format!("/statements{bad}"), "");
        assert_eq!((answer.status, answer.code()), (400, "BA101"), "{bad}");
    }
    // Whoever waits is answered when the daemon ends.
    std::thread::scope(|scope| {
        let version = world.stated("").version;
        let waiting = scope.spawn(move || {
            let path = format!("/statements?after={version}&wait=60");
            support::daemon::try_request(&world.socket("edge"), "GET", &path, b"")
        });
        hsmd.stop();
        drop(waiting.join().unwrap());
    });
}

#[test]
fn an_older_generation_is_denied_on_sqlite() {
    an_older_generation_is_denied(Database::Sqlite);
}

#[test]
fn an_older_generation_is_denied_on_postgres() {
    an_older_generation_is_denied(Database::Postgres);
}

/// A taint of a generation that others follow: denied for good, once, whatever dies.
fn an_older_generation_is_denied(database: Database) {
    let world = World::new(database);
    let mut hsmd = world.start();
    for _ in 0..2 {
        world.rotate("{}");
    }
    let ids: Vec<_> = world.chain().iter().map(SignedEvent::id).collect();
    let dates: Vec<_> = world.chain().iter().map(|event| event.event().created_at).collect();
    let answer = |index: usize, effect: &str| {
        format!(
            "{{\"taintedGenerationId\":\"{}\",\"newGenerationId\":\"{}\",\"liveFrom\":\"{}\",\"effect\":\"{effect}\"}}",
            ids[index],
            ids[index + 1],
            dates[index + 1]
        )
    };
    assert_eq!(world.taint(&ids[0]), answer(0, "denied"));
    // The answer came after the head.
    let (head, denied) = world.head();
    assert_eq!((head.event_id(), denied), (ids[2], vec![ids[0]]));
    assert_eq!(world.taint(&ids[0]), answer(0, "denied"), "said again");
    assert_eq!(world.head().0.issued_at(), head.issued_at(), "and nothing signed for it");
    assert_eq!(world.taint(&ids[1]), answer(1, "denied"));
    assert_eq!(world.chain().len(), 3, "nothing healthy was left");
    let mut verifier = world.verifier();
    let (head, _) = world.head();
    verifier.hear(&head.verify(&world.verifier(), windows::EDGE, now()).unwrap(), now());
    let live = ids.iter().map(|id| verifier.live(id, windows::EDGE, now()).is_ok());
    assert_eq!(live.collect::<Vec<_>>(), [false, false, true]);

    hsmd.kill();
    let mut hsmd = world.start();
    assert_eq!(world.head().1, sorted([ids[0], ids[1]]));
    // The newest is tainted as ever, and its head denies the same.
    assert!(world.taint(&ids[2]).contains("\"effect\":\"tainted\""));
    eventually("the head after the taint", SOON, || {
        world.stated("").head.get().contains("\"sequenceNumber\":3")
    });
    assert_eq!(world.head().1, sorted([ids[0], ids[1]]));
    assert!(world.taint(&ids[2]).contains("\"effect\":\"tainted\""));
    let unknown = format!("{{\"generationId\":\"{}\"}}", Digest::of("unknown"));
    assert_eq!(request(&world.socket("admin"), "POST", "/taint", &unknown).code(), "BA602");
    hsmd.stop();
}

#[test]
fn keys_of_services_are_revoked_on_sqlite() {
    keys_of_services_are_revoked(Database::Sqlite);
}

#[test]
fn keys_of_services_are_revoked_on_postgres() {
    keys_of_services_are_revoked(Database::Postgres);
}

fn keys_of_services_are_revoked(database: Database) {
    let world = World::new(database);
    let mut hsmd = world.start();
    let admin = world.socket("admin");
    let post = |body: &str| request(&admin, "POST", "/revoke-keys", body);
    let sign = |number: u8| {
        let body = sign_request(Purpose::Response, service_key(number), Duration::from_mins(5));
        request(&world.socket("edge"), "POST", "/sign", &body)
    };
    sign(1).ok();
    let first = post(&revocation(&[service_key(1)])).ok();
    assert!(first.starts_with(&format!("{{\"revokedKeys\":[\"{}\"],\"expiration\":\"", service_key(1))));
    assert_eq!(world.revoked().0, [service_key(1)], "the answer came after the statement");
    assert_eq!((sign(1).status, sign(1).code()), (403, "BA304"));
    sign(2).ok();
    assert_eq!(post(&revocation(&[service_key(1)])).ok(), first, "said again");
    post(&revocation(&[service_key(2), service_key(1), service_key(3)])).ok();
    let all = [1, 2, 3].map(service_key);
    let revoked = || {
        let mut keys = world.revoked().0;
        keys.sort_unstable();
        keys
    };
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    assert_eq!(revoked(), sorted);
    // By whichever generation is the newest.
    world.rotate("{}");
    let newest = world.chain().last().unwrap().id();
    eventually("the revocation by the next generation", SOON, || world.revoked().1 == newest);
    assert_eq!(revoked(), sorted);
    hsmd.kill();
    let mut hsmd = world.start();
    assert_eq!(revoked(), sorted);
    assert_eq!(sign(3).code(), "BA304");
    assert!(hsmd.log().contains("a stolen disk"), "the reason is logged");

    let many: Vec<_> = (1..=65).map(service_key).collect();
    let bad_reason = revocation(&all).replace("a stolen disk", "a\\nb");
    for body in [
        "",
        "{}",
        "[]",
        "{\"publicKeys\":[]}",
        "{\"publicKeys\":[1]}",
        "{\"publicKeys\":\"x\"}",
        &revocation(&[all[0], all[0]]),
        &revocation(&many),
        &revocation(&all).replace("1AAI", "1AAJ"),
        &revocation(&all).replace("reason", "because"),
        &bad_reason,
    ] {
        let answer = post(body);
        assert_eq!((answer.status, answer.code()), (400, "BA101"), "{body}");
    }
    for (socket, method, status) in
        [("other-admin", "POST", 403), ("edge", "POST", 404), ("admin", "GET", 405)]
    {
        let answer = request(&world.socket(socket), method, "/revoke-keys", &revocation(&[service_key(9)]));
        assert_eq!(answer.status, status, "{method} {socket}");
    }
    assert_eq!(revoked(), sorted, "nothing changed");
    hsmd.stop();
}

/// A clock that the test moves.
#[derive(Clone)]
struct Hands(Arc<Mutex<Timestamp>>);

impl Hands {
    fn forward(&self, by: Duration) {
        let mut now = self.0.lock().unwrap();
        *now = now.plus(by);
    }
}

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    fn monotonic(&self) -> Duration {
        self.now().since(Timestamp::from_unix_millis(0))
    }
}

struct Fixture {
    folder: tempfile::TempDir,
    device: Device,
    clock: Hands,
}

impl Fixture {
    fn new() -> Self {
        let clock = Hands(Arc::new(Mutex::new(now())));
        Self { folder: tempfile::tempdir().unwrap(), device: Device::default(), clock }
    }

    async fn start(&self) -> (Arc<Keeper>, Statements) {
        self.start_and_await(None).await
    }

    async fn start_and_await(&self, report_patience: Option<Duration>) -> (Arc<Keeper>, Statements) {
        let (signer, _) = Signer::start(Box::new(self.device.connect())).unwrap();
        let ledger = support::ledger::open(&self.folder.path().join("ledger.db")).await.unwrap();
        let clock = TrustedClock::new(Box::new(self.clock.clone()));
        let keeper = Arc::new(Keeper::start(ledger, signer, clock, KeyIds::default()).await.unwrap());
        let settings = Settings { head_interval: Duration::from_mins(15), skew: SKEW, report_patience };
        let statements = Statements::open(Arc::clone(&keeper), settings).await.unwrap();
        (keeper, statements)
    }
}

/// Dies between the ledger's commit and the signature: what was said is stated after the next start.
#[tokio::test]
async fn what_is_durable_is_stated_after_a_death_before_its_signature() {
    let fixture = Fixture::new();
    let (keeper, statements) = fixture.start().await;
    let left = keeper.view().unwrap().live().id();
    keeper.advance(Advance { from: None, taint: false }).await.unwrap();
    for after_effect in [false, true] {
        fixture.device.plan(Plan { at: 0, after_effect, fatal: true });
        let denied = statements.deny(left).await.unwrap_err();
        assert!(matches!(denied, Error::Hsm(_)), "{denied}");
        assert!(statements.problem().is_some());
        assert!(fixture.device.heal());
    }
    fixture.device.plan(Plan { at: 0, after_effect: false, fatal: true });
    statements.revoke_keys(&[service_key(1)]).await.unwrap_err();
    assert_eq!(statements.demand_not_revoked(&service_key(1)).unwrap_err().code().as_str(), "BA304");
    fixture.device.heal();
    drop((keeper, statements));

    let (keeper, statements) = fixture.start().await;
    let newest = statements.newest();
    assert_eq!(statements.problem(), None);
    let head = newest.head.as_ref().unwrap();
    head.verify_signature(keeper.view().unwrap().live()).unwrap();
    assert_eq!(head.entries().denied, [left].into());
    assert!(head.entries().keys.contains_key(&service_key(1).name()));
    // Said again after all that: the same answer, and nothing new signed.
    assert_eq!(statements.deny(left).await.unwrap().effect, Effect::Denied);
    assert_eq!(statements.newest().version, newest.version);
}

/// A ledger that was restored with its whole disk shows by what is published alone: after a boot that is compared first.
#[tokio::test]
async fn after_a_boot_what_is_published_is_compared_first() {
    let fixture = Fixture::new();
    let other_boot = || Some("another-boot 2026-01-01T00:00:00.000Z".to_owned());
    let (keeper, statements) = fixture.start().await;
    keeper.ledger().keep_note("compared", other_boot(), Vec::new()).await.unwrap();
    keeper.close().await.unwrap();
    drop((keeper, statements));

    let (keeper, statements) = fixture.start_and_await(Some(Duration::from_hours(1))).await;
    assert_eq!((keeper.chain_state(), statements.newest().head.is_none()), (State::Uncompared, true));
    let refused = keeper.advance(Advance { from: None, taint: false }).await.unwrap_err();
    assert!(matches!(refused, Error::State(State::Uncompared)), "{refused}");
    keeper.advance(Advance { from: None, taint: true }).await.unwrap();
    assert_eq!(keeper.chain_state(), State::Uncompared);
    // An empty directory is no news.
    assert_eq!(statements.judge(&Report::default()).await.unwrap(), Finding::Nothing);
    assert_eq!(keeper.chain_state(), State::Uncompared);
    let report = Report { held: 1, ..Report::default() };
    assert_eq!(statements.judge(&report).await.unwrap(), Finding::Agrees);
    assert_eq!(keeper.chain_state(), State::Ready);
    keeper.close().await.unwrap();
    drop((keeper, statements));

    // Once is enough for a boot.
    let (keeper, statements) = fixture.start_and_await(Some(Duration::from_hours(1))).await;
    assert_eq!((keeper.chain_state(), statements.newest().head.is_some()), (State::Ready, true));
    keeper.ledger().keep_note("compared", other_boot(), Vec::new()).await.unwrap();
    keeper.close().await.unwrap();
    drop((keeper, statements));

    // Without a publisher it goes on, and says since when nothing was compared.
    let (keeper, statements) = fixture.start_and_await(Some(Duration::from_millis(1))).await;
    let (statements, health) = (Arc::new(statements), Arc::new(Health::new()));
    let running = tokio::spawn({
        let (statements, health) = (Arc::clone(&statements), Arc::clone(&health));
        async move { statements.run(&health).await }
    });
    let warned = || {
        let warnings = health.warnings();
        warnings
            .iter()
            .any(|(part, text)| part == "published" && text.contains("since 2026-01-01T00:00:00.000Z"))
    };
    let start = std::time::Instant::now();
    while keeper.chain_state() != State::Ready || !warned() {
        keeper.check().await.unwrap();
        assert!(start.elapsed() < SOON, "{} {:?}", keeper.chain_state(), health.warnings());
        tokio::task::yield_now().await;
    }
    running.abort();
}

/// What no window reaches any more is neither denied nor carried on; a revoked key is never endorsed again.
#[tokio::test]
async fn denials_and_revocations_end_and_are_remembered() {
    let fixture = Fixture::new();
    let (keeper, statements) = fixture.start().await;
    let mut ids = vec![keeper.view().unwrap().live().id()];
    for _ in 0..2 {
        let advanced = keeper.advance(Advance { from: None, taint: false }).await.unwrap();
        ids.push(advanced.new_generation);
    }
    assert_eq!(statements.deny(ids[0]).await.unwrap().effect, Effect::Denied);
    let end = statements.revoke_keys(&[service_key(1)]).await.unwrap();
    assert_eq!(end, fixture.clock.now().to_millis().plus(Duration::from_hours(24)).plus(SKEW));
    assert!(matches!(statements.deny(ids[2]).await, Err(Error::Conflict(_))), "the newest is for a taint");

    fixture.clock.forward(Duration::from_hours(24) + SKEW);
    assert_eq!(statements.deny(ids[1]).await.unwrap().effect, Effect::Ended);
    // The first result again, although it has ended meanwhile.
    let again = statements.deny(ids[0]).await.unwrap();
    assert_eq!((again.effect, again.successor), (Effect::Denied, ids[1]));
    let newest = statements.newest();
    assert!(newest.head.as_ref().unwrap().entries().is_empty());
    assert_eq!(statements.demand_not_revoked(&service_key(1)).unwrap_err().code().as_str(), "BA304");
    let (_, statements) = fixture.start().await;
    assert_eq!(statements.demand_not_revoked(&service_key(1)).unwrap_err().code().as_str(), "BA304");
    assert_eq!(statements.demand_not_revoked(&service_key(2)), Ok(()));
}

/// The lists are bounded, and what found no room changes nothing.
#[tokio::test]
async fn a_full_list_is_refused() {
    let fixture = Fixture::new();
    let (_, statements) = fixture.start().await;
    let key = |number: u16| {
        let mut seed = [1; 32];
        seed[..2].copy_from_slice(&number.to_be_bytes());
        keychain::SigningKey::from_seed(&seed).unwrap().public_key()
    };
    let keys: Vec<_> = (0..=64).map(key).collect();
    for part in keys[..64].chunks(40) {
        statements.revoke_keys(part).await.unwrap();
    }
    let newest = statements.newest();
    assert_eq!(newest.head.as_ref().unwrap().entries().keys.len(), 64);
    let error = statements.revoke_keys(&keys[64..]).await.unwrap_err();
    assert_eq!(keychain::Refusal::from(&error).code().as_str(), "BA602", "{error}");
    assert_eq!(statements.demand_not_revoked(&keys[64]), Ok(()));
    statements.revoke_keys(&keys[..64]).await.unwrap();
    assert_eq!(statements.newest().version, newest.version);
}

/// Another hsmd on the same ledger states the same once it takes over, with a higher number.
#[tokio::test]
async fn a_denial_is_stated_by_the_hsmd_that_takes_over() {
    let fixture = Fixture::new();
    let (keeper, one) = fixture.start().await;
    let left = keeper.view().unwrap().live().id();
    keeper.advance(Advance { from: None, taint: false }).await.unwrap();
    let (standby, other) = fixture.start().await;
    one.deny(left).await.unwrap();
    one.revoke_keys(&[service_key(1)]).await.unwrap();
    let number = one.newest().head.as_ref().unwrap().number();
    keeper.close().await.unwrap();
    let health = Health::new();
    let mut newest = other.watch();
    let seen = newest.wait_for(|newest| {
        let entries = newest.head.as_ref().map(Head::entries);
        entries.is_some_and(|entries| entries.denied == [left].into() && entries.keys.len() == 1)
    });
    let watch = async {
        loop {
            standby.check().await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = other.run(&health) => {}
        () = watch => {}
        seen = tokio::time::timeout(SOON, seen) => drop(seen.unwrap().unwrap()),
    }
    assert!(other.newest().head.as_ref().unwrap().number() > number);
    assert_eq!(other.demand_not_revoked(&service_key(1)).unwrap_err().code().as_str(), "BA304");
}

/// An intruder on an app VM had any number of keys endorsed: one word refuses them all, and those to come.
#[tokio::test]
async fn a_service_is_revoked_up_to_all_that_it_may_have_and_closed_until_it_is_opened() {
    let fixture = Fixture::new();
    let (keeper, statements) = fixture.start().await;
    let ledger = keeper.ledger();
    let before = ledger.next_endorsement_number().await.unwrap();
    let revoked = statements.revoke_service("edge:a").await.unwrap();
    assert!(revoked.closed && revoked.endorsed_up_to >= before);
    let head = statements.newest().head.clone().unwrap();
    assert_eq!(head.entries().services["edge:a"].endorsed_up_to, revoked.endorsed_up_to);
    assert_eq!(statements.demand_open("edge:a").unwrap_err().code().as_str(), "BA304");
    assert_eq!(statements.demand_open("edge:b"), Ok(()));
    // Whatever is given out from now on is beyond it: nothing is born revoked.
    assert!(ledger.next_endorsement_number().await.unwrap() > revoked.endorsed_up_to);

    let unknown = statements.open_service("edge:b").await.unwrap_err();
    assert_eq!(keychain::Refusal::from(&unknown).code().as_str(), "BA602");
    let opened = statements.open_service("edge:a").await.unwrap();
    assert_eq!((opened.closed, opened.endorsed_up_to), (false, revoked.endorsed_up_to));
    assert_eq!(statements.demand_open("edge:a"), Ok(()));
    assert!(statements.newest().head.as_ref().unwrap().entries().services.contains_key("edge:a"));
    let again = statements.revoke_service("edge:a").await.unwrap();
    assert!(again.closed && again.endorsed_up_to > revoked.endorsed_up_to);

    fixture.clock.forward(Duration::from_hours(24) + SKEW);
    statements.revoke_keys(&[service_key(1)]).await.unwrap();
    assert!(statements.newest().head.as_ref().unwrap().entries().services.is_empty(), "it has ended");
    assert_eq!(statements.demand_open("edge:a").unwrap_err().code().as_str(), "BA304", "and is still closed");
}

/// Over the sockets: an operator's word closes the row of the policy, also for keys that were never seen.
#[test]
fn a_revoked_service_is_refused_until_it_is_opened() {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    let post = |path: &str, body: &str| request(&world.socket("admin"), "POST", path, body);
    let sign = |socket: &str, number: u8| {
        let body = sign_request(Purpose::Response, service_key(number), Duration::from_mins(5));
        request(&world.socket(socket), "POST", "/sign", &body)
    };
    let number_of = |text: &str| keychain::endorsement::Endorsement::parse(text).unwrap().number.unwrap();
    let before = number_of(&sign("edge", 1).ok());
    assert!(number_of(&sign("edge", 2).ok()) > before);
    let answer = post("/revoke-service", "{\"service\":\"edge:demo\",\"reason\":\"drill\"}").ok();
    assert!(answer.starts_with("{\"service\":\"edge:demo\",\"endorsedUpTo\":"), "{answer}");
    let (head, _) = world.head();
    let up_to = head.entries().services["edge:demo"].endorsed_up_to;
    assert!(up_to > before);
    assert_eq!((sign("edge", 3).status, sign("edge", 3).code()), (403, "BA304"));
    sign("authd", 4).ok();
    hsmd.kill();
    let mut hsmd = world.start();
    assert_eq!(sign("edge", 3).code(), "BA304", "also after another start");
    post("/open-service", "{\"service\":\"edge:demo\"}").ok();
    assert!(number_of(&sign("edge", 3).ok()) > up_to);
    assert!(world.head().0.entries().services.contains_key("edge:demo"), "those from before stay refused");

    assert_eq!(post("/open-service", "{\"service\":\"edge:other\"}").code(), "BA602");
    // An order to roll refuses nothing; the key that answers it has a higher number.
    let old = number_of(&sign("edge", 5).ok());
    let answer = post("/roll-service", "{\"service\":\"edge:demo\",\"reason\":\"drill\"}").ok();
    assert!(answer.starts_with("{\"service\":\"edge:demo\",\"endorsedUpTo\":"), "{answer}");
    let (head, _) = world.head();
    let rolled = head.entries().rolls["edge:demo"].endorsed_up_to;
    assert!(rolled >= old && head.entries().services["edge:demo"].endorsed_up_to == up_to);
    assert!(number_of(&sign("edge", 6).ok()) > rolled);
    hsmd.kill();
    let mut hsmd = world.start();
    assert_eq!(
        world.head().0.entries().rolls["edge:demo"].endorsed_up_to,
        rolled,
        "also after another start"
    );

    for path in ["/revoke-service", "/open-service", "/roll-service"] {
        for body in ["", "{}", "{\"service\":1}", "{\"service\":\"shop\"}", "{\"service\":\"authd\",\"x\":1}"]
        {
            assert_eq!(post(path, body).code(), "BA101", "{path} {body}");
        }
        for (socket, status) in [("other-admin", 403), ("edge", 404), ("publish", 404)] {
            let answer = request(&world.socket(socket), "POST", path, "{\"service\":\"authd\"}");
            assert_eq!(answer.status, status, "{path} {socket}");
        }
    }
    hsmd.stop();
}
