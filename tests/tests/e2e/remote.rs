//! A service of another host: its key is endorsed through mutual TLS, under the name that hsmd's policy has
//! for its certificate, and otherwise not at all.

mod authority;

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
use rustix::process::Signal;
use tempfile::TempDir;
use tests::craft::now;
use tests::http::Http;
use tests::process::{Process, command};
use tests::token::{MODULE, Token};
use tests::until;
use tests::world::binary;

use authority::Authority;

const START_DEADLINE: Duration = Duration::from_secs(30);

/// An hsmd on a token of its own that inherits a TCP socket, and the folder of all certificates.
struct Host {
    folder: TempDir,
    authority: Authority,
    url: String,
    hsmd: Process,
    _token: Token,
}

impl Host {
    async fn start() -> Self {
        let (folder, token) = (tempfile::tempdir().unwrap(), Token::make());
        let path = folder.path();
        let authority = Authority::make(path, "ca");
        authority.server("hsmd");
        let rows = [authority.client("far", "keelson:edge:far"), authority.client("authd", "keelson:authd")];
        // Without an operator a policy is nobody's, and refused.
        let operator = "[[allow]]\nuser = \"root\"\noperations = [\"rotate\", \"taint\"]\n";
        fs::write(path.join("policy.toml"), format!("{}{operator}", rows.concat())).unwrap();
        write_configuration(path);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let hsmd = launch(path, &token, listener);
        let admin = Http::to_socket(&path.join("admin.sock"));
        until("hsmd to be up", START_DEADLINE, || async {
            admin.try_get("/health").await.ok().filter(|answer| answer.status == 200)
        })
        .await;
        Self { folder, authority, url, hsmd, _token: token }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A service with the certificate NAME that trusts the authority in the folder `ca`.
    fn service(&self, name: &str, ca: &str) -> Endorser {
        let tls = Tls {
            ca: self.file(ca).join("ca.crt"),
            certificate: self.file(&format!("{name}.crt")),
            key: self.file(&format!("{name}.key")).display().to_string(),
        };
        Endorser::new(&self.url, Some(&tls)).unwrap()
    }

    /// A client that keeps its connection open.
    fn connection(&self, name: &str) -> reqwest::Client {
        let read = |name: &str| fs::read(self.file(name)).unwrap();
        let both = [read(&format!("{name}.crt")), read(&format!("{name}.key"))].concat();
        reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&read("ca/ca.crt")).unwrap()])
            .identity(reqwest::Identity::from_pem(&both).unwrap())
            .tls_info(true)
            .build()
            .unwrap()
    }

    /// Has a key endorsed through a connection. Returns the certificate that hsmd presented when it was opened.
    async fn presented(&self, connection: &reqwest::Client) -> Vec<u8> {
        let url = format!("{}/sign", self.url);
        let answer = connection.post(url).body(request(Purpose::Response).to_json()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let tls = answer.extensions().get::<reqwest::tls::TlsInfo>().unwrap();
        let certificate = tls.peer_certificate().unwrap().to_vec();
        // A connection is used again once its answer was read.
        answer.bytes().await.unwrap();
        certificate
    }
}

fn write_configuration(folder: &Path) {
    let pin = folder.join("pin");
    fs::write(&pin, Token::PIN).unwrap();
    fs::set_permissions(&pin, fs::Permissions::from_mode(0o600)).unwrap();
    let (here, label) = (folder.display(), Token::LABEL);
    let text = format!(
        "ledger = \"sqlite://{here}/ledger.db\"\npolicy = \"{here}/policy.toml\"\nchain_copy = \"{here}/copy/chain.jsonl\"\nmetrics = \"unix:{here}/m.sock\"\n\
         [hsm]\nmodule = \"{MODULE}\"\ntoken_label = \"{label}\"\npin = \"{here}/pin\"\n\
         [[listen]]\naddress = \"unix:{here}/admin.sock\"\nrole = \"admin\"\n\
         [[listen]]\naddress = \"fd:remote\"\nrole = \"endorse\"\n[listen.tls]\ncertificate = \"{here}/hsmd.crt\"\n\
         key = \"{here}/hsmd.key\"\nclient_ca = \"{here}/ca/ca.crt\"\n"
    );
    fs::write(folder.join("hsmd.toml"), text).unwrap();
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
    let answer = service.endorse(&request(purpose)).await?;
    Ok(Endorsement::parse(&answer).unwrap())
}

fn request(purpose: Purpose) -> SignRequest {
    let public_key = SigningKey::from_seed(&[7; 32]).unwrap().public_key();
    SignRequest { purpose, public_key, expiration: now().plus(Duration::from_hours(1)) }
}

#[tokio::test]
async fn a_service_of_another_host_is_endorsed_under_the_name_of_its_certificate() {
    let host = Host::start().await;
    let other = Authority::make(host.folder.path(), "other");
    host.authority.client("stranger", "keelson:edge:stranger");
    host.authority.expired_client("expired", "keelson:edge:far");
    other.client("foreign", "keelson:edge:far");

    for (name, purpose, service) in [
        ("far", Purpose::Response, "edge:far"),
        ("authd", Purpose::Response, "authd"),
        ("authd", Purpose::Access, "authd"),
    ] {
        let endorsement = ask(&host.service(name, "ca"), purpose).await.unwrap();
        assert_eq!(endorsement.service.as_deref(), Some(service), "{name}");
    }
    // Known to the authority, but not to the policy, or not for this.
    for (name, purpose) in [("stranger", Purpose::Response), ("far", Purpose::Access)] {
        let refused = ask(&host.service(name, "ca"), purpose).await.unwrap_err();
        assert!(
            matches!(&refused, Error::Refused { status: 403, body, .. } if body.contains("BA303")),
            "{name}: {refused:?}"
        );
    }
    // No handshake, no answer; nor does a service speak to an hsmd that another authority vouches for.
    for (name, ca) in [("foreign", "ca"), ("expired", "ca"), ("far", "other")] {
        let refused = ask(&host.service(name, ca), Purpose::Response).await.unwrap_err();
        assert!(matches!(refused, Error::Silent { .. }), "{name}: {refused:?}");
    }
    // A renewed certificate takes no restart of the service.
    let service = host.service("expired", "ca");
    host.authority.renew("client", "expired", "URI:keelson:edge:far");
    ask(&service, Purpose::Response).await.unwrap();
    // A key that others can read is not used.
    fs::set_permissions(host.file("far.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let refused = ask(&host.service("far", "ca"), Purpose::Response).await.unwrap_err();
    assert!(matches!(refused, Error::Tls(_)) && refused.to_string().contains("far.key"), "{refused}");
}

#[tokio::test]
async fn a_renewed_certificate_of_hsmd_takes_a_reload_and_ends_no_connection() {
    let host = Host::start().await;
    let open = host.connection("far");
    let before = host.presented(&open).await;
    host.authority.renew("server", "hsmd", "IP:127.0.0.1");
    assert_eq!(host.presented(&host.connection("far")).await, before, "read before it was asked to");
    host.hsmd.signal(Signal::HUP);
    until("the renewed certificate", START_DEADLINE, || async {
        // Were it another connection, hsmd would present its new certificate there as well.
        assert_eq!(host.presented(&open).await, before, "the connection was ended");
        (host.presented(&host.connection("far")).await != before).then_some(())
    })
    .await;
    assert_eq!(host.presented(&open).await, before, "the connection was ended");
}
