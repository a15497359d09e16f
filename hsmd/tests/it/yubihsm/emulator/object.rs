//! Asymmetric keys on the emulated device, and its certificates about them.

use aws_lc_rs::digest;
use p256::ecdsa::{Signature, SigningKey, signature::hazmat::PrehashSigner as _};
use rcgen::{CertificateParams, CustomExtension, Issuer, KeyPair, SubjectPublicKeyInfo};

/// The object identifiers of an EC key on P-256, in front of its point.
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

pub const EC_P256: u8 = 12;
pub const GENERATED: u8 = 1;

/// What is added to the origin of a key that came in wrapped.
const WRAPPED: u8 = 0x10;

/// A wrap key. How a device encrypts under one is not emulated: only that nothing but the same key decrypts it.
pub struct WrapKey {
    pub domains: u16,
    pub capabilities: u64,
    pub delegated: u64,
    label: Vec<u8>,
    key: Vec<u8>,
}

impl WrapKey {
    /// Reads label, domains, capabilities, algorithm, delegated capabilities and key, as a command to put one spells
    /// them.
    pub fn parse(parameters: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_be_bytes(parameters.get(at..at + 8)?.try_into().ok()?));
        Some(Self {
            label: parameters.get(..40)?.to_vec(),
            domains: u16::from_be_bytes(parameters.get(40..42)?.try_into().ok()?),
            capabilities: number(42)?,
            delegated: number(51)?,
            key: parameters.get(59..91)?.to_vec(),
        })
    }

    pub fn info(&self, id: u16) -> Vec<u8> {
        [
            &self.capabilities.to_be_bytes()[..],
            &id.to_be_bytes(),
            &40_u16.to_be_bytes(),
            &self.domains.to_be_bytes(),
            &[4, 0x2a, 0, 2],
            &self.label,
            &self.delegated.to_be_bytes(),
        ]
        .concat()
    }

    /// Nonce and ciphertext.
    pub fn encrypt(&self, text: &[u8]) -> Vec<u8> {
        let nonce = random::<13>();
        let mask = self.mask(&nonce, text.len());
        let hidden: Vec<u8> = text.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect();
        let tag = digest::digest(&digest::SHA256, &[&self.key[..], text].concat());
        [&nonce[..], &hidden, tag.as_ref()].concat()
    }

    pub fn decrypt(&self, message: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = message.split_at_checked(13)?;
        let (hidden, tag) = rest.split_at_checked(rest.len().checked_sub(32)?)?;
        let mask = self.mask(nonce, hidden.len());
        let text: Vec<u8> = hidden.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect();
        let same = digest::digest(&digest::SHA256, &[&self.key[..], &text].concat()).as_ref() == tag;
        same.then_some(text)
    }

    fn mask(&self, nonce: &[u8], length: usize) -> Vec<u8> {
        let block =
            |counter: u8| digest::digest(&digest::SHA256, &[&self.key[..], nonce, &[counter]].concat());
        (0..).flat_map(|counter| block(counter).as_ref().to_vec()).take(length).collect()
    }
}

pub struct Object {
    pub label: Vec<u8>,
    pub domains: u16,
    pub capabilities: u64,
    pub algorithm: u8,
    pub sequence: u8,
    pub origin: u8,
    key: SigningKey,
}

impl Object {
    /// Reads label, domains, capabilities and algorithm, as a command to make a key spells them.
    pub fn generate(parameters: &[u8], sequence: u8) -> Option<Self> {
        let (label, rest) = parameters.split_at_checked(40)?;
        let (domains, rest) = rest.split_at_checked(2)?;
        let (capabilities, algorithm) = rest.split_at_checked(8)?;
        Some(Self {
            label: label.to_vec(),
            domains: u16::from_be_bytes(domains.try_into().ok()?),
            capabilities: u64::from_be_bytes(capabilities.try_into().ok()?),
            algorithm: *algorithm.first()?,
            sequence,
            origin: GENERATED,
            key: SigningKey::from_slice(&random::<32>()).ok()?,
        })
    }

    /// The key with all that belongs to it.
    pub fn spell(&self, id: u16) -> Vec<u8> {
        let fields = [self.algorithm, self.sequence, self.origin | WRAPPED];
        [
            &id.to_be_bytes()[..],
            &self.domains.to_be_bytes(),
            &self.capabilities.to_be_bytes(),
            &fields,
            &self.label,
            &self.key.to_bytes(),
        ]
        .concat()
    }

    /// Reads what [`Object::spell`] wrote.
    pub fn read(text: &[u8]) -> Option<(u16, Self)> {
        let number = |at: usize| Some(u16::from_be_bytes(text.get(at..at + 2)?.try_into().ok()?));
        let object = Self {
            domains: number(2)?,
            capabilities: u64::from_be_bytes(text.get(4..12)?.try_into().ok()?),
            algorithm: text[12],
            sequence: text[13],
            origin: text[14],
            label: text.get(15..55)?.to_vec(),
            key: SigningKey::from_slice(text.get(55..87)?).ok()?,
        };
        Some((number(0)?, object))
    }

    pub fn point(&self) -> Vec<u8> {
        self.key.verifying_key().to_sec1_point(false).as_bytes().to_vec()
    }

    pub fn sign(&self, digest: &[u8]) -> Vec<u8> {
        let signature: Signature = self.key.sign_prehash(digest).unwrap();
        signature.to_der().as_bytes().to_vec()
    }

    /// The device's answer to Get Object Info.
    pub fn info(&self, id: u16) -> Vec<u8> {
        [
            &self.capabilities.to_be_bytes()[..],
            &id.to_be_bytes(),
            &36_u16.to_be_bytes(),
            &self.domains.to_be_bytes(),
            &[3, self.algorithm, self.sequence, self.origin],
            &self.label,
            &[0; 8],
        ]
        .concat()
    }

    /// A certificate as the device issues it, constructed from Yubico's documentation of attestation: none was
    /// recorded from a device. The extensions are spelled as devices spell them: an OCTET STRING, INTEGERs,
    /// BIT STRINGs without unused bits, a UTF8String.
    pub fn attest(&self, id: u16, serial: u32) -> Vec<u8> {
        let extension = |last, content: Vec<u8>| {
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 41482, 4, last], content)
        };
        let number = |bytes: &[u8]| {
            let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
            let pad: &[u8] = if bytes[first] & 0x80 == 0 { &[] } else { &[0] };
            tagged(2, &[pad, &bytes[first..]].concat())
        };
        let label: Vec<u8> = self.label.iter().copied().take_while(|byte| *byte != 0).collect();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.custom_extensions = vec![
            extension(1, tagged(4, &[2, 4, 0])),
            extension(2, number(&serial.to_be_bytes())),
            extension(3, tagged(3, &[0, self.origin])),
            extension(4, tagged(3, &[&[0][..], &self.domains.to_be_bytes()].concat())),
            extension(5, tagged(3, &[&[0][..], &self.capabilities.to_be_bytes()].concat())),
            extension(6, number(&id.to_be_bytes())),
            extension(9, tagged(12, &label)),
        ];
        let spki = SubjectPublicKeyInfo::from_der(&[&SPKI[..], &self.point()].concat()).unwrap();
        let issuer = Issuer::new(CertificateParams::new(Vec::new()).unwrap(), KeyPair::generate().unwrap());
        parameters.signed_by(&spki, &issuer).unwrap().der().to_vec()
    }
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
}

pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    bytes
}
