//! TLS against a real server, with an authority of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const SETTINGS: HttpRequestSettings = HttpRequestSettings {
    allow_private: true,
    allow_hosts: Vec::new(),
    max_response_bytes: 1024,
    max_redirects: 3,
};

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Answers every connection with one 200 over HTTP/1.1.
async fn server(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> SocketAddr {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that rejects the certificate ends the handshake.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut head = vec![0; 4096];
            let _ = stream.read(&mut head).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nsecure";
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

fn trusting(root: &CertificateDer<'static>) -> Outbound {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    Outbound::build(&SETTINGS, AddressPolicy::anything(), roots).unwrap()
}

fn get(url: &str) -> Call {
    Call {
        method: Method::GET,
        url: url.parse().unwrap(),
        headers: HeaderMap::new(),
        body: None,
        timeout: Duration::from_secs(20),
        accept: Vec::new(),
    }
}

#[tokio::test]
async fn a_server_with_a_trusted_certificate_is_called_over_tls() {
    let authority = authority();
    let address = server(&authority, "localhost").await;
    let answer = trusting(authority.der())
        .send(get(&format!("https://localhost:{}/", address.port())))
        .await
        .unwrap();
    assert_eq!(
        (answer.status, &answer.body[..]),
        (StatusCode::OK, &b"secure"[..])
    );
}

#[tokio::test]
async fn a_certificate_of_another_name_or_authority_is_a_network_fault() {
    let authority = authority();
    let other_name = server(&authority, "elsewhere.example").await;
    let url = format!("https://localhost:{}/", other_name.port());
    for client in [trusting(authority.der()), Outbound::new(&SETTINGS).unwrap()] {
        let error = client.send(get(&url)).await.unwrap_err();
        assert_eq!(error.class(), "transient");
        let text = error.to_string();
        assert!(text.starts_with(&format!("{url} cannot be reached")), "{text}");
        assert!(text.contains("certificate"), "{text}");
    }
}
