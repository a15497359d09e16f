//! A road to a server that is cut in the midst of a talk: before a request arrives, or after it arrived and before its
//! answer is back.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Longest piece that is carried at once.
const PIECE_MAX: usize = 64 * 1024;

/// Where a road is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The client's piece does not arrive.
    Before,
    /// It arrives, and the server's answer does not.
    After,
}

/// A proxy that carries everything, and cuts one connection once it is told to.
pub struct CuttingProxy {
    address: SocketAddr,
    plan: Arc<Plan>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Plan {
    cut: Mutex<Option<Cut>>,
    /// How many pieces of clients are carried before it.
    left: AtomicUsize,
}

impl CuttingProxy {
    /// Starts one before the server at `upstream`, `HOST:PORT`.
    pub async fn before(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let plan = Arc::new(Plan::default());
        let shared = Arc::clone(&plan);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (upstream, plan) = (upstream.clone(), Arc::clone(&shared));
                tokio::spawn(async move { carry(client, &upstream, &plan).await });
            }
        });
        Self { address, plan, accepting }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Carries so many more pieces from clients, and cuts the connection of the next one.
    pub fn cut(&self, cut: Cut, after: usize) {
        self.plan.left.store(after, Ordering::SeqCst);
        *self.plan.cut.lock().unwrap() = Some(cut);
    }

    /// Cuts nothing from now on; whether it has cut since it was told to.
    pub fn mend(&self) -> bool {
        self.plan.cut.lock().unwrap().take().is_none()
    }
}

impl Drop for CuttingProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Plan {
    /// Whether this piece is the one at which the road is cut.
    fn next(&self) -> Option<Cut> {
        let mut cut = self.cut.lock().unwrap();
        if cut.is_some() && self.left.load(Ordering::SeqCst) > 0 {
            self.left.fetch_sub(1, Ordering::SeqCst);
            return None;
        }
        cut.take()
    }
}

async fn carry(mut client: TcpStream, upstream: &str, plan: &Plan) -> Option<()> {
    let mut server = TcpStream::connect(upstream).await.ok()?;
    let (mut asked, mut answered) = (vec![0; PIECE_MAX], vec![0; PIECE_MAX]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let piece = asked.get(..read.ok().filter(|length| *length > 0)?)?;
                match plan.next() {
                    None => server.write_all(piece).await.ok()?,
                    Some(Cut::Before) => return None,
                    Some(Cut::After) => {
                        server.write_all(piece).await.ok()?;
                        // However much of the answer came, none of it is carried.
                        let _length = server.read(&mut answered).await.ok()?;
                        return None;
                    }
                }
            }
            read = server.read(&mut answered) => {
                client.write_all(answered.get(..read.ok().filter(|length| *length > 0)?)?).await.ok()?;
            }
        }
    }
}
