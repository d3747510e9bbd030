//! TLS of the listening sockets: one certificate, which can be renewed while they listen.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::settings::TlsFiles;

/// What the sockets show whom they speak with.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    shown: Arc<Shown>,
}

#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// A certificate that its key fits.
#[derive(Debug, Clone)]
pub(crate) struct Certificate(Arc<CertifiedKey>);

impl Certificate {
    /// Blocks.
    pub(crate) fn load(files: &TlsFiles) -> anyhow::Result<Certificate> {
        let TlsFiles { cert, key } = files;
        let certificates = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let certificates = certificates.with_context(|| unusable("certificate", cert))?;
        if certificates.is_empty() {
            let message = "there is none in it; one begins with -----BEGIN CERTIFICATE-----";
            return Err(anyhow::anyhow!(message).context(unusable("certificate", cert)));
        }
        let private = PrivateKeyDer::from_pem_file(key).with_context(|| unusable("private key", key))?;
        let provider = rustls::crypto::ring::default_provider();
        let fit = CertifiedKey::from_der(certificates, private, &provider);
        let fit = fit.with_context(|| format!("{} and {} do not belong together", cert.display(), key.display()))?;
        Ok(Certificate(Arc::new(fit)))
    }
}

fn unusable(what: &str, path: &Path) -> String {
    format!("cannot take a {what} from {}", path.display())
}

impl Tls {
    pub(crate) fn new(certificate: Certificate) -> Tls {
        Tls { shown: Arc::new(Shown(RwLock::new(certificate.0))) }
    }

    /// Shows a certificate from the next connection on; whether it is another one.
    pub(crate) fn renew(&self, certificate: Certificate) -> bool {
        let mut shown = self.shown.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = shown.cert != certificate.0.cert;
        *shown = certificate.0;
        is_new
    }

    pub(crate) fn acceptor(&self) -> anyhow::Result<TlsAcceptor> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(TlsAcceptor::from(Arc::new(versions.with_no_client_auth().with_cert_resolver(self.shown.clone()))))
    }
}
