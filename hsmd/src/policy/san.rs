//! Names in client certificates (subject alternative names).

use std::fmt;

use serde::Deserialize;

/// Longest DNS name.
const DNS_MAX: usize = 253;

/// Longest URI; names of workloads have some 60 characters.
const URI_MAX: usize = 512;

/// A name of a client certificate: `DNS:edge-1.example` or `URI:keelson:edge:demo`.
///
/// A DNS name has no case: the policy writes it in lower case, and a certificate's is lowered (ASCII only)
/// before they are compared. A URI is compared byte for byte. Nothing matches in part: a wildcard in a
/// certificate is a name that no row of a policy can have. The subject's common name counts for nothing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum San {
    /// A DNS name, in lower case.
    Dns(String),
    /// A URI.
    Uri(String),
}

impl San {
    /// A DNS name as a certificate has it.
    pub fn dns(name: &str) -> Self {
        Self::Dns(name.to_ascii_lowercase())
    }

    /// A URI as a certificate has it.
    pub fn uri(name: &str) -> Self {
        Self::Uri(name.to_owned())
    }
}

impl TryFrom<String> for San {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = |because: &str| {
            Err(format!(
                "key `san`: `{text}` {because}; write for example \"URI:keelson:edge:demo\" or \"DNS:edge-1.example\""
            ))
        };
        if let Some(name) = text.strip_prefix("DNS:") {
            return match () {
                () if name.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                    wrong("has capitals (DNS names have no case: write it in lower case)")
                }
                () if is_dns_name(name) => Ok(Self::Dns(name.to_owned())),
                () => wrong("is no whole DNS name"),
            };
        }
        if let Some(name) = text.strip_prefix("URI:") {
            let plain = name.len() <= URI_MAX && name.bytes().all(|byte| byte.is_ascii_graphic());
            return if plain && has_scheme(name) {
                Ok(Self::Uri(name.to_owned()))
            } else {
                wrong("is no URI")
            };
        }
        wrong("is neither a DNS name nor a URI")
    }
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match self {
            Self::Dns(name) => ("DNS", name),
            Self::Uri(name) => ("URI", name),
        };
        // A certificate's URI is any text: it must not start a line of its own in a log.
        write!(f, "{kind}:{}", name.escape_debug())
    }
}

fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= DNS_MAX && name.split('.').all(label)
}

fn has_scheme(uri: &str) -> bool {
    uri.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
            && !rest.is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        for good in
            ["DNS:edge-1.example", "DNS:localhost", "URI:keelson:edge:demo", "URI:spiffe://Example/Edge"]
        {
            assert_eq!(San::try_from(good.to_owned()).unwrap().to_string(), good);
        }
        let long = format!("DNS:{}", "a".repeat(64));
        let long_uri = format!("URI:x:{}", "a".repeat(URI_MAX));
        for bad in [
            "",
            "edge-1.example",
            "dns:edge",
            "DNS:",
            "DNS:Edge-1.example",
            "DNS:*.example",
            "DNS:edge.",
            "DNS:.edge",
            "DNS:a..b",
            "DNS:-a",
            "DNS:a_b",
            "DNS:ä",
            long.as_str(),
            "URI:",
            "URI:edge",
            "URI::demo",
            "URI:keelson:",
            "URI:keelson:a b",
            "URI:1x:y",
            long_uri.as_str(),
            "IP:127.0.0.1",
            "EMAIL:a@b",
        ] {
            assert!(San::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn dns_names_have_no_case_and_uris_do() {
        assert_eq!(San::dns("Edge-1.Example"), San::try_from("DNS:edge-1.example".to_owned()).unwrap());
        assert_ne!(San::dns("*.example"), San::try_from("DNS:edge-1.example".to_owned()).unwrap());
        assert_ne!(San::dns("edge-1.example."), San::try_from("DNS:edge-1.example".to_owned()).unwrap());
        assert_ne!(San::uri("keelson:edge:Demo"), San::try_from("URI:keelson:edge:demo".to_owned()).unwrap());
        assert_ne!(San::uri("x:y"), San::dns("x:y"));
    }
}
