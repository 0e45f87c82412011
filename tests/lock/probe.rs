//! How a primary is asked before it is switched back: as Route 53's checkers ask it.

use std::net::SocketAddr;
use std::sync::Arc;

use failover::failover_lock::health_check::{Endpoint, HealthCheckId, ResourcePath};
use failover::failover_lock::probe::ask;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nup";

/// A server for one request: it gives this answer, and the head of the request that it got.
async fn serve(answer: impl Into<Vec<u8>>) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, answer) = (listener.local_addr().unwrap(), answer.into());
    let got = tokio::spawn(async move { exchange(listener.accept().await.unwrap().0, &answer).await });
    (address, got)
}

/// The same over TLS, with a certificate of its own for `localhost`; adds the name of the handshake.
async fn serve_tls() -> (SocketAddr, JoinHandle<(Option<String>, String)>) {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let secret = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], secret.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let got = tokio::spawn(async move {
        let stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        let name = stream.get_ref().1.server_name().map(str::to_owned);
        (name, exchange(stream, OK.as_bytes()).await)
    });
    (address, got)
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(answer).await.unwrap();
    // The other side may have seen enough already.
    let _ = stream.flush().await;
    let _ = stream.read(&mut [0]).await;
    String::from_utf8(head).unwrap()
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint {
        path: "/lb-check-failed-over".to_owned(),
        https: false,
        ip_address: Some(address.ip().to_string()),
        domain_name: None,
        port: address.port(),
        sni: false,
        search_string: None,
    }
}

async fn asked(endpoint: &Endpoint, path: &str) -> Result<u16, String> {
    let id = HealthCheckId::try_from("233e180f-f023-45a3-954e-415303f21eab".to_owned()).unwrap();
    let path = ResourcePath::try_from(path.to_owned()).unwrap();
    ask(&id, endpoint, &path).await.map(|status| status.as_u16()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn it_requests_the_path_as_it_stands_with_host_and_port() {
    let (address, got) = serve(OK).await;
    let endpoint = Endpoint { domain_name: Some("primary.example.com".to_owned()), ..endpoint(address) };
    assert_eq!(asked(&endpoint, "/a/../lb-check?deep=1&x=%2F").await, Ok(200));
    let head = got.await.unwrap().to_lowercase();
    assert!(head.starts_with("get /a/../lb-check?deep=1&x=%2f http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: primary.example.com:{}\r\n", address.port())), "{head}");
    assert!(head.contains("user-agent: amazon-route53-health-check-service (ref 233e180f-"), "{head}");
}

#[tokio::test]
async fn without_a_domain_name_the_address_is_the_host() {
    let (address, got) = serve(OK).await;
    assert_eq!(asked(&endpoint(address), "/").await, Ok(200));
    assert!(got.await.unwrap().contains(&format!("host: {address}\r\n")));
}

#[tokio::test]
async fn without_an_address_the_domain_name_is_resolved() {
    let (address, _got) = serve(OK).await;
    let named = Endpoint { ip_address: None, domain_name: Some("localhost".to_owned()), ..endpoint(address) };
    assert_eq!(asked(&named, "/").await, Ok(200));
    let unknown = Endpoint { domain_name: Some("primary.invalid".to_owned()), ..named.clone() };
    assert_eq!(asked(&unknown, "/").await, Err("primary.invalid has no IPv4 address".to_owned()));
    let nowhere = Endpoint { domain_name: None, ..named };
    assert!(asked(&nowhere, "/").await.unwrap_err().contains("neither an IP address nor a domain name"));
}

#[tokio::test]
async fn statuses_of_2xx_and_3xx_are_healthy_and_redirects_are_not_followed() {
    for (status, healthy) in
        [(200, true), (204, true), (302, true), (399, true), (400, false), (404, false), (503, false)]
    {
        let answer =
            format!("HTTP/1.1 {status} X\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n");
        let (address, _got) = serve(answer).await;
        let expected = if healthy { Ok(status) } else { Err(format!("/lb-check answers {status}")) };
        assert_eq!(asked(&endpoint(address), "/lb-check").await, expected);
    }
}

#[tokio::test]
async fn no_certificate_is_validated() {
    for (domain_name, sni, said) in [
        (Some("primary.example.com"), true, Some("primary.example.com")),
        (Some("primary.example.com"), false, None),
        (None, false, None),
    ] {
        let (address, got) = serve_tls().await;
        let endpoint =
            Endpoint { https: true, sni, domain_name: domain_name.map(str::to_owned), ..endpoint(address) };
        assert_eq!(asked(&endpoint, "/lb-check").await, Ok(200));
        assert_eq!(got.await.unwrap().0.as_deref(), said);
    }
}

#[tokio::test]
async fn a_text_is_searched_in_the_first_5120_bytes() {
    let found = "the first 5,120 bytes of /lb-check do not contain \"status: UP\"";
    for (before, healthy) in [(0, true), (5110, true), (5111, false), (9000, false)] {
        let body = format!("{}status: UP", "x".repeat(before));
        let (address, _got) =
            serve(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
        let endpoint = Endpoint { search_string: Some("status: UP".to_owned()), ..endpoint(address) };
        let expected = if healthy { Ok(200) } else { Err(found.to_owned()) };
        assert_eq!(asked(&endpoint, "/lb-check").await, expected, "{before}");
    }
}

#[tokio::test]
async fn who_does_not_answer_in_time_or_not_in_http_is_unhealthy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap();
    let error = asked(&endpoint(silent), "/lb-check").await.unwrap_err();
    assert_eq!(error, format!("{silent} gave no status within 2 s"));
    drop(listener);
    assert!(
        asked(&endpoint(silent), "/lb-check")
            .await
            .unwrap_err()
            .starts_with(&format!("no connection to {silent}: "))
    );
    let (address, _got) = serve("SSH-2.0-OpenSSH_9.2\r\n").await;
    assert!(asked(&endpoint(address), "/lb-check").await.unwrap_err().contains("gave no HTTP answer"));
}
