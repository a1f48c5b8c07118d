//! What reads and sets the number of replicas of a service.
//!
//! Invariants: a call ends by its deadline, connecting included; redirects are not followed; at most [`MAX_ANSWER_BYTES`] of an answer are
//! read; no token is in an error or a log.

mod kubernetes;
mod railway;

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;

use self::kubernetes::Kubernetes;
use self::railway::Railway;
use crate::settings::{AutoscaleSettings, DriverChoice};

/// Most of an answer that is read.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Most that is shown of what a platform says about a fault.
const SHOWN_CHARS: usize = 300;

/// Why a platform could not be asked, or has not done what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error("{path} cannot be read: is a service account mounted into the pod?")]
    ServiceAccount { path: String, source: std::io::Error },
    #[error("the certificate authority is no PEM text of certificates")]
    Certificate(#[source] reqwest::Error),
    #[error("the HTTP client cannot be built")]
    Client(#[source] reqwest::Error),
    #[error("no answer within {0:?}: the call may have taken effect")]
    TimedOut(Duration),
    #[error("the platform cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    #[error("the platform answered {status}: {said}")]
    Refused { status: StatusCode, said: String },
    #[error("the answer has more than {MAX_ANSWER_BYTES} bytes")]
    TooLarge,
    #[error("the answer is not what it should be: {0}")]
    Unknown(String),
}

/// The platform of the settings.
#[derive(Debug)]
pub enum Driver {
    Kubernetes(Kubernetes),
    Railway(Railway),
}

/// The replicas of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replicas {
    /// As many are wanted, whether all of them run or not.
    Wanted(u32),
    /// They are being changed; why. Nothing is to be decided now.
    Changing(String),
}

impl Driver {
    /// `None`: autoscaling is off. It reaches nothing yet.
    ///
    /// # Errors
    /// The certificate authority is not one, or a file of the service account cannot be read.
    pub fn new(settings: &AutoscaleSettings) -> Result<Option<Self>, DriverError> {
        Ok(match settings.driver {
            DriverChoice::Off => None,
            DriverChoice::Kubernetes => Some(Self::Kubernetes(Kubernetes::new(settings)?)),
            DriverChoice::Railway => Some(Self::Railway(Railway::new(settings)?)),
        })
    }

    /// # Errors
    /// The platform refuses, is slow or unavailable, or answers nonsense.
    pub async fn replicas(&self, service: &str) -> Result<Replicas, DriverError> {
        match self {
            Self::Kubernetes(kubernetes) => kubernetes.replicas(service).await,
            Self::Railway(railway) => railway.replicas(service).await,
        }
    }

    /// Sets how many replicas are wanted. May be repeated.
    ///
    /// # Errors
    /// As [`Self::replicas`]; it may have taken effect nevertheless.
    pub async fn set(&self, service: &str, replicas: u32) -> Result<(), DriverError> {
        match self {
            Self::Kubernetes(kubernetes) => kubernetes.set(service, replicas).await,
            Self::Railway(railway) => railway.set(service, replicas).await,
        }
    }
}

/// A client of the platform; `authority`: the PEM text of its certificate authority, instead of the public ones.
fn client(timeout: Duration, authority: Option<&str>) -> Result<Client, DriverError> {
    // Only the first call of a process does anything.
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut client = Client::builder()
        .timeout(timeout)
        .connect_timeout(timeout)
        .redirect(Policy::none());
    if let Some(pem) = authority {
        let authorities = Certificate::from_pem_bundle(pem.as_bytes()).map_err(DriverError::Certificate)?;
        client = client.tls_certs_only(authorities);
    }
    client.build().map_err(DriverError::Client)
}

/// The JSON document that a request is answered with.
async fn answer<T: DeserializeOwned>(request: RequestBuilder, timeout: Duration) -> Result<T, DriverError> {
    let failed = |error: reqwest::Error| {
        // The URL may be a secret of its own.
        let error = error.without_url();
        if error.is_timeout() {
            DriverError::TimedOut(timeout)
        } else {
            DriverError::Unreachable(error)
        }
    };
    let mut response = request.send().await.map_err(failed)?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER_BYTES {
            return Err(DriverError::TooLarge);
        }
    }
    if !status.is_success() {
        let said = serde_json::from_slice::<serde_json::Value>(&body)
            .ok()
            .and_then(|document| Some(document.get("message")?.as_str()?.to_owned()))
            .unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned());
        return Err(DriverError::Refused {
            status,
            said: shown(&said),
        });
    }
    serde_json::from_slice(&body).map_err(|error| DriverError::Unknown(shown(&error.to_string())))
}

/// Without control characters, and not too long.
fn shown(said: &str) -> String {
    let said: String = said
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(SHOWN_CHARS)
        .collect();
    if said.is_empty() {
        "nothing".to_owned()
    } else {
        said
    }
}
