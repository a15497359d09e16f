//! A certificate authority, and the certificates of a test's servers.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// An authority that clients of a test trust.
pub struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    /// Its own certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Issues a new certificate for 127.0.0.1, and puts it and its key into `tls.crt` and `tls.key` of `folder`, each in
    /// one step. Returns the certificate.
    pub fn issue(&self, folder: &Path) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap();
        for (name, text) in [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem())] {
            let (new, path) = (folder.join("new"), folder.join(name));
            std::fs::write(&new, text).unwrap();
            std::fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
            std::fs::rename(new, path).unwrap();
        }
        certificate.der().to_vec()
    }

    /// The lines of a configuration that name those files.
    pub fn lines(folder: &Path) -> String {
        let folder = folder.display();
        format!("tls = {{ certificate = \"{folder}/tls.crt\", key = \"{folder}/tls.key\" }}\n")
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
