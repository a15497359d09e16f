//! Who may have what endorsed, and who may change the chain: data, default deny.
//!
//! A caller is known by the kernel's word for it (the peer credentials of its Unix connection) and by the
//! socket that it came through; nothing that it says about itself counts. Reading the chain and the health
//! is open to whoever can connect: the chain is public.

mod service;
mod users;

use std::time::Duration;

use keychain::{
    Code, Refusal, Timestamp,
    endorsement::{Purpose, SignRequest},
};

pub use service::Service;
pub use users::User;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Somebody on this host, through the insecure plain-HTTP address.
    Loopback,
    /// A process of this user, by the peer credentials of its Unix connection.
    User(u32),
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Rotations and taints.
    Admin,
    /// Endorsements.
    Endorse,
}

/// One line of the policy: this caller, through this socket, is this service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Who.
    pub caller: Caller,
    /// The name that its endorsements bear; none for callers of the admin socket.
    pub service: Option<Service>,
    /// What its keys may be for, each with the longest life.
    pub purposes: Vec<(Purpose, Duration)>,
}

/// The policy of one socket.
#[derive(Clone, Debug)]
pub struct Policy {
    role: Role,
    rules: Vec<Rule>,
    skew: Duration,
}

/// That one endorsement may be made. Only [`Policy::permit_endorsement`] makes one.
#[derive(Debug)]
pub struct Permission {
    service: Service,
    request: SignRequest,
}

/// That the chain may be changed. Only [`Policy::permit_administration`] makes one.
#[derive(Debug)]
pub struct Authority(());

impl Policy {
    /// The policy of a socket; `skew` is added to the longest lives, because callers compute exactly these on
    /// clocks of their own.
    pub const fn new(role: Role, rules: Vec<Rule>, skew: Duration) -> Self {
        Self { role, rules, skew }
    }

    /// What the socket is for.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Refuses a caller that may have nothing endorsed here, before a byte of its request is read.
    pub fn demand_known(&self, caller: Option<Caller>) -> Result<&Rule, Refusal> {
        let rule = self.rules.iter().find(|rule| Some(rule.caller) == caller);
        rule.ok_or(Refusal::new(Code::Forbidden, "no rule of this socket's policy names the caller"))
    }

    /// Whether the caller may have this key endorsed.
    pub fn permit_endorsement(
        &self,
        caller: Option<Caller>,
        request: &SignRequest,
        now: Timestamp,
    ) -> Result<Permission, Refusal> {
        let rule = self.demand_known(caller)?;
        let not_for = Refusal::new(Code::Forbidden, "the caller may not have keys endorsed for this purpose");
        let service = rule.service.clone().filter(|_| self.role == Role::Endorse).ok_or(not_for.clone())?;
        let longest = rule.purposes.iter().find(|(purpose, _)| *purpose == request.purpose);
        let (purpose, longest) = *longest.ok_or(not_for.clone())?;
        if purpose == Purpose::Access && !service.is_authd() {
            return Err(not_for);
        }
        if request.expiration <= now {
            return Err(Refusal::new(Code::InvalidMessage, "`expiration` is not in the future"));
        }
        if request.expiration > now.plus(longest).plus(self.skew) {
            return Err(Refusal::new(Code::Forbidden, "`expiration` is later than the caller may ask for"));
        }
        Ok(Permission { service, request: *request })
    }

    /// Whether the caller may change the chain.
    pub fn permit_administration(&self, caller: Option<Caller>) -> Result<Authority, Refusal> {
        self.demand_known(caller)?;
        match self.role {
            Role::Admin => Ok(Authority(())),
            Role::Endorse => Err(Refusal::new(Code::Forbidden, "this socket is not for administration")),
        }
    }
}

impl Permission {
    /// The name that the endorsement bears.
    pub fn service(&self) -> &str {
        self.service.as_str()
    }

    /// What may be endorsed.
    pub const fn request(&self) -> &SignRequest {
        &self.request
    }
}

#[cfg(test)]
mod tests;
