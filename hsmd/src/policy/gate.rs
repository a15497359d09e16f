//! The policy as one socket asks it.

use std::sync::Arc;

use keychain::{Code, Refusal, Timestamp, endorsement::SignRequest};
use systemd::listen::Address;

use super::{Authority, Caller, Operation, Permission, Policy, PolicyFile, Role};

/// A socket, as the policy tells it from others: its address as configured, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrance {
    /// The address.
    pub address: Address,
    /// What it is for.
    pub role: Role,
}

/// The policy in force, asked through one socket.
#[derive(Clone)]
pub struct Gate {
    entrance: Entrance,
    file: Arc<PolicyFile>,
}

impl Gate {
    /// The policy of `file` as it holds at a socket.
    pub const fn new(entrance: Entrance, file: Arc<PolicyFile>) -> Self {
        Self { entrance, file }
    }

    /// What the socket is for.
    pub const fn role(&self) -> Role {
        self.entrance.role
    }

    /// The policy in force.
    pub fn current(&self) -> Arc<Policy> {
        self.file.current()
    }

    /// Refuses a caller that may do nothing here, before a byte of its request is read.
    pub fn demand_known(&self, caller: Option<&Caller>) -> Result<(), Refusal> {
        if self.file.current().admits(&self.entrance, demand(caller)?) {
            Ok(())
        } else {
            Err(super::unknown())
        }
    }

    /// Whether the caller may have this key endorsed at `now`.
    pub fn permit_endorsement(
        &self,
        caller: Option<&Caller>,
        request: &SignRequest,
        now: Timestamp,
    ) -> Result<Permission, Refusal> {
        let when = (now, self.file.monotonic());
        self.file.current().permit_endorsement(&self.entrance, demand(caller)?, request, when)
    }

    /// Whether the caller may do this operation of an operator.
    pub fn permit(&self, operation: Operation, caller: Option<&Caller>) -> Result<Authority, Refusal> {
        let at = self.file.monotonic();
        self.file.current().permit(&self.entrance, demand(caller)?, operation, at)
    }
}

fn demand(caller: Option<&Caller>) -> Result<&Caller, Refusal> {
    caller.ok_or(Refusal::new(Code::Forbidden, "it is not known who calls"))
}
