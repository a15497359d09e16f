//! Users, by name or number.

use std::{fmt, fs, io};

use serde::Deserialize;

/// A user as configuration names it: `"authd"` or `1001`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum User {
    /// The number itself.
    Number(u32),
    /// A name of `/etc/passwd`.
    Name(String),
}

impl User {
    /// The user's number; nothing if there is no such user on this host.
    ///
    /// Only `/etc/passwd` is asked: which process may have keys endorsed is not for a directory server to
    /// say, and service users are local.
    pub fn number(&self) -> io::Result<Option<u32>> {
        match self {
            Self::Number(number) => Ok(Some(*number)),
            Self::Name(name) => Ok(find(&fs::read_to_string("/etc/passwd")?, name)),
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

fn find(passwd: &str, name: &str) -> Option<u32> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1))??.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_whole() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nauthd:x:990:990::/:/bin/false\nbroken\nodd:x:\n";
        for (name, number) in [
            ("root", Some(0)),
            ("authd", Some(990)),
            ("auth", None),
            ("broken", None),
            ("odd", None),
            ("", None),
        ] {
            assert_eq!(find(passwd, name), number, "{name}");
        }
    }
}
