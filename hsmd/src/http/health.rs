//! `GET /health`: whether the daemon is ready, the chain's state with its cause and cure, and what an operator has to see to.

use actix_web::{HttpResponse, web};
use keychain::json;

use super::{Door, border};
use crate::{
    chain::Keeper,
    chain::statement::Statements,
    health::Health,
    token::{TokenState, mirrored_from},
};

pub(super) async fn health(door: web::Data<Door>) -> HttpResponse {
    let (ready, body) = describe(&door.health, &door.keeper, &door.statements);
    border::json(if ready { 200 } else { 503 }, body)
}

/// Whether the daemon is ready, and the body of the answer.
fn describe(health: &Health, keeper: &Keeper, statements: &Statements) -> (bool, String) {
    let mut problems = health.problems();
    // The chain's own word is newer.
    problems.retain(|(part, _)| part != "chain");
    let state = keeper.chain_state();
    let chain = if let Some(view) = keeper.view() {
        let live = view.live().event();
        format!(
            ",\"identity\":\"{}\",\"generationId\":\"{}\",\"sequenceNumber\":{},\"createdAt\":\"{}\"",
            live.prefix, live.id, live.sequence_number, live.created_at
        )
    } else {
        problems.push(("chain".to_owned(), state.to_string()));
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
    let newest = keeper.seen().map_or(0, |view| view.live().event().sequence_number);
    let tokens = tokens(&keeper.token_states(), newest);
    let body = format!(
        "{{\"status\":\"{status}\",\"problems\":{},\"warnings\":{},\"queueDepth\":{},\"queue\":{{{}}}{state}{chain}{stated}{tokens}}}",
        object(&problems),
        object(&health.warnings()),
        keeper.waiting(),
        queue.join(",")
    );
    (ready, body)
}

/// How each of two tokens stands, and from which generation on keys are on both (`null` if the next one is not); nothing
/// where there is one.
fn tokens(states: &[TokenState], newest: u64) -> String {
    let from = mirrored_from(states, newest).map_or_else(|| "null".to_owned(), |from| from.to_string());
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
    if states.is_empty() {
        return String::new();
    }
    format!(",\"tokens\":[{}],\"mirroredFrom\":{from}", states.join(","))
}

fn object(notes: &[(String, String)]) -> String {
    let members = notes.iter().map(|(part, text)| format!("{}:{}", json::string(part), json::string(text)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}
