//! A service of another host: its key is endorsed through mutual TLS, under the name that hsmd's policy has
//! for its certificate, and otherwise not at all.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use edge::endorser::{Endorser, Error, Tls};
use keychain::SigningKey;
use keychain::endorsement::{Endorsement, Purpose, SignRequest};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use tests::craft::now;
use tests::http::Http;
use tests::process::{Process, command};
use tests::token::{MODULE, Token};
use tests::until;
use tests::world::binary;

const START_DEADLINE: Duration = Duration::from_secs(30);

struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        Self { params, key: KeyPair::generate().unwrap() }
    }

    fn write(&self, path: &Path) {
        fs::write(path, self.params.self_signed(&self.key).unwrap().pem()).unwrap();
    }

    /// Writes a certificate and its key as NAME.crt and NAME.key.
    fn issue(&self, folder: &Path, name: &str, san: SanType, usage: ExtendedKeyUsagePurpose, expired: bool) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![san];
        params.extended_key_usages = vec![usage];
        if expired {
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap();
        fs::write(folder.join(format!("{name}.crt")), certificate.pem()).unwrap();
        let path = folder.join(format!("{name}.key"));
        fs::write(&path, key.serialize_pem()).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn client(&self, folder: &Path, name: &str, uri: &str, expired: bool) {
        let uri = SanType::URI(uri.try_into().unwrap());
        self.issue(folder, name, uri, ExtendedKeyUsagePurpose::ClientAuth, expired);
    }
}

/// An hsmd on a token of its own that inherits a TCP socket, and the folder of all certificates.
struct Host {
    folder: TempDir,
    authority: Authority,
    url: String,
    _token: Token,
    _hsmd: Process,
}

impl Host {
    async fn start() -> Self {
        let (folder, token, authority) = (tempfile::tempdir().unwrap(), Token::make(), Authority::new());
        let path = folder.path();
        authority.write(&path.join("ca.crt"));
        let address = SanType::IpAddress("127.0.0.1".parse().unwrap());
        authority.issue(path, "hsmd", address, ExtendedKeyUsagePurpose::ServerAuth, false);
        write_configuration(path);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let hsmd = launch(path, &token, listener);
        let admin = Http::to_socket(&path.join("admin.sock"));
        until("hsmd to be up", START_DEADLINE, || async {
            admin.try_get("/health").await.ok().filter(|answer| answer.status == 200)
        })
        .await;
        Self { folder, authority, url, _token: token, _hsmd: hsmd }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A service with the certificate NAME that trusts the authority in the file `ca`.
    fn service(&self, name: &str, ca: &str) -> Endorser {
        let tls = Tls {
            ca: self.file(ca),
            certificate: self.file(&format!("{name}.crt")),
            key: self.file(&format!("{name}.key")).display().to_string(),
        };
        Endorser::new(&self.url, Some(&tls)).unwrap()
    }
}

fn write_configuration(folder: &Path) {
    let pin = folder.join("pin");
    fs::write(&pin, Token::PIN).unwrap();
    fs::set_permissions(&pin, fs::Permissions::from_mode(0o600)).unwrap();
    let (here, label) = (folder.display(), Token::LABEL);
    let text = format!(
        "ledger = \"sqlite://{here}/ledger.db\"\npolicy = \"{here}/policy.toml\"\nmetrics = \"unix:{here}/m.sock\"\n\
         [hsm]\nmodule = \"{MODULE}\"\ntoken_label = \"{label}\"\npin = \"{here}/pin\"\n\
         [[listen]]\naddress = \"unix:{here}/admin.sock\"\nrole = \"admin\"\n\
         [[listen]]\naddress = \"fd:remote\"\nrole = \"endorse\"\n[listen.tls]\ncertificate = \"{here}/hsmd.crt\"\n\
         key = \"{here}/hsmd.key\"\nclient_ca = \"{here}/ca.crt\"\n"
    );
    fs::write(folder.join("hsmd.toml"), text).unwrap();
    let row = |san, service, purposes| {
        format!(
            "[[allow]]\nsan = \"URI:{san}\"\noperations = [\"endorse\"]\nservice = \"{service}\"\npurposes = {purposes}\n"
        )
    };
    let rows = [
        row("keelson:edge:far", "edge:far", "[\"response\"]"),
        row("keelson:authd", "authd", "[\"access\", \"response\"]"),
    ];
    fs::write(folder.join("policy.toml"), rows.concat()).unwrap();
}

/// As systemd passes a socket: by number 3, under a name, to the process of that id.
fn launch(folder: &Path, token: &Token, listener: TcpListener) -> Process {
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$; export LISTEN_PID; exec \"$@\"";
    let mut program = command("sh");
    program.args(["-c", script, "sh"]).arg(binary("hsmd")).arg("--config").arg(folder.join("hsmd.toml"));
    program.env("SOFTHSM2_CONF", token.configuration());
    program.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "remote");
    Process::start_with("hsmd", program, folder, Stdio::from(OwnedFd::from(listener)))
}

async fn ask(service: &Endorser, purpose: Purpose) -> Result<Endorsement, Error> {
    let public_key = SigningKey::from_seed(&[7; 32]).unwrap().public_key();
    let expiration = now().plus(Duration::from_hours(1));
    let answer = service.endorse(&SignRequest { purpose, public_key, expiration }).await?;
    Ok(Endorsement::parse(&answer).unwrap())
}

#[tokio::test]
async fn a_service_of_another_host_is_endorsed_under_the_name_of_its_certificate() {
    let host = Host::start().await;
    let (folder, other) = (host.folder.path(), Authority::new());
    other.write(&folder.join("other-ca.crt"));
    host.authority.client(folder, "far", "keelson:edge:far", false);
    host.authority.client(folder, "authd", "keelson:authd", false);
    host.authority.client(folder, "stranger", "keelson:edge:stranger", false);
    host.authority.client(folder, "expired", "keelson:edge:far", true);
    other.client(folder, "foreign", "keelson:edge:far", false);

    for (name, purpose, service) in [
        ("far", Purpose::Response, "edge:far"),
        ("authd", Purpose::Response, "authd"),
        ("authd", Purpose::Access, "authd"),
    ] {
        let endorsement = ask(&host.service(name, "ca.crt"), purpose).await.unwrap();
        assert_eq!(endorsement.service.as_deref(), Some(service), "{name}");
    }
    // Known to the authority, but not to the policy, or not for this.
    for (name, purpose) in [("stranger", Purpose::Response), ("far", Purpose::Access)] {
        let refused = ask(&host.service(name, "ca.crt"), purpose).await.unwrap_err();
        assert!(
            matches!(&refused, Error::Refused { status: 403, body, .. } if body.contains("BA303")),
            "{name}: {refused:?}"
        );
    }
    // No handshake, no answer; nor does a service speak to an hsmd that another authority vouches for.
    for (name, ca) in [("foreign", "ca.crt"), ("expired", "ca.crt"), ("far", "other-ca.crt")] {
        let refused = ask(&host.service(name, ca), Purpose::Response).await.unwrap_err();
        assert!(matches!(refused, Error::Silent { .. }), "{name}: {refused:?}");
    }
    // A renewed certificate takes no restart of the service.
    let service = host.service("expired", "ca.crt");
    host.authority.client(folder, "expired", "keelson:edge:far", false);
    ask(&service, Purpose::Response).await.unwrap();
    // A key that others can read is not used.
    fs::set_permissions(host.file("far.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let refused = ask(&host.service("far", "ca.crt"), Purpose::Response).await.unwrap_err();
    assert!(matches!(refused, Error::Tls(_)) && refused.to_string().contains("far.key"), "{refused}");
}
