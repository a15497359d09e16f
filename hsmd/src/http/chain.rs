//! `GET /chain`: the chain as it is, or what comes next.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use keychain::{Code, Refusal};
use serde::Deserialize;

use super::{Door, border};
use crate::rotation;

/// Longest wait for the next event, in seconds: below what proxies and clients take for dead.
const WAIT_MAX: u64 = 60;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// Only events after this sequence number.
    after: Option<u64>,
    /// How long to wait for one, in seconds.
    wait: Option<u64>,
}

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
    let bad = || {
        Refusal::new(Code::InvalidMessage, "want `after`, a sequence number, and `wait`, up to 60 seconds")
    };
    let Query { after, wait } = query.map_err(|_| bad())?.into_inner();
    let wait = wait.unwrap_or(0);
    if wait > WAIT_MAX {
        return Err(bad());
    }
    if let Some(after) = after {
        let mut head = door.keeper.watch();
        let next = head.wait_for(|head| *head > after);
        tokio::select! {
            () = door.health.closing() => {}
            // Late or closed: what there is, is answered.
            _ = tokio::time::timeout(Duration::from_secs(wait), next) => {}
        }
    }
    let view =
        door.keeper.seen().ok_or(rotation::Error::Unsettled).map_err(|error| border::refuse(&error))?;
    Ok(view.published_from(after.map_or(0, |after| after.saturating_add(1))))
}
