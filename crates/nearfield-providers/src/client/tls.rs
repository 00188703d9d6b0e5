//! Whose certificates are trusted.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_platform_verifier::Verifier;

use crate::ProviderError;
use crate::connection::Connection;

/// The settings of a backend's connections: the authorities of its PEM file alone, or else the system's.
pub(super) fn config(options: &Connection) -> Result<ClientConfig, ProviderError> {
    if options.certificates.is_none() {
        return system(&options.name);
    }
    let unusable = unusable(&options.name);
    let roots = authorities(options)?;
    Ok(builder(provider()).map_err(unusable)?.with_root_certificates(roots).with_no_client_auth())
}

/// Settings that trust whom this system trusts.
pub(super) fn system(backend: &str) -> Result<ClientConfig, ProviderError> {
    let unusable = unusable(backend);
    let provider = provider();
    let verifier = Verifier::new(Arc::clone(&provider)).map_err(&unusable)?;
    let builder = builder(provider).map_err(unusable)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

fn unusable(backend: &str) -> impl Fn(rustls::Error) -> ProviderError {
    move |error| ProviderError::Tls { backend: backend.to_owned(), reason: error.to_string() }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn builder(
    provider: Arc<CryptoProvider>,
) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
}

/// The authorities of the configured PEM file.
fn authorities(options: &Connection) -> Result<RootCertStore, ProviderError> {
    let path = options.certificates.clone().unwrap_or_default();
    let unusable = |reason: String| ProviderError::Certificates {
        backend: options.name.clone(),
        path: path.clone(),
        reason,
    };
    let pem = std::fs::read(&path).map_err(|error| unusable(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("the file holds no certificate in PEM form".to_owned()));
    }
    Ok(roots)
}
