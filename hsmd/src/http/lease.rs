//! `GET /lease`: which hsmd writes the ledger; `POST /lease`: an operator's word that this one does from now on.

use std::time::Instant;

use actix_web::{HttpRequest, HttpResponse, web};
use keychain::{Code, Refusal, json, json::Object};

use super::{Door, border, generation};
use crate::{
    audit::operation::{Intent, Outcome},
    ledger::{Condition, Error, Holder},
    policy::Operation,
};

pub(super) async fn lease(door: web::Data<Door>) -> HttpResponse {
    match door.keeper.ledger().holder().await {
        Ok(holder) => border::json(200, spell(&holder, is_here(&door))),
        Err(error) => border::refused(&border::unwritten(&error)),
    }
}

fn is_here(door: &Door) -> bool {
    let condition = door.keeper.ledger().condition();
    let here = matches!(*condition.borrow(), Condition::Writing | Condition::NoRoom { .. });
    here
}

fn spell(holder: &Holder, here: bool) -> String {
    let Holder { name, fence } = holder;
    format!("{{\"holder\":{},\"fence\":{fence},\"here\":{here}}}", json::string(name))
}

pub(super) async fn take(request: HttpRequest, door: web::Data<Door>, payload: web::Payload) -> HttpResponse {
    let start = Instant::now();
    let outcome = try_take(&request, &door, payload).await;
    door.answer(&request, "take-lease", start, outcome)
}

async fn try_take(request: &HttpRequest, door: &Door, payload: web::Payload) -> Result<String, Refusal> {
    let (authority, body) = door.admit(request, payload, Operation::Recover).await?;
    let mut object = Object::parse_bytes(&body)?;
    let fence: u64 = object.parsed("fence", |text| {
        text.parse().map_err(|_| Refusal::new(Code::InvalidMessage, "`fence` is not the number of a lease"))
    })?;
    let reason = generation::take_reason(&mut object)?;
    object.finish()?;
    let ledger = door.keeper.ledger();
    let shown = ledger.holder().await.map_err(|error| border::unwritten(&error))?;
    if shown.fence != fence {
        return Err(conflict("another hsmd has taken the lease since: see who has it"));
    }
    let from = shown.name.clone();
    let intent = Intent::of(&authority).because(&reason).with("leaseOf", &from);
    ledger.take_lease().await.map_err(|error| match error {
        Error::Unwritten(Condition::Standby { .. }) => conflict(
            "the lease of an SQLite ledger ends with the process that has it, and with nothing else: stop that hsmd",
        ),
        error => border::unwritten(&error),
    })?;
    // A standby cannot write that it is about to take the lease: both lines are the first that it writes.
    door.audit.operation(intent, move |_| async move { Ok(Taken { from }) }).await?;
    let now = ledger.holder().await.map_err(|error| border::unwritten(&error))?;
    Ok(spell(&now, is_here(door)))
}

fn conflict(because: &'static str) -> Refusal {
    Refusal::new(Code::Conflict, because).with("because", because)
}

/// From whom the lease was taken.
struct Taken {
    from: String,
}

impl Outcome for Taken {
    fn details(&self) -> Vec<(&'static str, String)> {
        vec![("leaseOf", self.from.clone())]
    }
}
