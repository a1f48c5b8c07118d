//! Whether this process has the keys that stored values need.

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_core::encryption::Encryption;

use super::probe::{Finding, HealthProbe};

/// Looks at what this process was missing lately. It reads nothing.
#[derive(Debug)]
pub struct EncryptionProbe(Encryption);

impl EncryptionProbe {
    pub fn new(encryption: Encryption) -> Self {
        Self(encryption)
    }

    fn look(&self) -> Finding {
        let missing = self.0.missing();
        let finding = if !missing.is_empty() {
            let error = format!(
                "stored values are encrypted under keys that this process does not have ({}); their jobs wait",
                missing.join(", ")
            );
            Finding::degraded(
                error,
                "Add these keys to HOLDFAST_ENCRYPTION_KEYS of every process, and restart them.",
            )
        } else if self.0.is_on() {
            Finding::healthy()
        } else {
            return Finding::not_configured();
        };
        finding
            .with("keys", self.0.ids().collect::<Vec<_>>())
            .with("missing_keys", missing)
    }
}

impl HealthProbe for EncryptionProbe {
    fn name(&self) -> &'static str {
        "encryption"
    }

    fn check(&self) -> BoxFuture<'_, Finding> {
        async move { self.look() }.boxed()
    }
}
