//! Where a request came from, as far as it is known.

use std::net::{IpAddr, SocketAddr};

use actix_web::http::header::{HeaderMap, HeaderName};

use super::Proxies;

/// The field to which each proxy appends the address that a request came to it from.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl Proxies {
    /// The address that a request came from: its peer's, or the one that trusted proxies name. Returns `None` if they
    /// name none, and for a peer on this host that is no trusted proxy: others stand behind it, and cannot be told
    /// apart.
    pub fn client(&self, peer: Option<SocketAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        if !self.trusts(peer) {
            return peer.map(|peer| peer.ip().to_canonical()).filter(|address| !address.is_loopback());
        }
        // The last is the word of the peer itself, and each trusted proxy vouches for the one before it. What stands
        // before the first that is not trusted is a stranger's word.
        let mut named = headers.get_all(FORWARDED_FOR).collect::<Vec<_>>();
        named.reverse();
        for address in named.iter().flat_map(|value| value.to_str().unwrap_or("").rsplit(',')) {
            let address = address_of(address.trim())?;
            if !self.trusts(Some(SocketAddr::new(address, 0))) {
                return Some(address);
            }
        }
        None
    }
}

/// An address with or without a port, as proxies spell them.
fn address_of(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    /// Whom to believe, the peer, what is forwarded, and the address that is taken.
    type Row<'a> = (&'a Proxies, Option<&'static str>, &'static [&'static str], Option<&'static str>);

    #[test]
    fn a_stranger_does_not_choose_his_address() {
        let some = Proxies::try_from(vec!["10.0.0.0/8".to_owned(), "unix".to_owned()]).unwrap();
        let none = Proxies::default();
        let table: [Row<'_>; 14] = [
            (&none, Some("192.0.2.1:5"), &[], Some("192.0.2.1")),
            (&none, Some("192.0.2.1:5"), &["198.51.100.7"], Some("192.0.2.1")),
            (&none, Some("[::ffff:192.0.2.1]:5"), &[], Some("192.0.2.1")),
            (&none, Some("127.0.0.1:5"), &["198.51.100.7"], None),
            (&none, None, &["198.51.100.7"], None),
            (&some, Some("10.0.0.1:5"), &["198.51.100.7"], Some("198.51.100.7")),
            (&some, None, &["198.51.100.7"], Some("198.51.100.7")),
            (&some, Some("10.0.0.1:5"), &["1.1.1.1, 198.51.100.7, 10.0.0.2"], Some("198.51.100.7")),
            (&some, Some("10.0.0.1:5"), &["1.1.1.1", "198.51.100.7", "10.0.0.2"], Some("198.51.100.7")),
            (&some, Some("10.0.0.1:5"), &["[2001:db8::1]:443"], Some("2001:db8::1")),
            (&some, Some("10.0.0.1:5"), &["198.51.100.7:443"], Some("198.51.100.7")),
            (&some, Some("10.0.0.1:5"), &["1.1.1.1, unknown"], None),
            (&some, Some("10.0.0.1:5"), &["10.0.0.3"], None),
            (&some, Some("10.0.0.1:5"), &[], None),
        ];
        for (proxies, peer, fields, expected) in table {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(FORWARDED_FOR, HeaderValue::from_static(field));
            }
            let peer = peer.map(|peer| peer.parse().unwrap());
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(proxies.client(peer, &headers), expected, "{peer:?} {fields:?}");
        }
    }
}
