//! What is declared beside the chain: denied generations, revoked keys and services (`PROTOCOL.md#statements`).
//!
//! Rows are never deleted when they end: a clock that was wrong for a moment would lose them. A head leaves out what
//! has ended when it is signed.

use keychain::{Digest, PublicKey, Timestamp};
use sea_orm::{ConnectionTrait, QueryResult};

use super::{
    Error,
    sql::{self, number, stored},
};

/// Most revoked keys and services that have not ended: as many as a head lists.
pub const REVOKED_MAX: usize = keychain::limits::REVOKED_KEYS_MAX;

/// What is declared.
#[derive(Clone, Debug)]
pub enum Declaration {
    /// A generation is compromised. One that is denied already keeps its times.
    Deny(Entry<Digest>),
    /// Keys of services are compromised, all or none. Those that are revoked already keep their times.
    RevokeKeys {
        /// The keys.
        keys: Vec<PublicKey>,
        /// Since when.
        since: Timestamp,
        /// When no endorsement of them can count any more.
        end: Timestamp,
    },
    /// A service is compromised: every endorsement that it may have is revoked, and it gets no more until it is opened.
    RevokeService {
        /// Its name.
        service: String,
        /// Endorsements up to this number at least; what was given out here counts in any case.
        up_to: u64,
        /// Since when.
        since: Timestamp,
        /// When none of them can count any more.
        end: Timestamp,
    },
    /// A service is to replace every key that it may have endorsed; those stay good.
    RollService {
        /// Its name.
        service: String,
        /// Since when.
        since: Timestamp,
        /// When the last of them has ended.
        end: Timestamp,
    },
    /// A service that was revoked may have endorsements again; those that were revoked stay so.
    OpenService {
        /// Its name.
        service: String,
    },
}

/// What is stated beside the chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stated {
    /// Denied generations, in the order in which they were denied.
    pub denied: Vec<Entry<Digest>>,
    /// Revoked keys, in the order in which they were revoked.
    pub revoked: Vec<Entry<PublicKey>>,
    /// Revoked services, by name.
    pub services: Vec<RevokedService>,
    /// Services that are to replace their keys, by name.
    pub rolls: Vec<RolledService>,
}

/// A denial or a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// What is denied or revoked.
    pub subject: T,
    /// Since when.
    pub since: Timestamp,
    /// When it no longer matters.
    pub end: Timestamp,
}

/// A service that was revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedService {
    /// Its name.
    pub service: String,
    /// The highest number of a revoked endorsement.
    pub endorsed_up_to: u64,
    /// Since when.
    pub since: Timestamp,
    /// When none of these can count any more.
    pub end: Timestamp,
    /// Whether it still gets no endorsement.
    pub closed: bool,
}

/// A service that was ordered to replace its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolledService {
    /// Its name.
    pub service: String,
    /// The highest number of an endorsement whose key is to be replaced.
    pub endorsed_up_to: u64,
    /// When the last of these has ended.
    pub end: Timestamp,
}

/// Declares `what`, while endorsement numbers up to `mark` may have been given out. Answers the mark then.
pub(super) async fn declare(on: &impl ConnectionTrait, what: &Declaration, mark: u64) -> Result<u64, Error> {
    match what {
        Declaration::Deny(entry) => {
            const DENY: &str = "INSERT INTO denials (generation_id, since, ends_at) VALUES ($1, $2, $3) \
                                ON CONFLICT (generation_id) DO NOTHING";
            let times = [entry.since.unix_millis().into(), entry.end.unix_millis().into()];
            sql::execute(on, DENY, [vec![entry.subject.to_string().into()], times.to_vec()].concat()).await?;
            demand_bound(
                open(on, "denials", entry.since).await?,
                "denied generations",
                keychain::limits::DENIED_MAX,
            )?;
            Ok(mark)
        }
        Declaration::RevokeKeys { keys, since, end } => {
            const REVOKE: &str = "INSERT INTO revoked_keys (public_key, since, ends_at) VALUES ($1, $2, $3) \
                                  ON CONFLICT (public_key) DO NOTHING";
            for key in keys {
                let values = [key.to_string().into(), since.unix_millis().into(), end.unix_millis().into()];
                sql::execute(on, REVOKE, values).await?;
            }
            demand_room_for_revoked(on, *since).await?;
            Ok(mark)
        }
        Declaration::RevokeService { service, up_to, since, end } => {
            let up_to = mark.max(*up_to);
            revoke_service(on, service, up_to, (*since, *end)).await?;
            demand_room_for_revoked(on, *since).await?;
            Ok(up_to)
        }
        Declaration::RollService { service, since, end } => {
            const ROLL: &str = "INSERT INTO rolled_services (service, endorsed_up_to, since, ends_at) \
                                VALUES ($1, $2, $3, $4) ON CONFLICT (service) DO UPDATE SET \
                                endorsed_up_to = excluded.endorsed_up_to, since = excluded.since, \
                                ends_at = excluded.ends_at";
            let times = [since.unix_millis().into(), end.unix_millis().into()];
            let values = [vec![service.clone().into(), stored(mark)?.into()], times.to_vec()].concat();
            sql::execute(on, ROLL, values).await?;
            let most = keychain::limits::REVOKED_SERVICES_MAX;
            demand_bound(open(on, "rolled_services", *since).await?, "services that are to roll", most)?;
            Ok(mark)
        }
        Declaration::OpenService { service } => {
            let opened = "UPDATE revoked_services SET closed = 0 WHERE service = $1";
            sql::execute(on, opened, [service.clone().into()]).await?;
            Ok(mark)
        }
    }
}

async fn revoke_service(
    on: &impl ConnectionTrait,
    service: &str,
    up_to: u64,
    (since, end): (Timestamp, Timestamp),
) -> Result<(), Error> {
    const REVOKE: &str = "INSERT INTO revoked_services (service, endorsed_up_to, since, ends_at, closed) \
                          VALUES ($1, $2, $3, $4, 1) ON CONFLICT (service) DO UPDATE SET \
                          endorsed_up_to = excluded.endorsed_up_to, since = excluded.since, \
                          ends_at = excluded.ends_at, closed = 1";
    let values = [
        service.to_owned().into(),
        stored(up_to)?.into(),
        since.unix_millis().into(),
        end.unix_millis().into(),
    ];
    sql::execute(on, REVOKE, values).await?;
    Ok(())
}

async fn demand_room_for_revoked(on: &impl ConnectionTrait, since: Timestamp) -> Result<(), Error> {
    let keys = open(on, "revoked_keys", since).await?;
    let services = open(on, "revoked_services", since).await?;
    demand_bound(keys.saturating_add(services), "revoked keys and services", REVOKED_MAX)
}

async fn open(on: &impl ConnectionTrait, table: &str, at: Timestamp) -> Result<u64, Error> {
    let count = format!("SELECT COUNT(*) AS open_rows FROM {table} WHERE ends_at > $1");
    let row = sql::one(on, &count, [at.unix_millis().into()]).await?;
    row.map_or(Ok(0), |row| Ok(number(row.try_get("", "open_rows")?)))
}

fn demand_bound(open: u64, what: &'static str, most: usize) -> Result<(), Error> {
    if usize::try_from(open).is_ok_and(|open| open <= most) {
        Ok(())
    } else {
        Err(Error::Full { what, most })
    }
}

/// Reads what is stated.
pub(super) async fn stated(on: &impl ConnectionTrait) -> Result<Stated, Error> {
    const DENIED: &str =
        "SELECT generation_id AS subject, since, ends_at FROM denials ORDER BY since, generation_id";
    const REVOKED: &str =
        "SELECT public_key AS subject, since, ends_at FROM revoked_keys ORDER BY since, public_key";
    const SERVICES: &str =
        "SELECT service, endorsed_up_to, since, ends_at, closed FROM revoked_services ORDER BY service";
    const ROLLS: &str = "SELECT service, endorsed_up_to, ends_at FROM rolled_services ORDER BY service";
    let denied = sql::all(on, DENIED, []).await?;
    let denied = denied.iter().map(|row| entry(row, "denials", |text| Digest::parse(text).ok()));
    let denied = denied.collect::<Result<_, _>>()?;
    let revoked = sql::all(on, REVOKED, []).await?;
    let revoked = revoked.iter().map(|row| entry(row, "revoked_keys", |text| PublicKey::parse(text).ok()));
    let revoked = revoked.collect::<Result<_, _>>()?;
    let services = sql::all(on, SERVICES, []).await?;
    let services = services.iter().map(service).collect::<Result<_, _>>()?;
    let rolls = sql::all(on, ROLLS, []).await?;
    let rolls = rolls.iter().map(rolled).collect::<Result<_, _>>()?;
    Ok(Stated { denied, revoked, services, rolls })
}

fn rolled(row: &QueryResult) -> Result<RolledService, Error> {
    Ok(RolledService {
        service: row.try_get("", "service")?,
        endorsed_up_to: number(row.try_get("", "endorsed_up_to")?),
        end: time(row, "ends_at")?,
    })
}

fn entry<T>(
    row: &QueryResult,
    table: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Entry<T>, Error> {
    let subject: String = row.try_get("", "subject")?;
    let subject = parse(&subject).ok_or(Error::Unreadable { table })?;
    Ok(Entry { subject, since: time(row, "since")?, end: time(row, "ends_at")? })
}

fn service(row: &QueryResult) -> Result<RevokedService, Error> {
    let closed: i64 = row.try_get("", "closed")?;
    Ok(RevokedService {
        service: row.try_get("", "service")?,
        endorsed_up_to: number(row.try_get("", "endorsed_up_to")?),
        since: time(row, "since")?,
        end: time(row, "ends_at")?,
        closed: closed != 0,
    })
}

fn time(row: &QueryResult, column: &str) -> Result<Timestamp, Error> {
    Ok(Timestamp::from_unix_millis(row.try_get("", column)?))
}
