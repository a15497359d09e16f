//! hsmd as a service sees it: one question, "endorse this key of mine" (`PROTOCOL.md#endorsement`).
//!
//! An hsmd on the same host knows a service by its user; one on another host by its client certificate. What
//! names the service in the endorsement is hsmd's policy in both cases, never this side.

mod tls;

use std::time::Duration;

use keychain::endorsement::SignRequest;

use crate::peer::{NotAnAddress, Peer};

pub use tls::{Tls, TlsError};

/// How long hsmd may take. A YubiHSM signs in 73 ms and the queue before it is bounded.
const DEADLINE: Duration = Duration::from_secs(5);

/// Longest answer read. An endorsement has some 500 bytes.
const ANSWER_MAX: usize = 16 * 1024;

/// The way to hsmd. Cloning shares its connections.
#[derive(Debug, Clone)]
pub struct Endorser {
    road: Road,
    url: String,
}

#[derive(Debug, Clone)]
enum Road {
    /// On this host: one client for good.
    Here(reqwest::Client),
    /// To another host: the files are read for each question, some hours apart, so that a renewed certificate
    /// takes no restart.
    Far(Tls),
}

/// Why there is no endorsement.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configured address cannot be used.
    #[error(transparent)]
    Address(#[from] NotAnAddress),
    /// The answer is not an endorsement's size or text.
    #[error("hsmd at `{url}` answered with something that is not an endorsement")]
    Answer {
        /// The address asked.
        url: String,
    },
    /// No connection, or no answer in time.
    #[error("hsmd at `{url}` does not answer; is it running, and may this service use its socket?")]
    Silent {
        /// The address asked.
        url: String,
        /// What the connection says.
        source: reqwest::Error,
    },
    /// hsmd said no.
    #[error("hsmd at `{url}` refused with status {status}: {body}; see its policy.toml")]
    Refused {
        /// The address asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it said, shortened.
        body: String,
    },
    /// The certificates for an hsmd on another host cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Endorser {
    /// Prepares to ask hsmd at `unix:/path`, at `http://host:port` of a laboratory, or, with the certificates
    /// for it, at `https://host:port`; nothing is opened yet.
    pub fn new(address: &str, tls: Option<&Tls>) -> Result<Self, Error> {
        if let Some(url) = tls::origin(address) {
            let tls = tls.ok_or(TlsError::Missing)?;
            return Ok(Self { road: Road::Far(tls.clone()), url: format!("{url}/sign") });
        }
        if tls.is_some() {
            return Err(TlsError::Unasked.into());
        }
        let peer = Peer::parse(address)?;
        let url = peer.url("/sign");
        let client =
            peer.client(DEADLINE).map_err(|source| Error::Silent { url: address.to_owned(), source })?;
        Ok(Self { road: Road::Here(client), url })
    }

    /// Asks for one endorsement. The answer is not verified here: what it is worth depends on the chain.
    pub async fn endorse(&self, request: &SignRequest) -> Result<String, Error> {
        let silent = |source| Error::Silent { url: self.url.clone(), source };
        let client = match &self.road {
            Road::Here(client) => client.clone(),
            Road::Far(tls) => tls.client(DEADLINE)?,
        };
        let answer = client
            .post(&self.url)
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .body(request.to_json())
            .send()
            .await
            .map_err(silent)?;
        let status = answer.status();
        let body = self.text(answer).await?;
        if status != reqwest::StatusCode::OK {
            let body = body.chars().filter(|c| !c.is_control()).take(300).collect();
            return Err(Error::Refused { url: self.url.clone(), status: status.as_u16(), body });
        }
        Ok(body.trim_end_matches('\n').to_owned())
    }

    async fn text(&self, mut answer: reqwest::Response) -> Result<String, Error> {
        let mut bytes = Vec::new();
        let silent = |source| Error::Silent { url: self.url.clone(), source };
        while let Some(chunk) = answer.chunk().await.map_err(silent)? {
            if bytes.len() + chunk.len() > ANSWER_MAX {
                return Err(Error::Answer { url: self.url.clone() });
            }
            bytes.extend_from_slice(&chunk);
        }
        String::from_utf8(bytes).map_err(|_| Error::Answer { url: self.url.clone() })
    }
}
