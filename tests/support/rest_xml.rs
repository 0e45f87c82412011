//! The parts of Route 53's API on the wire that all operations share: signatures, XML and errors.

use aws_sigv4::http_request::{SignableBody, SigningSettings};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};

use super::signature::Signed;

/// One of Route 53's errors.
pub struct Failed {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
}

/// Whether the request bears the signature for Route 53 of a key whose secret is the key's own name.
pub fn is_signed(request: &Parts, body: &[u8]) -> bool {
    let signed = Signed::of(request).filter(|one| one.service == "route53" && one.region == "us-east-1");
    signed.is_some_and(|one| one.is_of(request, SignableBody::Bytes(body), SigningSettings::default()))
}

/// The texts of a request's elements, for the list of calls.
pub fn said(body: &str) -> String {
    let Ok(document) = roxmltree::Document::parse(body) else { return String::new() };
    let leaves =
        document.descendants().filter(|node| node.is_element() && !node.children().any(|c| c.is_element()));
    let texts = leaves.map(|leaf| format!("{}={}", leaf.tag_name().name(), leaf.text().unwrap_or_default()));
    texts.collect::<Vec<_>>().join(" ")
}

pub fn wrapped(name: &str, content: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?>\n<{name} xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\">{content}</{name}>"
    )
}

pub fn response(status: u16, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).expect("a fault script names real statuses");
    response.headers_mut().insert(CONTENT_TYPE, "text/xml".parse().expect("a valid header"));
    response
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

pub trait LocalName {
    fn has_tag_name_local(&self, name: &str) -> bool;
}

impl LocalName for roxmltree::Node<'_, '_> {
    fn has_tag_name_local(&self, name: &str) -> bool {
        self.is_element() && self.tag_name().name() == name
    }
}

// === impl Failed ===

impl Failed {
    pub fn invalid(message: &str) -> Self {
        Self { status: 400, code: "InvalidInput", message: message.to_owned() }
    }

    pub fn unsigned() -> Self {
        let message = "The request is not signed for route53 in us-east-1.".to_owned();
        Self { status: 403, code: "SignatureDoesNotMatch", message }
    }

    pub fn response(&self) -> Response<Full<Bytes>> {
        let error = format!(
            "<Error><Type>Sender</Type><Code>{}</Code><Message>{}</Message></Error><RequestId>stand-in</RequestId>",
            self.code,
            escape(&self.message)
        );
        response(self.status, wrapped("ErrorResponse", &error))
    }
}
