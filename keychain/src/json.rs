//! A strict reader of JSON objects (`PROTOCOL.md#json`).
//!
//! serde's derived readers are laxer than the protocol: they take an array where a struct is meant, and a
//! duplicate of a member they do not know. [`Object`] takes objects only, refuses every duplicate member,
//! keeps each value as the bytes received, and can refuse members that nobody asked for.

use std::fmt;

use serde::{
    Deserializer as _,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::error::{Code, Refusal};

/// Most members that an object of the protocol may have. The largest with a fixed form has nine; the roles
/// of a token are members too.
pub const MEMBERS_MAX: usize = 32;

/// The members of one JSON object, each value still as it was received.
#[derive(Debug)]
pub struct Object<'a> {
    members: Vec<(&'a str, &'a RawValue)>,
}

impl<'a> Object<'a> {
    /// Reads a text that is one JSON object and nothing else but white space around it.
    pub fn parse(text: &'a str) -> Result<Self, Refusal> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let members = reader
            .deserialize_map(Members)
            .map_err(|_| malformed("not a JSON object, or a member stands in it twice"))?;
        reader.end().map_err(|_| malformed("more follows the JSON object"))?;
        Ok(Self { members })
    }

    /// Reads bytes that are one JSON object in UTF-8.
    pub fn parse_bytes(bytes: &'a [u8]) -> Result<Self, Refusal> {
        Self::parse(std::str::from_utf8(bytes).map_err(|_| malformed("not UTF-8"))?)
    }

    /// Takes a member out, as the text received.
    pub fn take(&mut self, name: &str) -> Option<&'a str> {
        let place = self.members.iter().position(|(known, _)| *known == name)?;
        Some(self.members.remove(place).1.get())
    }

    /// Takes out a member that must be there, as the text received.
    pub fn raw(&mut self, name: &str) -> Result<&'a str, Refusal> {
        self.take(name).ok_or_else(|| malformed("a member is missing").with("member", name))
    }

    /// Takes out a member that must be an object.
    pub fn object(&mut self, name: &str) -> Result<Object<'a>, Refusal> {
        Self::parse(self.raw(name)?).map_err(|refusal| refusal.with("member", name))
    }

    /// Takes out a member that must be a string without escapes: no text of the protocol needs one.
    pub fn string(&mut self, name: &str) -> Result<&'a str, Refusal> {
        plain_string(self.raw(name)?).map_err(|refusal| refusal.with("member", name))
    }

    /// Takes out a member and reads its string with `read`.
    pub fn parsed<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&'a str) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        read(self.string(name)?).map_err(|refusal| refusal.with("member", name))
    }

    /// The members that nobody took, in the order received.
    pub fn into_members(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.members.into_iter().map(|(name, value)| (name, value.get()))
    }

    /// Refuses members that nobody took.
    pub fn finish(self) -> Result<(), Refusal> {
        if self.members.is_empty() {
            return Ok(());
        }
        Err(malformed("a member that the protocol does not have"))
    }
}

/// Reads a JSON string that has no escapes.
pub fn plain_string(raw: &str) -> Result<&str, Refusal> {
    serde_json::from_str::<&str>(raw).map_err(|_| malformed("not a plain JSON string"))
}

/// Reads a JSON array of strings that have no escapes.
pub fn plain_strings(raw: &str) -> Result<Vec<&str>, Refusal> {
    serde_json::from_str::<Vec<&str>>(raw).map_err(|_| malformed("not an array of plain JSON strings"))
}

/// Writes a JSON string as `JSON.stringify` does.
pub fn string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len().saturating_add(2));
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            control if control < ' ' => {
                quoted.push_str("\\u00");
                quoted.push(if control < '\u{10}' { '0' } else { '1' });
                quoted.push(char::from_digit(u32::from(control) & 0xf, 16).unwrap_or('0'));
            }
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

const fn malformed(because: &'static str) -> Refusal {
    Refusal::new(Code::InvalidMessage, because)
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(&'de str, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Self::Value = Vec::new();
        while let Some((name, value)) = map.next_entry::<&str, &RawValue>()? {
            if members.len() == MEMBERS_MAX || members.iter().any(|(known, _)| *known == name) {
                return Err(serde::de::Error::custom("too many members, or one twice"));
            }
            members.push((name, value));
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_objects_are_read() {
        for bad in [
            "",
            "[]",
            "null",
            "1",
            "\"a\"",
            "{",
            "{}x",
            "{\"a\":1,\"a\":1}",
            "{\"\\u0061\":1}",
            "[\"a\"]",
            "{\"a\":}",
            "{\"a\":01}",
            "\u{feff}{}",
        ] {
            assert!(Object::parse(bad).is_err(), "{bad}");
        }
        let many: Vec<_> = (0..=MEMBERS_MAX).map(|place| format!("\"m{place}\":1")).collect();
        assert!(Object::parse(&format!("{{{}}}", many.join(","))).is_err());
        assert!(Object::parse_bytes(b"{\"a\":\"\xff\"}").is_err());
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let mut object = Object::parse(&deep).expect("depth costs no stack");
        assert!(object.string("a").is_err());
    }

    #[test]
    fn members_come_out_as_received_and_once() {
        let mut object = Object::parse(" {\"b\" : 1e2 ,\"a\":\"x\"} ").unwrap();
        assert_eq!(object.raw("b"), Ok("1e2"));
        assert!(object.raw("b").is_err());
        assert!(Object::parse("{\"a\":1}").unwrap().finish().is_err());
        assert_eq!(object.string("a"), Ok("x"));
        assert_eq!(object.finish(), Ok(()));
        assert_eq!(plain_strings(" [ \"a\" , \"\" ] "), Ok(vec!["a", ""]));
        for bad in ["\"a\"", "[1]", "[\"\\u0061\"]", "[\"a\",]", "{}", "null", "[\"a\"]x"] {
            assert!(plain_strings(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn strings_are_written_as_javascript_writes_them() {
        assert_eq!(string("a\"\\\u{1}\n\u{7f}é\u{2028}<"), "\"a\\\"\\\\\\u0001\\n\u{7f}é\u{2028}<\"");
    }
}
