//! TLS for the stand-ins.

use std::sync::Arc;

use tokio_rustls::TlsAcceptor;

#[derive(Clone)]
pub struct Tls {
    pub acceptor: TlsAcceptor,
    /// The root that vouches for the certificate, as PEM.
    pub root: Arc<str>,
}
