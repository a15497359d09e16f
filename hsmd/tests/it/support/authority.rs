//! A private certificate authority, and what it issues.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber, date_time_ymd,
};

/// An authority.
pub struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        Self::named("test authority")
    }

    /// One of this name, which says nothing of its key.
    pub fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = common_name(name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    /// Its own certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A server's certificate for 127.0.0.1.
    pub fn server(&self) -> Issued {
        let address = SanType::IpAddress("127.0.0.1".parse().unwrap());
        self.issue(1, vec![address], ExtendedKeyUsagePurpose::ServerAuth, |_| ())
    }

    /// A client's certificate with names as a policy writes them.
    pub fn client(&self, names: &[&str]) -> Issued {
        self.client_with(7, names, |_| ())
    }

    /// The same with another serial number, and anything changed.
    pub fn client_with(
        &self,
        serial: u8,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let names = names.iter().map(|name| match name.split_once(':').unwrap() {
            ("URI", uri) => SanType::URI(uri.try_into().unwrap()),
            ("DNS", dns) => SanType::DnsName(dns.try_into().unwrap()),
            _ => panic!("{name}"),
        });
        self.issue(serial, names.collect(), ExtendedKeyUsagePurpose::ClientAuth, change)
    }

    /// A revocation list.
    pub fn revoke(&self, serials: &[u8]) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(vec![*serial]),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2120, 1, 1),
            crl_number: SerialNumber::from(vec![1]),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&Issuer::from_params(&self.params, &self.key)).unwrap().pem().unwrap()
    }

    fn issue(
        &self,
        serial: u8,
        names: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name("keelson:edge:far");
        params.subject_alt_names = names;
        params.extended_key_usages = vec![usage];
        params.serial_number = Some(SerialNumber::from(vec![serial]));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap();
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// A name that counts for nothing.
fn common_name(name: &str) -> DistinguishedName {
    let mut all = DistinguishedName::new();
    all.push(DnType::CommonName, name);
    all
}
