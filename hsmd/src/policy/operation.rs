//! What can be asked of hsmd that changes or signs something.

use serde::Deserialize;

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// What operators ask for.
    Admin,
    /// Endorsements.
    Endorse,
    /// Reports of what is published, from the publisher.
    Publish,
}

impl Role {
    /// The word for it in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Endorse => "endorse",
            Self::Publish => "publish",
        }
    }
}

/// An operation that the policy permits or not. A new one takes a variant here, a row in
/// `Operation::row`, and an entry of [`Operation::ALL`]; nothing else in the policy knows their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Operation {
    /// Trust the clock that is in doubt.
    AcceptClock,
    /// Read the audit trail, and cut what was archived.
    Audit,
    /// Sign an endorsement of a service's key.
    Endorse,
    /// Let a revoked service have endorsements again.
    OpenService,
    /// Import the verified published chain into a ledger that was restored from an old backup, and what heads listed.
    Recover,
    /// Say what is published, which hsmd compares with what it made.
    Report,
    /// Have keys of services revoked.
    RevokeKeys,
    /// Have all endorsements of a service revoked, and give it no more.
    RevokeService,
    /// Have a service replace its keys, which stay good.
    RollService,
    /// Leave a generation for the next.
    Rotate,
    /// Leave a generation for the next, and have it refused everywhere.
    Taint,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::AcceptClock,
        Self::Audit,
        Self::Endorse,
        Self::OpenService,
        Self::Recover,
        Self::Report,
        Self::RevokeKeys,
        Self::RevokeService,
        Self::RollService,
        Self::Rotate,
        Self::Taint,
    ];

    /// The word for it in the policy, and the socket that it belongs to.
    const fn row(self) -> (&'static str, Role) {
        match self {
            Self::AcceptClock => ("accept-clock", Role::Admin),
            Self::Audit => ("audit", Role::Admin),
            Self::Endorse => ("endorse", Role::Endorse),
            Self::OpenService => ("open-service", Role::Admin),
            Self::Recover => ("recover", Role::Admin),
            Self::Report => ("report", Role::Publish),
            Self::RevokeKeys => ("revoke-keys", Role::Admin),
            Self::RevokeService => ("revoke-service", Role::Admin),
            Self::RollService => ("roll-service", Role::Admin),
            Self::Rotate => ("rotate", Role::Admin),
            Self::Taint => ("taint", Role::Admin),
        }
    }

    /// The word for it in the policy and in logs.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// Which kind of socket it is asked for through.
    pub const fn role(self) -> Role {
        self.row().1
    }
}

impl TryFrom<String> for Operation {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::ALL.into_iter().find(|operation| operation.as_str() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|operation| operation.as_str()).collect();
            format!("key `operations`: there is no operation `{text}`; write some of {}", known.join(", "))
        })
    }
}
