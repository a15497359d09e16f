//! Who may have what endorsed, and who may change the chain: data (`policy.toml`), default deny.
//!
//! A caller is known by the kernel's word for it (the peer credentials of its Unix connection) or by the
//! names in a client certificate that the configured authority signed, and by the socket that it came
//! through; nothing that it says about itself counts, and nothing in between decides anything. Reading the
//! chain and the health is open to every caller that can connect: the chain is public.
//!
//! A row has two shapes: as written in the file, and as requests are judged by it ([`Rule`]). A row allows one
//! caller some operations. The first row of the file that names caller, socket, operation
//! and purpose decides; no two rows can name the same. Each request is judged by the policy in force when it
//! comes, whatever was in force when its connection was opened.

mod caller;
mod file;
mod gate;
mod operation;
mod row;
mod san;
mod service;

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc, time::Duration};

use keychain::{
    Code, Digest, Refusal, Timestamp,
    acknowledgement::Instance,
    endorsement::{Purpose, SignRequest},
};
use systemd::listen::Address;

pub use caller::{Caller, Who};
pub use file::{Change, PolicyFile, Scope};
pub use gate::{Entrance, Gate};
pub use operation::{Operation, Role};
pub use row::Named;
pub use san::San;
pub use service::Service;
pub use systemd::caller::{Bucket, Rate, User};

/// One row as requests are judged by it: this caller, through this socket, may do this, so often. A caller of the kind
/// [`Named`] is not looked up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule<W = Who> {
    /// Who.
    pub who: W,
    /// Through which socket; any of the right role if unset.
    pub socket: Option<Address>,
    /// What.
    pub allows: Allows,
    /// How often, over all of these.
    pub rate: Rate,
}

/// What a row allows, through sockets of one role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allows {
    /// Endorsements of a service's keys.
    Endorsements {
        /// The name that they bear.
        service: Service,
        /// What the keys may be for, each with the longest life.
        purposes: Vec<(Purpose, Duration)>,
        /// The processes that ought to be there. None for a service without processes.
        instances: BTreeSet<Instance>,
    },
    /// What operators, or the publisher, ask for: all through sockets of one role.
    Operations(Vec<Operation>),
}

impl Allows {
    /// The kind of socket that it is asked for through.
    pub fn role(&self) -> Role {
        match self {
            Self::Endorsements { .. } => Role::Endorse,
            Self::Operations(operations) => operations.first().map_or(Role::Admin, |first| first.role()),
        }
    }

    /// The operations among it, but endorsements.
    pub fn operations(&self) -> &[Operation] {
        match self {
            Self::Endorsements { .. } => &[],
            Self::Operations(operations) => operations,
        }
    }

    /// The longest lives of keys by purpose.
    pub fn purposes(&self) -> &[(Purpose, Duration)] {
        match self {
            Self::Endorsements { purposes, .. } => purposes,
            Self::Operations(_) => &[],
        }
    }

    /// Service and longest life of a key for `purpose`.
    fn endorses(&self, purpose: Purpose) -> Option<(&Service, Duration)> {
        let Self::Endorsements { service, purposes, .. } = self else { return None };
        let (_, longest) = purposes.iter().find(|(allowed, _)| *allowed == purpose)?;
        Some((service, *longest))
    }
}

/// What ought to be there of one service, over all its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// What each of its processes has keys for.
    pub purposes: BTreeSet<Purpose>,
    /// Its processes.
    pub instances: BTreeSet<Instance>,
}

/// A policy: what one reading of the file gave.
#[derive(Debug)]
pub struct Policy {
    digest: Digest,
    rows: Vec<(Rule, Arc<Bucket>)>,
    skew: Duration,
}

/// That one endorsement may be made. Only [`Policy::permit_endorsement`] makes one.
#[derive(Debug)]
pub struct Permission {
    caller: Caller,
    service: Service,
    request: SignRequest,
}

/// That one operation of an operator may be done. Only [`Policy::permit`] makes one.
#[derive(Debug)]
pub struct Authority {
    caller: Caller,
    operation: Operation,
}

impl Policy {
    /// A policy of these rules; `digest` names the text that they were read from. `skew` is added to the
    /// longest lives, because callers compute exactly these on clocks of their own.
    pub fn new(rules: Vec<Rule>, digest: Digest, skew: Duration) -> Self {
        let rows = rules.into_iter().map(|rule| {
            let bucket = Arc::new(Bucket::new(rule.rate));
            (rule, bucket)
        });
        Self { digest, rows: rows.collect(), skew }
    }

    /// The digest of the text that it was read from.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// How many rows it has.
    pub const fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Each service that has rows here, with the processes that ought to be there.
    pub fn services(&self) -> BTreeMap<&str, Expected> {
        let mut services: BTreeMap<&str, Expected> = BTreeMap::new();
        for (rule, _) in &self.rows {
            if let Allows::Endorsements { service, purposes, instances } = &rule.allows {
                let expected = services.entry(service.as_str()).or_default();
                expected.purposes.extend(purposes.iter().map(|(purpose, _)| *purpose));
                expected.instances.extend(instances.iter().cloned());
            }
        }
        services
    }

    /// Whether both have the same rows.
    pub fn allows_the_same(&self, other: &Self) -> bool {
        self.rows.iter().map(|(rule, _)| rule).eq(other.rows.iter().map(|(rule, _)| rule))
    }

    /// Whether any row lets the caller do anything through this socket: asked before a byte of its request is
    /// read.
    pub fn admits(&self, entrance: &Entrance, caller: &Caller) -> bool {
        self.matching(entrance, caller).next().is_some()
    }

    /// Whether the caller may have this key endorsed, at `now`, and `at` of a monotonic clock.
    pub fn permit_endorsement(
        &self,
        entrance: &Entrance,
        caller: &Caller,
        request: &SignRequest,
        (now, at): (Timestamp, Duration),
    ) -> Result<Permission, Refusal> {
        let not_for = Refusal::new(Code::Forbidden, "the caller may not have keys endorsed for this purpose");
        let is_endorsement = |(rule, _): &&(Rule, _)| rule.allows.role() == Role::Endorse;
        let mut rows = self.matching(entrance, caller).filter(is_endorsement).peekable();
        rows.peek().ok_or(unknown())?;
        let found = rows.find_map(|(rule, bucket)| {
            let (service, longest) = rule.allows.endorses(request.purpose)?;
            Some((service.clone(), longest, bucket))
        });
        let (service, longest, bucket) = found.ok_or(not_for.clone())?;
        if request.purpose == Purpose::Access && !service.is_authd() {
            return Err(not_for);
        }
        if request.expiration <= now {
            return Err(Refusal::new(Code::InvalidMessage, "`expiration` is not in the future"));
        }
        if request.expiration > now.plus(longest).plus(self.skew) {
            return Err(Refusal::new(Code::Forbidden, "`expiration` is later than the caller may ask for"));
        }
        bucket.take(at).map_err(too_often)?;
        Ok(Permission { caller: caller.clone(), service, request: *request })
    }

    /// Whether the caller may do this operation of an operator, `at` of a monotonic clock.
    pub fn permit(
        &self,
        entrance: &Entrance,
        caller: &Caller,
        operation: Operation,
        at: Duration,
    ) -> Result<Authority, Refusal> {
        if entrance.role == Role::Endorse || operation.role() != entrance.role {
            return Err(Refusal::new(Code::Forbidden, "this socket is not for this operation"));
        }
        let mut rows = self.matching(entrance, caller).peekable();
        rows.peek().ok_or(unknown())?;
        let (_, bucket) = rows
            .find(|(rule, _)| rule.allows.operations().contains(&operation))
            .ok_or(Refusal::new(Code::Forbidden, "no row of the policy lets the caller do this"))?;
        bucket.take(at).map_err(too_often)?;
        Ok(Authority { caller: caller.clone(), operation })
    }

    fn matching(&self, entrance: &Entrance, caller: &Caller) -> impl Iterator<Item = &(Rule, Arc<Bucket>)> {
        self.rows.iter().filter(move |(rule, _)| {
            rule.who.is(caller)
                && rule.socket.as_ref().is_none_or(|socket| *socket == entrance.address)
                && rule.allows.role() == entrance.role
        })
    }

    /// Rows that did not change keep count: exchanging the file gives no caller a fresh burst.
    fn keep_count_of(&mut self, former: &Self) {
        for (rule, bucket) in &mut self.rows {
            if let Some((_, counted)) = former.rows.iter().find(|(known, _)| known == rule) {
                *bucket = Arc::clone(counted);
            }
        }
    }
}

fn unknown() -> Refusal {
    Refusal::new(Code::Forbidden, "no row of the policy names the caller at this socket")
}

/// Whole seconds, rounded up: a caller that waits so long is let through.
fn too_often(wait: Duration) -> Refusal {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    Refusal::new(Code::TooMany, "the caller's row of the policy is used up for now")
        .with("retryAfter", seconds.to_string())
}

impl Permission {
    /// Who asked.
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The name that the endorsement bears.
    pub fn service(&self) -> &str {
        self.service.as_str()
    }

    /// What may be endorsed.
    pub const fn request(&self) -> &SignRequest {
        &self.request
    }
}

impl Authority {
    /// Who asked.
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// What may be done.
    pub const fn operation(&self) -> Operation {
        self.operation
    }
}

#[cfg(test)]
mod tests;
