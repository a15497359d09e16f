//! Access requests to app servers and their answers (`PROTOCOL.md#access-request`).

use std::time::Duration;

use crate::{
    cesr::{Nonce, PublicKey, Signature},
    error::{Code, Refusal},
    json::{self, Object},
    key::{SigningKey, VerifyingKey},
    limits,
    signed::{self, Envelope},
    time::Timestamp,
};

/// An access request as received; nothing of it is proven before [`Self::verify`].
#[derive(Clone, Copy, Debug)]
pub struct AccessRequest<'a> {
    /// Names the request; accepted once.
    pub nonce: Nonce,
    /// When the device made it.
    pub timestamp: Timestamp,
    /// The token's text.
    pub token: &'a str,
    /// The one place that the request is meant for, if it names one.
    pub audience: Option<&'a str>,
    /// What the app is asked: JSON as received.
    pub request: &'a str,
    payload: &'a str,
    signature: Signature,
}

impl<'a> AccessRequest<'a> {
    /// Reads a message. Bounding its length is the caller's, who knows what the app takes.
    pub fn parse(body: &'a [u8]) -> Result<Self, Refusal> {
        let envelope = Envelope::parse_bytes(body)?;
        let signature = envelope.required_signature()?;
        let mut payload = Object::parse(envelope.payload)?;
        let mut access = payload.object("access")?;
        let request = payload.raw("request")?;
        payload.finish()?;
        let parsed = Self {
            nonce: access.parsed("nonce", Nonce::parse)?,
            timestamp: access.parsed("timestamp", Timestamp::parse)?,
            token: access.string("token")?,
            audience: access.take("audience").map(json::plain_string).transpose()?,
            request,
            payload: envelope.payload,
            signature,
        };
        access.finish()?;
        Ok(parsed)
    }

    /// Whether the request is recent: at most 30 s back, at most `skew` ahead.
    pub fn check_time(&self, now: Timestamp, skew: Duration) -> Result<(), Refusal> {
        let stated = || self.timestamp.to_string();
        if self.timestamp > now.plus(skew) {
            return Err(Refusal::new(Code::FutureRequest, "the request is from the future")
                .with("timestamp", stated()));
        }
        if self.timestamp < now.minus(limits::ACCESS_REQUEST_AGE) {
            return Err(
                Refusal::new(Code::StaleRequest, "the request is over 30 s old").with("timestamp", stated())
            );
        }
        Ok(())
    }

    /// Verifies the signature with the access key that the token names.
    pub fn verify(&self, key: &VerifyingKey) -> Result<(), Refusal> {
        key.verify(self.payload.as_bytes(), &self.signature)
    }
}

/// Makes an access request: what a device sends. `request` is any JSON.
pub fn seal_request(
    key: &SigningKey,
    nonce: &Nonce,
    timestamp: Timestamp,
    token: &str,
    audience: Option<&str>,
    request: &str,
) -> Result<String, Refusal> {
    let audience =
        audience.map(|audience| format!(",\"audience\":{}", json::string(audience))).unwrap_or_default();
    let payload = format!(
        "{{\"access\":{{\"nonce\":\"{nonce}\",\"timestamp\":\"{timestamp}\",\"token\":\"{token}\"{audience}}},\
         \"request\":{request}}}"
    );
    let signature = key.sign(payload.as_bytes())?;
    Ok(signed::seal(&payload, &signature))
}

/// Makes a signed answer to the request with `nonce`: of an app server, and of authd likewise.
/// `response` is JSON that JavaScript re-serialises to the same bytes.
pub fn seal_response(key: &SigningKey, nonce: &Nonce, response: &str) -> Result<String, Refusal> {
    let identity: PublicKey = key.public_key();
    let payload = format!(
        "{{\"access\":{{\"nonce\":\"{nonce}\",\"serverIdentity\":\"{identity}\"}},\"response\":{response}}}"
    );
    let signature = key.sign(payload.as_bytes())?;
    Ok(signed::seal(&payload, &signature))
}

/// A signed answer as received by a device; nothing of it is proven before [`Self::verify`].
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// The nonce of the request that is answered.
    pub nonce: Nonce,
    /// The response key that signed, whose endorsement the device looks up.
    pub server_identity: PublicKey,
    /// The answer itself: JSON as received.
    pub response: &'a str,
    payload: &'a str,
    signature: Signature,
}

impl<'a> Response<'a> {
    /// Reads an answer.
    pub fn parse(body: &'a [u8]) -> Result<Self, Refusal> {
        let envelope = Envelope::parse_bytes(body)?;
        let signature = envelope.required_signature()?;
        let mut payload = Object::parse(envelope.payload)?;
        let mut access = payload.object("access")?;
        let response = payload.raw("response")?;
        payload.finish()?;
        let parsed = Self {
            nonce: access.parsed("nonce", Nonce::parse)?,
            server_identity: access.parsed("serverIdentity", PublicKey::parse)?,
            response,
            payload: envelope.payload,
            signature,
        };
        access.finish()?;
        Ok(parsed)
    }

    /// Verifies that this answers the request with `nonce` and is signed by the key it names.
    pub fn verify(&self, nonce: &Nonce) -> Result<(), Refusal> {
        if self.nonce != *nonce {
            return Err(Refusal::new(Code::IncorrectNonce, "the answer is to another request"));
        }
        VerifyingKey::new(&self.server_identity)?.verify(self.payload.as_bytes(), &self.signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_seed(&[3; 32]).unwrap()
    }

    #[test]
    fn requests_read_back_and_tampering_shows() {
        let nonce = Nonce::from_bytes([1; 16]);
        let now = Timestamp::from_unix_millis(1_000_000);
        let text = seal_request(&key(), &nonce, now, "token", Some("https://a/b"), "{\"foo\":1.50}").unwrap();
        let request = AccessRequest::parse(text.as_bytes()).unwrap();
        assert_eq!(
            (request.request, request.audience, request.token),
            ("{\"foo\":1.50}", Some("https://a/b"), "token")
        );
        let verifying = VerifyingKey::new(&key().public_key()).unwrap();
        assert_eq!(request.verify(&verifying), Ok(()));
        let other = text.replace("1.50", "1.51");
        let code = AccessRequest::parse(other.as_bytes()).unwrap().verify(&verifying).unwrap_err().code();
        assert_eq!(code, Code::BadSignature);
        let code = |millis| {
            let at = Timestamp::from_unix_millis(millis);
            request.check_time(at, Duration::from_secs(5)).map_err(|refusal| refusal.code())
        };
        assert_eq!((code(994_999), code(995_000)), (Err(Code::FutureRequest), Ok(())));
        assert_eq!((code(1_030_000), code(1_030_001)), (Ok(()), Err(Code::StaleRequest)));
    }

    #[test]
    fn answers_are_bound_to_their_request() {
        let nonce = Nonce::from_bytes([1; 16]);
        let text = seal_response(&key(), &nonce, "{}").unwrap();
        let response = Response::parse(text.as_bytes()).unwrap();
        assert_eq!(response.verify(&nonce), Ok(()));
        let code = response.verify(&Nonce::from_bytes([2; 16])).unwrap_err().code();
        assert_eq!(code, Code::IncorrectNonce);
    }
}
