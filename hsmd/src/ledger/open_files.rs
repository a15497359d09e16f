//! Whether the files at an SQLite ledger's paths are those that this process has open.
//!
//! They are compared by device and inode, with `stat` alone: opening one of them a second time and closing it would
//! drop the locks that SQLite has on it.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// The files of an SQLite database as they were opened.
#[derive(Clone, Debug)]
pub(super) struct OpenFiles(Vec<(PathBuf, Inode)>);

type Inode = (u64, u64);

impl OpenFiles {
    /// The database at `path`, its WAL and the WAL's index, which this process has open already. An error names the
    /// one that it has not.
    pub(super) fn of(path: &Path) -> Result<Self, String> {
        let open: Vec<_> = own_files().map_err(|error| error.to_string())?;
        let mut files = Vec::new();
        for ending in ["", "-wal", "-shm"] {
            let mut name = path.as_os_str().to_owned();
            name.push(ending);
            let path = PathBuf::from(name);
            match inode_at(&path).filter(|inode| open.contains(inode)) {
                Some(inode) => files.push((path, inode)),
                None => return Err(path.display().to_string()),
            }
        }
        Ok(Self(files))
    }

    /// The path at which another file is now, or none; nothing if all are as they were opened.
    pub(super) fn exchanged(&self) -> Option<String> {
        let exchanged = self.0.iter().find(|(path, inode)| inode_at(path) != Some(*inode));
        exchanged.map(|(path, _)| path.display().to_string())
    }
}

fn inode_at(path: &Path) -> Option<Inode> {
    path.metadata().ok().map(|metadata| inode(&metadata))
}

fn inode(metadata: &Metadata) -> Inode {
    (metadata.dev(), metadata.ino())
}

/// The inodes of everything that this process has open.
fn own_files() -> io::Result<Vec<Inode>> {
    let files = fs::read_dir("/proc/self/fd")?;
    // One that was closed meanwhile is none of them.
    Ok(files.filter_map(|file| fs::metadata(file.ok()?.path()).ok()).map(|found| inode(&found)).collect())
}
