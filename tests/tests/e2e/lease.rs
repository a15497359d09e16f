//! The commands of hsmd/RECOVERY.md, `standby`: two hsmd on one ledger, and an operator has the standby take the lease.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use tempfile::TempDir;
use tests::postgres::PostgreSql;
use tests::process::{Process, command, run};
use tests::until;
use tests::world::binary;

use crate::page::commands;

const PAGE: &str = include_str!("../../../hsmd/RECOVERY.md");

/// A start, or a take-over, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_mins(1);

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// A token that both hosts reach.
struct Token(TempDir);

impl Token {
    fn new() -> Self {
        let token = Self(tempfile::tempdir().unwrap());
        let tokens = token.0.path().join("tokens");
        fs::create_dir(&tokens).unwrap();
        fs::write(token.conf(), format!("directories.tokendir = {}\n", tokens.display())).unwrap();
        fs::write(token.pin(), "1357-abcd").unwrap();
        fs::set_permissions(token.pin(), fs::Permissions::from_mode(0o600)).unwrap();
        let mut softhsm = command("softhsm2-util");
        softhsm.args(["--init-token", "--free", "--label", "keelson", "--so-pin", "so-1357"]);
        softhsm.args(["--pin", "1357-abcd"]).env("SOFTHSM2_CONF", token.conf());
        run(softhsm);
        token
    }

    fn conf(&self) -> PathBuf {
        self.0.path().join("softhsm2.conf")
    }

    fn pin(&self) -> PathBuf {
        self.0.path().join("pin")
    }
}

/// An hsmd with sockets of its own.
struct Host {
    folder: TempDir,
    _hsmd: Process,
}

impl Host {
    fn start(ledger: &str, token: &Token) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (here, pin) = (folder.path().display(), token.pin());
        let config = format!(
            "ledger = \"{ledger}\"\npolicy = \"{here}/policy.toml\"\nchain_copy = \"{here}/copy/chain.jsonl\"\n\
             metrics = \"unix:{here}/metrics.sock\"\n\
             [hsm]\nmodule = \"{MODULE}\"\ntoken_label = \"keelson\"\npin = \"{}\"\n\
             refused_pin = \"{here}/refused-pin\"\n\
             [[listen]]\naddress = \"unix:{here}/admin.sock\"\nrole = \"admin\"\n",
            pin.display()
        );
        let policy = format!(
            "[[allow]]\nuser = {}\nsocket = \"unix:{here}/admin.sock\"\n\
             operations = [\"audit\", \"recover\", \"rotate\", \"taint\"]\nrate = \"1000/s\"\n",
            rustix::process::geteuid().as_raw()
        );
        fs::write(folder.path().join("policy.toml"), policy).unwrap();
        fs::write(folder.path().join("hsmd.toml"), config).unwrap();
        let mut hsmd = command(binary("hsmd"));
        hsmd.arg("--config").arg(folder.path().join("hsmd.toml")).env("SOFTHSM2_CONF", token.conf());
        let hsmd = Process::start("hsmd", hsmd, folder.path());
        Self { folder, _hsmd: hsmd }
    }

    fn admin(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// Runs a command as it is typed on this host.
    fn type_in(&self, line: &str) -> Output {
        let line = format!("{line} --admin \"$ADMIN\"");
        let mut shell = command("bash");
        shell.args(["-c", &line]).env("ADMIN", format!("unix:{}", self.admin().display()));
        shell.env("PATH", programs()).output().unwrap()
    }

    /// The exit code of a command, and all that it said.
    fn says(&self, line: &str) -> (Option<i32>, String) {
        let Output { status, stdout, stderr } = self.type_in(line);
        (status.code(), [stdout, stderr].map(|text| String::from_utf8(text).unwrap()).concat())
    }

    async fn until_said(&self, line: &str, code: i32, words: &str) {
        until(words, SOON, async || {
            let (ended, said) = self.says(line);
            (ended == Some(code) && said.contains(words)).then_some(())
        })
        .await;
    }
}

fn programs() -> String {
    let programs = binary("opsctl").parent().unwrap().to_owned();
    format!("{}:{}", Path::display(&programs), std::env::var("PATH").unwrap())
}

#[tokio::test]
async fn a_standby_takes_the_lease_with_the_commands_of_the_page() {
    let database = PostgreSql::start().await;
    let token = Token::new();
    let block: Vec<_> = commands(PAGE, "standby").lines().collect();
    let [show, take] = block[..] else { panic!("{block:?}") };
    let take = &format!("{take} --yes");
    let first = Host::start(&database.url(), &token);
    first.until_said("opsctl rotate", 0, "").await;
    let second = Host::start(&database.url(), &token);
    second.until_said(show, 1, "has the lease (fence 1)").await;
    assert_eq!(first.says(show).0, Some(0));
    // Nobody is there to confirm it.
    assert_ne!(second.says(&take.replace(" --yes", "")).0, Some(0));
    assert_eq!(first.says(show).0, Some(0));

    let (code, said) = second.says(take);
    assert!(code == Some(0) && said.contains("this hsmd has the lease, as "), "{said}");
    assert!(said.contains("(fence 2)"), "{said}");
    second.until_said("opsctl rotate", 0, "").await;
    let (code, said) = first.says("opsctl rotate");
    assert!(code != Some(0), "{said}");
    first.until_said(show, 1, "has the lease (fence 2)").await;
    // Said again, it changes nothing.
    let (code, said) = second.says(take);
    assert!(code == Some(0) && said.contains("nothing was done"), "{said}");
    let (_, trail) = second.says("opsctl audit show --kind intent");
    assert!(trail.contains("the token of the other host is gone"), "{trail}");
}
