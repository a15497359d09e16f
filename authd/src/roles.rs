//! What tokens permit: roles that every account has, and those that operators granted.

use std::collections::BTreeMap;

use keychain::Refusal;
use keychain::token::Attributes;

use crate::record::RoleRecord;

/// Roles and their permissions, as configured.
#[derive(Clone, Debug)]
pub struct Roles {
    everybody: BTreeMap<String, Vec<String>>,
    attributes: Attributes,
    grantable: BTreeMap<String, Vec<String>>,
}

impl Roles {
    /// Those of every account, and those that can be granted. Refused if a token could not carry them all.
    pub fn new(
        everybody: BTreeMap<String, Vec<String>>,
        grantable: BTreeMap<String, Vec<String>>,
    ) -> Result<Self, Refusal> {
        let attributes = Attributes::new(everybody.clone())?;
        let all = everybody.clone().into_iter().chain(grantable.clone());
        Attributes::new(all.collect())?;
        Ok(Self { everybody, attributes, grantable })
    }

    /// Whether an operator may grant a role.
    pub fn is_grantable(&self, role: &str) -> bool {
        self.grantable.contains_key(role)
    }

    /// What an account's tokens permit. A granted role that is configured no more permits nothing.
    pub fn attributes(&self, granted: Option<&RoleRecord>) -> Result<Attributes, Refusal> {
        let granted = granted.iter().flat_map(|record| &record.roles);
        let known: Vec<_> = granted.filter_map(|role| self.grantable.get_key_value(role)).collect();
        if known.is_empty() {
            return Ok(self.attributes.clone());
        }
        let known = known.into_iter().map(|(role, permissions)| (role.clone(), permissions.clone()));
        Attributes::new(self.everybody.clone().into_iter().chain(known).collect())
    }
}
