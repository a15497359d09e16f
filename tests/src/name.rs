//! A name that leads to one server after the other, as in a failover.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The name of a TCP server. Connections that were made stay where they lead to.
pub struct Name {
    address: SocketAddr,
    upstream: Arc<Mutex<String>>,
    accepting: JoinHandle<()>,
}

impl Name {
    /// One that leads to `server`, a URL.
    pub async fn of(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let upstream = Arc::new(Mutex::new(authority(server)));
        let newest = Arc::clone(&upstream);
        let accepting = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let upstream = newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(upstream).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        Self { address, upstream, accepting }
    }

    /// Its address in a URL of that scheme.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// New connections lead to `server` from now on.
    pub fn leads_to(&self, server: &str) {
        *self.upstream.lock().unwrap_or_else(PoisonError::into_inner) = authority(server);
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn authority(url: &str) -> String {
    url.split_once("://").unwrap().1.to_owned()
}
