//! The row of hsmd's policy that goes with a client certificate.

use serde::Serialize;

use super::name::Name;
use crate::failure::{Exit, Failure, OrFail};

/// What hsmd takes for no service: whoever puts the row into force has to write its name.
const UNKNOWN: &str = "edge:…";

/// How the names of our services begin as URIs: `keelson:authd`, `keelson:edge:demo`.
const PREFIX: &str = "keelson:";

#[derive(Serialize)]
struct Policy {
    allow: [Row; 1],
}

#[derive(Serialize)]
struct Row {
    san: String,
    operations: &'static [&'static str],
    service: String,
    purposes: &'static [&'static str],
}

/// The row for a client of this name as TOML, and whether it is whole: a name that is not of our form does not
/// say which service it is.
pub(super) fn row(name: &Name) -> Result<(String, bool), Failure> {
    let known = service(name);
    let whole = known.is_some();
    let service = known.unwrap_or(UNKNOWN).to_owned();
    let purposes: &[_] = if service == "authd" { &["access", "response"] } else { &["response"] };
    let row = Row { san: name.to_string(), operations: &["endorse"], service, purposes };
    let text = toml::to_string(&Policy { allow: [row] })
        .or_fail(Exit::Software, || "cannot write a row of the policy as TOML")?;
    Ok((text, whole))
}

/// The service that a name of our form says.
fn service(name: &Name) -> Option<&str> {
    let Name::Uri(uri) = name else { return None };
    let service = uri.strip_prefix(PREFIX)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let edge = service.strip_prefix("edge:").unwrap_or_default();
    // hsmd has a limit of 64 bytes.
    let is_edge = (1..=64).contains(&edge.len()) && edge.bytes().all(plain);
    (service == "authd" || is_edge).then_some(service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_our_form_says_the_service() {
        let long = format!("URI:keelson:edge:{}", "a".repeat(65));
        for (name, service, purposes) in [
            ("URI:keelson:edge:far", "edge:far", "[\"response\"]"),
            ("URI:keelson:authd", "authd", "[\"access\", \"response\"]"),
            ("URI:keelson:edge:a/b", UNKNOWN, "[\"response\"]"),
            ("URI:keelson:edge:", UNKNOWN, "[\"response\"]"),
            ("URI:keelson:hsmd", UNKNOWN, "[\"response\"]"),
            ("URI:spiffe://x/edge:far", UNKNOWN, "[\"response\"]"),
            ("DNS:edge-1.example", UNKNOWN, "[\"response\"]"),
            (&long, UNKNOWN, "[\"response\"]"),
        ] {
            let (text, whole) = row(&name.parse().unwrap()).unwrap();
            let expected = format!(
                "[[allow]]\nsan = \"{name}\"\noperations = [\"endorse\"]\nservice = \"{service}\"\npurposes = {purposes}\n"
            );
            assert_eq!(text, expected);
            assert_eq!(whole, service != UNKNOWN, "{name}");
        }
    }

    #[test]
    fn no_name_says_more_than_its_name() {
        let name = "URI:x:\"#\\";
        let (text, _) = row(&name.parse().unwrap()).unwrap();
        let read: toml::Table = text.parse().unwrap();
        assert_eq!(read["allow"][0]["san"].as_str(), Some(name), "{text}");
        assert_eq!(read["allow"].as_array().unwrap().len(), 1);
    }
}
