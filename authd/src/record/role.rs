//! The roles that operators granted an identity, besides those that every account has.

use std::collections::BTreeSet;

use keychain::{Digest, Refusal, Timestamp, json};

use super::address::Fields;
use super::{Mandate, Order, Version};

/// One version of the roles granted to an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRecord {
    /// Where it stands.
    pub version: Version,
    /// The account.
    pub identity: Digest,
    /// All that are granted from here on.
    pub roles: BTreeSet<String>,
    /// Who wants it so.
    pub order: Order,
}

impl RoleRecord {
    /// The record after `before`, or the first, signed.
    pub fn new(
        before: Option<&Self>,
        identity: Digest,
        roles: BTreeSet<String>,
        mandate: &Mandate<'_>,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        let version = Version::after(before.map(|record| &record.version), now);
        let mut record = Self { version, identity, roles, order: mandate.unsigned() };
        let fields = record.fields();
        record.order.signature = record.version.sign(&fields, mandate)?;
        Ok(record)
    }

    /// Whether the record still has its own address.
    pub fn is_intact(&self) -> bool {
        self.version.is_of(&self.fields(), &self.order.signature)
    }

    /// Verifies that the record is the one that was signed.
    pub fn verify_order(&self) -> Result<(), Refusal> {
        self.version.verify_order(&self.fields(), &self.order)
    }

    /// The roles as one text, for the record and the store.
    pub fn text(&self) -> String {
        let roles: Vec<_> = self.roles.iter().map(|role| json::string(role)).collect();
        format!("[{}]", roles.join(","))
    }

    /// The roles that a text names.
    pub fn parse(text: &str) -> Option<BTreeSet<String>> {
        serde_json::from_str(text).ok()
    }

    fn fields(&self) -> Fields {
        let mut fields = Fields::of("roles");
        fields.put("identity", self.identity);
        fields.put_raw("roles", &self.text());
        fields.put_order(&self.order);
        fields
    }
}
