//! Attestation: the device's certificate about a key of its own.
//!
//! What is read and checked here is what hsmd can judge: whose public key it is, that the device made the
//! key, and whether it can leave the device. Whether a genuine device signed it is for a verifier that holds Yubico's
//! root certificate: verifying that needs no secret, and hsmd keeps the certificate for it.

use keychain::PublicKey;
use x509_parser::{
    der_parser::{
        asn1_rs::{BitString, FromDer as _, Integer},
        oid::Oid,
    },
    prelude::X509Certificate,
};
use yubihsm::device::SerialNumber;

use crate::token::backend::Fault;

/// Where Yubico's extensions begin: 1.3.6.1.4.1.41482.4, then 1 firmware, 2 serial number, 3 origin, 4 domains,
/// 5 capabilities, 6 object id, 9 label.
const YUBIHSM: [u64; 8] = [1, 3, 6, 1, 4, 1, 41482, 4];

const SERIAL: u64 = 2;
const ORIGIN: u64 = 3;
const CAPABILITIES: u64 = 5;

/// The bit of a key that the device made.
const GENERATED: u64 = 0x01;
/// The bit of a key that came in under a wrap key, whatever it was before.
const IMPORTED_WRAPPED: u64 = 0x10;
/// The bit of a key that can be exported under a wrap key.
const EXPORTABLE_UNDER_WRAP: u64 = 1 << 16;

/// Longest certificate: a device's are under 1 KiB.
const LENGTH_MAX: usize = 4096;

/// What a certificate says about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// The key.
    pub public_key: PublicKey,
    serial: u64,
    origin: u64,
    capabilities: u64,
}

impl Attestation {
    /// Reads a certificate, DER.
    pub fn parse(der: &[u8]) -> Result<Self, Fault> {
        let bad = |_| Fault::Nonsense("an attestation that is no certificate");
        if der.len() > LENGTH_MAX {
            return Err(Fault::Nonsense("an attestation of more than 4 KiB"));
        }
        let (rest, certificate) = X509Certificate::from_der(der).map_err(bad)?;
        if !rest.is_empty() {
            return Err(Fault::Nonsense("an attestation with something behind it"));
        }
        let key = &certificate.public_key().subject_public_key.data;
        let public_key = PublicKey::from_sec1(key)
            .map_err(|_| Fault::Nonsense("an attestation of a key that is not on P-256"))?;
        let serial = Integer::from_der(value(&certificate, SERIAL)?).map_err(|_| MISSING)?;
        let serial = serial.1.as_u64().map_err(|_| MISSING)?;
        let origin = bits(&certificate, ORIGIN)?;
        let capabilities = bits(&certificate, CAPABILITIES)?;
        Ok(Self { public_key, serial, origin, capabilities })
    }

    /// The serial number of the device; none if it is of more than ten digits.
    pub fn serial(&self) -> Option<SerialNumber> {
        format!("{:010}", self.serial).parse().ok()
    }

    /// Demands that the certificate is about `public_key`, that the device of that serial number made the key, and that
    /// it cannot leave the device unless it was made so that it can be backed up.
    pub fn demand(
        &self,
        public_key: &PublicKey,
        exportable: bool,
        serial: Option<SerialNumber>,
    ) -> Result<(), Fault> {
        if self.public_key != *public_key {
            return Err(Fault::Nonsense("an attestation of another key"));
        }
        if serial.is_some_and(|wanted| wanted.to_string() != format!("{:010}", self.serial)) {
            return Err(Fault::Nonsense("an attestation by a device of another serial number"));
        }
        if self.origin & GENERATED == 0 {
            return Err(Fault::Nonsense("an attestation that the key was not made in the device"));
        }
        let can_leave = self.capabilities & EXPORTABLE_UNDER_WRAP != 0 || self.origin & IMPORTED_WRAPPED != 0;
        if can_leave && !exportable {
            return Err(Fault::Nonsense("an attestation that the key can leave the device"));
        }
        Ok(())
    }
}

const MISSING: Fault =
    Fault::Nonsense("an attestation without the device's word on serial number, origin or capabilities");

/// What one of Yubico's extensions holds.
fn value<'a>(certificate: &'a X509Certificate<'_>, extension: u64) -> Result<&'a [u8], Fault> {
    let wanted =
        |id: &Oid<'_>| id.iter().is_some_and(|numbers| numbers.eq(YUBIHSM.into_iter().chain([extension])));
    let mut found = certificate.extensions().iter().filter(|candidate| wanted(&candidate.oid));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.value),
        _ => Err(MISSING),
    }
}

/// The bits that one of Yubico's extensions spells: a BIT STRING whose last byte holds the lowest.
fn bits(certificate: &X509Certificate<'_>, extension: u64) -> Result<u64, Fault> {
    let (rest, string) = BitString::from_der(value(certificate, extension)?).map_err(|_| MISSING)?;
    if !rest.is_empty() || string.unused_bits != 0 || string.data.len() > 8 {
        return Err(MISSING);
    }
    Ok(string.data.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte)))
}
