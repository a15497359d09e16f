//! What makes an answer believable (`PROTOCOL.md#device-verify`).

use serde_json::value::RawValue;

use crate::{
    access::Response,
    cesr::{Nonce, PublicKey},
    chain::{Chain, windows},
    endorsement::{Endorsement, Expected, Purpose},
    error::{Code, Refusal},
    json::Object,
    limits,
    statement::Head,
    time::Timestamp,
};

/// What an answer is checked against.
#[derive(Clone, Copy, Debug)]
pub struct Trust<'a> {
    /// The HSM chain, pinned to the prefix that this device was made for. What it has heard of heads counts:
    /// [`take_heads`].
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

/// What became of a list of heads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heads {
    /// Those that verified, and so count.
    pub taken: usize,
    /// Those that were passed over: not heads, forged, of another chain or of a generation that is not live here.
    pub passed_over: usize,
}

/// Takes the heads of a list, as the key service has it at `/hsm/heads`, into `chain`
/// (`PROTOCOL.md#device-heads`): from then on a [`Trust`] of that chain refuses what they deny and revoke. Events come
/// first, because a head of an event that the chain lacks is passed over.
///
/// Nothing is ever taken back by this, whatever the list says or lacks. Keep the list beside the chain, and take it
/// again after a start. It errs for a text that is no list, or a longer one than any honest key service has.
pub fn take_heads(chain: &mut Chain, list: &str, now: Timestamp) -> Result<Heads, Refusal> {
    if list.len() > limits::HEADS_LIST_MAX {
        return Err(Refusal::new(Code::TooLarge, "the list of heads is longer than 160 KiB"));
    }
    let no_list = |_| Refusal::new(Code::InvalidMessage, "the heads are not an array");
    let mut heads = Heads::default();
    for raw in serde_json::from_str::<Vec<&RawValue>>(list).map_err(no_list)? {
        match take_head(chain, raw.get(), now) {
            Ok(()) => heads.taken = heads.taken.saturating_add(1),
            Err(_one_of_many) => heads.passed_over = heads.passed_over.saturating_add(1),
        }
    }
    Ok(heads)
}

fn take_head(chain: &mut Chain, text: &str, now: Timestamp) -> Result<(), Refusal> {
    let head = Head::parse(text)?;
    let proven = head.verify(chain, windows::DEVICE, now)?;
    chain.hear(&proven, now);
    Ok(())
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
