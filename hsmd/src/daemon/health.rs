//! How the daemon is: ready or not, and if not, why.

use std::{collections::BTreeMap, sync::Mutex};

use keychain::json;
use tokio::sync::watch;

use crate::{
    chain::statement::Statements,
    chain::{Keeper, State},
    token::TokenState,
};

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
    pub fn describe(&self, keeper: &Keeper, statements: &Statements) -> (bool, String) {
        let mut problems = self.problems();
        let state = match (keeper.chain_state(), statements.restored(), statements.rival()) {
            (State::Ready, Some(difference), _) => State::LedgerRestored(difference.to_string()),
            (State::Ready, None, Some(evidence)) => State::Rival(evidence),
            (state, ..) => state,
        };
        let chain = if let Some(view) = keeper.view() {
            let live = view.live().event();
            format!(
                ",\"identity\":\"{}\",\"generationId\":\"{}\",\"sequenceNumber\":{},\"createdAt\":\"{}\"",
                live.prefix, live.id, live.sequence_number, live.created_at
            )
        } else {
            problems.retain(|(part, _)| part != "chain");
            problems.push(("chain".to_owned(), keeper.chain_state().to_string()));
            String::new()
        };
        let powers = state.powers();
        let state = format!(
            ",\"state\":{{\"name\":\"{}\",\"cause\":{},\"cure\":{},\"signs\":{},\"rotates\":{},\"taints\":{}}}",
            state.label(),
            json::string(&state.cause()),
            json::string(state.cure()),
            powers.signs,
            powers.rotates,
            powers.taints
        );
        let ready = problems.is_empty();
        let status = if ready { "healthy" } else { "unhealthy" };
        // Each class with its bound: how long its queue is, and how long it can get.
        let queue = keeper.depths().map(|(class, depth)| {
            format!("\"{}\":{{\"depth\":{depth},\"capacity\":{}}}", class.as_str(), class.capacity())
        });
        let stated = statements.newest().to_health();
        let tokens = tokens(&keeper.token_states());
        let body = format!(
            "{{\"status\":\"{status}\",\"problems\":{},\"warnings\":{},\"queueDepth\":{},\"queue\":{{{}}}{state}{chain}{stated}{tokens}}}",
            object(&problems),
            object(&self.warnings()),
            keeper.waiting(),
            queue.join(",")
        );
        (ready, body)
    }
}

/// How each of two tokens stands; nothing where there is one.
fn tokens(states: &[TokenState]) -> String {
    let states = states.iter().map(|state| {
        let silent = state.silent.as_ref();
        let because = silent.map(|because| format!(",\"because\":{}", json::string(because)));
        format!(
            "{{\"name\":\"{}\",\"answers\":{},\"live\":{},\"next\":{}{}}}",
            state.name,
            silent.is_none(),
            state.live,
            state.next,
            because.unwrap_or_default()
        )
    });
    let states: Vec<_> = states.collect();
    if states.is_empty() { String::new() } else { format!(",\"tokens\":[{}]", states.join(",")) }
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

fn object(notes: &[(String, String)]) -> String {
    let members = notes.iter().map(|(part, text)| format!("{}:{}", json::string(part), json::string(text)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}
