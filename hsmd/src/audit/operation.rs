//! What changes something, between two lines: what is about to be done, and what came of it.

use std::{fmt::Write as _, sync::Arc};

use keychain::{
    Refusal,
    audit::{Kind, Record},
    json,
};

use super::{Audit, Error, name};
use crate::policy::Authority;

/// What is asked for, as the trail is told.
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

    /// Adds what the operation is told.
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

/// What came of an operation, as the trail is told.
pub trait Outcome {
    /// Names and values.
    fn details(&self) -> Vec<(&'static str, String)>;
}

impl Audit {
    /// Does `work` between its intent, which is durable before it begins, and its outcome, which is before this
    /// returns. Both are written even if the caller goes away meanwhile.
    ///
    /// If the outcome cannot be written the work is done, and the caller is told so: repeated for the same
    /// generation it answers the first result. The outcome is written as soon as the disk takes it.
    pub async fn operation<T: Outcome + Send + 'static>(
        &self,
        intent: Intent,
        work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    ) -> Result<T, Refusal> {
        let permit = Arc::clone(&self.operations).try_acquire_owned().map_err(|_| refuse(&Error::Busy))?;
        let audit = self.clone();
        let carried_through = self.runtime.spawn(async move {
            let done = audit.carry_through(intent, work).await;
            drop(permit);
            done
        });
        let gone = |_| refuse(&Error::Unwritable("the operation was not carried through".into()));
        carried_through.await.map_err(gone)?
    }

    async fn carry_through<T: Outcome>(
        &self,
        intent: Intent,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let Intent { caller, operation, reason, details } = &intent;
        tracing::info!(caller, operation, reason, details, "asked");
        let begun = self.commit(intent.record()).await.map_err(|error| refuse(&error))?;
        let done = work.await;
        let mut details = String::new();
        let record = Record::new(Kind::Outcome)
            .number("intent", begun.map_or(0, |begun| begun.number))
            .plain("operation", operation);
        let record = match &done {
            Ok(done) => {
                done.details().iter().for_each(|(name, value)| add(&mut details, name, value));
                tracing::info!(caller, operation, details, "done");
                with_details(record.plain("outcome", "ok"), &details)
            }
            Err(refusal) => {
                tracing::warn!(caller, operation, because = refusal.because(), "not done");
                record.plain("outcome", refusal.code().as_str()).text("because", refusal.because())
            }
        };
        match (self.owe([record]).await, done) {
            (Err(error), Ok(_)) => {
                const DONE: &str = "it was done, and is written down once the disk takes it; if you ask again, name \
                                    the generation that you meant";
                Err(refuse(&error).with("because", DONE))
            }
            (_, done) => done,
        }
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
