//! The signed message: `{"payload":P,"signature":"0I…"}`, the signature over the bytes of P
//! (`PROTOCOL.md#signed-messages`).

use crate::{
    cesr::Signature,
    error::{Code, Refusal},
    json::Object,
};

/// A message with its parts as received. Nothing about it is proven.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// The bytes of the payload, which the signature is over.
    pub payload: &'a str,
    /// The signature, where the message has one (`/session/request` has none).
    pub signature: Option<Signature>,
}

impl<'a> Envelope<'a> {
    /// Reads the two members and refuses any other.
    pub fn parse(text: &'a str) -> Result<Self, Refusal> {
        let mut object = Object::parse(text)?;
        let payload = object.raw("payload")?;
        let signature = match object.take("signature") {
            Some(raw) => Some(Signature::parse(crate::json::plain_string(raw)?)?),
            None => None,
        };
        object.finish()?;
        Ok(Self { payload, signature })
    }

    /// Reads the message from bytes.
    pub fn parse_bytes(bytes: &'a [u8]) -> Result<Self, Refusal> {
        Self::parse(std::str::from_utf8(bytes).map_err(|_| Refusal::new(Code::InvalidMessage, "not UTF-8"))?)
    }

    /// The signature, which this kind of message must have.
    pub fn required_signature(&self) -> Result<Signature, Refusal> {
        self.signature.ok_or(Refusal::new(Code::InvalidMessage, "the signature is missing"))
    }
}

/// Puts a payload and the signature over it together.
pub fn seal(payload: &str, signature: &Signature) -> String {
    format!("{{\"payload\":{payload},\"signature\":\"{signature}\"}}")
}
