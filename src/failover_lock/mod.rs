//! Locks a failed primary's health check, and restores it when a person says so.
//!
//! ```text
//! lock       event ─ event::records ─▶ transition ─ decide::concern ─▶ check id
//!            ─ Route53::health_check beside tags ─▶ check and record ─ decide::lock, interlock ─▶ decision
//!            ─ apply: Route53::set_path, then record_lock ─▶ outcome
//! reconcile  tick ─ Route53::health_checks, tags_of, CloudWatch::all_alarms ─▶ check, record and alarms
//!            ─ decide::reconcile, interlock ─▶ decision ─ apply ─▶ outcome; at its end follow ─▶ records
//! restore    request ─ Route53::health_check, tags ─▶ check and record ─ decide::restore ─▶ decision
//!            ─ probe::ask, Route53::record_restore, set_path, record_restore ─▶ outcome
//! ```
//!
//! The [`record`] says whether a check is meant to be out of service. What is recorded is compared with
//! what is; an alarm is evidence. Only `restore` sets a path other than the locked one. It refuses what alarms,
//! topics and schedules send; who may invoke it, IAM decides.

pub mod alarm;
mod apply;
pub mod clock;
pub mod cloudwatch;
pub mod config;
mod datapoint;
pub mod decide;
pub mod error;
pub mod event;
mod follow;
pub mod health_check;
mod known;
mod lock;
mod notes;
pub mod outcome;
pub mod probe;
pub mod reason;
mod reconcile;
pub mod record;
pub mod request;
mod restore;
pub mod route53;
mod tick;
mod view;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use aws_config::SdkConfig;
use thiserror::Error;

use self::clock::Clock;
use self::cloudwatch::CloudWatch;
use self::config::Config;
use self::outcome::Report;
use self::route53::Route53;
use crate::program::text::Quoted;
use crate::remote::deadline::Deadline;

/// The system: its configuration, Route 53, and CloudWatch.
#[derive(Clone, Debug)]
pub struct FailoverLock {
    config: Config,
    route53: Route53,
    cloudwatch: CloudWatch,
    known: known::Known,
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
    /// Whether a call was begun that changes a health check.
    #[must_use]
    pub fn changes(&self) -> Arc<AtomicBool> {
        self.route53.changes()
    }

    /// The system as `config` sets it up, on the AWS that `aws` reaches.
    #[must_use]
    pub fn new(config: Config, aws: &SdkConfig) -> Self {
        Self {
            config,
            route53: Route53::new(aws),
            cloudwatch: CloudWatch::new(aws),
            known: known::Known::default(),
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
        let only = self.config.only().cloned();
        Report { results, messages, only }
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
