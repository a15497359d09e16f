//! What there is to know of a certificate that was read.

use std::fmt::Write as _;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use keychain::Timestamp;
use rcgen::{KeyPair, PublicKeyData};
use x509_parser::certificate::X509Certificate;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

use super::files;
use crate::failure::{Exit, Failure, OrFail};

/// Longest certificate file: one of ours has less than 1 KiB of PEM, one of sixteen long names some 12.
const CERTIFICATE_MAX: usize = 64 * 1024;

/// A certificate, and what it says.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) der: Vec<u8>,
    pub(super) begins: Timestamp,
    pub(super) ends: Timestamp,
    pub(super) serial: String,
    /// Whether it may sign other certificates.
    pub(super) signs: bool,
    /// The public key with its algorithm, DER.
    public_key: Vec<u8>,
}

impl Certificate {
    /// The one certificate in a file.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text = files::read(path, CERTIFICATE_MAX)
            .or_fail(Exit::Io, || format!("cannot read the certificate `{}`", path.display()))?;
        let unusable =
            || format!("`{}` does not hold one certificate as PEM, and nothing else", path.display());
        let mut all = Pem::iter_from_buffer(&text);
        let (Some(Ok(only)), None) = (all.next(), all.next()) else {
            return Err(Failure::new(Exit::Data, unusable()));
        };
        if only.label != "CERTIFICATE" {
            return Err(Failure::new(Exit::Data, unusable()));
        }
        Self::parse(only.contents).or_fail(Exit::Data, unusable)
    }

    /// One in DER.
    pub(super) fn parse(der: Vec<u8>) -> Result<Self, &'static str> {
        let (rest, parsed) = X509Certificate::from_der(&der).map_err(|_| "it is no X.509 certificate")?;
        if !rest.is_empty() {
            return Err("something follows the certificate");
        }
        let time = |seconds: i64| Timestamp::from_unix_millis(seconds.saturating_mul(1000));
        Ok(Self {
            begins: time(parsed.validity().not_before.timestamp()),
            ends: time(parsed.validity().not_after.timestamp()),
            serial: hexadecimal(parsed.raw_serial()),
            signs: signs(&parsed)?,
            public_key: parsed.public_key().raw.to_vec(),
            der,
        })
    }

    /// Whether it is this key's.
    pub(super) fn is_of(&self, key: &KeyPair) -> bool {
        self.public_key == key.subject_public_key_info()
    }

    /// By what a person compares it with a copy.
    pub(super) fn sha256(&self) -> String {
        hexadecimal(digest(&SHA256, &self.der).as_ref())
    }
}

fn signs(parsed: &X509Certificate<'_>) -> Result<bool, &'static str> {
    let constraints = parsed.basic_constraints().map_err(|_| "it has two basicConstraints")?;
    let usage = parsed.key_usage().map_err(|_| "it has two keyUsages")?;
    let authority = constraints.is_some_and(|constraints| constraints.value.ca);
    Ok(authority && usage.is_none_or(|usage| usage.value.key_cert_sign()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // A String takes everything that is written to it.
        let _written: std::fmt::Result = write!(text, "{byte:02x}");
        text
    })
}
