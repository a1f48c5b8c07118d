//! A certificate authority of a test's own, and servers that it vouches for.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::TlsAcceptor;

use crate::RedisOptions;
use crate::ports::PortLease;

/// Nobody trusts it who was not given its certificate.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self { issuer })
    }

    /// What those who are to trust it are given.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// What accepts connections as a server of this `name`.
    pub fn acceptor(&self, name: &str) -> Result<TlsAcceptor> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &self.issuer)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Lets a Redis serve TLS as `name`, on a port of its own beside the plain one. `directory` takes certificate and key,
    /// and has to outlive the server.
    pub fn secure(
        &self,
        redis: RedisOptions,
        name: &str,
        directory: &Path,
    ) -> Result<(RedisOptions, PortLease)> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &self.issuer)?;
        let port = PortLease::acquire()?;
        let mut redis = redis
            .config("tls-port", port.port().to_string())
            .config("tls-auth-clients", "no");
        for (setting, file, text) in [
            ("tls-cert-file", "server.crt", certificate.pem()),
            ("tls-key-file", "server.key", key.serialize_pem()),
            ("tls-ca-cert-file", "authority.crt", self.pem()),
        ] {
            let path = directory.join(file);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            redis = redis.config(setting, path.display().to_string());
        }
        Ok((redis, port))
    }
}
