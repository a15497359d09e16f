//! HTTP as a device, a browser or an operator speaks it, with the answer in full.

use std::path::Path;
use std::time::Duration;

use keychain::error::Code;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Certificate, Client, ClientBuilder, Method, Response, Version};

/// No request of a test takes longer on a machine that is not stuck.
const DEADLINE: Duration = Duration::from_secs(30);

/// A client without a pool of its own making: connections are kept, nothing is retried.
#[derive(Clone)]
pub struct Http {
    client: Client,
    base: String,
}

/// An answer in full.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The version that was spoken.
    pub version: Version,
    /// Header fields.
    pub headers: HeaderMap,
    /// Body, exactly.
    pub body: String,
}

impl Http {
    /// Speaks to a base URL such as `http://127.0.0.1:8080`.
    pub fn to(base: &str) -> Self {
        let client = Client::builder().timeout(DEADLINE).build().unwrap();
        Self { client, base: base.to_owned() }
    }

    /// Speaks TLS to a base URL such as `https://127.0.0.1:8443`, and trusts one authority: HTTP/2 where it is offered.
    pub fn trusting(base: &str, authority: &str) -> Self {
        Self::trusting_with(base, authority, |builder| builder)
    }

    /// The same with anything else changed.
    pub fn trusting_with(
        base: &str,
        authority: &str,
        change: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> Self {
        let authority = Certificate::from_pem(authority.as_bytes()).unwrap();
        let builder = Client::builder().timeout(DEADLINE).tls_certs_only([authority]);
        Self { client: change(builder).build().unwrap(), base: base.to_owned() }
    }

    /// Speaks to a Unix socket.
    pub fn to_socket(path: &Path) -> Self {
        let client = Client::builder().timeout(DEADLINE).unix_socket(path).build().unwrap();
        Self { client, base: "http://localhost".to_owned() }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await.unwrap()
    }

    /// GET that may get no answer.
    pub async fn try_get(&self, path: &str) -> Result<Answer, reqwest::Error> {
        self.send(Method::GET, path, None).await
    }

    /// POST of a JSON body.
    pub async fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.try_post(path, body).await.unwrap()
    }

    /// POST that may get no answer.
    pub async fn try_post(&self, path: &str, body: impl Into<Vec<u8>>) -> Result<Answer, reqwest::Error> {
        self.send(Method::POST, path, Some(body.into())).await
    }

    /// GET with a header field.
    pub async fn get_with(&self, path: &str, name: &'static str, value: &str) -> Answer {
        let request = self.client.get(format!("{}{path}", self.base)).header(name, value);
        Answer::read(request.send().await.unwrap()).await.unwrap()
    }

    /// POST with a header field.
    pub async fn post_with(&self, path: &str, body: &str, name: &'static str, value: &str) -> Answer {
        let request = self.client.post(format!("{}{path}", self.base)).body(body.to_owned());
        Answer::read(request.header(name, value).send().await.unwrap()).await.unwrap()
    }

    /// Any method.
    pub async fn method(&self, method: Method, path: &str) -> Answer {
        self.send(method, path, None).await.unwrap()
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Answer, reqwest::Error> {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        Answer::read(request.send().await?).await
    }
}

impl Answer {
    async fn read(response: Response) -> Result<Self, reqwest::Error> {
        let (status, version) = (response.status().as_u16(), response.version());
        let headers = response.headers().clone();
        let body = String::from_utf8(response.bytes().await?.to_vec()).expect("an answer in UTF-8");
        Ok(Self { status, version, headers, body })
    }

    /// The value of a header field; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The code of a refusal; empty for anything else.
    pub fn code(&self) -> String {
        let json: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        json.pointer("/error/code").and_then(|code| code.as_str()).unwrap_or_default().to_owned()
    }

    /// Asserts success and returns the `response` member of a signed answer.
    #[track_caller]
    pub fn response(&self) -> serde_json::Value {
        assert_eq!(self.status, 200, "{}", self.body);
        let json = self.json();
        let response = json.pointer("/payload/response");
        response.unwrap_or_else(|| panic!("no signed response: {}", self.body)).clone()
    }

    /// Asserts a refusal with exactly this code, its status, and no payload (`PROTOCOL.md#errors`).
    #[track_caller]
    pub fn refused(&self, code: Code) {
        let json = self.json();
        let found = json.pointer("/error/code").and_then(serde_json::Value::as_str);
        assert_eq!(found, Some(code.as_str()), "expected {code}, got {} {}", self.status, self.body);
        assert_eq!(self.status, code.status(), "{}", self.body);
        assert!(json.get("payload").is_none(), "a refusal with a payload: {}", self.body);
    }
}
