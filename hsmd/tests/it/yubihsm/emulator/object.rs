//! Asymmetric keys on the emulated device, and its certificates about them.

use p256::ecdsa::{Signature, SigningKey, signature::hazmat::PrehashSigner as _};
use rcgen::{CertificateParams, CustomExtension, Issuer, KeyPair, SubjectPublicKeyInfo};

/// The object identifiers of an EC key on P-256, in front of its point.
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

pub const EC_P256: u8 = 12;
pub const GENERATED: u8 = 1;

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
