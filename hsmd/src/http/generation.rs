//! `POST /rotate` and `POST /taint`: a generation is left for the next, or denied if it was left before.

use std::{sync::Arc, time::Instant};

use actix_web::{HttpRequest, HttpResponse, web};
use keychain::{Code, Digest, Refusal, audit::Record, json::Object};

use super::{Door, border, declared};
use crate::{
    audit::operation::{Intent, Outcome},
    chain::statement::{Declared, Denial, Effect, Statements},
    chain::{Advance, Advanced, Error, Keeper},
    policy::Operation,
};

/// Longest reason that comes with an operation; it goes into the audit trail, on one line.
const REASON_MAX: usize = 500;

pub(super) async fn rotate(
    request: HttpRequest,
    door: web::Data<Door>,
    payload: web::Payload,
) -> HttpResponse {
    let start = Instant::now();
    let outcome = try_rotate(&request, &door, payload).await;
    door.answer(&request, "rotate", start, outcome)
}

async fn try_rotate(request: &HttpRequest, door: &Door, payload: web::Payload) -> Result<String, Refusal> {
    let (authority, body) = door.admit(request, payload, Operation::Rotate).await?;
    let mut object = optional_object(&body)?;
    let from = optional(&mut object, "from")?;
    object.finish()?;
    let intent = from_of(Intent::of(&authority), from);
    let keeper = Arc::clone(&door.keeper);
    let advanced = door
        .audit
        .operation(intent, move |success| async move {
            let lines = move |advanced: &Advanced| success.lines(advanced);
            let advanced = keeper.advance_with(Advance { from, taint: false }, lines).await;
            advanced.map_err(|error| border::refuse(&error))
        })
        .await?;
    Ok(format!(
        "{{\"newPublicKey\":\"{}\",\"newGenerationId\":\"{}\",\"liveFrom\":\"{}\"}}",
        advanced.new_public_key, advanced.new_generation, advanced.live_from
    ))
}

pub(super) async fn taint(
    request: HttpRequest,
    door: web::Data<Door>,
    payload: web::Payload,
) -> HttpResponse {
    let start = Instant::now();
    let outcome = try_taint(&request, &door, payload).await;
    door.answer(&request, "taint", start, outcome)
}

async fn try_taint(request: &HttpRequest, door: &Door, payload: web::Payload) -> Result<String, Refusal> {
    let (authority, body) = door.admit(request, payload, Operation::Taint).await?;
    let mut object = Object::parse_bytes(&body)?;
    // A caller that waited in the queue behind another taint must not taint the generation that came of it.
    let from = object.parsed("generationId", Digest::parse)?;
    let reason = take_reason(&mut object)?;
    object.finish()?;
    let intent = from_of(Intent::of(&authority).because(&reason), Some(from));
    let (keeper, statements) = (Arc::clone(&door.keeper), Arc::clone(&door.statements));
    let done = door
        .audit
        .operation(intent, move |success| async move {
            let lines = move |denial: &Denial| success.lines(denial);
            let done = taint_or_deny(&keeper, &statements, from, lines).await;
            done.map_err(|error| border::refuse(&error))
        })
        .await
        .and_then(declared::answer)?;
    Ok(format!(
        "{{\"taintedGenerationId\":\"{}\",\"newGenerationId\":\"{}\",\"liveFrom\":\"{}\",\"effect\":\"{}\"}}",
        done.generation,
        done.successor,
        done.live_from,
        done.effect.as_str()
    ))
}

/// An event taints only the generation just before it: one that was left without a taint is denied.
async fn taint_or_deny(
    keeper: &Arc<Keeper>,
    statements: &Statements,
    named: Digest,
    lines: impl Fn(&Denial) -> Vec<Record> + Clone + Send + Sync + 'static,
) -> Result<Declared<Denial>, Error> {
    let denied = lines.clone();
    let of_taint = move |advanced: &Advanced| lines(&tainted(advanced));
    match keeper.advance_with(Advance { from: Some(named), taint: true }, of_taint).await {
        Err(Error::LeftUntainted) => statements.deny_with(named, denied).await,
        done => done.map(|done| tainted(&done).into()),
    }
}

const fn tainted(done: &Advanced) -> Denial {
    Denial {
        generation: done.left,
        successor: done.new_generation,
        live_from: done.live_from,
        effect: Effect::Tainted,
    }
}

fn from_of(intent: Intent, from: Option<Digest>) -> Intent {
    match from {
        Some(from) => intent.with("from", &from.to_string()),
        None => intent,
    }
}

impl Outcome for Advanced {
    fn details(&self) -> Vec<(&'static str, String)> {
        vec![
            ("left", self.left.to_string()),
            ("generation", self.new_generation.to_string()),
            ("key", self.new_public_key.to_string()),
            ("repeated", self.repeated.to_string()),
        ]
    }
}

impl Outcome for Denial {
    fn details(&self) -> Vec<(&'static str, String)> {
        vec![
            ("left", self.generation.to_string()),
            ("generation", self.successor.to_string()),
            ("effect", self.effect.as_str().to_owned()),
        ]
    }
}

/// An empty body stands for an object without members, as the command line of an operator sends it.
fn optional_object(body: &[u8]) -> Result<Object<'_>, Refusal> {
    Object::parse_bytes(if body.is_empty() { b"{}" } else { body })
}

fn optional(object: &mut Object<'_>, name: &str) -> Result<Option<Digest>, Refusal> {
    object.take(name).map(|raw| Digest::parse(keychain::json::plain_string(raw)?)).transpose()
}

/// Takes out the reason, if there is one.
pub(super) fn take_reason(object: &mut Object<'_>) -> Result<String, Refusal> {
    object.take("reason").map_or_else(|| Ok(String::new()), read_reason)
}

/// Reads the reason: any text, but bounded and on one line.
fn read_reason(raw: &str) -> Result<String, Refusal> {
    let bad =
        Refusal::new(Code::InvalidMessage, "`reason` is not a text of at most 500 bytes without line breaks");
    let reason: String = serde_json::from_str(raw).map_err(|_| bad.clone())?;
    let fits = reason.len() <= REASON_MAX && !reason.contains(char::is_control);
    if fits { Ok(reason) } else { Err(bad) }
}
