//! STS at the wire: `GetCallerIdentity`, signed in a header or presigned. It checks every signature, its age and its session
//! token, as STS does. A key's secret is the key's own name.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_sigv4::http_request::{SignableBody, SigningSettings};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::query::parameters;
use super::rest_xml::response;
use super::signature::{Signed, header};

/// How old a signature may be, or how far in the future.
const VALID: Duration = Duration::from_mins(15);

/// A running stand-in; it ends with the runtime that it was started on.
#[derive(Clone)]
pub struct Sts {
    pub address: SocketAddr,
    people: Arc<BTreeMap<&'static str, Person>>,
    /// How much later it is there.
    ahead: Arc<Mutex<Duration>>,
}

/// The owner of an access key.
#[derive(Clone, Copy)]
pub struct Person {
    pub arn: &'static str,
    /// Of temporary credentials.
    pub session_token: Option<&'static str>,
}

// === impl Sts ===

impl Sts {
    /// An STS that knows these access keys.
    pub async fn start(people: &[(&'static str, Person)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let people = Arc::new(people.iter().copied().collect());
        let sts = Self { address, people, ahead: Arc::default() };
        tokio::spawn(sts.clone().serve(listener));
        sts
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From here on it is so much later there.
    pub fn pass(&self, time: Duration) {
        *self.ahead.lock().expect("nothing panicked that held it") += time;
    }

    async fn serve(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let sts = self.clone();
            let service = service_fn(move |request| {
                let sts = sts.clone();
                async move { sts.answer(request).await }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, &'static str> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| "the request broke off")?.to_bytes();
        Ok(match self.caller(&parts, &body) {
            Ok(arn) => {
                let account = arn.split(':').nth(4).unwrap_or_default();
                response(
                    200,
                    format!(
                        "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
                         <Arn>{arn}</Arn><UserId>AIDA</UserId><Account>{account}</Account></GetCallerIdentityResult>\
                         <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
                    ),
                )
            }
            Err((status, code, message)) => response(
                status,
                format!(
                    "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code>\
                     <Message>{message}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
                ),
            ),
        })
    }

    fn caller(&self, parts: &Parts, body: &[u8]) -> Result<&'static str, (u16, &'static str, &'static str)> {
        let asked = parameters(parts.uri.query().unwrap_or_default());
        let asked = [asked, parameters(&String::from_utf8_lossy(body))].concat();
        if !asked.contains(&("Action".to_owned(), "GetCallerIdentity".to_owned())) {
            return Err((400, "InvalidAction", "the stand-in does not serve this"));
        }
        let signed = Signed::of(parts).filter(|signed| signed.service == "sts");
        let signed =
            signed.ok_or((403, "MissingAuthenticationToken", "Request is missing Authentication Token"))?;
        let unknown = (403, "InvalidClientTokenId", "The security token included in the request is invalid.");
        let person = self.people.get(signed.key.as_str()).ok_or(unknown)?;
        let in_query = asked.iter().find(|(name, _)| name == "X-Amz-Security-Token");
        let token = header(parts, "x-amz-security-token").or(in_query.map(|(_, token)| token.as_str()));
        if token != person.session_token {
            return Err(unknown);
        }
        if !signed.headers.iter().any(|name| name == "host")
            || !signed.is_of(parts, SignableBody::Bytes(body), SigningSettings::default())
        {
            let message = "The request signature we calculated does not match the signature you provided.";
            return Err((403, "SignatureDoesNotMatch", message));
        }
        let now = SystemTime::now() + *self.ahead.lock().expect("nothing panicked that held it");
        let age = now.duration_since(signed.at).unwrap_or_else(|future| future.duration());
        if age > VALID {
            return Err((403, "SignatureDoesNotMatch", "Signature expired"));
        }
        Ok(person.arn)
    }
}
