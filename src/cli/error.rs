//! How a command ends, and what it fails with.

use std::io;
use std::process::ExitCode;

use thiserror::Error;

use super::text::{plain, quoted};
use crate::failover_lock::decide::CannotHold;
use crate::failover_lock::error::InvocationError;
use crate::failover_lock::event::Malformed;
use crate::failover_lock::health_check::{HealthCheckId, ResourcePath};
use crate::lease;
use crate::program::text::Quoted;
use crate::program::variables::InvalidConfig;
use crate::remote::aws::Failure;
use crate::remote::https::InvalidBundle;
use crate::remote::sdk::InvalidSetting;

/// How a command ended that was not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Done, or all is well.
    Well,
    /// Something is not well, or was refused or declined.
    NotWell,
}

/// Why a command could not be done.
#[derive(Debug, Error)]
pub enum Error {
    /// An option cannot be used.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// A variable of the SDKs cannot be used.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// The roots to trust cannot be read.
    #[error(transparent)]
    Bundle(#[from] InvalidBundle),
    /// AWS did not do it.
    #[error("{0}")]
    Aws(#[from] Failure),
    /// The health check cannot be locked.
    #[error("health check {0}: {1}")]
    CannotHold(HealthCheckId, CannotHold),
    /// The function that guards the health check locks by another path.
    #[error(
        "nothing was changed: {function}, which guards it, locks by the path {path}, and knows no lock by another: add \
         --locked-path {}",
        quoted(.path.as_str())
    )]
    OtherPath {
        /// Its name.
        function: String,
        /// Its path.
        path: ResourcePath,
    },
    /// What the function's code says.
    #[error("{0}")]
    Invocation(InvocationError),
    /// The event cannot be read.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", Quoted(.file))]
    File {
        /// Which.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// A folder cannot be written.
    #[error("{} cannot be written: {source}", Quoted(.folder))]
    Folder {
        /// Which.
        folder: String,
        /// Why.
        source: io::Error,
    },
    /// Standard output or the terminal is gone.
    #[error("the terminal: {0}")]
    Terminal(#[from] io::Error),
    /// There are no credentials, or none that can be used.
    #[error(
        "there are no credentials to use: {why}. To see the profiles: aws configure list-profiles; to name one: --profile. If the \
         profile is there, log in: {}",
        login(.profile.as_deref())
    )]
    NoCredentials {
        /// Why.
        why: String,
        /// The profile that was named.
        profile: Option<String>,
    },
    /// AWS does not accept the credentials.
    #[error("{error}. Log in again: {}", login(.profile.as_deref()))]
    LogIn {
        /// What failed.
        error: Box<Error>,
        /// The profile that was named.
        profile: Option<String>,
    },
    /// A Region without alarms on health checks.
    #[error("--region {0}: Route 53's metrics and their alarms are in us-east-1 alone; leave --region out")]
    Region(String),
    /// Several accounts, where one is meant.
    #[error(
        "--profile: {0}; name one profile. Several are for failoverctl status without names or --versions"
    )]
    Profiles(&'static str),
    /// There is no such health check in this account.
    #[error(
        "{0}. It may be of another account: failoverctl status shows this one's; to name another one: --profile"
    )]
    OtherAccount(#[source] Failure),
    /// There is no AWS at a URL.
    #[error(
        "there is no AWS at {}: {why}. Correct --endpoint-url, or where it is not given AWS_ENDPOINT_URL, or \
         endpoint_url in the profile",
        Quoted(.url)
    )]
    Endpoint {
        /// The URL.
        url: String,
        /// Why.
        why: String,
    },
    /// The names of the health checks cannot be read.
    #[error("the health checks' names cannot be read: {0}. Name the health check by its id")]
    Names(#[source] Failure),
    /// No health check has this name.
    #[error(
        "no health check of {account} has the id or the tag Name {}. To see them all: failoverctl status. Another account: \
         --profile",
        Quoted(.name)
    )]
    NoCheck {
        /// What was typed.
        name: String,
        /// Where it was looked for.
        account: String,
    },
    /// Several health checks have this name.
    #[error("{} health checks have the tag Name {}. Name one by its id: {}", .ids.len(), Quoted(.name), list(.ids))]
    SeveralChecks {
        /// What was typed.
        name: String,
        /// Theirs.
        ids: Vec<HealthCheckId>,
    },
    /// Stopped by a signal.
    #[error("interrupted")]
    Interrupted,
    /// A question, without a terminal for the answer.
    #[error("there is no terminal to ask on, and nothing was changed: add --yes")]
    NoTerminal,
    /// It did not happen in time.
    #[error("{0}")]
    TooLate(String),
    /// There is no such accelerator.
    #[error("this account has no accelerator{}", .0.as_ref().map(|name| format!(" of the DNS name or ARN {}", Quoted(name))).unwrap_or_default())]
    NoAccelerator(Option<String>),
    /// A function that was invoked has failed.
    #[error("{function}: {said}")]
    Function {
        /// Which.
        function: String,
        /// What it says.
        said: String,
        /// Whether it has refused a request, and is in order.
        is_refusal: bool,
        /// Whether it may have done what was asked for.
        may_be_done: bool,
    },
    /// There is no one function that restores a health check.
    #[error(
        "{0}. Name the function with --function; if it is out of order, use your own credentials with --direct"
    )]
    NoFunction(String),
    /// The function that restores did not run.
    #[error(
        "{0}. Nothing was changed. If the function is out of order, use your own credentials: --direct \
         (docs/runbook.md#restore-without-the-function)"
    )]
    OutOfOrder(#[source] Failure),
    /// The configuration file of lease-keeper is invalid.
    #[error("--config {}: {problems}", Quoted(.file))]
    LeaseConfig {
        /// The file.
        file: String,
        /// Its problems.
        problems: InvalidConfig,
    },
    /// The file and the options name different leases.
    #[error("{0}")]
    OtherLease(String),
    /// There is no such table.
    #[error("there is no table {} in {region}: check --table and --region, or the file of --config", Quoted(.table))]
    NoTable {
        /// Its name or ARN.
        table: String,
        /// Where it was looked for.
        region: String,
    },
    /// The lease cannot be read.
    #[error(transparent)]
    Lease(#[from] lease::error::Error),
    /// The file that names the latches cannot be read.
    #[error(
        "{} cannot be read: {source}. infra/deploy latch writes it; name another one with --config",
        Quoted(.file)
    )]
    LatchFile {
        /// Which.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// The file that names the latches is invalid.
    #[error("--config {}: {problems}", Quoted(.file))]
    LatchConfig {
        /// The file.
        file: String,
        /// Its problems.
        problems: InvalidConfig,
    },
    /// The file names no such latch.
    #[error("there is no latch {}: the file names {names}", Quoted(.name))]
    NoLatch {
        /// Its name.
        name: String,
        /// The names in the file.
        names: String,
    },
    /// A latch was not released, or not as it should be.
    #[error("{0}")]
    Release(String),
    /// A drill that must not be done.
    #[error("{0}")]
    NoDrill(String),
    /// A command of a plan has failed.
    #[error("{0}")]
    Fix(String),
    /// A pause that must not begin.
    #[error("nothing was paused: {0}")]
    NoPause(String),
    /// A switch-over that must not begin.
    #[error("nothing was changed: {0}")]
    NoSwitchOver(String),
    /// A command of the user's own does not let traffic move.
    #[error("nothing was changed: {0}")]
    Gate(String),
    /// A lock that the drill did not set.
    #[error("{0}")]
    NotOurs(String),
}

/// The error type of a function that refuses to restore.
pub const REFUSED: &str = "RestoreRefused";

/// The command that logs in.
fn login(profile: Option<&str>) -> String {
    let profile = profile.map(|name| format!(" --profile {}", quoted(&plain(name))));
    format!("aws sso login{}", profile.unwrap_or_default())
}

fn list(ids: &[HealthCheckId]) -> String {
    ids.iter().map(HealthCheckId::as_str).collect::<Vec<_>>().join(", ")
}

// === impl Error ===

impl Error {
    /// Whether a call failed because AWS does not accept the credentials.
    #[must_use]
    pub fn blames_credentials(&self) -> bool {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = next {
            if error.downcast_ref::<Failure>().is_some_and(Failure::blames_credentials) {
                return true;
            }
            next = error.source();
        }
        false
    }

    /// The exit status: a refusal is no error of the command.
    #[must_use]
    pub fn ended(&self) -> ExitCode {
        match self {
            Self::Invocation(error) if error.error_type() == REFUSED => Ended::NotWell.into(),
            Self::Function { is_refusal: true, .. }
            | Self::CannotHold(..)
            | Self::OtherPath { .. }
            | Self::NoDrill(_)
            | Self::NoPause(_)
            | Self::NoSwitchOver(_)
            | Self::Gate(_)
            | Self::NotOurs(_)
            | Self::NoTerminal
            | Self::Release(_) => Ended::NotWell.into(),
            Self::OtherLease(_) | Self::Profiles(_) | Self::Region(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

// === impl Ended ===

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Well => Self::SUCCESS,
            Ended::NotWell => Self::from(3),
        }
    }
}
