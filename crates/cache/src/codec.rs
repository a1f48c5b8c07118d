//! Values as bytes.
//!
//! Two codecs. **JSON** (serde_json) for typed values: a value can be read with redis-cli, and a field that is added
//! with a default does not make every cached value undecodable, as it would with a positional format; compression
//! takes back most of what the names of the fields cost. **Raw** for what is bytes already. A codec has a number on
//! the wire: a value that another codec wrote counts as undecodable.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value that cannot be turned into bytes, or bytes that are no such value.
#[derive(Debug, thiserror::Error)]
#[error("a cached value cannot be encoded as JSON: {0}")]
pub struct CodecError(#[from] serde_json::Error);

pub(crate) struct Codec<V> {
    pub(crate) id: u8,
    pub(crate) encode: fn(&V) -> Result<Bytes, CodecError>,
    pub(crate) decode: fn(&Bytes) -> Result<V, CodecError>,
}

impl<V> Clone for Codec<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Codec<V> {}

const JSON: u8 = 1;
const RAW: u8 = 2;

impl<V: Serialize + DeserializeOwned> Codec<V> {
    pub(crate) const fn json() -> Self {
        Self {
            id: JSON,
            encode: |value| Ok(serde_json::to_vec(value)?.into()),
            decode: |bytes| Ok(serde_json::from_slice(bytes)?),
        }
    }
}

impl Codec<Bytes> {
    pub(crate) const fn raw() -> Self {
        Self {
            id: RAW,
            encode: |value| Ok(value.clone()),
            decode: |bytes| Ok(bytes.clone()),
        }
    }
}
