//! Who may ask for what.
//!
//! A client sends `Authorization: Bearer <key>`. A key is 256 random bits, stored as its SHA-256 alone (a fast hash is
//! right for a random key: there is nothing to guess), with scopes: `produce` (enqueue, cancel, retry), `read` (every
//! GET) and `admin` (pause and resume, and all of the others). `HOLDFAST_API_KEY` is the bootstrap admin key; it needs
//! no database. Without any key a development server serves this machine alone.
//!
//! # Parts
//! `secret.rs` makes keys and digests, `scope.rs` says what a key may do, `store.rs` is the table, `keys.rs` is what
//! everybody holds, `caller.rs` is what a handler asks for.
//!
//! # When things fail
//! While SQL is away, the bootstrap key works, and so does every key that was seen within
//! [`keys::STALE_LIMIT`]. A key that nobody can look up is answered 503, not 401: it may well be right.

mod caller;
pub mod keys;
mod scope;
mod secret;
mod store;

pub(crate) use caller::{Admin, Allowed, Produce, Read, may_read};
pub use keys::{ApiKeys, AuthError, Caller, KeyError, NewKey};
pub use scope::{Scope, Scopes, UnknownScope};
pub use store::{KeyId, StoredKey};
