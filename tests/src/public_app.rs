//! What a public app server makes of a token: another implementation of the protocol, which shares the key directory.
//!
//! For each request it reads the issuer's entry in database 0. The chain it reads from database 4, all of it, and keeps
//! until it meets a generation that it does not know. Of heads it knows nothing (`PROTOCOL.md#directory-dead`).

use keychain::chain::{Chain, Settings, SignedEvent, windows};
use keychain::directory::{Db, Directory};
use keychain::endorsement::{Endorsement, Expected, Purpose};
use keychain::token::Token;
use keychain::{Digest, VerifyingKey};

use crate::World;
use crate::craft::now;

/// One public app server.
pub struct PublicApp {
    directory: Directory,
    identity: Digest,
    chain: Chain,
}

impl PublicApp {
    /// One on the directory of `world`, which knows nothing yet.
    pub fn beside(world: &World) -> Self {
        let identity = Digest::parse(&world.endpoints().identity).unwrap();
        let directory = Directory::connect(&world.endpoints().redis).unwrap();
        Self { directory, identity, chain: Chain::new(identity, Settings::default()) }
    }

    /// Whether it accepts a token.
    pub async fn accepts(&mut self, token: &str) -> bool {
        let token = Token::parse(token).unwrap();
        let issuer = token.claims().server_identity;
        let Some(text) = self.directory.endorsement(Db::Access, &issuer).await.unwrap() else { return false };
        let endorsement = Endorsement::parse(&text).unwrap();
        if self.chain.event(&endorsement.generation_id).is_none() {
            self.chain = Chain::new(self.identity, Settings::default());
            let events = self.directory.events().await.unwrap();
            self.chain.merge(events.iter().map(|event| SignedEvent::parse(event).unwrap()), now());
        }
        let expected = Expected { purpose: Purpose::Access, public_key: &issuer, service: None };
        let is_endorsed = endorsement.verify(&self.chain, expected, windows::EDGE, now()).is_ok();
        is_endorsed && token.verify(&VerifyingKey::new(&issuer).unwrap()).is_ok()
    }
}
