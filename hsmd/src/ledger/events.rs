//! The events, verbatim, as they are read.

use keychain::{Digest, chain::SignedEvent};
use sea_orm::ConnectionTrait;

use super::{
    Error,
    sql::{self, number},
};

/// What reconciliation needs of the ledger.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Every event, in order of sequence number; each verified on its own, the chain not yet.
    pub events: Vec<SignedEvent>,
    /// The highest sequence number that a key may have been made for; nothing before the first start.
    ///
    /// A key on the token beyond it is not this ledger's: the ledger is older than its token.
    pub key_intent: Option<u64>,
    /// Digests of public keys that may have been destroyed: no event commits to them any more.
    pub condemned: Vec<Digest>,
}

pub(super) async fn contents(
    database: &impl ConnectionTrait,
    known: &[&SignedEvent],
) -> Result<Contents, Error> {
    let rows = sql::all(
        database,
        "SELECT sequence_number, id, prefix, published FROM events ORDER BY sequence_number",
        [],
    )
    .await?;
    let mut events = Vec::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        let row = Row {
            sequence_number: row.try_get("", "sequence_number")?,
            id: row.try_get("", "id")?,
            prefix: row.try_get("", "prefix")?,
            published: row.try_get("", "published")?,
        };
        let known = known.get(index).copied().filter(|known| known.text() == row.published);
        events.push(row.read(known)?);
    }
    let state = sql::one(database, "SELECT key_intent FROM state WHERE id = 1", []).await?;
    let intent: Option<i64> = state.map(|row| row.try_get("", "key_intent")).transpose()?;
    let key_intent = intent.and_then(|intent| u64::try_from(intent).ok());
    let condemned = condemned(database).await?;
    Ok(Contents { events, key_intent, condemned })
}

async fn condemned(database: &impl ConnectionTrait) -> Result<Vec<Digest>, Error> {
    let rows = sql::all(database, "SELECT key_digest FROM condemned ORDER BY key_digest", []).await?;
    let read = |row: sea_orm::QueryResult| {
        let digest: String = row.try_get("", "key_digest")?;
        Digest::parse(&digest).map_err(|_| Error::Unreadable { table: "condemned" })
    };
    rows.into_iter().map(read).collect()
}

/// The id of the newest event.
pub(super) async fn newest_id(database: &impl ConnectionTrait) -> Result<Option<Digest>, Error> {
    Ok(newest(database).await?.map(|(id, _)| id))
}

/// The newest event: its id, and its text.
pub(super) async fn newest(database: &impl ConnectionTrait) -> Result<Option<(Digest, String)>, Error> {
    const NEWEST: &str = "SELECT id, published FROM events ORDER BY sequence_number DESC LIMIT 1";
    let Some(row) = sql::one(database, NEWEST, []).await? else { return Ok(None) };
    let id: String = row.try_get("", "id")?;
    let id = Digest::parse(&id).map_err(|_| Error::Unreadable { table: "events" })?;
    Ok(Some((id, row.try_get("", "published")?)))
}

/// How many events there are.
pub(super) async fn count(database: &impl ConnectionTrait) -> Result<u64, Error> {
    let row = sql::one(database, "SELECT COUNT(*) AS events FROM events", []).await?;
    row.map_or(Ok(0), |row| Ok(number(row.try_get("", "events")?)))
}

struct Row {
    sequence_number: i64,
    id: String,
    prefix: String,
    published: String,
}

impl Row {
    fn read(&self, known: Option<&SignedEvent>) -> Result<SignedEvent, Error> {
        let event = match known {
            Some(known) => known.clone(),
            None => SignedEvent::parse(&self.published)
                .map_err(|refusal| self.contradiction(refusal.because()))?,
        };
        let fields = event.event();
        let same = fields.id.to_string() == self.id
            && fields.prefix.to_string() == self.prefix
            && i64::try_from(fields.sequence_number) == Ok(self.sequence_number);
        if same { Ok(event) } else { Err(self.contradiction("the columns are not those of the event")) }
    }

    fn contradiction(&self, because: &str) -> Error {
        Error::Contradiction { sequence_number: self.sequence_number, because: because.to_owned() }
    }
}
