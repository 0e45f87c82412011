//! A stand-in's certificate for this machine, by a root of its own.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    PKCS_RSA_SHA256, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::TlsAcceptor;

use super::tls::Tls;

/// A key, since *ring* makes none for RSA: `openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048`. It protects nothing.
const RSA: &str = include_str!("rsa-2048.pem");

impl Tls {
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let root = CertifiedIssuer::self_signed(issuer("the stand-in's root"), key);
        let root = root.expect("a root can be made");
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = CertificateParams::new(["localhost".to_owned()]).expect("localhost is a name");
        let certificate = certificate.signed_by(&key, &root).expect("a certificate can be made");
        Self { acceptor: acceptor(&[&certificate], &key), root: root.pem().into() }
    }

    /// With a chain such as [AWS's][1]: a root of the kind of Amazon Root CA 1, an intermediate of the kind of Amazon RSA 2048 M01,
    /// and a certificate, RSA with 2048 bits and SHA-256 each. A client that trusts the root checks two signatures, and
    /// the server's own. That the three share a key makes no difference to it.
    ///
    /// [1]: https://aws.amazon.com/blogs/security/amazon-introduces-dynamic-intermediate-certificate-authorities/
    pub fn like_aws() -> Self {
        let key = || KeyPair::from_pkcs8_pem_and_sign_algo(RSA, &PKCS_RSA_SHA256).expect("it is RSA's");
        let root = CertifiedIssuer::self_signed(issuer("the stand-in's root"), key());
        let root = root.expect("a root can be made");
        let between = CertifiedIssuer::signed_by(issuer("the stand-in's intermediate"), key(), &root);
        let between = between.expect("an intermediate can be made");
        let names = ["localhost", "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"].map(str::to_owned);
        let certificate = CertificateParams::new(names).expect("a name and addresses");
        let certificate = certificate.signed_by(&key(), &between).expect("a certificate can be made");
        Self { acceptor: acceptor(&[&certificate, between.as_ref()], &key()), root: root.pem().into() }
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
        Self { acceptor: acceptor(&[&certificate], &key), root: certificate.pem().into() }
    }
}

/// A certificate that can sign others.
fn issuer(name: &str) -> CertificateParams {
    let mut issuer = CertificateParams::default();
    issuer.distinguished_name.push(DnType::CommonName, name);
    issuer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    issuer
}

/// Serves these certificates, the first of which has this key.
fn acceptor(certificates: &[&Certificate], key: &KeyPair) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(
            certificates.iter().map(|certificate| certificate.der().clone()).collect(),
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .expect("the key is the certificate's");
    TlsAcceptor::from(Arc::new(config))
}
