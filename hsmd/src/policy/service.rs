//! Names of services, as endorsements bear them.

use std::fmt;

use serde::Deserialize;

/// `authd`, or `edge:` or `keysd:` and a name (`PROTOCOL.md#endorsement`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Service(String);

/// Longest name after `edge:` or `keysd:`; it stands in every endorsement.
const NAME_MAX: usize = 64;

impl Service {
    /// The default name of callers through the insecure plain-HTTP address.
    pub fn insecure() -> Self {
        Self("edge:insecure".to_owned())
    }

    /// Whether it is the authentication service, the only one that access keys are for.
    pub fn is_authd(&self) -> bool {
        self.0 == "authd"
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Service {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let name = text.strip_prefix("edge:").or_else(|| text.strip_prefix("keysd:")).unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_named = !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(plain);
        if text == "authd" || is_named {
            return Ok(Self(text));
        }
        Err(format!(
            "`{text}` is no service: write `authd`, or `edge:` or `keysd:` and up to {NAME_MAX} letters, digits, `-`, `.`, `_`"
        ))
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
