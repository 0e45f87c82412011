//! Signature Version 4 as a service checks it: in the `Authorization` header, or in the query of a presigned
//! request. A key's secret is the key's own name.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use hyper::http::request::Parts;

use super::query::parameters;

/// The parameters that presigning adds to a query.
const PRESIGNED: [&str; 7] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
    "X-Amz-SignedHeaders",
];

/// What a request says about its signature.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The access key id.
    pub key: String,
    pub region: String,
    pub service: String,
    /// When it was signed, in whole seconds.
    pub at: SystemTime,
    /// How long it is valid, if it was presigned.
    pub valid_for: Option<Duration>,
    /// The names of the headers that are signed, in lower case.
    pub headers: Vec<String>,
    token: Option<String>,
    signature: String,
}

// === impl Signed ===

impl Signed {
    /// Reads it from the header or from the query; `None` if there is none, or none that can be read.
    pub fn of(request: &Parts) -> Option<Self> {
        if let Some(said) = header(request, "authorization") {
            let said = said.strip_prefix("AWS4-HMAC-SHA256 Credential=")?;
            let (credential, said) = said.split_once(", SignedHeaders=")?;
            let (headers, signature) = said.split_once(", Signature=")?;
            return Self::read(credential, header(request, "x-amz-date")?, headers, signature);
        }
        let query = parameters(request.uri.query()?);
        let of = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        if of("X-Amz-Algorithm")? != "AWS4-HMAC-SHA256" {
            return None;
        }
        let (date, headers) = (of("X-Amz-Date")?, of("X-Amz-SignedHeaders")?);
        Some(Self {
            valid_for: Some(Duration::from_secs(of("X-Amz-Expires")?.parse().ok()?)),
            token: of("X-Amz-Security-Token").map(str::to_owned),
            ..Self::read(of("X-Amz-Credential")?, date, headers, of("X-Amz-Signature")?)?
        })
    }

    fn read(credential: &str, date: &str, headers: &str, signature: &str) -> Option<Self> {
        let mut scope = credential.split('/');
        let (key, day, region, service) = (scope.next()?, scope.next()?, scope.next()?, scope.next()?);
        if scope.next() != Some("aws4_request") || !date.starts_with(day) {
            return None;
        }
        Some(Self {
            key: key.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
            at: time(date)?,
            valid_for: None,
            headers: headers.split(';').map(str::to_owned).collect(),
            token: None,
            signature: signature.to_owned(),
        })
    }

    /// Whether the signature is that of this request, with this payload.
    pub fn is_of(&self, request: &Parts, payload: SignableBody<'_>, mut settings: SigningSettings) -> bool {
        let mut uri = request.uri.path().to_owned();
        let query = request.uri.query().unwrap_or_default();
        if self.valid_for.is_some() {
            settings.signature_location = SignatureLocation::QueryParams;
            settings.expires_in = self.valid_for;
        }
        let own = |pair: &&str| self.valid_for.is_some() && PRESIGNED.contains(&name(pair));
        let others: Vec<_> = query.split('&').filter(|pair| !pair.is_empty() && !own(pair)).collect();
        if !others.is_empty() {
            uri = format!("{uri}?{}", others.join("&"));
        }
        let verify = || {
            let uri = format!("https://{}{uri}", header(request, "host")?);
            let token = self.token.clone();
            let identity = Credentials::new(&self.key, &self.key, token, None, "stand-in").into();
            let parameters = v4::SigningParams::builder()
                .identity(&identity)
                .region(&self.region)
                .name(&self.service)
                .time(self.at)
                .settings(settings)
                .build()
                .ok()?;
            let headers =
                self.headers.iter().filter_map(|name| Some((name.as_str(), header(request, name)?)));
            let request = SignableRequest::new(request.method.as_str(), uri, headers, payload).ok()?;
            Some(sign(request, &parameters.into()).ok()?.into_parts().1 == self.signature)
        };
        verify().unwrap_or(false)
    }
}

/// A request's header, if it is text.
pub fn header<'a>(request: &'a Parts, name: &str) -> Option<&'a str> {
    request.headers.get(name).and_then(|value| value.to_str().ok())
}

fn name<'a>(pair: &&'a str) -> &'a str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

/// The time in `20261121T023615Z`.
fn time(text: &str) -> Option<SystemTime> {
    let (day, time) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, date] = [day.get(..4)?, day.get(4..6)?, day.get(6..)?];
    let [hour, minute, second] = [time.get(..2)?, time.get(2..4)?, time.get(4..)?];
    let text = format!("{year}-{month}-{date}T{hour}:{minute}:{second}Z");
    SystemTime::try_from(DateTime::from_str(&text, Format::DateTime).ok()?).ok()
}
