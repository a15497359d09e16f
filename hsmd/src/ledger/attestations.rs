//! What the device certified about keys, by public key: kept beside the events, because a key that has been
//! left is destroyed and cannot be attested any more.

use std::collections::BTreeMap;

use keychain::PublicKey;
use sea_orm::{ConnectionTrait, QueryResult};

use super::{Error, Ledger, sql};

impl Ledger {
    /// The certificate (DER) about a key, if one is kept.
    pub async fn attestation(&self, key: &PublicKey) -> Result<Option<Vec<u8>>, Error> {
        const ONE: &str = "SELECT public_key, certificate FROM attestations WHERE public_key = $1";
        let reading = async {
            let row = sql::one(&self.shared.reader, ONE, [key.to_string().into()]).await?;
            row.map(|row| Ok(row.try_get("", "certificate")?)).transpose()
        };
        self.shared.reading(reading).await
    }

    /// All that are kept, by public key as text.
    pub async fn attestations(&self) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        const ALL: &str = "SELECT public_key, certificate FROM attestations";
        let read = |row: QueryResult| Ok((row.try_get("", "public_key")?, row.try_get("", "certificate")?));
        let reading = async {
            let rows = sql::all(&self.shared.reader, ALL, []).await?;
            rows.into_iter().map(read).collect()
        };
        self.shared.reading(reading).await
    }
}

pub(super) async fn keep(
    on: &impl ConnectionTrait,
    key: &PublicKey,
    certificate: &[u8],
) -> Result<(), Error> {
    const KEEP: &str = "INSERT INTO attestations (public_key, certificate) VALUES ($1, $2) ON CONFLICT (public_key) DO NOTHING";
    sql::execute(on, KEEP, [key.to_string().into(), certificate.to_vec().into()]).await?;
    Ok(())
}
