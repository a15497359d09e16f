//! HTTP to a daemon, over TCP or over a Unix socket, with every wait and every answer bounded.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use reqwest::{Client, Method, StatusCode};

use crate::failure::{Exit, Failure, OrFail};

/// The longest answer that is read: a chain of 10,000 events is 6 MB.
const LONGEST_ANSWER: usize = 16 << 20;
/// How long a connection may take; the whole exchange has the deadline of the command.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Where a daemon listens: `http(s)://…`, or a Unix socket as `unix:/path` or `/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Socket(PathBuf),
    Url(String),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = text.strip_prefix("unix:").unwrap_or(text);
        if path.starts_with('/') {
            return Ok(Self::Socket(path.into()));
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Self::Url(text.trim_end_matches('/').to_owned()));
        }
        Err(format!("`{text}` is neither http(s)://… nor the absolute path of a Unix socket"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Url(url) => f.write_str(url),
        }
    }
}

/// A client of one daemon.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    client: Client,
    base: String,
    address: Address,
}

/// A daemon's answer, whatever its status.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Door {
    pub(crate) fn open(address: &Address, deadline: Duration) -> Result<Self, Failure> {
        let mut builder = Client::builder().timeout(deadline).connect_timeout(CONNECT_DEADLINE).no_proxy();
        if !matches!(address, Address::Url(url) if url.starts_with("https:")) {
            // Without TLS there is no need for the machine's certificates, which may not be installed.
            builder = builder.tls_certs_only([]);
        }
        let base = match address {
            Address::Url(url) => url.clone(),
            Address::Socket(path) => {
                builder = builder.unix_socket(path.as_path());
                "http://localhost".to_owned()
            }
        };
        let client = builder.build().or_fail(Exit::Config, || "cannot set up the HTTP client")?;
        Ok(Self { client, base, address: address.clone() })
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.exchange(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: String) -> Result<Answer, Failure> {
        self.exchange(Method::POST, path, Some(body)).await
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<String>) -> Result<Answer, Failure> {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let mut response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(error))? {
            if bytes.len() + chunk.len() > LONGEST_ANSWER {
                let what = format!("`{}` answers more than {LONGEST_ANSWER} bytes at {path}", self.address);
                return Err(Failure::new(Exit::Data, what));
            }
            bytes.extend_from_slice(&chunk);
        }
        let body = String::from_utf8(bytes)
            .or_fail(Exit::Data, || format!("`{}` does not answer in UTF-8 at {path}", self.address))?;
        Ok(Answer { status: status.as_u16(), body })
    }

    fn unreachable(&self, error: reqwest::Error) -> Failure {
        let mut denied = false;
        let mut cause = error.source();
        while let Some(error) = cause {
            let io = error.downcast_ref::<std::io::Error>();
            denied |= io.is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
            cause = error.source();
        }
        let exit = if denied { Exit::Denied } else { Exit::Unavailable };
        // The address stands in our own words; the library's would repeat it as `http://localhost`.
        Failure::new(exit, format!("cannot reach `{}`", self.address)).because(error.without_url())
    }
}

impl Answer {
    pub(crate) fn is_ok(&self) -> bool {
        self.status == StatusCode::OK.as_u16()
    }

    /// The body of a 200; everything else is the other side's refusal, in its own words.
    pub(crate) fn ok(self, who: &Door) -> Result<String, Failure> {
        if self.is_ok() {
            return Ok(self.body);
        }
        let exit = match self.status {
            401 | 403 => Exit::Denied,
            400 | 404 | 405 | 413 => Exit::Data,
            409 => Exit::No,
            429 => Exit::Temporary,
            _ => Exit::Unavailable,
        };
        Err(Failure::new(exit, format!("`{}` answers {}: {}", who.address(), self.status, self.body.trim())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let socket = |path: &str| Some(Address::Socket(path.into()));
        let url = |url: &str| Some(Address::Url(url.into()));
        let table = [
            ("/run/hsmd/admin.sock", socket("/run/hsmd/admin.sock")),
            ("unix:/run/hsmd/admin.sock", socket("/run/hsmd/admin.sock")),
            ("http://127.0.0.1:80/", url("http://127.0.0.1:80")),
            ("https://keys.example", url("https://keys.example")),
            ("run/hsmd/admin.sock", None),
            ("unix:admin.sock", None),
            ("ftp://host", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<Address>().ok(), expected, "{text}");
        }
    }
}
