//! A stand-in for the services that issue credentials: the agent of a container, the metadata of an instance, and the
//! portal of IAM Identity Center (SSO).

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;

/// The path of the container's credentials.
pub const CONTAINER: &str = "/container";
/// The token that the instance's metadata gives, and requires.
const METADATA: &str = "metadata";
/// The last day of these credentials, as a date and in milliseconds.
const EXPIRES: (&str, u64) = ("2099-01-01T00:00:00Z", 4_070_908_800_000);

/// A running issuer.
pub struct Issuer {
    /// Where it listens.
    pub url: String,
    issued: Arc<Mutex<Issued>>,
}

/// What is issued, and to whom.
#[derive(Clone)]
struct Issued {
    key: String,
    /// What the caller must show, unless it asks the instance's metadata.
    proof: String,
    /// The session's token.
    token: String,
}

// === impl Issuer ===

impl Issuer {
    /// Issues credentials with this key's id, and with this token, to callers that show this proof.
    pub async fn start(key: &str, proof: &str, token: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
        let [key, proof, token] = [key, proof, token].map(str::to_owned);
        let issued = Arc::new(Mutex::new(Issued { key, proof, token }));
        let running = Arc::clone(&issued);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let issued = Arc::clone(&running);
                let service = service_fn(move |request: Request<Incoming>| {
                    let issued = issued.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    async move { Ok::<_, Infallible>(issued.answer(&request)) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { url, issued }
    }

    /// From now on issues this token, to callers that show this proof.
    pub fn rotate(&self, proof: &str, token: &str) {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        (issued.proof, issued.token) = (proof.to_owned(), token.to_owned());
    }
}

// === impl Issued ===

impl Issued {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let Self { key, proof, token } = self;
        let shows = |header: &str, proof: &str| request.headers().get(header).is_some_and(|it| it == proof);
        let (expires, milliseconds) = EXPIRES;
        let metadata = "/latest/meta-data/iam/security-credentials/";
        let credentials = json!({
            "Code": "Success",
            "LastUpdated": "2026-01-01T00:00:00Z",
            "Type": "AWS-HMAC",
            "AccessKeyId": key,
            "SecretAccessKey": key,
            "Token": token,
            "Expiration": expires,
        });
        let body = match (request.method(), request.uri().path()) {
            (&Method::PUT, "/latest/api/token") => Some(METADATA.to_owned()),
            (&Method::GET, path) if path.starts_with(metadata) => {
                let body = if path == metadata { "lease".to_owned() } else { credentials.to_string() };
                shows("x-aws-ec2-metadata-token", METADATA).then_some(body)
            }
            (&Method::GET, CONTAINER) => shows("authorization", proof).then(|| credentials.to_string()),
            (&Method::GET, "/federation/credentials") => {
                let credentials = json!({ "roleCredentials": {
                    "accessKeyId": key,
                    "secretAccessKey": key,
                    "sessionToken": token,
                    "expiration": milliseconds,
                }});
                shows("x-amz-sso_bearer_token", proof).then(|| credentials.to_string())
            }
            _ => None,
        };
        let mut answer = Response::new(Full::default());
        answer.headers_mut().insert("x-aws-ec2-metadata-token-ttl-seconds", 21_600.into());
        match body {
            Some(body) => *answer.body_mut() = Full::from(body),
            None => *answer.status_mut() = StatusCode::UNAUTHORIZED,
        }
        answer
    }
}
