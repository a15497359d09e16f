//! The connector: HTTP on a free port of this host, before a device that can be pulled out.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use super::Emulator;

pub struct Connector {
    pub address: SocketAddr,
}

impl Connector {
    /// Serves the device until the process ends.
    pub fn start(device: &Emulator) -> Self {
        let device = device.clone();
        Self::serve(move |command| device.answer(command))
    }

    /// The same for whatever answers messages; it may not answer, as a device that is out.
    pub fn serve(device: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let device = Arc::new(device);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let device = Arc::clone(&device);
                thread::spawn(move || serve(device.as_ref(), stream));
            }
        });
        Self { address }
    }
}

/// Answers requests until the client goes, or the device does not answer.
fn serve(device: &dyn Fn(&[u8]) -> Option<Vec<u8>>, stream: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(shown) = line.strip_prefix("Content-Length: ") {
                length = shown.trim().parse().ok()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut command = vec![0; length];
        reader.read_exact(&mut command).ok()?;
        let answer = device(&command)?;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len());
        // In one piece: the client library reads it so.
        stream.write_all(&[head.as_bytes(), &answer].concat()).ok()?;
    }
}
