//! The program itself: what it says of its configuration, and how it ends.

use std::process::{Command, Output};
use std::time::Duration;

use keychain::message::Operation;
use tests::craft::Device;
use tests::port::Port;
use tests::process::{Process, command};
use tests::until;

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
    let reserved = [Port::reserve(), Port::reserve()];
    let [port, metrics] = reserved.each_ref().map(Port::number);
    let path = stage.configuration("program");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("listen = \"127.0.0.1:0\"", &format!("listen = \"127.0.0.1:{port}\""));
    let text = text.replace("metrics = \"127.0.0.1:0\"", &format!("metrics = \"127.0.0.1:{metrics}\""));
    std::fs::write(&path, text).unwrap();
    let mut program = command(env!("CARGO_BIN_EXE_authd"));
    program.arg("--config").arg(&path);
    let mut process = Process::start("authd", program, stage.folder.path());
    let observe = tests::http::Http::to(&format!("http://127.0.0.1:{metrics}"));
    until("authd to answer", Duration::from_secs(20), || async {
        std::net::TcpStream::connect(("127.0.0.1", metrics)).ok().map(drop)
    })
    .await;
    until("authd to be ready", Duration::from_secs(20), || async {
        (observe.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    let auth = tests::http::Http::to(&format!("http://127.0.0.1:{port}"));
    let mut device = Device::create(&auth).await;
    device.open_session(&auth).await;
    auth.post(Operation::DeviceRotate.path(), "{}").await.refused(keychain::Code::InvalidMessage);
    let page = observe.get("/metrics").await.body;
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
    assert_eq!(process.stop().code(), Some(0));
    let log = process.log();
    let token = &device.session().token;
    assert!(log.contains("BA101") && !log.contains(token.as_str()), "{log}");
}
