//! `POST /sign`: an endorsement of a service's key.

use std::time::Instant;

use actix_web::{HttpRequest, HttpResponse, web};
use keychain::{Refusal, endorsement::SignRequest};

use super::{Door, border, caller};

pub(super) async fn sign(request: HttpRequest, door: web::Data<Door>, payload: web::Payload) -> HttpResponse {
    border::answer("sign", Instant::now(), try_sign(&request, &door, payload).await)
}

async fn try_sign(request: &HttpRequest, door: &Door, payload: web::Payload) -> Result<String, Refusal> {
    let caller = caller(request);
    door.policy.demand_known(caller)?;
    let body = border::read(payload).await?;
    let wanted = SignRequest::parse(&body)?;
    let permission = door.policy.permit_endorsement(caller, &wanted, door.keeper.now())?;
    door.statements.demand_not_revoked(&wanted.public_key)?;
    let endorsed = door.keeper.endorse(&permission).await.map_err(|error| border::refuse(&error))?;
    Ok(endorsed.text)
}
