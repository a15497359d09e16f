//! What an OpenAPI document of ours must say: no route, code or status more or less than there is.

use std::collections::BTreeSet;

use keychain::Code;
use serde_json::Value;

/// Where a document lists every code.
const CODES: &str = "/components/schemas/Error/properties/error/properties/code/enum";

/// Where an answer that is a refusal and nothing else lists those that it may have.
const OWN: &str = "/content/application~1json/schema/allOf/1/properties/error/properties/code/enum";

/// Asserts that a document is of this version, names these paths, and knows each code with its own status.
pub fn check(document: &Value, version: &str, paths: &[&str]) {
    assert_eq!(at(document, "/openapi"), "3.1.0");
    assert_eq!(at(document, "/info/version"), version);
    let items = at(document, "/paths").as_object().unwrap();
    let named: BTreeSet<&str> = items.keys().map(String::as_str).collect();
    assert_eq!(named, paths.iter().copied().collect());
    assert_eq!(texts(at(document, CODES)), Code::ALL.iter().map(|code| code.as_str()).collect());
    for (path, item) in items {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
        {
            for (status, answer) in at(operation, "/responses").as_object().unwrap() {
                check_answer(document, answer, status, &format!("{method} {path}"));
            }
        }
    }
}

fn check_answer(document: &Value, answer: &Value, status: &str, place: &str) {
    let reference = answer.get("$ref").and_then(Value::as_str);
    let answer = reference.map_or(answer, |reference| at(document, reference.strip_prefix('#').unwrap()));
    assert!(at(answer, "/description").is_string(), "{place} {status}");
    let Some(codes) = answer.pointer(OWN) else { return };
    let of_status = Code::ALL.iter().filter(|code| code.status().to_string() == status);
    assert_eq!(texts(codes), of_status.map(|code| code.as_str()).collect(), "{place} {status}");
}

fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or_else(|| panic!("there is no {pointer}"))
}

fn texts(list: &Value) -> BTreeSet<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}
