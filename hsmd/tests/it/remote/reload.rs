//! Certificates and trust exchanged without a restart, and files that are not right.

use std::{fs, os::fd::OwnedFd, os::unix::fs::PermissionsExt as _, time::Duration};

use hsmd::http::tls::{Files, Presented, Tls};
use keychain::endorsement::Purpose;
use rcgen::date_time_ymd;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{Remote, client::verdict};
use crate::support::{
    authority::Authority,
    world::{now, service_key, sign_request},
};

const FAR: &[&str] = &["URI:keelson:edge:far"];

fn body() -> String {
    sign_request(Purpose::Response, service_key(1), Duration::from_hours(1))
}

#[test]
fn trust_is_exchanged_under_open_connections() {
    let remote = Remote::new();
    let mut hsmd = remote.start();
    let (old, next) = (&remote.authority, Authority::named("next"));
    let (left, stays) = (remote.client(Some(&old.client(FAR))), remote.client(Some(&next.client(FAR))));
    let sign =
        |connection: &mut super::client::Connection| verdict(connection.ask("POST", "/sign", "", &body()));
    let mut open = left.connect();
    assert_eq!(sign(&mut open), "200");
    assert_eq!(stays.refusal(), "alert UnknownCA");
    let before = open.presented();

    // Both authorities for as long as certificates are exchanged, and a new certificate for hsmd.
    remote.write("ca.crt", &format!("{}{}", old.pem(), next.pem()));
    remote.install(&old.server());
    assert!(!hsmd.reload().contains("tls"));
    assert_eq!(sign(&mut open), "200");
    let mut fresh = stays.connect();
    assert_eq!(sign(&mut fresh), "200");
    assert_ne!(fresh.presented(), before);

    // Then the new one alone: who has the old kind is refused at its next request, and for good.
    remote.write("ca.crt", next.pem());
    hsmd.reload();
    assert_eq!(sign(&mut open), "403 BA303");
    assert_eq!(left.refusal(), "alert UnknownCA");
    assert_eq!(sign(&mut fresh), "200");

    // Whoever leaves the policy, too.
    remote.world.write_policy(&remote.policy().replace("edge:far", "edge:gone"));
    hsmd.reload();
    assert_eq!(sign(&mut fresh), "403 BA303");
    assert_eq!(stays.verdict("POST", "/sign", &body()), "403 BA303");
    hsmd.stop();
}

#[test]
fn a_revoked_certificate_asks_for_nothing_more() {
    let remote = Remote::new();
    remote.configure(&format!("crl = \"{}\"", remote.path("revoked.crl").display()));
    remote.write("revoked.crl", &remote.authority.revoke(&[9]));
    let mut hsmd = remote.start();
    let client = remote.client(Some(&remote.authority.client_with(8, FAR, |_| ())));
    let revoked = remote.client(Some(&remote.authority.client_with(9, FAR, |_| ())));
    assert_eq!(revoked.refusal(), "alert CertificateRevoked");
    let mut open = client.connect();
    assert_eq!(verdict(open.ask("POST", "/sign", "", &body())), "200");
    remote.write("revoked.crl", &remote.authority.revoke(&[8, 9]));
    hsmd.reload();
    assert_eq!(verdict(open.ask("POST", "/sign", "", &body())), "403 BA303");
    assert_eq!(client.refusal(), "alert CertificateRevoked");
    hsmd.stop();
}

#[test]
fn what_is_not_right_changes_nothing_and_is_told() {
    let remote = Remote::new();
    let mut hsmd = remote.start();
    let client = remote.client(Some(&remote.authority.client(FAR)));
    let good = remote.authority.server();
    let other = remote.authority.server();
    for (file, text, part) in [
        ("server.key", other.key.as_str(), "not that of the key"),
        ("server.key", "junk", "no usable private key"),
        ("server.crt", "junk", "no usable certificate"),
        ("ca.crt", "", "no usable certificate of an authority"),
    ] {
        remote.write(file, text);
        let status = hsmd.reload();
        for part in ["generation 0 of E", "; tls: ", file, part, "stay as they were"] {
            assert!(status.contains(part), "`{part}` is not in: {status}");
        }
        assert_eq!(client.verdict("POST", "/sign", &body()), "200");
        remote.install(&good);
        remote.write("ca.crt", remote.authority.pem());
    }
    for (file, mode, part) in [("server.key", 0o644, "open to others"), ("ca.crt", 0o666, "others can write")]
    {
        fs::set_permissions(remote.path(file), fs::Permissions::from_mode(mode)).unwrap();
        assert!(hsmd.reload().contains(part), "{file}");
        fs::set_permissions(remote.path(file), fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert!(!hsmd.reload().contains("tls"));
    assert_eq!(client.verdict("POST", "/sign", &body()), "200");
    hsmd.stop();
}

/// A certificate that ends while its connection is open.
#[test]
fn a_certificate_is_judged_by_the_time_of_the_request() {
    let remote = Remote::new();
    let files = Files {
        certificate: remote.path("server.crt"),
        key: remote.path("server.key").to_str().unwrap().to_owned(),
        client_ca: remote.path("ca.crt"),
        crl: None,
    };
    let tls = Tls::open(files).unwrap();
    let issued = remote.authority.client_with(7, FAR, |params| {
        params.not_after = date_time_ymd(2100, 1, 1);
    });
    let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
    let (presented, caller) = Presented::new(&[certificate]);
    assert_eq!(caller.to_string(), "URI:keelson:edge:far");
    assert!(tls.trusts(&presented, now()));
    assert!(!tls.trusts(&presented, now().plus(Duration::from_hours(24 * 365 * 100))));
    assert!(!tls.trusts(&Presented::new(&[]).0, now()));
}

#[test]
fn a_socket_for_other_hosts_is_tls_and_inherited_and_nothing_else() {
    let remote = Remote::new();
    let text = fs::read_to_string(remote.world.config()).unwrap();
    let (rest, tls) = text.split_once("[listen.tls]").unwrap();
    let folder = remote.world.path().display();
    let unix = format!("unix:{folder}/x.sock");
    for (what, config) in [
        ("TCP without TLS", rest.to_owned()),
        ("a TCP address", text.replace("fd:remote", "127.0.0.1:0")),
        ("TLS on a Unix socket", text.replace("fd:remote", &unix)),
        (
            "TLS for operators",
            text.replace("\"fd:remote\"\nrole = \"endorse\"", "\"fd:remote\"\nrole = \"admin\""),
        ),
        ("a relative path", text.replace(&format!("{folder}/ca.crt"), "ca.crt")),
        ("an unknown key", format!("{text}\ncypher = 1")),
        ("a key that is missing", format!("{rest}[listen.tls]{}", tls.replace("client_ca", "#client_ca"))),
        ("a file that is not there", text.replace("ca.crt", "no.crt")),
    ] {
        assert_ne!(config, text, "{what}");
        fs::write(remote.world.config(), config).unwrap();
        let status = remote.spawn().ready().expect_err(what);
        assert_eq!(status.code(), Some(78), "{what}");
    }
    // A Unix socket under the name of the other.
    fs::write(remote.world.config(), &text).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(remote.path("y.sock")).unwrap();
    let mut hsmd = remote.world.spawn_inheriting("remote", OwnedFd::from(listener));
    assert_eq!(hsmd.ready().unwrap_err().code(), Some(78));
}
