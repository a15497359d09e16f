//! `GET /services`: which services ought to be there; `POST /revoke-service` and `POST /open-service`: those that are
//! compromised; `POST /roll-service`: those that are to replace their keys.

use std::{sync::Arc, time::Instant};

use actix_web::{HttpRequest, HttpResponse, web};
use keychain::{Code, Refusal, json, json::Object};

use super::{Door, border, caller, declared, generation};
use crate::{
    audit::operation::{Intent, Outcome, Success},
    chain::statement::Declared,
    ledger::{RevokedService, RolledService},
    policy::{Operation, Service},
};

/// The services of the policy, with the processes that ought to be there: every caller that may ask anything here needs it to say
/// who has not acknowledged a declaration.
pub(super) async fn services(request: HttpRequest, door: web::Data<Door>) -> HttpResponse {
    if let Err(refusal) = door.policy.demand_known(caller(&request)) {
        return border::refused(&refusal);
    }
    let policy = door.policy.current();
    let services: Vec<_> = policy
        .services()
        .into_iter()
        .map(|(service, expected)| {
            let purposes: Vec<_> =
                expected.purposes.iter().map(|purpose| json::string(purpose.as_str())).collect();
            let instances: Vec<_> = expected.instances.iter().map(|one| json::string(one.as_str())).collect();
            format!(
                "{{\"service\":{},\"purposes\":[{}],\"instances\":[{}],\"closed\":{}}}",
                json::string(service),
                purposes.join(","),
                instances.join(","),
                door.statements.demand_open(service).is_err()
            )
        })
        .collect();
    border::json(200, format!("{{\"services\":[{}]}}", services.join(",")))
}

pub(super) async fn revoke_service(
    request: HttpRequest,
    door: web::Data<Door>,
    payload: web::Payload,
) -> HttpResponse {
    let start = Instant::now();
    let outcome = change(&request, &door, payload, Operation::RevokeService).await;
    let outcome = outcome.map(|RevokedService { service, endorsed_up_to, end, .. }| {
        let service = json::string(&service);
        format!("{{\"service\":{service},\"endorsedUpTo\":{endorsed_up_to},\"expiration\":\"{end}\"}}")
    });
    door.answer(&request, "revoke-service", start, outcome)
}

pub(super) async fn open_service(
    request: HttpRequest,
    door: web::Data<Door>,
    payload: web::Payload,
) -> HttpResponse {
    let start = Instant::now();
    let outcome = change(&request, &door, payload, Operation::OpenService).await;
    let outcome = outcome.map(|RevokedService { service, endorsed_up_to, .. }| {
        format!("{{\"service\":{},\"endorsedUpTo\":{endorsed_up_to}}}", json::string(&service))
    });
    door.answer(&request, "open-service", start, outcome)
}

pub(super) async fn roll_service(
    request: HttpRequest,
    door: web::Data<Door>,
    payload: web::Payload,
) -> HttpResponse {
    let start = Instant::now();
    let outcome = try_roll(&request, &door, payload).await;
    let outcome = outcome.map(|RolledService { service, endorsed_up_to, end }| {
        let service = json::string(&service);
        format!("{{\"service\":{service},\"endorsedUpTo\":{endorsed_up_to},\"expiration\":\"{end}\"}}")
    });
    door.answer(&request, "roll-service", start, outcome)
}

async fn try_roll(
    request: &HttpRequest,
    door: &Door,
    payload: web::Payload,
) -> Result<RolledService, Refusal> {
    let (service, intent) = admit(request, door, payload, Operation::RollService).await?;
    let statements = Arc::clone(&door.statements);
    let work = move |success: Success| async move {
        let lines = move |row: &RolledService| success.lines(row);
        let done = statements.roll_service_with(service.as_str(), lines).await;
        done.map_err(|error| border::refuse(&error))
    };
    door.audit.operation(intent, work).await.and_then(declared::answer)
}

/// Reads who asks for what about which service.
async fn admit(
    request: &HttpRequest,
    door: &Door,
    payload: web::Payload,
    operation: Operation,
) -> Result<(Service, Intent), Refusal> {
    let (authority, body) = door.admit(request, payload, operation).await?;
    let mut object = Object::parse_bytes(&body)?;
    let bad = |_| {
        Refusal::new(Code::InvalidMessage, "`service` is not `authd`, nor `edge:` or `keysd:` and a name")
    };
    let service = Service::try_from(object.string("service")?.to_owned()).map_err(bad)?;
    let reason = generation::take_reason(&mut object)?;
    object.finish()?;
    let intent = Intent::of(&authority).because(&reason).with("service", service.as_str());
    Ok((service, intent))
}

async fn change(
    request: &HttpRequest,
    door: &Door,
    payload: web::Payload,
    operation: Operation,
) -> Result<RevokedService, Refusal> {
    let (service, intent) = admit(request, door, payload, operation).await?;
    let statements = Arc::clone(&door.statements);
    let work = move |success: Success| async move {
        let lines = move |row: &RevokedService| success.lines(row);
        let done = match operation {
            Operation::OpenService => {
                statements.open_service_with(service.as_str(), lines).await.map(Declared::from)
            }
            _ => statements.revoke_service_with(service.as_str(), lines).await,
        };
        done.map_err(|error| border::refuse(&error))
    };
    door.audit.operation(intent, work).await.and_then(declared::answer)
}

impl Outcome for RolledService {
    fn details(&self) -> Vec<(&'static str, String)> {
        vec![("endorsedUpTo", self.endorsed_up_to.to_string())]
    }
}

impl Outcome for RevokedService {
    fn details(&self) -> Vec<(&'static str, String)> {
        vec![("endorsedUpTo", self.endorsed_up_to.to_string()), ("closed", self.closed.to_string())]
    }
}
