//! Small secrets that outlive the process without touching a disk: sealed memory files in the service manager's
//! descriptor store (`FDSTORE=1`), which come back by their names at the next start.
//!
//! systemd 252 keeps them through `systemctl restart` and a crash; a stop, a start limit that was hit and the removal of
//! the package end them. The unit must have `FileDescriptorStoreMax=`. Without a service manager nothing is kept.
//!
//! Invariants:
//! - What comes back is taken only by its name, only if there is one of that name, and only if it is a memory file under
//!   all seals: whoever else holds it cannot change it while it is read. What it says is the caller's to prove.
//! - What replaces another is sent after the order to drop that one.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use zeroize::Zeroizing;

use crate::{notify, passed};

/// Longest content: a key and its endorsement of at most 4 KiB.
pub const LENGTH_MAX: u64 = 8 * 1_024;

/// All that a memory file can be sealed with on every kernel that is supported.
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// Why what came back under a name is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There are several, and which one is the newest cannot be known.
    #[error("there are {0} of that name")]
    Several(usize),
    /// It is no memory file, or one that can still be changed.
    #[error("it is not a memory file under all seals")]
    Unsealed,
    /// It is empty, or longer than anything that is kept.
    #[error("it has {0} bytes, and what is kept has 1 to {LENGTH_MAX}")]
    Length(u64),
    /// It cannot be read.
    #[error("it cannot be read")]
    Unreadable(#[source] io::Error),
}

/// Takes what was kept as `name` before this process started; a second call finds nothing.
pub fn take(name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Refused> {
    let mut passed = passed::take_all(name);
    match (passed.pop(), passed.len()) {
        (None, _) => Ok(None),
        (Some(only), 0) => read(only).map(Some),
        (Some(_), more) => Err(Refused::Several(more.saturating_add(1))),
    }
}

/// Keeps `content` as `name`, in the place of what was kept so before.
pub fn keep(name: &str, content: &[u8]) -> io::Result<()> {
    if !notify::is_heard() {
        return Ok(());
    }
    let file = seal(name, content)?;
    forget(name)?;
    notify::with_descriptor(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n"), Some(file.as_fd()))
}

/// Drops what is kept as `name`.
pub fn forget(name: &str) -> io::Result<()> {
    notify::with_descriptor(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), None::<BorrowedFd<'_>>)
}

/// A memory file that holds `content` and can be changed by nobody.
fn seal(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(content)?;
    fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

fn read(descriptor: OwnedFd) -> Result<Zeroizing<Vec<u8>>, Refused> {
    // Whatever is no memory file has no seals.
    if !fcntl_get_seals(&descriptor).is_ok_and(|seals| seals.contains(SEALS)) {
        return Err(Refused::Unsealed);
    }
    let file = File::from(descriptor);
    let length = file.metadata().map_err(Refused::Unreadable)?.len();
    let size = usize::try_from(length).ok().filter(|_| (1..=LENGTH_MAX).contains(&length));
    let mut content = Zeroizing::new(vec![0; size.ok_or(Refused::Length(length))?]);
    file.read_exact_at(&mut content, 0).map_err(Refused::Unreadable)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(content: &[u8], seals: SealFlags) -> OwnedFd {
        let file = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        let mut file = File::from(file);
        file.write_all(content).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        file.into()
    }

    #[test]
    fn what_was_sealed_is_read_and_nothing_else() {
        assert_eq!(*read(seal("test", b"secret").unwrap()).unwrap(), b"secret");
        for seals in [SealFlags::empty(), SEALS.difference(SealFlags::WRITE), SEALS - SealFlags::SEAL] {
            assert!(matches!(read(memory(b"secret", seals)), Err(Refused::Unsealed)), "{seals:?}");
        }
        let longest = usize::try_from(LENGTH_MAX).unwrap();
        assert_eq!(read(memory(&vec![7; longest], SEALS)).unwrap().len(), longest);
        for length in [0, longest + 1] {
            assert!(matches!(read(memory(&vec![7; length], SEALS)), Err(Refused::Length(_))), "{length}");
        }
        let disk = tempfile::tempfile().unwrap();
        assert!(matches!(read(disk.into()), Err(Refused::Unsealed)));
        assert!(matches!(read(File::open("/dev/null").unwrap().into()), Err(Refused::Unsealed)));
    }
}
