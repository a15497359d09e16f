//! The key directory: a client for the Redis databases that services share
//! ([PROTOCOL.md#directory](../../PROTOCOL.md#directory)).
//!
//! What it is: names, databases, expiry and bounds, in one place, for whoever publishes or reads.
//!
//! What it is not: a judge. It carries texts; an endorsement or an event read here proves nothing until the
//! caller has verified it. It is the only part of this crate that does IO, and nothing else here imports it.
//!
//! Invariants:
//! - every call ends within [`CALL_DEADLINE`] ([`SCAN_DEADLINE`] where a whole database is read);
//! - no value longer than [`VALUE_MAX`] (a head: [`HEAD_MAX`], the denial feed: [`FEED_VALUE_MAX`]) and no foreign name crosses the wire: the server cuts and filters;
//! - every call may be repeated: a call whose connection broke, or whose server answered that it is a replica or cannot
//!   serve now, is tried once more on a new connection, for which the name is resolved again.
//!
//! It needs Redis 7 or later (`PEXPIRE … GT`) and no configuration of the server.

mod acknowledgements;
mod changes;
mod error;
mod feed;
mod lane;
mod read;
mod role;
mod server;
mod statements;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{Client, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};

use crate::cesr::{Digest, PublicKey};
use crate::limits::{ACKNOWLEDGEMENT_MAX, FEED_VALUE_MAX, HEAD_MAX};

pub use changes::{BATCH_MAX, Change, Changes, Following};
pub use error::{Cause, Error};
use lane::Lane;
pub use lane::{CALL_DEADLINE, CONNECT_DEADLINE, REPLY_DEADLINE};
pub use read::{Cursor, ENTRIES_MAX, NAMES_PER_PAGE, REVOKED_MAX, SCAN_DEADLINE, VALUE_MAX};
pub use server::{History, Retention, Server, Stands};

/// A directory of endorsements, chosen by what the endorsed key signs
/// ([PROTOCOL.md#directory](../../PROTOCOL.md#directory)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Db {
    /// Database 0: keys that sign access tokens.
    Access,
    /// Database 1: keys that sign responses.
    Response,
}

/// A handle on the key directory. Clones share their connections; each database gets its own when it is
/// first used. Opening one does not connect: a daemon may start while the directory is down.
#[derive(Clone)]
pub struct Directory {
    lanes: Arc<Lanes>,
}

impl Directory {
    /// Takes the address, `redis://[user:password@]host:port`, `rediss://…` for TLS, or
    /// `unix:///path/to/socket`, without connecting to it.
    pub fn connect(url: &str) -> Result<Self, Error> {
        let info = url.into_connection_info().map_err(Error::address)?;
        if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            // rustls panics at the first connection if nobody said which cryptography to use. If somebody
            // has, theirs stays.
            let _theirs = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let open = |settings: RedisConnectionInfo| {
            Client::open(info.clone().set_redis_settings(settings)).map_err(Error::address)
        };
        let lane = |database: i64, value_max| {
            let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
            open(settings.set_db(database)).map(|client| Lane::new(client, value_max))
        };
        let lanes = Lanes {
            access: lane(0, VALUE_MAX)?,
            response: lane(1, VALUE_MAX)?,
            spent: lane(2, VALUE_MAX)?,
            revoked: lane(3, VALUE_MAX)?,
            chain: lane(CHAIN, VALUE_MAX)?,
            statements: lane(STATEMENTS, HEAD_MAX)?,
            denials: lane(DENIALS, FEED_VALUE_MAX)?,
            acknowledgements: lane(ACKNOWLEDGEMENTS, ACKNOWLEDGEMENT_MAX)?,
            // Pushes need RESP3, and come for every database whichever this one is. Database 0 is not selected, so that a
            // client that may not read another one hears of changes all the same.
            feed: open(info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3).set_db(0))?,
        };
        Ok(Self { lanes: Arc::new(lanes) })
    }

    /// Whether the directory answers.
    pub async fn ping(&self) -> Result<(), Error> {
        self.lanes.chain.run("ping", redis::pipe().cmd("PING").ignore()).await
    }

    /// Empties every database. What its owners keep elsewhere comes back by itself; the rest is gone.
    pub async fn empty(&self) -> Result<(), Error> {
        self.lanes.chain.run("empty the directory", redis::pipe().cmd("FLUSHALL").ignore()).await
    }

    /// Publishes an endorsement, as it stands, under the key that it endorses. It disappears after `ttl`.
    pub async fn publish(&self, db: Db, key: &PublicKey, text: &str, ttl: Duration) -> Result<(), Error> {
        read::bounded(self.endorsements(db), &key.to_string(), text)?;
        let mut set = redis::pipe();
        set.cmd("SET").arg(key.to_string()).arg(text).arg("PX").arg(millis(ttl)).ignore();
        self.endorsements(db).run("publish an endorsement", &set).await
    }

    /// Takes an endorsement out of the directory if it still stands there as `text`: another one of the same key may have
    /// taken its place. True if it was taken out.
    pub async fn withdraw_exactly(&self, db: Db, key: &PublicKey, text: &str) -> Result<bool, Error> {
        let mut delete = redis::pipe();
        delete.cmd("EVAL").arg(DELETE_EXACTLY).arg(1).arg(key.to_string()).arg(text);
        let (deleted,): (i64,) = self.endorsements(db).run("withdraw an endorsement", &delete).await?;
        Ok(deleted > 0)
    }

    /// The endorsement of one key, unverified.
    pub async fn endorsement(&self, db: Db, key: &PublicKey) -> Result<Option<String>, Error> {
        read::one(self.endorsements(db), "read an endorsement", &key.to_string()).await
    }

    /// The endorsements of these keys, unverified, in their order; nothing for one that is not there or cannot be read.
    pub async fn endorsements_of(&self, db: Db, keys: &[PublicKey]) -> Result<Vec<Option<String>>, Error> {
        let names = keys.iter().map(PublicKey::to_string).collect();
        read::each(self.endorsements(db), "read endorsements", names).await
    }

    /// The same by names that were announced: whether one is a key at all is seldom worth finding out, for most of them
    /// are of another database.
    pub async fn endorsements_named(&self, db: Db, names: Vec<String>) -> Result<Vec<Option<String>>, Error> {
        read::each(self.endorsements(db), "read endorsements", names).await
    }

    /// One page of a database's keys with their endorsements, unverified, some five hundred of them; nothing in place of a
    /// value that cannot be read. `at` goes on to the next page; there is none once all were read. An entry may come
    /// twice; one that is there all the time comes.
    pub async fn page(
        &self,
        db: Db,
        at: &mut Cursor,
    ) -> Result<Option<Vec<(String, Option<String>)>>, Error> {
        read::page_of(self.endorsements(db), "read a page of endorsements", read::Name::Key, at).await
    }

    /// Every access key with its endorsement, as [`Self::all_response`] reads those of responses.
    pub async fn all_access(&self) -> Result<Vec<(String, String)>, Error> {
        read::all(&self.lanes.access, "read all access endorsements", read::Name::Key).await
    }

    /// Every response key with its endorsement, unverified, sorted by key. An entry that cannot be one (too
    /// long, not text, another name) is left out: it must not hide the others.
    pub async fn all_response(&self) -> Result<Vec<(String, String)>, Error> {
        read::all(&self.lanes.response, "read all endorsements", read::Name::Key).await
    }

    /// Publishes one event of the HSM chain, for good, under its id.
    pub async fn publish_event(&self, id: &Digest, text: &str) -> Result<(), Error> {
        read::bounded(&self.lanes.chain, &id.to_string(), text)?;
        let mut set = redis::pipe();
        set.cmd("SET").arg(id.to_string()).arg(text).ignore();
        self.lanes.chain.run("publish an event", &set).await
    }

    /// Takes one event out of the directory: public verifiers fail on a chain that shows a branch that did
    /// not survive ([PROTOCOL.md#contested](../../PROTOCOL.md#contested)).
    pub async fn withdraw_event(&self, id: &Digest) -> Result<(), Error> {
        let mut delete = redis::pipe();
        delete.cmd("DEL").arg(id.to_string()).ignore();
        self.lanes.chain.run("withdraw an event", &delete).await
    }

    /// One published event, unverified.
    pub async fn event(&self, id: &Digest) -> Result<Option<String>, Error> {
        read::one(&self.lanes.chain, "read an event", &id.to_string()).await
    }

    /// These events, unverified, in their order; nothing for one that is not there or cannot be read.
    pub async fn events_of(&self, ids: &[Digest]) -> Result<Vec<Option<String>>, Error> {
        let names = ids.iter().map(Digest::to_string).collect();
        read::each(&self.lanes.chain, "read events", names).await
    }

    /// Every published event, unverified, in no order that means anything. Unreadable entries are left out.
    pub async fn events(&self) -> Result<Vec<String>, Error> {
        let entries = read::all(&self.lanes.chain, "read all events", read::Name::Digest).await?;
        Ok(entries.into_iter().map(|(_, text)| text).collect())
    }

    /// Reserves the digest of a revealed access key for one request. True if this request holds it, whether
    /// by this call or by an earlier one; false if another request does.
    pub async fn reserve(&self, key: &Digest, request: &Digest, ttl: Duration) -> Result<bool, Error> {
        let (key, request) = (key.to_string(), request.to_string());
        let mut reserve = redis::pipe();
        reserve.cmd("SET").arg(&key).arg(&request).arg("NX").arg("PX").arg(millis(ttl)).ignore();
        reserve.cmd("GET").arg(&key);
        let (holder,): (Option<String>,) = self.lanes.spent.run("reserve an access key", &reserve).await?;
        Ok(holder.as_deref() == Some(request.as_str()))
    }

    /// Denies a device or an identity to every edge: for `ttl`, or until lifted if there is none. A shorter
    /// denial never cuts a longer one short.
    pub async fn revoke(&self, who: &Digest, ttl: Option<Duration>) -> Result<(), Error> {
        self.revoke_all(&[(*who, ttl)]).await
    }

    /// The same for many.
    pub async fn revoke_all(&self, all: &[(Digest, Option<Duration>)]) -> Result<(), Error> {
        for page in all.chunks(NAMES_PER_PAGE) {
            let mut set = redis::pipe();
            for (who, ttl) in page {
                deny(&mut set, &who.to_string(), *ttl);
            }
            self.lanes.revoked.run::<()>("revoke", &set).await?;
        }
        Ok(())
    }

    /// Denies for exactly `ttl`, or until lifted, whatever denial there was.
    pub async fn deny_exactly(&self, who: &Digest, ttl: Option<Duration>) -> Result<(), Error> {
        let mut set = redis::pipe();
        let command = set.cmd("SET").arg(who.to_string()).arg(DENIED);
        if let Some(ttl) = ttl {
            command.arg("PX").arg(millis(ttl));
        }
        command.ignore();
        self.lanes.revoked.run("replace a revocation", &set).await
    }

    /// Ends a denial.
    pub async fn lift(&self, who: &Digest) -> Result<(), Error> {
        let mut delete = redis::pipe();
        delete.cmd("DEL").arg(who.to_string()).ignore();
        self.lanes.revoked.run("lift a revocation", &delete).await
    }

    /// Every denied device and identity, sorted.
    pub async fn all_revoked(&self) -> Result<Vec<Digest>, Error> {
        let names = read::names(&self.lanes.revoked, "read all revocations", REVOKED_MAX).await?;
        Ok(names.iter().filter_map(|name| Digest::parse(name).ok()).collect())
    }

    /// How many entries were met that cannot be read (too long, no text, of another type), each as often as it was.
    pub fn unreadable(&self) -> u64 {
        let Lanes { access, response, chain, statements, denials, acknowledgements, .. } = &*self.lanes;
        [access, response, chain, statements, denials, acknowledgements].map(Lane::unreadable).iter().sum()
    }

    /// What changes in the directory from now on, whoever changes it, expiries included.
    pub fn changes(&self) -> Changes {
        Changes::new(Arc::clone(&self.lanes))
    }

    fn endorsements(&self, db: Db) -> &Lane {
        match db {
            Db::Access => &self.lanes.access,
            Db::Response => &self.lanes.response,
        }
    }
}

/// Denies for `ttl` or longer.
fn deny(commands: &mut redis::Pipeline, who: &str, ttl: Option<Duration>) {
    if let Some(ttl) = ttl {
        // In this order no expiry can fall between the two: what PEXPIRE finds, it leaves at `ttl` or more.
        commands.cmd("PEXPIRE").arg(who).arg(millis(ttl)).arg("GT").ignore();
        commands.cmd("SET").arg(who).arg(DENIED).arg("NX").arg("PX").arg(millis(ttl)).ignore();
    } else {
        commands.cmd("SET").arg(who).arg(DENIED).ignore();
    }
}

/// Prints no address: it may hold a password.
impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Directory")
    }
}

struct Lanes {
    access: Lane,
    response: Lane,
    spent: Lane,
    revoked: Lane,
    chain: Lane,
    statements: Lane,
    denials: Lane,
    acknowledgements: Lane,
    feed: Client,
}

impl Lanes {
    /// Lets every database's next call make a new connection.
    async fn renew(&self) {
        for lane in [
            &self.access,
            &self.response,
            &self.spent,
            &self.revoked,
            &self.chain,
            &self.statements,
            &self.denials,
            &self.acknowledgements,
        ] {
            lane.renew().await;
        }
    }
}

/// The databases of events, of heads, of the denial feed, and of acknowledgements.
const CHAIN: i64 = 4;
const STATEMENTS: i64 = 5;
const DENIALS: i64 = 6;
const ACKNOWLEDGEMENTS: i64 = 7;

/// Deletes the entry of a name if it is the one that was read.
const DELETE_EXACTLY: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// The value of a denial: peers test only that there is one.
const DENIED: &str = "1";

/// Redis refuses an expiry of nothing; what should already be gone goes in a millisecond.
fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX >> 1).clamp(1, i64::MAX.unsigned_abs() >> 1)
}
