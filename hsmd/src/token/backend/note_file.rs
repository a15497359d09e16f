//! A small file in the state folder, replaced whole.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// Longest content.
const LENGTH_MAX: u64 = 1024;

/// The file, readable by hsmd alone.
#[derive(Clone, Debug)]
pub struct NoteFile {
    path: PathBuf,
}

impl NoteFile {
    /// The file at `path`; it need not be there.
    pub const fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its content; none if it is not there, or if a write was cut short before it had any.
    pub fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let file = match fs::File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut content = Vec::new();
        file.take(LENGTH_MAX).read_to_end(&mut content)?;
        Ok(Some(content).filter(|content| !content.is_empty()))
    }

    /// Replaces the content, on disk when this returns.
    pub fn write(&self, content: &[u8]) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        file.sync_data()?;
        fs::rename(&new, &self.path)
    }

    /// Removes it, if it is there.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
