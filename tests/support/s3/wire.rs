//! Requests as S3 reads them, and answers as it writes them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::HeaderName;
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::{Sleep, sleep};

use super::super::query::{decoded, parameters};
use super::super::rest_xml::escape;
use super::super::signature::{Signed, header};
use super::access::{ANONYMOUS, role};
use super::{Call, on};

/// A request.
pub struct Asked {
    /// The operation's name in the API.
    pub operation: &'static str,
    pub bucket: String,
    /// The object's key; the prefix of a list.
    pub key: String,
    pub signed: Option<Signed>,
    pub parts: Parts,
    pub body: Bytes,
    query: Vec<(String, String)>,
}

/// The answer to a call that was done.
pub struct Done {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

/// One of S3's errors.
#[derive(Debug)]
pub struct Failed {
    status: u16,
    code: String,
    message: String,
    headers: Vec<(&'static str, String)>,
    /// The caller's rights, or the bucket's policy, refused the call.
    pub denied: bool,
}

/// An answer's body: at once, or byte by byte.
pub struct Dribble {
    rest: Bytes,
    pace: Option<Duration>,
    wait: Option<Pin<Box<Sleep>>>,
}

// === impl Asked ===

impl Asked {
    /// # Errors
    /// The request breaks off.
    pub async fn read(request: Request<Incoming>) -> Result<Self, &'static str> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| "the request broke off")?.to_bytes();
        let path = parts.uri.path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let (bucket, key) = (decoded(bucket), decoded(key));
        let query = parameters(parts.uri.query().unwrap_or_default());
        let signed = Signed::of(&parts);
        let mut asked = Self { operation: "Unknown", bucket, key, signed, parts, body, query };
        asked.operation = asked.operation();
        if asked.operation == "ListObjectsV2" {
            asked.key = asked.parameter("prefix").unwrap_or_default().to_owned();
        }
        Ok(asked)
    }

    fn operation(&self) -> &'static str {
        let has = |name: &str| self.parameter(name).is_some();
        // Versions by id, and every other subresource, are not served.
        let is_plain = self.query.iter().all(|(name, _)| name == "x-id" || name.starts_with("X-Amz-"));
        match (&self.parts.method, self.key.is_empty()) {
            (&Method::HEAD, false) if is_plain => "HeadObject",
            (&Method::GET, false) if is_plain => "GetObject",
            (&Method::PUT, false) if is_plain => "PutObject",
            (&Method::DELETE, false) if is_plain => "DeleteObject",
            (&Method::GET, true) if self.parameter("list-type") == Some("2") => "ListObjectsV2",
            (&Method::GET, true) if has("location") => "GetBucketLocation",
            (&Method::GET, true) if has("versioning") => "GetBucketVersioning",
            (&Method::GET, true) if has("lifecycle") => "GetBucketLifecycleConfiguration",
            (&Method::GET, true) if has("publicAccessBlock") => "GetPublicAccessBlock",
            (&Method::GET, true) if has("policy") => "GetBucketPolicy",
            _ => "Unknown",
        }
    }

    /// Whether it bears a signature, or something in the place of one.
    pub fn is_signed(&self) -> bool {
        self.signed.is_some()
            || self.header("authorization").is_some()
            || self.query.iter().any(|(name, _)| name.starts_with("X-Amz-"))
    }

    /// The access key id, or [`ANONYMOUS`].
    pub fn by(&self) -> &str {
        self.signed.as_ref().map_or(ANONYMOUS, |signed| &signed.key)
    }

    pub fn role(&self) -> &str {
        role(self.by())
    }

    /// What a fault script calls it.
    pub fn name(&self) -> (String, String) {
        on(if self.is_signed() { self.operation } else { "Anonymous" }, &self.bucket)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.parts, name)
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The call, unanswered.
    pub fn call(&self) -> Call {
        let condition = |name: &str| Some(format!("{name}={}", self.header(name)?));
        Call {
            by: self.by().to_owned(),
            operation: self.operation,
            bucket: self.bucket.clone(),
            key: self.key.clone(),
            presigned: self.signed.as_ref().is_some_and(|signed| signed.valid_for.is_some()),
            condition: condition("if-none-match").or_else(|| condition("if-match")),
            status: None,
            denied: false,
        }
    }
}

// === impl Done ===

impl Done {
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// A document with this root.
    pub fn xml(root: &str, content: &str) -> Self {
        let document = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <{root} xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{content}</{root}>"
        );
        Self::new(200).with("content-type", "application/xml").body(document.into())
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub fn body(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }

    /// The answer, of this time.
    pub fn response(self, now: SystemTime) -> Response<Dribble> {
        let mut response = Response::new(Dribble { rest: self.body, pace: None, wait: None });
        *response.status_mut() =
            StatusCode::from_u16(self.status).expect("a fault script names real statuses");
        let own = [
            ("date", http_date(now)),
            ("server", "AmazonS3".to_owned()),
            ("x-amz-request-id", "stand-in".to_owned()),
            ("x-amz-id-2", "stand-in".to_owned()),
        ];
        for (name, value) in own.into_iter().chain(self.headers) {
            let value = value.parse().expect("a valid header");
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
        response
    }
}

// === impl Failed ===

impl Failed {
    pub fn new(status: u16, code: &str, message: &str) -> Self {
        let (code, message) = (code.to_owned(), message.to_owned());
        Self { status, code, message, headers: Vec::new(), denied: false }
    }

    /// The caller may not do this.
    pub fn denied(message: &str) -> Self {
        Self { denied: true, ..Self::new(403, "AccessDenied", message) }
    }

    pub fn no_such_key() -> Self {
        Self::new(404, "NoSuchKey", "The specified key does not exist.")
    }

    pub fn precondition(condition: &str) -> Self {
        let message = "At least one of the pre-conditions you specified did not hold";
        Self::new(412, "PreconditionFailed", &format!("{message}: {condition}"))
    }

    /// The bucket is in another Region than the one that the caller has asked.
    pub fn elsewhere(region: &str) -> Self {
        let message = "The bucket you are attempting to access must be addressed using the specified endpoint. \
                       Please send all future requests to this endpoint.";
        Self::new(301, "PermanentRedirect", message).with("x-amz-bucket-region", region)
    }

    pub fn not_implemented(what: &str) -> Self {
        let message = "A header or parameter you provided implies functionality that is not implemented";
        Self::new(501, "NotImplemented", &format!("{message}: {what}"))
    }

    pub fn not_served() -> Self {
        Self::new(501, "NotImplemented", "the stand-in does not serve this")
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub fn response(self, now: SystemTime) -> Response<Dribble> {
        let error = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>{}</Message>\
             <RequestId>stand-in</RequestId><HostId>stand-in</HostId></Error>",
            self.code,
            escape(&self.message)
        );
        let done = Done { status: self.status, headers: self.headers, body: error.into() };
        done.with("content-type", "application/xml").response(now)
    }
}

// === impl Dribble ===

impl Dribble {
    /// Lets this much time pass before each byte.
    pub fn slow_down(&mut self, pace: Duration) {
        self.pace = Some(pace);
    }
}

impl Body for Dribble {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let Some(pace) = self.pace else {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.rest)))));
        };
        let wait = self.wait.get_or_insert_with(|| Box::pin(sleep(pace)));
        std::task::ready!(wait.as_mut().poll(context));
        self.wait = None;
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(1)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// For example `Thu, 26 Nov 2026 08:00:00 GMT`.
pub fn http_date(time: SystemTime) -> String {
    whole_seconds(time).fmt(Format::HttpDate).expect("a time of our days")
}

/// For example `2026-11-26T08:00:00Z`.
pub fn iso_date(time: SystemTime) -> String {
    whole_seconds(time).fmt(Format::DateTime).expect("a time of our days")
}

fn whole_seconds(time: SystemTime) -> DateTime {
    DateTime::from_secs(DateTime::from(time).secs())
}
