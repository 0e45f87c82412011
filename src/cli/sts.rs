//! STS in failoverctl's terms: the only place that knows its SDK.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sts::Client;
use aws_sdk_sts::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_sts::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_sts::error::BoxError;
use chrono::{DateTime, TimeDelta, Utc};

use crate::remote::aws::{Call, Failure, send};

/// The owner of the credentials.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    /// The account's 12 digits.
    pub account: Option<String>,
    pub arn: Option<String>,
    /// By how much this machine's clock is ahead of AWS's, to a second and the time that the answer took; `None` if the answer
    /// had no date.
    pub ahead: Option<TimeDelta>,
}

/// Compares the date of an answer with this machine's clock.
#[derive(Clone, Debug, Default)]
struct Clocks(Arc<OnceLock<TimeDelta>>);

// === impl Clocks ===

impl Intercept for Clocks {
    fn name(&self) -> &'static str {
        "Clocks"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date =
            context.response().headers().get("date").and_then(|date| DateTime::parse_from_rfc2822(date).ok());
        if let Some(date) = date {
            // A retry's answer changes nothing.
            let _ = self.0.set(Utc::now().signed_duration_since(date));
        }
        Ok(())
    }
}

/// Asks once whose credentials these are. [No permission is needed][1].
///
/// [1]: https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
pub(super) async fn caller(aws: SdkConfig, time: Duration) -> Result<Caller, Failure> {
    let call = Call::new("sts:GetCallerIdentity", "the account");
    let clocks = Clocks::default();
    let request = Client::new(&aws).get_caller_identity().customize().interceptor(clocks.clone());
    let output = send(call, time, request.send()).await?;
    Ok(Caller { account: output.account, arn: output.arn, ahead: clocks.0.get().copied() })
}
