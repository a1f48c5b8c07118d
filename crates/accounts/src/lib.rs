//! Who may use an installation: API keys, users and sessions, and their routes.
//!
//! A client sends `Authorization: Bearer <key>`. A key is 256 random bits, stored as its SHA-256 alone (a fast hash is
//! right for a random key: there is nothing to guess), with scopes: `produce` (enqueue, cancel, retry), `work` (run
//! jobs), `read` (every GET) and `admin` (pause and resume, and all of the others). `HOLDFAST_API_KEY` is the bootstrap
//! admin key; it needs no database. Without any key a development server serves this machine alone ([`admission`]).
//!
//! Users log in with a password and send the token of their session in the same place; their role gives the scopes.
//!
//! # Parts
//! [`keys`], [`users`] and [`sessions`] each have their table in `store.rs`; `secret.rs` makes keys and digests; `mirror.rs` stores
//! the tables in memory, `sql.rs` asks them. `authenticator.rs` is how a server knows its callers ([`Authenticator`]); `routes/` are
//! the routes.
//!
//! # When things fail
//! While SQL is unavailable, the bootstrap key works, and so does every key that was seen within
//! an hour. A key that cannot be looked up is answered 503, not 401: it may be right.
//!
//! [`Authenticator`]: holdfast_http::authentication::Authenticator

pub mod admission;
mod authenticator;
mod health;
pub mod keys;
mod mirror;
mod problems;
mod routes;
mod secret;
pub mod sessions;
mod sql;
mod state;
pub mod users;

/// The documents of the routes, for clients in Rust.
pub mod wire {
    pub use crate::routes::keys::{KeyBody, KeyList, KeyWithText, RotationBody};
    pub use crate::routes::users::{PasswordBody, RoleBody, UserBody, UserList};
}

pub use admission::{Admission, AdmissionError, admit};
pub use authenticator::KeysAndSessions;
pub use health::SessionsProbe;
pub use holdfast_http::{Caller, Scope, Scopes, UnknownScope};
pub use keys::{ApiKeys, AuthError, KeyError, KeyId, NewKey, StoredKey};
pub use routes::ROUTES;
pub use routes::users::unknown_user;
pub use secret::generate as generate_key;
pub use sessions::Sessions;
pub use state::AccountsState;
pub use users::{Role, User, UserError, UserId, Users};
