//! hsmd itself as a source, over the road by which it endorses this service: whoever holds the key directory can
//! withhold nothing here.

use std::sync::Arc;
use std::time::Duration;

use keychain::limits;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::super::Shared;
use super::{Link, Texts, Told};
use crate::endorser::{self, Endorser};

/// How long one question waits for the next head. Below hsmd's own bound of 60 s.
const WAIT: Duration = Duration::from_secs(50);

/// How long an answer may take beyond the wait.
const DEADLINE: Duration = Duration::from_secs(5);

/// The first and the longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Longest chain read: a rotation every hour for ten years.
const CHAIN_MAX: usize = 64 * 1024 * 1024;

/// Longest statements read: one head and what is around it.
const STATEMENTS_MAX: usize = 2 * limits::HEAD_MAX;

/// Why hsmd tells nothing.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// It cannot be asked, or refuses.
    #[error("hsmd cannot be asked for the chain and its head")]
    Road(#[from] endorser::Error),
    /// The answer is no list of events, and no statements.
    #[error("hsmd's answer has not the form that it ought to have")]
    Json(#[from] serde_json::Error),
}

/// The answer to `GET /statements`.
#[derive(Deserialize)]
struct Statements<'a> {
    version: u64,
    #[serde(borrow)]
    head: Option<&'a RawValue>,
}

/// Follows hsmd: each new head wakes it, and with the head come the events that are new.
pub(in super::super) struct HsmdSource {
    endorser: Endorser,
    shared: Arc<Shared>,
    to: mpsc::Sender<Told>,
    link: Link,
}

impl HsmdSource {
    pub(in super::super) fn new(endorser: Endorser, shared: Arc<Shared>, to: mpsc::Sender<Told>) -> Self {
        let link = Link::new("hsmd", Arc::clone(&shared));
        Self { endorser, shared, to, link }
    }

    pub(in super::super) async fn run(self) {
        let mut version = None;
        let mut pause = PAUSE.0;
        loop {
            match self.ask(version).await {
                Ok((newest, texts)) => {
                    self.link.is_up();
                    (version, pause) = (Some(newest), PAUSE.0);
                    if self.to.send(Told { texts, read_up_to: None }).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    self.link.is_down(&error);
                    // An hsmd that comes back counts its versions anew.
                    version = None;
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2).min(PAUSE.1);
                }
            }
        }
    }

    /// Waits for a head other than that of `version`, if there is one, and asks for the events that are not known.
    async fn ask(&self, version: Option<u64>) -> Result<(u64, Texts), Error> {
        let query =
            version.map_or_else(String::new, |after| format!("?after={after}&wait={}", WAIT.as_secs()));
        let deadline = WAIT.saturating_add(DEADLINE);
        let answer = self.endorser.get(&format!("/statements{query}"), deadline, STATEMENTS_MAX).await?;
        let statements: Statements<'_> = serde_json::from_str(&answer)?;
        // All of them the first time: the directory may have told a branch that hsmd did not make.
        let state = self.shared.state.load_full();
        let known = version.and_then(|_| state.chain().head()).map(|head| head.event().sequence_number);
        let query = known.map_or_else(String::new, |after| format!("?after={after}"));
        let chain = self.endorser.get(&format!("/chain{query}"), DEADLINE, CHAIN_MAX).await?;
        let events: Vec<&RawValue> = serde_json::from_str(&chain)?;
        let events = events.into_iter().map(|event| event.get().to_owned()).collect();
        let heads = statements.head.map(|head| head.get().to_owned()).into_iter().collect();
        Ok((statements.version, Texts { events, heads }))
    }
}
