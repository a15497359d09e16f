//! A keysd as a source: asked at an interval. It is independent of the key directory only if it follows hsmd over a road of
//! its own, which it says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keychain::statement::Head;
use keychain::{Digest, limits};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::super::Shared;
use super::super::keysd::{Keysd, NoClient};
use super::{Link, Texts, Told};

/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How long one answer may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// How often all events are asked for if no head names one that is not known.
const CHAIN_EVERY: Duration = Duration::from_mins(10);

/// Longest answers read: a rotation every hour for ten years; the heads of all generations that are live.
const CHAIN_MAX: usize = 64 * 1024 * 1024;
const HEADS_MAX: usize = 64 * limits::HEAD_MAX;
const HEALTH_MAX: usize = 4 * 1024;

/// Why a keysd tells nothing.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// It does not answer.
    #[error("this keysd does not answer; see that it runs and is reached at the address configured")]
    Silent(#[from] reqwest::Error),
    /// The file of its authorities cannot be used any more.
    #[error(transparent)]
    NoClient(#[from] NoClient),
    /// It answered something else than was asked for.
    #[error("this keysd answered `{path}` with status {status}; see its /readyz")]
    Refused {
        /// What was asked for.
        path: &'static str,
        /// The HTTP status.
        status: u16,
    },
    /// The answer is longer than any honest one.
    #[error("this keysd's answer to `{0}` is too long")]
    TooLong(&'static str),
    /// The answer has another form.
    #[error("this keysd's answer has not the form that it ought to have; see that the address is a keysd's")]
    Json(#[from] serde_json::Error),
}

/// What `/health` says of where a keysd hears from. Public ones say nothing.
#[derive(Deserialize)]
struct Health<'a> {
    #[serde(borrow)]
    follows: Option<&'a str>,
}

/// Asks one keysd for chain and heads.
pub(in super::super) struct KeysdSource {
    keysd: Keysd,
    /// Made anew after each failure: the authorities may have been renewed.
    client: Option<reqwest::Client>,
    name: &'static str,
    shared: Arc<Shared>,
    to: mpsc::Sender<Told>,
    link: Link,
}

impl KeysdSource {
    pub(in super::super) fn new(keysd: Keysd, shared: Arc<Shared>, to: mpsc::Sender<Told>) -> Self {
        // Metrics and dependencies have names for good. There are as many as are configured.
        let name: &'static str = format!("keysd {}", keysd.address()).leak();
        shared.dependencies.also_expect(name);
        let link = Link::new(name, name, Arc::clone(&shared));
        Self { keysd, client: None, name, shared, to, link }
    }

    pub(in super::super) async fn run(mut self) {
        let mut heads_seen = None;
        let mut chain_read: Option<Instant> = None;
        loop {
            let is_due = chain_read.is_none_or(|read| read.elapsed() >= CHAIN_EVERY);
            match self.ask(heads_seen, is_due).await {
                Ok(Answer { heads, texts, has_chain }) => {
                    self.link.is_up();
                    heads_seen = Some(heads);
                    if has_chain {
                        chain_read = Some(Instant::now());
                    }
                    if let Some(texts) = texts
                        && self.to.send(Told { texts, read_up_to: None }).await.is_err()
                    {
                        return;
                    }
                }
                Err(error) => {
                    self.link.is_down(&error);
                    self.client = None;
                    (heads_seen, chain_read) = (None, None);
                }
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// What it tells, unless its heads are those of `seen` and the events are not due.
    async fn ask(&mut self, seen: Option<Digest>, is_due: bool) -> Result<Answer, Error> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => self.client.insert(self.keysd.client(DEADLINE)?).clone(),
        };
        let health = self.get(&client, "/health", HEALTH_MAX).await?;
        let health: Health<'_> = serde_json::from_str(&health)?;
        self.shared.note_source(self.name, health.follows == Some("hsmd"));
        let body = self.get(&client, "/hsm/heads", HEADS_MAX).await?;
        let heads = Digest::of(&body);
        if seen == Some(heads) && !is_due {
            return Ok(Answer { heads, texts: None, has_chain: false });
        }
        let mut texts = Texts { events: Vec::new(), heads: list(&body)? };
        let state = self.shared.state.load_full();
        let is_known = |text: &String| match Head::parse(text) {
            Ok(head) => state.chain().events().any(|event| event.id() == head.event_id()),
            Err(_judged_later) => true,
        };
        let has_chain = is_due || !texts.heads.iter().all(is_known);
        if has_chain {
            texts.events = list(&self.get(&client, "/hsm/keys", CHAIN_MAX).await?)?;
        }
        Ok(Answer { heads, texts: Some(texts), has_chain })
    }

    async fn get(&self, client: &reqwest::Client, path: &'static str, most: usize) -> Result<String, Error> {
        let mut answer = client.get(self.keysd.url(path)).send().await?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(Error::Refused { path, status: answer.status().as_u16() });
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            if bytes.len().saturating_add(chunk.len()) > most {
                return Err(Error::TooLong(path));
            }
            bytes.extend_from_slice(&chunk);
        }
        // What is no text is no JSON either.
        Ok(String::from_utf8(bytes).unwrap_or_default())
    }
}

/// One answer: the digest of its heads, and what may be new.
struct Answer {
    heads: Digest,
    texts: Option<Texts>,
    has_chain: bool,
}

fn list(body: &str) -> Result<Vec<String>, serde_json::Error> {
    let texts: Vec<&RawValue> = serde_json::from_str(body)?;
    Ok(texts.into_iter().map(|text| text.get().to_owned()).collect())
}
