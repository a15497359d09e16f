//! Numbers: read by JSON's grammar, printed as ECMAScript prints them, refused when that would
//! change their value.

/// The largest integer that every client can hold: 2^53 − 1.
const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;

/// Longest number accepted, in characters. The exact decimal expansion of a double has at most 767
/// significant digits; with leading zeros and an exponent it stays below this.
const LENGTH_MAX: usize = 1_100;

/// Any decimal of so many significant digits survives the way into a normal double and back.
const DIGITS_ALWAYS_EXACT: usize = 15;

/// The number that `text` begins with, if it is one by JSON's grammar.
pub(super) fn literal(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let digits_from = |from: usize| bytes.iter().skip(from).take_while(|byte| byte.is_ascii_digit()).count();
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    let whole = digits_from(at);
    if whole == 0 || (whole > 1 && bytes.get(at) == Some(&b'0')) {
        return None;
    }
    at += whole;
    if bytes.get(at) == Some(&b'.') {
        let fraction = digits_from(at + 1);
        if fraction == 0 {
            return None;
        }
        at += 1 + fraction;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits_from(at);
        if exponent == 0 {
            return None;
        }
        at += exponent;
    }
    text.get(..at)
}

/// Appends the number as ECMAScript prints it; `false`, and nothing written, if its value would change.
///
/// An integer beyond [`SAFE_INTEGER_MAX`] is refused even where a double happens to hold it: its neighbours
/// are not, and whoever sends `9007199254740992` counts in integers. `1e17` is a double's own spelling and
/// passes, though it is printed as an integer.
pub(super) fn write(literal: &str, out: &mut String) -> bool {
    if literal.len() > LENGTH_MAX {
        return false;
    }
    if !literal.contains(['.', 'e', 'E']) {
        let Ok(value) = literal.parse::<i64>() else { return false };
        if value.unsigned_abs() > SAFE_INTEGER_MAX {
            return false;
        }
        out.push_str(&value.to_string()); // of -0 without its sign, as ECMAScript has it
        return true;
    }
    let Ok(value) = literal.parse::<f64>() else { return false };
    if !value.is_finite() || !is_faithful(literal, value) {
        return false;
    }
    out.push_str(ryu_js::Buffer::new().format_finite(value));
    true
}

/// Whether `literal` is a spelling of exactly the double `value`: the one that comes of rounding it
/// to as many digits as the literal has.
///
/// So `0.1`, `0.10000000000000001` and the exact expansion of that double pass (each sender held
/// this double), while a decimal that carried more than a double can hold does not.
fn is_faithful(literal: &str, value: f64) -> bool {
    let mantissa = literal.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_start_matches('0').trim_end_matches('0');
    if digits.is_empty() || value == 0.0 {
        return digits.is_empty();
    }
    if digits.len() <= DIGITS_ALWAYS_EXACT && value.is_normal() {
        return true;
    }
    let precision = digits.len().saturating_sub(1);
    let rounded = format!("{:.precision$e}", value.abs());
    let rounded: String = rounded.chars().take_while(|c| *c != 'e').filter(char::is_ascii_digit).collect();
    rounded == digits
}
