//! The app behind the edge: what it is asked, and what of its answer reaches a device.

use actix_web::http::header::HeaderMap;
use keychain::token::Claims;
use keychain::{Code, Nonce, Refusal};
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use systemd::telemetry::Quota;

use crate::ecma;
use crate::http::RequestId;
use crate::peer::Peer;
use crate::verifier::Admitted;

/// Who asks, for the app. Written by the edge alone.
const IDENTITY: HeaderName = HeaderName::from_static("keelson-identity");
const DEVICE: HeaderName = HeaderName::from_static("keelson-device");
const ATTRIBUTES: HeaderName = HeaderName::from_static("keelson-attributes");
const NONCE: HeaderName = HeaderName::from_static("keelson-nonce");
/// What the request is called in the edge's answer and log.
const REQUEST: HeaderName = HeaderName::from_static("keelson-request");
/// Which edge asks, for an app that others on the network could reach.
const EDGE_SECRET: HeaderName = HeaderName::from_static("keelson-edge-secret");

/// Whoever has a session can cause these lines, so that only some of them are written.
static BAD_ANSWERS: Quota = Quota::per_minute(12);
static NO_ANSWERS: Quota = Quota::per_minute(12);

/// What every worker's way to the app has in common.
#[derive(Debug, Clone)]
pub struct AppSettings {
    /// Where the app is.
    pub peer: Peer,
    /// The secret it knows its edge by.
    pub secret: Option<HeaderValue>,
    /// Headers of the device that reach it.
    pub forward: Vec<HeaderName>,
    /// Longest answer passed on, in bytes.
    pub answer_max: usize,
    /// How long it may take.
    pub deadline: std::time::Duration,
}

/// One worker's way to the app, with connections of its own.
#[derive(Debug)]
pub(super) struct App {
    client: reqwest::Client,
    settings: AppSettings,
}

/// An app's answer, fit to be signed.
#[derive(Debug)]
pub(super) struct Answer {
    /// 200 for any success, otherwise the app's own.
    pub status: u16,
    /// JSON as every client re-serialises it.
    pub json: String,
}

impl App {
    /// Prepares the way; nothing is opened yet.
    pub(super) fn new(settings: AppSettings) -> Result<Self, reqwest::Error> {
        Ok(Self { client: settings.peer.client(settings.deadline)?, settings })
    }

    /// Asks the app, in the name of an admitted caller, at `place` (path and query).
    pub(super) async fn ask(
        &self,
        place: &str,
        admitted: &Admitted<'_>,
        device: &HeaderMap,
        id: &RequestId,
    ) -> Result<Answer, Refusal> {
        let request = self.request(place, admitted, device)?.header(REQUEST, id.value().as_bytes());
        let answer = request.send().await.map_err(|error| unavailable(id, &error))?;
        let status = answer.status().as_u16();
        let status = match status {
            200..=299 => 200,
            400..=599 => status,
            _ => return Err(bad_answer("the app answered with neither success nor error")),
        };
        let body = self.body(answer, id).await?;
        let json = match ecma::respell(&body) {
            Ok(json) => json,
            // Frameworks' own error pages are no JSON: what they say to the device is their status.
            Err(ecma::Unsurvivable::NotJson { .. } | ecma::Unsurvivable::NotUtf8 { .. }) if status >= 400 => {
                "{}".to_owned()
            }
            Err(flaw) => {
                if let Some(left_out) = BAD_ANSWERS.admit() {
                    tracing::warn!(request = %id, %flaw, left_out, "the app's answer cannot reach a device unchanged");
                }
                return Err(bad_answer("the app's answer is not JSON that survives every client"));
            }
        };
        Ok(Answer { status, json })
    }

    fn request(
        &self,
        place: &str,
        admitted: &Admitted<'_>,
        device: &HeaderMap,
    ) -> Result<reqwest::RequestBuilder, Refusal> {
        let url = reqwest::Url::parse(&self.settings.peer.url(place)).ok();
        let url = url.filter(|url| (url.path(), url.query()) == parts(place));
        let url =
            url.ok_or(Refusal::new(Code::InvalidMessage, "the path would reach the app otherwise spelt"))?;
        let mut request = self.client.post(url).body(admitted.request().to_owned());
        for name in &self.settings.forward {
            for value in device.get_all(name.as_str()) {
                request = request.header(name, value.as_bytes());
            }
        }
        for (name, value) in caller(admitted.claims(), admitted.nonce())? {
            request = request.header(name, value);
        }
        if let Some(secret) = &self.settings.secret {
            request = request.header(EDGE_SECRET, secret);
        }
        Ok(request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")))
    }

    async fn body(&self, mut answer: reqwest::Response, id: &RequestId) -> Result<Vec<u8>, Refusal> {
        let most = self.settings.answer_max;
        if answer.content_length().is_some_and(|length| length > most as u64) {
            return Err(bad_answer("the app's answer is beyond its limit"));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| unavailable(id, &error))? {
            if bytes.len() + chunk.len() > most {
                return Err(bad_answer("the app's answer is beyond its limit"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

/// Path and query of a place.
fn parts(place: &str) -> (&str, Option<&str>) {
    place.split_once('?').map_or((place, None), |(path, query)| (path, Some(query)))
}

/// The headers that say who asks.
fn caller(claims: &Claims, nonce: Nonce) -> Result<[(HeaderName, HeaderValue); 4], Refusal> {
    let value = |text: String| {
        HeaderValue::try_from(text)
            .map_err(|_| Refusal::new(Code::Internal, "a claim does not fit into a header"))
    };
    Ok([
        (IDENTITY, value(claims.identity.to_string())?),
        (DEVICE, value(claims.device.to_string())?),
        (ATTRIBUTES, value(ascii(&claims.attributes.to_json()))?),
        (NONCE, value(nonce.to_string())?),
    ])
}

/// The same JSON in ASCII alone, which is all that a header carries everywhere alike.
fn ascii(json: &str) -> String {
    let units = json.encode_utf16();
    let spell = |unit: u16| match char::from_u32(u32::from(unit)) {
        Some(character @ ' '..='~') => character.to_string(),
        _ => format!("\\u{unit:04x}"),
    };
    units.map(spell).collect()
}

const fn bad_answer(because: &'static str) -> Refusal {
    Refusal::new(Code::BadAnswer, because)
}

fn unavailable(id: &RequestId, error: &reqwest::Error) -> Refusal {
    if let Some(left_out) = NO_ANSWERS.admit() {
        let error = error as &dyn std::error::Error;
        tracing::warn!(request = %id, error, left_out, "the app did not answer");
    }
    Refusal::new(
        Code::AppUnavailable,
        if error.is_timeout() { "the app took too long" } else { "the app did not answer" },
    )
}
