//! `POST /sign`: an endorsement of a service's key.

use std::time::Instant;

use actix_web::{HttpRequest, HttpResponse, web};
use keychain::{Refusal, endorsement::SignRequest};

use super::{Door, border, caller};
use crate::{
    audit,
    failure_point::{self, Step},
};

pub(super) async fn sign(request: HttpRequest, door: web::Data<Door>, payload: web::Payload) -> HttpResponse {
    let start = Instant::now();
    let outcome = try_sign(&request, &door, payload).await;
    door.answer(&request, "sign", start, outcome)
}

async fn try_sign(request: &HttpRequest, door: &Door, payload: web::Payload) -> Result<String, Refusal> {
    door.policy.demand_known(caller(request))?;
    let body = border::read(payload).await?;
    let wanted = SignRequest::parse(&body)?;
    // The state first: in one whose ledger is not read or not written, clock and audit trail are not ready either, and
    // their refusals do not name it.
    door.keeper.settled().map_err(|error| border::refuse(&error))?;
    let now = door.keeper.trusted_now().map_err(|doubt| border::refuse(&doubt.into()))?;
    let permission = door.policy.permit_endorsement(caller(request), &wanted, now)?;
    door.statements.demand_not_revoked(&wanted.public_key)?;
    door.statements.demand_open(permission.service())?;
    door.audit.demand_writable().map_err(|error| border::unwritten(&error))?;
    let endorsed = door.keeper.endorse(&permission).await.map_err(|error| border::refuse(&error))?;
    // Revoked while the token was waited for: this endorsement leaves for no caller.
    door.statements.demand_not_revoked(&wanted.public_key)?;
    let line = audit::Endorsed { generation: &endorsed.generation, number: endorsed.number };
    let written = door.audit.endorsed(&permission, &line).await;
    written.map_err(|error| border::unwritten(&error))?;
    failure_point::pass(Step::Endorse, "after-audit");
    Ok(endorsed.text)
}
