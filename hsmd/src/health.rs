//! How the daemon is: ready or not, and if not, why.

use std::{collections::BTreeMap, sync::Mutex};

use keychain::json;
use tokio::sync::watch;

use crate::rotation::Keeper;

/// What the daemon rests on, and what is wrong with it.
pub struct Health {
    problems: Mutex<BTreeMap<&'static str, String>>,
    closing: watch::Sender<bool>,
}

impl Health {
    /// A daemon without problems.
    pub fn new() -> Self {
        Self { problems: Mutex::new(BTreeMap::new()), closing: watch::Sender::new(false) }
    }

    /// Notes the outcome of one attempt to do the whole work. True if it changed anything.
    pub fn note(&self, part: &'static str, problem: Option<String>) -> bool {
        let mut problems = self.problems.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match problem {
            Some(problem) => problems.insert(part, problem.clone()) != Some(problem),
            None => problems.remove(part).is_some(),
        }
    }

    /// What is wrong, by part.
    pub fn problems(&self) -> Vec<(String, String)> {
        let problems = self.problems.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        problems.iter().map(|(part, problem)| ((*part).to_owned(), problem.clone())).collect()
    }

    /// Says that the daemon ends: whoever waits for the next event is answered.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Resolves when the daemon ends.
    pub async fn closing(&self) {
        let mut closing = self.closing.subscribe();
        drop(closing.wait_for(|closing| *closing).await);
    }

    /// Whether the daemon is ready, and `GET /health`.
    pub async fn describe(&self, keeper: &Keeper) -> (bool, String) {
        let mut problems = self.problems();
        let chain = if let Some(view) = keeper.view().await {
            let live = view.live().event();
            format!(
                ",\"identity\":\"{}\",\"generationId\":\"{}\",\"sequenceNumber\":{},\"createdAt\":\"{}\"",
                live.prefix, live.id, live.sequence_number, live.created_at
            )
        } else {
            problems.push(("chain".to_owned(), "token and ledger are not reconciled".to_owned()));
            String::new()
        };
        let ready = problems.is_empty();
        let status = if ready { "healthy" } else { "unhealthy" };
        let listed: Vec<_> = problems
            .iter()
            .map(|(part, problem)| format!("{}:{}", json::string(part), json::string(problem)))
            .collect();
        let body = format!(
            "{{\"status\":\"{status}\",\"problems\":{{{}}},\"queueDepth\":{}{chain}}}",
            listed.join(","),
            keeper.waiting()
        );
        (ready, body)
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}
