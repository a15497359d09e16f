//! What a reader never reads, tried all the same: each cell of the table that says so. The values are put there, the
//! reader does its work on honest ones beside them, and it counts nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use keychain::error::Code;
use redis::AsyncCommands as _;
use serde_json::Value;
use tests::craft::{Keys, message, nonce, now};
use tests::http::Http;
use tests::until;

use super::cells::{Cell, How, Kind, Reader, cell};
use super::hand::Blow;
use super::{REQUEST, SOON, Stage, truncated_name};

/// Every database of the directory.
const DATABASES: std::ops::Range<u8> = 0..8;

/// hsmd's sockets that are for one service each, none of them authd.
const OTHER_SERVICES: [&str; 6] =
    ["edge-python", "edge-ruby", "edge-rust", "edge-typescript", "endorse", "keysd"];

impl Stage {
    pub(super) async fn apart(&mut self) {
        self.settled().await;
        for kind in Kind::ALL {
            for reader in Reader::ALL {
                if let Cell::Apart(because) = cell(kind, reader) {
                    println!("{} at {}: {because}", kind.name(), reader.name());
                    self.unmet(kind, reader).await;
                }
            }
        }
    }

    async fn unmet(&mut self, kind: Kind, reader: Reader) {
        let before = self.counted(reader).await;
        let told = self.told_by_opsctl();
        if kind == Kind::Nonce {
            self.nonces(reader).await;
        } else {
            let mut struck = Vec::new();
            for how in How::ALL {
                if let Some(blow) = self.unread(kind, how) {
                    struck.push((self.strike(&blow).await, blow));
                }
            }
            assert!(struck.len() >= 7, "{kind:?}: {}", struck.len());
            self.does_its_work(reader, &told).await;
            for (stood, blow) in struck.into_iter().rev() {
                self.mend(&blow, stood).await;
            }
        }
        let fence = self.passed_by(reader).await;
        let mut after = self.counted(reader).await;
        if let Some(line) = fence {
            let count = after.get_mut(&line).unwrap();
            *count -= 1;
            after.retain(|line, count| before.contains_key(line) || *count > 0);
        }
        assert_eq!(after, before, "{kind:?} at {}", reader.name());
        until("the honest to be let in", SOON, async || {
            let request = self.device.session().access(REQUEST);
            (self.world.app("rust").post("/foo/bar", request).await.status == 200).then_some(())
        })
        .await;
    }

    /// The value to try, of a kind that somebody does not read.
    fn unread(&self, kind: Kind, how: How) -> Option<Blow> {
        let honest = &self.hand.honest;
        let value = |own: String| match how {
            How::Truncated => own[..own.len() - 1].to_owned(),
            How::Oversized => "x".repeat(300_000),
            How::OtherChain => self.hand.other_chain().head.clone(),
            How::OtherPurpose => honest.head.text.clone(),
            How::OtherService => honest.response.text.clone(),
            How::Forged | How::Older | How::Replayed | How::Swapped => own,
        };
        let device = &self.device;
        match kind {
            // That of the next access key: with it the next refresh would be refused.
            Kind::Spent => {
                let name = device.session().keys.rotation_hash().to_string();
                Some(Blow { database: 2, name, value: value(format!("request {how:?}")) })
            }
            Kind::Revocation => {
                let who = if how == How::Swapped { device.device } else { device.identity }.to_string();
                let name = if how == How::Truncated { truncated_name(&who) } else { who };
                Some(Blow { database: 3, name, value: value("1 ".to_owned()) })
            }
            Kind::Acknowledgement => {
                let edges = honest.older_acknowledgements.get("ack:edge:ruby:main").cloned();
                let name = if how == How::Swapped { "ack:authd:main" } else { "ack:edge:ruby:main" };
                Some(Blow { database: 7, name: name.to_owned(), value: value(edges.unwrap()) })
            }
            Kind::Nonce => None,
            Kind::Access | Kind::Event | Kind::Feed | Kind::Head | Kind::Response => {
                self.hand.blow(kind, how)
            }
        }
    }

    /// What a reader does all day, on what is honest.
    async fn does_its_work(&mut self, reader: Reader, told: &Value) {
        let auth = self.world.auth();
        match reader {
            Reader::Edge => {
                let request = self.device.session().access(REQUEST);
                self.world.app("rust").post("/foo/bar", request).await.response();
            }
            Reader::Authd => {
                self.device.try_refresh(&auth).await.response();
            }
            Reader::Keysd => {
                let all = self.world.keys().get("/keys").await.json();
                assert_eq!(all.as_object().unwrap().len(), 5, "{all}");
            }
            Reader::Publisher => {}
            Reader::Opsctl => assert_eq!(self.told_by_opsctl(), *told),
        }
    }

    /// Waits until a reader has seen something that came later; the line that it counted it by.
    async fn passed_by(&self, reader: Reader) -> Option<String> {
        match reader {
            Reader::Opsctl => None, // asks when it is asked
            Reader::Publisher => {
                let head = &self.hand.honest.head.name;
                let mut heads = self.world.directory(5).await;
                let () = heads.del(head).await.unwrap();
                until("the head to be written again", SOON, async || {
                    heads.exists::<_, bool>(head).await.unwrap().then_some(())
                })
                .await;
                None
            }
            Reader::Authd | Reader::Edge | Reader::Keysd => {
                let code = Code::InvalidMessage.as_str();
                let line = format!("{} verifier_events_refused_total{{code=\"{code}\"}}", reader.name());
                let known = self.counters.refusals().await.get(&line).copied().unwrap_or_default();
                // Each text counts once.
                let name = keychain::Digest::of(nonce().to_string()).to_string();
                let blow = Blow { database: 4, value: format!("{{\"junk\":\"{name}\"}}"), name };
                let stood = self.strike(&blow).await;
                self.until_counted(&line, known + 1).await;
                self.mend(&blow, stood).await;
                Some(line)
            }
        }
    }

    /// All that a reader counts of values that it refuses or cannot read.
    async fn counted(&self, reader: Reader) -> BTreeMap<String, u64> {
        let mut all = self.counters.refusals().await;
        // Not the count of unreadable entries: each full reading, which comes at an interval, counts one again.
        all.extend(self.counters.of_publisher(&self.world).await);
        all.retain(|line, _| line.starts_with(&format!("{} ", reader.name())));
        all
    }

    /// Waits until the counters of the tries before this stand still: they are set every half second.
    async fn settled(&self) {
        let mut before = None;
        until("the counters to stand still", SOON, async || {
            let mut now = self.counters.refusals().await;
            now.extend(self.counters.unreadable().await);
            let stands = before.as_ref() == Some(&now);
            before = Some(now);
            tokio::time::sleep(Duration::from_secs(1)).await;
            stands.then_some(())
        })
        .await;
    }

    /// What `opsctl status` says of chain and head, but for their ages.
    pub(super) fn told_by_opsctl(&self) -> Value {
        let mut status = self.status();
        for part in ["chain", "head"] {
            let part = status[part].as_object_mut().unwrap();
            part.retain(|member, _| !["ageSeconds", "issuedAt"].contains(&member.as_str()));
        }
        serde_json::json!({ "chain": status["chain"], "head": status["head"] })
    }

    /// Nonces are each reader's own: one in the directory spends nothing, and none there gives nothing back.
    async fn nonces(&mut self, reader: Reader) {
        match reader {
            Reader::Edge => {
                let (app, session) = (self.world.app("rust"), self.device.session());
                let own = nonce();
                let request = session.access_with(REQUEST, &own, &now().to_string(), &session.token);
                let struck = self.strike_everywhere(&own.to_string()).await;
                app.post("/foo/bar", request.clone()).await.response();
                self.take_back(struck).await;
                let before = self.counters.answered(reader, Code::Replay.as_str()).await;
                app.post("/foo/bar", request).await.refused(Code::Replay);
                assert_eq!(self.counters.answered(reader, Code::Replay.as_str()).await, before + 1);
            }
            Reader::Authd => {
                let auth = self.world.auth();
                let challenge = self.device.challenge(&auth).await;
                let struck = self.strike_everywhere(&challenge).await;
                let opens = |device: &tests::craft::Device| {
                    let request = device.session_request(&Keys::draw(), &challenge);
                    message(&request, &device.keys.current)
                };
                auth.post("/session/create", opens(&self.device)).await.response();
                self.take_back(struck).await;
                let before = self.counters.answered(reader, Code::UnknownChallenge.as_str()).await;
                auth.post("/session/create", opens(&self.device)).await.refused(Code::UnknownChallenge);
                assert_eq!(self.counters.answered(reader, Code::UnknownChallenge.as_str()).await, before + 1);
            }
            Reader::Keysd => {
                let request = self.device.session().access(REQUEST);
                self.world.keys().post("/keys", request).await.refused(Code::MethodNotAllowed);
            }
            Reader::Opsctl | Reader::Publisher => {
                let struck = self.strike_everywhere(&nonce().to_string()).await;
                let told = self.told_by_opsctl();
                self.does_its_work(reader, &told).await;
                self.take_back(struck).await;
            }
        }
    }

    async fn strike_everywhere(&self, name: &str) -> Vec<Blow> {
        let mut struck = Vec::new();
        for database in DATABASES {
            let blow = Blow { database, name: name.to_owned(), value: "1".to_owned() };
            self.strike(&blow).await;
            struck.push(blow);
        }
        struck
    }

    async fn take_back(&self, struck: Vec<Blow>) {
        for blow in struck {
            self.mend(&blow, None).await;
        }
    }

    /// An access key of another service is none that hsmd endorses, whoever asks through whichever socket: there is no
    /// such value to put into the directory.
    pub(super) async fn no_access_key_for_another_service(&self) {
        let folder = self.world.endpoints().endorse.parent().unwrap();
        let request = format!(
            r#"{{"payload":{{"purpose":"access","publicKey":"{}","expiration":"{}"}}}}"#,
            self.hand.key(How::OtherService),
            now().plus(Duration::from_mins(1)),
        );
        for service in OTHER_SERVICES {
            let socket = folder.join(format!("{service}.sock"));
            assert!(socket.exists(), "{}", socket.display());
            Http::to_socket(&socket).post("/sign", request.clone()).await.refused(Code::Forbidden);
        }
        let plain = Http::to(self.world.endpoints().hsm.as_ref().unwrap());
        plain.post("/sign", request).await.refused(Code::Forbidden);
    }
}
