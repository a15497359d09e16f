//! hsm-publisher against real Redis: everything is published, and put back.

use std::{collections::BTreeMap, fs, time::Duration};

use keychain::{chain::SignedEvent, directory::Directory, endorsement::Purpose};

use crate::support::{
    daemon::{Daemon, request},
    servers::{self, Server},
    world::{Database, World, service_key, sign_request},
};

const SOON: Duration = Duration::from_secs(20);

pub struct Published {
    pub world: World,
    redis: Server,
    connection: redis::Connection,
}

impl Published {
    pub fn new() -> Self {
        let world = World::new(Database::Sqlite);
        let redis = servers::redis(world.path());
        let connection = connect(&redis);
        Self::configure(&world, &redis.url);
        Self { world, redis, connection }
    }

    /// Writes the publisher's configuration for the hsmd of `world`.
    pub fn configure(world: &World, redis: &str) {
        let folder = world.path().display();
        let config = format!(
            "endorse = \"unix:{folder}/other.sock\"\npublish = \"unix:{folder}/publish.sock\"\nredis = \"{redis}\"\n\
             metrics = \"unix:{folder}/publisher.sock\"\n"
        );
        fs::write(world.path().join("publisher.toml"), config).unwrap();
    }

    /// Where the directory is.
    pub fn redis(&self) -> &str {
        &self.redis.url
    }

    pub fn start(&self) -> Daemon {
        let mut publisher = self.spawn(&[]);
        publisher.ready().unwrap_or_else(|status| panic!("{status}: {}", publisher.log()));
        publisher
    }

    pub fn spawn(&self, environment: &[(&str, &str)]) -> Daemon {
        spawn(&self.world, environment)
    }

    /// Everything in DB 4, as public peers read it: `KEYS *`, then each.
    fn held(&mut self) -> BTreeMap<String, String> {
        self.contents(4)
    }

    fn contents(&mut self, database: i64) -> BTreeMap<String, String> {
        redis::cmd("SELECT").arg(database).exec(&mut self.connection).unwrap();
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut self.connection).unwrap();
        keys.into_iter()
            .filter_map(|key| {
                let value: Option<String> = redis::cmd("GET").arg(&key).query(&mut self.connection).unwrap();
                Some((key, value?))
            })
            .collect()
    }

    /// Waits until DB 4 holds exactly the chain, byte for byte.
    pub fn settles(&mut self) {
        let chain: BTreeMap<_, _> = self
            .world
            .chain()
            .iter()
            .map(|event| (event.id().to_string(), event.text().to_owned()))
            .collect();
        let start = std::time::Instant::now();
        loop {
            let held = self.held();
            if held == chain {
                return;
            }
            assert!(start.elapsed() < SOON, "{held:?}");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    fn run(&mut self, database: i64, command: &[&str]) {
        redis::cmd("SELECT").arg(database).exec(&mut self.connection).unwrap();
        let (name, arguments) = command.split_first().unwrap();
        redis::cmd(name).arg(arguments).exec(&mut self.connection).unwrap();
    }
}

/// Starts the publisher of a world.
pub fn spawn(world: &World, environment: &[(&str, &str)]) -> Daemon {
    let config = world.path().join("publisher.toml");
    let program = env!("CARGO_BIN_EXE_hsm-publisher");
    Daemon::spawn_with(program, &config, world.path(), &world.softhsm.conf(), environment)
}

fn connect(redis: &Server) -> redis::Connection {
    redis::Client::open(redis.url.as_str()).unwrap().get_connection().unwrap()
}

#[test]
fn the_chain_is_published_and_put_back() {
    let mut published = Published::new();
    let _hsmd = published.world.start();
    let mut publisher = published.start();
    // Ready means published.
    let chain = published.world.chain();
    assert_eq!(published.held().len(), 1);
    published.settles();
    for _ in 0..3 {
        published.world.rotate("{}");
    }
    published.settles();

    published.run(0, &["FLUSHALL"]);
    published.settles();
    let zero = chain[0].id().to_string();
    published.run(4, &["DEL", &zero]);
    published.settles();
    published.run(4, &["SET", &zero, "{}"]);
    published.settles();
    published.run(4, &["SET", &zero, &chain[0].text().replace("0I", "0i")]);
    published.settles();
    published.run(4, &["EXPIRE", &zero, "0"]);
    published.settles();

    // It deletes nothing that it did not write.
    let stranger = keychain::Digest::of("stranger").to_string();
    published.run(4, &["SET", &stranger, "x"]);
    published.run(4, &["DEL", &zero]);
    crate::support::eventually("healing beside a stranger", SOON, || published.held().len() == 5);
    published.run(4, &["DEL", &stranger]);
    published.settles();
    publisher.stop();
}

#[test]
fn an_outage_at_either_end_is_got_over() {
    let mut published = Published::new();
    let mut hsmd = published.world.start();
    let publisher = published.start();
    let ready = |world: &World| request(&world.socket("publisher"), "GET", "/readyz", "").status;
    assert_eq!(ready(&published.world), 200);

    // The directory goes away, and comes back empty.
    let folder = published.world.path().to_owned();
    published.redis.stop();
    published.world.rotate("{}");
    crate::support::eventually("unreadiness", SOON, || ready(&published.world) == 503);
    fs::remove_file(folder.join("redis.sock")).ok();
    published.redis = servers::redis(&folder);
    published.connection = connect(&published.redis);
    published.settles();
    crate::support::eventually("readiness", SOON, || ready(&published.world) == 200);
    // hsmd goes away; what is published stays and is still put back.
    let chain = published.world.chain();
    hsmd.kill();
    published.run(0, &["FLUSHALL"]);
    let held = |events: &[SignedEvent]| {
        events
            .iter()
            .map(|event| (event.id().to_string(), event.text().to_owned()))
            .collect::<BTreeMap<_, _>>()
    };
    crate::support::eventually("healing without hsmd", SOON, || published.held() == held(&chain));
    let _hsmd = published.world.start();
    published.world.rotate("{}");
    published.settles();
    drop(publisher);
}

/// What the publisher writes is what the directory's readers read.
#[test]
fn readers_read_what_is_published() {
    let published = Published::new();
    let _hsmd = published.world.start();
    let _publisher = published.start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let events =
        runtime.block_on(async { Directory::connect(&published.redis.url).unwrap().events().await.unwrap() });
    assert_eq!(events, [published.world.chain()[0].text()]);
}

/// The newest head stands in database 5, verbatim and until it ends; what it revokes leaves 0 and 1.
#[test]
fn heads_are_published_and_put_back() {
    let mut published = Published::new();
    let _hsmd = published.world.start();
    let key = |number| service_key(number).to_string();
    for (database, purpose) in [(0, Purpose::Access), (1, Purpose::Response)] {
        for number in [1, 2] {
            let text = published.endorse("authd", purpose, number);
            published.run(database, &["SET", &key(number), &text]);
        }
    }
    let mut publisher = published.start();
    let revoke = format!("{{\"publicKeys\":[\"{}\"]}}", key(1));
    request(&published.world.socket("admin"), "POST", "/revoke-keys", &revoke).ok();
    published.states();
    for database in [0, 1] {
        let left = |published: &mut Published| published.names(database) == [key(2)];
        crate::support::eventually("the withdrawal", SOON, || left(&mut published));
    }
    let zero = published.world.chain()[0].id().to_string();
    let left: i64 = published.ask(5, &["TTL", &zero]);
    assert!((42_900..=43_200).contains(&left), "{left}");
    // Denials, too, and by the next generation.
    published.world.rotate("{}");
    let taint = format!("{{\"generationId\":\"{zero}\"}}");
    request(&published.world.socket("admin"), "POST", "/taint", &taint).ok();
    published.states();

    published.run(0, &["FLUSHALL"]);
    published.states();
    let one = published.world.chain()[1].id().to_string();
    published.run(5, &["DEL", &one]);
    published.states();
    published.run(5, &["SET", &one, "{}"]);
    published.states();
    published.run(5, &["EXPIRE", &one, "0"]);
    published.states();
    published.run(5, &["EVAL", "redis.call('DEL', KEYS[1]); redis.call('LPUSH', KEYS[1], 'x')", "1", &one]);
    published.states();
    // It deletes nothing that it did not write, nor what others say of other events.
    published.run(5, &["SET", &zero, "older"]);
    published.run(5, &["DEL", &one]);
    published.states();
    assert_eq!(published.ask::<String>(5, &["GET", &zero]), "older");
    published.settles();
    publisher.stop();
}

/// A taint, a denial and a revocation each delete what they killed, also what was endorsed while the publisher, hsmd or the
/// directory was away. Fresh endorsements of the same keys stay, and so does what cannot be judged.
#[test]
fn what_was_killed_is_deleted_and_nothing_else() {
    let mut published = Published::new();
    let mut hsmd = published.world.start();
    let mut publisher = published.start();
    let key = |number| service_key(number).to_string();
    let post = |published: &Published, path: &str, body: &str| {
        request(&published.world.socket("admin"), "POST", path, body).ok();
    };
    let newest = |published: &Published| published.world.chain().last().unwrap().id();
    let junk =
        BTreeMap::from([(key(8), published.endorse("authd", Purpose::Access, 1)), (key(9), "{}".to_owned())]);
    for (name, text) in &junk {
        published.run(0, &["SET", name, text]);
    }
    let issuer = published.endorse("authd", Purpose::Access, 1);
    published.run(0, &["SET", &key(1), &issuer]);
    for number in [2, 3] {
        let text = published.endorse("edge", Purpose::Response, number);
        published.run(1, &["SET", &key(number), &text]);
    }

    // The taint is declared while no publisher runs, and hsmd starts anew before one does.
    publisher.stop();
    post(&published, "/taint", &format!("{{\"generationId\":\"{}\"}}", newest(&published)));
    hsmd.stop();
    let _hsmd = published.world.start();
    let fresh = published.endorse("edge", Purpose::Response, 3);
    published.run(1, &["SET", &key(3), &fresh]);
    let mut publisher = published.start();
    let rest = BTreeMap::from([(key(3), fresh)]);
    published.comes_to([&junk, &rest]);
    // Somebody puts it back.
    published.run(0, &["SET", &key(1), &issuer]);
    published.comes_to([&junk, &rest]);

    // A denial that is declared while the directory is away, and an entry that survives there.
    let denied = newest(&published);
    let text = published.endorse("edge", Purpose::Response, 4);
    published.world.rotate("{}");
    let folder = published.world.path().to_owned();
    published.redis.stop();
    post(&published, "/taint", &format!("{{\"generationId\":\"{denied}\"}}"));
    fs::remove_file(folder.join("redis.sock")).ok();
    published.redis = servers::redis(&folder);
    published.connection = connect(&published.redis);
    published.run(1, &["SET", &key(4), &text]);
    let none = BTreeMap::new();
    published.comes_to([&none, &none]);

    let issuer = published.endorse("authd", Purpose::Access, 5);
    published.run(0, &["SET", &key(5), &issuer]);
    let text = published.endorse("edge", Purpose::Response, 6);
    published.run(1, &["SET", &key(6), &text]);
    let later = published.endorse("authd", Purpose::Response, 7);
    published.run(1, &["SET", &key(7), &later]);
    post(&published, "/revoke-keys", &format!("{{\"publicKeys\":[\"{}\"]}}", key(5)));
    post(&published, "/revoke-service", "{\"service\":\"edge:demo\"}");
    published.comes_to([&none, &BTreeMap::from([(key(7), later)])]);

    let metrics = request(&published.world.socket("publisher"), "GET", "/metrics", "").ok();
    for cause in ["denied", "revoked", "tainted"] {
        assert!(
            metrics.contains(&format!("hsm_publisher_withdrawn_total{{cause=\"{cause}\"}}")),
            "{metrics}"
        );
    }
    published.run(0, &["SET", &key(9), "{}"]);
    published.run(3, &["FLUSHDB"]); // has everything read again
    crate::support::eventually("the count of what cannot be judged", SOON, || {
        let metrics = request(&published.world.socket("publisher"), "GET", "/metrics", "").ok();
        metrics.contains("hsm_publisher_entries_not_judged{database=\"0\"} 1")
    });
    publisher.stop();
}

/// A taint voids what was denied before: no verifier sees it without the head that states it anew.
#[test]
fn an_event_appears_together_with_its_head() {
    let mut published = Published::new();
    let _hsmd = published.world.start();
    let mut publisher = published.start();
    for _ in 0..5 {
        let answer: serde_json::Value = serde_json::from_str(&published.world.rotate("{}")).unwrap();
        let id = answer["newGenerationId"].as_str().unwrap().to_owned();
        crate::support::eventually("the event", SOON, || published.held().contains_key(&id));
        assert!(published.text(&id).is_some(), "the head of {id}");
    }
    publisher.stop();
}

/// A directory that deletes entries by itself is warned of.
#[test]
fn a_directory_that_evicts_is_warned_of() {
    let mut published = Published::new();
    let _hsmd = published.world.start();
    let page = |published: &Published, place: &str| {
        request(&published.world.socket("publisher"), "GET", place, "").body
    };
    for (policy, evicts) in [("noeviction", "0"), ("allkeys-lru", "1")] {
        published.run(0, &["CONFIG", "SET", "maxmemory-policy", policy]);
        let mut publisher = published.start();
        let (readiness, metrics) = (page(&published, "/readyz"), page(&published, "/metrics"));
        assert!(readiness.contains(&format!("directory_eviction: {policy}")), "{readiness}");
        assert!(metrics.contains(&format!("hsm_publisher_directory_evicts {evicts}\n")), "{metrics}");
        let log = publisher.log();
        assert_eq!(log.contains("may delete entries by itself"), evicts == "1", "{log}");
        publisher.stop();
    }
}

/// The head of a taint is carried whatever the publisher's own clock says: without it what was denied before is not.
#[test]
fn a_wrong_clock_keeps_no_head_back() {
    let mut published = Published::new();
    let mut hsmd = published.world.start();
    for offset in ["34560000000", "-34560000000"] {
        let file = published.world.path().join("clock");
        fs::write(&file, offset).unwrap();
        let environment = [(hsmd::clock::offset::VARIABLE, file.to_str().unwrap())];
        let mut publisher = published.spawn(&environment);
        publisher.ready().unwrap();
        published.states();
        published.world.rotate("{}");
        published.states();
        publisher.stop();
    }
    hsmd.stop();
}

/// A report is the publisher's own, bounded, and proves itself.
#[test]
fn a_report_comes_from_the_publisher_and_changes_nothing_by_itself() {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    let post = |socket: &str, body: &str| request(&world.socket(socket), "POST", "/published", body);
    let empty = "{\"events\":[],\"heads\":[],\"held\":0}";
    assert_eq!(post("publish", empty).ok(), "{\"finding\":\"nothing\"}");
    assert_eq!(post("publish", &empty.replace('0', "1")).ok(), "{\"finding\":\"agrees\"}");
    let own = format!("{{\"events\":[{}],\"heads\":[],\"held\":1}}", world.chain()[0].text());
    assert_eq!(post("publish", &own).ok(), "{\"finding\":\"agrees\"}");
    for socket in ["admin", "edge", "other"] {
        assert_eq!(post(socket, empty).status, 404, "{socket}");
    }
    for body in ["", "[]", "{}", &"x".repeat((1 << 20) + 1)] {
        let answer = post("publish", body);
        assert!(matches!(answer.code(), "BA101" | "BA105"), "{}", answer.code());
    }
    hsmd.stop();
}

impl Published {
    fn ask<T: redis::FromRedisValue>(&mut self, database: i64, command: &[&str]) -> T {
        redis::cmd("SELECT").arg(database).exec(&mut self.connection).unwrap();
        let (name, arguments) = command.split_first().unwrap();
        redis::cmd(name).arg(arguments).query(&mut self.connection).unwrap()
    }

    /// What hsmd endorses on that socket.
    fn endorse(&self, socket: &str, purpose: Purpose, number: u8) -> String {
        let body = sign_request(purpose, service_key(number), Duration::from_mins(30));
        let answer = request(&self.world.socket(socket), "POST", "/sign", &body).ok();
        answer.trim_end().to_owned()
    }

    /// Waits until databases 0 and 1 hold just these.
    fn comes_to(&mut self, wanted: [&BTreeMap<String, String>; 2]) {
        let start = std::time::Instant::now();
        loop {
            let held = [self.contents(0), self.contents(1)];
            if held.each_ref() == wanted {
                return;
            }
            assert!(start.elapsed() < SOON, "{held:?}");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    fn names(&mut self, database: i64) -> Vec<String> {
        self.ask(database, &["KEYS", "*"])
    }

    /// The head of an event in the directory.
    pub fn published_head(&self, event: &keychain::Digest) -> Option<String> {
        let mut connection = connect(&self.redis);
        redis::cmd("SELECT").arg(5).exec(&mut connection).unwrap();
        redis::cmd("GET").arg(event.to_string()).query(&mut connection).unwrap()
    }

    /// The names in database 4.
    pub fn event_names(&self) -> Vec<String> {
        let mut connection = connect(&self.redis);
        redis::cmd("SELECT").arg(4).exec(&mut connection).unwrap();
        redis::cmd("KEYS").arg("*").query(&mut connection).unwrap()
    }

    /// The text under a name of database 5; nothing for a value of another type.
    fn text(&mut self, name: &str) -> Option<String> {
        redis::cmd("SELECT").arg(5).exec(&mut self.connection).unwrap();
        redis::cmd("GET").arg(name).query(&mut self.connection).ok()
    }

    /// Waits until database 5 holds the newest head, byte for byte.
    fn states(&mut self) {
        let start = std::time::Instant::now();
        loop {
            let shown = request(&self.world.socket("edge"), "GET", "/statements", "").ok();
            let shown: Statements = serde_json::from_str(&shown).unwrap();
            let newest = self.world.chain().last().unwrap().id().to_string();
            let held = self.text(&newest);
            if held.as_deref() == Some(shown.head.get()) && shown.head.get().contains(&newest) {
                return;
            }
            assert!(start.elapsed() < SOON, "{held:?} {}", shown.head.get());
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
}

#[derive(serde::Deserialize)]
struct Statements {
    head: Box<serde_json::value::RawValue>,
}
