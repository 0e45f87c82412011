//! HTTPS to AWS: the certificates that are trusted, and a connection that is open before it is needed.
//!
//! TLS is rustls with *ring*: the SDK's other provider, aws-lc, gathers entropy by timing the processor before
//! its first use, which costs more than everything else in a cold lock.
//!
//! A certificate has to lead to one of Amazon's roots, which are in the binary: the five of Amazon Trust
//! Services, as Mozilla's root program has them. Reading a system's whole store costs more than a TLS
//! handshake. Amazon [does not support pinning][1], so for a certificate that leads to none of them
//! the system's store also decides. `AWS_CA_BUNDLE` replaces both.
//!
//! [1]: https://www.amazontrust.com/repository/

use std::error::Error as StdError;
use std::fs;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, RootCertStore};
use thiserror::Error;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::program::variables::{Lookup, given};
use crate::remote::aws::chain;

const TLS: Provider = Provider::Rustls(CryptoMode::Ring);
const AMAZON: &[u8] = include_bytes!("amazon-roots.pem");
/// How long the start waits for a connection; the first call opens one otherwise.
const OPENING: Duration = Duration::from_secs(1);

/// `AWS_CA_BUNDLE` is not the path of a file of certificates.
#[derive(Debug, Error)]
#[error("AWS_CA_BUNDLE: {0}; set it to the path of a PEM file of root certificates")]
pub struct InvalidBundle(String);

/// HTTPS to AWS, with the connections that are open.
#[derive(Clone, Debug)]
pub struct Https(SharedHttpConnector);

/// Trusts some roots and, after the first certificate that does not lead to them, also the system's.
#[derive(Clone, Debug)]
struct FirstRoots {
    roots: &'static [u8],
    first: SharedHttpConnector,
    all: Arc<OnceLock<SharedHttpConnector>>,
}

// === impl Https ===

impl Https {
    /// HTTPS that trusts the roots in `AWS_CA_BUNDLE`, where it is set.
    ///
    /// # Errors
    /// The bundle cannot be read, or holds no root certificate.
    pub fn new(lookup: Lookup<'_>) -> Result<Self, InvalidBundle> {
        Ok(match bundle(lookup)? {
            Some(bundle) => Self(connector(TrustStore::empty().with_pem_certificate(bundle))),
            None => Self::trusting_first(AMAZON),
        })
    }

    /// HTTPS that trusts these roots, in PEM, and the system's for a certificate that none of these has signed.
    ///
    /// # Panics
    /// They are not PEM.
    #[must_use]
    pub fn trusting_first(roots: &'static [u8]) -> Self {
        let first = connector(TrustStore::empty().with_pem_certificate(roots));
        Self(SharedHttpConnector::new(FirstRoots { roots, first, all: Arc::default() }))
    }

    /// The HTTP client for an SDK's client. The caller limits the time of a call, as [`aws::send`] does.
    ///
    /// [`aws::send`]: crate::remote::aws::send
    #[must_use]
    pub fn client(&self) -> SharedHttpClient {
        let connector = self.0.clone();
        http_client_fn(move |_, _| connector.clone())
    }

    /// Sends a request that is complete and signed. The caller limits its time.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn send(&self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        self.0.call(request).await
    }

    /// Opens a connection for later calls, with a request for `url` without credentials.
    ///
    /// If no connection can be opened, the first call reports why.
    pub async fn open(&self, url: &str) {
        let open = async {
            let mut request = HttpRequest::get(url)?;
            request.set_method("HEAD")?;
            self.0.call(request).await?;
            Ok::<_, Box<dyn StdError + Send + Sync>>(())
        };
        match timeout(OPENING, open).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(url, error = chain(&*error), "no connection yet"),
            Err(_) => debug!(url, "no connection yet, after a second"),
        }
    }
}

// === impl FirstRoots ===

impl HttpConnector for FirstRoots {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        if let Some(all) = self.all.get() {
            return all.call(request);
        }
        let (again, this) = (request.try_clone(), self.clone());
        HttpConnectorFuture::new(async move {
            match (this.first.call(request).await, again) {
                // Nothing was sent: the handshake comes before the request.
                (Err(error), Some(request)) if is_of_unknown_issuer(&error) => {
                    warn!(
                        error = chain(&error),
                        "no root in the binary has signed AWS's certificate: also trusting the system's roots"
                    );
                    let roots = TrustStore::default().with_pem_certificate(this.roots);
                    this.all.get_or_init(|| connector(roots)).call(request).await
                }
                (answer, _) => answer,
            }
        })
    }
}

/// An SDK's client for a program that a person runs: it trusts the system's roots, or those in
/// `AWS_CA_BUNDLE`, and takes the time that the SDK gives a call.
///
/// # Errors
/// The bundle cannot be read, or holds no root certificate.
pub fn client(lookup: Lookup<'_>) -> Result<SharedHttpClient, InvalidBundle> {
    let roots = bundle(lookup)?.map(|bundle| TrustStore::empty().with_pem_certificate(bundle));
    Ok(Builder::new().tls_provider(TLS).tls_context(tls(roots.unwrap_or_default())).build_https())
}

fn connector(roots: TrustStore) -> SharedHttpConnector {
    SharedHttpConnector::new(Connector::builder().tls_provider(TLS).tls_context(tls(roots)).build())
}

fn tls(roots: TrustStore) -> TlsContext {
    TlsContext::builder().with_trust_store(roots).build().expect("a trust store is all it takes")
}

/// The file that `AWS_CA_BUNDLE` names, if a connector can use it; a connector panics on an unusable file.
fn bundle(lookup: Lookup<'_>) -> Result<Option<Vec<u8>>, InvalidBundle> {
    let Some(file) = given(lookup, "AWS_CA_BUNDLE") else { return Ok(None) };
    let invalid = |why: &dyn std::fmt::Display| InvalidBundle(format!("{file:?}: {why}"));
    let text = fs::read(&file).map_err(|error| invalid(&error))?;
    roots(&text).map_err(|why| invalid(&why))?;
    Ok(Some(text))
}

/// The root certificates that a PEM text holds; at least one.
pub(crate) fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for (certificate, number) in CertificateDer::pem_slice_iter(pem).zip(1..) {
        let added = certificate.ok().is_some_and(|certificate| roots.add(certificate).is_ok());
        if !added {
            return Err(format!("certificate {number} cannot be read"));
        }
    }
    if roots.is_empty() { Err("it holds no certificate".to_owned()) } else { Ok(roots) }
}

/// Whether a connection failed because no trusted root has signed the certificate that was shown.
fn is_of_unknown_issuer(error: &ConnectorError) -> bool {
    let mut next = Some(error as &(dyn StdError + 'static));
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) = error.downcast_ref()
        {
            return true;
        }
        // An I/O error's source is the source of the error that it wraps, not that error itself.
        next = match error.downcast_ref::<std::io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Mozilla's list is the origin; an update of `webpki-root-certs` shows that it has changed.
    #[test]
    fn the_roots_are_amazons_in_mozillas_list() {
        let is_amazons = |der: &[u8]| {
            ["Amazon Root CA", "Starfield Services Root"]
                .iter()
                .any(|name| der.windows(name.len()).any(|bytes| bytes == name.as_bytes()))
        };
        let listed: BTreeSet<_> = webpki_root_certs::TLS_SERVER_ROOT_CERTS
            .iter()
            .map(|root| root.to_vec())
            .filter(|root| is_amazons(root))
            .collect();
        let ours: BTreeSet<_> =
            CertificateDer::pem_slice_iter(AMAZON).map(|root| root.unwrap().to_vec()).collect();
        assert_eq!(ours.len(), 5);
        assert!(ours == listed, "src/remote/amazon-roots.pem differs from Amazon's roots in Mozilla's list");
    }
}
