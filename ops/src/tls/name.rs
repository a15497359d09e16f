//! Names of servers and clients (subject alternative names).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use rcgen::SanType;

use crate::failure::{Exit, Failure, OrFail};

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    /// For hsmd: what services of other hosts connect to
    Server,
    /// For a service of another host: whom a row of hsmd's policy names
    Client,
}

/// Names in one certificate: hsmd takes one with more for nobody's.
const NAMES_MAX: usize = 16;

/// Longest DNS name, as hsmd's policy has it.
const DNS_MAX: usize = 253;

/// Longest URI, as hsmd's policy has it.
const URI_MAX: usize = 512;

/// A name as the command line and hsmd's policy write it: `DNS:…` in lower case, `URI:…` byte for byte, `IP:…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Dns(String),
    Ip(IpAddr),
    Uri(String),
}

impl Name {
    /// As it stands in a certificate.
    pub(super) fn san(&self) -> Result<SanType, Failure> {
        let plain = || format!("`{self}` does not fit into a certificate");
        Ok(match self {
            Self::Dns(name) => SanType::DnsName(name.as_str().try_into().or_fail(Exit::Software, plain)?),
            Self::Ip(address) => SanType::IpAddress(*address),
            Self::Uri(name) => SanType::URI(name.as_str().try_into().or_fail(Exit::Software, plain)?),
        })
    }

    /// Whether a row of hsmd's policy can have it: neither an address nor a wildcard.
    fn is_of_client(&self) -> bool {
        match self {
            Self::Dns(name) => !name.starts_with("*."),
            Self::Ip(_) => false,
            Self::Uri(_) => true,
        }
    }
}

/// The names of one certificate, each once: what its kind can use.
pub(super) fn names_for(kind: Kind, given: &[Name]) -> Result<Vec<Name>, Failure> {
    let wrong = |because: String| Err(Failure::new(Exit::Usage, because));
    let mut names: Vec<Name> = Vec::with_capacity(given.len());
    for name in given {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    if names.len() > NAMES_MAX {
        return wrong(format!("{} names are too many: hsmd takes {NAMES_MAX} in a certificate", names.len()));
    }
    let unknown = names.iter().find(|name| !name.is_of_client());
    match (kind, unknown) {
        (Kind::Client, Some(name)) => wrong(format!(
            "--san {name} is no name that hsmd's policy can have: give a client URI:… or DNS:… without wildcards"
        )),
        (Kind::Server, _) if names.iter().all(|name| matches!(name, Name::Uri(_))) => wrong(
            "clients find no server by a URI: give --san DNS:… or --san IP:… as they connect to".to_owned(),
        ),
        _ => Ok(names),
    }
}

/// By the rules of hsmd's policy, which says why in `hsmd/src/policy/san.rs`; and IP addresses, and wildcards of
/// one whole label.
impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("DNS", name)) => dns(name).map(|()| Self::Dns(name.to_owned())),
            Some(("IP", address)) => {
                address.parse().map(Self::Ip).map_err(|_| "it is no IP address".to_owned())
            }
            Some(("URI", name)) if is_uri(name) => Ok(Self::Uri(name.to_owned())),
            Some(("URI", _)) => Err("it is no URI, such as keelson:edge:demo".to_owned()),
            _ => Err("write DNS:hsm.example, IP:10.0.0.5 or URI:keelson:edge:demo".to_owned()),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "DNS:{name}"),
            Self::Ip(address) => write!(f, "IP:{address}"),
            Self::Uri(name) => write!(f, "URI:{name}"),
        }
    }
}

fn dns(name: &str) -> Result<(), String> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("DNS names have no case: write it in lower case".to_owned());
    }
    // A wildcard stands for one label of a domain, never for all of them.
    let host = name.strip_prefix("*.").filter(|domain| domain.contains('.')).unwrap_or(name);
    if !is_dns_name(host) || name.len() > DNS_MAX {
        return Err("it is no whole DNS name".to_owned());
    }
    // TLS libraries take such a name for an address, and never for a name.
    let last = host.rsplit('.').next().unwrap_or(host);
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("it ends in a number, as no DNS name does: write IP:… for an address".to_owned());
    }
    Ok(())
}

fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.split('.').all(label)
}

fn is_uri(name: &str) -> bool {
    let plain = name.len() <= URI_MAX && name.bytes().all(|byte| byte.is_ascii_graphic());
    plain
        && name.split_once(':').is_some_and(|(scheme, rest)| {
            scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
                && !rest.is_empty()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_who_may_have_them() {
        let (dns, uri) = (format!("DNS:{}", "a".repeat(63)), format!("URI:x:{}", "a".repeat(URI_MAX - 2)));
        // Of a server alone, of a client alone, of both, of none.
        let table = [
            ("DNS:hsm.example", "both"),
            ("DNS:localhost", "both"),
            ("DNS:a1.2.b", "both"),
            (&dns, "both"),
            ("DNS:*.hsm.example", "server"),
            ("IP:127.0.0.1", "server"),
            ("IP:::1", "server"),
            ("URI:keelson:edge:demo", "client"),
            ("URI:spiffe://Example/Edge?a=\"b\"", "client"),
            (&uri, "client"),
        ];
        for (text, who) in table {
            let name: Name = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
            for (kind, also) in [(Kind::Server, "server"), (Kind::Client, "client")] {
                let names = names_for(kind, std::slice::from_ref(&name));
                assert_eq!(names.is_ok(), who == "both" || who == also, "{text} for a {also}");
                assert!(names.err().is_none_or(|error| error.exit() == Exit::Usage));
            }
        }
    }

    #[test]
    fn what_is_no_name() {
        let (dns, uri) = (format!("DNS:{}", "a".repeat(64)), format!("URI:x:{}", "a".repeat(URI_MAX - 1)));
        let whole = format!("DNS:{}a", "a.".repeat(127));
        for text in [
            "",
            "hsm.example",
            "dns:hsm",
            "DNS:",
            "DNS:Hsm.example",
            "DNS:hsm.",
            "DNS:.hsm",
            "DNS:a..b",
            "DNS:-a",
            "DNS:a-",
            "DNS:a_b",
            "DNS:ä",
            "DNS:*",
            "DNS:*.",
            "DNS:*.example",
            "DNS:*.*.example",
            "DNS:a.*.example",
            "DNS:a*.b.example",
            "DNS:127.0.0.1",
            "DNS:hsm.1",
            &dns,
            &whole,
            "IP:",
            "IP:hsm",
            "IP:1.2.3",
            "IP:1.2.3.4/8",
            "URI:",
            "URI:edge",
            "URI::demo",
            "URI:keelson:",
            "URI:keelson:a b",
            "URI:keelson:ä",
            "URI:1x:y",
            &uri,
            "EMAIL:a@b",
        ] {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
    }

    #[test]
    fn one_certificate_has_few_names_and_each_once() {
        let name = |number: usize| Name::Dns(format!("h{number}.example"));
        let most: Vec<_> = (0..NAMES_MAX).map(name).collect();
        let twice = [most.clone(), most.clone()].concat();
        assert_eq!(names_for(Kind::Client, &twice).unwrap(), most);
        assert!(names_for(Kind::Client, &[most, vec![name(NAMES_MAX)]].concat()).is_err());
    }
}
