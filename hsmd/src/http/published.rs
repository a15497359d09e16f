//! `POST /published`: the publisher says what it found in the directory.

use std::time::{Duration, Instant};

use actix_web::{HttpRequest, HttpResponse, web};
use keychain::{Code, Refusal};

use super::{Door, border, caller};
use crate::{
    chain::statement::{REPORT_MAX, Report},
    policy::Operation,
};

/// How long a report may take to come.
const REPORT_TIME: Duration = Duration::from_secs(10);

pub(super) async fn published(
    request: HttpRequest,
    door: web::Data<Door>,
    payload: web::Payload,
) -> HttpResponse {
    let start = Instant::now();
    let outcome = try_published(&request, &door, payload).await;
    door.answer(&request, "report", start, outcome)
}

async fn try_published(request: &HttpRequest, door: &Door, payload: web::Payload) -> Result<String, Refusal> {
    door.policy.demand_known(caller(request))?;
    // Before the body: its signatures cost time, and this bounds how often.
    door.policy.permit(Operation::Report, caller(request))?;
    let body = border::read_within(payload, REPORT_MAX, REPORT_TIME).await?;
    let parsed = web::block(move || Report::parse(&body)).await;
    let report = parsed.map_err(|_| Refusal::new(Code::Internal, "the report was not read to its end"))??;
    let finding = door.statements.judge(&report).await.map_err(|error| border::refuse(&error))?;
    door.statements.note_health(&door.health);
    Ok(format!("{{\"finding\":\"{}\"}}", finding.label()))
}
