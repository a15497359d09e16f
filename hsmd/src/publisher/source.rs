//! The chain and the statements as hsmd serves them.

use std::{path::Path, time::Duration};

use keychain::{Refusal, chain::SignedEvent, statement::Head};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::{Found, Received};

/// How long one question waits for the next event. Below hsmd's own bound of 60 s.
const WAIT: Duration = Duration::from_secs(50);

/// How long an answer may take beyond the wait.
const DEADLINE: Duration = Duration::from_secs(5);

/// Longest answer: the longest chain that is read (a million events) would be 700 MB, but hsmd is asked for
/// what is new; this is for the first answer, a rotation every hour for ten years.
const ANSWER_MAX: usize = 64 * 1024 * 1024;

/// The first and the longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Why the chain or the statements could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// hsmd cannot be reached or broke off.
    #[error("cannot reach hsmd")]
    Http(#[from] reqwest::Error),
    /// hsmd refused.
    #[error("hsmd answered {0}")]
    Status(u16),
    /// The answer is no list of events, and no statements.
    #[error("the answer has not the form that hsmd gives it")]
    Json(#[from] serde_json::Error),
    /// An event does not verify, or a statement cannot be read.
    #[error("what hsmd served does not verify")]
    Event(#[from] Refusal),
    /// The answer is longer than any chain.
    #[error("the answer is longer than {ANSWER_MAX} bytes")]
    TooLong,
}

#[derive(serde::Deserialize)]
struct Judged {
    finding: String,
}

/// hsmd's socket.
#[derive(Clone, Debug)]
pub struct Source {
    http: reqwest::Client,
}

impl Source {
    /// Will ask the hsmd that listens on `socket`.
    pub fn new(socket: &Path) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            .timeout(WAIT.saturating_add(DEADLINE))
            .connect_timeout(DEADLINE)
            .build()?;
        Ok(Self { http })
    }

    /// The events after sequence number `after`, waiting for one; all of them if it is absent.
    pub async fn events(&self, after: Option<u64>) -> Result<Vec<SignedEvent>, Error> {
        let body = self.get("chain", after).await?;
        let events: Vec<&RawValue> = serde_json::from_slice(&body)?;
        events.into_iter().map(|event| Ok(SignedEvent::parse(event.get())?)).collect()
    }

    /// The newest statements, waiting while their version is `after`.
    pub async fn statements(&self, after: Option<u64>) -> Result<Received, Error> {
        Received::parse(&self.get("statements", after).await?)
    }

    /// Reports to hsmd what is published; answers its finding.
    pub async fn report(&self, found: &Found, heads: &[Head]) -> Result<String, Error> {
        let events: Vec<_> = found.events.iter().map(SignedEvent::text).collect();
        let heads: Vec<_> = heads.iter().map(Head::text).collect();
        let (events, heads, held) = (events.join(","), heads.join(","), found.held);
        let newest = found.newest.map_or_else(|| "null".to_owned(), |id| format!("\"{id}\""));
        let body =
            format!("{{\"events\":[{events}],\"heads\":[{heads}],\"held\":{held},\"newest\":{newest}}}");
        let answer = self.http.post("http://hsmd/published").timeout(DEADLINE).body(body).send().await?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(Error::Status(answer.status().as_u16()));
        }
        let answer: Judged = serde_json::from_slice(&answer.bytes().await?)?;
        Ok(answer.finding)
    }

    async fn get(&self, path: &str, after: Option<u64>) -> Result<Vec<u8>, Error> {
        let query = after.map_or_else(String::new, |after| format!("?after={after}&wait={}", WAIT.as_secs()));
        let mut answer = self.http.get(format!("http://hsmd/{path}{query}")).send().await?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(Error::Status(answer.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            if body.len().saturating_add(chunk.len()) > ANSWER_MAX {
                return Err(Error::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// Follows the chain for ever: hands over the whole of it first, and again after every interruption, and in
/// between what is new. An outage is handed over too.
pub async fn follow(source: Source, to: mpsc::Sender<Result<Vec<SignedEvent>, Error>>) {
    let newest = |events: &Vec<SignedEvent>| events.iter().map(|event| event.event().sequence_number).max();
    follow_by(source, |source: Source, after| async move { source.events(after).await }, newest, to).await;
}

/// Follows the statements for ever, in the same way.
pub async fn follow_statements(source: Source, to: mpsc::Sender<Result<Received, Error>>) {
    let ask = |source: Source, after| async move { source.statements(after).await };
    follow_by(source, ask, |received| Some(received.version), to).await;
}

/// Asks for what comes after the newest number that was received, again and again, until the receiver is dropped.
async fn follow_by<T, F: Future<Output = Result<T, Error>>>(
    source: Source,
    ask: impl Fn(Source, Option<u64>) -> F,
    newest_of: impl Fn(&T) -> Option<u64>,
    to: mpsc::Sender<Result<T, Error>>,
) {
    let mut newest = None;
    let mut pause = PAUSE.0;
    loop {
        let answer = ask(source.clone(), newest).await;
        if let Ok(received) = &answer {
            newest = newest_of(received).or(newest);
            pause = PAUSE.0;
        } else {
            newest = None;
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(PAUSE.1);
        }
        if to.send(answer).await.is_err() {
            return;
        }
    }
}
