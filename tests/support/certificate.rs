//! A stand-in's certificate for `localhost`, by a root of its own.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::TlsAcceptor;

use super::tls::Tls;

impl Tls {
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let mut root = CertificateParams::default();
        root.distinguished_name.push(DnType::CommonName, "the stand-in's root");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(root, key).expect("a root can be made");
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = CertificateParams::new(["localhost".to_owned()]).expect("localhost is a name");
        let certificate = certificate.signed_by(&key, &root).expect("a certificate can be made");
        Self { acceptor: acceptor(&certificate, &key), root: root.pem().into() }
    }

    /// With a certificate that signs itself and is marked as a root's, as `openssl req -x509` makes it.
    pub fn self_signed(name: &str, until: Option<i32>) -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let mut certificate = CertificateParams::new([name.to_owned()]).expect("a name");
        certificate.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        if let Some(year) = until {
            certificate.not_after = date_time_ymd(year, 1, 1);
        }
        let certificate = certificate.self_signed(&key).expect("a certificate can be made");
        Self { acceptor: acceptor(&certificate, &key), root: certificate.pem().into() }
    }
}

fn acceptor(certificate: &Certificate, key: &KeyPair) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .expect("the key is the certificate's");
    TlsAcceptor::from(Arc::new(config))
}
