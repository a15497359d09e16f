//! A road that loses replies: the request arrives, the answer does not.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A proxy that forwards every request, and drops the reply to each distinct request body but for
/// its repeats. So a device that sends the same request again gets through, and one that cannot
/// never does.
pub struct LossyProxy {
    address: SocketAddr,
    accepting: JoinHandle<()>,
    lost: Arc<Mutex<HashSet<String>>>,
}

impl LossyProxy {
    /// Starts one before `upstream`, a base URL, losing the first reply to each distinct value
    /// that `identify` finds in a body; a body in which it finds none passes.
    pub async fn before(upstream: &str, identify: fn(&str) -> Option<String>) -> Self {
        let upstream = upstream.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lost = Arc::new(Mutex::new(HashSet::new()));
        let seen = Arc::clone(&lost);
        let accepting = tokio::spawn(async move {
            while let Ok((device, _)) = listener.accept().await {
                tokio::spawn(carry(device, upstream.clone(), Arc::clone(&seen), identify));
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
        self.lost.lock().unwrap().len()
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
    upstream: String,
    lost: Arc<Mutex<HashSet<String>>>,
    identify: fn(&str) -> Option<String>,
) -> Option<()> {
    let request = read_message(&mut device).await?;
    let mut server = TcpStream::connect(upstream).await.ok()?;
    server.write_all(&request).await.ok()?;
    let reply = read_message(&mut server).await?;
    let text = std::str::from_utf8(&request).ok()?;
    let body = text.split_once("\r\n\r\n")?.1;
    let first_time = identify(body).is_some_and(|value| lost.lock().unwrap().insert(value));
    if !first_time {
        device.write_all(&reply).await.ok()?;
    }
    device.shutdown().await.ok()
}

/// A head and as many bytes of body as it announces.
async fn read_message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        if stream.read_buf(&mut message).await.ok()? == 0 {
            return None;
        }
        if let Some(length) = whole_length(&message)
            && message.len() >= length
        {
            return Some(message);
        }
    }
}

fn whole_length(message: &[u8]) -> Option<usize> {
    let head = message.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(message.get(..head)?).ok()?.to_ascii_lowercase();
    let announced = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    Some(head + announced.map_or(0, |length| length.trim().parse::<usize>().unwrap()))
}
