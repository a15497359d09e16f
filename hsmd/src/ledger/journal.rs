//! The one task that writes the ledger.

mod attempt;
mod upkeep;

use std::{sync::Arc, time::Duration};

use keychain::audit::{Head, Record};
use sea_orm::DatabaseConnection;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    CALL_MAX, Cluster, Condition, Error, Settings,
    chain_copy::ChainCopy,
    change::{Change, Effect, Lines},
    connect, endorsements,
    lease::Lease,
    open_files::OpenFiles,
    room::Room,
    schema,
    state::{Held, Shared},
};
use crate::failure_point::{self, Step};

/// Groups of lines that go into one transaction.
const GROUP: usize = 256;

/// How often what is not due to anybody's asking is done, and a ledger that is not written is tried again.
const TICK: Duration = Duration::from_secs(1);

/// How often one write is tried before its failure is answered.
const ATTEMPTS: usize = 2;

/// A change that is asked for, with its lines.
pub(super) struct Ask {
    pub(super) change: Change,
    pub(super) lines: Lines,
    pub(super) reply: oneshot::Sender<Result<Effect, Error>>,
}

/// Lines that are asked for.
pub(super) struct WaitingLines {
    pub(super) lines: Vec<Record>,
    /// What the endorsement took whose line it is.
    pub(super) taken: Option<endorsements::Taken>,
    pub(super) reply: oneshot::Sender<Result<Head, Error>>,
}

pub(super) struct Journal {
    settings: Settings,
    asked: mpsc::Receiver<Ask>,
    waiting: mpsc::Receiver<WaitingLines>,
    shared: Arc<Shared>,
    /// Dropped after every error whose outcome is not known.
    database: Option<DatabaseConnection>,
    lease: Lease,
    /// The files of an SQLite ledger.
    files: Option<OpenFiles>,
    /// The PostgreSQL cluster that the ledger is in; nothing while that is not known, and on SQLite.
    cluster: Option<Cluster>,
    /// What the ledger holds; nothing while it is not written.
    held: Option<Held>,
    room: Room,
    /// The chain copy lacks an event that the ledger has.
    copy_is_behind: bool,
}

impl Journal {
    pub(super) async fn open(
        settings: Settings,
        asked: mpsc::Receiver<Ask>,
        waiting: mpsc::Receiver<WaitingLines>,
    ) -> Result<Self, Error> {
        let database = connect::connect(&settings.url, 1).await?;
        failure_point::write(Step::First, "before-migrate")?;
        schema::run(&database).await?;
        failure_point::write(Step::First, "after-migrate")?;
        let reader = connect::connect(&settings.url, 2).await?;
        let file = connect::sqlite_path(&settings.url);
        let copy = ChainCopy::new(settings.chain_copy.clone());
        let mut journal = Self {
            asked,
            waiting,
            shared: Arc::new(Shared::new(reader, copy)),
            database: Some(database),
            lease: Lease::new(&settings.url, settings.holder.clone()),
            files: None,
            cluster: None,
            held: None,
            room: Room::new(file.as_deref(), settings.room_floor),
            copy_is_behind: false,
            settings,
        };
        let patience = journal.settings.patience;
        journal.acquire(patience, false).await;
        Ok(journal)
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Works until no sender is left, or the ledger is closed.
    pub(super) async fn run(mut self) {
        let mut tick = tokio::time::interval_at(Instant::now() + TICK, TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // The chain goes before every group of lines.
                biased;
                ask = self.asked.recv() => match ask {
                    Some(Ask { change: Change::Close, reply, .. }) => {
                        self.close().await;
                        drop(reply.send(Ok(Effect::Done)));
                        return;
                    }
                    Some(Ask { change: Change::TakeLease, reply, .. }) => {
                        drop(reply.send(self.take_lease().await));
                    }
                    Some(ask) => self.serve(ask).await,
                    None => break,
                },
                _ = tick.tick() => self.keep_up().await,
                Some(lines) = self.waiting.recv() => self.serve_lines(lines).await,
            }
        }
        self.close().await;
    }

    /// Takes the lease from its holder.
    async fn take_lease(&mut self) -> Result<Effect, Error> {
        if self.held.is_none() || self.lease.fence().is_none() {
            self.acquire(Duration::ZERO, true).await;
        }
        if self.held.is_some() { Ok(Effect::Done) } else { Err(self.unwritten()) }
    }

    async fn serve(&mut self, ask: Ask) {
        let Ask { change, lines, reply } = ask;
        let outcome = self.carry_out(&change, &lines).await.map(|(effect, _)| effect);
        drop(reply.send(outcome));
    }

    /// Writes the lines that wait as one group. Meanwhile the next gathers.
    async fn serve_lines(&mut self, first: WaitingLines) {
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(more) = self.waiting.try_recv()
        {
            group.push(more);
        }
        let group = self.refuse_void(group);
        if group.is_empty() {
            return;
        }
        let records: Vec<_> = group.iter().flat_map(|waiting| waiting.lines.iter().cloned()).collect();
        match self.carry_out(&Change::Lines, &Lines::Ready(records)).await {
            Ok((_, heads)) => answer(group, &heads),
            Err(error) => {
                for waiting in group {
                    drop(waiting.reply.send(Err(error.clone())));
                }
            }
        }
    }

    /// Refuses endorsements that must not leave, before they are written down.
    fn refuse_void(&self, group: Vec<WaitingLines>) -> Vec<WaitingLines> {
        let shortage = self.room.shortage();
        let refusal = |waiting: &WaitingLines| {
            let taken = waiting.taken.as_ref()?;
            if let Some(shortage) = &shortage {
                return Some(Error::Unwritten(shortage.clone()));
            }
            self.held.as_ref()?.revocations.demand_valid(taken).err()
        };
        let judge = |waiting: WaitingLines| match refusal(&waiting) {
            Some(error) => {
                drop(waiting.reply.send(Err(error)));
                None
            }
            None => Some(waiting),
        };
        group.into_iter().filter_map(judge).collect()
    }

    /// Refuses all that waits: trying again to write takes longer than from one tick to the next.
    fn refuse_waiting(&mut self) {
        let error = self.unwritten();
        while let Ok(waiting) = self.waiting.try_recv() {
            drop(waiting.reply.send(Err(error.clone())));
        }
    }

    /// Releases the lease. The database closes with the last connection, so that SQLite stands in its one file.
    async fn close(&mut self) {
        let condition = Condition::Failing("it is closed".to_owned());
        self.shared.condition.send_replace(condition);
        self.held = None;
        let closing = async {
            self.lease.release(self.database.as_ref()).await;
            for database in self.database.take().into_iter().chain([self.shared.reader.clone()]) {
                if let Err(error) = database.close().await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot close the ledger");
                }
            }
        };
        if tokio::time::timeout(CALL_MAX, closing).await.is_err() {
            tracing::warn!("cannot close the ledger: its database does not answer");
        }
    }
}

/// Answers each with the last of its lines.
fn answer(group: Vec<WaitingLines>, heads: &[Head]) {
    let mut written = 0_usize;
    for waiting in group {
        written = written.saturating_add(waiting.lines.len());
        let head = written.checked_sub(1).and_then(|last| heads.get(last)).copied();
        drop(waiting.reply.send(head.ok_or(Error::Closed)));
    }
}
