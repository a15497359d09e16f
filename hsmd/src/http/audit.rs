//! `GET /audit`: lines of the audit trail; `POST /audit/cut`: those that were archived leave the ledger.

use std::{fmt::Write as _, time::Instant};

use actix_web::{HttpRequest, HttpResponse, web};
use keychain::{Code, Digest, Refusal, json::Object};
use serde::Deserialize;

use super::{Door, border, caller};
use crate::{
    audit::operation::{Intent, Outcome},
    ledger::{self, Page, Trail},
    policy::Operation,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// The number of the first line that is wanted.
    #[serde(default)]
    from: u64,
}

pub(super) async fn lines(
    request: HttpRequest,
    query: Result<web::Query<Query>, actix_web::Error>,
    door: web::Data<Door>,
) -> HttpResponse {
    match try_lines(&request, query, &door).await {
        Ok(body) => border::json(200, body),
        Err(refusal) => {
            door.count_refused(&request, "audit", refusal.code());
            border::refused(&refusal)
        }
    }
}

async fn try_lines(
    request: &HttpRequest,
    query: Result<web::Query<Query>, actix_web::Error>,
    door: &Door,
) -> Result<String, Refusal> {
    door.policy.permit(Operation::Audit, caller(request))?;
    let bad = |_| Refusal::new(Code::InvalidMessage, "want `from`, the number of a line");
    let from = query.map_err(bad)?.from;
    let refuse = |error: ledger::Error| border::unwritten(&error);
    let ledger = door.keeper.ledger();
    let page = ledger.lines(from).await.map_err(refuse)?;
    let trail = ledger.trail().await.map_err(refuse)?;
    Ok(spell(&page, &trail))
}

/// The lines verbatim, and what is needed to verify them.
fn spell(page: &Page, trail: &Trail) -> String {
    let mut body = String::from("{");
    if let Some(cut) = &trail.cut {
        // Writing to a text cannot fail.
        let _written = write!(body, "\"cut\":{{\"number\":{},\"digest\":\"{}\"}},", cut.number, cut.digest);
    }
    if let Some(next) = page.next {
        let _written = write!(body, "\"next\":{next},");
    }
    let _written = write!(body, "\"lines\":[{}]}}", page.lines.join(","));
    body
}

pub(super) async fn cut(request: HttpRequest, door: web::Data<Door>, payload: web::Payload) -> HttpResponse {
    let start = Instant::now();
    let outcome = try_cut(&request, &door, payload).await;
    door.answer(&request, "audit", start, outcome)
}

async fn try_cut(request: &HttpRequest, door: &Door, payload: web::Payload) -> Result<String, Refusal> {
    let (authority, body) = door.admit(request, payload, Operation::Audit).await?;
    let mut object = Object::parse_bytes(&body)?;
    let number = object.parsed("upTo", |text| {
        text.parse().map_err(|_| Refusal::new(Code::InvalidMessage, "`upTo` is not the number of a line"))
    })?;
    let digest = object.parsed("digest", Digest::parse)?;
    object.finish()?;
    // The head that covers the line proves what was archived when the line is no longer here.
    let covered = door.statements.newest().head.as_ref().and_then(keychain::statement::Head::audit);
    if covered.is_none_or(|covered| covered.number < number) {
        const BEYOND: &str = "no head covers the line yet: wait for the next";
        return Err(Refusal::new(Code::Conflict, BEYOND).with("because", BEYOND));
    }
    let intent = Intent::of(&authority).with("upTo", &number.to_string()).with("digest", &digest.to_string());
    let ledger = door.keeper.ledger().clone();
    let done = door
        .audit
        .operation(intent, move |success| async move {
            let done = Cut(number);
            let cut = ledger.cut(number, digest, success.lines(&done)).await;
            cut.map(|()| done).map_err(|error| border::unwritten(&error))
        })
        .await?;
    Ok(format!("{{\"cut\":{}}}", done.0))
}

/// Up to which line the trail was cut.
struct Cut(u64);

impl Outcome for Cut {
    fn details(&self) -> Vec<(&'static str, String)> {
        vec![("cut", self.0.to_string())]
    }
}
