//! The tables that have no chains: each row by itself, the audit trail line by line, and the outbox by what
//! records say.

use std::collections::BTreeMap;

use keychain::audit::{Entry, Trail};
use keychain::endorsement::Endorsement;
use keychain::feed::{Cause, Place};
use keychain::{Digest, PublicKey, Timestamp};
use sea_orm::sea_query::Value;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::stands::Set;
use super::{PAGE, Stands, Visitor, Walk};
use crate::record::{AccountState, DeviceState};
use crate::store::mac::{Row, name_of, table_of};
use crate::store::tables::{
    audit, challenge, endorsement, feed, mark, name, outbox, refresh, secret, session_end, signer,
};
use crate::store::{Fault, Store, owned, rows};

/// How long after it was decided a row may still be on its way into the database: the longest transaction, and the
/// difference of clocks.
const WRITTEN_WITHIN_MS: i64 = 5 * 60 * 1_000;

/// The span in which the refreshes of a set end.
const REFRESHES_MS: i64 = 3_600_000;

/// The span in which the challenges of a set are forgotten.
const CHALLENGES_MS: i64 = 1_000;

/// How long before it is forgotten a challenge is spent at the latest: a minute, less the difference of clocks.
const SPENT_BEFORE_MS: i64 = 30_000;

/// How much longer than a refresh its row is kept, and how far another authd's clock may be ahead.
const KEPT_MS: i64 = 3_600_000 - WRITTEN_WITHIN_MS;

/// Goes through a table page by page; the body gets each row whose MAC holds.
macro_rules! each_row {
    ($walk:ident, $table:ident by $key:ident ($field:ident), |$row:ident| $body:block) => {
        let mut after = None;
        loop {
            let page = $walk.store.page::<$table::Entity>($table::Column::$key, after).await?;
            let Some(last) = page.last() else { break };
            after = Some(Value::from(last.$field.clone()));
            for $row in page {
                $walk.count(table_of::<$table::Model>());
                let verified = $walk.store.macs.verify(&$row);
                if $walk.note(verified)?.is_some() $body
            }
        }
    };
}

impl<V: Visitor> Walk<'_, V> {
    pub(super) async fn tables(&mut self) -> Result<(), Fault> {
        self.trail().await?;
        self.signers().await?;
        self.endorsements().await?;
        self.refreshes().await?;
        self.challenges().await?;
        self.outbox().await?;
        self.owned().await?;
        self.single_rows().await
    }

    async fn trail(&mut self) -> Result<(), Fault> {
        let (mut trail, mut is_broken) = (Trail::new(), false);
        each_row!(self, audit by Number (number), |row| {
            if is_broken {
                continue;
            }
            let stepped = Entry::parse(&row.line).and_then(|entry| {
                trail.step(&entry)?;
                Ok(entry.head)
            });
            let is_same = |head: &keychain::audit::Head| {
                i64::try_from(head.number).is_ok_and(|number| number == row.number)
                    && head.digest.to_string() == row.digest
            };
            is_broken = !stepped.as_ref().is_ok_and(is_same);
            if is_broken {
                self.found("audit_lines", row.number.to_string(), "it does not follow the line before");
            }
        });
        if let Some(head) = trail.head().filter(|_| !is_broken) {
            let number = i64::try_from(head.number).unwrap_or(i64::MAX);
            self.visitor.stands(Stands::Trail { number, digest: head.digest });
        }
        Ok(())
    }

    async fn signers(&mut self) -> Result<(), Fault> {
        each_row!(self, signer by PublicKey (public_key), |row| {
            match key_of(&row.public_key, &row.endorsement) {
                Some(key) => self.visitor.stands(Stands::Signer(key)),
                None => self.found("signers", row.public_key, "its endorsement is not of its key"),
            }
        });
        Ok(())
    }

    async fn endorsements(&mut self) -> Result<(), Fault> {
        each_row!(self, endorsement by PublicKey (public_key), |row| {
            match key_of(&row.public_key, &row.endorsement) {
                Some(key) => self.visitor.stands(Stands::Endorsement { key, end: row.ends_at }),
                None => self.found("endorsements", row.public_key, "its endorsement is not of its key"),
            }
        });
        Ok(())
    }

    async fn refreshes(&mut self) -> Result<(), Fault> {
        let before = self.judge.now.unix_millis() - WRITTEN_WITHIN_MS;
        let mut sets = Sets::new(before);
        each_row!(self, refresh by Digest (digest), |row| {
            let read = rows::refresh(&self.store.macs, &row).map(drop);
            self.note(read)?;
            sets.add_refresh(&row);
        });
        self.stand(sets, "refreshes");
        Ok(())
    }

    async fn challenges(&mut self) -> Result<(), Fault> {
        let mut sets = Sets::new(self.judge.now.unix_millis());
        each_row!(self, challenge by Nonce (nonce), |row| {
            sets.add_challenge(&row);
        });
        self.stand(sets, "spent_challenges");
        Ok(())
    }

    fn stand(&mut self, sets: Sets, table: &str) {
        sets.into_sets(table).for_each(|set| self.visitor.stands(Stands::Set(set)));
    }

    async fn outbox(&mut self) -> Result<(), Fault> {
        let now = self.judge.now.unix_millis();
        each_row!(self, outbox by Id (id), |row| {
            let has_ended = row.expires_at.is_some_and(|end| end <= now);
            if !has_ended {
                if let Some(because) = self.unfounded(&row).await? {
                    self.found("outbox", row.id.to_string(), because);
                }
                self.visitor.stands(Stands::Denial { row: row.id, end: row.expires_at });
            }
        });
        Ok(())
    }

    /// Why no record says a denial, if none does: it was put back after it was lifted.
    async fn unfounded(&mut self, row: &outbox::Model) -> Result<Option<&'static str>, Fault> {
        if row.lifted || row.held_at.is_some() {
            return Ok(None);
        }
        let digest = |text: &str| Digest::parse(text).ok();
        let place = digest(&row.subject).zip(digest(&row.account)).zip(Cause::parse(&row.cause).ok());
        let Some(((subject, account), cause)) = place else { return Ok(Some("it cannot be read")) };
        let place = Place { subject, account, cause };
        let standing = self.store.standing(&place.account).await;
        // What is wrong with the records was told.
        let Ok(standing) = standing else { return Ok(None) };
        let now = self.judge.now;
        let is_said = match cause {
            Cause::Sessions => {
                let id = owned::id_of("session_ends", &account, &subject);
                let end = session_end::Entity::find_by_id(id).one(&self.store.reader).await?;
                end.is_some_and(|end| row.issued_up_to.is_some_and(|last| last <= end.issued_up_to))
            }
            Cause::Ban => standing.ban.as_ref().is_some_and(|ban| ban.is_in_force(now)),
            Cause::Deletion => {
                standing.account.as_ref().is_some_and(|account| account.state == AccountState::Deleted)
            }
            Cause::Revocation => standing
                .devices
                .iter()
                .any(|device| device.device == subject && device.state == DeviceState::Revoked),
        };
        if is_said {
            return Ok(None);
        }
        // It may have been lifted since it was read.
        let is_there = outbox::Entity::find_by_id(row.id).one(&self.store.reader).await?.is_some();
        Ok(is_there.then_some("no record says what it denies"))
    }

    /// Names of devices, and ended sessions.
    async fn owned(&mut self) -> Result<(), Fault> {
        each_row!(self, name by Id (id), |_row| {});
        let now = self.judge.now.unix_millis();
        each_row!(self, session_end by Id (id), |row| {
            if row.forgotten_at > now {
                if self.is_unheard(&row).await? {
                    let because = "its denial is missing in the outbox, so edges may not hear of it";
                    self.found("session_ends", row.id.clone(), because);
                }
                self.visitor.stands(Stands::SessionEnd { id: row.id, issued_up_to: row.issued_up_to, end: row.forgotten_at });
            }
        });
        Ok(())
    }

    /// Whether edges are to deny the tokens of ended sessions, and the outbox does not say so.
    async fn is_unheard(&self, row: &session_end::Model) -> Result<bool, Fault> {
        let denial = i64::try_from(self.judge.denial.as_millis()).unwrap_or(i64::MAX);
        if row.issued_up_to.saturating_add(denial) <= self.judge.now.unix_millis() {
            return Ok(false);
        }
        let told = outbox::Entity::find()
            .filter(outbox::Column::Subject.eq(&row.device))
            .filter(outbox::Column::Account.eq(&row.identity))
            .filter(outbox::Column::Cause.eq(Cause::Sessions.as_str()))
            .filter(outbox::Column::Lifted.eq(false))
            .filter(outbox::Column::IssuedUpTo.gte(row.issued_up_to))
            .one(&self.store.reader)
            .await?;
        if told.is_some() {
            return Ok(false);
        }
        // A later end may have taken the place of this one since.
        let now = session_end::Entity::find_by_id(row.id.clone()).one(&self.store.reader).await?;
        Ok(now.as_ref() == Some(row))
    }

    async fn single_rows(&mut self) -> Result<(), Fault> {
        let mut is_there = BTreeMap::from([("feeds", false), ("secrets", false)]);
        each_row!(self, secret by Name (name), |row| {
            is_there.insert("secrets", true);
            let digest = Digest::of_parts(&["keelson store secret\n", &row.name, "\n", &row.value]);
            self.visitor.stands(Stands::Secret { name: row.name, digest });
        });
        each_row!(self, feed by Name (name), |row| {
            is_there.insert("feeds", true);
            self.visitor.stands(Stands::Feed { epoch: row.epoch, position: row.position });
        });
        each_row!(self, mark by Name (name), |_row| {});
        // A store that has served has both: authd writes them at its start.
        let has_served = self.counts.0.get("account_records").is_some_and(|count| *count > 0);
        for (table, _) in is_there.into_iter().filter(|(_, is_there)| !is_there && has_served) {
            let is_counted = self.counts.0.contains_key(table);
            if !is_counted {
                self.found(table, "-", "its row is missing");
            }
        }
        Ok(())
    }
}

impl Store {
    /// The rows after a key, in its order.
    async fn page<E: EntityTrait>(
        &self,
        key: E::Column,
        after: Option<Value>,
    ) -> Result<Vec<E::Model>, Fault> {
        let mut rows = E::find();
        if let Some(after) = after {
            rows = rows.filter(key.gt(after));
        }
        Ok(rows.order_by_asc(key).limit(PAGE).all(&self.reader).await?)
    }

    /// The sets of a table as they are now, of rows that were written before a moment.
    pub(super) async fn sets(&self, table: &str, before: i64) -> Result<Vec<Set>, Fault> {
        let mut sets = Sets::new(before);
        let mut after = None;
        if table == "refreshes" {
            loop {
                let page = self.page::<refresh::Entity>(refresh::Column::Digest, after).await?;
                let Some(last) = page.last() else { break };
                after = Some(Value::from(last.digest.clone()));
                for row in &page {
                    sets.add_refresh(row);
                }
            }
        } else {
            loop {
                let page = self.page::<challenge::Entity>(challenge::Column::Nonce, after).await?;
                let Some(last) = page.last() else { break };
                after = Some(Value::from(last.nonce.clone()));
                for row in &page {
                    sets.add_challenge(row);
                }
            }
        }
        Ok(sets.into_sets(table).collect())
    }
}

/// Whether no row of a set has ended so long ago that it may have been removed.
pub(super) fn is_kept(set: &Set, now: Timestamp) -> bool {
    let now = now.unix_millis();
    if set.table == "refreshes" { set.ends > now - KEPT_MS } else { set.ends > now }
}

/// Sets of rows, by when they end.
struct Sets {
    before: i64,
    sets: BTreeMap<i64, (u64, [u8; 32])>,
}

impl Sets {
    const fn new(before: i64) -> Self {
        Self { before, sets: BTreeMap::new() }
    }

    fn add_refresh(&mut self, row: &refresh::Model) {
        if row.issued_at < self.before {
            let ends = row.refresh_expiry - row.refresh_expiry.rem_euclid(REFRESHES_MS);
            self.add(ends, row, &row.cause);
        }
    }

    fn add_challenge(&mut self, row: &challenge::Model) {
        if row.forgotten_at <= self.before + SPENT_BEFORE_MS {
            let ends = row.forgotten_at - row.forgotten_at.rem_euclid(CHALLENGES_MS);
            self.add(ends, row, "");
        }
    }

    fn add<R: Row>(&mut self, ends: i64, row: &R, more: &str) {
        let (count, sum) = self.sets.entry(ends).or_default();
        *count += 1;
        let digest = Digest::of_parts(&["keelson store row\n", &name_of(row), "\n", more]);
        for (sum, byte) in sum.iter_mut().zip(digest.bytes()) {
            *sum ^= byte;
        }
    }

    fn into_sets(self, table: &str) -> impl Iterator<Item = Set> {
        let before = self.before;
        self.sets.into_iter().map(move |(ends, (count, sum))| {
            let sum = blake3::Hash::from_bytes(sum).to_hex().to_string();
            Set { table: table.to_owned(), ends, before, count, sum }
        })
    }
}

/// The key of a row that has an endorsement, if the endorsement is of that key.
fn key_of(key: &str, endorsement: &str) -> Option<PublicKey> {
    let key = PublicKey::parse(key).ok()?;
    let endorsement = Endorsement::parse(endorsement).ok()?;
    (endorsement.subject.public_key == key).then_some(key)
}
