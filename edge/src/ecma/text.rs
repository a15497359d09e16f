//! Strings: read by JSON's grammar, written with the escapes of `JSON.stringify` and no others.

use std::borrow::Cow;

use super::Unsurvivable;

/// What is wrong with a string, at an offset from its opening quote.
pub(super) enum Flaw {
    LoneSurrogate(usize),
    NotJson(usize),
}

impl Flaw {
    /// The same, at an offset in the whole text.
    pub(super) fn at(self, start: usize) -> Unsurvivable {
        match self {
            Self::LoneSurrogate(offset) => Unsurvivable::LoneSurrogate { at: start + offset },
            Self::NotJson(offset) => Unsurvivable::NotJson { at: start + offset },
        }
    }
}

/// Reads the string literal that `text` begins with: its value, and how many bytes it took.
pub(super) fn read(text: &str) -> Result<(Cow<'_, str>, usize), Flaw> {
    if !text.starts_with('"') {
        return Err(Flaw::NotJson(0));
    }
    let mut value: Option<String> = None;
    let mut from = 1; // start of the stretch that needs no change
    let mut at = 1;
    loop {
        let stretch = |to: usize| text.get(from..to).unwrap_or_default();
        match text.as_bytes().get(at) {
            Some(b'"') => {
                let tail = stretch(at);
                let whole = match value {
                    None => Cow::Borrowed(tail),
                    Some(mut begun) => {
                        begun.push_str(tail);
                        Cow::Owned(begun)
                    }
                };
                return Ok((whole, at + 1));
            }
            Some(b'\\') => {
                let (character, length) = escape(text, at)?;
                let begun = value.get_or_insert_default();
                begun.push_str(stretch(at));
                begun.push(character);
                at += length;
                from = at;
            }
            Some(0x20..) => at += 1,
            Some(_) | None => return Err(Flaw::NotJson(at)),
        }
    }
}

/// Reads the escape at `at`: its character, and how many bytes it took.
fn escape(text: &str, at: usize) -> Result<(char, usize), Flaw> {
    let character = match text.as_bytes().get(at + 1) {
        Some(b'"') => '"',
        Some(b'\\') => '\\',
        Some(b'/') => '/',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unicode(text, at),
        _ => return Err(Flaw::NotJson(at)),
    };
    Ok((character, 2))
}

/// Reads `\uXXXX`, or the pair of them that one character beyond the first plane takes.
fn unicode(text: &str, at: usize) -> Result<(char, usize), Flaw> {
    let first = unit(text, at).ok_or(Flaw::NotJson(at))?;
    if let Some(character) = char::from_u32(first) {
        return Ok((character, 6));
    }
    let is_high = (0xD800..0xDC00).contains(&first);
    let second = unit(text, at + 6).filter(|low| is_high && (0xDC00..0xE000).contains(low));
    let second = second.ok_or(Flaw::LoneSurrogate(at))?;
    let code = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
    char::from_u32(code).map(|character| (character, 12)).ok_or(Flaw::LoneSurrogate(at))
}

/// The code unit of the `\uXXXX` at `at`.
fn unit(text: &str, at: usize) -> Option<u32> {
    let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None; // from_str_radix would take a sign
    }
    u32::from_str_radix(digits, 16).ok()
}

/// Appends a string literal as `JSON.stringify` writes it.
pub(super) fn write(value: &str, out: &mut String) {
    out.push('"');
    let mut from = 0;
    for (at, byte) in value.bytes().enumerate() {
        let hex;
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            0x08 => "\\b",
            0x0C => "\\f",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..0x20 => {
                hex = format!("\\u{byte:04x}");
                &hex
            }
            _ => continue,
        };
        out.push_str(value.get(from..at).unwrap_or_default());
        out.push_str(escape);
        from = at + 1;
    }
    out.push_str(value.get(from..).unwrap_or_default());
    out.push('"');
}
