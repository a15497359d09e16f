//! Backup and restore on mock devices, by the program, through the connector: the same chain goes on.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
    sync::Arc,
};

use hsmd::{
    chain::{Advance, Keeper},
    clock::{System, TrustedClock},
    token::backend::KeyIds,
    token::signer::Signer,
};
use yubihsm::{Capability, Client, Connector as Mock, Credentials, Domain, Uuid, wrap::Algorithm};

use super::{emulator::Connector, mock};
use crate::support;

const WRAP_KEY: u16 = 100;
const ROTATE: Advance = Advance { from: None, taint: false };

/// A mock device with the wrap key, behind a connector.
fn device(wrap_key: [u8; 32]) -> (Mock, Connector) {
    let mock = Mock::mockhsm();
    let client = Client::open(mock.clone(), Credentials::default(), true).unwrap();
    let may = Capability::EXPORT_WRAPPED | Capability::IMPORT_WRAPPED;
    let delegated = Capability::SIGN_ECDSA | Capability::EXPORTABLE_UNDER_WRAP;
    let (label, aes) = ("keelson-backup".into(), Algorithm::Aes256Ccm);
    client.put_wrap_key(WRAP_KEY, label, Domain::DOM1, may, delegated, aes, wrap_key).unwrap();
    let behind = mock.clone();
    let connector = Connector::serve(move |command| {
        let answer = behind.send_message(Uuid::nil(), command.to_vec().into()).ok()?;
        Some(answer.as_ref().to_vec())
    });
    (mock, connector)
}

async fn keeper(mock: &Mock, folder: &Path, exportable: bool) -> Result<Arc<Keeper>, hsmd::chain::Error> {
    let settings = hsmd::token::backend::yubihsm::Settings { exportable, ..mock::settings(folder) };
    let (signer, _) = Signer::start(Box::new(mock::open(mock, settings).unwrap())).unwrap();
    let ledger = support::ledger::open(&folder.join("ledger.db")).await?;
    let clock = TrustedClock::new(Box::new(System::start()));
    Ok(Arc::new(Keeper::start(ledger, signer, clock, KeyIds::default()).await?))
}

fn run(folder: &Path, verb: &str, connector: Option<&Connector>, options: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hsm-backup"));
    command.arg(verb).current_dir(folder);
    if let Some(connector) = connector {
        let password = folder.join("password");
        fs::write(&password, "password").unwrap();
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
        command.arg("--connector").arg(format!("http://{}", connector.address));
        command.args(["--auth-key", "1", "--password-file", "password"]);
    }
    for (option, value) in options {
        command.arg(option).arg(value);
    }
    command.output().unwrap()
}

fn shown(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap()
}

#[tokio::test]
async fn a_chain_goes_on_on_the_spare_device() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (first, its_connector) = device([7; 32]);
    let (spare, spares_connector) = device([7; 32]);
    let (stranger, strangers_connector) = device([8; 32]);
    let before = keeper(&first, folder, true).await.unwrap();
    before.advance(ROTATE).await.unwrap();

    let export = [("--wrap-key", "100"), ("--out", "keelson.backup")];
    let made = run(folder, "backup", Some(&its_connector), &export);
    assert_eq!((made.status.code(), shown(&made).contains("2 keys")), (Some(0), true), "{}", shown(&made));
    let mode = fs::metadata(folder.join("keelson.backup")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // An older backup is not written over.
    assert_eq!(run(folder, "backup", Some(&its_connector), &export).status.code(), Some(74));

    let verify = [("--backup", "keelson.backup"), ("--chain", "chain.json")];
    let chain = |keeper: &Keeper| {
        fs::write(folder.join("chain.json"), keeper.view().unwrap().published_from(0)).unwrap();
    };
    chain(&before);
    let verified = run(folder, "verify", None, &verify);
    assert!(verified.status.success() && shown(&verified).contains("generation 1"), "{}", shown(&verified));
    let identity = before.view().unwrap().prefix();
    before.close().await.unwrap();
    drop(before);

    // A device without the wrap key cannot read it; the spare can, and twice does no harm.
    let restore = [("--backup", "keelson.backup")];
    let refused = run(folder, "restore", Some(&strangers_connector), &restore);
    assert_eq!(refused.status.code(), Some(69), "{}", shown(&refused));
    for imported in ["2 of 2", "0 of 2"] {
        let restored = run(folder, "restore", Some(&spares_connector), &restore);
        assert!(restored.status.success() && shown(&restored).contains(imported), "{}", shown(&restored));
    }
    let after = keeper(&spare, folder, true).await.unwrap();
    after.probe().await.unwrap();
    after.advance(ROTATE).await.unwrap();
    after.advance(ROTATE).await.unwrap();
    assert_eq!(after.view().unwrap().prefix(), identity);
    assert_eq!(after.view().unwrap().live().event().sequence_number, 3);

    // By now the backup is too old, and says so.
    chain(&after);
    let verified = run(folder, "verify", None, &verify);
    assert_eq!(verified.status.code(), Some(78));
    assert!(shown(&verified).contains("signing key"), "{}", shown(&verified));
    after.close().await.unwrap();
    assert!(keeper(&stranger, folder, true).await.is_err(), "a device without the keys does not go on");
}

#[tokio::test]
async fn keys_are_not_exportable_unless_the_configuration_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (mock, connector) = device([7; 32]);
    keeper(&mock, folder.path(), false).await.unwrap();
    let export = [("--wrap-key", "100"), ("--out", "keelson.backup")];
    let refused = run(folder.path(), "backup", Some(&connector), &export);
    assert_eq!(refused.status.code(), Some(69), "{}", shown(&refused));
    assert!(!folder.path().join("keelson.backup").exists());
    fs::write(folder.path().join("keelson.backup"), "{}").unwrap();
    let bad = run(folder.path(), "restore", Some(&connector), &[("--backup", "keelson.backup")]);
    assert_eq!(bad.status.code(), Some(78), "{}", shown(&bad));
}
