//! Reverse proxies whose word counts.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::Deserialize;

/// Longest list: a row for each network of proxies.
const NETWORKS_MAX: usize = 64;

/// The peers whose word about a request counts: addresses, networks, and `unix` for whoever connects to a Unix socket.
/// What all others say of it in header fields is ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Proxies {
    unix: bool,
    networks: Vec<Network>,
}

/// All addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    first: IpAddr,
    bits: u32,
}

impl Proxies {
    /// Whether the word of a peer counts. One without an address came through a Unix socket.
    pub fn trusts(&self, peer: Option<SocketAddr>) -> bool {
        match peer {
            None => self.unix,
            Some(peer) => self.networks.iter().any(|network| network.holds(peer.ip())),
        }
    }
}

impl TryFrom<Vec<String>> for Proxies {
    type Error = String;

    fn try_from(rows: Vec<String>) -> Result<Self, String> {
        if rows.len() > NETWORKS_MAX {
            return Err(format!("{} proxies are more than {NETWORKS_MAX}: name networks", rows.len()));
        }
        let unix = rows.iter().any(|row| row == "unix");
        let networks = rows.iter().filter(|row| *row != "unix").map(|row| row.parse());
        Ok(Self { unix, networks: networks.collect::<Result<_, _>>()? })
    }
}

impl Network {
    fn holds(&self, address: IpAddr) -> bool {
        start(address.to_canonical(), self.bits) == Some(self.first)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |because: &str| {
            format!("`{text}` {because}; write for example 127.0.0.1, 10.0.0.0/8, fd00::/8 or unix")
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong("is no address"))?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(whole), str::parse).map_err(|_| wrong("has no number of bits"))?;
        match start(address, bits) {
            Some(first) if first == address && address.to_canonical() == address => Ok(Self { first, bits }),
            Some(first) if first != address => {
                Err(wrong(&format!("is not where its network begins, {first}")))
            }
            Some(_) => Err(wrong("is an IPv4 address written as IPv6")),
            None => Err(wrong("has more bits than an address")),
        }
    }
}

/// The first address of the network of `bits` bits that an address lies in. Returns `None` if it has fewer bits.
fn start(address: IpAddr, bits: u32) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32_u32.checked_sub(bits)?).unwrap_or(0);
            Some(IpAddr::V4((address.to_bits() & mask).into()))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128_u32.checked_sub(bits)?).unwrap_or(0);
            Some(IpAddr::V6((address.to_bits() & mask).into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(rows: &[&str]) -> Result<Proxies, String> {
        Proxies::try_from(rows.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn a_peer_is_trusted_if_a_row_names_it() {
        let some = proxies(&["127.0.0.1", "10.0.0.0/8", "fd00::/8", "unix"]).unwrap();
        let few = proxies(&["::1", "0.0.0.0/0"]).unwrap();
        for (proxies, peer, trusted) in [
            (&some, Some("127.0.0.1:1"), true),
            (&some, Some("127.0.0.2:1"), false),
            (&some, Some("10.255.0.1:1"), true),
            (&some, Some("11.0.0.1:1"), false),
            (&some, Some("[::ffff:10.0.0.1]:1"), true),
            (&some, Some("[fd12::1]:1"), true),
            (&some, Some("[fe80::1]:1"), false),
            (&some, None, true),
            (&few, Some("[::1]:1"), true),
            (&few, Some("[::2]:1"), false),
            (&few, Some("1.2.3.4:1"), true),
            (&few, None, false),
            (&Proxies::default(), Some("127.0.0.1:1"), false),
            (&Proxies::default(), None, false),
        ] {
            let peer = peer.map(|peer| peer.parse().unwrap());
            assert_eq!(proxies.trusts(peer), trusted, "{proxies:?} {peer:?}");
        }
    }

    #[test]
    fn rows_that_cannot_be_meant_are_refused() {
        let many = vec!["127.0.0.1"; NETWORKS_MAX + 1];
        for rows in [
            &["localhost"][..],
            &["10.0.0.1/8"],
            &["10.0.0.0/33"],
            &["10.0.0.0/"],
            &["10.0.0.0/-1"],
            &["::/129"],
            &["::ffff:10.0.0.0/104"],
            &["UNIX"],
            &[""],
            &many,
        ] {
            assert!(proxies(rows).is_err(), "{rows:?}");
        }
    }
}
