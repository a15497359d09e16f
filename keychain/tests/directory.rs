//! The key directory client against a real Redis server (`PROTOCOL.md#directory`).

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests assert by panicking"
)]

#[path = "directory/failover.rs"]
mod failover;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keychain::acknowledgement::Instance;
use keychain::directory::{Change, Changes, Db, Directory, ENTRIES_MAX, Error, Stands, VALUE_MAX};
use keychain::feed::Position;
use keychain::limits::{ACKNOWLEDGEMENT_MAX, HEAD_MAX};
use keychain::{Digest, Nonce, PublicKey, SigningKey};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

/// How long anything that should happen at once may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_hours(1);

/// A redis-server of the test's own, on a Unix socket in a directory of its own.
struct Redis {
    child: Child,
    dir: TempDir,
}

impl Redis {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let redis = Self { child: spawn(dir.path()), dir };
        redis.until_answering().await;
        redis
    }

    async fn restart(&mut self) {
        self.stop();
        self.child = spawn(self.dir.path());
        self.until_answering().await;
    }

    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    async fn until_answering(&self) {
        let directory = self.directory();
        timeout(SOON, async { while directory.ping().await.is_err() {} })
            .await
            .expect("redis-server answers");
    }

    fn url(&self) -> String {
        format!("unix://{}", self.dir.path().join("socket").display())
    }

    fn directory(&self) -> Directory {
        Directory::connect(&self.url()).unwrap()
    }

    /// A connection of somebody else, who waits for a busy server, to database `database`.
    async fn connection(&self, database: i64) -> redis::aio::MultiplexedConnection {
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(SOON));
        let client = redis::Client::open(format!("{}?db={database}", self.url())).unwrap();
        client.get_multiplexed_async_connection_with_config(&patient).await.unwrap()
    }

    /// A command as somebody else would give it, in database `database`.
    async fn command<T: redis::FromRedisValue>(&self, database: i64, words: &[&str]) -> T {
        let mut other = self.connection(database).await;
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut other).await.unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn(dir: &Path) -> Child {
    Command::new("redis-server")
        .args(["--port", "0", "--unixsocket", "socket", "--appendonly", "yes", "--save", ""])
        .current_dir(dir)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed")
}

/// A connection that follows changes as `PROTOCOL.md#directory-changes` says, without a client library.
struct Follower(UnixStream);

impl Follower {
    fn connect(redis: &Redis) -> Self {
        let stream = UnixStream::connect(redis.dir.path().join("socket")).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut follower = Self(stream);
        follower.ask("HELLO 3");
        follower.ask("CLIENT TRACKING ON BCAST PREFIX 1AAI PREFIX E");
        follower
    }

    /// How many pushes came since this was asked last: the server answers in order.
    fn pushes(&mut self) -> usize {
        self.ask("").split(|byte| *byte == b'>').count() - 1
    }

    /// Everything that comes until the command is answered.
    fn ask(&mut self, command: &str) -> Vec<u8> {
        let (end, mut answer) = (b"$4\r\nlast\r\n", Vec::new());
        self.0.write_all(format!("{command}\r\nECHO last\r\n").as_bytes()).unwrap();
        while !answer.ends_with(end) {
            let mut piece = [0; 4_096];
            let read = self.0.read(&mut piece).unwrap();
            assert!(read > 0, "the server hung up");
            answer.extend_from_slice(&piece[..read]);
        }
        answer
    }
}

fn key(number: u8) -> PublicKey {
    SigningKey::from_seed(&[number; 32]).unwrap().public_key()
}

fn digest(text: &str) -> Digest {
    Digest::of(text)
}

async fn next(changes: &mut Changes) -> Change {
    timeout(SOON, changes.next()).await.expect("a change arrives")
}

/// A stream that has said that it is connected.
async fn connected(redis: &Redis) -> Changes {
    let mut changes = redis.directory().changes();
    assert_eq!(next(&mut changes).await, Change::Reconnected);
    changes
}

#[tokio::test]
async fn endorsements_are_kept_apart_by_purpose_and_expire() {
    let redis = Redis::start().await;
    let directory = redis.directory();
    directory.publish(Db::Access, &key(1), "access", HOUR).await.unwrap();
    directory.publish(Db::Response, &key(1), "response", HOUR).await.unwrap();
    directory.publish(Db::Response, &key(2), "passing", Duration::from_millis(1)).await.unwrap();

    assert_eq!(directory.endorsement(Db::Access, &key(1)).await.unwrap().as_deref(), Some("access"));
    assert_eq!(directory.endorsement(Db::Response, &key(1)).await.unwrap().as_deref(), Some("response"));
    assert_eq!(directory.endorsement(Db::Access, &key(2)).await.unwrap(), None);
    let gone = async { while directory.endorsement(Db::Response, &key(2)).await.unwrap().is_some() {} };
    timeout(SOON, gone).await.expect("the entry expires");

    assert_eq!(redis.command::<String>(0, &["GET", &key(1).to_string()]).await, "access");
    let left: i64 = redis.command(1, &["TTL", &key(1).to_string()]).await;
    assert!((3590..=3600).contains(&left), "{left}");

    for (text, deleted) in [("another", false), ("access", true), ("access", false)] {
        let exactly = directory.withdraw_exactly(Db::Access, &key(1), text).await.unwrap();
        assert_eq!(exactly, deleted, "{text}");
    }
    directory.publish(Db::Access, &key(1), "access", HOUR).await.unwrap();
    assert!(directory.withdraw_exactly(Db::Response, &key(1), "response").await.unwrap());
    assert_eq!(directory.endorsement(Db::Response, &key(1)).await.unwrap(), None);
    assert_eq!(directory.endorsement(Db::Access, &key(1)).await.unwrap().as_deref(), Some("access"));
}

/// Heads stand in database 5, apart from everything that public peers list, one of each event.
#[tokio::test]
async fn heads_are_kept_apart_and_expire() {
    let redis = Redis::start().await;
    let directory = redis.directory();
    let mut changes = connected(&redis).await;
    let (first, second) = (digest("first"), digest("second"));
    directory.publish_head(&first, "older", HOUR).await.unwrap();
    assert_eq!(next(&mut changes).await, Change::Key(first.to_string()));
    directory.publish_head(&first, "head", HOUR).await.unwrap();
    directory.publish_head(&second, "passing", Duration::from_millis(1)).await.unwrap();
    let gone = async { while directory.head(&second).await.unwrap().is_some() {} };
    timeout(SOON, gone).await.expect("the entry expires");

    assert_eq!(directory.head(&first).await.unwrap().as_deref(), Some("head"));
    assert_eq!(directory.heads().await.unwrap(), ["head"]);
    assert_eq!(redis.command::<String>(5, &["GET", &first.to_string()]).await, "head");
    let left: i64 = redis.command(5, &["TTL", &first.to_string()]).await;
    assert!((3590..=3600).contains(&left), "{left}");
    for database in 0..5 {
        assert_eq!(redis.command::<i64>(database, &["DBSIZE"]).await, 0);
    }
    let longest = "x".repeat(HEAD_MAX);
    directory.publish_head(&first, &longest, HOUR).await.unwrap();
    assert_eq!(directory.heads().await.unwrap(), [longest]);
    for text in ["", &"x".repeat(HEAD_MAX + 1)] {
        let refused = directory.publish_head(&first, text, HOUR).await;
        assert!(matches!(refused, Err(Error::Unreadable { most: HEAD_MAX, .. })));
    }
}

#[tokio::test]
async fn an_event_and_its_head_appear_at_once() {
    let redis = Redis::start().await;
    let directory = redis.directory();
    let id = digest("event");
    directory.publish_event_with_head(&id, "event", "head", HOUR).await.unwrap();
    assert_eq!(directory.event(&id).await.unwrap().as_deref(), Some("event"));
    assert_eq!(directory.head(&id).await.unwrap().as_deref(), Some("head"));
    let left: i64 = redis.command(5, &["TTL", &id.to_string()]).await;
    assert!((3590..=3600).contains(&left), "{left}");
    // The connection is back in the chain's own database.
    directory.publish_event(&digest("next"), "next").await.unwrap();
    assert_eq!(redis.command::<i64>(4, &["DBSIZE"]).await, 2);
    assert_eq!(redis.command::<i64>(5, &["DBSIZE"]).await, 1);
    let refused = directory.publish_event_with_head(&id, "event", "", HOUR).await;
    assert!(matches!(refused, Err(Error::Unreadable { .. })));
}

#[tokio::test]
async fn whole_reads_page_through_everything_and_skip_what_does_not_belong() {
    let redis = Redis::start().await;
    let directory = redis.directory();
    let mut ids = BTreeSet::new();
    for number in 0..1500 {
        let text = format!("event {number}");
        directory.publish_event(&digest(&text), &text).await.unwrap();
        ids.insert(text);
    }
    let foreign = digest("too long").to_string();
    let listed = digest("another type").to_string();
    let binary = digest("not text").to_string();
    let long = "x".repeat(VALUE_MAX + 1);
    redis.command::<()>(4, &["SET", &foreign, &long]).await;
    redis.command::<()>(4, &["RPUSH", &listed, "x"]).await;
    redis.command::<()>(4, &["SETBIT", &binary, "0", "1"]).await;
    redis.command::<()>(4, &["SET", "Eels", "are not digests"]).await;
    redis.command::<()>(4, &["SET", &format!("{foreign}E"), "longer"]).await;

    let events = directory.events().await.unwrap();
    assert_eq!(events.iter().cloned().collect::<BTreeSet<_>>(), ids);
    assert_eq!(events.len(), ids.len(), "each once");

    for bad in ["too long", "not text"] {
        let error = directory.event(&digest(bad)).await.unwrap_err();
        assert!(matches!(error, Error::Unreadable { .. }), "{error}");
    }
    let error = directory.event(&digest("another type")).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert_eq!(directory.event(&digest("event 7")).await.unwrap().as_deref(), Some("event 7"));
    directory.withdraw_event(&digest("event 7")).await.unwrap();
    assert_eq!(directory.event(&digest("event 7")).await.unwrap(), None);

    let error = directory.publish_event(&digest("x"), &long).await.unwrap_err();
    assert!(matches!(error, Error::Unreadable { .. }), "{error}");
}

#[tokio::test]
async fn all_response_keys_come_sorted() {
    let redis = Redis::start().await;
    let directory = redis.directory();
    let mut expected = Vec::new();
    for number in [3, 1, 2] {
        directory.publish(Db::Response, &key(number), &format!("{number}"), HOUR).await.unwrap();
        expected.push((key(number).to_string(), number.to_string()));
    }
    directory.publish(Db::Access, &key(4), "another purpose", HOUR).await.unwrap();
    expected.sort();
    assert_eq!(directory.all_response().await.unwrap(), expected);
}

#[tokio::test]
async fn a_database_that_somebody_fills_is_refused() {
    let redis = Redis::start().await;
    let fill = format!(
        "for n = 1, {} do redis.call('SET', 'E' .. string.format('%043d', n), 'x') end",
        ENTRIES_MAX + 1
    );
    redis.command::<()>(4, &["EVAL", &fill, "0"]).await;
    let error = redis.directory().events().await.unwrap_err();
    assert!(matches!(error, Error::Full { most: ENTRIES_MAX }), "{error}");
}

#[tokio::test]
async fn one_of_many_racing_requests_reserves_a_key_and_may_repeat() {
    let redis = Redis::start().await;
    let directory = redis.directory();
    let mut racing = tokio::task::JoinSet::new();
    for number in 0..50 {
        let directory = if number % 2 == 0 { directory.clone() } else { redis.directory() };
        racing.spawn(async move {
            let request = digest(&format!("request {number}"));
            (number, directory.reserve(&digest("key"), &request, HOUR).await.unwrap())
        });
    }
    let outcomes = racing.join_all().await;
    let winners: Vec<_> = outcomes.iter().filter(|(_, won)| *won).map(|(number, _)| *number).collect();
    assert_eq!(winners.len(), 1);

    let again = digest(&format!("request {}", winners[0]));
    assert!(directory.reserve(&digest("key"), &again, HOUR).await.unwrap());
    assert!(!directory.reserve(&digest("key"), &digest("another"), HOUR).await.unwrap());
    let stored: String = redis.command(2, &["GET", &digest("key").to_string()]).await;
    assert_eq!(stored, again.to_string());
}

#[tokio::test]
async fn denials_last_as_long_as_the_longest_asked_for() {
    type Case<'a> = (&'a str, &'a [Option<Duration>], RangeInclusive<i64>);
    const MINUTE: Duration = Duration::from_mins(1);
    const SECOND: Duration = Duration::from_secs(1);
    let redis = Redis::start().await;
    let directory = redis.directory();
    let cases: [Case; 5] = [
        ("shorter after longer", &[Some(MINUTE), Some(SECOND)], 55_000..=60_000),
        ("longer after shorter", &[Some(SECOND), Some(MINUTE)], 55_000..=60_000),
        ("ban", &[None], -1..=-1),
        ("revocation after ban", &[None, Some(SECOND)], -1..=-1),
        ("ban after revocation", &[Some(SECOND), None], -1..=-1),
    ];
    for (who, asked, left) in &cases {
        for ttl in *asked {
            directory.revoke(&digest(who), *ttl).await.unwrap();
        }
        let pttl: i64 = redis.command(3, &["PTTL", &digest(who).to_string()]).await;
        assert!(left.contains(&pttl), "{who}: {pttl}");
        assert_eq!(redis.command::<String>(3, &["GET", &digest(who).to_string()]).await, "1");
    }
    let who: Vec<_> = cases.iter().map(|(who, ..)| digest(who)).collect();
    let mut sorted = who.clone();
    sorted.sort_by_key(ToString::to_string);
    assert_eq!(directory.all_revoked().await.unwrap(), sorted);

    directory.lift(&who[2]).await.unwrap();
    let asked = [who[0], who[2], digest("nobody"), who[4]];
    let found = directory.denials(&asked).await.unwrap();
    assert!(matches!(found[0], Some(Stands::Millis(55_000..=60_000))), "{found:?}");
    assert_eq!(found[1..], [None, None, Some(Stands::Forever)]);
    assert!(directory.denials(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn changes_of_every_database_are_pushed_whoever_makes_them() {
    let redis = Redis::start().await;
    let directory = redis.directory();
    let mut changes = connected(&redis).await;

    directory.publish(Db::Access, &key(1), "x", HOUR).await.unwrap();
    assert_eq!(next(&mut changes).await, Change::Key(key(1).to_string()));
    directory.publish_event(&digest("event"), "x").await.unwrap();
    assert_eq!(next(&mut changes).await, Change::Key(digest("event").to_string()));
    directory.revoke(&digest("device"), Some(Duration::from_millis(50))).await.unwrap();
    assert_eq!(next(&mut changes).await, Change::Key(digest("device").to_string()));
    assert_eq!(next(&mut changes).await, Change::Key(digest("device").to_string()), "its expiry");

    redis.command::<()>(7, &["SET", "Elsewhere", "not a name of the directory"]).await;
    redis.command::<()>(3, &["SET", &digest("raw").to_string(), "by hand"]).await;
    assert_eq!(next(&mut changes).await, Change::Key(digest("raw").to_string()));
    redis.command::<()>(0, &["FLUSHALL"]).await;
    assert_eq!(next(&mut changes).await, Change::Flushed);
}

#[tokio::test]
async fn a_batch_names_each_change_once() {
    let redis = Redis::start().await;
    let directory = redis.directory();
    let mut changes = connected(&redis).await;
    for round in 0..20 {
        for number in 1..=5 {
            directory.publish(Db::Response, &key(number), &format!("{round}"), HOUR).await.unwrap();
        }
    }
    directory.publish_event(&digest("last"), "x").await.unwrap();
    let last = Change::Key(digest("last").to_string());
    let mut seen = BTreeSet::new();
    while !seen.contains(&last) {
        seen.extend(timeout(SOON, changes.batch()).await.expect("a batch arrives"));
    }
    let mut expected: BTreeSet<_> = (1..=5).map(|number| Change::Key(key(number).to_string())).collect();
    expected.insert(last);
    assert_eq!(seen, expected);
}

/// A stream of changes, as a busy public auth server makes it, wakes a consumer fifty times a second at most.
#[tokio::test]
async fn a_stream_of_changes_comes_in_few_batches() {
    let redis = Redis::start().await;
    let mut changes = connected(&redis).await;
    let mut other = redis.connection(2).await;
    let begun = Instant::now();
    let write = async {
        for number in 0..2_000 {
            let name = digest(&number.to_string()).to_string();
            redis::cmd("SET").arg(name).arg("x").exec_async(&mut other).await.unwrap();
        }
    };
    let last = Change::Key(digest("1999").to_string());
    let read = async {
        let (mut batches, mut seen) = (0, BTreeSet::new());
        while !seen.contains(&last) {
            seen.extend(timeout(SOON, changes.batch()).await.expect("a batch arrives"));
            batches += 1;
        }
        (batches, seen.len())
    };
    let ((), (batches, seen)) = tokio::join!(write, read);
    assert_eq!(seen, 2_000);
    let most = begun.elapsed().as_millis() / 20 + 2;
    assert!(batches <= most, "{batches} batches, {most} at most");
}

#[tokio::test]
async fn a_consumer_that_was_slow_reads_everything_again() {
    let redis = Redis::start().await;
    let mut changes = connected(&redis).await;
    let mut other = redis.connection(0).await;
    let overflow = async {
        for number in 0..20_000 {
            let name = digest(&number.to_string()).to_string();
            redis::cmd("SET").arg(name).arg("x").exec_async(&mut other).await.unwrap();
        }
    };
    overflow.await;
    let told = async { while changes.next().await != Change::Reconnected {} };
    timeout(SOON, told).await.expect("the consumer is told");
}

#[tokio::test]
async fn a_restarted_server_is_found_again_by_calls_and_changes() {
    let mut redis = Redis::start().await;
    let directory = redis.directory();
    let mut changes = connected(&redis).await;
    directory.publish(Db::Response, &key(1), "kept", HOUR).await.unwrap();
    assert_eq!(next(&mut changes).await, Change::Key(key(1).to_string()));

    redis.stop();
    let error = directory.endorsement(Db::Response, &key(1)).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");

    redis.restart().await;
    let kept = directory.endorsement(Db::Response, &key(1)).await.unwrap();
    assert_eq!(kept.as_deref(), Some("kept"), "the first call after the outage succeeds");
    assert_eq!(next(&mut changes).await, Change::Reconnected);
    directory.publish(Db::Response, &key(2), "x", HOUR).await.unwrap();
    assert_eq!(next(&mut changes).await, Change::Key(key(2).to_string()));
}

/// An idle follower is pushed no acknowledgement and no nonce: their names begin with neither prefix that is tracked.
#[tokio::test]
async fn acknowledgements_and_nonces_wake_no_follower() {
    let redis = Redis::start().await;
    let directory = redis.directory();
    let mut changes = connected(&redis).await;
    let mut follower = Follower::connect(&redis);
    let mut nonces = redis.connection(8).await;
    for page in 0..10_u32 {
        let mut set = redis::pipe();
        for number in 0..1_000_u32 {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&(page * 1_000 + number).to_be_bytes());
            set.cmd("SET").arg(Nonce::from_bytes(bytes).to_string()).arg("x").arg("EX").arg(40).ignore();
        }
        let () = set.query_async(&mut nonces).await.unwrap();
    }
    let instances: Vec<_> = (0..500).map(|place| Instance::parse(&format!("E{place}")).unwrap()).collect();
    for instance in &instances {
        directory.acknowledge("edge:shop", instance, "text", HOUR).await.unwrap();
    }
    assert_eq!(follower.pushes(), 0);
    directory.publish(Db::Response, &key(1), "x", HOUR).await.unwrap();
    assert_eq!(follower.pushes(), 1, "the first");
    assert_eq!(next(&mut changes).await, Change::Key(key(1).to_string()), "the first that is heard");
    let who: Vec<_> = instances.iter().map(|instance| ("edge:shop", instance)).collect();
    let read = directory.acknowledgements(&who).await.unwrap();
    assert!(read.len() == 500 && read.iter().all(|one| one.as_deref() == Some("text")));
}

/// Whatever stands under a name, the others are read.
#[tokio::test]
async fn an_acknowledgement_that_cannot_be_read_hides_no_other() {
    let redis = Redis::start().await;
    let directory = redis.directory();
    let instances = ["a", "b", "c", "d"].map(|name| Instance::parse(name).unwrap());
    directory.acknowledge("authd", &instances[0], "good", HOUR).await.unwrap();
    redis.command::<i64>(7, &["LPUSH", "ack:authd:b", "x"]).await;
    redis.command::<String>(7, &["SET", "ack:authd:c", &"x".repeat(ACKNOWLEDGEMENT_MAX + 1)]).await;
    let who = instances.each_ref().map(|instance| ("authd", instance));
    let read = directory.acknowledgements(&who).await.unwrap();
    assert_eq!(read, [Some("good".to_owned()), None, None, None]);
}

#[tokio::test]
async fn a_connection_cut_between_two_calls_is_not_noticed() {
    let redis = Redis::start().await;
    let directory = redis.directory();
    let mut changes = connected(&redis).await;
    directory.publish(Db::Access, &key(1), "x", HOUR).await.unwrap();
    redis.command::<i64>(0, &["CLIENT", "KILL", "TYPE", "normal"]).await;
    assert_eq!(directory.endorsement(Db::Access, &key(1)).await.unwrap().as_deref(), Some("x"));
    let told = async { while changes.next().await != Change::Reconnected {} };
    timeout(SOON, told).await.expect("the stream reconnects");
}

#[tokio::test]
async fn a_server_that_hangs_costs_a_deadline() {
    let redis = Redis::start().await;
    let directory = redis.directory();
    directory.ping().await.unwrap();
    let mut other = redis.connection(0).await;
    redis::cmd("CLIENT").arg(&["PAUSE", "4000", "ALL"]).exec_async(&mut other).await.unwrap();
    let error = timeout(SOON, directory.ping()).await.expect("the call ends").unwrap_err();
    assert!(matches!(error, Error::Slow { operation: "ping" }), "{error}");
    timeout(SOON, async { while directory.ping().await.is_err() {} }).await.expect("it recovers");
}

#[tokio::test]
async fn nothing_is_needed_of_the_server_to_open_and_no_address_is_repeated() {
    for bad in ["", "redis", "http://127.0.0.1", "redis://"] {
        let error = Directory::connect(bad).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Address(_)), "{bad}: {error}");
    }
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let directory = Directory::connect(&format!("redis://user:secret@127.0.0.1:{port}")).unwrap();
    let error = directory.ping().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    let changes = directory.changes();
    for printed in [format!("{error:?}"), format!("{directory:?}"), format!("{changes:?}")] {
        assert!(!printed.contains("secret"), "{printed}");
    }
}

#[tokio::test]
async fn tls_is_spoken_where_the_address_asks_for_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("rediss://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let greeting = tokio::task::spawn_blocking(move || {
        let mut record = [0; 3];
        listener.accept().unwrap().0.read_exact(&mut record).unwrap();
        record
    });
    let (error, record) = (Directory::connect(&url).unwrap().ping().await, greeting.await.unwrap());
    assert_eq!(record, [0x16, 3, 1], "a TLS handshake record");
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn the_denial_feed_is_pushed_once_a_batch_and_read_without_holes() {
    let redis = Redis::start().await;
    let directory = redis.directory();
    let identity = digest("prefix");
    let mut changes = connected(&redis).await;
    let place = |number| Position { epoch: 7, number };
    let chunks: Vec<_> = (0..40).map(|number| (digest(&number.to_string()), number.to_string())).collect();
    let digests: Vec<Digest> = chunks.iter().map(|(digest, _)| *digest).collect();
    assert!(!directory.has_chunks(&digests).await.unwrap() && directory.has_chunks(&[]).await.unwrap());
    directory.publish_chunks(&chunks).await.unwrap();
    directory.publish_snapshot(&identity, "snapshot at 3").await.unwrap();
    let newest = Change::Key(keychain::feed::name(&identity).to_string());
    assert_eq!(next(&mut changes).await, newest);
    for number in [4, 5, 7] {
        directory.publish_batch(&identity, place(number), &format!("batch {number}")).await.unwrap();
        assert_eq!(next(&mut changes).await, newest);
    }
    directory.publish_batch(&digest("other"), Position { epoch: 8, number: 6 }, "other").await.unwrap();
    assert_eq!(next(&mut changes).await, Change::Key(keychain::feed::name(&digest("other")).to_string()));

    assert_eq!(directory.newest_of_feed(&identity).await.unwrap().as_deref(), Some("batch 7"));
    assert_eq!(directory.snapshot().await.unwrap().as_deref(), Some("snapshot at 3"));
    assert_eq!(directory.batches(place(4), 16).await.unwrap(), ["batch 4", "batch 5"]);
    assert_eq!(directory.batches(place(4), 1).await.unwrap(), ["batch 4"]);
    assert!(directory.batches(place(6), 16).await.unwrap().is_empty());
    assert!(directory.has_chunks(&digests).await.unwrap());
    redis.command::<i64>(6, &["DEL", &format!("chunk:{}", digests[20])]).await;
    assert!(!directory.has_chunks(&digests).await.unwrap());
    let read = directory.chunks(&digests).await.unwrap();
    let found = |index: usize| read[index].as_deref();
    assert_eq!((read.len(), found(0), found(20), found(39)), (40, Some("0"), None, Some("39")));

    let long = "x".repeat(keychain::limits::FEED_VALUE_MAX + 1);
    assert!(directory.publish_batch(&identity, place(8), &long).await.is_err());
    redis.command::<()>(6, &["SET", "batch:7:5", &long]).await;
    assert_eq!(directory.batches(place(4), 16).await.unwrap(), ["batch 4"]);
    let left: i64 = redis.command(6, &["TTL", "batch:7:4"]).await;
    assert!((89_900..=90_000).contains(&left), "{left}");
}
