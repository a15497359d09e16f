//! The access token (`PROTOCOL.md#token`): `signature ‖ base64url(gzip(JSON))`, the signature over the
//! JSON by the issuing access key.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    time::Duration,
};

use base64::{
    Engine as _,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use flate2::{Compression, GzBuilder, bufread::GzDecoder};

use crate::{
    cesr::{Digest, PublicKey, Signature},
    error::{Code, Refusal},
    json::{self, Object},
    key::{SigningKey, VerifyingKey},
    limits,
    time::Timestamp,
};

/// base64url, read with or without padding and written without; loose bits are refused.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The access key that issued the token.
    pub server_identity: PublicKey,
    /// The device that the session is of.
    pub device: Digest,
    /// The account that the device belongs to.
    pub identity: Digest,
    /// The key that access requests are signed with.
    pub public_key: PublicKey,
    /// The digest of the key that will refresh the session.
    pub rotation_hash: Digest,
    /// When the token was issued.
    pub issued_at: Timestamp,
    /// When the token ends.
    pub expiry: Timestamp,
    /// When the session ends, counted from its first token.
    pub refresh_expiry: Timestamp,
    /// What the account may do.
    pub attributes: Attributes,
}

/// Roles and their permissions: `{"permissionsByRole":{"user":["read","write"]}}`.
///
/// Names are printable ASCII without `<`, `>`, `&`, `"` and `\`, and not integer-like, because peers in
/// other languages write other names differently and could then not verify the token.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Attributes {
    permissions_by_role: BTreeMap<String, Vec<String>>,
}

impl Attributes {
    /// The attributes of these roles. Errs for a name that would not survive the way, and for more than
    /// [`json::MEMBERS_MAX`] roles.
    pub fn new(permissions_by_role: BTreeMap<String, Vec<String>>) -> Result<Self, Refusal> {
        if permissions_by_role.len() > json::MEMBERS_MAX {
            return Err(Refusal::new(Code::InvalidMessage, "there are more than 32 roles"));
        }
        for name in
            permissions_by_role.iter().flat_map(|(role, permissions)| permissions.iter().chain([role]))
        {
            check_name(name)?;
        }
        Ok(Self { permissions_by_role })
    }

    /// Whether `role` is held and has `permission`.
    pub fn allows(&self, role: &str, permission: &str) -> bool {
        let permissions = self.permissions_by_role.get(role);
        permissions.is_some_and(|permissions| permissions.iter().any(|known| known == permission))
    }

    /// The attributes as they stand in a token: member names sorted.
    pub fn to_json(&self) -> String {
        let list =
            |names: &[String]| names.iter().map(|name| json::string(name)).collect::<Vec<_>>().join(",");
        let roles: Vec<_> = self
            .permissions_by_role
            .iter()
            .map(|(role, permissions)| format!("{}:[{}]", json::string(role), list(permissions)))
            .collect();
        format!("{{\"permissionsByRole\":{{{}}}}}", roles.join(","))
    }

    fn parse(mut object: Object<'_>) -> Result<Self, Refusal> {
        let roles = object.raw("permissionsByRole")?;
        object.finish()?;
        let mut permissions_by_role = BTreeMap::new();
        for (role, permissions) in Object::parse(roles)?.into_members() {
            let permissions: Vec<String> = serde_json::from_str(permissions).map_err(|_| {
                Refusal::new(Code::InvalidToken, "the permissions of a role are not a list of strings")
            })?;
            permissions_by_role.insert(role.to_owned(), permissions);
        }
        Ok(Self { permissions_by_role })
    }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let bad = |because| Err(Refusal::new(Code::InvalidMessage, because).with("name", name));
    if name.is_empty() || name.len() > 64 {
        return bad("a role or permission name has 1 to 64 characters");
    }
    if !name.bytes().all(|byte| matches!(byte, b' '..=b'~') && !b"<>&\"\\".contains(&byte)) {
        return bad("a role or permission name is printable ASCII without `<`, `>`, `&`, `\"` and `\\`");
    }
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        return bad("a role or permission name is not a number: JavaScript would reorder it");
    }
    Ok(())
}

impl Claims {
    /// The claims as a token carries them, in the protocol's order.
    pub fn to_json(&self) -> String {
        format!(
            "{{\"serverIdentity\":\"{}\",\"device\":\"{}\",\"identity\":\"{}\",\"publicKey\":\"{}\",\
             \"rotationHash\":\"{}\",\"issuedAt\":\"{}\",\"expiry\":\"{}\",\"refreshExpiry\":\"{}\",\
             \"attributes\":{}}}",
            self.server_identity,
            self.device,
            self.identity,
            self.public_key,
            self.rotation_hash,
            self.issued_at,
            self.expiry,
            self.refresh_expiry,
            self.attributes.to_json()
        )
    }

    /// Signs the claims: a token's text.
    pub fn issue(&self, key: &SigningKey) -> Result<String, Refusal> {
        let failed = |_| Refusal::new(Code::Internal, "compressing a token failed");
        let claims = self.to_json();
        let signature = key.sign(claims.as_bytes())?;
        let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
        gzip.write_all(claims.as_bytes()).map_err(failed)?;
        let text = format!("{signature}{}", BASE64.encode(gzip.finish().map_err(failed)?));
        if text.len() > limits::TOKEN_TEXT_MAX {
            return Err(Refusal::new(
                Code::Internal,
                "the attributes make the token too long: configure fewer roles",
            ));
        }
        Ok(text)
    }

    /// Whether the token is valid for access at `now`.
    pub fn check_access_times(&self, now: Timestamp, skew: Duration) -> Result<(), Refusal> {
        if self.expiry <= now {
            return Err(Refusal::new(Code::ExpiredToken, "the token has expired")
                .with("expiry", self.expiry.to_string()));
        }
        // A denial of a device ends when the tokens issued before it have: none may live longer than that counts on.
        if self.expiry.since(self.issued_at) > limits::ACCESS_LIFETIME.saturating_add(skew) {
            return Err(Refusal::new(Code::InvalidToken, "the token lives longer than any may")
                .with("expiry", self.expiry.to_string()));
        }
        self.check_issued(now, skew)
    }

    /// Whether the session can be refreshed at `now`. The token itself may have expired.
    pub fn check_refresh_times(&self, now: Timestamp, skew: Duration) -> Result<(), Refusal> {
        if self.refresh_expiry <= now {
            return Err(Refusal::new(Code::RefreshExpired, "the session's time for refreshing has passed")
                .with("refreshExpiry", self.refresh_expiry.to_string()));
        }
        self.check_issued(now, skew)
    }

    fn check_issued(&self, now: Timestamp, skew: Duration) -> Result<(), Refusal> {
        if self.issued_at > now.plus(skew) {
            return Err(Refusal::new(Code::FutureToken, "the token was issued in the future")
                .with("issuedAt", self.issued_at.to_string()));
        }
        Ok(())
    }

    fn parse(json: &str) -> Result<Self, Refusal> {
        let mut object = Object::parse(json)?;
        let claims = Self {
            server_identity: object.parsed("serverIdentity", PublicKey::parse)?,
            device: object.parsed("device", Digest::parse)?,
            identity: object.parsed("identity", Digest::parse)?,
            public_key: object.parsed("publicKey", PublicKey::parse)?,
            rotation_hash: object.parsed("rotationHash", Digest::parse)?,
            issued_at: object.parsed("issuedAt", Timestamp::parse)?,
            expiry: object.parsed("expiry", Timestamp::parse)?,
            refresh_expiry: object.parsed("refreshExpiry", Timestamp::parse)?,
            attributes: Attributes::parse(object.object("attributes")?)?,
        };
        object.finish()?;
        Ok(claims)
    }
}

/// A token as received. Its claims are not proven until [`Self::verify`] has passed.
#[derive(Clone, Debug)]
pub struct Token {
    signature: Signature,
    json: Box<str>,
    claims: Claims,
}

impl Token {
    /// Reads a token's text; at most [`limits::TOKEN_JSON_MAX`] bytes are inflated.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let malformed = |because| Refusal::new(Code::InvalidToken, because);
        if text.len() > limits::TOKEN_TEXT_MAX {
            return Err(malformed("the token is longer than 48 KiB"));
        }
        let (signature, packed) = text
            .split_at_checked(Signature::TEXT_LEN)
            .ok_or_else(|| malformed("the token is shorter than a signature"))?;
        let signature = Signature::parse(signature)
            .map_err(|_| malformed("the token does not begin with a signature"))?;
        let json = inflate(packed).map_err(malformed)?;
        let claims = Claims::parse(&json).map_err(|refusal| malformed(refusal.because()))?;
        Ok(Self { signature, json: json.into(), claims })
    }

    /// What the token says.
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Verifies that `key` is the key that the claims name as issuer, and issued them.
    pub fn verify(&self, key: &VerifyingKey) -> Result<(), Refusal> {
        if key.public_key() != self.claims.server_identity {
            return Err(Refusal::new(Code::BadSignature, "the token names another issuer"));
        }
        key.verify(self.json.as_bytes(), &self.signature)
    }
}

fn inflate(packed: &str) -> Result<String, &'static str> {
    let gzip = BASE64.decode(packed).map_err(|_| "the token is not base64url")?;
    let most = u64::try_from(limits::TOKEN_JSON_MAX).unwrap_or(u64::MAX);
    let mut json = Vec::with_capacity(1024);
    let mut inflated = GzDecoder::new(gzip.as_slice()).take(most.saturating_add(1));
    inflated.read_to_end(&mut json).map_err(|_| "the token is not gzip")?;
    if json.len() > limits::TOKEN_JSON_MAX {
        return Err("the token inflates to more than 64 KiB");
    }
    if !inflated.into_inner().into_inner().is_empty() {
        return Err("more follows the token's gzip member");
    }
    String::from_utf8(json).map_err(|_| "the token is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(key: &SigningKey) -> Claims {
        let roles = BTreeMap::from([("user".to_owned(), vec!["read".to_owned(), "write".to_owned()])]);
        Claims {
            server_identity: key.public_key(),
            device: Digest::of("device"),
            identity: Digest::of("identity"),
            public_key: key.public_key(),
            rotation_hash: Digest::of("next"),
            issued_at: Timestamp::from_unix_millis(1_000),
            expiry: Timestamp::from_unix_millis(901_000),
            refresh_expiry: Timestamp::from_unix_millis(43_201_000),
            attributes: Attributes::new(roles).unwrap(),
        }
    }

    fn key() -> SigningKey {
        SigningKey::from_seed(&[5; 32]).unwrap()
    }

    fn packed(json: &[u8]) -> String {
        let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
        gzip.write_all(json).unwrap();
        format!("0I{}{}", "A".repeat(86), BASE64.encode(gzip.finish().unwrap()))
    }

    #[test]
    fn an_issued_token_reads_back_with_and_without_padding() {
        let key = key();
        let claims = claims(&key);
        let mut text = claims.issue(&key).unwrap();
        let verifying = VerifyingKey::new(&key.public_key()).unwrap();
        loop {
            let token = Token::parse(&text).unwrap();
            assert_eq!((token.claims(), token.verify(&verifying)), (&claims, Ok(())));
            if (text.len() - Signature::TEXT_LEN).is_multiple_of(4) {
                break;
            }
            text.push('=');
        }
        assert!(claims.attributes.allows("user", "read") && !claims.attributes.allows("user", "Read"));
    }

    #[test]
    fn hostile_tokens_are_refused_within_the_bound() {
        let bomb = packed(&vec![b'0'; 30_000_000]);
        assert!(bomb.len() < limits::TOKEN_TEXT_MAX, "{}", bomb.len());
        let mut two_members = packed(claims(&key()).to_json().as_bytes());
        two_members.push_str(packed(b"x").get(88..).unwrap());
        let mut twice = claims(&key()).to_json();
        twice.insert_str(1, "\"device\":\"x\",");
        for bad in [
            "",
            "0I",
            &bomb,
            &two_members,
            &packed(b"{}"),
            &packed(b"\xff"),
            &packed(twice.as_bytes()),
            &format!("0I{}!", "A".repeat(86)),
            &"é".repeat(88),
        ] {
            assert_eq!(Token::parse(bad).unwrap_err().code(), Code::InvalidToken);
        }
    }

    #[test]
    fn times_have_their_codes() {
        let claims = claims(&key());
        let skew = Duration::from_secs(5);
        let at = Timestamp::from_unix_millis;
        let access = |now| claims.check_access_times(at(now), skew).map_err(|refusal| refusal.code());
        let refresh = |now| claims.check_refresh_times(at(now), skew).map_err(|refusal| refusal.code());
        assert_eq!((access(-4_001), access(-4_000)), (Err(Code::FutureToken), Ok(())));
        assert_eq!((access(900_999), access(901_000)), (Ok(()), Err(Code::ExpiredToken)));
        assert_eq!((refresh(43_200_999), refresh(43_201_000)), (Ok(()), Err(Code::RefreshExpired)));
    }

    #[test]
    fn names_that_other_languages_would_change_are_refused() {
        for bad in ["", "a<b", "a>b", "a&b", "a\"b", "12", "é", "a\nb", "a\\b", &"x".repeat(65)] {
            let roles = BTreeMap::from([(bad.to_owned(), Vec::new())]);
            assert!(Attributes::new(roles).is_err(), "{bad:?}");
            assert!(Attributes::new(BTreeMap::from([("user".to_owned(), vec![bad.to_owned()])])).is_err());
        }
    }
}
