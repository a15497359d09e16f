//! The program itself: what it says of its configuration, and how it ends.

use std::process::{Command, Output};

use keychain::message::Operation;
use tests::craft::Device;

use crate::program::Program;
use crate::stage::Stage;

crate::on_both!(it_serves_until_it_is_told_to_stop_and_counts_what_it_did);

fn check(text: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("authd.toml");
    std::fs::write(&path, text).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_authd"));
    program.arg("--config").arg(path).arg("--check-config").output().unwrap()
}

#[test]
fn a_configuration_is_checked_without_being_used() {
    let identity = keychain::Digest::of("chain");
    let good = format!(
        "identity = \"{identity}\"\nlisten = \"fd:http\"\ndatabase = \"sqlite:///nowhere/accounts.db\"\n\
         redis = \"redis://127.0.0.1:1\"\nendorse = \"unix:/nowhere/endorse.sock\"\n\
         metrics = \"127.0.0.1:0\"\nstate = \"/nowhere\"\n"
    );
    let output = check(&good);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"ok\n"[..]), "{output:?}");
    for (wrong, named) in [
        (good.replace("identity", "identiti"), "identiti"),
        (good.replace(&identity.to_string(), "E"), "identity"),
        (good.replace("sqlite:///nowhere/accounts.db", "mysql://u:secret@h/n"), "database"),
        (format!("{good}access_lifetime = \"16m\"\n"), "access_lifetime"),
        (format!("{good}refresh_lifetime = \"0s\"\n"), "refresh_lifetime"),
        (format!("{good}cycle = \"7h\"\n"), "cycle"),
        (format!("{good}clock_skew = \"1m\"\n"), "clock_skew"),
        (format!("{good}head_max_age = \"9m\"\n"), "head_max_age"),
        (format!("{good}drain = \"2m\"\n"), "drain"),
        (format!("{good}trusted_proxies = [\"10.0.0.1/8\"]\n"), "trusted_proxies"),
        (format!("{good}tls = {{ certificate = \"/nowhere/tls.crt\", key = \"tls-key\" }}\n"), "tls"),
        (format!("{good}[roles]\nuser = [\"a<b\"]\n"), "roles"),
        (format!("{good}[roles]\n\"12\" = [\"read\"]\n"), "roles"),
    ] {
        let output = check(&wrong);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{wrong}\n{said}");
        assert!(said.contains(named) && said.contains("authd.toml"), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }
}

async fn it_serves_until_it_is_told_to_stop_and_counts_what_it_did(stage: Stage) {
    let mut program = Program::start(&stage, "").await;
    let auth = program.auth();
    let mut device = Device::create(&auth).await;
    device.open_session(&auth).await;
    auth.post(Operation::DeviceRotate.path(), "{}").await.refused(keychain::Code::InvalidMessage);
    let page = program.observe.get("/metrics").await.body;
    for line in [
        "authd_operations_total{op=\"/account/create\",code=\"ok\"} 1",
        "authd_operations_total{op=\"/session/create\",code=\"ok\"} 1",
        "authd_operations_total{op=\"/device/rotate\",code=\"BA101\"} 1",
        "authd_outbox_pending 0",
        "authd_build_info{",
        "authd_operation_seconds_count{op=\"/session/request\"} 1",
    ] {
        assert!(page.contains(line), "no `{line}` in\n{page}");
    }
    assert_eq!(program.process.stop().code(), Some(0));
    let log = program.log();
    let token = &device.session().token;
    assert!(log.contains("BA101") && !log.contains(token.as_str()), "{log}");
}
