//! TLS handshakes, bounded for each remote address: a client that opens connections and says nothing on them takes no
//! place of another host's.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use actix_service::{Service, ServiceFactory};
use actix_tls::accept::TlsError;
use actix_tls::accept::rustls_0_23::{Acceptor, AcceptorService, TlsStream};
use actix_web::rt::net::TcpStream;

/// Handshakes under way, by address. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Handshakes {
    counts: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    /// How many one address may have.
    most: usize,
    /// The metric that counts those that were refused.
    refused: &'static str,
}

/// One handshake among those of its address; given back when it is dropped.
struct Handshake {
    handshakes: Handshakes,
    address: IpAddr,
}

impl Handshakes {
    /// At most `most` of one address at a time; those beyond are counted in the metric `refused`.
    pub fn new(most: usize, refused: &'static str) -> Self {
        Self { counts: Arc::default(), most, refused }
    }

    /// Counts a handshake. Returns `None` if the address has too many.
    fn begin(&self, address: IpAddr) -> Option<Handshake> {
        let address = network(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count = count.saturating_add(1);
        drop(counts);
        Some(Handshake { handshakes: self.clone(), address })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut counts = self.handshakes.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// What one host has at its disposal: an address of IPv4, and of IPv6 the 64 bits of its network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

/// An acceptor that closes what is beyond an address's bound, unheard.
#[derive(Clone)]
pub struct Bounded {
    acceptor: Acceptor,
    handshakes: Handshakes,
}

impl Bounded {
    /// Bounds the handshakes of `acceptor`.
    pub const fn new(acceptor: Acceptor, handshakes: Handshakes) -> Self {
        Self { acceptor, handshakes }
    }
}

impl ServiceFactory<TcpStream> for Bounded {
    type Response = TlsStream<TcpStream>;
    type Error = TlsError<io::Error, Infallible>;
    type Config = ();
    type Service = BoundedService;
    type InitError = ();
    type Future = Pin<Box<dyn Future<Output = Result<BoundedService, ()>>>>;

    fn new_service(&self, (): ()) -> Self::Future {
        let acceptor = ServiceFactory::<TcpStream>::new_service(&self.acceptor, ());
        let handshakes = self.handshakes.clone();
        Box::pin(async move { Ok(BoundedService { acceptor: acceptor.await?, handshakes }) })
    }
}

/// The service that [`Bounded`] makes.
pub struct BoundedService {
    acceptor: AcceptorService,
    handshakes: Handshakes,
}

impl Service<TcpStream> for BoundedService {
    type Response = TlsStream<TcpStream>;
    type Error = TlsError<io::Error, Infallible>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<TcpStream>::poll_ready(&self.acceptor, context)
    }

    fn call(&self, stream: TcpStream) -> Self::Future {
        // A peer that is gone already has no address, and no handshake.
        let handshake = stream.peer_addr().ok().and_then(|peer| self.handshakes.begin(peer.ip()));
        let Some(handshake) = handshake else {
            metrics::counter!(self.handshakes.refused).increment(1);
            let refused = io::Error::other("the remote address has too many handshakes under way");
            return Box::pin(async { Err(TlsError::Tls(refused)) });
        };
        let accepted = self.acceptor.call(stream);
        Box::pin(async move {
            let stream = accepted.await;
            drop(handshake);
            stream
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_share_and_gives_it_back() {
        const MOST: usize = 16;
        let handshakes = Handshakes::new(MOST, "refused_total");
        let begin = |address: &str| handshakes.begin(address.parse().unwrap());
        for (address, neighbour, other) in [
            ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
            ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"),
        ] {
            let mut under_way: Vec<_> = (0..MOST).map(|_| begin(address).unwrap()).collect();
            assert!(begin(address).is_none() && begin(neighbour).is_none(), "{address}");
            assert!(begin(other).is_some(), "{other}");
            under_way.pop();
            assert!(begin(neighbour).is_some());
        }
        assert!(handshakes.counts.lock().unwrap().is_empty());
    }
}
