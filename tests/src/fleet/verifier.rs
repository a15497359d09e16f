//! A verifier, asked as a device asks it: an edge over HTTP, or a simulated follower.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::craft::Device;
use crate::http::Http;

use super::follower::Follower;

const INNER: &str = r#"{"foo":"a","bar":"b"}"#;

/// What a verifier makes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was let in.
    Admitted,
    /// It was refused with that code.
    Refused(String),
    /// It cannot be known now.
    Unknown,
}

/// One verifier.
#[derive(Clone)]
pub enum Verifier {
    /// A process with an app behind it.
    Edge(Http),
    /// One in this process.
    Simulated(Arc<Follower>),
}

impl Verifier {
    /// Its verdict on a request.
    pub async fn ask(&self, request: &str) -> Verdict {
        match self {
            Self::Edge(http) => {
                let Ok(answer) = http.try_post(super::PATH, request).await else { return Verdict::Unknown };
                match answer.status {
                    200 => Verdict::Admitted,
                    502..=504 => Verdict::Unknown,
                    _ => Verdict::Refused(answer.code()),
                }
            }
            Self::Simulated(follower) => follower.ask(request).await,
        }
    }
}

/// Requests of one session. Every verifier can be shown the same ones, as nonces are remembered by each alone: each is
/// signed once, when it is first wanted.
pub(super) struct Requests {
    device: Arc<Device>,
    made: Mutex<BTreeMap<usize, Arc<str>>>,
}

impl Requests {
    pub(super) fn of(device: Arc<Device>) -> Self {
        Self { device, made: Mutex::default() }
    }

    /// The request of that number.
    pub(super) fn number(&self, number: usize) -> Arc<str> {
        let mut made = self.made.lock().unwrap();
        Arc::clone(made.entry(number).or_insert_with(|| self.device.session().access(INNER).into()))
    }
}
