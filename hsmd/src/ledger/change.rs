//! What changes the ledger besides lines, each in one transaction.

use keychain::{
    Digest, PublicKey, Timestamp,
    audit::{Head, Record},
    chain::SignedEvent,
};
use sea_orm::{ConnectionTrait, Value};

use super::{
    Declaration, Error, HeadBasis, Kept, Stated, attestations, declaration,
    endorsements::{BLOCK, LEAP, NUMBER_MAX},
    events, lines,
    sql::{self, stored},
    state::Held,
};

/// What is to be changed.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Attestation { key: PublicKey, certificate: Vec<u8> },
    BeginHead { event: Digest, after: u64, at: Timestamp },
    Close,
    Condemn(Vec<Digest>),
    Cut(Head),
    Declare(Declaration),
    Event { after: Option<Digest>, event: SignedEvent },
    Import { events: Vec<SignedEvent>, key_intent: u64 },
    Intend(u64),
    Leap(Kept),
    Lines,
    Note { name: &'static str, text: Option<String> },
    Reserve,
    TakeLease,
    TrustedTime(Timestamp),
}

/// The lines of a change, which are written in its transaction.
pub(super) enum Lines {
    /// As they are.
    Ready(Vec<Record>),
    /// Composed in the transaction from what is stated then.
    OfStated(Compose),
}

/// Composes the lines of a declaration from what is stated with it.
pub type Compose = Box<dyn Fn(&Stated) -> Vec<Record> + Send + Sync>;

impl Lines {
    pub(super) const NONE: Self = Self::Ready(Vec::new());

    /// The lines of a change that has this effect.
    pub(super) fn of(&self, effect: &Effect) -> Vec<Record> {
        match (self, effect) {
            (Self::Ready(records), _) => records.clone(),
            (Self::OfStated(compose), Effect::Stated(stated)) => compose(stated),
            (Self::OfStated(_), _) => Vec::new(),
        }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    Done,
    Head(Box<HeadBasis>),
    Stated(Stated),
}

impl Change {
    /// Carries it out in a transaction that holds the lease's row.
    pub(super) async fn apply(&self, on: &impl ConnectionTrait, held: &Held) -> Result<Effect, Error> {
        match self {
            Self::Attestation { key, certificate } => attestations::keep(on, key, certificate).await?,
            Self::BeginHead { event, after, at } => {
                return begin_head(on, held, event, (*after, *at)).await.map(Box::new).map(Effect::Head);
            }
            Self::Close | Self::Lines | Self::TakeLease => {}
            Self::Condemn(keys) => condemn(on, keys).await?,
            Self::Cut(head) => lines::cut(on, head).await?,
            Self::Declare(what) => {
                let mark = declaration::declare(on, what, held.endorsement_mark).await?;
                set_mark(on, mark).await?;
                return declaration::stated(on).await.map(Effect::Stated);
            }
            Self::Event { after, event } => add_event(on, *after, event).await?,
            Self::Import { events, key_intent } => {
                import(on, events, *key_intent).await?;
                set_mark(on, held.endorsement_mark.saturating_add(LEAP)).await?;
                // Heads of the newest one may stand anywhere.
                count_heads(on, None, 0).await?;
            }
            Self::Intend(sequence_number) => intend(on, *sequence_number).await?,
            Self::Leap(kept) => leap(on, held, kept).await?,
            Self::Note { name, text } => note(on, name, text.as_deref()).await?,
            Self::Reserve => set_mark(on, held.endorsement_mark.saturating_add(BLOCK)).await?,
            Self::TrustedTime(at) => trust(on, *at, true).await?,
        }
        Ok(Effect::Done)
    }

    /// Whether numbers that were reserved before are void, although none of them may be known to be given out.
    pub(super) const fn voids_numbers(&self) -> bool {
        // After an order to roll too: a key that answers it has a higher number than those that it replaces.
        let declared = matches!(
            self,
            Self::Declare(Declaration::RevokeService { .. } | Declaration::RollService { .. })
        );
        declared || matches!(self, Self::Import { .. } | Self::Leap(_))
    }

    /// The events that the chain copy lacks after it.
    pub(super) fn events(&self) -> &[SignedEvent] {
        match self {
            Self::Event { event, .. } => std::slice::from_ref(event),
            Self::Import { events, .. } => events,
            _ => &[],
        }
    }
}

async fn add_event(
    on: &impl ConnectionTrait,
    after: Option<Digest>,
    event: &SignedEvent,
) -> Result<(), Error> {
    const CONDEMNED: &str = "SELECT key_digest FROM condemned WHERE key_digest IN ($1, $2)";
    let newest = events::newest(on).await?;
    let fields = event.event();
    if newest.as_ref().map(|(id, _)| *id) != after {
        return Err(Error::Taken(fields.sequence_number));
    }
    let named = [fields.public_key.digest(), fields.rotation_hash].map(|digest| digest.to_string().into());
    if sql::one(on, CONDEMNED, named).await?.is_some() {
        return Err(Error::Condemned);
    }
    insert_event(on, event).await?;
    if let Some((_, left)) = newest {
        let left = SignedEvent::parse(&left).map_err(|_| Error::Unreadable { table: "events" })?;
        condemn_one(on, &left.event().public_key.digest()).await?;
    }
    // No head of it exists yet.
    count_heads(on, Some(fields.id), 0).await?;
    trust(on, fields.created_at, false).await
}

async fn insert_event(on: &impl ConnectionTrait, event: &SignedEvent) -> Result<(), Error> {
    const INSERT: &str =
        "INSERT INTO events (sequence_number, id, prefix, published) VALUES ($1, $2, $3, $4)";
    let fields = event.event();
    let values: [Value; 4] = [
        stored(fields.sequence_number)?.into(),
        fields.id.to_string().into(),
        fields.prefix.to_string().into(),
        event.text().to_owned().into(),
    ];
    sql::execute(on, INSERT, values).await?;
    Ok(())
}

/// Adds events that a chain has which was brought. The keys of its newest are on the token, whatever was condemned.
async fn import(on: &impl ConnectionTrait, events: &[SignedEvent], key_intent: u64) -> Result<(), Error> {
    const SPARE: &str = "DELETE FROM condemned WHERE key_digest IN ($1, $2)";
    for event in events {
        insert_event(on, event).await?;
    }
    if let Some(newest) = events.last().map(SignedEvent::event) {
        let named =
            [newest.public_key.digest(), newest.rotation_hash].map(|digest| digest.to_string().into());
        sql::execute(on, SPARE, named).await?;
        trust(on, newest.created_at, false).await?;
    }
    intend(on, key_intent).await
}

async fn condemn(on: &impl ConnectionTrait, keys: &[Digest]) -> Result<(), Error> {
    if let Some((_, newest)) = events::newest(on).await? {
        let newest = SignedEvent::parse(&newest).map_err(|_| Error::Unreadable { table: "events" })?;
        let newest = newest.event();
        if keys.iter().any(|key| *key == newest.public_key.digest() || *key == newest.rotation_hash) {
            return Err(Error::Named);
        }
    }
    for key in keys {
        condemn_one(on, key).await?;
    }
    Ok(())
}

async fn condemn_one(on: &impl ConnectionTrait, key: &Digest) -> Result<(), Error> {
    const CONDEMN: &str =
        "INSERT INTO condemned (key_digest) VALUES ($1) ON CONFLICT (key_digest) DO NOTHING";
    sql::execute(on, CONDEMN, [key.to_string().into()]).await?;
    Ok(())
}

async fn intend(on: &impl ConnectionTrait, sequence_number: u64) -> Result<(), Error> {
    const INTEND: &str = "UPDATE state SET key_intent = $1 WHERE id = 1 AND key_intent < $1";
    sql::execute(on, INTEND, [stored(sequence_number)?.into()]).await?;
    Ok(())
}

async fn begin_head(
    on: &impl ConnectionTrait,
    held: &Held,
    event: &Digest,
    (after, at): (u64, Timestamp),
) -> Result<HeadBasis, Error> {
    if events::newest_id(on).await? != Some(*event) {
        return Err(Error::NotNewest);
    }
    let number = held.heads.next(event, after, at)?;
    count_heads(on, Some(*event), number).await?;
    Ok(HeadBasis {
        number,
        stated: declaration::stated(on).await?,
        audit: held.audit_head,
        endorsement_mark: held.endorsement_mark,
    })
}

async fn leap(on: &impl ConnectionTrait, held: &Held, kept: &Kept) -> Result<(), Error> {
    set_mark(on, held.endorsement_mark.max(kept.endorsement_mark).saturating_add(LEAP)).await?;
    let newest = events::newest_id(on).await?;
    let ours = if held.heads.event.is_none_or(|of| Some(of) == newest) { held.heads.number } else { 0 };
    let theirs = if kept.event.is_some() && kept.event == newest { kept.head_number } else { 0 };
    count_heads(on, None, ours.max(theirs)).await
}

/// Notes up to which number heads of the newest event were given out; `event` is `None` if that may be more.
async fn count_heads(on: &impl ConnectionTrait, event: Option<Digest>, number: u64) -> Result<(), Error> {
    const NOTE: &str = "UPDATE state SET head_event = $1, head_number = $2 WHERE id = 1";
    let event = event.map_or_else(String::new, |event| event.to_string());
    sql::execute(on, NOTE, [event.into(), stored(number)?.into()]).await?;
    Ok(())
}

async fn set_mark(on: &impl ConnectionTrait, mark: u64) -> Result<(), Error> {
    const NOTE: &str = "UPDATE state SET endorsement_mark = $1 WHERE id = 1 AND endorsement_mark < $1";
    if mark > NUMBER_MAX {
        return Err(Error::Overflow);
    }
    sql::execute(on, NOTE, [stored(mark)?.into()]).await?;
    Ok(())
}

async fn note(on: &impl ConnectionTrait, name: &str, text: Option<&str>) -> Result<(), Error> {
    const KEEP: &str = "INSERT INTO notes (name, content) VALUES ($1, $2) \
                        ON CONFLICT (name) DO UPDATE SET content = excluded.content";
    match text {
        Some(text) => sql::execute(on, KEEP, [name.into(), text.into()]).await?,
        None => sql::execute(on, "DELETE FROM notes WHERE name = $1", [name.into()]).await?,
    };
    Ok(())
}

async fn trust(on: &impl ConnectionTrait, at: Timestamp, lower: bool) -> Result<(), Error> {
    const RAISE: &str =
        "UPDATE state SET trusted_time = $1 WHERE id = 1 AND (trusted_time IS NULL OR trusted_time < $1)";
    const SET: &str = "UPDATE state SET trusted_time = $1 WHERE id = 1";
    sql::execute(on, if lower { SET } else { RAISE }, [at.unix_millis().into()]).await?;
    Ok(())
}
