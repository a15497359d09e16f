//! Whether memory can reach a disk that is not encrypted.

use std::fs;

use rustix::system::sysinfo;

/// What is known of this host's swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// There is none.
    Absent,
    /// All of it is encrypted, or is memory itself.
    Encrypted,
    /// Some of it is not.
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
        match fs::read_to_string("/proc/swaps") {
            Ok(list) => Self::judge(&list, is_encrypted),
            Err(_hidden) => Self::Unknown,
        }
    }

    /// Judges the kernel's list, of which the first line names the columns.
    fn judge(list: &str, is_encrypted: impl Fn(&str) -> bool) -> Self {
        let mut places = list.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        if places.all(is_encrypted) { Self::Encrypted } else { Self::Plain }
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

/// A mapping of dm-crypt, or compressed memory. A file lies on a disk of which nothing is known here.
fn is_encrypted(place: &str) -> bool {
    let Some(device) = place.strip_prefix("/dev/") else { return false };
    if device.starts_with("zram") {
        return true;
    }
    let kind = fs::read_to_string(format!("/sys/block/{device}/dm/uuid"));
    kind.is_ok_and(|kind| kind.starts_with("CRYPT-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_encrypted_only_if_all_of_it_is() {
        let head = "Filename\tType\tSize\tUsed\tPriority\n";
        for (lines, wanted) in [
            ("/dev/dm-1 partition 8 0 -2\n", Swap::Encrypted),
            ("/dev/dm-1 partition 8 0 -2\n/swapfile file 8 0 -3\n", Swap::Plain),
            ("/dev/sda2 partition 8 0 -2\n", Swap::Plain),
        ] {
            assert_eq!(Swap::judge(&format!("{head}{lines}"), |place| place == "/dev/dm-1"), wanted);
        }
        assert!(is_encrypted("/dev/zram0") && !is_encrypted("/dev/sda2") && !is_encrypted("/swapfile"));
    }
}
