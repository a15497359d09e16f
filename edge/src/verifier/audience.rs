//! Requests bound to one place.

use keychain::{Code, Refusal};

/// Where an edge stands, as devices name it in `audience`.
///
/// A request's audience is enforced whenever it is there: it must be the configured origin followed by
/// the path and query at which the request came in. The Host header decides nothing, because whoever
/// relays a request to another place writes it. So an edge that was told no origin refuses every
/// request that names one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audience {
    origin: Option<String>,
    required: bool,
}

impl Audience {
    /// An edge at `origin` (`https://host`), which takes requests without audience too unless `required`.
    pub fn new(origin: impl Into<String>, required: bool) -> Self {
        Self { origin: Some(origin.into()), required }
    }

    /// The same as `audience` and `audience_required` of a configuration say it: where an origin is told, requests must
    /// name it unless that is turned off. Fails with the key that cannot be used, and why.
    pub fn configured(origin: Option<&str>, required: Option<bool>) -> Result<Self, (&'static str, String)> {
        let Some(origin) = origin else {
            return match required {
                Some(true) => {
                    Err(("audience_required", "needs `audience`, the origin that requests must name".into()))
                }
                _ => Ok(Self::default()),
            };
        };
        let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        match host {
            Some(host) if !host.is_empty() && !host.contains(['/', '?', '#', '@']) => {
                Ok(Self::new(origin, required.unwrap_or(true)))
            }
            _ => Err((
                "audience",
                format!("`{origin}` is not an origin; write for example \"https://app.example\""),
            )),
        }
    }

    pub(super) fn check(&self, named: Option<&str>, place: &str) -> Result<(), Refusal> {
        let mismatch = |because| Err(Refusal::new(Code::AudienceMismatch, because));
        match (named, self.origin.as_deref()) {
            (None, _) if self.required => {
                mismatch("the request names no audience, and this edge requires one")
            }
            (None, _) => Ok(()),
            (Some(_), None) => mismatch("the request names an audience, and this edge was told none"),
            (Some(named), Some(origin)) if named.strip_prefix(origin) == Some(place) => Ok(()),
            (Some(_), Some(_)) => mismatch("the request names another audience"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audience_is_this_origin_and_this_path() {
        let optional = Audience::new("https://app.example", false);
        let required = Audience::new("https://app.example", true);
        let none = Audience::default();
        for (audience, named, place, allowed) in [
            (&none, None, "/a", true),
            (&none, Some("https://app.example/a"), "/a", false),
            (&optional, None, "/a", true),
            (&optional, Some("https://app.example/a"), "/a", true),
            (&optional, Some("https://app.example/a?b=c"), "/a?b=c", true),
            (&optional, Some("https://app.example/a"), "/a?b=c", false),
            (&optional, Some("https://app.example/a"), "/b", false),
            (&optional, Some("https://app.example"), "/", false),
            (&optional, Some("https://other.example/a"), "/a", false),
            (&optional, Some("https://app.example.org/a"), "/a", false),
            (&optional, Some("HTTPS://app.example/a"), "/a", false),
            (&optional, Some(""), "/a", false),
            (&required, None, "/a", false),
            (&required, Some("https://app.example/a"), "/a", true),
        ] {
            let verdict = audience.check(named, place).map_err(|refusal| refusal.code());
            let expected = if allowed { Ok(()) } else { Err(Code::AudienceMismatch) };
            assert_eq!(verdict, expected, "{audience:?} {named:?} {place}");
        }
    }
}
