//! hsmd itself as a source, over the road by which it endorses this service: whoever holds the key directory can
//! withhold nothing here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keychain::limits;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::super::Shared;
use super::{Link, Texts, Told};
use crate::endorser::{self, Endorser};
use crate::health;

/// How long one question waits for the next head on this host: an hsmd that hangs is noticed within two seconds.
const WAIT_HERE: Duration = Duration::from_secs(1);

/// How long it may take beyond that.
const DEADLINE_HERE: Duration = Duration::from_millis(900);

/// How long one question waits at another host, where each is a TLS handshake. Below hsmd's own bound of 60 s.
const WAIT_FAR: Duration = Duration::from_secs(50);

/// How long an answer may take beyond the wait.
const DEADLINE: Duration = Duration::from_secs(5);

/// How often the events are asked for if no new head came.
const CHAIN_EVERY: Duration = Duration::from_secs(50);

/// The first and the longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

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
        let link = Link::new("hsmd", health::HSMD, Arc::clone(&shared));
        Self { endorser, shared, to, link }
    }

    pub(in super::super) async fn run(self) {
        let mut version = None;
        let mut chain_read = Instant::now();
        let mut pause = PAUSE.0;
        loop {
            let is_chain_due = version.is_none() || chain_read.elapsed() >= CHAIN_EVERY;
            match self.ask(version, is_chain_due).await {
                Ok((newest, texts)) => {
                    self.link.is_up();
                    if is_chain_due {
                        chain_read = Instant::now();
                    }
                    let is_new = is_chain_due || version != Some(newest);
                    (version, pause) = (Some(newest), PAUSE.0);
                    if is_new && self.to.send(Told { texts, read_up_to: None }).await.is_err() {
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

    /// Waits for a head other than that of `version`, if there is one. With a new head, or if they are due, come the
    /// events that are not known.
    async fn ask(&self, version: Option<u64>, is_chain_due: bool) -> Result<(u64, Texts), Error> {
        let statements = self.statements(version).await?;
        let statements: Statements<'_> = serde_json::from_str(&statements)?;
        if !is_chain_due && version == Some(statements.version) {
            return Ok((statements.version, Texts::default()));
        }
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

    async fn statements(&self, version: Option<u64>) -> Result<String, endorser::Error> {
        let (wait, beyond) =
            if self.endorser.is_here() { (WAIT_HERE, DEADLINE_HERE) } else { (WAIT_FAR, DEADLINE) };
        let (query, deadline) = match version {
            Some(after) => (format!("?after={after}&wait={}", wait.as_secs()), wait.saturating_add(beyond)),
            None => (String::new(), DEADLINE),
        };
        self.endorser.get(&format!("/statements{query}"), deadline, STATEMENTS_MAX).await
    }
}
