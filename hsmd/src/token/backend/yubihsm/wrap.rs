//! Keys on their way to the other device: wrap keys, and what a carried key may be.
//!
//! A wrap key is put by an officer, with an authentication key that may ([`Officer`]). hsmd's own authentication key
//! exports and imports under it, and can neither make wrap keys nor decrypt with one: what a device wraps no caller can read
//! but another device's that has the wrap key.

use yubihsm::{
    Capability, Client, client,
    object::{Filter, Info, Label, Origin, Type},
    wrap::{Algorithm, Message},
};

use super::{Settings, fault::fault, key};
use crate::token::backend::{
    Fault, WrapKeyId, Wrapped,
    officer::{self, WRAP_KEY_LENGTH},
};

/// Marks a wrap key as ours, before its name in hexadecimal digits.
const LABEL: &str = "keelson-wrap ";

/// What a wrap key does.
const CARRIES: Capability = Capability::EXPORT_WRAPPED.union(Capability::IMPORT_WRAPPED);

/// What keys under it do.
const CARRIED: Capability = Capability::SIGN_ECDSA.union(Capability::EXPORTABLE_UNDER_WRAP);

/// What an authentication key must not be able to do, or its password alone would read keys: make a wrap key whose bytes
/// it knows, or give itself the right to; or decrypt as data what a wrap key encrypts (an object and data are encrypted
/// in the same way).
const READS_KEYS: Capability = Capability::PUT_WRAP_KEY
    .union(Capability::GENERATE_WRAP_KEY)
    .union(Capability::PUT_AUTHENTICATION_KEY)
    .union(Capability::CHANGE_AUTHENTICATION_KEY)
    .union(Capability::UNWRAP_DATA)
    .union(Capability::WRAP_DATA);

/// The wrap keys of ours: name, object id, and what the device says of each.
pub(super) fn find(client: &Client) -> Result<Vec<(WrapKeyId, u16, Info)>, client::Error> {
    let mut found = Vec::new();
    for entry in client.list_objects(&[Filter::Type(Type::WrapKey)])? {
        let info = client.get_object_info(entry.object_id, Type::WrapKey)?;
        let name = read(&info.label);
        found.extend(name.map(|name| (name, entry.object_id, info)));
    }
    Ok(found)
}

/// Demands that the session's authentication key cannot read what is carried. A device that does not say is refused.
pub(super) fn demand_confined(authentication_key: Option<&Info>, wrap_key: &Info) -> Result<(), Fault> {
    let Some(own) = authentication_key else {
        return Err(Fault::NotConfined("the device does not say what hsmd's authentication key may do"));
    };
    if own.capabilities.intersects(READS_KEYS) || own.delegated_capabilities.intersects(READS_KEYS) {
        return Err(Fault::NotConfined(
            "hsmd's authentication key may make wrap keys or decrypt with them (hsmd/YUBIHSM.md lists what it needs)",
        ));
    }
    if wrap_key.capabilities != CARRIES || wrap_key.delegated_capabilities != CARRIED {
        return Err(Fault::NotConfined(
            "the wrap key can do more than carry keys, or carries other than ours",
        ));
    }
    Ok(())
}

/// Demands that a key which came in is what one that is made here is.
pub(super) fn demand_carried(info: &Info, settings: &Settings) -> Result<(), Fault> {
    if info.origin != Origin::WrappedGenerated {
        return Err(Fault::Nonsense("a carried key that no device made itself"));
    }
    if info.capabilities != CARRIED || info.domains != settings.domain || info.label != super::label() {
        return Err(Fault::Nonsense(
            "a carried key with other capabilities or domains than it was made with",
        ));
    }
    Ok(())
}

/// Reads what another device wrapped.
pub(super) fn message(wrapped: &Wrapped) -> Result<Message, Fault> {
    Message::from_vec(wrapped.bytes().to_vec()).map_err(|_| Fault::Nonsense("a wrapped key that is none"))
}

/// The officer of a YubiHSM 2: a session of an authentication key that may put wrap keys.
pub struct Officer {
    client: Client,
    settings: Settings,
}

impl Officer {
    /// Opens the session.
    pub fn log_in(settings: Settings) -> Result<Self, Fault> {
        let connector = settings.link.connector(settings.serial);
        let client = Client::open(connector, settings.credentials.clone(), true)
            .map_err(|error| fault("open session", error))?;
        Ok(Self { client, settings })
    }
}

impl officer::Officer for Officer {
    fn wrap_keys(&mut self) -> Result<Vec<WrapKeyId>, Fault> {
        let found = find(&self.client).map_err(|error| fault("list wrap keys", error))?;
        Ok(found.into_iter().map(|(name, ..)| name).collect())
    }

    fn import(&mut self, bytes: &[u8; WRAP_KEY_LENGTH]) -> Result<WrapKeyId, Fault> {
        let name = WrapKeyId::of(bytes);
        let listed = self.client.list_objects(&[Filter::Type(Type::WrapKey)]);
        let listed = listed.map_err(|error| fault("list wrap keys", error))?;
        let taken = |id: &u16| listed.iter().any(|entry| entry.object_id == *id);
        let id = (1..u16::MAX).find(|id| !taken(id)).ok_or(Fault::Nonsense("a device full of wrap keys"))?;
        let put = self.client.put_wrap_key(
            id,
            label(name),
            self.settings.domain,
            CARRIES,
            CARRIED,
            Algorithm::Aes256Ccm,
            bytes.to_vec(),
        );
        put.map_err(|error| fault("put wrap key", error)).map(|_| name)
    }

    fn destroy(&mut self, name: WrapKeyId) -> Result<(), Fault> {
        let found = find(&self.client).map_err(|error| fault("list wrap keys", error))?;
        found.into_iter().filter(|(found, ..)| *found == name).try_for_each(|(_, id, _)| {
            key::deleted(self.client.delete_object(id, Type::WrapKey))
                .map_err(|error| fault("delete wrap key", error))
        })
    }
}

fn label(name: WrapKeyId) -> Label {
    Label::from_bytes(format!("{LABEL}{name}").as_bytes()).unwrap_or_default()
}

/// The name in a label; none if the wrap key is not ours.
fn read(label: &Label) -> Option<WrapKeyId> {
    let text = label.try_as_str().ok()?.trim_end_matches('\0').strip_prefix(LABEL)?;
    WrapKeyId::from_hex(text)
}
