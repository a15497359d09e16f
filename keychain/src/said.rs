//! Self-addressing: an object that carries its own digest (`PROTOCOL.md#self-addressing`).
//!
//! The digest is over the object's bytes with 44 `#` in place of the digest. The place is that of the
//! member's value, found by the parser, never by searching for text: replacing text would also hit a copy
//! of the digest elsewhere in the object, and two objects could share an address.

use crate::{
    cesr::Digest,
    error::{Code, Refusal},
    json,
};

/// What stands in place of a digest while it is computed.
pub const PLACEHOLDER: &str = "############################################";

/// The digest of `text` with [`PLACEHOLDER`] in place of each of `members`.
///
/// `members` are the raw values (quotes included) as [`json::Object`] cut them out of `text`, in any order.
pub fn digest(text: &str, members: &[&str]) -> Result<Digest, Refusal> {
    let misplaced = Refusal::new(Code::InvalidMessage, "the digest member is not a string of 44 characters");
    let mut places = Vec::with_capacity(members.len());
    for member in members {
        if json::plain_string(member)?.len() != Digest::TEXT_LEN || member.len() != Digest::TEXT_LEN + 2 {
            return Err(misplaced);
        }
        let place = member.as_ptr().addr().checked_sub(text.as_ptr().addr());
        places.push(place.and_then(|place| place.checked_add(1)).ok_or_else(|| misplaced.clone())?);
    }
    places.sort_unstable();
    let mut parts = Vec::with_capacity(places.len().saturating_mul(2).saturating_add(1));
    let mut rest = 0_usize;
    for place in places {
        parts.push(text.get(rest..place).ok_or_else(|| misplaced.clone())?);
        parts.push(PLACEHOLDER);
        rest = place.saturating_add(Digest::TEXT_LEN);
    }
    parts.push(text.get(rest..).ok_or(misplaced)?);
    Ok(Digest::of_parts(&parts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Object;

    #[test]
    fn only_the_member_is_replaced() {
        let id = Digest::of("any").to_string();
        let text = format!("{{\"id\":\"{id}\",\"copy\":\"{id}\"}}");
        let raw = Object::parse(&text).unwrap().raw("id").unwrap();
        let expected = Digest::of(format!("{{\"id\":\"{PLACEHOLDER}\",\"copy\":\"{id}\"}}"));
        assert_eq!(digest(&text, &[raw]), Ok(expected));
        assert!(digest(&text, &["\"short\""]).is_err());
        assert!(digest("{}", &[raw]).is_err(), "a value of another text");
    }
}
