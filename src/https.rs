//! HTTPS to AWS: whose certificates are trusted, and a connection that stands before it is needed.
//!
//! TLS is rustls with *ring*: the SDK's other provider, aws-lc, gathers entropy by timing the processor before
//! its first use, which costs more than all else that a cold lock does.
//!
//! A certificate has to lead to one of Amazon's roots, which are in the binary: the five of Amazon Trust
//! Services, as Mozilla's root program has them. Reading a system's whole store costs more than a TLS
//! handshake. Amazon [advises against relying on its roots alone][1], so where a certificate leads to none
//! of them, the system's store decides. `AWS_CA_BUNDLE` replaces both.
//!
//! [1]: https://www.amazontrust.com/repository/

use std::error::Error as StdError;
use std::fs;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_sdk_route53::config::SharedHttpClient;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use thiserror::Error;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::aws::chain;
use crate::startup::Lookup;

const AMAZON: &[u8] = include_bytes!("amazon-roots.pem");
/// How long the start waits for a connection; the first call opens one otherwise.
const OPENING: Duration = Duration::from_secs(1);

/// `AWS_CA_BUNDLE` names no file of certificates.
#[derive(Debug, Error)]
#[error("AWS_CA_BUNDLE: {0}; it takes the path of a file of root certificates in PEM")]
pub struct InvalidBundle(String);

/// HTTPS to AWS, with the connections that are open.
#[derive(Clone, Debug)]
pub struct Https(SharedHttpConnector);

/// Trusts Amazon's roots, and the system's from the first certificate on that does not lead to them.
#[derive(Clone, Debug)]
struct AmazonFirst {
    amazon: SharedHttpConnector,
    system: Arc<OnceLock<SharedHttpConnector>>,
}

// === impl Https ===

impl Https {
    /// HTTPS that trusts the roots in `AWS_CA_BUNDLE`, where it is set.
    ///
    /// # Errors
    /// The bundle cannot be read, or holds no root certificate.
    pub fn new(lookup: Lookup<'_>) -> Result<Self, InvalidBundle> {
        Ok(Self(match lookup("AWS_CA_BUNDLE") {
            Some(file) => trusting(TrustStore::empty().with_pem_certificate(bundle(&file)?)),
            None => SharedHttpConnector::new(AmazonFirst {
                amazon: trusting(TrustStore::empty().with_pem_certificate(AMAZON)),
                system: Arc::default(),
            }),
        }))
    }

    /// What an SDK's client makes its calls with. Their time is for the caller to limit.
    #[must_use]
    pub fn client(&self) -> SharedHttpClient {
        let connector = self.0.clone();
        http_client_fn(move |_, _| connector.clone())
    }

    /// Opens a connection for the calls to come, by asking for `url` without credentials.
    ///
    /// A function's start is not throttled to its share of a processor as its events are, and nobody waits
    /// for it twice. Where no connection can be opened the first call says why.
    pub async fn open(&self, url: &str) {
        let mut request = HttpRequest::empty();
        let asked = request.set_method("HEAD").and_then(|()| request.set_uri(url));
        let answer = async { self.0.call(request).await.map_err(|error| chain(&error)) };
        match (asked, timeout(OPENING, answer).await) {
            (Ok(()), Ok(Ok(_))) => {}
            (Ok(()), Ok(Err(error))) => debug!(url, error, "no connection yet"),
            (Ok(()), Err(_)) => debug!(url, "no connection yet, after a second"),
            (Err(error), _) => debug!(url, %error, "no connection yet"),
        }
    }
}

// === impl AmazonFirst ===

impl HttpConnector for AmazonFirst {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        if let Some(system) = self.system.get() {
            return system.call(request);
        }
        let (again, system) = (request.try_clone(), Arc::clone(&self.system));
        let answer = self.amazon.call(request);
        HttpConnectorFuture::new(async move {
            match (answer.await, again) {
                // Nothing was sent: the handshake comes before the request.
                (Err(error), Some(request)) if is_untrusted(&error) => {
                    warn!(error = chain(&error), "not vouched for by Amazon's roots: trusting the system's");
                    system.get_or_init(|| trusting(TrustStore::default())).call(request).await
                }
                (answer, _) => answer,
            }
        })
    }
}

fn trusting(roots: TrustStore) -> SharedHttpConnector {
    let tls = TlsContext::builder().with_trust_store(roots).build().expect("a trust store is all it takes");
    let provider = Provider::Rustls(CryptoMode::Ring);
    SharedHttpConnector::new(Connector::builder().tls_provider(provider).tls_context(tls).build())
}

/// A file of certificates that the connector can use; it would panic on another.
fn bundle(file: &str) -> Result<Vec<u8>, InvalidBundle> {
    let invalid = |why: &dyn std::fmt::Display| InvalidBundle(format!("{file:?}: {why}"));
    let text = fs::read(file).map_err(|error| invalid(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| invalid(&error))?;
        roots.add(certificate).map_err(|error| invalid(&error))?;
    }
    if roots.is_empty() { Err(invalid(&"it holds no certificate")) } else { Ok(text) }
}

/// Whether a connection failed because of the certificate that was shown.
fn is_untrusted(error: &ConnectorError) -> bool {
    let mut next = Some(error as &(dyn StdError + 'static));
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
            return true;
        }
        // An I/O error tells the source of what it wraps, not what it wraps.
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

    /// Mozilla's list is the origin, and a newer `webpki-root-certs` is what tells of a change.
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
        assert!(ours == listed, "src/amazon-roots.pem is not what Mozilla's list has of Amazon's roots now");
    }
}
