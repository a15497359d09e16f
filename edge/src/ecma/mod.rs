//! An app's JSON, respelled exactly as `JSON.stringify(JSON.parse(text))` spells it.
//!
//! JavaScript clients parse an answer, print it again and verify the signature over what they
//! printed. So what the edge signs must already be in that form, whatever the app's language wrote:
//! no white space, numbers as ECMAScript prints them, integer-like member names first and ascending,
//! the last of repeated members at the place of the first, and only the escapes that
//! `JSON.stringify` writes.
//!
//! What it is not: a repair shop. A number whose value a JavaScript client would change, a lone
//! surrogate, text that is not JSON or nests too deeply is an [`Unsurvivable`] answer, never a
//! silent change (`PROTOCOL.md#small-print`).

mod number;
mod text;

use std::borrow::Cow;
use std::collections::HashMap;

/// Deepest nesting accepted. Rust clients (`serde_json`) stop at 128 and the answer stands two
/// levels deep in its envelope; nobody's honest answer comes near.
pub const DEPTH_MAX: usize = 100;

/// Why an answer cannot reach every client unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsurvivable {
    /// It nests deeper than [`DEPTH_MAX`].
    #[error("nests deeper than {DEPTH_MAX} levels at byte {at}")]
    Depth {
        /// Offset in the app's answer.
        at: usize,
    },
    /// A string holds half of a surrogate pair, which is no character.
    #[error("holds a lone surrogate escape at byte {at}")]
    LoneSurrogate {
        /// Offset in the app's answer.
        at: usize,
    },
    /// It is not one JSON text.
    #[error("is not JSON at byte {at}")]
    NotJson {
        /// Offset in the app's answer.
        at: usize,
    },
    /// It is not UTF-8.
    #[error("is not UTF-8 from byte {at} on")]
    NotUtf8 {
        /// Offset in the app's answer.
        at: usize,
    },
    /// A number would mean another value to a JavaScript client.
    #[error("holds a number at byte {at} that a JavaScript client would change")]
    Number {
        /// Offset in the app's answer.
        at: usize,
    },
}

/// Respells one JSON text.
///
/// The result equals `JSON.stringify(JSON.parse(json))`.
pub fn respell(json: &[u8]) -> Result<String, Unsurvivable> {
    let text = std::str::from_utf8(json).map_err(|e| Unsurvivable::NotUtf8 { at: e.valid_up_to() })?;
    let mut reader = Reader { text, at: 0, depth: 0, out: String::with_capacity(text.len()) };
    reader.skip_space();
    reader.value()?;
    reader.skip_space();
    if reader.at == text.len() { Ok(reader.out) } else { Err(reader.not_json()) }
}

/// Whether a JSON text nests no deeper than [`DEPTH_MAX`]. Looks at brackets only, in one pass: whether it is
/// JSON is another's question.
pub fn is_shallow(json: &[u8]) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return false;
                }
            }
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

/// One pass over the text, writing the respelled form behind it.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    out: String,
}

/// One member of the object being read: its name and where its respelled form stands in `out`.
struct Member<'a> {
    name: Cow<'a, str>,
    from: usize,
    to: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self) -> Result<(), Unsurvivable> {
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => {
                let string = self.string()?;
                text::write(&string, &mut self.out);
                Ok(())
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => Err(self.not_json()),
        }
    }

    fn nested(&mut self, inner: fn(&mut Self) -> Result<(), Unsurvivable>) -> Result<(), Unsurvivable> {
        if self.depth == DEPTH_MAX {
            return Err(Unsurvivable::Depth { at: self.at });
        }
        self.depth += 1;
        inner(self)?;
        self.depth -= 1;
        Ok(())
    }

    fn array(&mut self) -> Result<(), Unsurvivable> {
        self.expect(b'[')?;
        self.out.push('[');
        self.skip_space();
        if self.accept(b']') {
            self.out.push(']');
            return Ok(());
        }
        loop {
            self.skip_space();
            self.value()?;
            self.skip_space();
            if self.accept(b']') {
                self.out.push(']');
                return Ok(());
            }
            self.expect(b',')?;
            self.out.push(',');
        }
    }

    fn object(&mut self) -> Result<(), Unsurvivable> {
        self.expect(b'{')?;
        self.out.push('{');
        let start = self.out.len();
        let mut members: Vec<Member<'a>> = Vec::new();
        self.skip_space();
        if !self.accept(b'}') {
            loop {
                members.push(self.member()?);
                self.skip_space();
                if self.accept(b'}') {
                    break;
                }
                self.expect(b',')?;
                self.out.push(',');
            }
        }
        if let Some(order) = order_of(&members) {
            self.rearrange(start, &members, &order);
        }
        self.out.push('}');
        Ok(())
    }

    fn member(&mut self) -> Result<Member<'a>, Unsurvivable> {
        self.skip_space();
        let name = self.string()?;
        let from = self.out.len();
        text::write(&name, &mut self.out);
        self.skip_space();
        self.expect(b':')?;
        self.out.push(':');
        self.skip_space();
        self.value()?;
        Ok(Member { name, from, to: self.out.len() })
    }

    /// Writes the members from `start` on again, in the order given.
    fn rearrange(&mut self, start: usize, members: &[Member<'_>], order: &[usize]) {
        let written = self.out.split_off(start);
        for (place, index) in order.iter().enumerate() {
            let Some(member) = members.get(*index) else { continue };
            if place > 0 {
                self.out.push(',');
            }
            self.out.push_str(written.get(member.from - start..member.to - start).unwrap_or_default());
        }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Unsurvivable> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let (string, length) = text::read(rest).map_err(|flaw| flaw.at(self.at))?;
        self.at += length;
        Ok(string)
    }

    fn number(&mut self) -> Result<(), Unsurvivable> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let Some(literal) = number::literal(rest) else { return Err(self.not_json()) };
        if !number::write(literal, &mut self.out) {
            return Err(Unsurvivable::Number { at: self.at });
        }
        self.at += literal.len();
        Ok(())
    }

    fn word(&mut self, word: &'static str) -> Result<(), Unsurvivable> {
        if !self.text.get(self.at..).unwrap_or_default().starts_with(word) {
            return Err(self.not_json());
        }
        self.at += word.len();
        self.out.push_str(word);
        Ok(())
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn accept(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), Unsurvivable> {
        if self.accept(byte) { Ok(()) } else { Err(self.not_json()) }
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn not_json(&self) -> Unsurvivable {
        Unsurvivable::NotJson { at: self.at }
    }
}

/// The order in which ECMAScript keeps these members, as indices; `None` if it is the written one.
///
/// A repeated member keeps the place of its first appearance and the value of its last.
fn order_of(members: &[Member<'_>]) -> Option<Vec<usize>> {
    let indexed = members.iter().any(|member| array_index(&member.name).is_some());
    if members.len() < 2 {
        return None;
    }
    let mut last: HashMap<&str, usize> = HashMap::with_capacity(members.len());
    for (place, member) in members.iter().enumerate() {
        last.insert(&member.name, place);
    }
    if !indexed && last.len() == members.len() {
        return None;
    }
    let mut order: Vec<usize> =
        members.iter().filter_map(|member| last.remove(member.name.as_ref())).collect();
    order.sort_by_key(|index| {
        let name = members.get(*index).map(|member| member.name.as_ref()).unwrap_or_default();
        array_index(name).map_or(u64::MAX, u64::from)
    });
    Some(order)
}

/// The value of a name that ECMAScript treats as an array index: a canonical integer from 0 to 2^32 − 2.
fn array_index(name: &str) -> Option<u32> {
    let canonical = name == "0" || name.bytes().next().is_some_and(|first| matches!(first, b'1'..=b'9'));
    if !canonical || !name.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    name.parse().ok().filter(|index| *index != u32::MAX)
}

#[cfg(test)]
mod tests;
