//! failover-lock's side of a session: its variables, Route 53 and CloudWatch.

use std::time::Duration;

use clap::Args;

use super::error::Error;
use super::session::{Common, Session, patience};
use crate::failover_lock::alarm::Alarm;
use crate::failover_lock::cloudwatch::{Alarms, CloudWatch};
use crate::failover_lock::config::Config;
use crate::failover_lock::decide::Health;
use crate::failover_lock::health_check::HealthCheckId;
use crate::failover_lock::outcome::{Answer, Outcome};
use crate::failover_lock::route53::{Checkers, Route53};
use crate::failover_lock::{FailoverLock, Handler};
use crate::lambda::Report as _;
use crate::program::variables::InvalidConfig;
use crate::remote::aws::Failure;

/// How long the checkers' verdict is waited for: the rest is shown without it.
pub(super) const SHORTLY: Duration = Duration::from_secs(3);

/// The options of the commands about locks: the functions' variables, as far as a command needs them.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The path of a health check in service.
    #[arg(long, value_name = "PATH", env = "HEALTHY_PATH", default_value = "/lb-check")]
    healthy_path: String,
    /// The path of a locked health check.
    #[arg(long, value_name = "PATH", env = "LOCKED_PATH", default_value = "/lb-check-failed-over")]
    locked_path: String,
    /// The topics and functions by which an alarm reaches `lock`, comma-separated ARNs; any, if left out.
    #[arg(long, value_name = "ARNS", env = "ALARM_ACTIONS")]
    alarm_actions: Option<String>,
}

/// A session and what the functions would have: their configuration and the services that they call.
pub(super) struct Guard {
    pub session: Session,
    pub config: Config,
    pub route53: Route53,
    pub cloudwatch: CloudWatch,
}

// === impl Options ===

impl Options {
    /// The functions' configuration with these options.
    ///
    /// # Errors
    /// Names each option that is invalid.
    pub fn config(
        &self,
        guarded: Option<&String>,
        secondaries: Option<&String>,
    ) -> Result<Config, InvalidConfig> {
        Config::read(&|name| match name {
            "HEALTHY_PATH" => Some(self.healthy_path.clone()),
            "LOCKED_PATH" => Some(self.locked_path.clone()),
            "ALARM_ACTIONS" => self.alarm_actions.clone(),
            "GUARDED_HEALTH_CHECKS" => guarded.cloned(),
            "SECONDARY_HEALTH_CHECKS" => secondaries.cloned(),
            _ => None,
        })
    }

    /// Opens a session about every health check of the account.
    ///
    /// # Errors
    /// An option is invalid, or the session cannot be opened.
    pub async fn guard(&self, common: &Common) -> Result<Guard, Error> {
        let config = self.config(None, None)?;
        Ok(Guard::new(common.session().await?, config))
    }
}

// === impl Guard ===

impl Guard {
    pub fn new(session: Session, config: Config) -> Self {
        let (route53, cloudwatch) = (Route53::new(&session.aws), CloudWatch::new(&session.aws));
        Self { session, config, route53, cloudwatch }
    }

    /// The functions' own code.
    pub fn system(&self) -> FailoverLock {
        FailoverLock::new(self.config.clone(), &self.session.aws)
    }

    /// The alarms on a check's health, from those of the account if they were read.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn alarms(&self, id: &HealthCheckId, all: Option<&Alarms>) -> Result<Vec<Alarm>, Failure> {
        match all {
            Some(all) => all.on(id),
            None => self.cloudwatch.alarms_of(id, &self.config, patience()).await,
        }
    }

    /// What Route 53's checkers find of a check now.
    pub async fn health(&self, id: &HealthCheckId) -> Health {
        let checkers = self.route53.checkers(id, patience().within(SHORTLY)).await;
        checkers.map_or(Health::Unknown, Checkers::verdict)
    }

    /// Handles one record, or one request, with the functions' own code.
    ///
    /// # Errors
    /// What the function would fail with.
    pub async fn handle(&self, handler: Handler, event: &str) -> Result<Outcome, Error> {
        let report = self.system().handle(handler, event, patience()).await;
        let Answer { mut outcomes, .. } = report.into_answer().map_err(Error::Invocation)?;
        Ok(outcomes.swap_remove(0))
    }
}
