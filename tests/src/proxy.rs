//! A road that loses replies: the request arrives, the answer does not.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::craft::random;
use crate::wire::{parts, read_message};

/// A proxy that forwards every request, and cuts the connection in place of some replies.
pub struct LossyProxy {
    address: SocketAddr,
    accepting: JoinHandle<()>,
    lost: Arc<AtomicUsize>,
}

/// What becomes of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Carried,
    /// The connection to the server is cut as well, once the request was sent.
    CutBoth,
    /// The server has answered.
    Lost,
}

impl LossyProxy {
    /// Starts one before `upstream`, a base URL, losing the first reply to each distinct value
    /// that `identify` finds in a body; a body in which it finds none passes. So a device that sends the same request
    /// again gets through, and one that cannot never does.
    pub async fn before(upstream: &str, identify: fn(&str) -> Option<String>) -> Self {
        let seen = Mutex::new(HashSet::new());
        let is_first =
            move |body: &str| identify(body).is_some_and(|value| seen.lock().unwrap().insert(value));
        Self::start(upstream, move |body| if is_first(body) { Fate::Lost } else { Fate::Carried }).await
    }

    /// Starts one that loses so many of a hundred replies, whichever. Of those, half are cut before the server has
    /// answered.
    pub async fn at_random(upstream: &str, percent: u8) -> Self {
        Self::start(upstream, move |_| {
            let [high, low, half] = random();
            match (u16::from_be_bytes([high, low]) % 100 < u16::from(percent), half % 2) {
                (false, _) => Fate::Carried,
                (true, 0) => Fate::CutBoth,
                (true, _) => Fate::Lost,
            }
        })
        .await
    }

    async fn start(upstream: &str, fate: impl Fn(&str) -> Fate + Send + Sync + 'static) -> Self {
        let upstream = upstream.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (lost, fate) = (Arc::new(AtomicUsize::new(0)), Arc::new(fate));
        let count = Arc::clone(&lost);
        let accepting = tokio::spawn(async move {
            while let Ok((device, _)) = listener.accept().await {
                let (upstream, fate, count) = (upstream.clone(), Arc::clone(&fate), Arc::clone(&count));
                tokio::spawn(async move { carry(device, &upstream, &*fate, &count).await });
            }
        });
        Self { address, accepting, lost }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many replies it lost.
    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for LossyProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One request and its reply; then the connection ends, so that the next one is judged anew.
async fn carry(
    mut device: TcpStream,
    upstream: &str,
    fate: &(impl Fn(&str) -> Fate + Sync),
    lost: &AtomicUsize,
) -> Option<()> {
    let request = read_message(&mut device).await?;
    let body = request.get(parts(&request)?.0..)?;
    let fate = fate(std::str::from_utf8(body).ok()?);
    lost.fetch_add(usize::from(fate != Fate::Carried), Ordering::Relaxed);
    let mut server = TcpStream::connect(upstream).await.ok()?;
    server.write_all(&request).await.ok()?;
    if fate == Fate::CutBoth {
        return None;
    }
    let reply = read_message(&mut server).await?;
    if fate == Fate::Carried {
        device.write_all(&reply).await.ok()?;
    }
    device.shutdown().await.ok()
}
