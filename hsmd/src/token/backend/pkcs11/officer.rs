//! The security officer of a PKCS#11 token.

use std::path::PathBuf;

use cryptoki::{
    object::Attribute,
    session::{Session, UserType},
    types::AuthPin,
};
use zeroize::Zeroize as _;

use super::{close, fault, find_slot, module::Use, refuses_pin, wrap};
use crate::token::backend::{self, Cause, Fault, WrapKeyId, officer::WRAP_KEY_LENGTH};

/// Which token, and the officer's PIN.
#[derive(Debug)]
pub struct OfficerSettings {
    /// The module, a shared library.
    pub module: PathBuf,
    /// The label of the token; any if absent.
    pub token_label: Option<String>,
    /// The serial number of the token; any if absent.
    pub token_serial: Option<String>,
    /// The security officer's PIN.
    pub pin: AuthPin,
}

/// A session of the security officer; ended when dropped.
pub struct Officer {
    session: Option<Session>,
    module: Use,
}

impl Officer {
    /// Logs in, once.
    pub fn log_in(settings: &OfficerSettings) -> Result<Self, Fault> {
        let module = Use::of(&settings.module)?;
        let session = {
            let turn = module.lock();
            let context = turn.context()?;
            let named = [&settings.token_label, &settings.token_serial].map(Option::as_deref);
            let slot = find_slot(&turn, named)?.slot;
            context.open_rw_session_no_drop(slot).map_err(fault)?
        };
        let officer = Self { session: Some(session), module };
        let logged_in = officer.with(|session| Ok(session.login(UserType::So, Some(&settings.pin))))?;
        logged_in.map_err(|error| {
            if refuses_pin(&error) { Fault::Pin { source: Some(Cause::new(error)) } } else { fault(error) }
        })?;
        Ok(officer)
    }

    fn with<T>(&self, work: impl FnOnce(&Session) -> Result<T, Fault>) -> Result<T, Fault> {
        let _turn = self.module.lock();
        work(self.session.as_ref().ok_or(Fault::Stopped)?)
    }
}

impl backend::officer::Officer for Officer {
    fn wrap_keys(&mut self) -> Result<Vec<WrapKeyId>, Fault> {
        Ok(self.with(wrap::find)?.into_iter().map(|(id, _)| id).collect())
    }

    fn import(&mut self, key: &[u8; WRAP_KEY_LENGTH]) -> Result<WrapKeyId, Fault> {
        let id = WrapKeyId::of(key);
        let template = wrap::wrap_key(key, id);
        let made = self.with(|session| session.create_object(&template).map_err(fault));
        for attribute in template {
            if let Attribute::Value(mut key) = attribute {
                key.zeroize();
            }
        }
        made.map(|_| id)
    }

    fn destroy(&mut self, id: WrapKeyId) -> Result<(), Fault> {
        self.with(|session| {
            let found = wrap::find(session)?.into_iter().filter(|(found, _)| *found == id);
            found
                .map(|(_, handle)| handle)
                .try_for_each(|handle| session.destroy_object(handle).map_err(fault))
        })
    }
}

impl Drop for Officer {
    fn drop(&mut self) {
        let _turn = self.module.lock();
        // A token on which the officer stays logged in lets no user in.
        if let Some(session) = self.session.take() {
            if let Err(error) = session.logout() {
                tracing::warn!(%error, "cannot log the security officer out");
            }
            close(session);
        }
    }
}
