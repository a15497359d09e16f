//! Who writes: one hsmd of those on a ledger.
//!
//! The fence is a number in the ledger that grows with each holder; every transaction that writes checks it first, so
//! that a holder which was stopped for a while writes nothing after another took over.
//!
//! On SQLite the lease is a lock on a file beside the database: it ends with the process and with nothing else. On
//! PostgreSQL it is a lock of a session, which ends with the connection, and a beat in the ledger for a holder whose
//! connection is dead without the database knowing. No clock that can be set is asked.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend};

use super::{Error, connect, sql};

/// How often the holder beats (PostgreSQL).
const BEAT: Duration = Duration::from_secs(2);

/// How long a standby must have seen the same beat before it takes over.
const SILENCE: Duration = Duration::from_secs(10);

/// How long a holder that cannot beat still counts itself as the holder: less than [`SILENCE`].
const UNHEARD_MAX: Duration = Duration::from_secs(8);

/// How long a start waits for the lock of a process that may only just be ending (SQLite).
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);

/// The session lock's number, which is none of another application's: "keelhsmd".
const SESSION_LOCK: i64 = 0x6b65_656c_6873_6d64;

/// This process as a lease names it.
pub(super) fn holder() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{} (process {})", host.trim(), std::process::id())
}

/// The lease as this process has it, or tries to.
pub(super) struct Lease {
    kind: Kind,
    holder: String,
    fence: Option<i64>,
}

enum Kind {
    File { path: PathBuf, lock: Option<File> },
    Session { url: String, session: Option<Session>, seen: Option<Seen> },
}

/// The connection whose session has the lock, and its beat.
struct Session {
    database: DatabaseConnection,
    beating: Option<tokio::task::JoinHandle<()>>,
    lost: Arc<AtomicBool>,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(beating) = &self.beating {
            beating.abort();
        }
    }
}

/// A beat of another holder, and since when nothing else was seen.
struct Seen {
    fence: i64,
    beat: i64,
    since: Instant,
}

/// How an attempt to take the lease ended.
pub(super) enum Attempt {
    Taken,
    /// Another has it.
    Held(String),
}

impl Lease {
    pub(super) fn new(url: &str, holder: String) -> Self {
        let kind = match connect::sqlite_path(url) {
            Some(path) => {
                let mut name = path.into_os_string();
                name.push(".lease");
                Kind::File { path: PathBuf::from(name), lock: None }
            }
            None => Kind::Session { url: url.to_owned(), session: None, seen: None },
        };
        Self { kind, holder, fence: None }
    }

    /// The fence that transactions check; nothing while another may have the lease.
    pub(super) fn fence(&self) -> Option<i64> {
        let lost = match &self.kind {
            Kind::File { .. } => false,
            Kind::Session { session, .. } => {
                session.as_ref().is_none_or(|session| session.lost.load(Ordering::Relaxed))
            }
        };
        self.fence.filter(|_| !lost)
    }

    /// Forgets that it was held: the fence is another's.
    pub(super) fn lose(&mut self) {
        self.fence = None;
        match &mut self.kind {
            Kind::File { lock, .. } => *lock = None,
            Kind::Session { session, seen, .. } => (*session, *seen) = (None, None),
        }
    }

    /// Takes the lease if no other process has it, and makes every fence before void. On an operator's word it is taken from
    /// a holder that lives, which is fenced by that; but not from the process that has locked the file.
    pub(super) async fn take(
        &mut self,
        on: &DatabaseConnection,
        (patience, by_word): (Duration, bool),
    ) -> Result<Attempt, Error> {
        const TAKE: &str = "UPDATE lease SET fence = fence + 1, beat = beat + 1, holder = $1, locked = $4 \
                            WHERE id = 1 AND fence = $2 \
                            AND (beat = $3 OR $5 = 1 OR ($4 = 1 AND (locked = 1 OR holder = '')))";
        self.fence = None;
        let (free, seen) = match &mut self.kind {
            Kind::File { path, lock } => {
                let deadline = Instant::now() + patience;
                if lock.is_none() {
                    *lock = lock_file(path, &self.holder, deadline).await?;
                }
                (lock.is_some(), None)
            }
            Kind::Session { url, session, seen } => {
                let known = match session.take().filter(|known| !known.lost.load(Ordering::Relaxed)) {
                    Some(known) => known,
                    None => Session {
                        database: connect::connect(url, 1).await?,
                        beating: None,
                        lost: Arc::default(),
                    },
                };
                let locked = try_session_lock(&known.database).await?;
                *session = Some(known);
                (locked, Some(seen))
            }
        };
        let Row { fence, beat, holder: other, locked } = row(on).await?;
        let by_word = by_word && seen.is_some();
        let silent = seen.is_some_and(|seen| is_silent(seen, fence, beat));
        // One that took over from a silent holder may not have the session's lock yet, and is no less the holder.
        let ended = free && (locked || other.is_empty());
        if !ended && !silent && !by_word {
            self.unlock().await;
            return Ok(Attempt::Held(self.named(other)));
        }
        let flags = [free, by_word].map(|flag| i64::from(flag).into());
        let [free_flag, word_flag] = flags;
        let values = [self.holder.clone().into(), fence.into(), beat.into(), free_flag, word_flag];
        if sql::execute(on, TAKE, values).await? == 0 {
            return Ok(Attempt::Held(other));
        }
        let fence = fence.saturating_add(1);
        self.fence = Some(fence);
        if let Kind::Session { session: Some(session), seen, .. } = &mut self.kind {
            *seen = None;
            session.begin_to_beat(fence, free);
        }
        Ok(Attempt::Taken)
    }

    /// Leaves the session's lock to the holder.
    async fn unlock(&mut self) {
        let Kind::Session { session, .. } = &mut self.kind else { return };
        let Some(known) = session.as_ref() else { return };
        let unlock = sql::one(&known.database, "SELECT pg_advisory_unlock_all()", []).await;
        if unlock.is_err() {
            // The lock ends with the session.
            *session = None;
        }
    }

    /// Gives the lease back at a clean end, so that another need not wait.
    pub(super) async fn release(&mut self, on: Option<&DatabaseConnection>) {
        const RELEASE: &str = "UPDATE lease SET holder = '' WHERE id = 1 AND fence = $1";
        if let (Some(fence), Some(on)) = (self.fence, on)
            && let Err(error) = sql::execute(on, RELEASE, [fence.into()]).await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot release the lease");
        }
        if let Kind::Session { session: Some(session), .. } = &mut self.kind
            && let Err(error) = session.database.clone().close().await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot close the lease's session");
        }
        self.lose();
    }

    /// Who has the lease, for people.
    fn named(&self, holder: String) -> String {
        match &self.kind {
            // The row may name the one before.
            Kind::File { path, .. } => fs::read_to_string(path).unwrap_or(holder),
            Kind::Session { .. } => holder,
        }
    }
}

impl Session {
    /// Beats, and takes the session's lock as soon as it can be had if it is not `locked` yet.
    fn begin_to_beat(&mut self, fence: i64, mut locked: bool) {
        if let Some(beating) = self.beating.take() {
            beating.abort();
        }
        let (database, lost) = (self.database.clone(), Arc::clone(&self.lost));
        self.beating = Some(tokio::spawn(async move {
            let mut heard = Instant::now();
            while heard.elapsed() < UNHEARD_MAX {
                tokio::time::sleep(BEAT).await;
                match tokio::time::timeout(BEAT, beat(&database, fence, &mut locked)).await {
                    Ok(Ok(true)) => heard = Instant::now(),
                    Ok(Ok(false)) => break,
                    Ok(Err(_)) | Err(_) => {}
                }
            }
            lost.store(true, Ordering::Relaxed);
        }));
    }
}

/// Beats; false if another took over.
async fn beat(on: &DatabaseConnection, fence: i64, locked: &mut bool) -> Result<bool, Error> {
    const BEAT: &str = "UPDATE lease SET beat = beat + 1, locked = $2 WHERE id = 1 AND fence = $1";
    *locked = *locked || try_session_lock(on).await?;
    Ok(sql::execute(on, BEAT, [fence.into(), i64::from(*locked).into()]).await? > 0)
}

/// Notes the beat that is seen; true once it has been the same for [`SILENCE`].
fn is_silent(seen: &mut Option<Seen>, fence: i64, beat: i64) -> bool {
    match seen {
        Some(seen) if (seen.fence, seen.beat) == (fence, beat) => seen.since.elapsed() >= SILENCE,
        _ => {
            *seen = Some(Seen { fence, beat, since: Instant::now() });
            false
        }
    }
}

async fn lock_file(path: &PathBuf, holder: &str, deadline: Instant) -> Result<Option<File>, Error> {
    const PAUSE: Duration = Duration::from_millis(20);
    let unusable =
        |error: std::io::Error| Error::File { path: path.display().to_string(), because: error.to_string() };
    loop {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let mut file = file.map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {
                // It names the holder to people and decides nothing: a disk without room stops no holder from writing.
                let named = file.set_len(0).and_then(|()| file.write_all(holder.as_bytes()));
                if let Err(error) = named {
                    tracing::debug!(%error, "the lease file does not name its holder");
                }
                return Ok(Some(file));
            }
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Ok(None),
            Err(TryLockError::WouldBlock) => tokio::time::sleep(PAUSE).await,
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
    }
}

async fn try_session_lock(on: &DatabaseConnection) -> Result<bool, Error> {
    // A session may take its lock again and again; it is freed with the session.
    let row = sql::one(on, "SELECT pg_try_advisory_lock($1) AS locked", [SESSION_LOCK.into()]).await?;
    row.map_or(Ok(false), |row| Ok(row.try_get("", "locked")?))
}

/// Who has the lease, for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its name; empty if it is free.
    pub name: String,
    /// The number that its transactions check: each holder has another.
    pub fence: u64,
}

/// Reads who has the lease.
pub(super) async fn holder_of(on: &impl ConnectionTrait) -> Result<Holder, Error> {
    let Row { fence, holder: name, .. } = row(on).await?;
    Ok(Holder { name, fence: sql::number(fence) })
}

/// The lease's row.
struct Row {
    fence: i64,
    beat: i64,
    holder: String,
    /// Whether the holder has the session's lock, so that it has ended if another can take the lock.
    locked: bool,
}

async fn row(on: &impl ConnectionTrait) -> Result<Row, Error> {
    let row = sql::one(on, "SELECT fence, beat, holder, locked FROM lease WHERE id = 1", []).await?;
    let row = row.ok_or(Error::Unreadable { table: "lease" })?;
    let locked: i64 = row.try_get("", "locked")?;
    Ok(Row {
        fence: row.try_get("", "fence")?,
        beat: row.try_get("", "beat")?,
        holder: row.try_get("", "holder")?,
        locked: locked != 0,
    })
}

/// Locks the lease's row until the transaction ends, and answers whether the fence is still `fence`. Whoever wrote
/// before has ended then, one way or the other.
pub(super) async fn is_held(on: &impl ConnectionTrait, fence: i64) -> Result<bool, Error> {
    let lock = match on.get_database_backend() {
        DbBackend::Postgres => "SELECT fence FROM lease WHERE id = 1 FOR UPDATE",
        // The transaction has locked the whole database.
        _ => "SELECT fence FROM lease WHERE id = 1",
    };
    let row = sql::one(on, lock, []).await?.ok_or(Error::Unreadable { table: "lease" })?;
    let held: i64 = row.try_get("", "fence")?;
    Ok(held == fence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_beat_begins_the_silence_anew() {
        let long_ago = Instant::now().checked_sub(SILENCE).unwrap();
        for (fence, beat, silent) in [(1, 5, true), (1, 6, false), (2, 5, false)] {
            let mut seen = Some(Seen { fence: 1, beat: 5, since: long_ago });
            assert_eq!(is_silent(&mut seen, fence, beat), silent, "{fence} {beat}");
        }
        assert!(!is_silent(&mut None, 1, 5), "the first that is seen");
    }
}
