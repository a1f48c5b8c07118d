//! Who may ask for what.
//!
//! A client sends `Authorization: Bearer <key>`. A key is 256 random bits, stored as its SHA-256 alone (a fast hash is
//! right for a random key: there is nothing to guess), with scopes: `produce` (enqueue, cancel, retry), `read` (every
//! GET) and `admin` (pause and resume, and all of the others). `HOLDFAST_API_KEY` is the bootstrap admin key; it needs
//! no database. Without any key a development server serves this machine alone.
//!
//! People log in with a password and send the token of their session in the same place; their role gives the scopes.
//!
//! # Parts
//! `secret.rs` makes keys and digests, `scope.rs` says what a key may do, `store.rs` is their table, `keys.rs` is what
//! everybody holds; `users/` and `sessions/` are the same for people; `mirror.rs` keeps both tables in memory, `sql.rs`
//! asks them; `caller.rs` is what a handler asks for, and where requests are counted ([`crate::rate`]).
//!
//! # When things fail
//! While SQL is away, the bootstrap key works, and so does every key that was seen within
//! an hour. A key that nobody can look up is answered 503, not 401: it may well be right.

mod caller;
pub mod keys;
mod mirror;
mod scope;
mod secret;
mod sessions;
mod sql;
mod store;
pub mod users;

pub(crate) use caller::{
    Admin, Allowed, Anyone, Produce, Read, bearer, count_anonymous, may_read, unauthenticated,
};
pub use keys::{ApiKeys, AuthError, Caller, KeyError, NewKey};
pub use scope::{Scope, Scopes, UnknownScope};
pub(crate) use sessions::{Opened, Sessions, is_token};
pub use store::{KeyId, StoredKey};
pub use users::{Role, User, UserError, UserId, Users};
