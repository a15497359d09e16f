//! A TLS client whose every failure can be told apart.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{
    AlertDescription, ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::support::{authority::Issued, daemon::Answer};

/// Longer than any bound of hsmd.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Client {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

/// An open connection.
pub struct Connection(StreamOwned<ClientConnection, TcpStream>);

impl Client {
    pub fn new(address: SocketAddr, authority: &str, issued: Option<&Issued>) -> Self {
        Self::speaking(&[&rustls::version::TLS13], address, authority, issued)
    }

    /// One that speaks these versions of TLS.
    pub fn speaking(
        versions: &[&'static SupportedProtocolVersion],
        address: SocketAddr,
        authority: &str,
        issued: Option<&Issued>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match issued {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let chain = CertificateDer::pem_slice_iter(issued.certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain.map(Result::unwrap).collect(), key).unwrap()
            }
        };
        config.resumption = Resumption::in_memory_sessions(8);
        Self { address, config: Arc::new(config) }
    }

    pub fn connect(&self) -> Connection {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let name = self.address.ip().into();
        Connection(StreamOwned::new(ClientConnection::new(Arc::clone(&self.config), name).unwrap(), stream))
    }

    /// One request on a connection of its own.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Result<Answer, Break> {
        self.connect().ask(method, path, "", body)
    }

    /// How hsmd ends the handshake of a client that it does not let in. Nothing is sent after it: what
    /// nobody reads could make the system drop hsmd's last word.
    pub fn refusal(&self) -> String {
        match self.connect().0.read(&mut [0]) {
            Ok(0) => "closed".to_owned(),
            Ok(_) => "let in".to_owned(),
            Err(error) => verdict(Err(broken(&error))),
        }
    }

    /// Status and code of an answer, or how the connection ended, as one line.
    pub fn verdict(&self, method: &str, path: &str, body: &str) -> String {
        verdict(self.ask(method, path, body))
    }
}

/// How a connection ended without an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Break {
    Alert(AlertDescription),
    Closed,
}

impl Connection {
    /// Asks, with more header fields, each with its line's end, and leaves the connection open.
    pub fn ask(&mut self, method: &str, path: &str, fields: &str, body: &str) -> Result<Answer, Break> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: hsmd\r\n{fields}Content-Length: {}\r\n\r\n",
            body.len()
        );
        // A refusal may come before everything is sent.
        let sent = self.0.write_all(head.as_bytes()).and_then(|()| self.0.write_all(body.as_bytes()));
        self.read().map_err(|error| match sent {
            Err(first) if find_alert(&error).is_none() => broken(&first),
            _ => broken(&error),
        })
    }

    /// The certificate that hsmd presented.
    pub fn presented(&self) -> Vec<u8> {
        self.0.conn.peer_certificates().unwrap()[0].to_vec()
    }

    fn read(&mut self) -> io::Result<Answer> {
        let mut text = String::new();
        loop {
            let mut piece = [0; 4096];
            let length = self.0.read(&mut piece)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            text.push_str(std::str::from_utf8(&piece[..length]).unwrap());
            let head = text.to_ascii_lowercase();
            let announced = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            let answer = Answer::parse(&text);
            if let (Some(answer), Some(announced)) = (answer, announced)
                && answer.body.len() >= announced.parse::<usize>().unwrap()
            {
                return Ok(answer);
            }
        }
    }
}

/// Status and code of an answer, or how the connection ended, as one line.
pub fn verdict(outcome: Result<Answer, Break>) -> String {
    match outcome {
        Ok(answer) if answer.status == 200 => "200".to_owned(),
        Ok(answer) => format!("{} {}", answer.status, answer.code()),
        Err(Break::Alert(alert)) => format!("alert {alert:?}"),
        Err(Break::Closed) => "closed".to_owned(),
    }
}

fn broken(error: &io::Error) -> Break {
    find_alert(error).map_or(Break::Closed, Break::Alert)
}

fn find_alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        other => panic!("hsmd is not trusted: {other}"),
    }
}
