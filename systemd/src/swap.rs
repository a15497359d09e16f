//! Whether memory can reach a disk that is not encrypted.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{major, minor};
use rustix::system::sysinfo;

/// The kernel's list, and where the units show it to a service whose sandbox hides the first (`BindReadOnlyPaths=`).
const LISTS: [&str; 2] = ["/proc/swaps", "/run/keelson/swaps"];

/// Where the kernel tells of block devices.
const SYS: &str = "/sys";

/// Devices that lie on each other: a file on a volume on a mapping on a disk is three.
const DEPTH_MAX: u8 = 8;

/// What is known of this host's swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// There is none.
    Absent,
    /// All of it is encrypted, or is memory itself.
    Encrypted,
    /// Some of it is not known to be.
    Plain,
    /// There is some, and a sandbox hides what it is.
    Unknown,
}

impl Swap {
    /// Looks.
    pub fn look() -> Self {
        if sysinfo().totalswap == 0 {
            return Self::Absent;
        }
        let list = LISTS.iter().find_map(|path| fs::read_to_string(path).ok());
        list.map_or(Self::Unknown, |list| Self::judge(&list, Path::new(SYS)))
    }

    /// Judges the kernel's list, of which the first line names the columns. A list without a place is not the kernel's:
    /// there is swap.
    fn judge(list: &str, sys: &Path) -> Self {
        let mut lines = list.lines();
        if !lines.next().is_some_and(|head| head.starts_with("Filename")) {
            return Self::Unknown;
        }
        let mut places = lines.filter_map(|line| line.split_whitespace().next()).peekable();
        if places.peek().is_none() {
            return Self::Unknown;
        }
        if places.all(|place| is_encrypted(sys, place, DEPTH_MAX)) { Self::Encrypted } else { Self::Plain }
    }

    /// One word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Encrypted => "encrypted",
            Self::Plain => "plain",
            Self::Unknown => "unknown",
        }
    }
}

/// A device by its name, or a file by the device of its file system.
fn is_encrypted(sys: &Path, place: &str, depth: u8) -> bool {
    if let Some(device) = place.strip_prefix("/dev/") {
        return is_device_encrypted(sys, &sys.join("class/block").join(device), depth);
    }
    let Ok(file) = fs::metadata(place) else { return false };
    let device = format!("dev/block/{}:{}", major(file.dev()), minor(file.dev()));
    is_device_encrypted(sys, &sys.join(device), depth)
}

/// A mapping of dm-crypt, whatever lies on nothing else, or compressed memory that is written nowhere else.
fn is_device_encrypted(sys: &Path, device: &Path, depth: u8) -> bool {
    let Some(left) = depth.checked_sub(1) else { return false };
    let says = |name: &str| fs::read_to_string(device.join(name)).ok();
    if says("dm/uuid").is_some_and(|kind| kind.starts_with("CRYPT-")) {
        return true;
    }
    // What zram finds incompressible it may write to a device.
    if let Some(backing) = says("backing_dev") {
        let backing = backing.trim();
        return backing == "none" || is_encrypted(sys, backing, left);
    }
    let is_memory = device.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"zram"));
    if is_memory && device.is_dir() {
        return true;
    }
    let Ok(below) = fs::read_dir(device.join("slaves")) else { return false };
    let mut below = below.filter_map(Result::ok).peekable();
    below.peek().is_some() && below.all(|entry| is_device_encrypted(sys, &entry.path(), left))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Filename\tType\tSize\tUsed\tPriority\n";

    /// A tree as the kernel shows it.
    fn sys() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join("class/block").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("dm-1/dm/uuid", "CRYPT-LUKS2-0123-swap\n");
        write("dm-2/dm/uuid", "LVM-0123\n");
        write("dm-3/dm/uuid", "LVM-4567\n");
        write("sda2/partition", "2\n");
        write("zram0/backing_dev", "none\n");
        write("zram1/backing_dev", "/dev/sda2\n");
        write("zram2/backing_dev", "/dev/dm-1\n");
        write("zram3/disksize", "1\n");
        write("dm-9/dm/uuid", "LVM-8901\n");
        let below = |device: &str, others: &[&str]| {
            let slaves = root.path().join("class/block").join(device).join("slaves");
            fs::create_dir(&slaves).unwrap();
            for other in others {
                std::os::unix::fs::symlink(root.path().join("class/block").join(other), slaves.join(other))
                    .unwrap();
            }
        };
        below("dm-2", &["dm-1"]);
        below("dm-3", &["dm-1", "sda2"]);
        below("sda2", &[]);
        below("dm-9", &["dm-9"]); // a circle, which the kernel does not make
        root
    }

    #[test]
    fn swap_is_encrypted_only_if_all_of_it_is() {
        let sys = sys();
        for (places, wanted) in [
            (&["/dev/dm-1"][..], Swap::Encrypted),
            (&["/dev/dm-2"], Swap::Encrypted),
            (&["/dev/dm-1", "/dev/zram0", "/dev/zram2", "/dev/zram3"], Swap::Encrypted),
            (&["/dev/dm-3"], Swap::Plain),
            (&["/dev/sda2"], Swap::Plain),
            (&["/dev/dm-1", "/dev/sda2"], Swap::Plain),
            (&["/dev/zram1"], Swap::Plain),
            (&["/dev/zram7"], Swap::Plain),
            (&["/dev/dm-9"], Swap::Plain),
            (&["/dev/gone"], Swap::Plain),
            (&["/dev/dm-1", "/nonexistent/swapfile"], Swap::Plain),
            (&[], Swap::Unknown),
        ] {
            let lines: String = places.iter().flat_map(|place| [*place, " partition 8 0 -2\n"]).collect();
            assert_eq!(Swap::judge(&format!("{HEAD}{lines}"), sys.path()), wanted, "{places:?}");
        }
        for list in ["", "\n", "/dev/dm-1 partition 8 0 -2\n"] {
            assert_eq!(Swap::judge(list, sys.path()), Swap::Unknown, "{list:?}");
        }
    }

    /// A file is as its file system's device is.
    #[test]
    fn a_file_is_judged_by_its_device() {
        let sys = sys();
        let file = tempfile::NamedTempFile::new().unwrap();
        let list = format!("{HEAD}{} file 8 0 -2\n", file.path().display());
        assert_eq!(Swap::judge(&list, sys.path()), Swap::Plain);
        let device = file.as_file().metadata().unwrap().dev();
        let name = format!("{}:{}", major(device), minor(device));
        fs::create_dir_all(sys.path().join("dev/block")).unwrap();
        let target = sys.path().join("class/block/dm-1");
        std::os::unix::fs::symlink(target, sys.path().join("dev/block").join(name)).unwrap();
        assert_eq!(Swap::judge(&list, sys.path()), Swap::Encrypted);
    }
}
