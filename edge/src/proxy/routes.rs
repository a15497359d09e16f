//! Which permission a path asks for, and which spellings of a path are taken at all.
//!
//! Edge and app must mean the same by a path, or a rule for one spelling could be walked around with
//! another. So only canonical paths pass, and rules match without regard to case and to a slash at the
//! end, as many app frameworks route: a rule covers at least what its author meant.

use keychain::{Code, Refusal};

use super::config::{Default, Route};

/// Longest path and query taken.
const PLACE_MAX: usize = 4_096;

/// The rules, the most specific first.
#[derive(Debug)]
pub struct Routes {
    rules: Vec<Rule>,
    default: Default,
}

#[derive(Debug)]
struct Rule {
    /// In lower case, without a slash at the end.
    path: String,
    below: bool,
    permission: Option<(String, String)>,
}

impl Routes {
    /// Reads the rules. Errs with what is wrong with one.
    pub fn new(routes: &[Route], default: Default) -> Result<Self, String> {
        let mut rules = routes.iter().map(Rule::new).collect::<Result<Vec<_>, _>>()?;
        // Longer paths are more specific; of equals, the one for the path itself.
        rules.sort_by_key(|rule| (std::cmp::Reverse(rule.path.len()), rule.below));
        for pair in rules.windows(2) {
            if let [one, other] = pair
                && one.path == other.path
                && one.below == other.below
            {
                return Err(format!("the path `{}` has two rules; keep one", one.path));
            }
        }
        Ok(Self { rules, default })
    }

    /// The permission that `path` asks for, if any. `Forbidden` where nothing helps.
    pub fn permission(&self, path: &str) -> Result<Option<(&str, &str)>, Refusal> {
        let path = plain(path);
        match self.rules.iter().find(|rule| rule.covers(&path)) {
            Some(rule) => {
                Ok(rule.permission.as_ref().map(|(role, permission)| (role.as_str(), permission.as_str())))
            }
            None if self.default == Default::Deny => {
                Err(Refusal::new(Code::Forbidden, "no route names the path, and the default is to deny"))
            }
            None => Ok(None),
        }
    }
}

impl Rule {
    fn new(route: &Route) -> Result<Self, String> {
        let (path, below) = match route.path.strip_suffix("/*") {
            Some(path) => (path, true),
            None => (route.path.as_str(), false),
        };
        if !(below && path.is_empty()) && check_place(path).is_err() {
            return Err(format!(
                "`{}` is not a canonical path; write for example \"/foo/bar\" or \"/foo/*\"",
                route.path
            ));
        }
        let permission = match (&route.role, &route.permission) {
            (Some(role), Some(permission)) => Some((role.clone(), permission.clone())),
            (None, None) => None,
            _ => {
                return Err(format!(
                    "the route `{}` needs both `role` and `permission`, or neither",
                    route.path
                ));
            }
        };
        Ok(Self { path: plain(path), below, permission })
    }

    /// Whether the rule is about `path`, plainly written.
    fn covers(&self, path: &str) -> bool {
        match path.strip_prefix(self.path.as_str()) {
            Some("") => true,
            Some(rest) => self.below && rest.starts_with('/'),
            None => false,
        }
    }
}

/// A path as rules compare it.
fn plain(path: &str) -> String {
    path.strip_suffix('/').unwrap_or(path).to_ascii_lowercase()
}

/// Refuses a path and query that edge and app could read differently: empty or dot segments, characters
/// that must be escaped, and escapes of characters that need none or that would divide a path.
pub fn check_place(place: &str) -> Result<(), Refusal> {
    let refused = |because| Err(Refusal::new(Code::InvalidMessage, because));
    if place.len() > PLACE_MAX {
        return refused("the path is longer than 4 KiB");
    }
    let (path, query) = place.split_once('?').unwrap_or((place, ""));
    let Some(rooted) = path.strip_prefix('/') else { return refused("the path does not begin with a slash") };
    let mut segments = rooted.split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        if matches!(segment, "." | "..") || (segment.is_empty() && !last) {
            return refused("the path has empty or dot segments");
        }
    }
    if !is_plainly_escaped(path, b"/:@!$&'()*+,;=-._~", true) {
        return refused("the path is not canonically escaped");
    }
    if !is_plainly_escaped(query, b"/?:@!$&()*+,;=-._~", false) {
        return refused("the query is not canonically escaped");
    }
    Ok(())
}

/// Whether `text` has only letters, digits, the `marks`, and escapes; in a path, no escape of what needs none.
fn is_plainly_escaped(text: &str, marks: &[u8], strict: bool) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
            let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else { return false };
            let escaped = u8::try_from(high * 16 + low).unwrap_or_default();
            let needless = escaped.is_ascii_alphanumeric() || b"-._~/\\".contains(&escaped);
            if strict && (needless || escaped < 0x20 || escaped == 0x7F) {
                return false;
            }
        } else if !byte.is_ascii_alphanumeric() && !marks.contains(&byte) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(path: &str, permission: &str) -> Route {
        Route {
            path: path.to_owned(),
            role: Some("user".to_owned()),
            permission: Some(permission.to_owned()),
        }
    }

    #[test]
    fn the_most_specific_rule_decides_whatever_the_spelling() {
        let rules = [
            route("/*", "any"),
            route("/foo/*", "below"),
            route("/foo/bar", "bar"),
            route("/foo/bar/*", "deep"),
        ];
        let routes = Routes::new(&rules, Default::Deny).unwrap();
        for (path, expected) in [
            ("/", "any"),
            ("/x", "any"),
            ("/foobar", "any"),
            ("/foo", "below"),
            ("/foo/x", "below"),
            ("/foo/bar", "bar"),
            ("/foo/bar/", "bar"),
            ("/FOO/Bar", "bar"),
            ("/foo/bar/x", "deep"),
        ] {
            assert_eq!(routes.permission(path), Ok(Some(("user", expected))), "{path}");
        }
    }

    #[test]
    fn what_no_rule_names_is_as_the_default_says() {
        let rules = [route("/foo", "read")];
        let open = Routes::new(&rules, Default::Authenticated).unwrap();
        assert_eq!(open.permission("/other"), Ok(None));
        let closed = Routes::new(&rules, Default::Deny).unwrap();
        assert_eq!(closed.permission("/other").unwrap_err().code(), Code::Forbidden);
        assert_eq!(closed.permission("/foo/below").unwrap_err().code(), Code::Forbidden);
    }

    #[test]
    fn rules_that_cannot_be_meant_are_refused() {
        for path in ["", "foo", "/foo//bar", "/foo/../bar", "/f%6fo"] {
            assert!(Routes::new(&[route(path, "read")], Default::Deny).is_err(), "{path}");
        }
        assert!(Routes::new(&[route("/a", "x"), route("/A/", "y")], Default::Deny).is_err());
        let half = Route { permission: None, ..route("/a", "x") };
        assert!(Routes::new(&[half], Default::Deny).is_err());
    }

    #[test]
    fn only_canonical_places_pass() {
        for good in
            ["/", "/foo/bar", "/foo/", "/a%20b", "/caf%C3%A9", "/a?b=c&d=%2F", "/a:b@c;d,e", "/a?b=/../"]
        {
            assert_eq!(check_place(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "foo",
            "//foo",
            "/foo//bar",
            "/foo/../bar",
            "/foo/./bar",
            "/foo/..",
            "/.",
            "/%66oo",
            "/foo%2Fbar",
            "/foo%2fbar",
            "/foo%5cbar",
            "/%2e%2e/bar",
            "/foo\\bar",
            "/foo%00",
            "/foo%0d%0a",
            "/foo%",
            "/foo%2",
            "/foo%zz",
            "/foo bar",
            "/foo\"",
            "/é",
            "/foo#x",
            "/foo?a b",
            "/foo?<",
            "/foo|bar",
            "/foo^",
            "/a%7F",
            "http://other/foo",
        ] {
            assert!(check_place(bad).is_err(), "{bad}");
        }
        assert!(check_place(&format!("/{}", "a".repeat(PLACE_MAX))).is_err());
    }
}
