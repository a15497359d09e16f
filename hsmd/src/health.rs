//! How the daemon is: ready or not, and if not, why.

use std::{collections::BTreeMap, sync::Mutex};

use tokio::sync::watch;

/// What the daemon rests on, and what is wrong with it.
pub struct Health {
    problems: Notes,
    warnings: Notes,
    closing: watch::Sender<bool>,
}

impl Health {
    /// A daemon without problems.
    pub fn new() -> Self {
        let (problems, warnings) = (Mutex::default(), Mutex::default());
        Self { problems, warnings, closing: watch::Sender::new(false) }
    }

    /// Notes the outcome of one attempt to do the whole work. True if it changed anything.
    pub fn note(&self, part: &'static str, problem: Option<String>) -> bool {
        note(&self.problems, part, problem)
    }

    /// What is wrong, by part.
    pub fn problems(&self) -> Vec<(String, String)> {
        list(&self.problems)
    }

    /// Notes what somebody has to see to, although the daemon serves as before: it stays ready. True if it
    /// changed anything.
    pub fn warn(&self, part: &'static str, warning: Option<String>) -> bool {
        note(&self.warnings, part, warning)
    }

    /// What somebody has to see to, by part.
    pub fn warnings(&self) -> Vec<(String, String)> {
        list(&self.warnings)
    }

    /// Says that the daemon ends: each caller that waits for the next event is answered.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Resolves when the daemon ends.
    pub async fn closing(&self) {
        let mut closing = self.closing.subscribe();
        drop(closing.wait_for(|closing| *closing).await);
    }
}

type Notes = Mutex<BTreeMap<&'static str, String>>;

fn note(notes: &Notes, part: &'static str, text: Option<String>) -> bool {
    let mut notes = notes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match text {
        Some(text) => notes.insert(part, text.clone()) != Some(text),
        None => notes.remove(part).is_some(),
    }
}

fn list(notes: &Notes) -> Vec<(String, String)> {
    let notes = notes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    notes.iter().map(|(part, text)| ((*part).to_owned(), text.clone())).collect()
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}
