//! What changes something, between two lines: what is about to be done, and what came of it.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use keychain::{
    Refusal,
    audit::{Kind, Record},
    json,
};

use super::{Audit, name};
use crate::{ledger::Error, policy::Authority};

/// What is asked for, as lines say it.
#[derive(Clone, Debug)]
pub struct Intent {
    caller: String,
    operation: &'static str,
    reason: String,
    details: String,
}

impl Intent {
    /// An operation of an operator.
    pub fn of(authority: &Authority) -> Self {
        Self::new(name(authority.caller()), authority.operation().as_str())
    }

    /// What `caller`, which is no caller of a socket, has done.
    pub fn by(caller: &str, operation: &'static str) -> Self {
        Self::new(caller.to_owned(), operation)
    }

    const fn new(caller: String, operation: &'static str) -> Self {
        Self { caller, operation, reason: String::new(), details: String::new() }
    }

    /// Why, in the caller's words.
    #[must_use]
    pub fn because(mut self, reason: &str) -> Self {
        reason.clone_into(&mut self.reason);
        self
    }

    /// Adds what the operation was asked with.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        add(&mut self.details, name, value);
        self
    }

    /// Adds a JSON value that stands on one line.
    #[must_use]
    pub fn with_json(mut self, name: &str, value: &str) -> Self {
        add_json(&mut self.details, name, value);
        self
    }

    fn record(&self) -> Record {
        let record =
            Record::new(Kind::Intent).text("caller", &self.caller).plain("operation", self.operation);
        let record = if self.reason.is_empty() { record } else { record.text("reason", &self.reason) };
        with_details(record, &self.details)
    }
}

/// What came of an operation, as lines say it.
pub trait Outcome {
    /// Names and values.
    fn details(&self) -> Vec<(&'static str, String)>;

    /// Why the head that lists what was declared is late, if it is.
    fn late_head(&self) -> Option<String> {
        None
    }
}

/// Composes the line about the success of an operation, so that it can go into the transaction of the operation.
#[derive(Clone)]
pub struct Success {
    intent: u64,
    operation: &'static str,
    /// What was composed.
    composed: Arc<Mutex<Option<Record>>>,
}

impl Success {
    /// The line.
    pub fn lines(&self, done: &impl Outcome) -> Vec<Record> {
        let record = self.compose(done);
        *self.composed.lock().unwrap_or_else(PoisonError::into_inner) = Some(record.clone());
        vec![record]
    }

    fn compose(&self, done: &impl Outcome) -> Record {
        let mut details = String::new();
        done.details().iter().for_each(|(name, value)| add(&mut details, name, value));
        with_details(self.begin().plain("outcome", "ok"), &details)
    }

    fn failure(&self, refusal: &Refusal) -> Record {
        self.begin().plain("outcome", refusal.code().as_str()).text("because", refusal.because())
    }

    fn late_head(&self, because: &str) -> Record {
        Record::new(Kind::HeadLate)
            .number("intent", self.intent)
            .plain("operation", self.operation)
            .text("because", because)
    }

    fn begin(&self) -> Record {
        Record::new(Kind::Outcome).number("intent", self.intent).plain("operation", self.operation)
    }

    /// Whether the success is in the trail: the operation went well, and its line went with it. One that was composed
    /// for another success than `done` was not written.
    fn is_written(&self, done: &impl Outcome) -> bool {
        let composed = self.composed.lock().unwrap_or_else(PoisonError::into_inner);
        composed.as_ref() == Some(&self.compose(done))
    }
}

impl Audit {
    /// Does `work` between its intent, which is durable before it begins, and its outcome, which is before this
    /// returns. Both are written even if the caller goes away meanwhile.
    ///
    /// `work` is given what composes the line of its success: an operation that has a transaction of its own writes
    /// the line there. If the outcome of any other cannot be written the work is done, and the answer says so.
    pub async fn operation<T, W>(
        &self,
        intent: Intent,
        work: impl FnOnce(Success) -> W + Send + 'static,
    ) -> Result<T, Refusal>
    where
        T: Outcome + Send + 'static,
        W: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let permit = Arc::clone(&self.operations).try_acquire_owned().map_err(|_| refuse(&Error::Busy))?;
        let audit = self.clone();
        let carried_through = self.runtime.spawn(async move {
            let done = audit.carry_through(intent, work).await;
            drop(permit);
            done
        });
        carried_through.await.map_err(|_| refuse(&Error::Closed))?
    }

    async fn carry_through<T: Outcome, W: Future<Output = Result<T, Refusal>>>(
        &self,
        intent: Intent,
        work: impl FnOnce(Success) -> W,
    ) -> Result<T, Refusal> {
        let Intent { caller, operation, reason, details } = &intent;
        tracing::info!(caller, operation, reason, details, "asked");
        let begun = self.ledger.append(vec![intent.record()]).await.map_err(|error| refuse(&error))?;
        let success = Success { intent: begun.number, operation, composed: Arc::default() };
        let done = work(success.clone()).await;
        log(&intent, &done);
        let is_written = done.as_ref().is_ok_and(|done| success.is_written(done));
        let outcome = match &done {
            Ok(_) if is_written => None,
            Ok(done) => Some(success.compose(done)),
            Err(refusal) => Some(success.failure(refusal)),
        };
        let late = done.as_ref().ok().and_then(Outcome::late_head);
        let late = late.map(|because| success.late_head(&because));
        let records: Vec<_> = outcome.into_iter().chain(late).collect();
        if records.is_empty() {
            return done;
        }
        match (self.ledger.append(records).await, done) {
            // The outcome is in the trail, and the answer names the head.
            (Err(error), done @ Ok(_)) if is_written => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the trail lacks that a head is late"
                );
                done
            }
            (Err(error), Ok(_)) => {
                const DONE: &str = "it was done, and the audit trail has its intent only; if you ask again, name the \
                                    generation that you meant";
                Err(refuse(&error).with("because", DONE))
            }
            (_, done) => done,
        }
    }
}

fn log<T: Outcome>(intent: &Intent, done: &Result<T, Refusal>) {
    let (caller, operation) = (&intent.caller, intent.operation);
    match done {
        Ok(done) => tracing::info!(caller, operation, details = ?done.details(), "done"),
        Err(refusal) => tracing::warn!(caller, operation, because = refusal.because(), "not done"),
    }
}

fn refuse(error: &Error) -> Refusal {
    tracing::error!(error = error as &dyn std::error::Error, "an operation is not in the audit trail");
    error.into()
}

fn add(details: &mut String, name: &str, value: &str) {
    add_json(details, name, &json::string(value));
}

fn add_json(details: &mut String, name: &str, value: &str) {
    let comma = if details.is_empty() { "" } else { "," };
    // Writing to a text cannot fail.
    let _written = write!(details, "{comma}\"{name}\":{value}");
}

fn with_details(record: Record, details: &str) -> Record {
    if details.is_empty() { record } else { record.raw("details", &format!("{{{details}}}")) }
}
