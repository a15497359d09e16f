//! The thread that writes the trail: takes what is asked, in groups, and answers when it is written or durable.
//!
//! A disk that is full or fails is no reason to end. Whatever is asked meanwhile is refused and counted, the
//! disk is tried again every [`RETRY`], and then the trail goes on where it was, and says for how long it could
//! not be written. What is owed ([`Desk::owe`]) is kept until then.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use keychain::{
    Timestamp,
    audit::{Head, Kind, Record},
};
use tokio::sync::{oneshot, watch};

use super::{Error, writer::Writer};
use crate::{chain::to_gauge, clock::Clock};

/// How long lines may be written without being durable.
const SYNC: Duration = Duration::from_millis(250);

/// How often a disk that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Lines that are written at once.
const BATCH: usize = 256;

/// Lines that are kept while the trail cannot be written: more than the operations that can be under way and the
/// kinds of refusals that are told apart.
const OWED_MAX: usize = 1024;

/// When a caller is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Once the line is durable.
    Durable,
    /// Once the line is written.
    Written,
}

/// One line that is asked for; nothing but durability if there is none.
pub(super) struct Asked {
    pub(super) record: Option<Record>,
    pub(super) when: When,
    pub(super) reply: oneshot::Sender<Result<Option<Head>, Error>>,
}

/// What the thread shares with those who ask.
#[derive(Default)]
pub(super) struct Desk {
    /// Lines that tell what has happened already: written before any other, as soon as that is possible.
    owed: Mutex<Vec<Record>>,
    /// Since when the thread has been waiting for the disk.
    since: Mutex<Option<Instant>>,
    /// How much was refused because the trail cannot be written.
    refused: AtomicU64,
}

impl Desk {
    /// Leaves lines that are written with the next, or once the disk takes any.
    pub(super) fn owe(&self, records: impl IntoIterator<Item = Record>) {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        owed.extend(records);
        if owed.len() > OWED_MAX {
            tracing::error!(lost = owed.len() - OWED_MAX, "lines that are owed to the audit trail are lost");
            owed.truncate(OWED_MAX);
        }
    }

    /// Counts one more that was refused because the trail cannot be written.
    pub(super) fn note_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// For how long the disk has not answered.
    pub(super) fn waits_for(&self) -> Duration {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn take(&self) -> Vec<Record> {
        std::mem::take(&mut *self.owed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts back what could not be written, before what came since.
    fn put_back(&self, records: Vec<Record>) {
        let since = self.take();
        self.owe(records.into_iter().chain(since));
    }

    fn note_wait(&self, since: Option<Instant>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// What the thread works with.
pub(super) struct Scribe {
    writer: Writer,
    clock: Box<dyn Clock>,
    asked: Receiver<Asked>,
    desk: Arc<Desk>,
    told: watch::Sender<Option<Arc<str>>>,
    trouble: Option<Trouble>,
    /// When the oldest line that is not durable was written.
    since: Option<Instant>,
}

/// Why the trail cannot be written, and since when.
struct Trouble {
    because: Arc<str>,
    since: Timestamp,
    retry: Instant,
}

impl Scribe {
    pub(super) fn new(
        writer: Writer,
        clock: Box<dyn Clock>,
        asked: Receiver<Asked>,
        desk: Arc<Desk>,
        told: watch::Sender<Option<Arc<str>>>,
    ) -> Self {
        Self { writer, clock, asked, desk, told, trouble: None, since: None }
    }

    /// Works until nobody can ask any more.
    pub(super) fn run(mut self) {
        loop {
            match self.asked.recv_timeout(self.pause()) {
                Ok(first) => {
                    let mut batch = vec![first];
                    batch.extend(self.asked.try_iter().take(BATCH - 1));
                    self.serve(batch);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.keep_up();
        }
        if self.trouble.is_some() {
            // The last chance for what is owed.
            self.go_on();
        }
        self.sync();
    }

    /// How long nothing has to be done.
    fn pause(&self) -> Duration {
        const LONG: Duration = Duration::from_mins(1);
        match (&self.trouble, self.since) {
            (Some(trouble), _) => trouble.retry.saturating_duration_since(Instant::now()),
            (None, Some(since)) => SYNC.saturating_sub(since.elapsed()),
            (None, None) => LONG,
        }
    }

    /// What is due without being asked for.
    fn keep_up(&mut self) {
        match (&self.trouble, self.since) {
            (Some(trouble), _) if trouble.retry <= Instant::now() => self.go_on(),
            (None, Some(since)) if since.elapsed() >= SYNC => self.sync(),
            _ => {}
        }
        let lag = u64::try_from(self.writer.lag()).unwrap_or(u64::MAX);
        metrics::gauge!("hsmd_audit_lag_entries").set(to_gauge(lag));
    }

    fn serve(&mut self, batch: Vec<Asked>) {
        if self.trouble.is_none() && !self.writer.is_open() {
            self.go_on();
        }
        if self.trouble.is_some() {
            return self.refuse(batch);
        }
        let mut records = self.desk.take();
        let owed = records.len();
        records.extend(batch.iter().filter_map(|asked| asked.record.clone()));
        let at = self.clock.now();
        let written = self.wait(|writer| writer.append(&records, at));
        self.since = self.since.or_else(|| (self.writer.lag() > 0).then(Instant::now));
        // The lines are in the trail even if this failed: of what was owed nothing has to be kept.
        let heads = match written {
            Ok(heads) => heads,
            Err(error) => {
                self.fail(&error);
                return self.refuse(batch);
            }
        };
        count(&records);
        self.answer(batch, heads.into_iter().skip(owed));
    }

    /// Answers those whose lines were written: at once, or when the lines are durable.
    fn answer(&mut self, batch: Vec<Asked>, mut heads: impl Iterator<Item = Head>) {
        let (mut waiting, mut places) = (Vec::new(), Vec::new());
        for asked in batch {
            let head = if asked.record.is_some() { heads.next() } else { self.writer.head() };
            if asked.when == When::Written {
                drop(asked.reply.send(Ok(head)));
            } else {
                waiting.push(asked);
                places.push(head);
            }
        }
        if waiting.is_empty() {
            return;
        }
        self.sync();
        if self.trouble.is_some() {
            return self.refuse(waiting);
        }
        for (asked, head) in waiting.into_iter().zip(places) {
            drop(asked.reply.send(Ok(head)));
        }
    }

    fn sync(&mut self) {
        if self.trouble.is_none() {
            match self.wait(Writer::sync) {
                Ok(()) => self.since = None,
                Err(error) => self.fail(&error),
            }
        }
    }

    /// Begins another file, with everything that is not durable or is owed.
    fn go_on(&mut self) {
        let at = self.clock.now();
        let owed = self.desk.take();
        let mut records = owed.clone();
        let refused = self.desk.refused.load(Ordering::Relaxed);
        records.extend(self.trouble.as_ref().map(|trouble| trouble.record(refused)));
        match self.wait(|writer| writer.begin(&records, at)) {
            Ok(_) => {
                count(&records);
                self.since = None;
                if self.trouble.take().is_some() {
                    self.desk.refused.fetch_sub(refused, Ordering::Relaxed);
                    tracing::warn!(refused, "the audit trail is written again");
                }
                self.told.send_replace(None);
            }
            Err(error) => {
                self.desk.put_back(owed);
                self.fail(&error);
            }
        }
    }

    /// Has the disk do something, and says meanwhile that it is waited for.
    fn wait<T>(&mut self, work: impl FnOnce(&mut Writer) -> T) -> T {
        self.desk.note_wait(Some(Instant::now()));
        let done = work(&mut self.writer);
        self.desk.note_wait(None);
        done
    }

    fn fail(&mut self, error: &io::Error) {
        metrics::counter!("hsmd_audit_failures_total").increment(1);
        let (because, retry) = (Arc::<str>::from(error.to_string()), Instant::now() + RETRY);
        self.told.send_replace(Some(Arc::clone(&because)));
        if let Some(trouble) = &mut self.trouble {
            trouble.retry = retry;
        } else {
            tracing::error!(%error, "the audit trail cannot be written");
            self.trouble = Some(Trouble { because, since: self.clock.now(), retry });
        }
    }

    fn refuse(&mut self, batch: Vec<Asked>) {
        let Some(trouble) = &self.trouble else { return };
        for asked in batch {
            if asked.record.is_some() {
                self.desk.note_refused();
            }
            drop(asked.reply.send(Err(Error::Unwritable(Arc::clone(&trouble.because)))));
        }
    }
}

impl Trouble {
    fn record(&self, refused: u64) -> Record {
        Record::new(Kind::Resumed)
            .text("because", &self.because)
            .plain("since", self.since)
            .number("refused", refused)
    }
}

fn count(records: &[Record]) {
    for record in records {
        metrics::counter!("hsmd_audit_entries_total", "kind" => record.kind().as_str()).increment(1);
    }
}
