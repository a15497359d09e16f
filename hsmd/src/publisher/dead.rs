//! Takes what a taint, a denial or a revocation killed out of databases 0 and 1: public peers read no head, and would go on
//! with what they find there (`PROTOCOL.md#directory-dead`).
//!
//! An entry is judged by itself: by the generation that it names and that signed it, never by its name. It is deleted only
//! as it was read, so that a fresh endorsement of the same key stays. What cannot be judged is left alone, and counted.

use std::{collections::BTreeSet, time::Duration};

use keychain::{
    PublicKey, Timestamp,
    chain::{Chain, Killed, Settings, SignedEvent},
    directory::{Change, Cursor, Db, Directory, Error, NAMES_PER_PAGE},
    endorsement::Endorsement,
    statement::Head,
};
use tokio::time::Instant;

/// How far apart looks at changed entries are at least. A service that has not heard yet that its key is dead may put it
/// back at once: two that write against each other without a pause would never rest.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// No event is held back for its time: it is hsmd's own, and this clock may be the wrong one.
const ANY_SKEW: Duration = Duration::MAX;

/// Keeps dead entries out of the directory.
pub struct DeadEntries {
    directory: Directory,
    /// What hsmd served, with its heads.
    chain: Option<Chain>,
    /// The state of the chain by which the whole directory was last judged, or is being judged.
    judged: Option<u64>,
    /// Whether something may have changed since the last reading of everything began.
    is_wanted: bool,
    reading: Option<Reading>,
    /// Keys whose entries changed since they were looked at.
    changed: BTreeSet<PublicKey>,
    looked: Option<Instant>,
}

/// Where a reading of both databases stands.
struct Reading {
    left: Vec<Db>,
    at: Cursor,
    not_judged: u32,
}

impl DeadEntries {
    /// Keeps `directory` clean; nothing is known to be dead yet.
    pub fn new(directory: Directory) -> Self {
        Self {
            directory,
            chain: None,
            judged: None,
            is_wanted: false,
            reading: None,
            changed: BTreeSet::new(),
            looked: None,
        }
    }

    /// hsmd is away: the next that it serves is its whole chain, perhaps of another ledger.
    pub fn begin_anew(&mut self) {
        (self.chain, self.judged) = (None, None);
    }

    /// Takes in events that hsmd served.
    pub fn learn(&mut self, events: &[SignedEvent], now: Timestamp) {
        let Some(first) = events.first() else { return };
        let prefix = first.event().prefix;
        let settings = Settings { skew: ANY_SKEW, ..Settings::default() };
        let chain = self.chain.get_or_insert_with(|| Chain::new(prefix, settings));
        chain.merge(events.iter().cloned(), now);
    }

    /// Takes in a head that hsmd served, once its event is known.
    pub fn hear(&mut self, head: &Head, now: Timestamp) {
        let Some(chain) = &mut self.chain else { return };
        let Some(event) = chain.event(&head.event_id()) else { return };
        if let Ok(proven) = head.verify_signature(&event.clone()) {
            chain.hear(&proven, now);
        }
    }

    /// Takes in what changed in the directory.
    pub fn notice(&mut self, changes: &BTreeSet<Change>) {
        for change in changes {
            match change {
                Change::Flushed | Change::Reconnected => self.sweep(),
                Change::Key(name) => self.changed.extend(PublicKey::parse(name)),
            }
        }
        if self.changed.len() > NAMES_PER_PAGE {
            self.sweep();
        }
    }

    /// Everything is to be read.
    pub fn sweep(&mut self) {
        self.is_wanted = true;
        self.changed.clear();
    }

    /// One turn, of one page of entries at most. True if there is more to do at once.
    pub async fn settle(&mut self, now: Timestamp) -> Result<bool, Error> {
        let Some(chain) = &self.chain else { return Ok(false) };
        if self.judged != Some(chain.epoch()) {
            self.judged = Some(chain.epoch());
            self.is_wanted = true;
        }
        // One that has begun goes on to its end: who writes without a pause must not have it begin for ever.
        if self.reading.is_none() && std::mem::take(&mut self.is_wanted) {
            self.reading = Some(Reading::begin());
        }
        if let Some(mut reading) = self.reading.take() {
            let more = read_on(&self.directory, chain, &mut reading, now).await;
            let has_more = more.inspect_err(|_| self.is_wanted = true)?;
            self.reading = has_more.then_some(reading);
            return Ok(has_more || self.is_wanted);
        }
        if !self.changed.is_empty() && self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
            self.looked = Some(Instant::now());
            self.look(now).await?;
        }
        Ok(false)
    }

    /// Looks at the entries that changed.
    async fn look(&mut self, now: Timestamp) -> Result<(), Error> {
        let Some(chain) = &self.chain else { return Ok(()) };
        let keys: Vec<PublicKey> = self.changed.iter().copied().collect();
        for db in [Db::Access, Db::Response] {
            let texts = self.directory.endorsements_of(db, &keys).await?;
            for (key, text) in keys.iter().zip(texts) {
                if let Some(text) = text {
                    judge_and_delete(&self.directory, chain, db, (&key.to_string(), &text), now).await?;
                }
            }
        }
        self.changed.clear();
        Ok(())
    }
}

impl Reading {
    fn begin() -> Self {
        Self { left: vec![Db::Response, Db::Access], at: Cursor::default(), not_judged: 0 }
    }
}

/// Reads and judges a page. False once both databases were read.
async fn read_on(
    directory: &Directory,
    chain: &Chain,
    reading: &mut Reading,
    now: Timestamp,
) -> Result<bool, Error> {
    let Some(db) = reading.left.last().copied() else { return Ok(false) };
    let Some(entries) = directory.page(db, &mut reading.at).await? else {
        metrics::gauge!("hsm_publisher_entries_not_judged", "database" => label(db)).set(reading.not_judged);
        reading.left.pop();
        (reading.at, reading.not_judged) = (Cursor::default(), 0);
        return Ok(!reading.left.is_empty());
    };
    for (name, text) in entries {
        let is_judged = match text {
            Some(text) => judge_and_delete(directory, chain, db, (&name, &text), now).await?,
            None => false,
        };
        reading.not_judged = reading.not_judged.saturating_add(u32::from(!is_judged));
    }
    Ok(true)
}

/// Deletes an entry that is dead. False if it cannot be judged.
async fn judge_and_delete(
    directory: &Directory,
    chain: &Chain,
    db: Db,
    (name, text): (&str, &str),
    now: Timestamp,
) -> Result<bool, Error> {
    let Some((key, killed)) = judge(name, text, chain, now) else { return Ok(false) };
    let Some(killed) = killed else { return Ok(true) };
    if directory.withdraw_exactly(db, &key, text).await? {
        metrics::counter!("hsm_publisher_withdrawn_total", "cause" => killed.as_str()).increment(1);
        tracing::warn!(%key, ?db, cause = killed.as_str(), "took a dead endorsement out of the directory");
    }
    Ok(true)
}

/// The key of an entry, and what killed it if anything did; nothing for one that cannot be judged.
fn judge(name: &str, text: &str, chain: &Chain, now: Timestamp) -> Option<(PublicKey, Option<Killed>)> {
    let endorsement = Endorsement::parse(text).ok()?;
    let key = endorsement.subject.public_key;
    if key.to_string() != name {
        return None;
    }
    Some((key, endorsement.killed(chain, now).ok()?))
}

const fn label(db: Db) -> &'static str {
    match db {
        Db::Access => "0",
        Db::Response => "1",
    }
}

#[cfg(test)]
mod tests {
    use keychain::{
        SigningKey,
        chain::Draft,
        endorsement::{self, Purpose, SignRequest},
        statement::{Entries, NewHead, ServiceRevocation},
    };

    use super::*;

    fn key(number: u8) -> SigningKey {
        SigningKey::from_seed(&[number; 32]).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_millis(seconds * 1_000)
    }

    fn seal(draft: Draft, key: &SigningKey) -> SignedEvent {
        let signature = key.sign(draft.payload().as_bytes()).unwrap();
        draft.seal(&signature).unwrap()
    }

    /// Three generations, of which the third taints the second.
    fn events() -> Vec<SignedEvent> {
        let mut events: Vec<SignedEvent> = Vec::new();
        for number in 1..=3_u8 {
            let (own, next) = (key(number), key(number + 1).public_key().digest());
            let draft = match events.last() {
                None => Draft::first(&own.public_key(), &next, at(0)),
                Some(previous) => {
                    let taints = number == 3;
                    Draft::next(previous.event(), &own.public_key(), &next, at(number.into()), taints)
                }
            };
            events.push(seal(draft, &own));
        }
        events
    }

    fn endorse(events: &[SignedEvent], by: usize, subject: u8, service: &str, number: u64) -> String {
        let request = SignRequest {
            purpose: Purpose::Access,
            public_key: key(subject).public_key(),
            expiration: at(1_000),
        };
        let event = events[by].event();
        let draft = endorsement::Draft::numbered(&request, service, number, &event.prefix, &event.id);
        let signer = key(u8::try_from(by).unwrap() + 1);
        draft.seal(&signer.sign(draft.body().as_bytes()).unwrap())
    }

    #[test]
    fn what_was_killed_is_told_from_what_ended_and_from_what_nobody_can_judge() {
        let events = events();
        let mut entries = Entries::default();
        entries.denied.insert(events[0].id());
        entries.keys.insert(key(50).public_key().name(), at(500));
        let up_to_7 = ServiceRevocation { endorsed_up_to: 7, until: at(500) };
        entries.services.insert("edge:shop".to_owned(), up_to_7);
        let new = NewHead {
            event: events[2].event(),
            number: 1,
            issued_at: at(10),
            expiration: at(20),
            entries: &entries,
            audit: None,
        };
        let draft = new.draft().unwrap();
        let head = draft.seal(&key(3).sign(draft.body().as_bytes()).unwrap());
        let mut dead = DeadEntries::new(Directory::connect("unix:///nowhere").unwrap());
        // A clock of before the chain judges the same.
        dead.learn(&events, at(-1_000_000));
        dead.hear(&Head::parse(&head).unwrap(), at(10));
        let chain = dead.chain.as_ref().unwrap();
        let stranger = {
            let draft = Draft::first(&key(60).public_key(), &key(61).public_key().digest(), at(0));
            [seal(draft, &key(60))]
        };
        let named = |number: u8| key(number).public_key().to_string();
        let tainted = endorse(&events, 1, 40, "authd", 1);
        let forged = tainted.replace("authd", "auteh");
        let (far, near) = (at(10_000_000), at(20));
        for (what, name, text, now, expected) in [
            ("denied", named(40), endorse(&events, 0, 40, "authd", 1), far, Some(Some(Killed::Denied))),
            ("tainted", named(40), tainted.clone(), far, Some(Some(Killed::Tainted))),
            ("live", named(40), endorse(&events, 2, 40, "authd", 1), near, Some(None)),
            ("expired", named(40), endorse(&events, 2, 40, "authd", 1), far, Some(None)),
            ("revoked", named(50), endorse(&events, 2, 50, "authd", 1), near, Some(Some(Killed::Revoked))),
            (
                "of a revoked service",
                named(40),
                endorse(&events, 2, 40, "edge:shop", 7),
                near,
                Some(Some(Killed::Revoked)),
            ),
            ("endorsed later", named(40), endorse(&events, 2, 40, "edge:shop", 8), near, Some(None)),
            ("a revocation that ended", named(50), endorse(&events, 2, 50, "authd", 1), at(500), Some(None)),
            ("under another's name", named(41), tainted, near, None),
            ("forged", named(40), forged, near, None),
            ("another chain's", named(40), endorse(&stranger, 0, 40, "authd", 1), near, None),
            ("junk", named(40), "{}".to_owned(), near, None),
        ] {
            let judged = judge(&name, &text, chain, now).map(|(_, killed)| killed);
            assert_eq!(judged, expected, "{what}");
        }
    }
}
