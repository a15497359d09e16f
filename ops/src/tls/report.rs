//! What is printed of a certificate with `--json`.

use std::path::Path;

use keychain::Timestamp;
use serde::Serialize;

use super::certificate::Certificate;
use super::name::Name;
use crate::failure::Failure;
use crate::generation::to_json;

/// The version of what `--json` prints.
const JSON_VERSION: u32 = 1;

/// A certificate that was made, and where it is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    version: u32,
    certificate: String,
    key: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
    not_before: Timestamp,
    not_after: Timestamp,
    serial: String,
    sha256: String,
    /// The row of hsmd's policy for a client, as TOML.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
}

impl Report {
    pub(super) fn new(path: &Path, key: &Path, certificate: &Certificate) -> Self {
        Self {
            version: JSON_VERSION,
            certificate: path.display().to_string(),
            key: key.display().to_string(),
            names: Vec::new(),
            not_before: certificate.begins,
            not_after: certificate.ends,
            serial: certificate.serial.clone(),
            sha256: certificate.sha256(),
            policy: None,
        }
    }

    pub(super) fn names(mut self, names: &[Name]) -> Self {
        self.names = names.iter().map(Name::to_string).collect();
        self
    }

    pub(super) fn policy(mut self, row: Option<String>) -> Self {
        self.policy = row;
        self
    }

    pub(super) fn json(&self) -> Result<String, Failure> {
        to_json(self)
    }
}
