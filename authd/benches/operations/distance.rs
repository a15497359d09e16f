//! A road to a server on which each answer takes longer.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Bytes carried at once.
const CHUNK: usize = 64 * 1024;
/// Chunks on their way.
const CHUNKS: usize = 64;

/// A proxy that hands on what a server answers a while later. The timer counts in milliseconds and rounds up.
pub(crate) struct Distance {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Distance {
    pub(crate) async fn before(server: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, delay));
            }
        });
        Self { address, accepting }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Distance {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(client: TcpStream, server: SocketAddr, delay: Duration) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (late, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
    let requests = tokio::spawn(async move {
        let _ended = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    let answers = tokio::spawn(async move {
        while let Some((at, chunk)) = due.recv().await {
            sleep_until(at).await;
            if to_client.write_all(&chunk).await.is_err() {
                return;
            }
        }
    });
    let mut chunk = vec![0; CHUNK];
    while let Ok(count @ 1..) = from_server.read(&mut chunk).await {
        let Some(read) = chunk.get(..count) else { break };
        if late.send((Instant::now() + delay, read.to_vec())).await.is_err() {
            break;
        }
    }
    drop(late);
    let _sent = answers.await;
    requests.abort();
}
