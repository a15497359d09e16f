//! `GET /restored`: what a restored ledger lacks; `POST /take-over`: an operator's decision about it; `POST
//! /copy-stopped`: an operator's word that no other holder signs any more.

use std::{sync::Arc, time::Instant};

use actix_web::{HttpRequest, HttpResponse, web};
use keychain::{Code, Digest, Refusal, json::Object, statement::Head};

use super::{Door, border};
use crate::{
    audit::operation::{Intent, Outcome},
    chain::statement::{Choice, Restored, TakenOver},
    policy::Operation,
};

pub(super) async fn restored(door: web::Data<Door>) -> HttpResponse {
    let restored = door.statements.restored();
    let shown = restored.map_or_else(|| "null".to_owned(), |restored| show(&restored));
    border::json(200, format!("{{\"restored\":{shown}}}"))
}

fn show(restored: &Restored) -> String {
    let (event, number, issued_at) = Head::parse(&restored.head).map_or_else(
        |_| (String::new(), 0, String::new()),
        |head| (head.event_id().to_string(), head.number(), head.issued_at().to_string()),
    );
    format!(
        "{{\"proof\":\"{}\",\"eventId\":\"{event}\",\"number\":{number},\"issuedAt\":\"{issued_at}\",\"lacking\":{}}}",
        restored.id(),
        restored.lacking.to_json()
    )
}

pub(super) async fn take_over(
    request: HttpRequest,
    door: web::Data<Door>,
    payload: web::Payload,
) -> HttpResponse {
    let start = Instant::now();
    let outcome = try_take_over(&request, &door, payload).await;
    door.answer(&request, "take-over", start, outcome)
}

async fn try_take_over(request: &HttpRequest, door: &Door, payload: web::Payload) -> Result<String, Refusal> {
    let (authority, body) = door.admit(request, payload, Operation::Recover).await?;
    let mut object = Object::parse_bytes(&body)?;
    let proof = object.parsed("proof", Digest::parse)?;
    let word = object.string("take")?;
    object.finish()?;
    let choice = match word {
        "all" => Choice::All,
        "nothing" => Choice::Nothing,
        "sound" => Choice::Sound,
        _ => return Err(Refusal::new(Code::InvalidMessage, "`take` is `sound`, `all` or `nothing`")),
    };
    let intent = Intent::of(&authority).with("proof", &proof.to_string()).with("take", word);
    let statements = Arc::clone(&door.statements);
    let taken = door
        .audit
        .operation(intent, move |success| async move {
            let lines = move |taken: &TakenOver| success.lines(taken);
            let taken = statements.take_over(&proof, choice, lines).await;
            taken.map_err(|error| border::refuse(&error))
        })
        .await?;
    door.statements.note_health(&door.health);
    Ok(format!("{{\"taken\":{}}}", taken.entries.to_json()))
}

pub(super) async fn copy_stopped(
    request: HttpRequest,
    door: web::Data<Door>,
    payload: web::Payload,
) -> HttpResponse {
    let start = Instant::now();
    let outcome = try_copy_stopped(&request, &door, payload).await;
    door.answer(&request, "copy-stopped", start, outcome)
}

async fn try_copy_stopped(
    request: &HttpRequest,
    door: &Door,
    payload: web::Payload,
) -> Result<String, Refusal> {
    let (authority, body) = door.admit(request, payload, Operation::Recover).await?;
    Object::parse_bytes(&body)?.finish()?;
    let intent = Intent::of(&authority).with("copy", "stopped");
    let statements = Arc::clone(&door.statements);
    let CopyStopped = door
        .audit
        .operation(intent, move |_| async move {
            statements.end_rival().await.map(|()| CopyStopped).map_err(|error| border::refuse(&error))
        })
        .await?;
    door.statements.note_health(&door.health);
    Ok("{}".to_owned())
}

/// That an operator said so.
struct CopyStopped;

impl Outcome for CopyStopped {
    fn details(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

impl Outcome for TakenOver {
    fn details(&self) -> Vec<(&'static str, String)> {
        let Self { entries } = self;
        vec![
            ("denied", entries.denied.len().to_string()),
            ("keys", entries.keys.len().to_string()),
            ("services", entries.services.len().to_string()),
        ]
    }
}
