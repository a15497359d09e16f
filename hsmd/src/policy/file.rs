//! `policy.toml`: read whole, checked whole, and exchanged whole.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use keychain::Digest;
use serde::Deserialize;
use systemd::config::{self, Error};

use super::{Entrance, Operation, Policy, Role, Rule, row::Named};
use crate::clock::Clock;

/// Most rows. Each request is compared with all of them.
const ROWS_MAX: usize = 1024;

/// The file, and the policy that was last read well from it.
pub struct PolicyFile {
    path: PathBuf,
    scope: Scope,
    clock: Box<dyn Clock>,
    current: RwLock<Arc<Policy>>,
}

/// What a policy is read for.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The sockets that there are.
    pub entrances: Vec<Entrance>,
    /// Rules that stand in no file: the one of the insecure plain-HTTP address.
    pub fixed: Vec<Rule>,
    /// How far other clocks may be off.
    pub skew: Duration,
}

/// One policy followed another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The digest of the file's text before.
    pub before: Digest,
    /// The digest of the text now.
    pub after: Digest,
    /// How many rows there are now.
    pub rows: usize,
}

impl PolicyFile {
    /// Reads and checks the file for the first time. `clock` is what rates are counted by.
    pub fn open(path: &Path, scope: Scope, clock: Box<dyn Clock>) -> Result<Self, Error> {
        let current = RwLock::new(Arc::new(read(path, &scope)?));
        Ok(Self { path: path.to_owned(), scope, clock, current })
    }

    /// The policy in force.
    pub fn current(&self) -> Arc<Policy> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads and checks the file again; what is in force stays so until [`Self::adopt`].
    pub fn read(&self) -> Result<Policy, Error> {
        read(&self.path, &self.scope)
    }

    /// What would change if `policy` were in force; nothing if it says and means the same.
    pub fn change(&self, policy: &Policy) -> Option<Change> {
        let current = self.current();
        let (before, after) = (current.digest(), policy.digest());
        // The same text may mean other users by now.
        let same = before == after && policy.allows_the_same(&current);
        (!same).then(|| Change { before, after, rows: policy.rows() })
    }

    /// Puts a policy into force: the next request is judged by it, on connections that are open as well.
    pub fn adopt(&self, mut policy: Policy) {
        policy.keep_count_of(&self.current());
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// The clock that rates are counted by.
    pub(super) fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    allow: Vec<Rule<Named>>,
}

fn read(path: &Path, scope: &Scope) -> Result<Policy, Error> {
    let text = config::read_protected(path)?;
    let Written { allow } = config::parse(path, &text)?;
    let wrong = |because| Error::value(path, "allow", because);
    if allow.len() > ROWS_MAX {
        return Err(wrong(format!("has more than {ROWS_MAX} rows")));
    }
    let mut rules = Vec::with_capacity(allow.len());
    for (index, row) in allow.into_iter().enumerate() {
        let who = row.who.clone();
        let rule =
            row.find().map_err(|error| wrong(format!("cannot look users up in /etc/passwd: {error}")))?;
        match rule {
            Some(rule) => rules.push((index + 1, rule)),
            // Matches no caller: a row may stand there before its user is made.
            None => {
                tracing::warn!(user = %who, "a row of the policy names a user that /etc/passwd does not have");
            }
        }
    }
    check(&rules, scope).map_err(wrong)?;
    demand_an_owner(&rules, scope).map_err(|because| wrong(because.to_owned()))?;
    let rules = rules.into_iter().map(|(_, rule)| rule).chain(scope.fixed.iter().cloned()).collect();
    Ok(Policy::new(rules, Digest::of(&text), scope.skew))
}

/// Refuses a file that lets no caller taint: one that was cut short or emptied by a full disk, or whose operators are
/// users that this host does not have. In force it would lock out those who have to act.
fn demand_an_owner(rules: &[(usize, Rule)], scope: &Scope) -> Result<(), &'static str> {
    if rules.is_empty() {
        return Err("has no row that allows anybody anything");
    }
    let has_admin = scope.entrances.iter().any(|entrance| entrance.role == Role::Admin);
    let is_owned = rules.iter().any(|(_, rule)| rule.allows.operations().contains(&Operation::Taint));
    if has_admin && !is_owned {
        return Err("has no row that lets a user of this host taint: an operator needs one");
    }
    Ok(())
}

/// Checks what one row alone does not show. Rows are numbered from 1, as they stand in the file.
fn check(rules: &[(usize, Rule)], scope: &Scope) -> Result<(), String> {
    for (number, rule) in rules {
        check_socket(rule, scope).map_err(|because| format!("row {number} ({}): {because}", rule.who))?;
        for (earlier, other) in rules.iter().take_while(|(other, _)| other < number) {
            if overlap(rule, other) {
                return Err(format!(
                    "rows {earlier} and {number} both say what {} may do; make one row of them, or give each its \
                     own `socket`",
                    rule.who
                ));
            }
        }
    }
    Ok(())
}

fn check_socket(rule: &Rule, scope: &Scope) -> Result<(), String> {
    let Some(socket) = &rule.socket else { return Ok(()) };
    let entrance = scope.entrances.iter().find(|entrance| entrance.address == *socket);
    let entrance =
        entrance.ok_or_else(|| format!("key `socket`: hsmd.toml has no [[listen]] at `{socket}`"))?;
    if rule.allows.role() == entrance.role {
        return Ok(());
    }
    let operation = rule.allows.operations().first().copied().unwrap_or(Operation::Endorse);
    Err(format!(
        "key `socket`: `{socket}` has role {}, and {} is not asked for there",
        entrance.role.as_str(),
        operation.as_str()
    ))
}

/// Whether two rows could both decide the same request.
fn overlap(one: &Rule, other: &Rule) -> bool {
    let same_socket = one.socket.is_none() || other.socket.is_none() || one.socket == other.socket;
    let (one_allows, other_allows) = (&one.allows, &other.allows);
    let is_theirs = |purpose| other_allows.purposes().iter().any(|(theirs, _)| *theirs == purpose);
    let same_purpose = one_allows.purposes().iter().any(|(purpose, _)| is_theirs(*purpose));
    let is_shared = |operation| other_allows.operations().contains(operation);
    let same_operation = one_allows.operations().iter().any(is_shared);
    one.who == other.who && same_socket && (same_purpose || same_operation)
}
