//! Room for the chain on a full disk (SQLite).
//!
//! Below a floor of free room no endorsement is written any more. What the chain still writes needs no new block: the
//! WAL was grown before by being written to, and pages come from filler rows (*ballast*) that the same transaction
//! deletes. On PostgreSQL no such promise is made.
//!
//! What stands in the WAL and not in the database yet (its *backlog*) may still need as many new blocks there. While
//! somebody reads for long it cannot be copied, and counts as room that is used.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use sea_orm::ConnectionTrait;

use super::{Condition, Error, sql};

/// Rows of ballast, 16 KiB each: as many pages as some thirty events with their lines take.
const ROWS: i64 = 128;

/// Rows that one transaction frees: eight pages and more, of which an event with its lines takes about six.
const FREED_AT_ONCE: i64 = 2;

/// Size of the WAL above which it is asked how much of it is backlog: four times what it has as a rule.
const WAL_LARGE: u64 = 16 << 20;

/// Bytes that the ballast takes, about.
const BALLAST: u64 = 128 * 16 * 1024;

/// Readings of free room from which the days that are left are reckoned.
const SPAN_MIN_SECONDS: u64 = 600;

/// How a file system writes to a block that a file has already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overwrite {
    /// Into that block.
    InPlace,
    /// Into another one, which must be free.
    Elsewhere(&'static str),
    /// As the file system does that lies below, which is not seen from here.
    Unknown,
}

/// By the magic number that `statfs` answers.
const fn overwrite(magic: u32) -> Overwrite {
    match magic {
        0xef53 | 0x5846_5342 | 0x0102_1994 => Overwrite::InPlace,
        0x9123_683e => Overwrite::Elsewhere("btrfs"),
        0x2fc1_2fc1 => Overwrite::Elsewhere("ZFS"),
        0xca45_1a4e => Overwrite::Elsewhere("bcachefs"),
        0xf2f5_2010 => Overwrite::Elsewhere("F2FS"),
        0x0000_3434 => Overwrite::Elsewhere("NILFS"),
        _ => Overwrite::Unknown,
    }
}

/// The room under the ledger.
pub(super) struct Room {
    folder: Option<PathBuf>,
    /// The name of a file system on which what the chain writes needs new blocks.
    copies_on_write: Option<&'static str>,
    /// The WAL.
    wal: Option<PathBuf>,
    /// Bytes of it that are not in the database yet, if they are many.
    pub(super) backlog: u64,
    floor: u64,
    first: Option<(Instant, u64)>,
    /// A write failed because there was no room, whatever the system says.
    pub(super) refused: bool,
}

impl Room {
    pub(super) fn new(file: Option<&Path>, floor: u64) -> Self {
        let folder = file.and_then(Path::parent).map(Path::to_owned);
        let copies_on_write = folder.as_deref().and_then(copies_on_write);
        let wal = file.map(|file| {
            let mut wal = file.as_os_str().to_owned();
            wal.push("-wal");
            PathBuf::from(wal)
        });
        Self { folder, copies_on_write, wal, backlog: 0, floor, first: None, refused: false }
    }

    /// Why a full disk can stop a taint here, if it can.
    pub(super) fn no_promise(&self) -> Option<String> {
        let Some(folder) = &self.folder else {
            return Some(
                "on PostgreSQL a full disk can stop a taint: watch the room of its server".to_owned(),
            );
        };
        self.copies_on_write.map(|name| {
            format!(
                "`{}` is on {name}, which never overwrites in place: a full disk can stop a taint; move the ledger to \
                 ext4 or XFS, or watch the room",
                folder.display()
            )
        })
    }

    /// Bytes that are free; nothing on PostgreSQL, or if the system does not say.
    pub(super) fn free(&self) -> Option<u64> {
        let folder = self.folder.as_ref()?;
        let found = rustix::fs::statvfs(folder).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Whether only the chain may write now.
    pub(super) fn shortage(&self) -> Option<Condition> {
        let (free, floor) = (self.free()?, self.needed());
        (free < floor || self.refused).then_some(Condition::NoRoom { free, floor })
    }

    /// Whether there is room to fill up the ballast.
    pub(super) fn is_ample(&self) -> bool {
        self.free().is_some_and(|free| free >= self.needed().saturating_add(BALLAST.saturating_mul(2)))
    }

    const fn needed(&self) -> u64 {
        self.floor.saturating_add(self.backlog)
    }

    /// Whether the WAL has grown so far that its backlog is to be asked for.
    pub(super) fn wal_is_large(&self) -> bool {
        let size = self.wal.as_ref().and_then(|wal| wal.metadata().ok()).map_or(0, |wal| wal.len());
        size > WAL_LARGE
    }

    /// Notes how much room is left. Answers for how many days it is enough if it is used up as since the start.
    pub(super) fn note(&mut self) -> Option<u64> {
        let free = self.free()?;
        let (since, before) = *self.first.get_or_insert((Instant::now(), free));
        days_left(since.elapsed().as_secs(), before, free, self.floor)
    }
}

fn copies_on_write(folder: &Path) -> Option<&'static str> {
    let found = rustix::fs::statfs(folder).ok()?;
    let overwrite = u32::try_from(found.f_type).map_or(Overwrite::Unknown, overwrite);
    match overwrite {
        Overwrite::InPlace => None,
        Overwrite::Elsewhere(name) => Some(name),
        Overwrite::Unknown => {
            tracing::warn!(
                folder = %folder.display(),
                "it is not known whether this file system overwrites in place; only then a full disk stops no taint"
            );
            None
        }
    }
}

/// For how many days the room above the floor is enough, if `before` became `free` in so many seconds; nothing if that
/// cannot be said.
fn days_left(seconds: u64, before: u64, free: u64, floor: u64) -> Option<u64> {
    let used = before.checked_sub(free).filter(|used| *used > 0 && seconds >= SPAN_MIN_SECONDS)?;
    let left = u128::from(free.saturating_sub(floor));
    let days = left.saturating_mul(u128::from(seconds)).checked_div(u128::from(used))? / 86_400;
    u64::try_from(days).ok()
}

/// Frees pages for what the same transaction writes.
pub(super) async fn free_ballast(on: &impl ConnectionTrait) -> Result<(), Error> {
    const FREE: &str = "DELETE FROM ballast WHERE id IN (SELECT id FROM ballast ORDER BY id LIMIT $1)";
    sql::execute(on, FREE, [FREED_AT_ONCE.into()]).await?;
    Ok(())
}

/// Fills up the ballast; answers whether a row was missing. Random bytes: zeros may take no room.
pub(super) async fn fill_ballast(on: &impl ConnectionTrait) -> Result<bool, Error> {
    const FILL: &str = "WITH RECURSIVE wanted(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM wanted WHERE id < $1) \
                        INSERT INTO ballast (id, filler) SELECT id, randomblob(16000) FROM wanted \
                        WHERE id NOT IN (SELECT id FROM ballast)";
    Ok(sql::execute(on, FILL, [ROWS.into()]).await? > 0)
}

/// Has the WAL take blocks for some hundred transactions, by writing that much to it.
pub(super) async fn grow_wal(on: &impl ConnectionTrait) -> Result<(), Error> {
    if !fill_ballast(on).await? {
        sql::execute(on, "UPDATE ballast SET filler = randomblob(16000)", []).await?;
    }
    // From here on it is written from its beginning again.
    sql::all(on, "PRAGMA wal_checkpoint(RESTART)", []).await?;
    Ok(())
}

/// Copies what can be copied of a large WAL into the database; answers the bytes of its backlog. Without one it is cut
/// back, and is to be grown again.
pub(super) async fn copy_wal(on: &impl ConnectionTrait) -> Result<u64, Error> {
    const PAGE: u64 = 4096;
    let rows = sql::all(on, "PRAGMA wal_checkpoint(PASSIVE)", []).await?;
    let row = rows.first().ok_or(Error::Unreadable { table: "wal_checkpoint" })?;
    let (frames, copied): (i64, i64) = (row.try_get("", "log")?, row.try_get("", "checkpointed")?);
    let backlog = u64::try_from(frames.saturating_sub(copied)).unwrap_or(0).saturating_mul(PAGE);
    if backlog == 0 {
        sql::all(on, "PRAGMA wal_checkpoint(TRUNCATE)", []).await?;
    }
    Ok(backlog)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_is_room_that_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let mut room = Room::new(Some(&folder.path().join("ledger.db")), 1 << 20);
        let (free, far) = (room.free().unwrap(), u64::MAX / 2);
        assert!(free > 1 << 30, "the test needs a gigabyte");
        for (floor, backlog, is_short) in
            [(1 << 20, 0, false), (1 << 20, far, true), (far, 0, true), (1 << 20, 1 << 20, false)]
        {
            (room.floor, room.backlog) = (floor, backlog);
            assert_eq!(room.shortage().is_some(), is_short, "{floor} {backlog}");
            assert!(!is_short || !room.is_ample());
        }
    }

    #[test]
    fn file_systems_that_copy_on_write_are_known() {
        for (magic, name) in [
            (0xef53, None),
            (0x5846_5342, None),
            (0x0102_1994, None),
            (0x9123_683e, Some("btrfs")),
            (0x2fc1_2fc1, Some("ZFS")),
            (0xca45_1a4e, Some("bcachefs")),
            (0xf2f5_2010, Some("F2FS")),
            (0x3434, Some("NILFS")),
        ] {
            let expected = name.map_or(Overwrite::InPlace, Overwrite::Elsewhere);
            assert_eq!(overwrite(magic), expected, "{magic:x}");
        }
        // overlayfs, NFS, FUSE: what lies below decides.
        for magic in [0x794c_7630, 0x6969, 0x6573_5546, 0] {
            assert_eq!(overwrite(magic), Overwrite::Unknown, "{magic:x}");
        }
    }

    #[test]
    fn where_no_promise_is_made_it_says_why() {
        let mut room = Room::new(None, 0);
        assert!(room.no_promise().unwrap().contains("PostgreSQL"));
        room.folder = Some(PathBuf::from("/var/lib/hsmd"));
        assert_eq!(room.no_promise(), None);
        room.copies_on_write = Some("btrfs");
        assert!(room.no_promise().unwrap().contains("`/var/lib/hsmd` is on btrfs"));
    }

    #[test]
    fn days_are_reckoned_from_what_was_used() {
        const DAY: u64 = 86_400;
        for (seconds, before, free, floor, days) in [
            (DAY, 1000, 900, 100, Some(8)),
            (DAY, 1000, 900, 950, Some(0)),
            (DAY, 900, 900, 100, None),
            (DAY, 900, 1000, 100, None),
            (599, 1000, 900, 100, None),
        ] {
            assert_eq!(days_left(seconds, before, free, floor), days, "{seconds} {before} {free} {floor}");
        }
    }
}
