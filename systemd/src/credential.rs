//! Secrets: systemd credentials by name, or private files by absolute path.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Where systemd puts the credentials of a service.
const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Reads a secret of at most `max` bytes, wiped from memory when dropped.
///
/// A bare name such as `pin` means the credential of that name (`LoadCredential=` or
/// `LoadCredentialEncrypted=` in the unit). An absolute path means that file, which nobody but
/// its owner may be able to read. One trailing newline, as editors leave it, is dropped. An empty
/// secret is refused.
pub fn read(name_or_path: &str, max: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
    let directory = std::env::var_os(DIRECTORY).map(PathBuf::from);
    locate(name_or_path, directory.as_deref())?.read(max)
}

/// Why a secret could not be had. No variant holds a byte of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It holds nothing.
    #[error("the secret in `{}` is empty: write it there", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Others can read it.
    #[error("the secret in `{}` is open to others (mode {mode:04o}): chmod 0600 and change the secret", path.display())]
    Loose {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Neither a credential's name nor an absolute path.
    #[error("`{name}` names no secret: give a credential's bare name or an absolute path")]
    Name {
        /// What was configured.
        name: String,
    },
    /// A bare name, but no credentials were passed.
    #[error(
        "no credential `{name}` was passed: add LoadCredential={name}:FILE to the unit, or configure an absolute path"
    )]
    NotPassed {
        /// The credential.
        name: String,
    },
    /// It is longer than any secret of its kind.
    #[error("the secret in `{}` is longer than {max} bytes: give the right file", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit, in bytes.
        max: usize,
    },
    /// The file cannot be read.
    #[error("cannot read the secret in `{}`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Where a secret lies, and whether its permissions are ours to judge.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// systemd guards what it passes (a folder of mode 0500 on its own file system); a plain file
    /// has only its own permissions.
    guarded: bool,
}

fn locate(name_or_path: &str, directory: Option<&Path>) -> Result<Place, Error> {
    if Path::new(name_or_path).is_absolute() {
        return Ok(Place { path: name_or_path.into(), guarded: false });
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name_or_path.is_empty() || name_or_path.starts_with('.') || !name_or_path.bytes().all(plain) {
        return Err(Error::Name { name: name_or_path.to_owned() });
    }
    let path = directory.map(|directory| directory.join(name_or_path)).filter(|path| path.exists());
    path.map(|path| Place { path, guarded: true })
        .ok_or_else(|| Error::NotPassed { name: name_or_path.to_owned() })
}

impl Place {
    fn read(&self, max: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
        let path = || self.path.clone();
        let file = self.open().map_err(|source| Error::Unreadable { path: path(), source })?;
        if let (false, Some(mode)) = (self.guarded, loose(&file)) {
            return Err(Error::Loose { path: path(), mode });
        }
        // Room for the newline and for one byte too many, so that the vector never grows and
        // leaves a copy behind.
        let limit = max.saturating_add(2);
        let mut secret = Zeroizing::new(Vec::with_capacity(limit));
        file.take(limit as u64)
            .read_to_end(&mut secret)
            .map_err(|source| Error::Unreadable { path: path(), source })?;
        if secret.last() == Some(&b'\n') {
            secret.pop();
        }
        match secret.len() {
            0 => Err(Error::Empty { path: path() }),
            length if length > max => Err(Error::TooLong { path: path(), max }),
            _ => Ok(secret),
        }
    }

    fn open(&self) -> io::Result<File> {
        let file = File::open(&self.path)?;
        if file.metadata()?.is_file() {
            return Ok(file);
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// The permission bits, when they let anyone but root and this process read or replace the
/// secret. Asked of the opened file, so that it cannot be swapped between check and use.
fn loose(file: &File) -> Option<u32> {
    let Ok(metadata) = file.metadata() else { return Some(0) };
    let mode = metadata.permissions().mode() & 0o7777;
    let owned = metadata.uid() == rustix::process::geteuid().as_raw() || metadata.uid() == 0;
    (mode & 0o077 != 0 || !owned).then_some(mode)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn place(folder: &Path, content: &[u8], mode: u32, guarded: bool) -> Place {
        let path = folder.join("pin");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Place { path, guarded }
    }

    fn read_text(content: &[u8], max: usize) -> Result<String, Error> {
        let folder = tempfile::tempdir().unwrap();
        let secret = place(folder.path(), content, 0o600, false).read(max)?;
        Ok(String::from_utf8(secret.to_vec()).unwrap())
    }

    #[test]
    fn one_trailing_newline_is_dropped() {
        for (content, expected) in
            [("1234", "1234"), ("1234\n", "1234"), ("1234\n\n", "1234\n"), (" 1", " 1")]
        {
            assert_eq!(read_text(content.as_bytes(), 16).unwrap(), expected);
        }
    }

    #[test]
    fn the_limit_is_exact() {
        assert_eq!(read_text(b"12345678", 8).unwrap(), "12345678");
        assert_eq!(read_text(b"12345678\n", 8).unwrap(), "12345678");
        assert!(matches!(read_text(b"123456789", 8), Err(Error::TooLong { max: 8, .. })));
        assert!(matches!(read_text(&[b'1'; 1000], 8), Err(Error::TooLong { .. })));
    }

    #[test]
    fn an_empty_secret_is_refused() {
        assert!(matches!(read_text(b"", 8), Err(Error::Empty { .. })));
        assert!(matches!(read_text(b"\n", 8), Err(Error::Empty { .. })));
    }

    #[test]
    fn a_file_open_to_others_is_refused_and_says_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o604, 0o640, 0o660, 0o644, 0o601] {
            let error = place(folder.path(), b"1234", mode, false).read(8).unwrap_err();
            assert!(matches!(error, Error::Loose { mode: seen, .. } if seen == mode), "{error}");
            assert!(error.to_string().contains("chmod 0600"), "{error}");
        }
        // What systemd passes is root's, readable for the service by an access list.
        assert_eq!(*place(folder.path(), b"1234", 0o440, true).read(8).unwrap(), *b"1234");
    }

    #[test]
    fn names_and_paths() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("pin"), "1234").unwrap();
        let directory = Some(folder.path());
        assert!(locate("pin", directory).unwrap().guarded);
        assert!(!locate("/etc/hsmd/pin", directory).unwrap().guarded);
        for name in ["", ".", "..", "../pin", "a/b", "pin\n", ".pin", "pin "] {
            assert!(matches!(locate(name, directory), Err(Error::Name { .. })), "`{name}`");
        }
        assert!(matches!(locate("other", directory), Err(Error::NotPassed { .. })));
        assert!(matches!(locate("pin", None), Err(Error::NotPassed { .. })));
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { path: folder.path().to_owned(), guarded: true };
        assert!(matches!(place.read(8), Err(Error::Unreadable { .. })));
    }
}
