//! Backups: the chain's keys, each encrypted by the device under a wrap key that another device has too.
//!
//! hsmd's own authentication key can neither export nor import. Whoever backs up uses another one, beside
//! hsmd, and hsmd never learns its password.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keychain::{PublicKey, chain::SignedEvent};
use serde::{Deserialize, Serialize};
use yubihsm::{Client, object::Type, wrap::Message};

use super::{
    fault::{Cause, cause, fault},
    key,
};
use crate::token::backend::{Fault, KeyId, KeyIds};

/// The one version of the form.
const VERSION: u32 = 1;

/// Longest backup that is read, in bytes: a wrapped key takes some 300.
pub const LENGTH_MAX: usize = 64 * 1024;

/// Keys of a chain, encrypted under a wrap key.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backup {
    version: u32,
    wrap_key: u16,
    keys: Vec<Exported>,
}

/// One key.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Exported {
    id: u16,
    public_key: String,
    /// Nonce and ciphertext as the device made them, in base64.
    wrapped: String,
}

/// Why a backup is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device failed or declined.
    #[error("the device failed")]
    Device(#[from] Fault),
    /// The device has no key to back up.
    #[error("the device shows no key of a chain; check the domain of the authentication key")]
    Empty,
    /// What was read is no backup.
    #[error("this is no backup of a YubiHSM's keys: {0}")]
    Malformed(&'static str),
    /// The backup lacks a key that the chain needs.
    #[error("the backup lacks the {0} key of the chain's newest generation: it is too old, make another")]
    Missing(&'static str),
    /// Another key has the id, or what was imported is another key.
    #[error("the device has another key under id {0:04x}; give the spare device nothing but this backup")]
    Other(u16),
}

impl Backup {
    /// Exports every key of ours under `wrap_key`.
    pub fn export(client: &Client, wrap_key: u16) -> Result<Self, Error> {
        let mut keys = Vec::new();
        let listed = key::list(client).map_err(|error| fault("list objects", error))?;
        for id in listed.into_iter().filter_map(id_of) {
            let Some(public_key) = public(client, id)? else { continue };
            let message = client
                .export_wrapped(wrap_key, Type::AsymmetricKey, id.number())
                .map_err(|error| fault("export wrapped", error))?;
            let wrapped = STANDARD.encode(message.into_vec());
            keys.push(Exported { id: id.number(), public_key: public_key.to_string(), wrapped });
        }
        if keys.is_empty() { Err(Error::Empty) } else { Ok(Self { version: VERSION, wrap_key, keys }) }
    }

    /// Reads a backup's text.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let backup: Self = serde_json::from_slice(text).map_err(|_| Error::Malformed("not of its form"))?;
        if backup.version != VERSION {
            return Err(Error::Malformed("of a version that this program does not know"));
        }
        backup.messages().map(|_| backup)
    }

    /// The text of the backup.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(self).map_err(|_| Error::Malformed("it cannot be written"))
    }

    /// The ids and keys in it.
    pub fn keys(&self) -> BTreeMap<u16, &str> {
        self.keys.iter().map(|key| (key.id, key.public_key.as_str())).collect()
    }

    /// Demands the keys that a chain needs to go on: the one that signs, and the next. `newest` is the newest
    /// event of a chain that was verified.
    pub fn demand(&self, newest: &SignedEvent) -> Result<(), Error> {
        let keys: Vec<_> = self.messages()?.into_iter().map(|(_, key, _)| key).collect();
        let event = newest.event();
        if !keys.contains(&event.public_key) {
            return Err(Error::Missing("signing"));
        }
        if !keys.iter().any(|key| key.digest() == event.rotation_hash) {
            return Err(Error::Missing("next"));
        }
        Ok(())
    }

    /// Imports every key, and sees that each is the one that was exported. Keys that are there already stay.
    /// Answers how many were imported.
    pub fn import(&self, client: &Client) -> Result<usize, Error> {
        let mut imported = 0_usize;
        for (id, public_key, message) in self.messages()? {
            match public(client, id)? {
                Some(there) if there == public_key => continue,
                Some(_) => return Err(Error::Other(id.number())),
                None => {}
            }
            client.import_wrapped(self.wrap_key, message).map_err(|error| fault("import wrapped", error))?;
            if public(client, id)? != Some(public_key) {
                return Err(Error::Other(id.number()));
            }
            imported = imported.saturating_add(1);
        }
        Ok(imported)
    }

    fn messages(&self) -> Result<Vec<(KeyId, PublicKey, Message)>, Error> {
        let read = |key: &Exported| {
            let id = id_of(key.id)?;
            let public_key = PublicKey::parse(&key.public_key).ok()?;
            let message = Message::from_vec(STANDARD.decode(&key.wrapped).ok()?).ok()?;
            Some((id, public_key, message))
        };
        let messages = self.keys.iter().map(read).collect::<Option<Vec<_>>>();
        messages.ok_or(Error::Malformed("a key in it is none"))
    }
}

fn id_of(number: u16) -> Option<KeyId> {
    KeyIds::default().read(&number.to_be_bytes())
}

/// The public key under an id; none if there is none.
fn public(client: &Client, id: KeyId) -> Result<Option<PublicKey>, Error> {
    match key::public(client, id) {
        Err(error) if cause(&error) == Cause::Absent => Ok(None),
        answer => Ok(answer.map_err(|error| fault("get public key", error))?),
    }
}
