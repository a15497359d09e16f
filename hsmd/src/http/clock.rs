//! `GET /clock`: what the clock is held against, and whether it is trusted; `POST /clock`: an operator's word that it
//! is right.

use std::{sync::Arc, time::Instant};

use actix_web::{HttpRequest, HttpResponse, web};
use keychain::{Code, Refusal, Timestamp, json::Object};

use super::{Door, border, generation};
use crate::{
    audit::operation::{Intent, Outcome},
    clock::{Accepted, Report},
    policy::Operation,
};

pub(super) async fn clock(door: web::Data<Door>) -> HttpResponse {
    border::json(200, spell(&door.keeper.clock().report()))
}

pub(super) async fn accept(
    request: HttpRequest,
    door: web::Data<Door>,
    payload: web::Payload,
) -> HttpResponse {
    let start = Instant::now();
    let outcome = try_accept(&request, &door, payload).await;
    door.answer(&request, "accept-clock", start, outcome)
}

async fn try_accept(request: &HttpRequest, door: &Door, payload: web::Payload) -> Result<String, Refusal> {
    let (authority, body) = door.admit(request, payload, Operation::AcceptClock).await?;
    let mut object = Object::parse_bytes(&body)?;
    let time = object.parsed("time", Timestamp::parse)?;
    let reason = generation::take_reason(&mut object)?;
    object.finish()?;
    let intent = Intent::of(&authority).because(&reason).with("time", &time.to_string());
    let keeper = Arc::clone(&door.keeper);
    let accepted = door
        .audit
        .operation(intent, move |_| async move {
            keeper.accept_clock(time).await.map_err(|error| {
                Refusal::new(Code::Conflict, "the clock shows another time than the one to be accepted")
                    .with("time", error.wall.to_string())
            })
        })
        .await?;
    Ok(format!("{{\"before\":\"{}\",\"time\":\"{}\"}}", accepted.before, accepted.now))
}

fn spell(report: &Report) -> String {
    let known = report.known.iter().map(|(source, at)| format!("\"{}\":\"{at}\"", source.as_str()));
    let known: Vec<_> = known.collect();
    let synchronized = report.synchronized.map(|at| format!(",\"synchronizedAt\":\"{at}\""));
    let doubt = report.doubt.map(|doubt| {
        format!(
            ",\"doubt\":{{\"cause\":\"{}\",\"because\":{},\"since\":\"{}\",\"cure\":{}}}",
            doubt.cause.as_str(),
            keychain::json::string(&doubt.cause.to_string()),
            doubt.since,
            keychain::json::string(doubt.cause.cure())
        )
    });
    format!(
        "{{\"trusted\":{},\"time\":\"{}\",\"lastTrusted\":\"{}\",\"sources\":{{{}}}{}{}}}",
        report.doubt.is_none(),
        report.wall,
        report.last_trusted,
        known.join(","),
        synchronized.unwrap_or_default(),
        doubt.unwrap_or_default()
    )
}

impl Outcome for Accepted {
    fn details(&self) -> Vec<(&'static str, String)> {
        vec![("before", self.before.to_string()), ("time", self.now.to_string())]
    }
}
