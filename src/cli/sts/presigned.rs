//! A presigned `sts:GetCallerIdentity` that is bound to a text: one person signs it, another one lets STS say who that was.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sdk_sts::Client;
use aws_sdk_sts::config::ConfigBag;
use aws_sdk_sts::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_sts::config::{Intercept, RuntimeComponents};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Caller;
use crate::cli::clock;
use crate::remote::aws::{Call, Failure, chain, send};

const CALLER: Call = Call::new("sts:GetCallerIdentity", "the account");
/// The signed header that binds a request to one text.
const BOUND: &str = "x-failoverctl-plan";
/// How long a bound request is valid. STS takes none that is older.
pub(in crate::cli) const VALID: Duration = Duration::from_mins(15);

/// The signature of a presigned `sts:GetCallerIdentity` that is bound to a text. The rest of the request is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Signature {
    /// The access key id.
    pub key: String,
    /// When it was signed: `20261121T023615Z`.
    pub date: String,
    /// The signature itself, in hexadecimal digits.
    pub hex: String,
    /// Empty for credentials without one.
    pub session_token: String,
}

/// Sends a presigned request in the place of the SDK's own, to the same endpoint.
#[derive(Debug)]
struct Instead {
    region: String,
    /// The value of the header.
    bound: String,
    by: By,
    used: Arc<OnceLock<Signature>>,
}

/// Who signs it.
#[derive(Debug)]
enum By {
    Own(Credentials),
    Other(Signature),
}

/// Signs a request that is bound to a text, and asks STS by it whose signature it is.
///
/// # Errors
/// There are no credentials, or STS does not accept it.
pub(in crate::cli) async fn sign_for(
    aws: &SdkConfig,
    text: &str,
    time: Duration,
) -> Result<(Caller, Signature), Failure> {
    let provider = aws.credentials_provider().ok_or_else(|| unsigned("there are no credentials"))?;
    let credentials = provider.provide_credentials().await.map_err(|error| unsigned(&chain(&error)))?;
    let used = Arc::new(OnceLock::new());
    let caller = ask_by(aws, text, By::Own(credentials), &used, time).await?;
    let signature = used.get().cloned().ok_or_else(|| unsigned("it was not signed"))?;
    Ok((caller, signature))
}

/// Asks STS whose signature this is, if it is bound to this text.
///
/// # Errors
/// STS does not accept it: it is another one's text, too old, or of credentials that have ended.
pub(in crate::cli) async fn signer(
    aws: &SdkConfig,
    text: &str,
    signature: Signature,
    time: Duration,
) -> Result<Caller, Failure> {
    ask_by(aws, text, By::Other(signature), &Arc::default(), time).await
}

async fn ask_by(
    aws: &SdkConfig,
    text: &str,
    by: By,
    used: &Arc<OnceLock<Signature>>,
    time: Duration,
) -> Result<Caller, Failure> {
    let region = aws.region().map(ToString::to_string).unwrap_or_default();
    let instead = Instead { region, bound: URL_SAFE_NO_PAD.encode(text), by, used: Arc::clone(used) };
    let request = Client::new(aws).get_caller_identity().customize().interceptor(instead);
    let output = send(CALLER, time, request.send()).await?;
    Ok(Caller { account: output.account, arn: output.arn })
}

fn unsigned(cause: &str) -> Failure {
    Failure::refused(CALLER, cause.to_owned())
}

// === impl Instead ===

impl Intercept for Instead {
    fn name(&self) -> &'static str {
        "Instead"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let url = context.request().uri().split('?').next().unwrap_or_default();
        let url = format!("{url}?Action=GetCallerIdentity&Version=2011-06-15");
        let signature = match &self.by {
            By::Own(credentials) => self.sign(credentials, &url)?,
            By::Other(signature) => signature.clone(),
        };
        let mut request = HttpRequest::empty();
        request.set_method("GET")?;
        request.set_uri(url + &signature.query(&self.region))?;
        request.headers_mut().try_insert(BOUND, self.bound.clone())?;
        *context.request_mut() = request;
        let _ = self.used.set(signature);
        Ok(())
    }
}

impl Instead {
    fn sign(&self, credentials: &Credentials, url: &str) -> Result<Signature, BoxError> {
        let identity = credentials.clone().into();
        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(VALID);
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("sts")
            .time(clock::now().into())
            .settings(settings)
            .build()?
            .into();
        let headers = [(BOUND, self.bound.as_str())].into_iter();
        let request = SignableRequest::new("GET", url, headers, SignableBody::Bytes(&[]))?;
        let (instructions, hex) = sign(request, &parameters)?.into_parts();
        let date = instructions.params().iter().find(|(name, _)| *name == "X-Amz-Date");
        Ok(Signature {
            key: credentials.access_key_id().to_owned(),
            date: date.map(|(_, date)| date.to_string()).ok_or("the signature has no date")?,
            hex,
            session_token: credentials.session_token().unwrap_or_default().to_owned(),
        })
    }
}

// === impl Signature ===

impl Signature {
    /// The parameters of the request, after those of the call.
    fn query(&self, region: &str) -> String {
        let Self { key, date, hex, session_token } = self;
        let day = date.get(..8).unwrap_or_default();
        let seconds = VALID.as_secs().to_string();
        let credential = format!("{key}/{day}/{region}/sts/aws4_request");
        let headers = format!("host;{BOUND}");
        let mut parameters = vec![
            ("Algorithm", "AWS4-HMAC-SHA256"),
            ("Credential", &credential),
            ("Date", date),
            ("Expires", &seconds),
            ("SignedHeaders", &headers),
            ("Signature", hex),
        ];
        if !session_token.is_empty() {
            parameters.push(("Security-Token", session_token));
        }
        let query = parameters.iter().map(|(name, value)| format!("&X-Amz-{name}={}", encoded(value)));
        query.collect()
    }
}

/// Encodes a text for a query.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
