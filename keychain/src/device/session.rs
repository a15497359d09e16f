//! Access requests within a session. They change no state: any number may be under way, also while an
//! operation waits for its answer.

use serde_json::value::RawValue;

use super::secret::{self, Entropy};
use super::{Device, Trust};
use crate::{
    access,
    cesr::Nonce,
    error::{Code, Refusal},
    time::Timestamp,
};

/// An access request to post to an app server. One that gets no answer is made anew, never sent again
/// (`PROTOCOL.md#device-retry`).
#[derive(Clone, Debug)]
pub struct AccessOutgoing {
    /// The body.
    pub body: String,
    /// What its answer repeats: for [`access_response`].
    pub nonce: Nonce,
}

impl Device {
    /// Makes a request to an app server (`PROTOCOL.md#access-request`). `request` is any JSON; `audience`
    /// binds it to one place, where the app server knows that member.
    pub fn access_request(
        &self,
        request: &str,
        audience: Option<&str>,
        entropy: &mut impl Entropy,
        now: Timestamp,
    ) -> Result<AccessOutgoing, Refusal> {
        let session = self.session()?;
        serde_json::from_str::<&RawValue>(request)
            .map_err(|_| Refusal::new(Code::InvalidMessage, "the app's request is not JSON"))?;
        let nonce = secret::nonce(entropy);
        let key = session.current.signing();
        let body = access::seal_request(key, &nonce, now, &session.token, audience, request)?;
        Ok(AccessOutgoing { body, nonce })
    }
}

/// What an app server answered to the access request with `nonce`: its JSON, verified. `service` is the
/// name that the HSM service has for that app server, `edge:<name>`.
pub fn access_response<'a>(
    body: &'a [u8],
    nonce: &Nonce,
    service: &str,
    trust: &Trust<'_>,
    now: Timestamp,
) -> Result<&'a str, Refusal> {
    trust.open(body, nonce, service, now)
}
