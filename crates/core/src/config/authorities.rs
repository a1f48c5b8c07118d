//! Who vouches for servers that are reached by TLS, where it is not the public authorities.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::reader::Reader;

/// Certificates as a setting gives them: the PEM text itself, or the path of its file. `None`: neither.
pub(super) fn ca_certificate(reader: &mut Reader<'_>, path: &str, given: String) -> Option<Arc<str>> {
    if given.is_empty() {
        return None;
    }
    let pem = if given.starts_with("-----BEGIN") {
        Ok(given)
    } else {
        std::fs::read_to_string(&given).map_err(|error| format!("the file {given:?} cannot be read: {error}"))
    };
    match pem.and_then(|pem| check_certificates(&pem).map(|()| pem)) {
        Ok(pem) => Some(pem.into()),
        Err(problem) => {
            let fix = "give a PEM text that begins with -----BEGIN CERTIFICATE-----, or the path of a file with one";
            reader.fault_once(path, || (problem, fix.to_owned()));
            None
        }
    }
}

fn check_certificates(pem: &str) -> Result<(), String> {
    let mut authorities = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("it is not PEM: {error}"))?;
        authorities
            .add(certificate)
            .map_err(|error| format!("a certificate in it cannot be used: {error}"))?;
    }
    if authorities.is_empty() {
        return Err("it holds no certificate".to_owned());
    }
    Ok(())
}
