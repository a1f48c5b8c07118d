//! Name resolution that hands out permitted addresses only.
//!
//! The client connects to exactly what this resolver returned, so an answer that changes between a check and the
//! connection (DNS rebinding) gains nothing: there is no second look-up.
//!
//! A look-up occupies a thread until the system's resolver gives up, whether or not somebody still waits for it.
//! At most [`MAX_LOOKUPS`] run at once; with a dead DNS server the rest wait for their request's deadline, and the
//! runtime's blocking threads stay free for others. All failures to resolve are worth a retry.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

use super::address::AddressPolicy;

const MAX_LOOKUPS: usize = 32;

#[derive(Debug)]
pub(super) struct Resolver {
    policy: AddressPolicy,
    lookups: Arc<Semaphore>,
}

impl Resolver {
    pub(super) fn new(policy: AddressPolicy) -> Self {
        Self {
            policy,
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
        }
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, lookups) = (self.policy.clone(), self.lookups.clone());
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = look_up(name, lookups).await?;
            let permitted = permitted(&policy, &host, found)?;
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

async fn look_up(name: Name, lookups: Arc<Semaphore>) -> Result<Vec<SocketAddr>, BoxError> {
    let permit = lookups.acquire_owned().await?;
    let found = tokio::task::spawn_blocking(move || {
        // Held by the thread, not by the request: a request that gives up does not free its thread.
        let _permit = permit;
        // Port 0: the client puts the URL's own in its place.
        (name.as_str(), 0).to_socket_addrs().map(Iterator::collect)
    });
    Ok(found.await??)
}

/// The permitted ones. If there are none, the reason for the first one's refusal.
fn permitted(
    policy: &AddressPolicy,
    name: &str,
    found: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, BoxError> {
    let mut refusal = None;
    let permitted: Vec<SocketAddr> = found
        .into_iter()
        .filter(|address| match policy.check_resolved(name, address.ip()) {
            Ok(()) => true,
            Err(refused) => {
                refusal.get_or_insert(refused);
                false
            }
        })
        .collect();
    match refusal {
        Some(refused) if permitted.is_empty() => Err(refused.into()),
        _ if permitted.is_empty() => Err("the name has no address".into()),
        _ => Ok(permitted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts
            .iter()
            .map(|text| SocketAddr::new(text.parse().unwrap(), 0))
            .collect()
    }

    #[test]
    fn a_name_with_public_and_private_addresses_is_reached_at_the_public_ones_alone() {
        let policy = AddressPolicy::public_only();
        let mixed = addresses(&["10.0.0.1", "8.8.8.8", "::1", "2606:4700::1"]);
        assert_eq!(
            permitted(&policy, "a.example", mixed).unwrap(),
            addresses(&["8.8.8.8", "2606:4700::1"])
        );
        assert_eq!(
            permitted(&policy, "a.example", addresses(&["127.0.0.1", "10.0.0.1"]))
                .unwrap_err()
                .to_string(),
            "a loopback address, which neither http_request.allow_hosts nor http_request.allow_private permits"
        );
        assert_eq!(
            permitted(&policy, "a.example", Vec::new())
                .unwrap_err()
                .to_string(),
            "the name has no address"
        );
    }
}
