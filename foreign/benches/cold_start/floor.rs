//! The floor: the least that a function in Rust can do and lock, with no SDK, no runtime, no log, no
//! decision and no retry. Not for deployment.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use ring::digest::{SHA256, digest};
use ring::hmac;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut roots = RootCertStore::empty();
    let bundle = fs::read(env::var("AWS_CA_BUNDLE")?)?;
    for certificate in CertificateDer::pem_slice_iter(&bundle) {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let endpoint = env::var("AWS_ENDPOINT_URL")?;
    let endpoint = endpoint.strip_prefix("https://").ok_or("the endpoint is not HTTPS")?;
    let api = env::var("AWS_LAMBDA_RUNTIME_API")?;

    let mut lambda = BufReader::new(TcpStream::connect(&api)?);
    let mut route53 = None;
    loop {
        let request = format!("GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nhost: {api}\r\n\r\n");
        let (head, event) = exchange(&mut lambda, &request)?;
        let id = header(&head, "lambda-runtime-aws-request-id").ok_or("an event without an id")?;
        let event: Value = serde_json::from_slice(&event)?;
        let message: Value =
            serde_json::from_str(event["Records"][0]["Sns"]["Message"].as_str().unwrap_or_default())?;
        let check = message["Trigger"]["Dimensions"][0]["value"].as_str().unwrap_or_default();

        if route53.is_none() {
            let host = endpoint.split(':').next().unwrap_or_default().to_owned();
            let connection = ClientConnection::new(Arc::clone(&config), ServerName::try_from(host)?)?;
            route53 = Some(BufReader::new(StreamOwned::new(connection, TcpStream::connect(endpoint)?)));
        }
        let connection = route53.as_mut().ok_or("no connection")?;
        let path = format!("/2013-04-01/healthcheck/{check}");
        let (_, seen) = exchange(connection, &signed("GET", endpoint, &path, "")?)?;
        let version = element(&String::from_utf8(seen)?, "HealthCheckVersion");
        let update = format!(
            "<UpdateHealthCheckRequest xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><HealthCheckVersion>{version}\
             </HealthCheckVersion><ResourcePath>/lb-check-failed-over</ResourcePath></UpdateHealthCheckRequest>"
        );
        let (head, answer) = exchange(connection, &signed("POST", endpoint, &path, &update)?)?;
        if !head.starts_with("HTTP/1.1 200") {
            return Err(String::from_utf8(answer)?.into());
        }
        let answer = "{}";
        let request = format!(
            "POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\nhost: {api}\r\ncontent-length: {}\r\n\r\n{answer}",
            answer.len()
        );
        exchange(&mut lambda, &request)?;
    }
}

/// Sends a request. Returns the answer's head and body.
fn exchange<S: Read + Write>(stream: &mut BufReader<S>, request: &str) -> Result<(String, Vec<u8>)> {
    stream.get_mut().write_all(request.as_bytes())?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Err("the connection ended".into());
        }
    }
    let mut body = vec![0; header(&head, "content-length").unwrap_or("0").parse()?];
    stream.read_exact(&mut body)?;
    Ok((head, body))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find_map(|(key, value)| (key == name).then_some(value))
}

fn element(xml: &str, name: &str) -> String {
    let after = xml.split(&format!("<{name}>")).nth(1).unwrap_or_default();
    after.split('<').next().unwrap_or_default().to_owned()
}

/// A request with an AWS signature, version 4.
fn signed(method: &str, host: &str, path: &str, body: &str) -> Result<String> {
    let (key, secret) = (env::var("AWS_ACCESS_KEY_ID")?, env::var("AWS_SECRET_ACCESS_KEY")?);
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let time =
        DateTime::<Utc>::from_timestamp(now, 0).ok_or("no such time")?.format("%Y%m%dT%H%M%SZ").to_string();
    let scope = format!("{}/us-east-1/route53/aws4_request", &time[..8]);
    let hash = hex(digest(&SHA256, body.as_bytes()).as_ref());
    let canonical = format!("{method}\n{path}\n\nhost:{host}\nx-amz-date:{time}\n\nhost;x-amz-date\n{hash}");
    let text =
        format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(digest(&SHA256, canonical.as_bytes()).as_ref()));
    let mut signature = format!("AWS4{secret}").into_bytes();
    for part in scope.split('/').chain([text.as_str()]) {
        let step = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &signature), part.as_bytes());
        signature = step.as_ref().to_vec();
    }
    let signature = hex(&signature);
    Ok(format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nx-amz-date: {time}\r\ncontent-length: {}\r\nauthorization: AWS4-HMAC-SHA256 \
         Credential={key}/{scope}, SignedHeaders=host;x-amz-date, Signature={signature}\r\n\r\n{body}",
        body.len()
    ))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
