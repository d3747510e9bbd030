//! Who vouches for sources that speak TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Whose signature under a source's certificate is believed: the machine's own authorities, and others that were named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authorities(Arc<Vec<CertificateDer<'static>>>);

/// Why a file names no authorities.
#[derive(Debug, thiserror::Error)]
#[error("cannot take certificates from {}: {why}", path.display())]
pub struct AuthoritiesError {
    path: PathBuf,
    why: String,
}

impl AuthoritiesError {
    /// A file may be put right.
    pub fn is_permanent(&self) -> bool {
        false
    }
}

impl Authorities {
    /// With those in a file of PEM certificates. Blocks.
    pub fn with_file(path: &Path) -> Result<Authorities, AuthoritiesError> {
        let failed = |why: String| AuthoritiesError { path: path.to_owned(), why };
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let named = read.map_err(|error| failed(error.to_string()))?;
        if named.is_empty() {
            return Err(failed(
                "there is none in it; a certificate begins with -----BEGIN CERTIFICATE-----".to_owned(),
            ));
        }
        let mut store = RootCertStore::empty();
        for certificate in &named {
            store.add(certificate.clone()).map_err(|error| failed(error.to_string()))?;
        }
        Ok(Authorities(Arc::new(named)))
    }

    /// How a client speaks TLS.
    pub(super) fn client(&self) -> Result<ClientConfig, rustls::Error> {
        let mut store = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        store.add_parsable_certificates(system.certs);
        store.add_parsable_certificates(self.0.iter().cloned());
        Authorities::client_of(store)
    }

    /// The same of a client that never has to.
    pub(super) fn none() -> Result<ClientConfig, rustls::Error> {
        Authorities::client_of(RootCertStore::empty())
    }

    fn client_of(store: RootCertStore) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(versions.with_root_certificates(store).with_no_client_auth())
    }
}
