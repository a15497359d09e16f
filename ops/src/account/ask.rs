//! The way to authd's admin socket.

use std::path::PathBuf;
use std::time::Duration;

use keychain::Digest;
use serde::{Deserialize, Serialize};

use super::{Ordering, tell};
use crate::dev::Endpoints;
use crate::door::{Address, Door};
use crate::failure::{Exit, Failure, OrFail};
use crate::generation::{confirm_digest, to_json};
use crate::out;
use crate::talk::Talk;

/// Where authd's admin socket is when its unit runs.
const ADMIN: &str = "/run/authd/admin.sock";

/// Names an authd: the one on this machine unless told otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct Site {
    /// The endpoints file of an `opsctl dev`
    #[arg(long, value_name = "FILE")]
    endpoints: Option<PathBuf>,
    /// authd's admin socket [default: /run/authd/admin.sock, or as in the endpoints file]
    #[arg(long, value_name = "SOCKET")]
    authd: Option<Address>,
    /// Seconds that each exchange may take; authd itself waits 5 for the directory
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
}

/// What an order says besides identity and reason.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Order<'a> {
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub(super) seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub(super) device: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub(super) all_but: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'a str>,
}

#[derive(Serialize)]
struct Body<'a> {
    identity: String,
    reason: &'a str,
    #[serde(flatten)]
    order: Order<'a>,
}

#[derive(Deserialize)]
struct Done {
    changed: bool,
    subjects: u64,
    told: bool,
}

impl Site {
    pub(super) fn door(&self) -> Result<Door, Failure> {
        let endpoints = self.endpoints.as_deref().map(Endpoints::read).transpose()?;
        let address = match (&self.authd, endpoints) {
            (Some(address), _) => address.clone(),
            (None, Some(endpoints)) => Address::Socket(endpoints.auth_admin),
            (None, None) => Address::Socket(ADMIN.into()),
        };
        Door::open(&address, Duration::from_secs(self.timeout))
    }
}

impl Ordering {
    /// Asks a person, unless told not to or nothing is to be done.
    pub(super) fn confirm(&self, identity: &Digest, yes: bool, what: &str) -> Result<(), Failure> {
        if yes || self.dry_run { Ok(()) } else { confirm_digest(identity, what) }
    }

    /// Has authd carry an order out, and says what came of it.
    pub(super) async fn carry_out(
        &self,
        path: &str,
        identity: Digest,
        order: Order<'_>,
        talk: Talk,
    ) -> Result<(), Failure> {
        if self.dry_run {
            talk.say("dry run: nothing was done");
            return Ok(());
        }
        let authd = self.site.door()?;
        let body = Body { identity: identity.to_string(), reason: &self.reason, order };
        let answer = authd.post(path, to_json(&body)?).await?.ok(&authd)?;
        let done: Done =
            serde_json::from_str(&answer).or_fail(Exit::Data, || "authd's answer says not what was done")?;
        if self.json {
            out::line(answer.trim_end());
        } else {
            out::line(identity);
        }
        tell(done.changed, done.told, done.subjects, talk)
    }
}

#[expect(clippy::ref_option, reason = "the form that serde calls")]
fn as_text<S: serde::Serializer>(digest: &Option<Digest>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&digest.map(|digest| digest.to_string()).unwrap_or_default())
}
