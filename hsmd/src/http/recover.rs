//! `POST /recover`: the published chain is brought to a ledger that is behind its token.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{HttpRequest, HttpResponse, web};
use keychain::{Code, Refusal};
use serde::Deserialize;

use super::{Door, border, caller};
use crate::{
    audit::operation::{Intent, Outcome},
    chain::{Brought, Recovered, Unfinished},
    policy::{Authority, Operation},
};

/// Longest chain, in bytes: at 700 an event, a rotation every hour for ten years.
const CHAIN_MAX: usize = 64 * 1024 * 1024;

/// How long it may take to come.
const CHAIN_TIME: Duration = Duration::from_mins(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// What becomes of a key that a later event may name; the chain is refused if this is absent.
    unfinished: Option<UnfinishedName>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum UnfinishedName {
    Discard,
    LiveKeyLost,
    Refuse,
}

pub(super) async fn recover(
    request: HttpRequest,
    query: Result<web::Query<Query>, actix_web::Error>,
    door: web::Data<Door>,
    payload: web::Payload,
) -> HttpResponse {
    let start = Instant::now();
    let outcome = try_recover(&request, query, &door, payload).await;
    door.answer(&request, "recover", start, outcome)
}

async fn try_recover(
    request: &HttpRequest,
    query: Result<web::Query<Query>, actix_web::Error>,
    door: &Door,
    payload: web::Payload,
) -> Result<String, Refusal> {
    door.policy.demand_known(caller(request))?;
    let bad = |_| {
        Refusal::new(
            Code::InvalidMessage,
            "want `unfinished`, which is `discard`, `live-key-lost` or `refuse`",
        )
    };
    let unfinished = match query.map_err(bad)?.unfinished {
        Some(UnfinishedName::Discard) => Unfinished::Discard,
        Some(UnfinishedName::LiveKeyLost) => Unfinished::LiveKeyLost,
        Some(UnfinishedName::Refuse) | None => Unfinished::Refuse,
    };
    let body = border::read_within(payload, CHAIN_MAX, CHAIN_TIME).await?;
    let authority = door.policy.permit(Operation::Recover, caller(request))?;
    let parsed = web::block(move || Brought::parse(&body)).await;
    let brought = parsed.map_err(|_| Refusal::new(Code::Internal, "the chain was not read to its end"))??;
    let Recovered { identity, generation, sequence_number, state, imported } =
        import(&authority, door, brought, unfinished).await?;
    Ok(format!(
        "{{\"identity\":\"{identity}\",\"generationId\":\"{generation}\",\"sequenceNumber\":{sequence_number},\
         \"state\":\"{state}\",\"imported\":{imported}}}"
    ))
}

async fn import(
    authority: &Authority,
    door: &Door,
    brought: Brought,
    unfinished: Unfinished,
) -> Result<Recovered, Refusal> {
    let intent = Intent::of(authority).with("unfinished", unfinished.as_str());
    let keeper = Arc::clone(&door.keeper);
    door.audit
        .operation(intent, move |success| async move {
            let lines = move |recovered: &Recovered| success.lines(recovered);
            let recovered = keeper.recover_with(brought, unfinished, lines).await;
            recovered.map_err(|error| border::refuse(&error))
        })
        .await
}

impl Outcome for Recovered {
    fn details(&self) -> Vec<(&'static str, String)> {
        vec![
            ("identity", self.identity.to_string()),
            ("generation", self.generation.to_string()),
            ("sequenceNumber", self.sequence_number.to_string()),
            ("imported", self.imported.to_string()),
        ]
    }
}
