//! Who is at the other end of a connection, and whom a row of the policy means.

use std::{fmt, sync::Arc};

use super::San;

/// Who is at the other end of a connection: the kernel's word, or that of a certificate that the
/// configured authority signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Somebody on this host, through the insecure plain-HTTP address.
    Loopback,
    /// The holder of a client certificate with these names.
    Named(Arc<[San]>),
    /// A process of this user, by the peer credentials of its Unix connection.
    ///
    /// They are those of the process that called `connect`, read once at accept. Its process id is not looked at: it
    /// says nothing of the user, and may be another process's by now.
    User(u32),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("loopback"),
            Self::Named(names) if names.is_empty() => f.write_str("a certificate without names"),
            Self::Named(names) => {
                for (index, name) in names.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{name}")?;
                }
                Ok(())
            }
            Self::User(number) => write!(f, "uid {number}"),
        }
    }
}

/// Whom a row of the policy means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Anybody through the insecure plain-HTTP address.
    Loopback,
    /// Whoever holds a client certificate with this name.
    Named(San),
    /// Processes of this user.
    User(u32),
}

impl Who {
    /// Whether the caller is meant.
    pub fn is(&self, caller: &Caller) -> bool {
        match (self, caller) {
            (Self::Loopback, Caller::Loopback) => true,
            (Self::Named(name), Caller::Named(names)) => names.contains(name),
            (Self::User(meant), Caller::User(user)) => meant == user,
            _ => false,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("loopback"),
            Self::Named(name) => name.fmt(f),
            Self::User(number) => write!(f, "uid {number}"),
        }
    }
}
