//! The directory in an attacker's hands: each kind of value, wrong in each way, at each of its readers.

mod acknowledged;
mod apart;
mod cells;
mod counters;
mod hand;

use std::collections::BTreeMap;
use std::time::Duration;

use cells::{Cell, How, Kind, Outcome, Reader, cell};
use counters::{Counters, UNREADABLE};
use hand::{Blow, Found, Hand, Honest};
use keychain::chain::{Chain, Settings, SignedEvent, windows};
use keychain::endorsement::{Endorsement, Expected, Purpose};
use keychain::error::Code;
use keychain::token::{Attributes, Claims};
use keychain::{Digest, SigningKey};
use redis::AsyncCommands as _;
use rustix::process::Signal;
use tests::craft::{Device, Keys, Session, key, message, now};
use tests::http::{Answer, Http};
use tests::process::send;
use tests::{World, until};

const REQUEST: &str = r#"{"foo":"a","bar":"b"}"#;

/// Far above what it takes.
const SOON: Duration = Duration::from_secs(20);

/// Those who read what the publisher and authd write.
const VERIFIERS: [Reader; 3] = [Reader::Edge, Reader::Authd, Reader::Keysd];

/// A system whose directory somebody else holds.
struct Stage {
    world: World,
    counters: Counters,
    hand: Hand,
    /// A device whose session must go on.
    device: Device,
    /// Its session from before the taint.
    old: Session,
    /// A device that authd denies.
    gone: Device,
}

#[tokio::test]
async fn a_directory_in_other_hands_is_believed_nothing() {
    cells::print();
    let mut stage = Stage::set().await;
    let publisher = Stopped::each(&stage.world, &["hsm-publisher"]);
    for kind in [Kind::Event, Kind::Head, Kind::Access, Kind::Response, Kind::Feed] {
        stage.judged(kind).await;
    }
    drop(publisher);
    stage.apart().await;
    stage.restored().await;
    stage.withdrawn_beside_junk().await;
    stage.raw_revocations().await;
    stage.acknowledgements().await;
}

impl Stage {
    /// A taint, a later head and a denial: then there is something older of each kind.
    async fn set() -> Self {
        let world = World::start().await;
        let (auth, app) = (world.auth(), world.app("rust"));
        let mut device = Device::create(&auth).await;
        device.open_session(&auth).await;
        app.post("/foo/bar", device.session().access(REQUEST)).await.response();
        let mut honest = Honest::default();
        let identity = world.endpoints().identity.clone();
        honest.older_access = endorsement(&world, 0, "authd", &identity).await;
        honest.older_response = endorsement(&world, 1, "edge:rust", &identity).await;
        honest.feed.name = keychain::feed::name(&Digest::parse(&identity).unwrap()).to_string();
        honest.older_feed = value(&world, 6, &honest.feed.name).await.unwrap();

        honest.older_acknowledgements = until("all to acknowledge", SOON, async || {
            let all = acknowledged::texts(&world).await;
            (all.len() == 6).then_some(all)
        })
        .await;
        let taint = format!(r#"{{"generationId":"{identity}","reason":"drill"}}"#);
        let tainted = world.admin().post("/taint", taint).await.json();
        let newest = tainted["newGenerationId"].as_str().unwrap().to_owned();
        let old = device.session.take().unwrap();
        for (database, service) in [(0, "authd"), (1, "authd"), (1, "edge:rust")] {
            until("a key under the new generation", SOON, async || {
                (endorsement(&world, database, service, &newest).await != Found::default()).then_some(())
            })
            .await;
        }
        // What died is not there any more, for the publisher, or its owner, takes it out.
        for (database, dead) in [(0, &honest.older_access), (1, &honest.older_response)] {
            let () = world.directory(database).await.del(&dead.name).await.unwrap();
        }
        device.open_session(&auth).await;
        until("the edge to admit it", SOON, async || {
            let answer = app.post("/foo/bar", device.session().access(REQUEST)).await;
            (answer.status == 200).then_some(())
        })
        .await;
        honest.first_event = found(&world, 4, &identity).await;
        honest.event = found(&world, 4, &newest).await;
        honest.older_head = value(&world, 5, &newest).await.unwrap();
        let revoke = format!(r#"{{"publicKeys":["{}"],"reason":"drill"}}"#, key().public_key());
        assert_eq!(world.admin().post("/revoke-keys", revoke).await.status, 200);
        honest.head = until("a later head", SOON, async || {
            let found = found(&world, 5, &newest).await;
            (found.text != honest.older_head).then_some(found)
        })
        .await;

        let mut gone = device.link(&auth).await;
        gone.open_session(&auth).await;
        let unlinked = gone.device;
        device
            .gated(&auth, "/device/unlink", |device, keys| device.unlink_request(keys, &unlinked))
            .await
            .response();
        until("the device to be denied", SOON, async || {
            (app.post("/foo/bar", gone.session().access(REQUEST)).await.status == 403).then_some(())
        })
        .await;
        honest.access = endorsement(&world, 0, "authd", &newest).await;
        honest.response = endorsement(&world, 1, "edge:rust", &newest).await;
        honest.authd_response = endorsement(&world, 1, "authd", &newest).await;
        honest.snapshot = value(&world, 6, "snapshot").await.unwrap();
        honest.feed.text = until("a batch after the snapshot", SOON, async || {
            value(&world, 6, &honest.feed.name).await.filter(|text| *text != honest.snapshot)
        })
        .await;
        let hand = Hand::take(&world, honest).await;
        let counters = Counters::of(&world);
        let stage = Self { world, counters, hand, device, old, gone };
        stage.refused_once().await;
        stage
    }

    /// A message of the feed whose keys died with the taint: an edge counts it once, whenever it meets it.
    async fn refused_once(&self) {
        let blow = self.hand.blow(Kind::Feed, How::Older).unwrap();
        let stood = self.strike(&blow).await;
        for metric in ["edge verifier_denial_feed_refused_total", "authd authd_feed_refused_total"] {
            let line = format!("{metric}{{code=\"BA207\"}}");
            until(&line, SOON, async || self.counters.refusals().await.contains_key(&line).then_some(()))
                .await;
        }
        self.mend(&blow, stood).await;
    }

    /// Tries each value of a kind, one after the other, at those who read it; at the end nothing else was counted, and
    /// honest requests go on.
    async fn judged(&mut self, kind: Kind) {
        let before = self.counters.refusals().await;
        let mut expected = before.clone();
        let told = self.told_by_opsctl();
        for (place, how) in How::ALL.into_iter().enumerate() {
            let outcomes: Vec<(Reader, Outcome)> = VERIFIERS
                .into_iter()
                .filter_map(|reader| match cell(kind, reader) {
                    Cell::Each(outcomes) => Some((reader, outcomes[place])),
                    Cell::Apart(_) => None,
                })
                .filter(|(_, outcome)| !matches!(outcome, Outcome::Restored))
                .collect();
            let Some(blow) = self.hand.blow(kind, how) else {
                self.without_a_value(kind, how, &outcomes).await;
                continue;
            };
            let unreadable = self.counters.unreadable().await;
            let stood = self.strike(&blow).await;
            for (reader, outcome) in outcomes {
                self.sees(reader, outcome, how, &unreadable, &mut expected).await;
            }
            assert_eq!(self.told_by_opsctl(), told, "{kind:?} {how:?}: opsctl asks hsmd");
            self.mend(&blow, stood).await;
        }
        assert_eq!(self.counters.refusals().await, expected, "{kind:?}: something else was counted");
        self.goes_on().await;
    }

    /// What comes of one value at one reader.
    async fn sees(
        &self,
        reader: Reader,
        outcome: Outcome,
        how: How,
        unreadable: &BTreeMap<String, u64>,
        expected: &mut BTreeMap<String, u64>,
    ) {
        let name = reader.name();
        println!("{how:?} at {name}: {}", outcome.words());
        match outcome {
            Outcome::Counted(metric, code) => {
                let line = format!("{name} {metric}{{code=\"{}\"}}", code.as_str());
                *expected.entry(line.clone()).or_default() += 1;
                self.until_counted(&line, expected[&line]).await;
            }
            Outcome::Noted(metric) => {
                let line = format!("{name} {metric}");
                *expected.entry(line.clone()).or_default() += 1;
                self.until_counted(&line, expected[&line]).await;
            }
            Outcome::Unreadable => {
                let line = format!("{name} {UNREADABLE}");
                let known = unreadable.get(&line).copied().unwrap_or_default();
                until(&line, SOON, async || {
                    let found = self.counters.unreadable().await.get(&line).copied().unwrap_or_default();
                    (found > known).then_some(())
                })
                .await;
            }
            Outcome::Refused(code) => {
                let before = self.counters.answered(reader, code.as_str()).await;
                self.refused(reader, how, code).await;
                assert_eq!(
                    self.counters.answered(reader, code.as_str()).await,
                    before + 1,
                    "{how:?} at {name}"
                );
            }
            Outcome::Nothing(_) if how == How::OtherService => self.told_with_its_service(how).await,
            Outcome::Nothing(_) => {}
            Outcome::Never(_) | Outcome::Denies | Outcome::Restored | Outcome::Shown(_) => {
                panic!("{how:?} at {name} is tried elsewhere")
            }
        }
    }

    async fn until_counted(&self, line: &str, count: u64) {
        let what = format!("{line} to be {count}");
        until(&what, SOON, async || (self.counters.refusals().await.get(line) == Some(&count)).then_some(()))
            .await;
    }

    /// Who rests on the value is refused: with a session from before the taint, or a token of the attacker's own.
    async fn refused(&self, reader: Reader, how: How, code: Code) {
        if reader == Reader::Edge {
            let asked = self.world.app("rust").post("/foo/bar", self.old.access(REQUEST)).await;
            return asked.refused(code);
        }
        let answer = match how {
            How::Older => refresh(&self.world.auth(), &self.old).await,
            _ => refresh(&self.world.auth(), &self.own_session(&self.hand.keys[&how])).await,
        };
        answer.refused(code);
    }

    /// A session of the victim that the attacker issues with a key of its own.
    fn own_session(&self, issuer: &SigningKey) -> Session {
        let keys = Keys::draw();
        let claims = Claims {
            server_identity: issuer.public_key(),
            device: self.device.device,
            identity: self.device.identity,
            public_key: keys.public_key(),
            rotation_hash: keys.rotation_hash(),
            issued_at: now(),
            expiry: now().plus(Duration::from_mins(15)),
            refresh_expiry: now().plus(Duration::from_hours(12)),
            attributes: Attributes::new(BTreeMap::new()).unwrap(),
        };
        Session { keys, token: claims.issue(issuer).unwrap() }
    }

    /// What keysd tells of another service's key is no answer of authd's.
    async fn told_with_its_service(&self, how: How) {
        let name = self.hand.key(how);
        let told = until("keysd to tell it", SOON, async || {
            let answer = self.world.keys().get(&format!("/keys/{name}")).await;
            (answer.status == 200).then_some(answer.body)
        })
        .await;
        let Honest { first_event, event, .. } = &self.hand.honest;
        let identity = Digest::parse(&self.world.endpoints().identity).unwrap();
        let mut chain = Chain::new(identity, Settings::default());
        let events = [&first_event.text, &event.text].map(|text| SignedEvent::parse(text).unwrap());
        chain.merge(events, now().plus(Duration::from_secs(5)));
        let expected = Expected { purpose: Purpose::Response, public_key: &name, service: Some("authd") };
        let verdict = Endorsement::parse(&told).unwrap().verify(&chain, expected, windows::DEVICE, now());
        assert_eq!(verdict.unwrap_err().code(), Code::WrongPurpose);
    }

    /// What is done to a kind without writing a value of it.
    async fn without_a_value(&self, kind: Kind, how: How, outcomes: &[(Reader, Outcome)]) {
        if (kind, how) == (Kind::Event, How::Older) {
            // The newest event, which taints, is hidden.
            let Found { name, text } = &self.hand.honest.event;
            let mut chain = self.world.directory(4).await;
            let () = chain.del(name).await.unwrap();
            self.world.app("rust").post("/foo/bar", self.old.access(REQUEST)).await.refused(Code::DeadKey);
            let () = chain.set(name, text).await.unwrap();
            return;
        }
        if (kind, how) == (Kind::Access, How::OtherService) {
            self.no_access_key_for_another_service().await;
        }
        let impossible = outcomes.iter().all(|(_, outcome)| matches!(outcome, Outcome::Never(_)));
        assert!(impossible, "{kind:?} {how:?} is not tried");
    }

    /// Writes a value; what stood there before.
    async fn strike(&self, blow: &Blow) -> Option<String> {
        let mut database = self.world.directory(blow.database).await;
        redis::cmd("SET")
            .arg(&blow.name)
            .arg(&blow.value)
            .arg("GET")
            .query_async(&mut database)
            .await
            .unwrap()
    }

    async fn mend(&self, blow: &Blow, stood: Option<String>) {
        let mut database = self.world.directory(blow.database).await;
        let () = match stood {
            Some(text) => database.set(&blow.name, text).await.unwrap(),
            None => database.del(&blow.name).await.unwrap(),
        };
    }

    /// Honest requests, at the edge and at authd; and keysd tells honest keys and no others.
    async fn goes_on(&mut self) {
        let auth = self.world.auth();
        self.world.app("rust").post("/foo/bar", self.device.session().access(REQUEST)).await.response();
        self.device.try_refresh(&auth).await.response();
        let told = until("keysd to tell honest keys alone", SOON, async || {
            let all = self.world.keys().get("/keys").await.json();
            (all.as_object().unwrap().len() == 5).then_some(all)
        })
        .await;
        assert!(told.get(&self.hand.honest.response.name).is_some(), "{told}");
    }

    /// The owners of entries write their own again: the publisher its newest event and head, services their keys.
    async fn restored(&self) {
        let Honest { event, head, response, authd_response, access, .. } = &self.hand.honest;
        for (kind, database, own) in [
            (Kind::Event, 4, event),
            (Kind::Head, 5, head),
            (Kind::Response, 1, response),
            (Kind::Response, 1, authd_response),
            (Kind::Access, 0, access),
        ] {
            for how in How::ALL {
                match self.hand.blow(kind, how) {
                    Some(blow) => {
                        self.strike(&Blow { database, name: own.name.clone(), value: blow.value }).await;
                    }
                    None if how == How::Older => {
                        let () = self.world.directory(database).await.del(&own.name).await.unwrap();
                    }
                    None => continue,
                }
                let what = format!("{kind:?} {how:?} to be written over");
                until(&what, SOON, async || {
                    (value(&self.world, database, &own.name).await.as_ref() == Some(&own.text)).then_some(())
                })
                .await;
            }
        }
    }

    /// Junk among endorsements keeps nothing in the directory that a head revokes.
    async fn withdrawn_beside_junk(&self) {
        for kind in [Kind::Access, Kind::Response] {
            for how in How::ALL {
                if let Some(blow) = self.hand.blow(kind, how) {
                    self.strike(&blow).await;
                }
            }
        }
        let thief = self.hand.key(How::OtherService).to_string();
        let revoke = format!(r#"{{"publicKeys":["{thief}"],"reason":"drill"}}"#);
        assert_eq!(self.world.admin().post("/revoke-keys", revoke).await.status, 200);
        until("the revoked key to be taken out", SOON, async || {
            value(&self.world, 1, &thief).await.is_none().then_some(())
        })
        .await;
        for kind in [Kind::Access, Kind::Response] {
            for how in How::ALL.into_iter().filter(|how| *how != How::Replayed) {
                if let Some(blow) = self.hand.blow(kind, how) {
                    self.mend(&blow, None).await;
                }
            }
        }
    }

    /// An entry denies whatever it holds, at edges alone, until it is deleted; what authd denies it denies without one.
    async fn raw_revocations(&mut self) {
        let before = self.counters.refusals().await;
        let (auth, app) = (self.world.auth(), self.world.app("rust"));
        let mut entries = self.world.directory(3).await;
        let who = self.device.identity.to_string();
        let () = entries.set(truncated_name(&who), "1").await.unwrap();
        app.post("/foo/bar", self.device.session().access(REQUEST)).await.response();
        for value in ["0", &self.hand.honest.head.text, "1", &"x".repeat(10_000)] {
            let () = entries.set(&who, value).await.unwrap();
            let answer = until("the entry to deny", SOON, async || {
                let answer = app.post("/foo/bar", self.device.session().access(REQUEST)).await;
                (answer.status != 200).then_some(answer)
            })
            .await;
            answer.refused(Code::Revoked);
            // authd judges by its store.
            self.device.try_refresh(&auth).await.response();
            let () = entries.del(&who).await.unwrap();
            until("the entry to be lifted", SOON, async || {
                let answer = app.post("/foo/bar", self.device.session().access(REQUEST)).await;
                (answer.status == 200).then_some(())
            })
            .await;
        }
        let () = entries.del(self.gone.device.to_string()).await.unwrap();
        self.goes_on().await;
        app.post("/foo/bar", self.gone.session().access(REQUEST)).await.refused(Code::Revoked);
        self.gone.try_refresh(&auth).await.refused(Code::UnknownDevice);
        assert_eq!(self.counters.refusals().await, before, "entries of database 3 are refused nowhere");
    }
}

/// Processes of a program that stand still until this is dropped.
struct Stopped(Vec<u32>);

impl Stopped {
    fn each(world: &World, programs: &[&str]) -> Self {
        let ids: Vec<u32> = programs.iter().flat_map(|program| world.children(program)).collect();
        assert!(!ids.is_empty(), "none of {programs:?} is running");
        for id in &ids {
            send(*id, Signal::STOP);
        }
        Self(ids)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for id in &self.0 {
            send(*id, Signal::CONT);
        }
    }
}

async fn refresh(auth: &Http, session: &Session) -> Answer {
    let keys = session.keys.ahead();
    auth.post("/session/refresh", message(&session.refresh_request(&keys), &keys.current)).await
}

async fn value(world: &World, database: u8, name: &str) -> Option<String> {
    world.directory(database).await.get(name).await.unwrap()
}

async fn found(world: &World, database: u8, name: &str) -> Found {
    let text = value(world, database, name).await.unwrap_or_default();
    Found { name: name.to_owned(), text }
}

/// A generation's endorsement of a service's key; an empty one while there is none.
async fn endorsement(world: &World, database: u8, service: &str, generation: &str) -> Found {
    let names: Vec<String> = world.directory(database).await.keys("1AAI*").await.unwrap();
    for name in names {
        let found = found(world, database, &name).await;
        let is_of_service = found.text.contains(&format!("\"service\":\"{service}\""));
        if is_of_service && found.text.contains(&format!("\"generationId\":\"{generation}\"")) {
            return found;
        }
    }
    Found::default()
}

fn truncated_name(name: &str) -> String {
    name[..name.len() - 1].to_owned()
}
