//! Who may order what through the admin socket: data (`policy.toml`), default deny. Root is no exception.
//!
//! A caller is known by the kernel's word alone: the user of the process that connected.

use std::path::Path;
use std::time::Duration;

use keychain::{Code, Refusal};
use serde::Deserialize;
use systemd::caller::{Bucket, Rate, User};
use systemd::config::{self, Error};

/// Most rows. Each request looks through all of them.
const ROWS_MAX: usize = 256;

/// The rate of a row that gives none: a script that bans by the hundred gets through.
const USUAL: Rate = Rate::per_minute(600, 600);

/// What can be asked for through the admin socket. A new one takes a variant, a word, and a place in
/// [`Operation::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Operation {
    /// Delete an account.
    AccountDelete,
    /// See everything that is kept of an identity.
    AccountExport,
    /// Let a deleted account stand again.
    AccountRestore,
    /// See an account: its state, devices, ban and roles.
    AccountShow,
    /// Read the audit trail.
    Audit,
    /// Ban an identity.
    Ban,
    /// Revoke devices.
    DeviceRevoke,
    /// Lift denials that no record says.
    FeedLift,
    /// Begin a new epoch of the denial feed.
    FeedReopen,
    /// See where the denial feed stands, and what it holds.
    FeedShow,
    /// Delete every account.
    Reset,
    /// Grant a role.
    RoleGrant,
    /// Withdraw a granted role.
    RoleRevoke,
    /// Make new keys for authd itself.
    Roll,
    /// Lift a ban.
    Unban,
}

/// A policy: what one reading of the file gave.
#[derive(Debug)]
pub struct Policy {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    user: u32,
    operations: Vec<Operation>,
    bucket: Bucket,
}

/// That a caller may have one operation carried out. Only [`Policy::permit`] makes one.
#[derive(Clone, Debug)]
pub struct Authority {
    user: u32,
    operation: Operation,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    allow: Vec<WrittenRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRow {
    user: User,
    operations: Vec<Operation>,
    rate: Option<Rate>,
    burst: Option<u32>,
}

impl Policy {
    /// Reads and checks the file. Only its owner may write to it.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = config::read_protected(path)?;
        let Written { allow } = config::parse(path, &text)?;
        let wrong = |because| Error::value(path, "allow", because);
        if allow.len() > ROWS_MAX {
            return Err(wrong(format!("has more than {ROWS_MAX} rows")));
        }
        let mut rows: Vec<Row> = Vec::with_capacity(allow.len());
        for (place, row) in allow.into_iter().enumerate() {
            let number = place.saturating_add(1);
            let Some(row) = find(row).map_err(|because| wrong(format!("row {number}: {because}")))? else {
                continue;
            };
            if rows.iter().any(|earlier| earlier.overlaps(&row)) {
                return Err(wrong(format!(
                    "row {number} says again what its user may do: make one row of them"
                )));
            }
            rows.push(row);
        }
        if rows.is_empty() {
            return Err(wrong("has no row that allows a user of this host anything".to_owned()));
        }
        Ok(Self { rows })
    }

    /// Refuses a caller that no row names, before a byte of its request is read.
    pub fn demand_known(&self, user: Option<u32>) -> Result<u32, Refusal> {
        let user = user.ok_or(Refusal::new(Code::Forbidden, "it is not known who calls"))?;
        let known = self.rows.iter().any(|row| row.user == user);
        known.then_some(user).ok_or(Refusal::new(Code::Forbidden, "no row of the policy names the caller"))
    }

    /// Whether the caller may have this carried out, `at` of a monotonic clock.
    pub fn permit(&self, user: u32, operation: Operation, at: Duration) -> Result<Authority, Refusal> {
        let mut rows = self.rows.iter().filter(|row| row.user == user);
        let row = rows
            .find(|row| row.operations.contains(&operation))
            .ok_or(Refusal::new(Code::Forbidden, "no row of the policy lets the caller do this"))?;
        row.bucket
            .take(at)
            .map_err(|_| Refusal::new(Code::TooMany, "the caller's row of the policy is used up for now"))?;
        Ok(Authority { user, operation })
    }
}

impl Row {
    fn overlaps(&self, other: &Self) -> bool {
        let shared = |operation| other.operations.contains(operation);
        self.user == other.user && self.operations.iter().any(shared)
    }
}

impl Authority {
    /// Who asks, as the trail and the records name it.
    pub fn operator(&self) -> String {
        format!("uid {}", self.user)
    }

    /// What may be carried out.
    pub const fn operation(&self) -> Operation {
        self.operation
    }
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::AccountDelete,
        Self::AccountExport,
        Self::AccountRestore,
        Self::AccountShow,
        Self::Audit,
        Self::Ban,
        Self::DeviceRevoke,
        Self::FeedLift,
        Self::FeedReopen,
        Self::FeedShow,
        Self::Reset,
        Self::RoleGrant,
        Self::RoleRevoke,
        Self::Roll,
        Self::Unban,
    ];

    /// The word for it in the policy, the trail and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccountDelete => "account-delete",
            Self::AccountExport => "account-export",
            Self::AccountRestore => "account-restore",
            Self::AccountShow => "account-show",
            Self::Audit => "audit",
            Self::Ban => "ban",
            Self::DeviceRevoke => "device-revoke",
            Self::FeedLift => "feed-lift",
            Self::FeedReopen => "feed-reopen",
            Self::FeedShow => "feed-show",
            Self::Reset => "reset",
            Self::RoleGrant => "role-grant",
            Self::RoleRevoke => "role-revoke",
            Self::Roll => "roll",
            Self::Unban => "unban",
        }
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

/// The row with its user looked up; `None` for a user that this host does not have: such a row matches no caller.
fn find(written: WrittenRow) -> Result<Option<Row>, String> {
    let WrittenRow { user, operations, rate, burst } = written;
    if operations.is_empty() {
        return Err("key `operations`: is empty; a row that allows nothing can go".to_owned());
    }
    let rate = rate.unwrap_or(USUAL);
    let rate = burst.map_or(Ok(rate), |burst| rate.with_burst(burst))?;
    let number = user.number().map_err(|error| format!("cannot look users up in /etc/passwd: {error}"))?;
    let Some(number) = number else {
        tracing::warn!(%user, "a row of the policy names a user that /etc/passwd does not have");
        return Ok(None);
    };
    Ok(Some(Row { user: number, operations, bucket: Bucket::new(rate) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Policy, String> {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        Policy::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn what_no_row_allows_is_refused_root_included() {
        let policy = read(
            "[[allow]]\nuser = 7\noperations = [\"ban\", \"unban\"]\nrate = \"2/h\"\n\
             [[allow]]\nuser = 7\noperations = [\"audit\"]\n[[allow]]\nuser = \"nobody at all\"\noperations = [\"ban\"]\n",
        )
        .unwrap();
        assert_eq!(policy.demand_known(Some(7)), Ok(7));
        for user in [None, Some(0), Some(8)] {
            assert_eq!(policy.demand_known(user).unwrap_err().code(), Code::Forbidden);
        }
        for operation in Operation::ALL {
            let may = [Operation::Ban, Operation::Unban, Operation::Audit].contains(&operation);
            assert_eq!(policy.permit(7, operation, Duration::from_hours(1)).is_ok(), may, "{operation:?}");
            assert!(policy.permit(0, operation, Duration::from_hours(1)).is_err());
        }
        let refused = policy.permit(7, Operation::Ban, Duration::from_hours(1));
        assert_eq!(refused.unwrap_err().code(), Code::TooMany);
        assert!(policy.permit(7, Operation::Ban, Duration::from_hours(2)).is_ok());
    }

    #[test]
    fn a_file_that_is_not_right_says_what_is_wrong() {
        for (text, because) in [
            ("", "no row that allows"),
            ("[[allow]]\nuser = \"nobody at all\"\noperations = [\"ban\"]\n", "no row that allows"),
            ("[[allow]]\nuser = 7\noperations = []\n", "allows nothing"),
            ("[[allow]]\nuser = 7\noperations = [\"exile\"]\n", "no operation `exile`"),
            ("[[allow]]\nuser = 7\noperations = [\"ban\"]\nwho = 1\n", "who"),
            ("[[allow]]\nuser = 7\noperations = [\"ban\"]\nrate = \"fast\"\n", "no rate"),
            (
                "[[allow]]\nuser = 7\noperations = [\"ban\"]\n[[allow]]\nuser = 7\noperations = [\"ban\"]\n",
                "row 2 says again",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(because), "{text}: {error}");
        }
    }
}
