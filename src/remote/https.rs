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

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fs;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::client::connection::{CaptureSmithyConnection, ConnectionMetadata};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{HttpConnector as TcpConnector, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, RootCertStore};
use thiserror::Error;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::http;
use super::resolve::Resolver;
use crate::program::variables::{Lookup, given};
use crate::remote::aws::chain;

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

/// Connections to AWS with HTTP/1.1, kept for the next call: hyper's client, as the SDKs' own HTTP client has it. That one
/// brings HTTP/2 along, which is a twentieth of an artifact and of what is compiled, and no service here needs it.
#[derive(Clone, Debug)]
struct Pool(Client<HttpsConnector<TcpConnector<Resolver>>, SdkBody>);

/// A pool, and the time that a call may take.
#[derive(Debug)]
struct Limited {
    pool: Pool,
    time: Option<Duration>,
}

/// Trusts some roots and, after the first certificate that does not lead to them, also the system's.
#[derive(Clone, Debug)]
struct FirstRoots {
    roots: &'static [u8],
    first: Pool,
    all: Arc<OnceLock<Pool>>,
}

// === impl Https ===

impl Https {
    /// HTTPS that trusts the roots in `AWS_CA_BUNDLE`, where it is set.
    ///
    /// # Errors
    /// The bundle cannot be read, or holds no root certificate.
    pub fn new(lookup: Lookup<'_>) -> Result<Self, InvalidBundle> {
        Ok(match bundle(lookup)? {
            Some(roots) => Self(SharedHttpConnector::new(Pool::new(roots, None))),
            None => Self::trusting_first(AMAZON),
        })
    }

    /// HTTPS that trusts these roots, in PEM, and the system's for a certificate that none of these has signed.
    ///
    /// # Panics
    /// They are not PEM.
    #[must_use]
    pub fn trusting_first(roots: &'static [u8]) -> Self {
        let first = Pool::new(self::roots(roots).expect("they are PEM"), None);
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
                    let all = || {
                        let mut roots = system_roots();
                        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(this.roots).flatten());
                        Pool::new(roots, None)
                    };
                    this.all.get_or_init(all).call(request).await
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
    let roots = bundle(lookup)?.unwrap_or_else(system_roots);
    let pools = Mutex::new(BTreeMap::new());
    Ok(http_client_fn(move |settings, _| {
        let mut pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
        let connecting = settings.connect_timeout();
        let pool: &Pool = pools.entry(connecting).or_insert_with(|| Pool::new(roots.clone(), connecting));
        SharedHttpConnector::new(Limited { pool: pool.clone(), time: settings.read_timeout() })
    }))
}

// === impl Pool ===

impl Pool {
    /// A pool that trusts these roots, and gives up connecting after this time.
    fn new(roots: RootCertStore, connecting: Option<Duration>) -> Self {
        let mut tcp = TcpConnector::new_with_resolver(Resolver);
        // TLS is the matter of the connector around it.
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(connecting);
        let tls = http::tls().with_root_certificates(roots).with_no_client_auth();
        let mut client = Client::builder(TokioExecutor::new());
        // With a timer idle connections are closed, and not only passed over.
        client.pool_timer(TokioTimer::new());
        Self(client.build(HttpsConnector::from((tcp, tls))))
    }
}

impl HttpConnector for Pool {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let mut request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(error) => return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into()))),
        };
        // The SDK gives a connection up whose server answers that it is out of order.
        let connection = capture_connection(&mut request);
        if let Some(captured) = request.extensions().get::<CaptureSmithyConnection>() {
            captured.set_connection_retriever(move || {
                connection.connection_metadata().as_ref()?;
                let connection = connection.clone();
                let poison = move || {
                    if let Some(connection) = connection.connection_metadata().as_ref() {
                        connection.poison();
                    }
                };
                Some(ConnectionMetadata::builder().proxied(false).poison_fn(poison).build())
            });
        }
        let answer = self.0.request(request);
        HttpConnectorFuture::new(async move {
            let answer = answer.await.map_err(|error| ConnectorError::io(error.into()))?;
            let answer = HttpResponse::try_from(answer.map(SdkBody::from_body_1_x));
            answer.map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

// === impl Limited ===

impl HttpConnector for Limited {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (answer, time) = (self.pool.call(request), self.time);
        HttpConnectorFuture::new(async move {
            match time {
                None => answer.await,
                Some(time) => {
                    timeout(time, answer).await.map_err(|late| ConnectorError::timeout(late.into()))?
                }
            }
        })
    }
}

/// The roots in the file that `AWS_CA_BUNDLE` names.
fn bundle(lookup: Lookup<'_>) -> Result<Option<RootCertStore>, InvalidBundle> {
    let Some(file) = given(lookup, "AWS_CA_BUNDLE") else { return Ok(None) };
    let invalid = |why: &dyn std::fmt::Display| InvalidBundle(format!("{file:?}: {why}"));
    let text = fs::read(&file).map_err(|error| invalid(&error))?;
    roots(&text).map(Some).map_err(|why| invalid(&why))
}

/// The root certificates that the system trusts, as far as they can be read.
pub(crate) fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let (valid, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if valid == 0 {
        warn!("no root certificate of the system can be read: SSL_CERT_FILE can name a file of them");
    }
    roots
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
