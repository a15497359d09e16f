//! The authority: a folder with a certificate and its key.

use std::path::{Path, PathBuf};
use std::time::Duration;

use keychain::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SerialNumber,
};
use time::OffsetDateTime;

use super::DAY;
use super::certificate::Certificate;
use super::key::{self, Key};
use super::name::{Kind, Name};
use crate::failure::{Exit, Failure, OrFail};

/// How long before it was made a certificate begins, for hosts whose clocks are behind.
const BACKDATED: Duration = Duration::from_mins(5);

/// Bytes of a serial number: more than anybody could guess or draw twice, and less than the 20 that there may be.
const SERIAL_LENGTH: usize = 16;

/// Where the files of an authority are.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// An authority that can issue.
pub(super) struct Authority {
    certificate: Certificate,
    key: Key,
}

/// A certificate that was signed: its text, and what it says.
pub(super) struct Signed {
    pub(super) pem: String,
    pub(super) certificate: Certificate,
}

/// From when to when a certificate holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validity {
    pub(super) begins: Timestamp,
    pub(super) ends: Timestamp,
}

impl Place {
    pub(super) fn of(dir: &Path) -> Self {
        Self { certificate: dir.join("ca.crt"), key: dir.join("ca.key") }
    }
}

impl Validity {
    /// In whole seconds, because certificates know no others.
    pub(super) fn from(now: Timestamp, length: Duration) -> Self {
        let now = Timestamp::from_unix_millis(now.unix_millis().div_euclid(1000).saturating_mul(1000));
        Self { begins: now.minus(BACKDATED), ends: now.plus(length) }
    }
}

impl Authority {
    /// Reads it, and checks that it is one and that it is on at `now`.
    pub(super) fn open(dir: &Path, now: Timestamp) -> Result<Self, Failure> {
        let place = Place::of(dir);
        let wrong = |because: String| Err(Failure::new(Exit::Data, because));
        if !super::files::exists(&place.certificate)? {
            let what = format!("there is no authority in `{}`: make one with opsctl tls init", dir.display());
            return Err(Failure::new(Exit::Io, what));
        }
        let (certificate, key) = (Certificate::read(&place.certificate)?, key::read(&place.key)?);
        let shown = place.certificate.display();
        if !certificate.signs {
            return wrong(format!("`{shown}` is not the certificate of an authority: give the --dir of one"));
        }
        if !certificate.is_of(&key) {
            return wrong(format!(
                "`{shown}` is not that of the key beside it: put both back from one backup"
            ));
        }
        if now < certificate.begins {
            return wrong(format!("the authority begins at {}: set this clock right", certificate.begins));
        }
        if certificate.ends <= now {
            return wrong(format!("the authority ended at {}: {SUCCEED}", certificate.ends));
        }
        Ok(Self { certificate, key })
    }

    /// From when to when a certificate holds that is made at `now` and good for `length`. One that would outlive
    /// its authority is refused, not shortened: whoever renews by a timer hears of it while the certificates in
    /// use are still good, and none ends on a day that nobody chose.
    pub(super) fn validity(&self, now: Timestamp, length: Duration) -> Result<Validity, Failure> {
        let wanted = Validity::from(now, length);
        let ends = self.certificate.ends;
        if wanted.ends > ends {
            let days = length.saturating_sub(wanted.ends.since(ends)).as_secs() / DAY.as_secs();
            let why = format!(
                "the authority ends at {ends}, before the certificate would: {SUCCEED}; this one can issue for \
                 --days {days} at most"
            );
            return Err(Failure::new(Exit::Data, why));
        }
        Ok(Validity { begins: wanted.begins.max(self.certificate.begins), ..wanted })
    }

    pub(super) fn ends(&self) -> Timestamp {
        self.certificate.ends
    }

    /// Issues a certificate for a key.
    pub(super) fn issue(
        &self,
        kind: Kind,
        names: &[Name],
        validity: Validity,
        key: &KeyPair,
    ) -> Result<Signed, Failure> {
        if self.certificate.is_of(key) {
            return Err(Failure::new(Exit::Usage, "that is the authority's own key: give the certificate's"));
        }
        let mut params = params(validity)?;
        // No subject: nothing but the names counts.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names.iter().map(Name::san).collect::<Result<_, _>>()?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match kind {
            Kind::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Kind::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_der(&self.certificate.der.as_slice().into(), &*self.key)
            .or_fail(Exit::Data, || "the authority's certificate cannot be used")?;
        read_back(params.signed_by(key, &issuer))
    }
}

/// The certificate of a new authority, signed by its own key. It issues certificates, but no other authorities.
pub(super) fn certify(key: &KeyPair, name: &str, validity: Validity) -> Result<Signed, Failure> {
    let mut params = params(validity)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    read_back(params.self_signed(key))
}

/// How an authority that comes to its end is followed by another.
const SUCCEED: &str = "make the next one with opsctl tls init in another --dir, and have both certificates in \
                       each file of authorities until everything has a new one";

/// What all certificates have in common.
fn params(validity: Validity) -> Result<CertificateParams, Failure> {
    let time = |at: Timestamp| {
        OffsetDateTime::from_unix_timestamp(at.unix_millis().div_euclid(1000))
            .or_fail(Exit::Software, || format!("{at} does not fit into a certificate"))
    };
    let mut params = CertificateParams::default();
    params.not_before = time(validity.begins)?;
    params.not_after = time(validity.ends)?;
    params.serial_number = Some(serial()?);
    Ok(params)
}

/// A random number, so that a renewal differs from what it follows. Its first bits make it positive, and as long
/// as all others.
fn serial() -> Result<SerialNumber, Failure> {
    let mut bytes = [0; SERIAL_LENGTH];
    aws_lc_rs::rand::fill(&mut bytes).or_fail(Exit::Software, || "cannot draw random bytes")?;
    if let Some(first) = bytes.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

fn read_back(signed: Result<rcgen::Certificate, rcgen::Error>) -> Result<Signed, Failure> {
    let signed = signed.or_fail(Exit::Software, || "cannot sign the certificate")?;
    let certificate = Certificate::parse(signed.der().to_vec())
        .or_fail(Exit::Software, || "what was signed does not read")?;
    Ok(Signed { pem: signed.pem(), certificate })
}
