//! Which PostgreSQL cluster the ledger is in, and on which timeline of its WAL.
//!
//! A dump that is restored elsewhere comes to another cluster. A restore to a point in time and a promoted standby begin
//! another timeline, and each may lack commits that were acknowledged before. So both are recorded, in the ledger and
//! beside the chain copy, and another one is a sign of a restored ledger.

use std::fmt;

use sea_orm::{ConnectionTrait, DbBackend};

use super::{Error, sql};

/// The name under which the ledger keeps its cluster.
pub(super) const NOTE: &str = "cluster";

/// A cluster and its timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The identifier that `initdb` gave it.
    system: String,
    timeline: u32,
}

impl Cluster {
    /// Reads what [`fmt::Display`] writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (system, timeline) = text.split_once('/')?;
        Some(Self { system: system.to_owned(), timeline: timeline.parse().ok()? })
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.system, self.timeline)
    }
}

/// Why the ledger may lack commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It is in another cluster than before: a dump was restored, or `pg_upgrade` made a new one.
    OtherSystem,
    /// Its timeline is earlier than one that it was on: a server that was left is asked again, or an old backup.
    TimelineBack,
    /// Its timeline is later: a standby was promoted, or a backup restored to a point in time.
    TimelineForward,
    /// It does not say where it was, although that was recorded before.
    Unrecorded,
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherSystem => "it is in another PostgreSQL cluster than before",
            Self::TimelineBack => "its PostgreSQL is on an earlier timeline than before",
            Self::TimelineForward => "its PostgreSQL is on a later timeline than before",
            Self::Unrecorded => "it has lost the record of its PostgreSQL cluster",
        })
    }
}

/// Holds the cluster that was `found` against the one that the ledger has recorded and the one that is `kept` beside the
/// chain copy. Nothing recorded at all is a ledger that was not asked before.
pub(super) fn judge(recorded: Option<&Cluster>, kept: Option<&Cluster>, found: &Cluster) -> Option<Sign> {
    let known = || recorded.into_iter().chain(kept);
    if known().any(|known| known.system != found.system) {
        return Some(Sign::OtherSystem);
    }
    if known().any(|known| known.timeline > found.timeline) {
        return Some(Sign::TimelineBack);
    }
    match recorded {
        Some(recorded) if recorded.timeline < found.timeline => Some(Sign::TimelineForward),
        // What is kept may be older: another hsmd has written the ledger since, and has seen the later timeline.
        Some(_) => None,
        None => kept.map(|_| Sign::Unrecorded),
    }
}

/// The cluster of this connection. It errs where the server has no such functions or refuses them.
pub(super) async fn find(on: &impl ConnectionTrait) -> Result<Cluster, Error> {
    // The first eight hexadecimal digits of a WAL file's name are its timeline.
    const FIND: &str = "SELECT system_identifier::text AS system, \
                        substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS timeline FROM pg_control_system()";
    let row = sql::one(on, FIND, []).await?.ok_or(Error::Unreadable { table: "pg_control_system" })?;
    let timeline: String = row.try_get("", "timeline")?;
    let timeline = u32::from_str_radix(&timeline, 16);
    Ok(Cluster {
        system: row.try_get("", "system")?,
        timeline: timeline.map_err(|_| Error::Unreadable { table: "pg_control_system" })?,
    })
}

/// Whether a transaction is in the `known` cluster: its connection may be a new one, to another server.
pub(super) async fn is_same(on: &impl ConnectionTrait, known: Option<&Cluster>) -> Result<bool, Error> {
    match (on.get_database_backend(), known) {
        (DbBackend::Postgres, Some(known)) => Ok(find(on).await? == *known),
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_cluster_or_timeline_is_a_sign_of_a_restored_ledger() {
        use Sign::{OtherSystem, TimelineBack, TimelineForward, Unrecorded};
        for (recorded, kept, found, sign) in [
            (None, None, "7/1", None),
            (Some("7/1"), None, "7/1", None),
            (Some("7/1"), Some("7/1"), "7/1", None),
            (Some("7/1"), Some("7/1"), "8/1", Some(OtherSystem)),
            (Some("7/1"), Some("8/1"), "8/1", Some(OtherSystem)),
            (Some("8/1"), Some("7/9"), "8/1", Some(OtherSystem)),
            (None, Some("7/1"), "8/1", Some(OtherSystem)),
            (Some("7/1"), Some("7/1"), "7/2", Some(TimelineForward)),
            (Some("7/1"), None, "7/2", Some(TimelineForward)),
            (Some("7/1"), Some("7/2"), "7/2", Some(TimelineForward)),
            // Another hsmd has seen it.
            (Some("7/2"), Some("7/1"), "7/2", None),
            (Some("7/2"), Some("7/2"), "7/1", Some(TimelineBack)),
            // A server that was left does not know that it was.
            (Some("7/1"), Some("7/2"), "7/1", Some(TimelineBack)),
            (None, Some("7/2"), "7/1", Some(TimelineBack)),
            (None, Some("7/1"), "7/1", Some(Unrecorded)),
        ] {
            let read = |text: Option<&str>| text.map(|text| Cluster::parse(text).unwrap());
            let (recorded_at, kept_at) = (read(recorded), read(kept));
            let judged = judge(recorded_at.as_ref(), kept_at.as_ref(), &Cluster::parse(found).unwrap());
            assert_eq!(judged, sign, "{recorded:?} {kept:?} {found}");
        }
    }

    #[test]
    fn a_cluster_is_read_as_it_is_written() {
        let cluster = Cluster { system: "7301234567890123456".to_owned(), timeline: 12 };
        assert_eq!(Cluster::parse(&cluster.to_string()), Some(cluster));
        for text in ["", "7", "7/", "7/x", "7/-1"] {
            assert_eq!(Cluster::parse(text), None, "{text}");
        }
    }
}
