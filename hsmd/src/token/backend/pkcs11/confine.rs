//! Whether a module confines keys that can be carried: tried with the user's PIN alone, on a key made for it.
//!
//! The key is a session object under a name of its own, used for nothing else and destroyed afterwards. Each attack is
//! one that yields the bytes of every key of the chain on a module which lets it pass; then nothing is mirrored on that
//! module.

mod rsa;

use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};

use super::{fault, objects, wrap};
use crate::token::backend::{Fault, Wrapped};

/// Demands that the wrap key carries keys, and that no attack yields more.
pub(super) fn demand(session: &Session, wrap_key: ObjectHandle) -> Result<(), Fault> {
    demand_wrap_key(session, wrap_key)?;
    let (private, public) = objects::generate(session, objects::Name::Trial, true)?;
    let mut made = vec![private, public];
    let outcome = Trial { session, wrap_key, key: private }.run(&mut made);
    for object in made {
        // A session object goes with its session.
        drop(session.destroy_object(object));
    }
    outcome
}

/// What a wrap key must say of itself.
fn demand_wrap_key(session: &Session, wrap_key: ObjectHandle) -> Result<(), Fault> {
    let wanted = [
        Attribute::Trusted(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Derive(false),
        Attribute::Modifiable(false),
        Attribute::Copyable(false),
    ];
    let types: Vec<_> = wanted.iter().map(Attribute::attribute_type).collect();
    let attributes = session.get_attributes(wrap_key, &types).map_err(fault)?;
    if wanted.iter().all(|wanted| attributes.contains(wanted)) {
        Ok(())
    } else {
        Err(Fault::NotConfined("the wrap key can do more than carry keys"))
    }
}

struct Trial<'a> {
    session: &'a Session,
    wrap_key: ObjectHandle,
    key: ObjectHandle,
}

impl Trial<'_> {
    fn run(&self, made: &mut Vec<ObjectHandle>) -> Result<(), Fault> {
        // First what must work: a module that refuses everything would pass every attack.
        let wrapped = wrap::wrap(self.session, self.key, self.wrap_key)?;
        let carried = wrap::unwrap(self.session, objects::Name::Trial, &wrapped, self.wrap_key)?;
        made.push(carried);
        objects::sign(self.session, carried, &[1; 32])?;
        self.own_wrap_key(made)?;
        self.own_rsa_key(made)?;
        self.lax_unwrapping(&wrapped, made)?;
        for key in [self.key, carried] {
            self.laxer_attributes(key, made)?;
        }
        self.wrap_key_for_data(made)
    }

    /// A wrap key of the user's own, whose bytes the user knows.
    fn own_wrap_key(&self, made: &mut Vec<ObjectHandle>) -> Result<(), Fault> {
        let own = |trusted: Option<bool>| {
            let mut own = vec![
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::AES),
                Attribute::Token(false),
                Attribute::Value(vec![1; 32]),
                Attribute::Wrap(true),
                Attribute::Unwrap(true),
            ];
            own.extend(trusted.map(Attribute::Trusted));
            own
        };
        if let Some(own) = self.own_key(own, made)? {
            let mechanisms = [Mechanism::AesKeyWrapPad, Mechanism::AesKeyWrap, Mechanism::AesCbcPad([0; 16])];
            self.wrap_under(own, &mechanisms, "a user's own wrap key wraps the chain's keys")?;
        }
        Ok(())
    }

    /// An RSA key whose private half the user has elsewhere.
    fn own_rsa_key(&self, made: &mut Vec<ObjectHandle>) -> Result<(), Fault> {
        if let Some(own) = self.own_key(rsa::public_key, made)? {
            self.wrap_under(own, &rsa::mechanisms(), "a user's own RSA key wraps the chain's keys")?;
        }
        Ok(())
    }

    /// Imports a wrap key of the user's own; none if the module refuses it. It must not become trusted.
    fn own_key(
        &self,
        template: impl Fn(Option<bool>) -> Vec<Attribute>,
        made: &mut Vec<ObjectHandle>,
    ) -> Result<Option<ObjectHandle>, Fault> {
        if let Some(trusted) = refused(self.session.create_object(&template(Some(true))))? {
            made.push(trusted);
            return Err(Fault::NotConfined("a user can make a trusted wrap key"));
        }
        let Some(own) = refused(self.session.create_object(&template(None)))? else { return Ok(None) };
        made.push(own);
        if refused(self.session.update_attributes(own, &[Attribute::Trusted(true)]))?.is_some() {
            return Err(Fault::NotConfined("a user can make a wrap key trusted"));
        }
        Ok(Some(own))
    }

    /// Wraps the key under a user's own.
    fn wrap_under(
        &self,
        own: ObjectHandle,
        mechanisms: &[Mechanism<'_>],
        because: &'static str,
    ) -> Result<(), Fault> {
        for mechanism in mechanisms {
            if refused(self.session.wrap_key(mechanism, own, self.key))?.is_some() {
                return Err(Fault::NotConfined(because));
            }
        }
        Ok(())
    }

    /// Unwrapping as something that can be read, wrapped under any key, or used as raw material.
    fn lax_unwrapping(&self, wrapped: &Wrapped, made: &mut Vec<ObjectHandle>) -> Result<(), Fault> {
        let private = |more: &[Attribute]| {
            let kind = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::KeyType(KeyType::EC)];
            [&kind[..], &[Attribute::Token(false), Attribute::Private(true)], more].concat()
        };
        let secret = |more: &[Attribute]| {
            let kind =
                [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::KeyType(KeyType::GENERIC_SECRET)];
            [&kind[..], &[Attribute::Token(false)], more].concat()
        };
        let forced = wrap::confined();
        let wanted: Vec<_> = forced.iter().map(Attribute::attribute_type).collect();
        for template in [
            private(&[]),
            private(&[Attribute::Sensitive(false), Attribute::Extractable(true)]),
            private(&[Attribute::Sensitive(false), Attribute::WrapWithTrusted(true)]),
            private(&[Attribute::Sensitive(true), Attribute::WrapWithTrusted(false)]),
            secret(&[Attribute::Sensitive(false), Attribute::Extractable(true)]),
            secret(&[Attribute::Sensitive(true), Attribute::WrapWithTrusted(true), Attribute::Derive(true)]),
        ] {
            let unwrapped =
                self.session.unwrap_key(&wrap::MECHANISM, self.wrap_key, wrapped.bytes(), &template);
            let Some(unwrapped) = refused(unwrapped)? else { continue };
            made.push(unwrapped);
            let kind = self.session.get_attributes(unwrapped, &[AttributeType::Class]).map_err(fault)?;
            let attributes = self.session.get_attributes(unwrapped, &wanted).map_err(fault)?;
            let confined = kind.contains(&Attribute::Class(ObjectClass::PRIVATE_KEY))
                && forced.iter().all(|forced| attributes.contains(forced));
            if !confined {
                return Err(Fault::NotConfined("a carried key can be unwrapped with laxer attributes"));
            }
        }
        Ok(())
    }

    /// Lowering the guard of a key that is there.
    fn laxer_attributes(&self, key: ObjectHandle, made: &mut Vec<ObjectHandle>) -> Result<(), Fault> {
        for lax in [Attribute::Sensitive(false), Attribute::WrapWithTrusted(false)] {
            if refused(self.session.update_attributes(key, std::slice::from_ref(&lax)))?.is_some() {
                return Err(Fault::NotConfined("a user can lower the guard of a key"));
            }
            if let Some(copy) = refused(self.session.copy_object(key, &[lax, Attribute::Token(false)]))? {
                made.push(copy);
                return Err(Fault::NotConfined("a user can copy a key with its guard lowered"));
            }
        }
        Ok(())
    }

    /// The wrap key as a key for data: what it wrapped would be decrypted.
    fn wrap_key_for_data(&self, made: &mut Vec<ObjectHandle>) -> Result<(), Fault> {
        let decrypts = [Attribute::Decrypt(true)];
        if refused(self.session.update_attributes(self.wrap_key, &decrypts))?.is_some() {
            return Err(Fault::NotConfined("a user can change the wrap key"));
        }
        let copied =
            self.session.copy_object(self.wrap_key, &[Attribute::Decrypt(true), Attribute::Token(false)]);
        if let Some(copy) = refused(copied)? {
            made.push(copy);
            return Err(Fault::NotConfined("a user can copy the wrap key and change the copy"));
        }
        for mechanism in [wrap::MECHANISM, Mechanism::AesKeyWrap] {
            if refused(self.session.wrap_key(&mechanism, self.wrap_key, self.wrap_key))?.is_some() {
                return Err(Fault::NotConfined("the wrap key can leave the token"));
            }
        }
        if refused(self.session.decrypt(&Mechanism::AesEcb, self.wrap_key, &[0; 16]))?.is_some() {
            return Err(Fault::NotConfined("the wrap key decrypts data"));
        }
        Ok(())
    }
}

/// What an attack yielded; nothing if the module refused it. A module that failed has refused nothing.
fn refused<T>(outcome: cryptoki::error::Result<T>) -> Result<Option<T>, Fault> {
    match outcome {
        Ok(yielded) => Ok(Some(yielded)),
        Err(error) => match fault(error) {
            Fault::Refused { .. } => Ok(None),
            failed => Err(failed),
        },
    }
}
