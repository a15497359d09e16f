//! Taking the lease, and what is done without being asked for.

use std::time::Duration;

use keychain::{
    Nonce,
    audit::{Kind, Record},
};
use sea_orm::DatabaseConnection;

use super::{
    Journal,
    attempt::{begin, condition_of},
};
use crate::ledger::{
    CALL_MAX, Condition, Error, OpenFiles,
    change::{Change, Lines},
    cluster::{self, Cluster, Sign},
    connect,
    endorsements::BLOCK,
    events, lease,
    lease::Attempt,
    lines, room, sql,
    state::{self, Held},
};

impl Journal {
    /// Does what is due.
    pub(super) async fn keep_up(&mut self) {
        if self.held.is_some() && self.lease.fence().is_none() {
            self.lose_lease();
        }
        if self.held.is_none() {
            self.acquire(Duration::ZERO, false).await;
            if self.held.is_none() {
                self.refuse_waiting();
            }
            return;
        }
        if self.copy_is_behind {
            self.complete_copy().await;
        }
        if self.cluster.is_none() && !self.is_sqlite() {
            self.compare_cluster().await;
        }
        if self.room.backlog > 0 || self.room.wal_is_large() {
            self.copy_wal().await;
        }
        if self.room.refused && self.room.is_ample() {
            self.room.refused = false;
        }
        self.note_room();
        if self.room.is_ample() && self.is_sqlite() {
            self.refill().await;
        }
    }

    /// Tries to become, or to be again, the one that writes.
    pub(super) async fn acquire(&mut self, patience: Duration, by_word: bool) {
        let outcome =
            tokio::time::timeout(CALL_MAX.saturating_add(patience), self.try_to_acquire(patience, by_word))
                .await;
        match outcome.unwrap_or(Err(Error::Unwritten(Condition::Frozen))) {
            Ok(None) => self.begin_writing().await,
            Ok(Some(holder)) => self.stop_writing(Condition::Standby { holder }),
            Err(error) => {
                self.database = None;
                self.stop_writing(condition_of(&error));
            }
        }
    }

    /// Answers who else has the lease, if somebody has.
    async fn try_to_acquire(&mut self, patience: Duration, by_word: bool) -> Result<Option<String>, Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => self.connect().await?,
        };
        if let Some(path) = self.files.as_ref().and_then(OpenFiles::exchanged) {
            self.database = Some(database);
            return Err(Error::Unwritten(Condition::Exchanged { path }));
        }
        if self.lease.fence().is_none()
            && let Attempt::Held(holder) = self.lease.take(&database, (patience, by_word)).await?
        {
            self.database = Some(database);
            return Ok(Some(holder));
        }
        let fence = self.lease.fence().ok_or(Error::Closed)?;
        let transaction = begin(&database).await?;
        if !lease::is_held(&transaction, fence).await? {
            self.lease.lose();
            return Ok(Some("another hsmd".to_owned()));
        }
        self.held = Some(state::held(&transaction).await?);
        transaction.rollback().await?;
        // Which one it is now is found out before anything is written.
        self.cluster = None;
        if self.files.is_none()
            && let Some(path) = connect::sqlite_path(&self.settings.url)
        {
            self.files = Some(open_files(&database, &path).await?);
        }
        self.database = Some(database);
        Ok(None)
    }

    /// What a writer sees to before it answers anything.
    async fn begin_writing(&mut self) {
        let Some(held) = self.held.clone() else { return };
        self.share(&held);
        self.shared.numbers().void_up_to(held.endorsement_mark);
        if self.is_sqlite() && self.room.is_ample() {
            self.grow().await;
        }
        self.compare_with_kept(&held).await;
        if !self.is_sqlite() {
            self.compare_cluster().await;
        }
        self.begin_trail(&held).await;
        self.complete_copy().await;
        if self.held.is_some() {
            tracing::info!("the ledger is written here");
            self.note_room();
        }
    }

    /// A trail begins with a line that has a nonce, and says so if it should not be there that it begins.
    async fn begin_trail(&mut self, held: &Held) {
        if held.audit_head.is_some() {
            return;
        }
        let mut nonce = [0; 16];
        if aws_lc_rs::rand::fill(&mut nonce).is_err() {
            return self.stop_writing(Condition::Failing("no randomness".to_owned()));
        }
        let record = Record::new(Kind::Trail).plain("nonce", Nonce::from_bytes(nonce));
        let is_gone = held.events > 0;
        let record = if is_gone {
            const GONE: &str = "the audit trail is gone: the ledger has events and no line about them";
            self.shared.warn("audit", Some(format!("{GONE}; see AUDIT.md, \"The trail is gone\"")));
            tracing::error!("{GONE}");
            record.text("because", GONE).number("events", held.events)
        } else {
            record
        };
        metrics::gauge!("hsmd_audit_trail_gone").set(f64::from(u8::from(is_gone)));
        if let Err(error) = self.carry_out(&Change::Lines, &Lines::Ready(vec![record])).await {
            tracing::error!(error = &error as &dyn std::error::Error, "the audit trail does not begin");
        }
    }

    /// Holds the ledger against what was kept beside the chain copy: one that is older was restored.
    async fn compare_with_kept(&mut self, held: &Held) {
        let kept = self.shared.kept().await;
        if held.events == 0 && kept.is_none() {
            return;
        }
        let restored = kept.as_ref().is_none_or(|kept| kept.endorsement_mark > held.endorsement_mark);
        let cut = match (&kept, &self.database) {
            (Some(kept), Some(database)) => {
                // What cannot be read is found out by the next transaction.
                tokio::time::timeout(CALL_MAX, is_cut(database, kept, held)).await.unwrap_or(false)
            }
            _ => false,
        };
        if cut {
            const CUT: &str =
                "the audit trail lacks lines that a head has covered; see AUDIT.md, \"The trail is cut\"";
            self.shared.warn("audit", Some(CUT.to_owned()));
            tracing::error!("{CUT}");
        }
        metrics::gauge!("hsmd_audit_trail_cut").set(f64::from(u8::from(cut)));
        if restored {
            tracing::warn!("the ledger may have been restored: endorsement numbers leap");
            let kept = kept.unwrap_or_default();
            if let Err(error) = self.carry_out(&Change::Leap(kept), &Lines::NONE).await {
                tracing::error!(error = &error as &dyn std::error::Error, "endorsement numbers did not leap");
            }
        }
    }

    /// Holds the PostgreSQL cluster against the one that was recorded. In another one, or on another timeline, commits may
    /// be lost: endorsement numbers leap before it is recorded. What is not done is tried again at the next tick.
    async fn compare_cluster(&mut self) {
        let Some(database) = self.database.clone() else { return };
        let reading = async {
            let recorded = state::note(&database, cluster::NOTE).await?;
            Ok((cluster::find(&database).await?, recorded.as_deref().and_then(Cluster::parse)))
        };
        let read = self.shared.reading(reading).await;
        self.warn_unknown_cluster(read.as_ref().err());
        let Ok((found, recorded)) = read else { return };
        let kept = self.shared.kept().await.unwrap_or_default();
        if let Some(sign) = cluster::judge(recorded.as_ref(), kept.cluster.as_ref(), &found) {
            tracing::error!(%found, ?recorded, kept = ?kept.cluster, "the ledger may lack commits: {sign}");
            self.warn_changed_cluster(sign);
            if self.carry_out(&Change::Leap(kept), &Lines::NONE).await.is_err() {
                return;
            }
        }
        let note = Change::Note { name: cluster::NOTE, text: Some(found.to_string()) };
        if recorded.as_ref() != Some(&found) && self.carry_out(&note, &Lines::NONE).await.is_err() {
            return;
        }
        if let Err(error) = self.shared.copy().keep_cluster(found.clone()).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "the cluster is not kept beside the chain copy: its return would not be noticed"
            );
        }
        self.cluster = Some(found);
    }

    /// The warning stays until the process ends: what was lost is for an operator to find out.
    fn warn_changed_cluster(&self, sign: Sign) {
        metrics::gauge!("hsmd_ledger_cluster_changed").set(1.0);
        let warning = format!(
            "the ledger may lack commits: {sign}. Endorsement numbers leap, and the ledger is compared with the chain copy \
             and the published chain; see RECOVERY.md, \"Another cluster or timeline\""
        );
        self.shared.warn("ledgerCluster", Some(warning));
    }

    fn warn_unknown_cluster(&self, error: Option<&Error>) {
        metrics::gauge!("hsmd_ledger_cluster_unknown").set(f64::from(u8::from(error.is_some())));
        let warning = error.map(|error| {
            format!(
                "a failover that loses commits would not be noticed: {}; let hsmd's role execute pg_control_system, \
                 pg_walfile_name and pg_current_wal_lsn",
                crate::ledger::error::with_causes(error)
            )
        });
        self.shared.warn("ledgerClusterUnknown", warning);
    }

    /// Keeps that a block of numbers may be given out, before it is.
    pub(super) async fn keep_next_mark(&self, held: &Held) {
        let kept = self.shared.copy().keep_mark(held.endorsement_mark.saturating_add(BLOCK)).await;
        let warning = kept.err().map(|error| format!("a restored ledger would not be noticed: {error}"));
        self.shared.warn("headCopy", warning);
    }

    /// Everything that follows from what was written.
    pub(super) async fn note_written(&mut self, change: &Change, kinds: &[Kind], written: Held) {
        let before = self.held.as_ref().map_or(0, |held| held.endorsement_mark);
        let mark = written.endorsement_mark;
        self.share(&written);
        self.held = Some(written);
        if matches!(change, Change::Reserve) {
            self.shared.numbers().reserve(mark.saturating_sub(BLOCK).saturating_add(1), mark);
        } else if change.voids_numbers() || mark != before {
            self.shared.numbers().void_up_to(mark);
        }
        for kind in kinds {
            metrics::counter!("hsmd_audit_entries_total", "kind" => kind.as_str()).increment(1);
        }
        if change.events().is_empty() {
            return;
        }
        if matches!(change, Change::Import { .. }) {
            // The copy may have what the ledger had lost.
            return self.complete_copy().await;
        }
        if let Err(error) = self.shared.copy().append(change.events()).await {
            self.copy_is_behind = true;
            self.warn_copy(Some(error.to_string()));
        }
    }

    /// Brings the chain copy up to the ledger.
    async fn complete_copy(&mut self) {
        const TEXTS: &str = "SELECT published FROM events ORDER BY sequence_number";
        let reading = async {
            let rows = sql::all(&self.shared.reader, TEXTS, []).await?;
            let texts: Result<Vec<String>, _> = rows.iter().map(|row| row.try_get("", "published")).collect();
            Ok(texts?)
        };
        let compared = match self.shared.reading(reading).await {
            Ok(texts) => {
                let events = texts.len();
                self.shared.copy().complete(texts).await.map(|copied| (copied, events))
            }
            Err(error) => Err(error),
        };
        self.copy_is_behind = compared.is_err();
        self.warn_copy(match compared {
            Ok((copied, events)) => {
                self.shared.note_copied(&copied);
                let (same, beyond) = (copied.same, copied.rest.len());
                match beyond {
                    0 => None,
                    _ if same == events => Some(format!(
                        "it has {beyond} events that the ledger lacks: the ledger was restored (`opsctl hsm recover`)"
                    )),
                    _ => Some(format!(
                        "it has another event {same} than the ledger: see whose it is, and move it away"
                    )),
                }
            }
            Err(error) => Some(error.to_string()),
        });
    }

    fn warn_copy(&self, because: Option<String>) {
        metrics::gauge!("hsmd_chain_copy_behind").set(f64::from(u8::from(because.is_some())));
        let path = self.settings.chain_copy.display();
        self.shared.warn("chainCopy", because.map(|because| format!("the chain copy `{path}`: {because}")));
    }

    /// Says how much room there is, and whether that is too little.
    fn note_room(&mut self) {
        if let Some(free) = self.room.free() {
            metrics::gauge!("hsmd_ledger_room_bytes").set(crate::ledger::gauge(free));
        }
        let days = self.room.note();
        if let Some(days) = days {
            metrics::gauge!("hsmd_ledger_room_days").set(crate::ledger::gauge(days));
        }
        let short = days.filter(|days| *days < 30);
        let short = short.map(|days| format!("room for {days} days is left under the ledger"));
        let no_promise = self.room.no_promise();
        metrics::gauge!("hsmd_ledger_room_promised").set(f64::from(u8::from(no_promise.is_none())));
        self.shared.warn("room", short.or(no_promise));
        self.say(self.room.shortage().unwrap_or(Condition::Writing));
    }

    /// Grows the WAL by writing to it.
    async fn grow(&mut self) {
        let Some(database) = &self.database else { return };
        if let Err(error) = room::grow_wal(database).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "no room is reserved for the chain yet");
            self.room.refused = true;
        }
    }

    /// Copies a large WAL into the database, and says so if somebody keeps that from being done.
    async fn copy_wal(&mut self) {
        let Some(database) = &self.database else { return };
        match tokio::time::timeout(CALL_MAX, room::copy_wal(database)).await {
            Ok(Ok(backlog)) => self.room.backlog = backlog,
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot copy the WAL into the ledger"
                );
            }
            Err(_) => tracing::warn!("cannot copy the WAL into the ledger: the database does not answer"),
        }
        let backlog = self.room.backlog;
        metrics::gauge!("hsmd_ledger_wal_backlog_bytes").set(crate::ledger::gauge(backlog));
        let warning = (backlog > 0).then(|| {
            format!(
                "{} MiB of the ledger stand in its WAL alone, because something reads it for long: end that (a backup, \
                 an open `sqlite3`)",
                backlog >> 20
            )
        });
        self.shared.warn("wal", warning);
        if backlog == 0 && self.room.is_ample() {
            self.grow().await;
        }
    }

    async fn refill(&mut self) {
        let Some(database) = &self.database else { return };
        if let Err(error) = room::fill_ballast(database).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "no room is reserved for the chain yet");
        }
    }

    pub(super) fn note_failure(&mut self, error: &Error) {
        metrics::counter!("hsmd_ledger_failures_total").increment(1);
        let text = crate::ledger::error::with_causes(error);
        tracing::warn!(error = text, "a write of the ledger has failed; reading what became of it");
        if text.contains("disk is full") {
            self.room.refused = true;
        }
    }

    /// A new connection that writes.
    pub(super) async fn connect(&self) -> Result<DatabaseConnection, Error> {
        connect::connect(&self.settings.url, 1).await
    }

    pub(super) fn lose_lease(&mut self) {
        self.lease.lose();
        self.stop_writing(Condition::Standby { holder: "another hsmd".to_owned() });
    }

    pub(super) fn stop_writing(&mut self, condition: Condition) {
        self.held = None;
        self.say(condition);
    }

    /// Why nothing is written now.
    pub(super) fn unwritten(&self) -> Error {
        Error::Unwritten(self.shared.condition.borrow().clone())
    }

    fn say(&self, condition: Condition) {
        for label in Condition::LABELS {
            let is = f64::from(u8::from(label == condition.label()));
            metrics::gauge!("hsmd_ledger_condition", "condition" => label).set(is);
        }
        self.shared.condition.send_if_modified(|now| {
            let changed = now.label() != condition.label();
            if changed {
                tracing::warn!(condition = %condition, "the ledger");
            }
            *now = condition;
            changed
        });
    }

    fn share(&self, held: &Held) {
        let mut head = self.shared.audit_head.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *head = held.audit_head;
        drop(head);
        self.shared.note_trusted(held.trusted_time);
    }

    fn is_sqlite(&self) -> bool {
        connect::sqlite_path(&self.settings.url).is_some()
    }
}

/// Whether the trail lacks the line that it had come to when a head was kept.
async fn is_cut(on: &DatabaseConnection, kept: &crate::ledger::Kept, held: &Held) -> bool {
    let Some(line) = kept.audit else { return false };
    let archived = lines::trail(on).await.ok().and_then(|trail| trail.cut);
    if archived.is_some_and(|cut| cut.number >= line.number) {
        return false;
    }
    held.audit_head.is_none_or(|head| head.number < line.number)
        || !lines::has(on, &line).await.unwrap_or(true)
}

/// The files that SQLite has open, once it has made all of them.
async fn open_files(database: &DatabaseConnection, path: &std::path::Path) -> Result<OpenFiles, Error> {
    events::count(database).await?;
    OpenFiles::of(path).map_err(|path| Error::Unwritten(Condition::Exchanged { path }))
}
