//! Authorities and certificates as other libraries see them, and what is refused.

mod desk;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use keychain::Timestamp;
use rcgen::{CertificateParams, KeyPair};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::DAY;
use crate::failure::Exit;
use desk::Desk;

fn names_of(parsed: &X509Certificate<'_>) -> Vec<String> {
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "names are all that there is of a subject");
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => format!("DNS:{name}"),
        GeneralName::URI(name) => format!("URI:{name}"),
        GeneralName::IPAddress(bytes) => format!("IP:{bytes:?}"),
        other => panic!("{other:?}"),
    };
    names.value.general_names.iter().map(name).collect()
}

fn lasts(parsed: &X509Certificate<'_>, from: Timestamp, to: Timestamp) {
    let validity = parsed.validity();
    assert_eq!(validity.not_before.timestamp(), from.unix_millis() / 1000);
    assert_eq!(validity.not_after.timestamp(), to.unix_millis() / 1000);
}

#[test]
fn an_authority_is_one_and_no_more() {
    let desk = Desk::with_authority();
    assert_eq!(desk.names("ca"), ["ca.crt", "ca.key"]);
    for (name, mode) in [("ca", 0o700), ("ca/ca.crt", 0o644), ("ca/ca.key", 0o600)] {
        assert_eq!(desk.mode(name), mode, "{name}");
    }
    let pem = desk.pem("ca/ca.crt");
    let parsed = pem.parse_x509().unwrap();
    parsed.verify_signature(None).unwrap();
    lasts(&parsed, desk.now.minus(Duration::from_mins(5)), desk.now.plus(DAY * 3650));
    assert_eq!(parsed.subject().to_string(), "CN=Keelson authority");
    assert_eq!(parsed.issuer(), parsed.subject());
    let constraints = parsed.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = parsed.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    assert_eq!(usage.value.to_string(), "Key Cert Sign, CRL Sign");
    assert_eq!(parsed.raw_serial().len(), 16);
    let algorithm = parsed.public_key().parsed().unwrap();
    assert_eq!(algorithm.key_size(), 256, "{algorithm:?}");

    desk.run("init --dir @other --name Nobody's --days 1").unwrap();
    let other = desk.pem("other/ca.crt");
    let other = other.parse_x509().unwrap();
    assert_eq!(other.subject().to_string(), "CN=Nobody's");
    assert_ne!(other.raw_serial(), parsed.raw_serial());
    lasts(&other, desk.now.minus(Duration::from_mins(5)), desk.now.plus(DAY));
}

#[test]
fn a_certificate_is_good_for_what_it_was_issued_for() {
    let desk = Desk::with_authority();
    let server = "issue server --dir @ca --san DNS:hsm.example --san DNS:*.hsm.example --san IP:10.0.0.5 \
                  --san IP:::1 --san DNS:hsm.example --out @hsmd";
    desk.run(server).unwrap();
    desk.run("issue client --dir @ca --san URI:keelson:edge:far --san DNS:far.example --out @far --days 7")
        .unwrap();
    for (name, days) in [("hsmd", 90), ("far", 7)] {
        let (certificate, key) = (format!("{name}.crt"), format!("{name}.key"));
        assert_eq!((desk.mode(&certificate), desk.mode(&key)), (0o644, 0o600), "{name}");
        for (after, holds) in
            [(Duration::ZERO, true), (DAY * days, true), (DAY * days + Duration::from_secs(1), false)]
        {
            let serves = ["hsm.example", "x.hsm.example", "10.0.0.5", "::1"]
                .map(|host| desk.serves(&certificate, host, after));
            assert_eq!(serves, [name == "hsmd" && holds; 4], "{name} {after:?}");
            assert_eq!(desk.asks(&certificate, after), name == "far" && holds, "{name} {after:?}");
        }
        assert!(!desk.serves(&certificate, "other.example", Duration::ZERO));
        let pem = desk.pem(&certificate);
        let parsed = pem.parse_x509().unwrap();
        // It begins no earlier than its authority.
        lasts(&parsed, desk.now.minus(Duration::from_mins(5)), desk.now.plus(DAY * days));
        let usage = parsed.extended_key_usage().unwrap().unwrap().value;
        assert_eq!((usage.server_auth, usage.client_auth), (name == "hsmd", name == "far"));
        assert!(!usage.any && usage.other.is_empty());
        assert_eq!(parsed.key_usage().unwrap().unwrap().value.to_string(), "Digital Signature");
        assert!(!parsed.basic_constraints().unwrap().unwrap().value.ca);
        assert_eq!(parsed.subject().iter().count(), 0);
        let key = KeyPair::from_pem(&desk.read(&key)).unwrap();
        assert_eq!(rcgen::PublicKeyData::subject_public_key_info(&key), parsed.public_key().raw);
    }
    let own = ["DNS:hsm.example", "DNS:*.hsm.example", "IP:[10, 0, 0, 5]"];
    let loopback = "IP:[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]";
    assert_eq!(names_of(&desk.pem("hsmd.crt").parse_x509().unwrap()), [&own[..], &[loopback]].concat());
    let far = desk.pem("far.crt");
    assert_eq!(names_of(&far.parse_x509().unwrap()), ["URI:keelson:edge:far", "DNS:far.example"]);
}

#[test]
fn a_renewal_keeps_the_key_and_replaces_the_certificate() {
    let desk = Desk::with_authority();
    let line = "issue server --dir @ca --san DNS:hsm.example --out @hsmd";
    desk.run(line).unwrap();
    let (key, before) = (desk.read("hsmd.key"), desk.pem("hsmd.crt"));
    desk.refused(line, Exit::Data, "--key");
    let later = desk.now.plus(DAY * 60);
    desk.run_at(later, &format!("{line} --key @hsmd.key --dry-run")).unwrap();
    assert_eq!(desk.pem("hsmd.crt").contents, before.contents);
    desk.run_at(later, &format!("{line} --key @hsmd.key --json")).unwrap();
    assert_eq!(desk.read("hsmd.key"), key);
    assert_eq!((desk.mode("hsmd.crt"), desk.mode("hsmd.key")), (0o644, 0o600));
    let after = desk.pem("hsmd.crt");
    let (before, after) = (before.parse_x509().unwrap(), after.parse_x509().unwrap());
    assert_eq!(before.public_key().raw, after.public_key().raw);
    assert_ne!(before.raw_serial(), after.raw_serial());
    lasts(&after, later.minus(Duration::from_mins(5)), later.plus(DAY * 90));
    assert!(desk.serves("hsmd.crt", "hsm.example", DAY * 150));

    // What was interrupted after the key is finished in the same way; and a key may lie elsewhere.
    fs::remove_file(desk.path("hsmd.crt")).unwrap();
    desk.refused(line, Exit::Data, "--key");
    desk.run(&format!("{line} --key @hsmd.key")).unwrap();
    desk.run("issue server --dir @ca --san DNS:hsm.example --out @copy --key @hsmd.key").unwrap();
    assert_eq!(desk.names("."), ["ca", "copy.crt", "hsmd.crt", "hsmd.key"]);
}

#[test]
fn no_certificate_is_put_beside_another_key() {
    let desk = Desk::with_authority();
    for name in ["one", "two"] {
        desk.run(&format!("issue server --dir @ca --san DNS:{name} --out @{name}")).unwrap();
    }
    let renew =
        |out: &str, key: &str| format!("issue server --dir @ca --san DNS:x --out @{out} --key @{key}");
    let before = desk.read("one.crt");
    desk.refused(&renew("one", "two.key"), Exit::Data, "another key");
    desk.refused(&renew("ca/ca", "ca/ca.key"), Exit::Usage, "the authority's own key");
    desk.refused(&renew("new", "ca/ca.key"), Exit::Usage, "the authority's own key");
    assert_eq!(desk.read("one.crt"), before);
    fs::remove_file(desk.path("two.crt")).unwrap();
    desk.refused(&renew("two", "one.key"), Exit::Data, "another key");
    fs::write(desk.path("two.crt"), "a text of somebody's").unwrap();
    desk.refused(&renew("two", "two.key"), Exit::Data, "two.crt");
    fs::set_permissions(desk.path("one.key"), Permissions::from_mode(0o640)).unwrap();
    desk.refused(&renew("one", "one.key"), Exit::Data, "open to others");
    desk.refused(&renew("one", "none.key"), Exit::Io, "none.key");
    desk.refused(&renew("one", "one.crt"), Exit::Data, "one.crt");
}

#[test]
fn a_dry_run_makes_nothing() {
    let desk = Desk::new();
    desk.run("init --dir @ca --dry-run").unwrap();
    assert_eq!(desk.names("."), [""; 0]);
    desk.run("init --dir @ca").unwrap();
    desk.refused("init --dir @ca --dry-run", Exit::Data, "already");
    desk.run("issue client --dir @ca --san URI:keelson:authd --out @x --dry-run").unwrap();
    assert_eq!(desk.names("."), ["ca"]);
}

#[test]
fn an_authority_is_never_replaced() {
    let desk = Desk::with_authority();
    let (key, certificate) = (desk.read("ca/ca.key"), desk.read("ca/ca.crt"));
    desk.refused("init --dir @ca", Exit::Data, "already");
    fs::rename(desk.path("ca/ca.key"), desk.path("ca.key")).unwrap();
    desk.refused("init --dir @ca", Exit::Data, "put it back");
    fs::rename(desk.path("ca.key"), desk.path("ca/ca.key")).unwrap();
    assert_eq!((desk.read("ca/ca.key"), desk.read("ca/ca.crt")), (key, certificate));

    fs::create_dir(desk.path("open")).unwrap();
    fs::set_permissions(desk.path("open"), Permissions::from_mode(0o755)).unwrap();
    desk.refused("init --dir @open", Exit::Data, "chmod 0700");
    desk.refused("init --dir @open/ca/ca", Exit::Io, "cannot make the folder");
    fs::write(desk.path("file"), "").unwrap();
    desk.refused("init --dir @file", Exit::Data, "not a folder");
}

/// Whatever a process that died has left: the repeat finishes it.
#[test]
fn what_was_interrupted_is_finished() {
    let whole = Desk::with_authority();
    let desk = Desk::new();
    fs::create_dir(desk.path("ca")).unwrap();
    fs::set_permissions(desk.path("ca"), Permissions::from_mode(0o700)).unwrap();
    fs::write(desk.path("ca/.ca.key.abc123.new"), "half a key").unwrap();
    desk.run("init --dir @ca").unwrap();
    assert_eq!(desk.names("ca"), ["ca.crt", "ca.key"]);

    let key = desk.read("ca/ca.key");
    fs::rename(desk.path("ca/ca.crt"), desk.path("ca/.ca.crt.abc123.new")).unwrap();
    desk.refused("issue server --dir @ca --san DNS:x --out @x", Exit::Io, "opsctl tls init");
    desk.run("init --dir @ca").unwrap();
    assert_eq!(desk.names("ca"), ["ca.crt", "ca.key"]);
    assert_eq!(desk.read("ca/ca.key"), key);
    desk.run("issue server --dir @ca --san DNS:x --out @x").unwrap();
    assert!(desk.serves("x.crt", "x", Duration::ZERO));

    // A key that others could read is not gone on with, nor one that is none.
    fs::remove_file(desk.path("ca/ca.crt")).unwrap();
    fs::set_permissions(desk.path("ca/ca.key"), Permissions::from_mode(0o644)).unwrap();
    desk.refused("init --dir @ca", Exit::Data, "open to others");
    fs::copy(whole.path("ca/ca.crt"), desk.path("ca/ca.key")).unwrap();
    fs::set_permissions(desk.path("ca/ca.key"), Permissions::from_mode(0o600)).unwrap();
    desk.refused("init --dir @ca", Exit::Data, "no usable private key");
}

#[test]
fn an_authority_that_is_not_right_issues_nothing() {
    const LINE: &str = "issue client --dir @ca --san URI:keelson:edge:far --out @far";
    let desk = Desk::with_authority();
    desk.refused(&LINE.replace("@ca", "@none"), Exit::Io, "opsctl tls init");
    fs::set_permissions(desk.path("ca/ca.key"), Permissions::from_mode(0o604)).unwrap();
    desk.refused(LINE, Exit::Data, "open to others");
    fs::set_permissions(desk.path("ca/ca.key"), Permissions::from_mode(0o600)).unwrap();

    desk.run("init --dir @other").unwrap();
    let good = desk.read("ca/ca.crt");
    let key = KeyPair::from_pem(&desk.read("ca/ca.key")).unwrap();
    let none = CertificateParams::default().self_signed(&key).unwrap().pem();
    let cases = [
        (desk.read("other/ca.crt"), "not that of the key"),
        (none, "not the certificate of an authority"),
        (good.repeat(2), "one certificate"),
        (desk.read("ca/ca.key"), "one certificate"),
        (good.replacen("MII", "MIJ", 1), "one certificate"),
        (good.repeat(200), "longer than"),
    ];
    for (text, part) in cases {
        fs::write(desk.path("ca/ca.crt"), text).unwrap();
        let exit = if part == "longer than" { Exit::Io } else { Exit::Data };
        desk.refused(LINE, exit, part);
    }
    fs::write(desk.path("ca/ca.crt"), good).unwrap();
    assert_eq!(desk.names("."), ["ca", "other"], "nothing was issued");
    desk.run(LINE).unwrap();
}

#[test]
fn no_certificate_outlives_its_authority() {
    const LINE: &str = "issue server --dir @ca --san DNS:x --dry-run --out @x --days";
    let mut desk = Desk::new();
    desk.run("init --dir @ca --days 100").unwrap();
    let start = desk.now;
    // Days since the authority was made, days asked for, and what is said.
    for (after, days, refused) in [
        (0, 100, None),
        (0, 101, Some("--days 100")),
        (60, 40, None),
        (60, 90, Some("--days 40")),
        (99, 1, None),
        (100, 1, Some("ended")),
        (1000, 1, Some("ended")),
    ] {
        desk.now = start.plus(DAY * after);
        match refused {
            None => desk.run(&format!("{LINE} {days}")).unwrap(),
            Some(part) => desk.refused(&format!("{LINE} {days}"), Exit::Data, part),
        }
    }
    desk.now = start.minus(Duration::from_mins(6));
    desk.refused(&format!("{LINE} 1"), Exit::Data, "clock");
    // A clock that is a little behind: the certificate begins with its authority.
    desk.now = start.minus(Duration::from_mins(4));
    desk.run("issue server --dir @ca --san DNS:x --out @x").unwrap();
    let pem = desk.pem("x.crt");
    lasts(&pem.parse_x509().unwrap(), start.minus(Duration::from_mins(5)), desk.now.plus(DAY * 90));
}

#[test]
fn names_and_places_that_make_no_sense_are_usage_errors() {
    let desk = Desk::with_authority();
    for (arguments, part) in [
        ("client --san IP:10.0.0.5 --out @x", "policy"),
        ("client --san URI:a:b --san DNS:*.b.example --out @x", "policy"),
        ("server --san URI:keelson:hsmd --out @x", "DNS"),
        ("server --san DNS:x --out @x/", "folder"),
        ("server --san DNS:x --out ..", "folder"),
    ] {
        desk.refused(&format!("issue {arguments} --dir @ca"), Exit::Usage, part);
    }
    desk.refused("issue server --san DNS:x --dir @ca --out @none/x", Exit::Io, "none/x.key");
    assert_eq!(desk.names("."), ["ca"]);
    // A point is no ending that the prefix would lose.
    desk.run("issue server --san DNS:x --dir @ca --out @hsm.example").unwrap();
    assert_eq!(desk.names("."), ["ca", "hsm.example.crt", "hsm.example.key"]);
}
