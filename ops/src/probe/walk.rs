//! The steps of a probe, in their order.

use keychain::device::Device;
use keychain::message::Operation;
use keychain::{Code, SigningKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::report::{Checks, Report};
use super::site::{Site, settled};
use super::visitor::{Said, Visitor};
use crate::door::Door;
use crate::failure::{Exit, Failure, OrFail};

/// A device that is unknown, revoked or of a deleted account: one and the same.
const GONE: [Code; 1] = [Code::UnknownDevice];
/// One account and its devices on their way through every operation.
pub(crate) struct Walk {
    pub(super) site: Site,
    pub(super) first: Visitor,
    pub(super) second: Visitor,
    third: Visitor,
    recovery: SigningKey,
}

#[derive(Serialize)]
struct AppRequest {
    foo: String,
    bar: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AppAnswer {
    was_foo: String,
    was_bar: u32,
    server_name: String,
}

impl Walk {
    pub(crate) fn new(site: Site) -> Result<Self, Failure> {
        let [first, second, third] = std::array::from_fn(|_| Visitor::new());
        Ok(Self { site, first, second, third, recovery: draw_key()? })
    }

    /// Every step; the first that fails ends the walk.
    pub(crate) async fn everything(&mut self, report: &mut Report) -> Result<(), Failure> {
        let with_admin = self.site.admin.is_some();
        report.step("create an account", self.create()).await?;
        report.step("link a second device", self.link()).await?;
        report.step("open a session on each device", self.sessions()).await?;
        for place in 0..self.site.apps.len() {
            report
                .step(format!("ask the app behind edge {}", self.app(place)?.0), self.access(place))
                .await?;
        }
        report.step("replay and forge an access request", self.forge()).await?;
        if with_admin {
            report.step("taint the HSM's key", self.taint_hsm()).await?;
            report.step("rotate the HSM's key", self.rotate_hsm()).await?;
        }
        report.step("refresh the session", self.refresh()).await?;
        if with_admin {
            report.step("taint the HSM's new key", self.taint_hsm()).await?;
        }
        report.step("rotate the devices' keys", self.rotate_devices()).await?;
        report.step("change the recovery key", self.change_recovery()).await?;
        report.step("unlink the second device", self.unlink()).await?;
        report.step("recover the account on a third device", self.recover()).await?;
        report.step("delete the account", self.delete()).await
    }

    /// Deletes the account with whichever device still may.
    pub(crate) async fn clean_up(&mut self, report: &mut Report) -> Result<(), Failure> {
        let site = &mut self.site;
        let devices = [&mut self.third, &mut self.first];
        let work = async {
            for visitor in devices {
                if visitor.device().identity().is_none() {
                    continue;
                }
                end_waiting(visitor, site).await?;
                let said = visitor.ask(site, Device::delete).await?;
                if matches!(said, Said::Yes(())) {
                    return Ok(vec!["the account is deleted".to_owned()]);
                }
            }
            Err(Failure::new(Exit::No, "no device is left that could delete the account"))
        };
        report.step("clean up", work).await
    }

    async fn create(&mut self) -> Result<Checks, Failure> {
        let commitment = self.recovery.public_key().digest();
        self.first
            .ask(&mut self.site, |device, entropy| device.create(&commitment, entropy))
            .await?
            .yes("the creation")?;
        let identity =
            self.first.device().identity().or_fail(Exit::Software, || "a device without an account")?;
        let generation = self.site.authd_generation_number().or_fail(Exit::Software, || "no generation")?;
        Ok(vec![
            format!("account {identity}"),
            format!("authd's key signed the answer; generation {generation} of the pinned chain endorsed it"),
        ])
    }

    async fn link(&mut self) -> Result<Checks, Failure> {
        let identity =
            self.first.device().identity().or_fail(Exit::Software, || "a device without an account")?;
        let container = self.second.make(|device, entropy| device.join(&identity, entropy))?;
        self.first
            .ask(&mut self.site, |device, entropy| device.link(&container, entropy))
            .await?
            .yes("the link")?;
        let linked = self.second.device().device().or_fail(Exit::Software, || "a device without an id")?;
        Ok(vec![format!("device {linked} made the container, the first device endorsed it")])
    }

    async fn sessions(&mut self) -> Result<Checks, Failure> {
        let mut checks = Checks::new();
        for (name, visitor) in [("first", &mut self.first), ("second", &mut self.second)] {
            visitor.open_session(&mut self.site).await?.yes("the session")?;
            let claims = visitor.device().claims().or_fail(Exit::Software, || "a session without a token")?;
            checks.push(format!(
                "{name} device: token until {}, refreshable until {}",
                claims.expiry, claims.refresh_expiry
            ));
        }
        Ok(checks)
    }

    async fn access(&mut self, place: usize) -> Result<Checks, Failure> {
        let (name, door) = self.app(place)?;
        let answer = ask_app(&self.first, &mut self.site, &name, &door).await?;
        Ok(vec![
            format!("it answers what was asked: {answer}"),
            format!("the answer is signed by edge:{name}'s endorsed key and repeats the request's nonce"),
        ])
    }

    async fn forge(&mut self) -> Result<Checks, Failure> {
        if self.site.apps.is_empty() {
            return Ok(vec!["no app to ask".to_owned()]);
        }
        let (_, door) = self.app(0)?;
        let request = self.first.access_request(&app_request(1)?)?.body;
        let forged = request.replace(r#""bar":1"#, r#""bar":2"#);
        let said = post_access(&door, &self.site.path, forged).await?;
        let altered = said.no("an altered request", &[Code::BadSignature])?;
        post_access(&door, &self.site.path, request.clone()).await?.yes("the request itself")?;
        let again = post_access(&door, &self.site.path, request).await?.no("a replay", &[Code::Replay])?;
        Ok(vec![
            format!("one digit altered: refused with {}, and its nonce is not spent", altered.as_str()),
            format!("sent twice: the second is refused with {}", again.as_str()),
        ])
    }

    async fn refresh(&mut self) -> Result<Checks, Failure> {
        let before = self.first.device().claims().or_fail(Exit::Software, || "a session without a token")?;
        self.first.ask(&mut self.site, Device::session_refresh).await?.yes("the refresh")?;
        let after = self.first.device().claims().or_fail(Exit::Software, || "a session without a token")?;
        if after.public_key.digest() != before.rotation_hash || after.refresh_expiry != before.refresh_expiry
        {
            return Err(Failure::new(Exit::No, "the new token does not continue the old one"));
        }
        let mut checks = vec![format!("new token until {}; the session's own end is kept", after.expiry)];
        checks.extend(self.all_apps().await?);
        Ok(checks)
    }

    async fn rotate_devices(&mut self) -> Result<Checks, Failure> {
        for visitor in [&mut self.first, &mut self.second] {
            visitor.ask(&mut self.site, Device::rotate).await?.yes("the rotation")?;
        }
        Ok(vec!["each device now signs with the key it had committed to".to_owned()])
    }

    async fn change_recovery(&mut self) -> Result<Checks, Failure> {
        let recovery = draw_key()?;
        let commitment = recovery.public_key().digest();
        self.first
            .ask(&mut self.site, |device, entropy| device.change_recovery(&commitment, entropy))
            .await?
            .yes("the change")?;
        self.recovery = recovery;
        Ok(vec![format!("the account now commits to {commitment}")])
    }

    async fn unlink(&mut self) -> Result<Checks, Failure> {
        let device = self.second.device().device().or_fail(Exit::Software, || "a device without an id")?;
        self.first
            .ask(&mut self.site, |first, entropy| first.unlink(&device, entropy))
            .await?
            .yes("the unlink")?;
        let said = self.second.ask(&mut self.site, Device::session_refresh).await?;
        let code = said.no("the unlinked device's refresh", &GONE)?;
        let mut checks = vec![format!("the unlinked device's refresh is refused with {}", code.as_str())];
        for place in 0..self.site.apps.len() {
            let (name, door) = self.app(place)?;
            let (site, second) = (&mut self.site, &self.second);
            let code = settled(async || {
                let request = second.access_request(&app_request(0)?)?.body;
                post_access(&door, &site.path, request)
                    .await?
                    .no("the unlinked device's token", &[Code::Revoked])
            })
            .await?;
            checks.push(format!("edge:{name} refuses its token with {}", code.as_str()));
        }
        Ok(checks)
    }

    async fn recover(&mut self) -> Result<Checks, Failure> {
        let identity =
            self.first.device().identity().or_fail(Exit::Software, || "a device without an account")?;
        let next = draw_key()?;
        let (recovery, commitment) = (&self.recovery, next.public_key().digest());
        self.third
            .ask(&mut self.site, |device, entropy| device.recover(&identity, recovery, &commitment, entropy))
            .await?
            .yes("the recovery")?;
        self.recovery = next;
        let old = self.first.open_session(&mut self.site).await?.no("the first device's session", &GONE)?;
        self.third.open_session(&mut self.site).await?.yes("the third device's session")?;
        std::mem::swap(&mut self.first, &mut self.third);
        let mut checks = vec![format!("the devices before are refused with {}", old.as_str())];
        checks.extend(self.all_apps().await?);
        Ok(checks)
    }

    async fn delete(&mut self) -> Result<Checks, Failure> {
        let identity =
            self.first.device().identity().or_fail(Exit::Software, || "a device without an account")?;
        self.first.ask(&mut self.site, Device::delete).await?.yes("the deletion")?;
        Ok(vec![format!("account {identity} is no more")])
    }

    /// Asks every app with the first device.
    pub(super) async fn all_apps(&mut self) -> Result<Checks, Failure> {
        let mut names = Vec::new();
        for place in 0..self.site.apps.len() {
            let (name, door) = self.app(place)?;
            let (site, first) = (&mut self.site, &self.first);
            settled(async || ask_app(first, site, &name, &door).await).await?;
            names.push(name);
        }
        Ok(vec![format!("all apps answer, signed: {}", names.join(", "))])
    }

    pub(super) fn app(&self, place: usize) -> Result<(String, Door), Failure> {
        self.site.apps.get(place).cloned().or_fail(Exit::Software, || "no such app")
    }
}

/// Makes a device free for another operation when the step that failed left it waiting for an answer.
async fn end_waiting(visitor: &mut Visitor, site: &mut Site) -> Result<(), Failure> {
    let rotation = match visitor.device().waits_for() {
        None => return Ok(()),
        Some(Operation::DeviceRotate) => Some(visitor.make(Device::retry)?),
        Some(_) => visitor.make(Device::abandon)?,
    };
    if let Some(rotation) = rotation {
        visitor.ask(site, |_, _| Ok(rotation)).await?.yes("a rotation")?;
    }
    Ok(())
}

/// Asks a sample app and checks that it answers what was asked.
async fn ask_app(visitor: &Visitor, site: &mut Site, name: &str, door: &Door) -> Result<String, Failure> {
    const BAR: u32 = 42;
    let answer = visitor.access(site, (name, door), &app_request(BAR)?).await?.yes("the access request")?;
    let read: AppAnswer = serde_json::from_str(&answer)
        .or_fail(Exit::No, || format!("edge:{name} answers something else: {answer}"))?;
    if read.was_bar != BAR || read.was_foo != FOO || read.server_name != name {
        return Err(Failure::new(Exit::No, format!("edge:{name} answers what was not asked: {answer}")));
    }
    Ok(answer)
}

const FOO: &str = "probe";

pub(super) fn app_request(bar: u32) -> Result<String, Failure> {
    serde_json::to_string(&AppRequest { foo: FOO.to_owned(), bar })
        .or_fail(Exit::Software, || "cannot write JSON")
}

/// Posts an access request as it is; the answer's signature is of no interest here.
pub(super) async fn post_access(door: &Door, path: &str, body: String) -> Result<Said<()>, Failure> {
    let answer = door.post(path, body).await?;
    Ok(if answer.is_ok() { Said::Yes(()) } else { Said::refusal(answer) })
}

pub(super) fn draw_key() -> Result<SigningKey, Failure> {
    let mut seed = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(seed.as_mut()).or_fail(Exit::Software, || "cannot draw random bytes")?;
    SigningKey::from_seed(&seed).or_fail(Exit::Temporary, || "one draw in 2^32 is no key: try again")
}
