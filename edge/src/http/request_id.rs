//! The name of one request: in its answer, in the log, and for the app behind an edge.

use std::fmt;
use std::sync::Arc;

use actix_web::dev::ServiceRequest;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpMessage as _, HttpRequest, web};

use super::Proxies;

/// The field that it stands in.
pub const NAME: HeaderName = HeaderName::from_static("x-request-id");

/// Longest one taken from a proxy.
const LENGTH_MAX: usize = 64;

/// What one request is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// That of a request on its way in: a trusted proxy's word, if it has the form of one, and otherwise a new one.
    pub(super) fn take(request: &ServiceRequest) -> Self {
        let proxies = request.app_data::<web::Data<Proxies>>();
        let is_trusted = proxies.is_some_and(|proxies| proxies.trusts(request.peer_addr()));
        let named = if is_trusted { named(request.headers()) } else { None };
        let id = Self(named.unwrap_or_else(draw));
        request.extensions_mut().insert(id.clone());
        id
    }

    /// That of a request which came through [`super::border`].
    pub fn of(request: &HttpRequest) -> Self {
        request.extensions().get().cloned().unwrap_or_else(|| Self("none".into()))
    }

    /// As a header field has it.
    pub fn value(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).unwrap_or(HeaderValue::from_static("none"))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What a proxy calls a request, if it says so once and well.
fn named(headers: &HeaderMap) -> Option<Arc<str>> {
    let mut names = headers.get_all(NAME);
    let (Some(name), None) = (names.next(), names.next()) else { return None };
    let name = name.to_str().ok()?;
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    (is_plain && (1..=LENGTH_MAX).contains(&name.len())).then(|| name.into())
}

/// 128 random bits. A system that gives none has requests that cannot be told apart in the log, and no other harm.
fn draw() -> Arc<str> {
    let mut bytes = [0; 16];
    let _unnamed = aws_lc_rs::rand::fill(&mut bytes);
    format!("{:032x}", u128::from_be_bytes(bytes)).into()
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_trusted_proxy_names_a_request_and_nobody_else_does() {
        let proxies = Proxies::try_from(vec!["10.0.0.1".to_owned()]).unwrap();
        let long = "a".repeat(LENGTH_MAX + 1);
        for (peer, names, taken) in [
            ("10.0.0.1:1", &["a-b_c.9"][..], true),
            ("10.0.0.1:1", &[&long[1..]], true),
            ("10.0.0.2:1", &["abc"], false),
            ("10.0.0.1:1", &[], false),
            ("10.0.0.1:1", &["abc", "def"], false),
            ("10.0.0.1:1", &[""], false),
            ("10.0.0.1:1", &[&long], false),
            ("10.0.0.1:1", &["a b"], false),
            ("10.0.0.1:1", &["a\tb"], false),
            ("10.0.0.1:1", &["a=\"b\""], false),
        ] {
            let request = TestRequest::default().peer_addr(peer.parse().unwrap());
            let request = request.app_data(web::Data::new(proxies.clone()));
            let request = names.iter().fold(request, |request, name| request.append_header((NAME, *name)));
            let request = request.to_srv_request();
            let id = RequestId::take(&request);
            assert_eq!(names.contains(&&*id.0), taken, "{peer} {names:?}: {id}");
            assert!(taken || id.0.len() == 32, "{id}");
            assert_eq!(RequestId::of(request.request()), id);
        }
        assert_ne!(draw(), draw());
    }
}
