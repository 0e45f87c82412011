//! The account that a command works in: shown on every screen, in every question, and in JSON.

use std::time::Duration;

use aws_config::SdkConfig;
use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use serde::Serialize;

use super::sts::{self, Caller};
use super::text::{plain, quoted};
use crate::remote::arn::Arn;

/// How long a call may take, its retries included, where the rest is shown without it.
pub(super) const SHORTLY: Duration = Duration::from_secs(3);

/// The account, and who works in it. Account and caller are `None` if STS did not answer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Context {
    account: Option<String>,
    /// The ARN of the caller.
    caller: Option<String>,
    region: Option<String>,
    /// The AWS CLI's profile, if one was named.
    profile: Option<String>,
    /// Why account and caller are unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
}

/// A context that is read beside the command's own calls.
pub(super) type Awaited = Shared<BoxFuture<'static, Context>>;

// === impl Context ===

impl Context {
    /// Starts to read it. It is there after 3 s, also if STS does not answer.
    pub fn read(aws: &SdkConfig, profile: Option<String>) -> Awaited {
        let region = aws.region().map(ToString::to_string);
        // A task of its own: it runs while the command waits for other calls.
        let caller = tokio::spawn(sts::caller(aws.clone(), SHORTLY));
        let context = async move {
            let (caller, unknown) = match caller.await {
                Ok(Ok(caller)) => (caller, None),
                Ok(Err(failure)) => (Caller::default(), Some(failure.to_string())),
                Err(ended) => (Caller::default(), Some(ended.to_string())),
            };
            Self { account: caller.account, caller: caller.arn, region, profile, unknown }
        };
        context.boxed().shared()
    }

    /// The account in a sentence.
    pub fn account(&self) -> String {
        let account = self
            .account
            .as_deref()
            .map_or_else(|| "this account".to_owned(), |account| format!("account {}", plain(account)));
        let profile = self.profile.as_ref().map(|profile| format!(", profile {}", plain(profile)));
        let region = self.region.as_ref().map(|region| format!(", {region}"));
        account + &region.unwrap_or_default() + &profile.unwrap_or_default()
    }

    /// The account's 12 digits, if STS has answered.
    pub fn account_id(&self) -> Option<&str> {
        self.account.as_deref()
    }

    /// The caller's ARN, if STS has answered.
    pub fn arn(&self) -> Option<&str> {
        self.caller.as_deref()
    }

    /// The caller, for example `assumed-role/Operator/jane`, if STS has answered.
    pub fn caller(&self) -> Option<&str> {
        self.caller.as_deref().map(|arn| Arn::parse(arn).map_or(arn, |arn| arn.resource))
    }

    /// What lets the AWS CLI's commands that a screen names reach the same account; `None` if no profile was named.
    pub fn for_commands(&self) -> Option<String> {
        self.profile.as_ref().map(|profile| format!("export AWS_PROFILE={}", quoted(&plain(profile))))
    }

    /// The context in a line.
    pub fn line(&self) -> String {
        let account = self.account.as_deref().unwrap_or("unknown");
        let profile = self.profile.as_ref().map(|name| format!(", profile {name}"));
        // The account is in the line already.
        let caller = self.caller();
        let parts = [
            Some(format!("account {account}")),
            self.region.as_ref().map(|region| format!(", {region}")),
            profile,
            caller.map(|caller| format!(", as {caller}")),
            self.unknown.as_ref().map(|why| format!("; {why}")),
        ];
        plain(&parts.into_iter().flatten().collect::<String>())
    }
}
