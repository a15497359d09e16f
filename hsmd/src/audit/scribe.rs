//! The thread that writes the trail: takes what is asked, in groups, and answers when it is written or durable.
//!
//! A disk that is full or fails is no reason to end. Whatever is asked meanwhile is refused and counted, the
//! disk is tried again every [`RETRY`], and then the trail goes on where it was, and says for how long it could
//! not be written.

use std::{
    io,
    sync::{
        Arc,
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
use crate::{clock::Clock, rotation::to_gauge};

/// How long lines may be written without being durable.
const SYNC: Duration = Duration::from_millis(250);

/// How often a disk that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Lines that are written at once.
const BATCH: usize = 256;

/// Outcomes of operations that are kept while the trail cannot be written: more than operations can be under way.
const OWED_MAX: usize = 256;

/// When a caller is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Once the line is durable; and if it cannot be written now, it will be: what it tells has happened.
    Owed,
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

/// What the thread works with.
pub(super) struct Scribe {
    writer: Writer,
    clock: Box<dyn Clock>,
    asked: Receiver<Asked>,
    trouble: Option<Trouble>,
    owed: Vec<Record>,
    /// When the oldest line that is not durable was written.
    since: Option<Instant>,
    told: watch::Sender<Option<Arc<str>>>,
}

/// Why the trail cannot be written, and since when.
struct Trouble {
    because: Arc<str>,
    since: Timestamp,
    refused: u64,
    retry: Instant,
}

impl Scribe {
    /// A thread's work. `owed` are the lines that come before all others.
    pub(super) fn new(
        writer: Writer,
        clock: Box<dyn Clock>,
        asked: Receiver<Asked>,
        owed: Vec<Record>,
        told: watch::Sender<Option<Arc<str>>>,
    ) -> Self {
        Self { writer, clock, asked, trouble: None, owed, since: None, told }
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
            return batch.into_iter().for_each(|asked| self.refuse(asked));
        }
        let records: Vec<_> = batch.iter().filter_map(|asked| asked.record.clone()).collect();
        let written = self.writer.append(&records, self.clock.now());
        self.since = self.since.or_else(|| (self.writer.lag() > 0).then(Instant::now));
        let heads = match written {
            Ok(heads) => heads,
            // The lines are in the trail nevertheless: of what is owed, nothing more needs to be kept.
            Err(error) => return self.fail(&error, batch),
        };
        for record in &records {
            metrics::counter!("hsmd_audit_entries_total", "kind" => record.kind().as_str()).increment(1);
        }
        let mut heads = heads.into_iter();
        let mut waiting = Vec::new();
        for asked in batch {
            let head = if asked.record.is_some() { heads.next() } else { self.writer.head() };
            if asked.when == When::Written {
                drop(asked.reply.send(Ok(head)));
            } else {
                waiting.push((asked, head));
            }
        }
        if waiting.is_empty() {
            return;
        }
        if let Err(error) = self.writer.sync() {
            return self.fail(&error, waiting.into_iter().map(|(asked, _)| asked).collect());
        }
        self.since = None;
        for (asked, head) in waiting {
            drop(asked.reply.send(Ok(head)));
        }
    }

    fn sync(&mut self) {
        if self.trouble.is_none() {
            match self.writer.sync() {
                Ok(()) => self.since = None,
                Err(error) => self.fail(&error, Vec::new()),
            }
        }
    }

    /// Begins another file, with everything that is not durable or is owed.
    fn go_on(&mut self) {
        let at = self.clock.now();
        let mut records = self.owed.clone();
        records.extend(self.trouble.as_ref().map(Trouble::record));
        match self.writer.begin(&records, at) {
            Ok(_) => {
                self.owed.clear();
                self.since = None;
                if let Some(trouble) = self.trouble.take() {
                    tracing::warn!(refused = trouble.refused, "the audit trail is written again");
                }
                self.told.send_replace(None);
            }
            Err(error) => self.fail(&error, Vec::new()),
        }
    }

    fn fail(&mut self, error: &io::Error, batch: Vec<Asked>) {
        metrics::counter!("hsmd_audit_failures_total").increment(1);
        let because: Arc<str> = error.to_string().into();
        let retry = Instant::now() + RETRY;
        if let Some(trouble) = &mut self.trouble {
            trouble.retry = retry;
        } else {
            tracing::error!(%error, "the audit trail cannot be written");
            let (because, since) = (Arc::clone(&because), self.clock.now());
            self.trouble = Some(Trouble { because, since, refused: 0, retry });
        }
        self.told.send_replace(Some(Arc::clone(&because)));
        for asked in batch {
            self.count_refused();
            drop(asked.reply.send(Err(Error::Unwritable(Arc::clone(&because)))));
        }
    }

    fn refuse(&mut self, asked: Asked) {
        self.count_refused();
        let because = self.trouble.as_ref().map_or_else(|| "".into(), |trouble| Arc::clone(&trouble.because));
        if let (When::Owed, Some(record)) = (asked.when, asked.record)
            && self.owed.len() < OWED_MAX
        {
            self.owed.push(record);
        }
        drop(asked.reply.send(Err(Error::Unwritable(because))));
    }

    fn count_refused(&mut self) {
        if let Some(trouble) = &mut self.trouble {
            trouble.refused = trouble.refused.saturating_add(1);
        }
    }
}

impl Trouble {
    fn record(&self) -> Record {
        Record::new(Kind::Resumed)
            .text("because", &self.because)
            .plain("since", self.since)
            .number("refused", self.refused)
    }
}
