//! The place of a record in its chain, and its address: the digest of its own text.

use std::fmt::Write as _;

use keychain::{Digest, Refusal, Signature, Timestamp, json};

use super::cause::{Cause, Mandate, Order, SignedRequest};

/// How the text of a record is put together. Part of the text, so that a record of another format never has
/// the address of one of this.
pub const FORMAT: i32 = 1;

/// What a record's `id` (and a first record's `prefix`) is while its address is computed.
const BLANK: &str = "############################################";

/// Where a record stands among those before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The record's self-address.
    pub id: Digest,
    /// The address of the first record of this chain.
    pub prefix: Digest,
    /// The address of the record before; none in the first.
    pub previous: Option<Digest>,
    /// 0, 1, 2, … without a hole.
    pub sequence_number: u64,
    /// When it was written, in whole milliseconds; never before its predecessor.
    pub created_at: Timestamp,
}

impl Version {
    /// The place after `before`, not addressed yet.
    pub(super) fn after(before: Option<&Self>, now: Timestamp) -> Self {
        let (unset, now) = (Digest::of(BLANK), now.to_millis());
        match before {
            None => Self { id: unset, prefix: unset, previous: None, sequence_number: 0, created_at: now },
            Some(before) => Self {
                id: unset,
                prefix: before.prefix,
                previous: Some(before.id),
                sequence_number: before.sequence_number.saturating_add(1),
                created_at: now.max(before.created_at),
            },
        }
    }

    /// Gives the record its address.
    pub(super) fn address(&mut self, fields: &Fields, signature: &Signature) {
        self.id = self.address_of(fields, signature);
        if self.previous.is_none() {
            self.prefix = self.id;
        }
    }

    /// Signs the record of an operator, and gives it its address.
    pub(super) fn sign(&mut self, fields: &Fields, mandate: &Mandate<'_>) -> Result<Signature, Refusal> {
        let signature = mandate.sign(&self.unsigned_text(fields))?;
        self.address(fields, &signature);
        Ok(signature)
    }

    /// Whether it is the place and address of a record that says this.
    pub(super) fn is_of(&self, fields: &Fields, signature: &Signature) -> bool {
        let first = self.previous.is_none();
        self.id == self.address_of(fields, signature)
            && first == (self.sequence_number == 0)
            && (!first || self.prefix == self.id)
    }

    /// Verifies that a record is the one that was signed, if an operator caused it.
    pub(super) fn verify(&self, fields: &Fields, cause: &Cause) -> Result<(), Refusal> {
        match cause {
            Cause::Device(_) => Ok(()),
            Cause::Operator(order) => self.verify_order(fields, order),
        }
    }

    /// Verifies that an operator's record is the one that was signed.
    pub(super) fn verify_order(&self, fields: &Fields, order: &Order) -> Result<(), Refusal> {
        order.verify(&self.unsigned_text(fields))
    }

    /// The record's text, but for its `id` and the signature of its cause.
    fn unsigned_text(&self, fields: &Fields) -> String {
        let mut text = String::with_capacity(1024);
        let number = self.sequence_number;
        match &self.previous {
            None => put(&mut text, format_args!(r#"{{"id":"{BLANK}","prefix":"{BLANK}","sequenceNumber":0"#)),
            Some(previous) => put(
                &mut text,
                format_args!(
                    r#"{{"id":"{BLANK}","prefix":"{}","sequenceNumber":{number},"previous":"{previous}""#,
                    self.prefix
                ),
            ),
        }
        put(&mut text, format_args!(r#","createdAt":"{}"{}}}"#, self.created_at, fields.0));
        text
    }

    fn address_of(&self, fields: &Fields, signature: &Signature) -> Digest {
        let mut text = self.unsigned_text(fields);
        let _brace = text.pop();
        put(&mut text, format_args!(r#","signature":"{signature}"}}"#));
        Digest::of(text)
    }
}

/// The members of a record after its version and before its signature. A payload, which need not be ASCII,
/// goes in as its digest.
pub(super) struct Fields(String);

impl Fields {
    pub(super) fn of(kind: &'static str) -> Self {
        let mut fields = Self(String::with_capacity(768));
        put(&mut fields.0, format_args!(r#","format":{FORMAT}"#));
        fields.put("kind", kind);
        fields
    }

    pub(super) fn put(&mut self, name: &'static str, value: impl std::fmt::Display) {
        put(&mut self.0, format_args!(r#","{name}":"{value}""#));
    }

    pub(super) fn put_cause(&mut self, cause: &Cause) {
        match cause {
            Cause::Device(request) => self.put_request(request),
            Cause::Operator(order) => self.put_order(order),
        }
    }

    pub(super) fn put_order(&mut self, order: &Order) {
        self.put("by", "operator");
        self.put("action", order.action.as_str());
        self.put_words("operator", &order.operator);
        self.put_words("reason", &order.reason);
        self.put("signer", order.signer);
    }

    fn put_request(&mut self, request: &SignedRequest) {
        self.put("by", "device");
        self.put("path", request.operation.path());
        self.put("cause", request.digest);
        self.put("payload", Digest::of(&request.payload));
    }

    pub(super) fn put_raw(&mut self, name: &'static str, value: &str) {
        put(&mut self.0, format_args!(r#","{name}":{value}"#));
    }

    fn put_words(&mut self, name: &'static str, words: &str) {
        self.put_raw(name, &json::string(words));
    }
}

/// Appends to a string, which cannot fail.
fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _infallible = text.write_fmt(arguments);
}
