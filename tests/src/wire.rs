//! HTTP on one connection, which can be cut before the answer is read.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

/// No answer of a test takes longer on a machine that is not stuck.
const DEADLINE: Duration = Duration::from_secs(30);

/// A connection that is made when it is needed, and kept.
pub struct Wire {
    place: Place,
    stream: Option<Box<dyn Stream>>,
}

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Place {
    /// `host:port`.
    Tcp(String),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// A status and a body.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Body, exactly.
    pub body: String,
}

/// Why there is no reply.
#[derive(Debug)]
pub enum Broken {
    /// The server may have carried the request out.
    Unanswered,
    /// There was no connection to send anything on.
    Unsent(io::Error),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Wire {
    /// To a server at `place`.
    pub const fn to(place: Place) -> Self {
        Self { place, stream: None }
    }

    /// Posts, and reads the reply.
    pub async fn post(&mut self, path: &str, body: &str) -> Result<Reply, Broken> {
        let mut stream = self.send(path, body).await?;
        let read = tokio::time::timeout(DEADLINE, read_message(&mut stream)).await;
        let message = read.ok().flatten().ok_or(Broken::Unanswered)?;
        let reply = parse(&message).ok_or(Broken::Unanswered)?;
        self.stream = Some(stream);
        Ok(reply)
    }

    /// Posts, waits so long, and cuts the connection.
    pub async fn post_and_cut(&mut self, path: &str, body: &str, after: Duration) -> Result<(), Broken> {
        let stream = self.send(path, body).await?;
        tokio::time::sleep(after).await;
        drop(stream);
        Ok(())
    }

    async fn send(&mut self, path: &str, body: &str) -> Result<Box<dyn Stream>, Broken> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.place.connect().await.map_err(Broken::Unsent)?,
        };
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.map_err(|_| Broken::Unanswered)?;
        stream.flush().await.map_err(|_| Broken::Unanswered)?;
        Ok(stream)
    }
}

impl Place {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }
}

/// A head and as many bytes of body as it announces; nothing if the connection ends before.
pub(crate) async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        if stream.read_buf(&mut message).await.ok()? == 0 {
            return None;
        }
        if let Some((head, length)) = parts(&message)
            && message.len() >= head + length
        {
            return Some(message);
        }
    }
}

/// How long the head and the body of a message are, once the head is whole.
pub(crate) fn parts(message: &[u8]) -> Option<(usize, usize)> {
    let head = message.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(message.get(..head)?).ok()?.to_ascii_lowercase();
    let announced = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    Some((head, announced.map_or(0, |length| length.trim().parse::<usize>().unwrap())))
}

fn parse(message: &[u8]) -> Option<Reply> {
    let (head, _) = parts(message)?;
    let text = std::str::from_utf8(message).ok()?;
    let (head, body) = text.split_at_checked(head)?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Reply { status, body: body.to_owned() })
}
