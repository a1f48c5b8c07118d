//! Random keys of this installation, stored in SQL, so that every process signs and hashes with the same ones.
//!
//! The first process that needs a key creates it. It never changes: older signatures and hashes must go on matching. Without the keys, a
//! dump of single tables cannot be searched for guessed addresses; a full dump contains them, encrypted where
//! `HOLDFAST_ENCRYPTION_KEYS` is set.

use hmac::{Hmac, Mac};
use holdfast_core::encryption::{Encryption, is_sealed};
use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::rotation::{SealedColumn, SealedForm};
use holdfast_jobs::sql::Sql;
use sha2::Sha256;
use tokio::sync::OnceCell;

use holdfast_core::sql::dialect::on_either;

/// The column that is encrypted where there are keys.
pub(crate) const SEALED: &[SealedColumn] = &[VALUE];

const VALUE: SealedColumn = SealedColumn {
    table: "holdfast_secrets",
    key: "name",
    column: "value",
    place: "value",
    form: SealedForm::Bytes,
};

/// Bytes of a key.
const KEY_BYTES: usize = 32;

/// One named key, read once for each process.
#[derive(Default)]
pub(crate) struct Secret(OnceCell<[u8; KEY_BYTES]>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// The HMAC-SHA256 of a message under the key of this name.
    pub(crate) async fn mac(
        &self,
        sql: &Sql,
        encryption: &Encryption,
        name: &'static str,
        message: &[u8],
    ) -> Result<Hmac<Sha256>, LedgerError> {
        let key = self
            .0
            .get_or_try_init(|| Box::pin(read_or_make(sql, encryption, name)))
            .await?;
        let mac = Hmac::<Sha256>::new_from_slice(key);
        let mut mac = mac.map_err(|error| LedgerError::Corrupt(error.to_string()))?;
        mac.update(message);
        Ok(mac)
    }
}

async fn read_or_make(
    sql: &Sql,
    encryption: &Encryption,
    name: &'static str,
) -> Result<[u8; KEY_BYTES], LedgerError> {
    let place = VALUE.column(name);
    let fresh: [u8; KEY_BYTES] = rand::random();
    let sealed = encryption.seal(&place.place(), &fresh);
    let fresh = sealed.map_or_else(|| fresh.to_vec(), String::into_bytes);
    let found = sql.within("read a key of this installation", async {
        let mut tx = sql.begin().await?;
        let found = made(tx.on(), sql.named(), name, &fresh).await?;
        tx.commit().await?;
        Ok(found)
    });
    let stored = found.await?.unwrap_or_default();
    let found = match std::str::from_utf8(&stored) {
        Ok(text) if is_sealed(text) => {
            let opened = encryption.open(&place.place(), text);
            let opened = opened.map_err(|source| LedgerError::Sealed {
                what: "a key of this installation",
                source,
            })?;
            opened.as_slice().try_into().ok()
        }
        _ => stored.try_into().ok(),
    };
    found.ok_or_else(|| LedgerError::Corrupt(format!("the key {name} has not {KEY_BYTES} bytes")))
}

async fn made(
    mut on: LedgerTx<'_>,
    named: bool,
    name: &str,
    fresh: &[u8],
) -> Result<Option<Vec<u8>>, sqlx::Error> {
    let look = "select value from holdfast_secrets where name = $1";
    let make = "insert into holdfast_secrets (name, value) values ($1, $2) on conflict (name) do nothing";
    let found = on_either!(
        on.reborrow(),
        named,
        query_as::<(Vec<u8>,)>(look),
        [name],
        fetch_optional
    )?;
    if let Some((value,)) = found {
        return Ok(Some(value));
    }
    on_either!(on.reborrow(), named, query(make), [name, fresh], execute)?;
    let found = on_either!(on, named, query_as::<(Vec<u8>,)>(look), [name], fetch_optional)?;
    Ok(found.map(|(value,)| value))
}
