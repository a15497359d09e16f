//! An authority that `opsctl tls` made, and what it issues.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use tests::process::{command, run};
use tests::world::binary;

/// Everything that it issues lies in one folder: NAME.crt and NAME.key.
pub(super) struct Authority {
    folder: PathBuf,
    name: String,
}

impl Authority {
    pub(super) fn make(folder: &Path, name: &str) -> Self {
        opsctl(folder, &["init", "--dir", name]);
        Self { folder: folder.to_owned(), name: name.to_owned() }
    }

    /// A certificate for hsmd.
    pub(super) fn server(&self, name: &str) {
        self.issue("server", name, "IP:127.0.0.1", &[]);
    }

    /// A certificate for a service. Returns the row of hsmd's policy for it.
    pub(super) fn client(&self, name: &str, uri: &str) -> String {
        self.issue("client", name, &format!("URI:{uri}"), &[])
    }

    /// A new certificate for the key of the old one.
    pub(super) fn renew(&self, kind: &str, name: &str, san: &str) {
        let key = format!("{name}.key");
        let before = fs::read(self.folder.join(&key)).unwrap();
        self.issue(kind, name, san, &["--key", &key]);
        assert_eq!(fs::read(self.folder.join(&key)).unwrap(), before);
    }

    /// A certificate such as opsctl issues to nobody: one that has ended.
    pub(super) fn expired_client(&self, name: &str, uri: &str) {
        let read = |file: &str| fs::read_to_string(self.folder.join(&self.name).join(file)).unwrap();
        let key = KeyPair::from_pem(&read("ca.key")).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&read("ca.crt"), key).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        fs::write(self.folder.join(format!("{name}.crt")), certificate.pem()).unwrap();
        let path = self.folder.join(format!("{name}.key"));
        fs::write(&path, key.serialize_pem()).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn issue(&self, kind: &str, name: &str, san: &str, more: &[&str]) -> String {
        let line = ["issue", kind, "--dir", &self.name, "--san", san, "--out", name];
        opsctl(&self.folder, &[&line, more].concat())
    }
}

fn opsctl(folder: &Path, arguments: &[&str]) -> String {
    let mut program = command(binary("opsctl"));
    program.arg("tls").args(arguments).current_dir(folder);
    run(program)
}
