//! The way to authd's admin socket.

use keychain::Digest;
use keychain::feed::Position;
use serde::{Deserialize, Serialize};

use super::{Denying, Ordering, tell};
use crate::declaration::confirm;
use crate::deployment::{Deployment, Reach};
use crate::door::{Address, Door};
use crate::failure::{Exit, Failure, OrFail};
use crate::generation::to_json;
use crate::out;
use crate::talk::Talk;
use crate::verifiers::Goal;

/// Where authd's admin socket is when its unit runs.
const ADMIN: &str = "/run/authd/admin.sock";

/// Names an authd: the one on this machine unless told otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct Site {
    #[command(flatten)]
    pub(super) reach: Reach,
    #[command(flatten)]
    socket: AuthdSocket,
}

/// Where authd takes orders.
#[derive(Debug, clap::Args)]
pub(crate) struct AuthdSocket {
    /// authd's admin socket [default: /run/authd/admin.sock, or as in the endpoints file]
    #[arg(long, value_name = "SOCKET")]
    authd: Option<Address>,
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

/// authd's answer to an order.
#[derive(Deserialize)]
pub(super) struct Done {
    pub(super) changed: bool,
    pub(super) subjects: u64,
    pub(super) told: bool,
    feed: Option<Given>,
}

/// A position in the denial feed.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Given {
    epoch: u64,
    position: u64,
}

impl From<Given> for Position {
    fn from(Given { epoch, position }: Given) -> Self {
        Self { epoch, number: position }
    }
}

impl From<Position> for Given {
    fn from(Position { epoch, number }: Position) -> Self {
        Self { epoch, position: number }
    }
}

impl Site {
    pub(super) fn door(&self) -> Result<Door, Failure> {
        self.socket.door(&self.reach)
    }
}

impl AuthdSocket {
    pub(crate) fn door(&self, reach: &Reach) -> Result<Door, Failure> {
        let address = match (&self.authd, reach.endpoints()?) {
            (Some(address), _) => address.clone(),
            (None, Some(endpoints)) => Address::Socket(endpoints.auth_admin),
            (None, None) => Address::Socket(ADMIN.into()),
        };
        reach.open(&address)
    }
}

impl Ordering {
    /// Has authd carry an order out, and says what came of it; nothing if nothing was to be done.
    pub(super) async fn carry_out(
        &self,
        path: &str,
        identity: Digest,
        order: Order<'_>,
        talk: Talk,
    ) -> Result<Option<Done>, Failure> {
        if self.dry_run {
            talk.say("dry run: nothing was done");
            return Ok(None);
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
        tell(&done, talk)?;
        Ok(Some(done))
    }
}

impl Denying {
    /// Asks a person, unless told not to or nothing is to be done.
    pub(super) fn confirm(&self, identity: &Digest, yes: bool, what: &str) -> Result<(), Failure> {
        if yes || self.ordering.dry_run { Ok(()) } else { confirm(identity, what) }
    }

    /// Has authd carry an order out, and waits until every edge has applied what it denies and lifts.
    pub(super) async fn carry_out(
        &self,
        path: &str,
        identity: Digest,
        order: Order<'_>,
        talk: Talk,
    ) -> Result<(), Failure> {
        match self.ordering.carry_out(path, identity, order, talk).await? {
            Some(done) => self.applied(done.feed, talk).await,
            None => Ok(()),
        }
    }

    /// Waits until every edge has applied the feed up to the position that authd gave.
    pub(super) async fn applied(&self, given: Option<Given>, talk: Talk) -> Result<(), Failure> {
        let late = "stored at authd, and not yet in the denial feed: `opsctl feed show` and authd's log say what it waits \
                    for; the same command again says whether edges have heard it";
        let given = given.or_fail(Exit::Partial, || late)?;
        let deployment = self.deployment();
        let (hsmd, authd) = (deployment.admin()?, self.ordering.site.door()?);
        self.wait.until(&deployment, (&hsmd, Some(&authd)), Goal::feed(given.into()), talk).await
    }

    /// Where verifiers are asked.
    pub(super) fn deployment(&self) -> Deployment {
        Deployment { reach: self.ordering.site.reach.clone(), hosts: self.hosts.clone() }
    }
}

#[expect(clippy::ref_option, reason = "the form that serde calls")]
fn as_text<S: serde::Serializer>(digest: &Option<Digest>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&digest.map(|digest| digest.to_string()).unwrap_or_default())
}
