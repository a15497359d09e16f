//! What opsctl makes of acknowledgements in an attacker's hands.

use std::collections::BTreeMap;

use keychain::endorsement::Purpose;
use redis::AsyncCommands as _;
use serde_json::Value;
use tests::craft::key;
use tests::process::command;
use tests::world::binary;
use tests::{World, until};

use super::cells::{Cell, How, Kind, Outcome, Reader, cell};
use super::hand::truncated;
use super::{SOON, Stage, Stopped};

/// The edges of a laboratory: each shows one value at a time.
const EDGES: [&str; 4] = ["python", "ruby", "rust", "typescript"];

impl Stage {
    /// Tries each value while those who would write their own again are stopped.
    pub(super) async fn acknowledgements(&self) {
        let before = texts(&self.world).await;
        let revoke = format!(r#"{{"publicKeys":["{}"],"reason":"drill"}}"#, key().public_key());
        assert_eq!(self.world.admin().post("/revoke-keys", revoke).await.status, 200);
        let newest = until("the newest head to be acknowledged", SOON, async || {
            let newest = texts(&self.world).await;
            let is_new = |(name, text): (&String, &String)| before.get(name) != Some(text);
            let is_settled =
                newest.iter().all(is_new) && self.states().values().all(|state| state == "acknowledged");
            is_settled.then_some(newest)
        })
        .await;
        let Cell::Each(outcomes) = cell(Kind::Acknowledgement, Reader::Opsctl) else { panic!("a cell") };
        let _stopped = Stopped::each(&self.world, &["edge"]);
        let mut database = self.world.directory(7).await;
        let tries: Vec<_> = How::ALL.into_iter().zip(outcomes).collect();
        for some in tries.chunks(EDGES.len()) {
            for (edge, (how, _)) in EDGES.iter().zip(some) {
                let name = name(edge);
                let value = self.acknowledgement(*how, &name, &before, &newest);
                let () = database.set(&name, value).await.unwrap();
            }
            let states = self.states();
            for (edge, (how, outcome)) in EDGES.iter().zip(some) {
                let Outcome::Shown(state) = outcome else { panic!("{how:?} has a state") };
                assert_eq!(states[&format!("edge:{edge}")], *state, "{how:?}");
            }
        }
        for edge in EDGES {
            let () = database.set(name(edge), &newest[&name(edge)]).await.unwrap();
        }
        assert!(self.states().values().all(|state| state == "acknowledged"), "{:?}", self.states());
    }

    fn acknowledgement(
        &self,
        how: How,
        name: &str,
        before: &BTreeMap<String, String>,
        newest: &BTreeMap<String, String>,
    ) -> String {
        let own = &newest[name];
        match how {
            How::Forged => own.replacen("\"number\":", "\"number\":1", 1),
            How::Swapped => newest.iter().find(|(other, _)| *other != name).unwrap().1.clone(),
            How::Truncated => truncated(own),
            How::Replayed => before[name].clone(),
            How::Older => self.hand.honest.older_acknowledgements[name].clone(),
            How::Oversized => "x".repeat(20_000),
            How::OtherChain => {
                let foreign = self.hand.other_chain().endorse(Purpose::Response, key().public_key());
                let (start, rest) = own.split_once("\"endorsements\":[").unwrap();
                let (_, end) = rest.split_once("],\"signature\"").unwrap();
                format!("{start}\"endorsements\":[{foreign}],\"signature\"{end}")
            }
            How::OtherPurpose => self.hand.honest.head.text.clone(),
            How::OtherService => newest["ack:authd:main"].clone(),
        }
    }

    /// What `opsctl status` says.
    pub(super) fn status(&self) -> Value {
        let mut program = command(binary("opsctl"));
        program.args(["status", "--json", "--admin"]).arg(&self.world.endpoints().admin);
        program.args(["--directory", &self.world.endpoints().redis]);
        serde_json::from_slice(&program.output().unwrap().stdout).unwrap()
    }

    /// The same of each verifier.
    fn states(&self) -> BTreeMap<String, String> {
        let status = self.status();
        let text = |row: &Value, member: &str| row[member].as_str().unwrap().to_owned();
        let rows = status["verifiers"].as_array().unwrap();
        rows.iter().map(|row| (text(row, "service"), text(row, "state"))).collect()
    }
}

/// Where an edge acknowledges.
fn name(edge: &str) -> String {
    format!("ack:edge:{edge}:main")
}

/// Every acknowledgement, by its name.
pub(super) async fn texts(world: &World) -> BTreeMap<String, String> {
    let mut database = world.directory(7).await;
    let names: Vec<String> = database.keys("ack:*").await.unwrap();
    if names.is_empty() {
        return BTreeMap::new();
    }
    let texts: Vec<Option<String>> = database.mget(&names).await.unwrap();
    names.into_iter().zip(texts).filter_map(|(name, text)| Some((name, text?))).collect()
}
