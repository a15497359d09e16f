//! What an operator declares, and how a verifier refuses what it is about.

use keychain::Code;

/// One kind of declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declaration {
    /// An identity is banned: `opsctl ban`.
    Ban,
    /// A generation that was left before is denied: `opsctl taint --generation`. Services re-key themselves.
    Deny,
    /// The key that signs tokens is revoked: `opsctl revoke-key`. authd makes itself another.
    RevokeKey,
    /// The newest generation is tainted: `opsctl taint`. The chain grows, and services re-key themselves.
    Taint,
}

/// What a declaration is about.
pub(super) struct Subject {
    /// Who asks.
    pub(super) identity: String,
    /// The key that signed its token.
    pub(super) issuer: String,
    /// The generation that endorsed that key.
    pub(super) generation: String,
}

impl Declaration {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Ban, Self::RevokeKey, Self::Deny, Self::Taint];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ban => "ban",
            Self::Deny => "deny",
            Self::RevokeKey => "revoke-key",
            Self::Taint => "taint",
        }
    }

    /// What verifiers refuse with from then on.
    pub(super) const fn code(self) -> Code {
        match self {
            Self::Ban | Self::RevokeKey => Code::Revoked,
            Self::Deny | Self::Taint => Code::DeadKey,
        }
    }

    /// The words after `opsctl`. A taint names the generation, as an operator does who means to act once.
    pub(super) fn words(self, subject: &Subject) -> Vec<&str> {
        let confirmed = ["--reason", "drill", "--yes", "--wait", "1m"];
        match self {
            Self::Ban => vec!["ban", &subject.identity, "--reason", "drill"],
            Self::RevokeKey => [&["revoke-key", subject.issuer.as_str()], &confirmed[..]].concat(),
            Self::Deny | Self::Taint => {
                [&["taint", "--generation", subject.generation.as_str()], &confirmed[..]].concat()
            }
        }
    }
}
