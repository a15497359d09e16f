//! `GET /statements`: the newest head; `POST /revoke-keys`: what it is to revoke.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use actix_web::{HttpRequest, HttpResponse, web};
use keychain::{Code, PublicKey, Refusal, Timestamp, json, json::Object, limits};

use super::{
    Door, border, declared, generation,
    wait::{Query, Wait},
};
use crate::{
    audit::operation::{Intent, Outcome},
    policy::Operation,
};

pub(super) async fn statements(
    query: Result<web::Query<Query>, actix_web::Error>,
    door: web::Data<Door>,
) -> HttpResponse {
    match newest(query, &door).await {
        Ok(body) => border::json(200, body),
        Err(refusal) => border::refused(&refusal),
    }
}

async fn newest(query: Result<web::Query<Query>, actix_web::Error>, door: &Door) -> Result<String, Refusal> {
    let wait = Wait::of(query, "want `after`, a version, and `wait`, up to 60 seconds")?;
    if let Some(after) = wait.after {
        let mut newest = door.statements.watch();
        wait.for_news(door, newest.wait_for(|newest| door.statements.or_kept(newest).version != after)).await;
    }
    Ok(door.statements.newest_or_kept().to_json())
}

pub(super) async fn revoke_keys(
    request: HttpRequest,
    door: web::Data<Door>,
    payload: web::Payload,
) -> HttpResponse {
    let start = Instant::now();
    let outcome = try_revoke_keys(&request, &door, payload).await;
    door.answer(&request, "revoke-keys", start, outcome)
}

async fn try_revoke_keys(
    request: &HttpRequest,
    door: &Door,
    payload: web::Payload,
) -> Result<String, Refusal> {
    let (authority, body) = door.admit(request, payload, Operation::RevokeKeys).await?;
    let mut object = Object::parse_bytes(&body)?;
    let keys = read_keys(object.raw("publicKeys")?)?;
    let reason = generation::take_reason(&mut object)?;
    object.finish()?;
    let listed: Vec<_> = keys.iter().map(|key| format!("\"{key}\"")).collect();
    let listed = listed.join(",");
    let intent = Intent::of(&authority).because(&reason).with_json("keys", &format!("[{listed}]"));
    let statements = Arc::clone(&door.statements);
    let Revoked(expiration) = door
        .audit
        .operation(intent, move |success| async move {
            let lines = move |expiration| success.lines(&Revoked(expiration));
            let done = statements.revoke_keys_with(&keys, lines).await;
            done.map(|done| done.map(Revoked)).map_err(|error| border::refuse(&error))
        })
        .await
        .and_then(declared::answer)?;
    Ok(format!("{{\"revokedKeys\":[{listed}],\"expiration\":\"{expiration}\"}}"))
}

/// When the last endorsement of revoked keys can have ended.
struct Revoked(Timestamp);

impl Outcome for Revoked {
    fn details(&self) -> Vec<(&'static str, String)> {
        vec![("expiration", self.0.to_string())]
    }
}

/// Reads the keys: at least one, no more than a head lists, each once.
fn read_keys(raw: &str) -> Result<Vec<PublicKey>, Refusal> {
    let bad = Refusal::new(Code::InvalidMessage, "`publicKeys` is not a list of 1 to 64 different keys");
    let keys = json::plain_strings(raw)?.into_iter().map(PublicKey::parse).collect::<Result<Vec<_>, _>>()?;
    let different: BTreeSet<_> = keys.iter().collect();
    let fits = (1..=limits::REVOKED_KEYS_MAX).contains(&keys.len()) && different.len() == keys.len();
    if fits { Ok(keys) } else { Err(bad) }
}
