//! The steps that need the admin socket: what a rotation and a taint do to a deployment at work.

use std::time::Duration;

use keychain::chain::{SignedEvent, windows};
use keychain::endorsement::{Endorsement, Expected, Purpose, SignRequest};
use keychain::{Code, Digest};

use super::report::Checks;
use super::site::settled;
use super::walk::{Walk, app_request, draw_key, post_access};
use crate::clock;
use crate::door::Door;
use crate::failure::{Exit, Failure, OrFail};

/// A token whose issuer's generation is dead, seen before or after its endorsement has left the directory.
const DEAD: [Code; 2] = [Code::DeadKey, Code::UnknownKey];
/// How long the probe's own endorsement would last: longer than the probe.
const ENDORSED_FOR: Duration = Duration::from_mins(10);

impl Walk {
    /// A rotation changes nothing for anybody: the generation before stays live for its window.
    pub(super) async fn rotate_hsm(&mut self) -> Result<Checks, Failure> {
        self.next_generation("/rotate", |from| format!(r#"{{"from":"{from}"}}"#)).await?;
        let head = self.site.chain().head().map_or(0, |head| head.event().sequence_number);
        let mut checks = vec![format!("the published chain has grown to generation {head} and verifies")];
        checks.extend(self.all_apps().await?);
        checks.push("tokens and answers of the generation before stay good".to_owned());
        Ok(checks)
    }

    /// Taints the newest generation. If the services stand on it they must make themselves new keys,
    /// and no edge may take a token of before; if they stand on an older one, nothing changes for them.
    /// What the tainted generation endorsed is dead in any case.
    pub(super) async fn taint_hsm(&mut self) -> Result<Checks, Failure> {
        self.site.read_chain().await?;
        let endorsement = self.endorse_a_key().await?;
        let taint = |from| format!(r#"{{"generationId":"{from}","reason":"opsctl probe"}}"#);
        let tainted = self.next_generation("/taint", taint).await?;
        let mut checks = vec!["the published chain verifies and taints the generation before".to_owned()];
        if let Some(endorsement) = endorsement {
            match self.verify(&endorsement) {
                Err(refusal) if refusal.code() == Code::DeadKey => {}
                _ => return Err(Failure::new(Exit::No, "an endorsement by the tainted generation verifies")),
            }
            checks.push("an endorsement that it had made no longer verifies".to_owned());
        }
        if self.site.authd_stands_on(&tainted) {
            checks.extend(self.old_tokens_are_dead().await?);
            checks.extend(self.new_sessions().await?);
        } else {
            checks.push("the services stand on an older generation, which stays live".to_owned());
        }
        checks.extend(self.all_apps().await?);
        Ok(checks)
    }

    /// A key of the probe's own, endorsed by the newest generation, if the endorse socket is known.
    async fn endorse_a_key(&self) -> Result<Option<Endorsement>, Failure> {
        let Some(hsmd) = &self.site.endorse else { return Ok(None) };
        let request = SignRequest {
            purpose: Purpose::Response,
            public_key: draw_key()?.public_key(),
            expiration: clock::now().plus(ENDORSED_FOR),
        };
        let answer = hsmd.post("/sign", request.to_json()).await?.ok(hsmd)?;
        let endorsement =
            Endorsement::parse(&answer).or_fail(Exit::No, || "hsmd's endorsement cannot be read")?;
        self.verify(&endorsement).or_fail(Exit::No, || "hsmd's endorsement does not verify")?;
        Ok(Some(endorsement))
    }

    fn verify(&self, endorsement: &Endorsement) -> Result<(), keychain::Refusal> {
        let subject = &endorsement.subject;
        let expected =
            Expected { purpose: Purpose::Response, public_key: &subject.public_key, service: None };
        endorsement.verify(self.site.chain(), expected, windows::DEVICE, clock::now())
    }

    async fn old_tokens_are_dead(&mut self) -> Result<Checks, Failure> {
        let mut checks = Checks::new();
        for place in 0..self.site.apps.len() {
            let (name, door) = self.app(place)?;
            let (site, first) = (&mut self.site, &self.first);
            let code = settled(async || {
                let request = first.access_request(&app_request(0)?)?.body;
                post_access(&door, &site.path, request)
                    .await?
                    .no("the token of the tainted generation", &DEAD)
            })
            .await?;
            checks.push(format!("edge:{name} refuses the token of before with {}", code.as_str()));
        }
        Ok(checks)
    }

    async fn new_sessions(&mut self) -> Result<Checks, Failure> {
        for visitor in [&mut self.first, &mut self.second] {
            let site = &mut self.site;
            settled(async || visitor.open_session(site).await?.yes("a session after the taint")).await?;
        }
        Ok(vec!["authd has made itself new keys and opens sessions".to_owned()])
    }

    /// Posts to hsmd, waits until the published chain has the new generation, and names the one left.
    async fn next_generation(
        &mut self,
        path: &str,
        body: impl Fn(Digest) -> String,
    ) -> Result<Digest, Failure> {
        self.site.read_chain().await?;
        let hsmd: Door = self.site.admin.clone().or_fail(Exit::Software, || "no admin socket")?;
        let head = self.site.chain().head().or_fail(Exit::No, || "the published chain is empty")?.id();
        hsmd.post(path, body(head)).await?.ok(&hsmd)?;
        let site = &mut self.site;
        settled(async || {
            site.read_chain().await?;
            let now = site.chain().head().map(SignedEvent::id);
            (now != Some(head)).then_some(head).or_fail(Exit::No, || "the new generation is not published")
        })
        .await
    }
}
