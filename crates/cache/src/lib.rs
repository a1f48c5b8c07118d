//! A cache that answers whether Redis is there, away, or coming and going.
//!
//! Two layers: copies in the process, bounded in bytes, over the gate's `cache` role. A [`Namespace`] says what is
//! cached (its [`Class`], its name, the shape of its values), a [`Key`] names one value in it, [`Cache`] has the
//! operations. [`sessions`] keeps the sessions of users on the same server.
//!
//! # Invariants
//!
//! - **No operation fails or waits because Redis is away.** While the breaker is open a call costs microseconds; while
//!   a server hangs, the first few calls wait for the command deadline and no longer.
//! - **Keys cannot collide**, whatever users put into them: class, namespace, version and every part are delimited
//!   (`key.rs`).
//! - **What was changed is not served again.** A change announces itself to all processes (`changes.rs`), and a value
//!   that was read or loaded before the change is not stored after it: in the process by a counter (`marks.rs`), on
//!   Redis by a tombstone that a fill must match (`remote.rs`). A lost announcement costs `cache.local_ttl` at most.
//! - **A change made while Redis was away is made there when it is back** (`pending.rs`), before the value is read
//!   from there again. Only a process that dies during the outage forgets; then the TTL is the bound.
//! - **One loader at a time for a key** in the process (`flight.rs`), whatever becomes of those who wait for it.
//! - **Nothing is unbounded**: bytes in the process, bytes of a value, time of a loader, changes that wait for Redis.
//! - **Every value on Redis has a TTL**, so that a `volatile-*` eviction policy may take them and nothing else. Taking
//!   any of them is harmless.
//!
//! # When things fail
//!
//! - *Redis away*: copies in the process serve for `cache.local_ttl`, then the loader does. Changes are remembered.
//! - *Redis back, or the channel lost*: no copy made before is fresh any more; it may only stand in for a failed load.
//! - *The loader fails, panics or is late*: a value whose TTL has passed serves within `cache.stale_if_error`, if there
//!   is one. Failures are not cached.
//! - *A value does not decode* (another version wrote it, or somebody else): a miss, and counted.

mod cache;
mod changes;
mod class;
mod codec;
mod entry;
mod flight;
mod frame;
mod generation;
mod key;
mod load;
mod local;
mod lookup;
mod marks;
mod pending;
mod remote;
pub mod sessions;
mod stats;

pub use self::cache::Cache;
pub use self::class::Class;
pub use self::codec::CodecError;
pub use self::key::{Key, Namespace};
pub use self::load::{CachedValue, LoadError, Source};
pub use self::stats::{CacheStats, ClassStats};
