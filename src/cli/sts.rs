//! STS in failoverctl's terms: the only place that knows its SDK.

mod presigned;

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sts::Client;

pub(super) use self::presigned::{Signature, VALID, sign_for, signer};
use crate::remote::aws::{Call, Failure, send};

/// The owner of the credentials.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// The account's 12 digits.
    pub account: Option<String>,
    pub arn: Option<String>,
}

/// Asks once whose credentials these are. [No permission is needed][1].
///
/// [1]: https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
pub(super) async fn caller(aws: SdkConfig, time: Duration) -> Result<Caller, Failure> {
    let call = Call::new("sts:GetCallerIdentity", "the account");
    let output = send(call, time, Client::new(&aws).get_caller_identity().send()).await?;
    Ok(Caller { account: output.account, arn: output.arn })
}
