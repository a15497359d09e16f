//! keysd from outside.

use std::path::PathBuf;
use std::time::Duration;

use keychain::Code;
use keychain::chain::{Chain, Settings, windows};
use keychain::device::take_heads;
use keychain::directory::Db;
use keychain::endorsement::{Endorsement, Purpose, SignRequest};
use keychain::statement::Entries;
use redis::AsyncCommands as _;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::clock;
use crate::support::daemon::Daemon;
use crate::support::fixture::{Hsm, denying, key, revoking};
use crate::support::hsm::publish_head;
use crate::support::redis::Redis;
use crate::support::until;
use crate::support::world::{ago, url};

const HOUR: Duration = Duration::from_hours(1);

pub(crate) struct Keysd {
    redis: Redis,
    hsm: Hsm,
    client: reqwest::Client,
    daemon: Daemon,
    configuration: String,
    folder: TempDir,
}

impl Keysd {
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// A keysd with more lines in its configuration. The newest event and its head are an hour old.
    async fn start_with(lines: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let redis = Redis::start(folder.path()).await;
        let hsm = Hsm::new(0, ago(3_600));
        let at = folder.path().display();
        let configuration = format!(
            "identity = \"{}\"\nlisten = \"unix:{at}/keysd.sock\"\nredis = \"{}\"\n\
             metrics = \"unix:{at}/metrics.sock\"\nstate = \"{at}/state\"\n{lines}",
            hsm.prefix(),
            redis.url(),
        );
        let mut daemon = Daemon::spawn(env!("CARGO_BIN_EXE_keysd"), folder.path(), &configuration);
        publish(&redis, &hsm).await;
        daemon.ready().await;
        let client =
            reqwest::Client::builder().unix_socket(folder.path().join("keysd.sock")).build().unwrap();
        Self { redis, hsm, client, daemon, configuration, folder }
    }

    /// Asks it to stop, and waits for that.
    pub(crate) async fn stop(&mut self) {
        self.daemon.terminate();
        self.daemon.ended().await;
    }

    /// A keysd in the place of the one that has ended.
    pub(crate) fn start_another(&self) -> Daemon {
        Daemon::spawn(env!("CARGO_BIN_EXE_keysd"), self.folder.path(), &self.configuration)
    }

    /// Where it keeps its state.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.client.get(url(path)).send().await.unwrap();
        assert_eq!(answer.headers()["access-control-allow-origin"], "*", "{path}");
        assert_eq!(answer.headers()["content-type"], "application/json", "{path}");
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// How many listings it has made.
    async fn listings(&self) -> u64 {
        let client =
            reqwest::Client::builder().unix_socket(self.folder.path().join("metrics.sock")).build().unwrap();
        let metrics = client.get(url("/metrics")).send().await.unwrap().text().await.unwrap();
        let count = metrics.lines().find_map(|line| line.strip_prefix("keysd_listings_total "));
        count.unwrap().parse().unwrap()
    }

    /// Endorses and publishes a response key; its entry.
    pub(crate) async fn publish_key(&self, number: u32) -> (String, String) {
        let public_key = key(number).public_key();
        let request =
            SignRequest { purpose: Purpose::Response, public_key, expiration: clock::now().plus(HOUR) };
        let text = self.hsm.endorse_as(&request, "edge:a");
        self.redis.directory().publish(Db::Response, &public_key, &text, HOUR).await.unwrap();
        (public_key.to_string(), text)
    }
}

async fn publish(redis: &Redis, hsm: &Hsm) {
    let directory = redis.directory();
    for event in hsm.events() {
        directory.publish_event(&event.event().id, event.text()).await.unwrap();
    }
    let newest = hsm.events().last().unwrap().event();
    publish_head(&directory, &hsm.head(1, &Entries::default(), newest.created_at)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_verbatim_from_memory() {
    let keysd = Keysd::start().await;
    assert_eq!(keysd.get("/keys").await, (200, "{}".to_owned()));
    let mut published = Vec::new();
    for number in 300..320 {
        let (name, text) = keysd.publish_key(number).await;
        assert_eq!(keysd.get(&format!("/keys/{name}")).await, (200, text.clone()), "at once, verbatim");
        published.push((name, text));
    }
    let head = keysd.redis.directory().head(&keysd.hsm.prefix()).await.unwrap().unwrap();
    let reads = keysd.redis.reads().await;
    let (status, body) = keysd.get("/keys").await;
    let all: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, all.as_object().unwrap().len()), (200, published.len()));
    for (name, text) in &published {
        assert!(body.contains(&format!("\"{name}\":{text}")), "{name}");
    }
    let (status, chain) = keysd.get("/hsm/keys").await;
    assert_eq!((status, chain), (200, format!("[{}]", keysd.hsm.events()[0].text())));
    assert_eq!(keysd.get("/hsm/heads").await, (200, format!("[{head}]")));
    let health: Value = serde_json::from_str(&keysd.get("/health").await.1).unwrap();
    assert_eq!(health["status"], "healthy");
    let paths = keysd.get("/").await.1;
    assert!(paths.contains("/hsm/keys") && paths.contains("/hsm/heads"), "{paths}");
    for _ in 0..3 {
        keysd.get(&format!("/keys/{}", key(999).public_key())).await;
    }
    assert_eq!(keysd.redis.reads().await, reads, "no request reaches Redis");
}

/// A keysd whose own directory withholds everything hears it from another one. That makes it no follower of hsmd.
#[tokio::test(flavor = "multi_thread")]
async fn a_keysd_hears_another_one() {
    let first = Keysd::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (at, other) = (folder.path().display(), first.folder.path().display());
    let empty = Redis::start(folder.path()).await;
    let configuration = format!(
        "identity = \"{}\"\nlisten = \"unix:{at}/keysd.sock\"\nredis = \"{}\"\nkeysd = [\"unix:{other}/keysd.sock\"]\n\
         metrics = \"unix:{at}/metrics.sock\"\nstate = \"{at}/state\"\n",
        first.hsm.prefix(),
        empty.url(),
    );
    let mut second = Daemon::spawn(env!("CARGO_BIN_EXE_keysd"), folder.path(), &configuration);
    second.ready().await;
    let client = reqwest::Client::builder().unix_socket(folder.path().join("keysd.sock")).build().unwrap();
    let get = async |path: &str| client.get(url(path)).send().await.unwrap().text().await.unwrap();
    let (chain, heads) = (first.get("/hsm/keys").await.1, first.get("/hsm/heads").await.1);
    until("the other's chain and head", async || {
        (get("/hsm/keys").await == chain && get("/hsm/heads").await == heads).then_some(())
    })
    .await;
    let health = get("/health").await;
    assert!(health.contains("\"follows\":\"directory\""), "{health}");
}

/// With the directory away it tells what it knew before a restart, as far as that still verifies.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_an_outage_goes_by_its_own_state() {
    let mut keysd = Keysd::start().await;
    let (name, text) = keysd.publish_key(300).await;
    assert_eq!(keysd.get(&format!("/keys/{name}")).await.0, 200);
    until("all that a restart goes by", async || {
        let read = |file: &str| std::fs::read_to_string(keysd.folder.path().join("state").join(file));
        let has = |file: &str, part: &str| read(file).is_ok_and(|kept| kept.contains(part));
        (has("keys.json", &name) && has("chain.json", "signature") && has("trust.json", "chain-head"))
            .then_some(())
    })
    .await;
    keysd.redis.stop();
    keysd.daemon.kill();
    keysd.daemon = keysd.start_another();
    keysd.daemon.ready().await;
    assert_eq!(keysd.get(&format!("/keys/{name}")).await, (200, text));
    assert_eq!(keysd.get("/health").await.0, 200);
}

/// Refreshes that are copied for public auth servers change none of its keys, nor does an entry that is written again.
#[tokio::test(flavor = "multi_thread")]
async fn what_concerns_no_key_makes_no_listing() {
    let keysd = Keysd::start().await;
    let (name, text) = keysd.publish_key(300).await;
    assert_eq!(keysd.get(&format!("/keys/{name}")).await.0, 200);
    let (before, reads) = (keysd.listings().await, keysd.redis.reads().await);
    let (mut spent, mut keys) = (keysd.redis.database(2).await, keysd.redis.database(1).await);
    for number in 0..1_000_u32 {
        let digest = keychain::Digest::of(number.to_string()).to_string();
        spent.set::<_, _, ()>(digest, "x").await.unwrap();
    }
    keys.set::<_, _, ()>(&name, &text).await.unwrap();
    let (name, _) = keysd.publish_key(301).await;
    assert_eq!(keysd.get(&format!("/keys/{name}")).await.0, 200);
    // That of the new key, and perhaps the one that drops expired keys.
    let made = keysd.listings().await - before;
    assert!((1..=2).contains(&made), "{made}");
    // Each name could be an event's: it is asked for once, in database 4 alone.
    let asked = keysd.redis.reads().await - reads;
    assert!(asked <= 1_100, "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_a_404_and_what_is_not_get_a_405() {
    let keysd = Keysd::start().await;
    let unknown = format!("/keys/{}", key(999).public_key());
    for path in [unknown.as_str(), "/keys/", "/keys/x", "/nothing", "/keys/%00", "//"] {
        let (status, body) = keysd.get(path).await;
        assert!(status == 404 && body.contains("BA106"), "{path}: {status} {body}");
    }
    for path in ["/keys", unknown.as_str(), "/hsm/keys", "/hsm/heads", "/health", "/"] {
        let answer = keysd.client.post(url(path)).body("{}").send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 405, "{path}");
        assert!(answer.text().await.unwrap().contains("BA107"), "{path}");
    }
    let answer = keysd.client.request(reqwest::Method::OPTIONS, url("/any")).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    assert_eq!(answer.headers()["access-control-allow-methods"], "POST, GET, OPTIONS");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_nothing_that_does_not_verify_and_one_branch_in_order() {
    let mut keysd = Keysd::start().await;
    let (good, _) = keysd.publish_key(300).await;
    let stranger = Hsm::new(50, ago(3_600));
    let other = key(301).public_key();
    let request =
        SignRequest { purpose: Purpose::Response, public_key: other, expiration: clock::now().plus(HOUR) };
    let foreign = stranger.endorse_as(&request, "edge:a");
    keysd.redis.directory().publish(Db::Response, &other, &foreign, HOUR).await.unwrap();
    let mut keys = keysd.redis.database(1).await;
    keys.set::<_, _, ()>(key(302).public_key().to_string(), "{\"junk\":1}").await.unwrap();
    publish(&keysd.redis, &stranger).await;
    for second in [30, 20, 10] {
        keysd.hsm.rotate(ago(second), false);
    }
    publish(&keysd.redis, &keysd.hsm).await;
    let expected: Vec<&str> = keysd.hsm.events().iter().map(keychain::chain::SignedEvent::text).collect();
    let expected = format!("[{}]", expected.join(","));
    until("the chain to be shown", async || (keysd.get("/hsm/keys").await.1 == expected).then_some(())).await;
    let all: Value = serde_json::from_str(&keysd.get("/keys").await.1).unwrap();
    assert_eq!(all.as_object().unwrap().keys().collect::<Vec<_>>(), [&good]);
    keysd.hsm.rotate(ago(5), true);
    publish(&keysd.redis, &keysd.hsm).await;
    until("expiry and taint to be followed", async || {
        let (name, _) = keysd.publish_key(310).await;
        let shown = keysd.get("/keys").await.1;
        (shown.contains(&name)).then_some(())
    })
    .await;
    keysd.redis.flush().await;
    until("the loss to be followed", async || (keysd.get("/keys").await.1 == "{}").then_some(())).await;
    assert_ne!(keysd.get("/hsm/keys").await.1, "[]", "the chain is remembered");
}

/// Without a head that is recent enough, no key is shown to be good.
#[tokio::test(flavor = "multi_thread")]
async fn it_shows_no_key_while_it_cannot_know_what_is_revoked() {
    let keysd = Keysd::start_with("head_max_age = \"30m\"\n").await;
    let (name, text) = keysd.publish_key(300).await;
    let refused = async |path: &str| {
        let (status, body) = keysd.get(path).await;
        (status, body.contains("BA607"))
    };
    assert_eq!(refused("/keys").await, (503, true));
    assert_eq!(refused(&format!("/keys/{name}")).await, (503, true));
    assert_eq!(keysd.get("/hsm/keys").await.0, 200, "the chain proves itself");
    publish_head(&keysd.redis.directory(), &keysd.hsm.head(2, &Entries::default(), ago(60))).await;
    until("a head to be heard", async || (keysd.get("/keys").await.0 == 200).then_some(())).await;
    assert_eq!(keysd.get(&format!("/keys/{name}")).await, (200, text));
}

/// What the HSM denies and revokes reaches a device that asks keysd for heads, from the heads that count and no others.
#[tokio::test(flavor = "multi_thread")]
async fn devices_learn_from_it_what_is_denied_and_revoked() {
    let mut keysd = Keysd::start().await;
    let (name, text) = keysd.publish_key(300).await;
    let first = keysd.hsm.prefix();
    keysd.hsm.rotate(ago(20), false);
    let mut listed = denying(first);
    listed.join(&revoking(&key(310), clock::now().plus(HOUR)));
    publish(&keysd.redis, &keysd.hsm).await;
    let stranger = Hsm::new(50, ago(3_600));
    publish(&keysd.redis, &stranger).await;
    publish_head(&keysd.redis.directory(), &keysd.hsm.head(2, &listed, ago(5))).await;
    let heads = until("the head to be told", async || {
        let (status, heads) = keysd.get("/hsm/heads").await;
        (status == 200 && heads.contains("\"number\":2")).then_some(heads)
    })
    .await;
    assert!(!heads.contains(&stranger.prefix().to_string()), "{heads}");

    // The device's side, from what it fetched.
    let now = clock::now();
    let mut chain = Chain::new(first, Settings::default());
    chain.merge(keysd.hsm.events().iter().cloned(), now);
    let endorsement = Endorsement::parse(&text).unwrap();
    let alive = |chain: &Chain| endorsement.verify_alive(chain, windows::DEVICE, now).map_err(|no| no.code());
    assert_eq!(alive(&chain), Ok(()), "a device that takes no heads");
    assert!(take_heads(&mut chain, &heads, now).unwrap().taken >= 1);
    assert_eq!(alive(&chain), Err(Code::DeadKey));
    assert!(chain.stated().keys.contains_key(&key(310).public_key().name()));
    assert_eq!(keysd.get(&format!("/keys/{name}")).await.0, 404, "keysd leaves it out itself");
}

#[test]
fn configurations_are_checked_without_a_single_connection() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keysd.toml");
    let good = format!(
        "identity = \"{}\"\nlisten = \"127.0.0.1:0\"\nredis = \"redis://127.0.0.1:1\"\n\
         metrics = \"127.0.0.1:0\"\nstate = \"/nowhere\"\n",
        Hsm::new(0, ago(1)).prefix()
    );
    for (text, code, words) in [
        (good.clone(), 0, "ok"),
        (good.replace("listen", "lisen"), 78, "lisen"),
        (good.replace("redis://", "http://"), 78, "redis"),
        (good.replace("identity = \"E", "identity = \"F"), 78, "identity"),
        (format!("{good}head_max_age = \"9m\"\n"), 78, "head_max_age"),
        (format!("{good}head_max_age = \"13h\"\n"), 78, "head_max_age"),
        (format!("{good}insecure_any_head_age = true\n"), 0, "ok"),
    ] {
        std::fs::write(&file, text).unwrap();
        let ended = std::process::Command::new(env!("CARGO_BIN_EXE_keysd"))
            .args(["--check-config", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        let said = [ended.stdout, ended.stderr].concat();
        let said = std::str::from_utf8(&said).unwrap();
        assert_eq!(ended.status.code(), Some(code), "{said}");
        assert!(said.contains(words), "{words}: {said}");
    }
}

/// `SWAPDB` announces nothing. What it brings is seen when everything is read again.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_not_announced_are_listed_at_the_interval() {
    let keysd = Keysd::start_with("reread_every = \"1s\"").await;
    let (first, _) = keysd.publish_key(300).await;
    let request = SignRequest {
        purpose: Purpose::Response,
        public_key: key(301).public_key(),
        expiration: clock::now().plus(HOUR),
    };
    let (name, text) = (key(301).public_key().to_string(), keysd.hsm.endorse_as(&request, "edge:a"));
    keysd.redis.database(9).await.set::<_, _, ()>(&name, &text).await.unwrap();
    let (last, _) = keysd.publish_key(302).await;
    let listed = async |wanted: &str| {
        until("the list", async || keysd.get("/keys").await.1.contains(wanted).then_some(())).await;
    };
    listed(&first).await;
    listed(&last).await;
    assert_eq!(keysd.get(&format!("/keys/{name}")).await.0, 404);
    keysd.redis.command(&["SWAPDB", "1", "9"]).await;
    listed(&name).await;
    assert_eq!(keysd.get(&format!("/keys/{last}")).await.0, 404, "what is gone is gone from the list");
}
