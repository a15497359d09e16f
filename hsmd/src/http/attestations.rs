//! `GET /attestations`: the device's certificates about the keys of the chain.

use actix_web::{HttpResponse, web};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{Door, border};
use crate::chain::Attested;

/// Answers an array of objects with `generationId`, `publicKey` and `certificate` (DER, in base64); empty where
/// the device issues none. Whoever may read the chain may read them.
pub(super) async fn attestations(door: web::Data<Door>) -> HttpResponse {
    match door.keeper.attestations().await {
        Ok(attested) => {
            let listed: Vec<_> = attested.iter().map(spell).collect();
            border::json(200, format!("[{}]", listed.join(",")))
        }
        Err(error) => border::refused(&border::refuse(&error)),
    }
}

fn spell(attested: &Attested) -> String {
    format!(
        "{{\"generationId\":\"{}\",\"publicKey\":\"{}\",\"certificate\":\"{}\"}}",
        attested.generation,
        attested.public_key,
        STANDARD.encode(&attested.certificate)
    )
}
