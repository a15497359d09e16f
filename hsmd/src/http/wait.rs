//! `after` and `wait`: a reader that is answered once there is something new.

use std::time::Duration;

use actix_web::web;
use keychain::{Code, Refusal};
use serde::Deserialize;

use super::Door;

/// Longest wait, in seconds: below what proxies and clients take for dead.
const WAIT_MAX: u64 = 60;

/// What a reader says of itself.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// What it has: a sequence number or a version.
    after: Option<u64>,
    /// How long it waits for something else, in seconds.
    wait: Option<u64>,
}

/// The same, checked.
pub(super) struct Wait {
    pub(super) after: Option<u64>,
    most: Duration,
}

impl Wait {
    /// Checks a query; `wanted` says what `after` and `wait` ought to be.
    pub(super) fn of(
        query: Result<web::Query<Query>, actix_web::Error>,
        wanted: &'static str,
    ) -> Result<Self, Refusal> {
        let bad = || Refusal::new(Code::InvalidMessage, wanted);
        let Query { after, wait } = query.map_err(|_| bad())?.into_inner();
        let most = wait.unwrap_or(0);
        if most > WAIT_MAX {
            return Err(bad());
        }
        Ok(Self { after, most: Duration::from_secs(most) })
    }

    /// Waits for `news` as long as the reader does, and no longer than hsmd lives.
    pub(super) async fn for_news(&self, door: &Door, news: impl Future) {
        tokio::select! {
            () = door.health.closing() => {}
            // Late or closed: what there is, is answered.
            _ = tokio::time::timeout(self.most, news) => {}
        }
    }
}
