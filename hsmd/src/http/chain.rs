//! `GET /chain`: the chain as it is, or what comes next.

use actix_web::{HttpResponse, web};
use keychain::Refusal;

use super::{
    Door, border,
    wait::{Query, Wait},
};
use crate::chain;

pub(super) async fn chain(
    query: Result<web::Query<Query>, actix_web::Error>,
    door: web::Data<Door>,
) -> HttpResponse {
    match events(query, &door).await {
        Ok(body) => border::json(200, body),
        Err(refusal) => border::refused(&refusal),
    }
}

async fn events(query: Result<web::Query<Query>, actix_web::Error>, door: &Door) -> Result<String, Refusal> {
    let wait = Wait::of(query, "want `after`, a sequence number, and `wait`, up to 60 seconds")?;
    let after = wait.after;
    if let Some(after) = after {
        let mut head = door.keeper.watch();
        wait.for_news(door, head.wait_for(|head| *head > after)).await;
    }
    let view = door
        .keeper
        .seen()
        .ok_or_else(|| chain::Error::State(door.keeper.chain_state()))
        .map_err(|error| border::refuse(&error))?;
    Ok(view.published_from(after.map_or(0, |after| after.saturating_add(1))))
}
