//! Which deployment a command talks to.

use std::path::PathBuf;
use std::time::Duration;

use keychain::directory::Directory;

use crate::dev::Endpoints;
use crate::door::{Address, Door};
use crate::failure::{Exit, Failure, OrFail};

/// Where hsmd's admin socket is when its unit runs.
const ADMIN: &str = "/run/hsmd/admin.sock";

/// Where the key directory is when all daemons run on one host with their defaults.
const DIRECTORY: &str = "redis://127.0.0.1:6379";

/// Longest file with an address.
const ADDRESS_FILE_MAX: u64 = 4_096;

/// Names a deployment: the one on this machine unless told otherwise.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Deployment {
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) hosts: Hosts,
}

/// How daemons are reached at all.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Reach {
    /// The endpoints file of an `opsctl dev`
    #[arg(long, value_name = "FILE")]
    endpoints: Option<PathBuf>,
    /// Seconds that each exchange may take
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
}

/// Where hsmd and the key directory are.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Hosts {
    /// hsmd's admin socket [default: /run/hsmd/admin.sock, or as in the endpoints file]
    #[arg(long, value_name = "SOCKET")]
    admin: Option<Address>,
    /// The key directory, where verifiers acknowledge [default: redis://127.0.0.1:6379, or as in the endpoints file]
    #[arg(long, value_name = "URL", value_parser = directory_url)]
    directory: Option<String>,
    /// A private file with the address of the key directory, for one with a password
    #[arg(long, value_name = "FILE", conflicts_with = "directory")]
    directory_file: Option<PathBuf>,
}

impl Reach {
    /// The endpoints file's content, when one was named.
    pub(crate) fn endpoints(&self) -> Result<Option<Endpoints>, Failure> {
        self.endpoints.as_deref().map(Endpoints::read).transpose()
    }

    pub(crate) fn open(&self, address: &Address) -> Result<Door, Failure> {
        Door::open(address, Duration::from_secs(self.timeout))
    }
}

impl Deployment {
    /// The endpoints file's content, when one was named.
    pub(crate) fn endpoints(&self) -> Result<Option<Endpoints>, Failure> {
        self.reach.endpoints()
    }

    pub(crate) fn admin(&self) -> Result<Door, Failure> {
        let address = match (&self.hosts.admin, self.endpoints()?) {
            (Some(address), _) => address.clone(),
            (None, Some(endpoints)) => Address::Socket(endpoints.admin),
            (None, None) => Address::Socket(ADMIN.into()),
        };
        self.open(&address)
    }

    /// The key directory. Its address may hold a password: no failure repeats it.
    pub(crate) fn directory(&self) -> Result<Directory, Failure> {
        let url = match (&self.hosts.directory, &self.hosts.directory_file, self.endpoints()?) {
            (Some(url), ..) => url.clone(),
            (None, Some(file), _) => read_address(file)?,
            (None, None, Some(endpoints)) => endpoints.redis,
            (None, None, None) => DIRECTORY.to_owned(),
        };
        Directory::connect(&url).or_fail(Exit::Usage, || "cannot use the address of the key directory")
    }

    pub(crate) fn open(&self, address: &Address) -> Result<Door, Failure> {
        self.reach.open(address)
    }
}

/// An address of the key directory as an argument, which every user of this machine can read: none with a password.
pub(crate) fn directory_url(text: &str) -> Result<String, String> {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    // A password may itself hold an `@` or a `/`, if not well spelled: the last one counts.
    let before_host = rest.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
    // As the address of a Unix socket has it.
    let in_query = rest.split_once('?').is_some_and(|(_, query)| query.contains("pass"));
    if before_host || in_query {
        return Err(
            "every user of this machine can read an argument: write an address that has a password into a \
                    private file, and name that with --directory-file"
                .to_owned(),
        );
    }
    Ok(text.to_owned())
}

/// An address from a file that nobody but its owner can read.
fn read_address(file: &std::path::Path) -> Result<String, Failure> {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;
    let context = || format!("cannot read the address in `{}`", file.display());
    let opened = std::fs::File::open(file).or_fail(Exit::Io, context)?;
    let mode = opened.metadata().or_fail(Exit::Io, context)?.permissions().mode();
    if mode & 0o077 != 0 {
        let what = format!("others can read `{}`: chmod 600 it", file.display());
        return Err(Failure::new(Exit::Config, what));
    }
    let mut text = String::new();
    opened.take(ADDRESS_FILE_MAX).read_to_string(&mut text).or_fail(Exit::Io, context)?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_password_is_no_argument() {
        for (text, good) in [
            ("redis://127.0.0.1:6379", true),
            ("rediss://keelson@redis.example:6380", true),
            ("redis://user:secret@127.0.0.1:6379", false),
            ("redis://:secret@127.0.0.1:6379", false),
            ("rediss://:se@cr/et@redis.example", false),
            ("unix:///run/redis/redis.sock", true),
            ("unix:///run/redis/redis.sock?user=a&pass=secret", false),
        ] {
            let parsed = directory_url(text);
            assert_eq!(parsed.is_ok(), good, "{text}");
            if let Err(refused) = parsed {
                assert!(refused.contains("--directory-file") && !refused.contains("secret"), "{refused}");
            }
        }
    }

    #[test]
    fn an_address_in_a_file_is_read_if_nobody_else_can() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("address");
        std::fs::write(&file, "redis://:secret@127.0.0.1:6379\n").unwrap();
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o644, false)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            match read_address(&file) {
                Ok(address) => assert!(good && address == "redis://:secret@127.0.0.1:6379", "{mode:o}"),
                Err(failure) => assert!(!good && failure.to_string().contains("chmod 600"), "{failure}"),
            }
        }
        assert!(read_address(&folder.path().join("none")).is_err());
    }
}
