//! base64url with CESR's lead characters: exactly one spelling a value.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// Reads exactly `N` bytes, `N` divisible by three, so that no padding and no loose bits exist.
pub(super) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != N / 3 * 4 {
        return None;
    }
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    (length == N).then_some(bytes)
}

/// Reads `N` bytes whose first are zero, where `lead` stands in place of the characters that only cover
/// those zero bits. The bits that the lead does not cover must be zero too.
pub(super) fn decode_lead<const N: usize>(text: &str, lead: &str) -> Option<[u8; N]> {
    let rest = text.strip_prefix(lead)?;
    let mut zeroed = String::with_capacity(text.len());
    for _ in 0..lead.len() {
        zeroed.push('A');
    }
    zeroed.push_str(rest);
    let bytes = decode::<N>(&zeroed)?;
    bytes.iter().take(lead.len()).all(|byte| *byte == 0).then_some(bytes)
}

/// Writes bytes in base64url without padding.
pub(super) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Writes `zeros` zero bytes and `bytes`, with `lead` in place of as many first characters.
pub(super) fn write_lead(f: &mut fmt::Formatter<'_>, lead: &str, zeros: usize, bytes: &[u8]) -> fmt::Result {
    let mut padded = vec![0; zeros];
    padded.extend_from_slice(bytes);
    f.write_str(lead)?;
    f.write_str(encode(&padded).get(lead.len()..).unwrap_or_default())
}
