//! A folder in which `opsctl tls` is run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use keychain::Timestamp;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use tempfile::TempDir;
use x509_parser::pem::Pem;

use crate::args::{Arguments, Command, TlsVerb};
use crate::failure::{Exit, Failure};
use crate::talk::Talk;

/// A folder in which commands are run, at a time of its own.
pub(super) struct Desk {
    folder: TempDir,
    pub(super) now: Timestamp,
}

impl Desk {
    pub(super) fn new() -> Self {
        let now = Timestamp::parse("2027-03-04T05:06:07.890Z").unwrap();
        Self { folder: tempfile::tempdir().unwrap(), now }
    }

    pub(super) fn with_authority() -> Self {
        let desk = Self::new();
        desk.run("init --dir @ca").unwrap();
        desk
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `opsctl tls …` at its time; `@` begins a path in its folder.
    pub(super) fn run(&self, line: &str) -> Result<(), Failure> {
        self.run_at(self.now, line)
    }

    pub(super) fn run_at(&self, now: Timestamp, line: &str) -> Result<(), Failure> {
        let words = line.split(' ').map(|word| match word.strip_prefix('@') {
            Some(name) => self.path(name).display().to_string(),
            None => word.to_owned(),
        });
        let words = ["opsctl", "tls"].into_iter().map(str::to_owned).chain(words);
        match Arguments::try_parse_from(words).unwrap().command {
            Command::Tls { verb: TlsVerb::Init(options) } => crate::tls::init(&options, now, Talk::new(true)),
            Command::Tls { verb: TlsVerb::Issue(options) } => {
                crate::tls::issue(&options, now, Talk::new(true))
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn refused(&self, line: &str, exit: Exit, part: &str) {
        let failure = self.run(line).expect_err(line);
        assert_eq!(failure.exit(), exit, "{line}: {failure}");
        assert!(failure.to_string().contains(part), "`{part}` is not in: {failure}");
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(super) fn pem(&self, name: &str) -> Pem {
        let text = self.read(name);
        let mut all = Pem::iter_from_buffer(text.as_bytes());
        let only = all.next().unwrap().unwrap();
        assert!(all.next().is_none(), "{name}");
        only
    }

    pub(super) fn mode(&self, name: &str) -> u32 {
        self.path(name).metadata().unwrap().permissions().mode() & 0o7777
    }

    /// Everything that there is in a folder of it.
    pub(super) fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.path(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Whether clients take a certificate for a server's of this name, after so long.
    pub(super) fn serves(&self, name: &str, host: &str, after: Duration) -> bool {
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots(), provider()).build().unwrap();
        let own = CertificateDer::from(self.pem(name).contents);
        verifier
            .verify_server_cert(&own, &[], &host.to_owned().try_into().unwrap(), &[], self.after(after))
            .is_ok()
    }

    /// Whether hsmd takes a certificate for a client's, after so long.
    pub(super) fn asks(&self, name: &str, after: Duration) -> bool {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider()).build().unwrap();
        let own = CertificateDer::from(self.pem(name).contents);
        verifier.verify_client_cert(&own, &[], self.after(after)).is_ok()
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.pem("ca/ca.crt").contents)).unwrap();
        Arc::new(roots)
    }

    fn after(&self, after: Duration) -> UnixTime {
        let seconds = u64::try_from(self.now.plus(after).unix_millis() / 1000).unwrap();
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
