//! A store beside what stood in it before: what is gone, and what went back.

use std::collections::{BTreeMap, BTreeSet};

use keychain::audit::Entry;
use keychain::{Digest, json};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::sweep::is_kept;
use super::{Finding, Judge, PAGE, Stands, Visitor};
use crate::store::tables::{
    account, audit, ban, device, endorsement, feed, outbox, role, secret, session_end, signer,
};
use crate::store::{Fault, Store};

/// What operators have ordered since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// Whether anything was.
    pub ordered: bool,
    /// Whether every account was deleted.
    pub reset: bool,
}

impl Store {
    /// What the audit trail says was ordered after its line of that number.
    pub async fn since(&self, mut line: i64) -> Result<Since, Fault> {
        let mut since = Since::default();
        loop {
            let page = audit::Entity::find()
                .filter(audit::Column::Number.gt(line))
                .order_by_asc(audit::Column::Number)
                .limit(PAGE)
                .all(&self.reader)
                .await?;
            let Some(last) = page.last() else { return Ok(since) };
            line = last.number;
            for row in &page {
                self.macs.verify(row)?;
                let Ok(entry) = Entry::parse(&row.line) else { continue };
                let member = |name| entry.raw(name).and_then(|raw| json::plain_string(raw).ok());
                if member("outcome") == Some("ok") {
                    since.ordered = true;
                    since.reset |= member("operation") == Some("reset");
                }
            }
        }
    }

    /// Compares the store with lines of what stood in it.
    pub async fn compare(
        &self,
        lines: &[Stands],
        since: Since,
        judge: Judge<'_>,
        visitor: &mut impl Visitor,
    ) -> Result<(), Fault> {
        let mut found = |table, id: String, because: &str| {
            visitor.found(Finding { table, id, because: because.to_owned() });
        };
        let now = judge.now.unix_millis();
        if !since.reset {
            for (table, id, because) in self.missing_records(lines).await? {
                found(table, id, &because);
            }
        }
        for line in lines {
            match line {
                Stands::Record { .. } => {}
                Stands::Trail { number, digest } => {
                    let row = audit::Entity::find_by_id(*number).one(&self.reader).await?;
                    if row.is_none_or(|row| row.digest != digest.to_string()) {
                        let because =
                            "the trail lacks this line, which it had: its newest lines were removed";
                        found("audit_lines", number.to_string(), because);
                    }
                }
                Stands::Feed { epoch, position } => {
                    let rows = feed::Entity::find().all(&self.reader).await?;
                    if !rows.iter().any(|row| (row.epoch, row.position) >= (*epoch, *position)) {
                        found(
                            "feeds",
                            format!("{epoch}:{position}"),
                            "the denial feed went back to before it",
                        );
                    }
                }
                Stands::Signer(key) => {
                    let is_there =
                        signer::Entity::find_by_id(key.to_string()).one(&self.reader).await?.is_some();
                    if !is_there && !since.reset {
                        found("signers", key.to_string(), "it was removed");
                    }
                }
                Stands::SessionEnd { id, issued_up_to, end } => {
                    let row = session_end::Entity::find_by_id(id.clone()).one(&self.reader).await?;
                    let is_there = row.is_some_and(|row| row.issued_up_to >= *issued_up_to);
                    if *end > now && !is_there && !since.reset {
                        found("session_ends", id.clone(), "it was removed or put back from before");
                    }
                }
                Stands::Endorsement { key, end } => {
                    let found_row =
                        endorsement::Entity::find_by_id(key.to_string()).one(&self.reader).await?;
                    if *end > now && found_row.is_none() {
                        found("endorsements", key.to_string(), "it was removed before its end");
                    }
                }
                Stands::Secret { name, digest } => {
                    let row = secret::Entity::find_by_id(name.clone()).one(&self.reader).await?;
                    let is_same = row.is_some_and(|row| {
                        *digest == Digest::of_parts(&["keelson store secret\n", &row.name, "\n", &row.value])
                    });
                    if !is_same {
                        found("secrets", name.clone(), "it was removed or exchanged");
                    }
                }
                Stands::Denial { row, end } => {
                    let is_there = outbox::Entity::find_by_id(*row).one(&self.reader).await?.is_some();
                    // Without an order nothing takes a denial away before its end.
                    if !is_there && !since.ordered && end.is_none_or(|end| end > now) {
                        found("outbox", row.to_string(), "it was removed before its end");
                    }
                }
                Stands::Set(set) => {
                    if is_kept(set, judge.now) && !since.reset {
                        let sets = self.sets(&set.table, set.before).await?;
                        if !sets.contains(set) {
                            let table =
                                if set.table == "refreshes" { "refreshes" } else { "spent_challenges" };
                            found(
                                table,
                                set.ends.to_string(),
                                "rows that end then were removed, or others put among them",
                            );
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Records that stood and stand no more, each with what is left of its chain.
    async fn missing_records(&self, lines: &[Stands]) -> Result<Vec<(&'static str, String, String)>, Fault> {
        let mut wanted: BTreeMap<&str, Vec<(&Digest, u64, &Digest)>> = BTreeMap::new();
        for line in lines {
            if let Stands::Record { table, prefix, number, id } = line {
                wanted.entry(table).or_default().push((prefix, *number, id));
            }
        }
        let mut missing = Vec::new();
        macro_rules! look {
            ($table:ident, $name:literal) => {
                let stood = wanted.remove($name).unwrap_or_default();
                let ids = stood.iter().map(|(_, _, id)| id.to_string());
                let there: Vec<String> = $table::Entity::find()
                    .select_only()
                    .column($table::Column::Id)
                    .filter($table::Column::Id.is_in(ids))
                    .into_tuple()
                    .all(&self.reader)
                    .await?;
                let there: BTreeSet<String> = there.into_iter().collect();
                for (prefix, number, id) in stood {
                    if there.contains(&id.to_string()) {
                        continue;
                    }
                    let left = $table::Entity::find()
                        .filter($table::Column::Prefix.eq(prefix.to_string()))
                        .order_by_desc($table::Column::SequenceNumber)
                        .one(&self.reader)
                        .await?;
                    let because = match left {
                        None => format!("its chain is gone; its newest row was number {number}"),
                        Some(left) => format!(
                            "its chain (identity `{}`) lacks the row of number {number} and ends with number {}",
                            left.identity, left.sequence_number
                        ),
                    };
                    missing.push(($name, id.to_string(), because));
                }
            };
        }
        look!(account, "account_records");
        look!(device, "device_records");
        look!(ban, "ban_records");
        look!(role, "role_records");
        Ok(missing)
    }
}
