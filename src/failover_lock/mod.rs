//! Locks a failed primary's health check, and restores it when a person requests it.
//!
//! ```text
//! lock       event ─ alarm::transitions ─▶ transition ─ decide::concern ─▶ check id
//!            ─ Route53::health_check, notes ─▶ what is seen ─ decide::lock, interlock ─▶ decision
//!            ─ Route53::set_path ─▶ outcome
//! reconcile  tick ─ Route53::health_check, notes, CloudWatch::alarms_on ─▶ what is seen
//!            ─ decide::reconcile, interlock ─▶ decision ─ Route53::set_path ─▶ outcome
//! restore    request ─ Route53::health_check ─▶ check ─ decide::switch_back ─▶ decision
//!            ─ probe::ask, Route53::note_restore, set_path ─▶ outcome
//! ```
//!
//! Only [`restore`] ever unlocks. It refuses what alarms, topics and schedules send; whom it lets
//! ask at all is for IAM to say.

pub mod alarm;
mod apply;
pub mod clock;
pub mod cloudwatch;
pub mod config;
pub mod decide;
pub mod error;
pub mod event;
pub mod health_check;
mod lock;
pub mod outcome;
pub mod probe;
mod reconcile;
pub mod record;
pub mod request;
mod restore;
pub mod route53;
mod view;

use aws_config::SdkConfig;
use thiserror::Error;

use self::clock::Clock;
use self::cloudwatch::CloudWatch;
use self::config::Config;
use self::outcome::Report;
use self::route53::Route53;
use crate::program::text::Quoted;
use crate::remote::deadline::Deadline;

/// The system: what it was told, Route 53, and CloudWatch.
#[derive(Clone, Debug)]
pub struct FailoverLock {
    config: Config,
    route53: Route53,
    cloudwatch: CloudWatch,
    known: reconcile::Known,
    clock: Clock,
}

/// The functions that one binary serves; the function's handler name says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// Takes alarms, sets locks.
    Lock,
    /// Takes a person's request, restores.
    Restore,
    /// Takes a tick of a schedule, sets locks that are missing.
    Reconcile,
}

/// The function's handler name is none of this binary's.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("_HANDLER: {} is not a handler of this function: set it to lock, restore or reconcile", Quoted(.0))]
pub struct UnknownHandler(String);

/// `reconcile` does not know which health checks to look at.
#[derive(Debug, PartialEq, Eq, Error)]
#[error(
    "GUARDED_HEALTH_CHECKS, GUARDED_TAG: reconcile works on the health checks that one of them names, and neither is set"
)]
pub struct NothingGuarded;

// === impl FailoverLock ===

impl FailoverLock {
    /// The system as `config` sets it up, on the AWS that `aws` reaches.
    #[must_use]
    pub fn new(config: Config, aws: &SdkConfig) -> Self {
        Self {
            config,
            route53: Route53::new(aws),
            cloudwatch: CloudWatch::new(aws),
            known: reconcile::Known::default(),
            clock: Clock::default(),
        }
    }

    /// The system with another clock than the machine's.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Handles one invocation.
    pub async fn handle(&self, handler: Handler, event: &str, deadline: Deadline) -> Report {
        let mut messages = None;
        let results = match handler {
            Handler::Lock => {
                let (of, results): (Vec<_>, Vec<_>) =
                    lock::lock(self, event, deadline).await.into_iter().unzip();
                messages = Some(of).filter(|of| of.iter().any(Option::is_some));
                results
            }
            Handler::Reconcile => reconcile::reconcile(self, deadline).await,
            Handler::Restore => vec![restore::restore(self, event, deadline).await],
        };
        for result in &results {
            match result {
                Ok(outcome) => outcome.log(),
                Err(failed) => failed.log(),
            }
        }
        Report { results, messages }
    }
}

// === impl Handler ===

impl Handler {
    /// Whether the handler can work with this configuration.
    ///
    /// # Errors
    /// `reconcile` needs to be told which checks are guarded.
    pub fn accepts(self, config: &Config) -> Result<(), NothingGuarded> {
        match self {
            Self::Reconcile if config.guarded.is_none() && config.guarded_tag.is_none() => {
                Err(NothingGuarded)
            }
            Self::Lock | Self::Restore | Self::Reconcile => Ok(()),
        }
    }

    /// The handler by its name.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn named(name: Option<&str>) -> Result<Self, UnknownHandler> {
        match name {
            Some("lock") => Ok(Self::Lock),
            Some("restore") => Ok(Self::Restore),
            Some("reconcile") => Ok(Self::Reconcile),
            other => Err(UnknownHandler(other.unwrap_or_default().to_owned())),
        }
    }
}
