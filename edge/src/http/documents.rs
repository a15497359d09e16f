//! Documents that a service hands out about itself.

use actix_web::HttpResponse;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue};

/// A document, whole.
#[derive(Clone, Copy, Debug)]
pub struct Document {
    /// Its media type.
    pub kind: &'static str,
    /// Its text.
    pub text: &'static str,
}

impl Document {
    /// Where a service says what it takes and answers (OpenAPI).
    pub const INTERFACE_PATH: &'static str = "/openapi.json";

    /// Where the page stands to which each refusal leads.
    pub const ERRORS_PATH: &'static str = "/errors";

    /// Cause and cure of each code.
    pub const ERRORS: Self = Self { kind: "text/markdown; charset=utf-8", text: keychain::error::PAGE };

    /// That of an interface.
    pub const fn interface(text: &'static str) -> Self {
        Self { kind: "application/json", text }
    }

    /// The answer that carries it.
    pub fn answer(self) -> HttpResponse {
        let kind = (CONTENT_TYPE, HeaderValue::from_static(self.kind));
        HttpResponse::Ok().insert_header(kind).body(self.text)
    }
}
