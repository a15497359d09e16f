//! What lies where in the directory of `opsctl dev`. Each program has one folder, named after it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use keychain::Digest;
use zeroize::Zeroizing;

use crate::failure::{Exit, Failure, OrFail};

/// `sun_path` of a Unix socket address holds 108 bytes with its terminating zero.
const SOCKET_PATH_MAX: usize = 107;
/// The longest path below the root that a socket is given, with room for an app's name.
const LONGEST_SOCKET_NAME: usize = "/hsmd/edge-typescript-r.sock".len();
/// Bytes of entropy in each secret.
const SECRET_LENGTH: usize = 16;

/// The directory, locked for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    _lock: File,
}

impl Layout {
    /// Makes the directory when missing and takes its lock.
    pub(crate) fn open(dir: &Path) -> Result<Self, Failure> {
        make_directory(dir)?;
        let root = dir
            .canonicalize()
            .or_fail(Exit::Io, || format!("cannot resolve the directory `{}`", dir.display()))?;
        let length = root.as_os_str().as_bytes().len();
        if length + LONGEST_SOCKET_NAME > SOCKET_PATH_MAX {
            let longest = SOCKET_PATH_MAX - LONGEST_SOCKET_NAME;
            return Err(Failure::new(
                Exit::Usage,
                format!(
                    "the path `{}` is too long for Unix sockets: choose a --dir of at most {longest} bytes",
                    root.display()
                ),
            ));
        }
        let lock = take_lock(&root)?;
        Ok(Self { root, _lock: lock })
    }

    /// The folder of one program, made when missing.
    pub(crate) fn folder(&self, program: &str) -> Result<PathBuf, Failure> {
        let folder = self.root.join(program);
        make_directory(&folder)?;
        Ok(folder)
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("log")
    }

    pub(crate) fn endpoints(&self) -> PathBuf {
        self.root.join("endpoints.json")
    }

    pub(crate) fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.root.join("hsmd").join(format!("{name}.sock"))
    }
}

/// Makes a directory that only its owner may enter.
pub(crate) fn make_directory(path: &Path) -> Result<(), Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .or_fail(Exit::Io, || format!("cannot make the directory `{}`", path.display()))
}

/// Replaces a file that only its owner may read. A reader sees the old text or the new one, never half.
pub(crate) fn write_private(path: &Path, text: &[u8]) -> Result<(), Failure> {
    let write = || {
        let parent = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(parent)?; // mode 0600
        file.write_all(text)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok::<_, std::io::Error>(())
    };
    write().or_fail(Exit::Io, || format!("cannot write `{}`", path.display()))
}

/// The secret in a file, drawn anew when there is none yet.
pub(crate) fn secret(path: &Path) -> Result<Zeroizing<String>, Failure> {
    if let Ok(text) = std::fs::read_to_string(path) {
        return Ok(Zeroizing::new(text));
    }
    let text = draw()?;
    write_private(path, text.as_bytes())?;
    Ok(text)
}

/// A fresh secret of printable characters.
pub(crate) fn draw() -> Result<Zeroizing<String>, Failure> {
    let mut bytes = Zeroizing::new([0; SECRET_LENGTH]);
    aws_lc_rs::rand::fill(bytes.as_mut()).or_fail(Exit::Software, || "cannot draw random bytes")?;
    Ok(Zeroizing::new(format!("{:032x}", u128::from_be_bytes(*bytes))))
}

/// The key of authd's MACs in a file, drawn when there is none yet, in the form that `authd mac-key` prints.
pub(crate) fn mac_key(path: &Path) -> Result<(), Failure> {
    if path.exists() {
        return Ok(());
    }
    let digits = Zeroizing::new([draw()?.as_str(), draw()?.as_str()].concat());
    let digest = Digest::of_parts(&["keelson store MAC key 1\n", &digits]).to_string();
    let id = digest.get(1..13).unwrap_or_default();
    let line = Zeroizing::new(format!("keelson-store-mac-1 {id} {}\n", *digits));
    write_private(path, line.as_bytes())
}

fn take_lock(root: &Path) -> Result<File, Failure> {
    let path = root.join("lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .or_fail(Exit::Io, || format!("cannot open the lock `{}`", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Failure::new(
            Exit::Temporary,
            format!("another `opsctl dev` runs in `{}`: stop it or choose another --dir", root.display()),
        )),
        Err(TryLockError::Error(error)) => {
            Err(Failure::new(Exit::Io, format!("cannot lock `{}`", path.display())).because(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Layout::open(dir.path()).unwrap();
        assert_eq!(Layout::open(dir.path()).unwrap_err().exit(), Exit::Temporary);
        drop(first);
        Layout::open(dir.path()).unwrap();
    }

    #[test]
    fn a_path_too_long_for_sockets_is_refused_before_anything_starts() {
        let dir = tempfile::tempdir().unwrap();
        let failure = Layout::open(&dir.path().join("d".repeat(SOCKET_PATH_MAX))).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage, "{failure}");
    }

    #[test]
    fn a_secret_is_private_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        let drawn = secret(&path).unwrap();
        assert_eq!(drawn.len(), 2 * SECRET_LENGTH);
        assert_eq!(*secret(&path).unwrap(), *drawn);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
