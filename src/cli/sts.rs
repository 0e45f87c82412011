//! STS in failoverctl's terms: the only place that knows its SDK.

mod presigned;

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sts::Client;
use aws_sdk_sts::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_sts::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_sts::error::BoxError;
use chrono::DateTime;

pub(super) use self::presigned::{Signature, VALID, sign_for, signer};

use super::clock;
use crate::remote::aws::{Call, Failure, send};

/// The owner of the credentials.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    /// The account's 12 digits.
    pub account: Option<String>,
    pub arn: Option<String>,
}

/// Reads the date of an answer.
#[derive(Debug)]
struct Dated;

// === impl Dated ===

impl Intercept for Dated {
    fn name(&self) -> &'static str {
        "Dated"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        if let Some(date) = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok()) {
            clock::told(date.to_utc());
        }
        Ok(())
    }
}

/// Asks once whose credentials these are, and tells the clock. [No permission is needed][1].
///
/// [1]: https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
pub(super) async fn caller(aws: SdkConfig, time: Duration) -> Result<Caller, Failure> {
    let call = Call::new("sts:GetCallerIdentity", "the account");
    let output =
        send(call, time, Client::new(&aws).get_caller_identity().customize().interceptor(Dated).send())
            .await?;
    Ok(Caller { account: output.account, arn: output.arn })
}
