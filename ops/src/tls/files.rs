//! Files that are there whole or not at all.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::failure::{Exit, Failure, OrFail};

/// Who may read a file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Readers {
    /// Its owner alone: keys.
    Owner,
    /// Everybody: certificates.
    World,
}

/// How the temporary name of a file ends.
const UNFINISHED: &str = ".new";

/// Writes a file that is not there yet; one that is there is left as it is, and the write fails.
pub(super) fn write_new(path: &Path, text: &[u8], readers: Readers) -> Result<(), Failure> {
    let write = || {
        written(path, text, readers)?.persist_noclobber(path)?;
        sync_folder(path)
    };
    write().or_fail(Exit::Io, || format!("cannot write `{}`", path.display()))
}

/// Puts a file in the place of one that may be there. A reader sees the old text or the new one.
pub(super) fn replace(path: &Path, text: &[u8], readers: Readers) -> Result<(), Failure> {
    let write = || {
        written(path, text, readers)?.persist(path)?;
        sync_folder(path)
    };
    write().or_fail(Exit::Io, || format!("cannot write `{}`", path.display()))
}

/// Removes what a process that died left under temporary names of the file `path`.
pub(super) fn sweep(path: &Path) -> Result<(), Failure> {
    let prefix = temporary_prefix(path);
    let sweep = || {
        for entry in std::fs::read_dir(folder(path))? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with(&prefix) && name.ends_with(UNFINISHED)) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok::<_, io::Error>(())
    };
    sweep().or_fail(Exit::Io, || format!("cannot clean up `{}`", folder(path).display()))
}

/// The text of a file, if it has at most `max` bytes.
pub(super) fn read(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    // One byte more than allowed, so that a file of exactly the limit is told from a longer one.
    File::open(path)?.take(max as u64 + 1).read_to_end(&mut text)?;
    if text.len() > max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {max} bytes")));
    }
    Ok(text)
}

/// Whether anything has this name, be it a link to nothing.
pub(super) fn exists(path: &Path) -> Result<bool, Failure> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => {
            Err(Failure::new(Exit::Io, format!("cannot look at `{}`", path.display())).because(error))
        }
    }
}

/// Has the names in the folder of `path` stay through a power cut.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

/// The text under a temporary name beside `path`, on disk.
fn written(path: &Path, text: &[u8], readers: Readers) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new()
        .prefix(&temporary_prefix(path))
        .suffix(UNFINISHED)
        .tempfile_in(folder(path))?; // mode 0600
    file.write_all(text)?;
    if let Readers::World = readers {
        file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    }
    file.as_file().sync_all()?;
    Ok(file)
}

fn temporary_prefix(path: &Path) -> String {
    format!(".{}.", path.file_name().unwrap_or_default().display())
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_new_or_replaced_and_has_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        for (name, readers, expected) in [("key", Readers::Owner, 0o600), ("crt", Readers::World, 0o644)] {
            let path = folder.path().join(name);
            write_new(&path, b"one", readers).unwrap();
            assert_eq!(mode(&path), expected, "{name}");
            assert_eq!(write_new(&path, b"two", readers).unwrap_err().exit(), Exit::Io);
            assert_eq!(read(&path, 3).unwrap(), b"one", "{name} was overwritten");
            replace(&path, b"three", readers).unwrap();
            assert_eq!(read(&path, 5).unwrap(), b"three");
            assert_eq!(mode(&path), expected, "{name}");
            assert_eq!(read(&path, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        }
        assert_eq!(names(folder.path()), ["crt", "key"], "nothing else is left");
        assert_eq!(write_new(Path::new("/nowhere/x"), b"", Readers::Owner).unwrap_err().exit(), Exit::Io);
    }

    #[test]
    fn what_a_dead_process_left_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let stays = [".ca.crt.abc.new", ".ca.key.abc", "ca.key", "x.ca.key.abc.new"];
        for name in stays.into_iter().chain([".ca.key.abc.new", ".ca.key.def.new"]) {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        sweep(&folder.path().join("ca.key")).unwrap();
        assert_eq!(names(folder.path()), stays);
    }

    #[test]
    fn a_link_to_nothing_has_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        assert!(!exists(&path).unwrap());
        std::os::unix::fs::symlink("nothing", &path).unwrap();
        assert!(exists(&path).unwrap());
        assert!(write_new(&path, b"", Readers::Owner).is_err());
    }
}
