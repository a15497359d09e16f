//! hsmd as a service sees it: "endorse this key of mine" (`PROTOCOL.md#endorsement`), and what it tells everybody of the
//! chain.
//!
//! An hsmd on the same host knows a service by its user; one on another host by its client certificate. What
//! names the service in the endorsement is hsmd's policy in both cases, never this side.

mod tls;

use std::time::Duration;

use keychain::endorsement::SignRequest;

use crate::peer::{NotAnAddress, Peer};

pub(crate) use tls::origin;
pub use tls::{Tls, TlsError};

/// How long hsmd may take. A YubiHSM signs in 73 ms and the queue before it is bounded.
const DEADLINE: Duration = Duration::from_secs(5);

/// Longest answer read. An endorsement has some 500 bytes.
const ANSWER_MAX: usize = 16 * 1024;

/// The way to hsmd. Cloning shares its connections.
#[derive(Debug, Clone)]
pub struct Endorser {
    road: Road,
    base: String,
    /// Where keys are endorsed.
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
    /// The answer is too long, or no text.
    #[error("hsmd at `{url}` answered with something that is no answer to this")]
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
        if let Some(url) = origin(address) {
            let tls = tls.ok_or(TlsError::Missing)?;
            return Ok(Self {
                road: Road::Far(tls.clone()),
                base: url.to_owned(),
                url: format!("{url}/sign"),
            });
        }
        if tls.is_some() {
            return Err(TlsError::Unasked.into());
        }
        let peer = Peer::parse(address)?;
        let (base, url) = (peer.url(""), peer.url("/sign"));
        let client =
            peer.client(DEADLINE).map_err(|source| Error::Silent { url: address.to_owned(), source })?;
        Ok(Self { road: Road::Here(client), base, url })
    }

    /// Whether hsmd is on this host.
    pub(crate) const fn is_here(&self) -> bool {
        matches!(self.road, Road::Here(_))
    }

    /// Asks for one endorsement. The answer is not verified here: what it is worth depends on the chain.
    pub async fn endorse(&self, request: &SignRequest) -> Result<String, Error> {
        let request = self
            .client(DEADLINE)?
            .post(&self.url)
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .body(request.to_json());
        let body = answer(request, &self.url, ANSWER_MAX).await?;
        Ok(body.trim_end_matches('\n').to_owned())
    }

    /// Asks for what hsmd tells everybody at `place` (path and query): at most `most` bytes within `deadline`.
    pub(crate) async fn get(&self, place: &str, deadline: Duration, most: usize) -> Result<String, Error> {
        let url = format!("{}{place}", self.base);
        answer(self.client(deadline)?.get(&url).timeout(deadline), &url, most).await
    }

    fn client(&self, deadline: Duration) -> Result<reqwest::Client, Error> {
        match &self.road {
            Road::Here(client) => Ok(client.clone()),
            Road::Far(tls) => Ok(tls.client(deadline)?),
        }
    }
}

/// The body of a success.
async fn answer(request: reqwest::RequestBuilder, url: &str, most: usize) -> Result<String, Error> {
    let silent = |source| Error::Silent { url: url.to_owned(), source };
    let wrong = || Error::Answer { url: url.to_owned() };
    let mut answer = request.send().await.map_err(silent)?;
    let status = answer.status();
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(silent)? {
        if bytes.len().saturating_add(chunk.len()) > most {
            return Err(wrong());
        }
        bytes.extend_from_slice(&chunk);
    }
    let body = String::from_utf8(bytes).map_err(|_| wrong())?;
    if status != reqwest::StatusCode::OK {
        let body = body.chars().filter(|c| !c.is_control()).take(300).collect();
        return Err(Error::Refused { url: url.to_owned(), status: status.as_u16(), body });
    }
    Ok(body)
}
