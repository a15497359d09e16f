//! One device: the machine of `keychain`, with this network and this clock.

use keychain::device::{AccessOutgoing, Device, Entropy, Outgoing, access_response, refusal_code};
use keychain::message::Operation;
use keychain::{Code, Refusal};

use super::site::Site;
use crate::clock;
use crate::door::{Answer, Door};
use crate::failure::{Exit, Failure, OrFail};

/// How often an operation whose answer was lost is asked for again.
const RETRIES: usize = 2;

/// A device of the probe.
#[derive(Debug)]
pub(crate) struct Visitor {
    device: Device,
}

/// What the other side said: a verified answer, or a refusal with its status and code.
#[derive(Debug)]
pub(crate) enum Said<T> {
    Yes(T),
    No { status: u16, code: Option<Code>, body: String },
}

/// The system's generator. If it fails it leaves zeros, which are no key: the device then refuses.
#[derive(Debug)]
pub(crate) struct System;

impl Entropy for System {
    fn fill(&mut self, bytes: &mut [u8]) {
        if aws_lc_rs::rand::fill(bytes).is_err() {
            bytes.fill(0);
        }
    }
}

impl Visitor {
    pub(crate) fn new() -> Self {
        Self { device: Device::new() }
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Makes something that needs no answer, such as a link container.
    pub(crate) fn make<T>(
        &mut self,
        command: impl FnOnce(&mut Device, &mut System) -> Result<T, Refusal>,
    ) -> Result<T, Failure> {
        command(&mut self.device, &mut System)
            .or_fail(Exit::Software, || "the device cannot make its request")
    }

    /// Carries one operation out: sends it, again if the answer is lost, and verifies the answer.
    pub(crate) async fn ask(
        &mut self,
        site: &mut Site,
        command: impl FnOnce(&mut Device, &mut System) -> Result<Outgoing, Refusal>,
    ) -> Result<Said<()>, Failure> {
        let outgoing = self.make(command)?;
        let answer = self.send(site, outgoing).await?;
        if !answer.is_ok() {
            return Ok(Said::refusal(answer));
        }
        let endorsement = site.endorsement_of_authd(&answer.body).await?;
        self.device
            .handle_response(answer.body.as_bytes(), &site.trust(&endorsement), clock::now())
            .or_fail(Exit::No, || "authd's answer does not verify")?;
        Ok(Said::Yes(()))
    }

    /// Opens a session: a challenge, and its answer. One that was refused or lost before is given up.
    pub(crate) async fn open_session(&mut self, site: &mut Site) -> Result<Said<()>, Failure> {
        let given_up = [Operation::SessionRequest, Operation::SessionCreate, Operation::SessionRefresh];
        if self.device.waits_for().is_some_and(|operation| given_up.contains(&operation)) {
            self.make(Device::abandon)?;
        }
        self.ask(site, Device::session_request).await?.yes("a challenge")?;
        self.ask(site, Device::session_create).await
    }

    /// A signed access request with a nonce of its own.
    pub(crate) fn access_request(&self, request: &str) -> Result<AccessOutgoing, Failure> {
        self.device
            .access_request(request, None, &mut System, clock::now())
            .or_fail(Exit::Software, || "the device cannot make an access request")
    }

    /// Asks an app, and verifies that the answer is signed by its edge.
    pub(crate) async fn access(
        &self,
        site: &mut Site,
        (name, door): (&str, &Door),
        request: &str,
    ) -> Result<Said<String>, Failure> {
        let asked = self.access_request(request)?;
        let answer = door.post(&site.path, asked.body).await?;
        if !answer.is_ok() {
            return Ok(Said::refusal(answer));
        }
        let endorsement = site.endorsement(&answer.body).await?;
        let (body, service) = (answer.body.as_bytes(), format!("edge:{name}"));
        access_response(body, &asked.nonce, &service, &site.trust(&endorsement), clock::now())
            .map(|response| Said::Yes(response.to_owned()))
            .or_fail(Exit::No, || format!("the answer of {service} does not verify"))
    }

    async fn send(&mut self, site: &Site, mut outgoing: Outgoing) -> Result<Answer, Failure> {
        for _ in 0..RETRIES {
            if let Ok(answer) = site.auth.post(outgoing.operation.path(), outgoing.body).await {
                return Ok(answer);
            }
            outgoing = self
                .device
                .retry(&mut System)
                .or_fail(Exit::Software, || "the device cannot make its request again")?;
        }
        site.auth.post(outgoing.operation.path(), outgoing.body).await
    }
}

impl<T> Said<T> {
    pub(crate) fn refusal(answer: Answer) -> Self {
        Self::No { status: answer.status, code: refusal_code(answer.body.as_bytes()), body: answer.body }
    }

    /// What was granted; a refusal fails the step.
    pub(crate) fn yes(self, what: &str) -> Result<T, Failure> {
        match self {
            Self::Yes(granted) => Ok(granted),
            Self::No { status, body, .. } => {
                Err(Failure::new(Exit::No, format!("{what} is refused with {status}: {}", body.trim())))
            }
        }
    }

    /// The code of a refusal that had to come; anything else fails the step.
    pub(crate) fn no(self, what: &str, expected: &[Code]) -> Result<Code, Failure> {
        match self {
            Self::No { code: Some(code), .. } if expected.contains(&code) => Ok(code),
            Self::No { status, body, .. } => {
                let codes: Vec<_> = expected.iter().map(|code| code.as_str()).collect();
                let what = format!(
                    "{what} is refused with {status}, not with {}: {}",
                    codes.join(" or "),
                    body.trim()
                );
                Err(Failure::new(Exit::No, what))
            }
            Self::Yes(_) => Err(Failure::new(Exit::No, format!("{what} is accepted"))),
        }
    }
}
