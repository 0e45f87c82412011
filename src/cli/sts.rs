//! STS in failoverctl's terms: the only place that knows its SDK.

mod presigned;

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sts::Client;

pub(super) use self::presigned::{Signature, VALID, sign_for, signer};

use super::clock;
use crate::remote::aws::{Call, Failure, send};
use crate::remote::date::Date;

/// The owner of the credentials.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    /// The account's 12 digits.
    pub account: Option<String>,
    pub arn: Option<String>,
}

/// Asks once whose credentials these are, and sets AWS's clock by the answer. [No permission is needed][1].
///
/// [1]: https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
pub(super) async fn caller(aws: SdkConfig, time: Duration) -> Result<Caller, Failure> {
    let call = Call::new("sts:GetCallerIdentity", "the account");
    let date = Date::default();
    let request = Client::new(&aws).get_caller_identity().customize().interceptor(date.clone());
    let output = send(call, time, request.send()).await;
    // A refusal has one as well.
    if let Some(date) = date.get() {
        clock::set(date.into());
    }
    let output = output?;
    Ok(Caller { account: output.account, arn: output.arn })
}
