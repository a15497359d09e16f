//! The card's side of the secure channel (SCP03).

use aes::{
    Aes128, Block,
    cipher::{BlockDecrypt as _, BlockEncrypt as _, KeyInit as _},
};
use cmac::{Cmac, Mac as _};

type Half = [u8; 8];

pub struct Channel {
    keys: [[u8; 16]; 3],
    context: [u8; 16],
    chain: [u8; 16],
    counter: u32,
}

impl Channel {
    pub fn new(key: &[u8; 32], host: Half, card: Half) -> Self {
        let mut context = [0; 16];
        context[..8].copy_from_slice(&host);
        context[8..].copy_from_slice(&card);
        let (enc, mac) = key.split_at(16);
        let keys = [(enc, 4), (mac, 6), (mac, 7)].map(|(key, constant)| derive(key, constant, &context, 16));
        Self { keys: keys.map(|key| key.try_into().unwrap()), context, chain: [0; 16], counter: 1 }
    }

    pub fn card_cryptogram(&self) -> Vec<u8> {
        derive(&self.keys[1], 0, &self.context, 8)
    }

    pub fn host_cryptogram(&self) -> Vec<u8> {
        derive(&self.keys[1], 1, &self.context, 8)
    }

    /// Checks the MAC of a command (session id and data, then the MAC); answers the data.
    pub fn open<'a>(&mut self, code: u8, body: &'a [u8]) -> Option<&'a [u8]> {
        let (signed, mac) = body.split_at_checked(body.len().checked_sub(8)?)?;
        let tag = tag(&self.keys[1], &[&self.chain, &head(code, body.len()), signed]);
        self.chain = tag;
        (tag[..8] == *mac).then_some(&signed[1..])
    }

    pub fn decrypt(&mut self, data: &[u8]) -> Option<Vec<u8>> {
        let cipher = Aes128::new(&self.keys[0].into());
        let mut before = self.vector(&cipher);
        let mut plain = Vec::new();
        for block in data.chunks_exact(16) {
            let mut whole = Block::from(<[u8; 16]>::try_from(block).unwrap());
            cipher.decrypt_block(&mut whole);
            plain.extend(whole.iter().zip(before).map(|(byte, other)| byte ^ other));
            before = Block::from(<[u8; 16]>::try_from(block).unwrap());
        }
        let end = plain.iter().rposition(|byte| *byte != 0).filter(|index| plain[*index] == 0x80)?;
        plain.truncate(end);
        Some(plain)
    }

    /// Encrypts an answer and puts its MAC behind it.
    pub fn seal(&mut self, session: u8, answer: &[u8]) -> Vec<u8> {
        let cipher = Aes128::new(&self.keys[0].into());
        let mut before = self.vector(&cipher);
        let mut padded = [answer, &[0x80]].concat();
        padded.resize(padded.len().next_multiple_of(16), 0);
        let mut body = vec![session];
        for block in padded.chunks_exact(16) {
            let mut whole = Block::from(<[u8; 16]>::try_from(block).unwrap());
            whole.iter_mut().zip(before).for_each(|(byte, other)| *byte ^= other);
            cipher.encrypt_block(&mut whole);
            body.extend_from_slice(&whole);
            before = whole;
        }
        let tag = tag(&self.keys[2], &[&self.chain, &head(0x85, body.len() + 8), &body]);
        body.extend_from_slice(&tag[..8]);
        self.counter += 1;
        body
    }

    fn vector(&self, cipher: &Aes128) -> Block {
        let mut vector = Block::default();
        vector[12..].copy_from_slice(&self.counter.to_be_bytes());
        cipher.encrypt_block(&mut vector);
        vector
    }
}

/// Code and length of a message.
pub fn head(code: u8, length: usize) -> [u8; 3] {
    let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
    [code, high, low]
}

fn tag(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = <Cmac<Aes128> as cmac::Mac>::new_from_slice(key).unwrap();
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn derive(key: &[u8], constant: u8, context: &[u8; 16], length: u8) -> Vec<u8> {
    let mut label = [0; 16];
    label[11] = constant;
    label[14] = length * 8;
    label[15] = 1;
    tag(key, &[&label, context])[..usize::from(length)].to_vec()
}
