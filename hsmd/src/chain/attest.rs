//! What the device certifies about the chain's keys, and how much room it has.

use keychain::{Digest, PublicKey};

use super::{Error, Keeper};

/// A generation whose key the device has certified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// The generation.
    pub generation: Digest,
    /// Its key.
    pub public_key: PublicKey,
    /// The device's certificate about the key, DER.
    pub certificate: Vec<u8>,
}

impl Keeper {
    /// Has the device certify the signing key and the next one, and keeps the certificates, unless they are kept
    /// already. Nothing where the device issues none.
    pub async fn attest(&self) -> Result<(), Error> {
        let Some(view) = self.view() else { return Ok(()) };
        for key in std::iter::once(view.live().event().public_key).chain(view.next()) {
            if self.ledger.attestation(&key).await?.is_some() {
                continue;
            }
            let Some(certificate) = self.tokens.attest(key).await? else { continue };
            self.ledger.keep_attestation(&key, &certificate).await?;
        }
        Ok(())
    }

    /// The certificates about the keys of generations that have begun. The next key is committed to and not
    /// known: its certificate, which says what it is, is published when its generation has begun.
    pub async fn attestations(&self) -> Result<Vec<Attested>, Error> {
        let view = self.seen().ok_or_else(|| Error::State(self.chain_state()))?;
        let mut kept = self.ledger.attestations().await?;
        let attested = view.events().filter_map(|event| {
            let (generation, public_key) = (event.id(), event.event().public_key);
            let certificate = kept.remove(&public_key.to_string())?;
            Some(Attested { generation, public_key, certificate })
        });
        Ok(attested.collect())
    }

    /// How many more objects fit on the token; none where the device does not say.
    pub async fn free_objects(&self) -> Result<Option<u32>, Error> {
        Ok(self.tokens.free_objects().await?)
    }
}
