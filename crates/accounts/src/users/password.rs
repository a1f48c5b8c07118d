//! Hashing passwords: argon2id, off the runtime's threads, a few at a time.
//!
//! The parameters are the ones that OWASP's cheat sheet names first for argon2id: 19 MiB, two passes, one lane. A hash
//! says its own parameters, so raising them leaves the stored ones good.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use argon2::password_hash::PasswordHasher;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, Version};
use secrecy::{ExposeSecret, SecretString};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Shortest password, in bytes.
pub const MIN_PASSWORD: usize = 12;

/// Longest password, in bytes: hashing begins with all of it.
pub const MAX_PASSWORD: usize = 1_024;

/// Longest wait for a place among the hashes under way.
const PATIENCE: Duration = Duration::from_secs(3);

/// Nobody's hash, with the parameters of everybody's: what an unknown name is checked against.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$aG9sZGZhc3Qtbm9ib2R5IQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// More hashes are asked for than can be computed.
#[derive(Debug)]
pub(super) struct Busy;

#[derive(Debug)]
pub(super) struct Hasher {
    places: Arc<Semaphore>,
    runs: Arc<AtomicU64>,
    runtime: Handle,
}

impl Hasher {
    /// Call it inside tokio.
    pub(super) fn new(max_concurrent: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(max_concurrent)),
            runs: Arc::default(),
            runtime: Handle::current(),
        }
    }

    /// The hash of a password as a PHC string, with a fresh salt.
    pub(super) async fn hash(&self, password: &SecretString) -> Result<String, Busy> {
        let password = password.clone();
        let work = move || argon2().hash_password(password.expose_secret().as_bytes());
        match self.run(work).await? {
            Ok(hash) => Ok(hash.to_string()),
            // The parameters are constant and right, and the generator is the operating system's.
            Err(error) => {
                tracing::error!(%error, "a password cannot be hashed");
                Err(Busy)
            }
        }
    }

    /// Whether the password is the one behind the hash; of nobody's hash it never is, and that takes as long.
    pub(super) async fn verify(&self, password: &SecretString, hash: Option<String>) -> Result<bool, Busy> {
        let password = password.clone();
        let work = move || {
            let expected = hash.as_deref().unwrap_or(NOBODY);
            let Ok(parsed) = PasswordHash::new(expected) else {
                tracing::error!("a stored password hash cannot be read: set the password anew");
                return false;
            };
            let verified = argon2().verify_password(password.expose_secret().as_bytes(), &parsed);
            verified.is_ok() && hash.is_some()
        };
        self.run(work).await
    }

    #[cfg(test)]
    pub(super) fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    /// The place is held until the work is done, even if nobody waits for it any more.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        let place = timeout(PATIENCE, Arc::clone(&self.places).acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return Err(Busy);
        };
        let runs = Arc::clone(&self.runs);
        let computing = self.runtime.spawn_blocking(move || {
            let _place = place;
            runs.fetch_add(1, Ordering::Relaxed);
            work()
        });
        computing.await.map_err(|_| Busy)
    }
}

fn argon2() -> Argon2<'static> {
    // The defaults of the crate's parameters are these very ones; written out, because a library may change its mind.
    let params = Params::new(19_456, 2, 1, None).unwrap_or_default();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_is_argon2id_and_knows_its_password() {
        let hasher = Hasher::new(1);
        let password = SecretString::from("correct horse battery".to_owned());
        let hash = hasher.hash(&password).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(hasher.verify(&password, Some(hash.clone())).await.unwrap());
        let other = SecretString::from("Correct horse battery".to_owned());
        assert!(!hasher.verify(&other, Some(hash)).await.unwrap());
        assert!(!hasher.verify(&password, None).await.unwrap());
        assert!(
            !hasher
                .verify(&password, Some("spoiled".to_owned()))
                .await
                .unwrap()
        );
    }

    #[test]
    fn nobodys_hash_is_a_hash_with_our_parameters() {
        let nobody = PasswordHash::new(NOBODY).unwrap();
        let real = argon2().hash_password(b"correct horse battery").unwrap();
        assert_eq!(nobody.algorithm, real.algorithm);
        assert_eq!(nobody.params.to_string(), real.params.to_string());
        assert_eq!(
            nobody.hash.unwrap().as_ref().len(),
            real.hash.unwrap().as_ref().len()
        );
    }
}
