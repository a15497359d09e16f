//! What an OpenAPI document of ours must say: no route, code or status more or less than there is.

use std::collections::BTreeSet;

use keychain::Code;
use serde_json::Value;

/// Asserts that a document is of this version, names these paths, and knows each code with its own status.
pub fn check(document: &Value, version: &str, paths: &[&str]) {
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], version);
    let named: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(named, paths.iter().copied().collect());
    let codes =
        &document["components"]["schemas"]["Error"]["properties"]["error"]["properties"]["code"]["enum"];
    let codes: BTreeSet<&str> = codes.as_array().unwrap().iter().map(|code| code.as_str().unwrap()).collect();
    assert_eq!(codes, Code::ALL.iter().map(|code| code.as_str()).collect());
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
        {
            for (status, answer) in operation["responses"].as_object().unwrap() {
                check_answer(document, answer, status, &format!("{method} {path}"));
            }
        }
    }
}

/// An answer that is a refusal and nothing else names all codes of its status, and no others.
fn check_answer(document: &Value, answer: &Value, status: &str, place: &str) {
    let answer = match answer["$ref"].as_str() {
        Some(reference) => document.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => answer,
    };
    assert!(answer["description"].is_string(), "{place} {status}");
    let schema = &answer["content"]["application/json"]["schema"]["allOf"];
    let Some(codes) = schema.pointer("/1/properties/error/properties/code/enum") else { return };
    let named: BTreeSet<&str> = codes.as_array().unwrap().iter().map(|code| code.as_str().unwrap()).collect();
    let of_status = Code::ALL.iter().filter(|code| code.status().to_string() == status);
    assert_eq!(named, of_status.map(|code| code.as_str()).collect(), "{place} {status}");
}
