//! What makes an answer believable (`PROTOCOL.md#device-verify`).

use crate::{
    access::Response,
    cesr::{Nonce, PublicKey},
    chain::{Chain, windows},
    endorsement::{Endorsement, Expected, Purpose},
    error::{Code, Refusal},
    json::Object,
    time::Timestamp,
};

/// What an answer is checked against.
#[derive(Clone, Copy, Debug)]
pub struct Trust<'a> {
    /// The HSM chain, pinned to the prefix that this device was made for.
    pub chain: &'a Chain,
    /// The endorsement of the key that signed the answer, from anywhere: see [`server_identity`].
    pub endorsement: &'a Endorsement,
}

impl Trust<'_> {
    /// The `response` member of an answer to the request with `nonce`, if `service` gave it.
    pub(super) fn open<'b>(
        &self,
        body: &'b [u8],
        nonce: &Nonce,
        service: &str,
        now: Timestamp,
    ) -> Result<&'b str, Refusal> {
        let answer = Response::parse(body)?;
        answer.verify(nonce)?;
        let expected = Expected {
            purpose: Purpose::Response,
            public_key: &answer.server_identity,
            service: Some(service),
        };
        self.endorsement.verify(self.chain, expected, windows::DEVICE, now)?;
        Ok(answer.response)
    }
}

/// The key that an answer says it is signed by: the one whose endorsement is needed. Nothing is proven.
pub fn server_identity(body: &[u8]) -> Result<PublicKey, Refusal> {
    Response::parse(body).map(|answer| answer.server_identity)
}

/// The code of an error that a service answered (`PROTOCOL.md#errors`), if it is one that this crate knows.
/// Nobody signs errors: it is for showing, and for deciding whether to retry.
pub fn refusal_code(body: &[u8]) -> Option<Code> {
    let mut error = Object::parse_bytes(body).ok()?.object("error").ok()?;
    let code = error.string("code").ok()?;
    Code::ALL.into_iter().find(|known| known.as_str() == code)
}
