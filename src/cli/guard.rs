//! failover-lock's side of a session: its variables, Route 53 and CloudWatch.

use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;

use super::clock;
use super::error::Error;
use super::screen::say;
use super::session::{Common, Interrupts, Session, is_reachable, patience, shortly};
use crate::failover_lock::alarm::Alarm;
use crate::failover_lock::clock::Clock;
use crate::failover_lock::cloudwatch::{CloudWatch, MuteRule};
use crate::failover_lock::config::Config;
use crate::failover_lock::decide::Health;
use crate::failover_lock::health_check::HealthCheckId;
use crate::failover_lock::outcome::{Answer, Outcome};
use crate::failover_lock::route53::{Checkers, Route53};
use crate::failover_lock::{FailoverLock, Handler};
use crate::lambda::Report as _;
use crate::program::variables::InvalidConfig;
use crate::remote::aws::Failure;
use crate::remote::deadline::Deadline;
use crate::remote::sdk;

/// The paths that failover-lock has by default.
const HEALTHY: &str = "/lb-check";
const LOCKED: &str = "/lb-check-failed-over";

/// The options of the commands about locks: the functions' variables, as far as a command needs them.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options that have to agree with the functions' variables")]
pub(super) struct Options {
    /// The path of a health check in service.
    #[arg(long, value_name = "PATH", env = "HEALTHY_PATH", default_value = HEALTHY)]
    healthy_path: String,
    /// The path of a locked health check.
    #[arg(long, value_name = "PATH", env = "LOCKED_PATH", default_value = LOCKED)]
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
    /// Whether anything was, or may have been, changed.
    changed: AtomicBool,
}

/// The mute rules that are active, or why they could not be read.
pub(super) async fn mute_rules(cloudwatch: &CloudWatch) -> (Vec<MuteRule>, Option<Failure>) {
    match cloudwatch.mute_rules(shortly()).await {
        Ok(rules) => (rules, None),
        Err(failure) => (Vec::new(), Some(failure)),
    }
}

// === impl Options ===

impl Options {
    /// The paths as words of a plan, if they are not the usual ones.
    pub fn paths(&self) -> String {
        let of = |option: &str, path: &str, usual: &str| {
            if path == usual { String::new() } else { format!(" {option} {path}") }
        };
        of("--healthy-path", &self.healthy_path, HEALTHY) + &of("--locked-path", &self.locked_path, LOCKED)
    }

    /// The functions' configuration with these options, and with what `others` says of the other variables.
    ///
    /// # Errors
    /// Names each option that is invalid.
    pub fn config(&self, others: impl Fn(&str) -> Option<String>) -> Result<Config, InvalidConfig> {
        Config::read(&|name| match name {
            "HEALTHY_PATH" => Some(self.healthy_path.clone()),
            "LOCKED_PATH" => Some(self.locked_path.clone()),
            "ALARM_ACTIONS" => self.alarm_actions.clone(),
            name => others(name),
        })
    }

    /// Opens a session about every health check of the account.
    ///
    /// # Errors
    /// An option is invalid, the Region has no alarms on health checks, or the session cannot be opened.
    pub async fn guard(&self, common: &Common) -> Result<Guard, Error> {
        let config = self.config(|_| None)?;
        if let Some(given) = &common.region
            && sdk::region(Some(given.clone())).as_ref() != given
        {
            return Err(Error::Region(given.clone()));
        }
        let session = common.session().await?;
        if let Some(url) = session.aws.endpoint_url() {
            is_reachable(url).await?;
        }
        Ok(Guard::new(session, config))
    }
}

// === impl Guard ===

impl Guard {
    pub fn new(session: Session, config: Config) -> Self {
        let (route53, cloudwatch) = (Route53::new(&session.aws), CloudWatch::new(&session.aws));
        Self { session, config, route53, cloudwatch, changed: AtomicBool::new(false) }
    }

    /// The functions' own code.
    pub fn system(&self) -> FailoverLock {
        FailoverLock::new(self.config.clone(), &self.session.aws)
    }

    /// The alarms on a check's health, and where no plain one leads to `lock` those on metric math and on queries as well,
    /// or why these could not be read.
    ///
    /// # Errors
    /// The plain ones could not be read.
    pub async fn alarms(
        &self,
        id: &HealthCheckId,
        deadline: Deadline,
    ) -> Result<(Vec<Alarm>, Option<Failure>), Failure> {
        self.cloudwatch.alarms_of(id, &self.config, deadline).await
    }

    /// The mute rules that are active, or why they could not be read.
    pub async fn mute_rules(&self) -> (Vec<MuteRule>, Option<Failure>) {
        mute_rules(&self.cloudwatch).await
    }

    /// What Route 53's checkers find of a check now.
    pub async fn health(&self, id: &HealthCheckId) -> Health {
        let checkers = self.route53.checkers(id, shortly()).await;
        checkers.map_or(Health::Unknown, Checkers::verdict)
    }

    /// Whether what was handled last has, or may have, changed something.
    pub fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// Handles one record, or one request, with the functions' own code. With `interrupts`, one ends it before
    /// its first change, and is held off from then on.
    ///
    /// # Errors
    /// What the function would fail with.
    pub async fn handle(
        &self,
        interrupts: Option<&mut Interrupts>,
        handler: Handler,
        event: &str,
    ) -> Result<Outcome, Error> {
        self.session.screen.context().await;
        if let Some(ahead) = clock::wrong_by().map(|ahead| ahead.num_seconds()) {
            let of = if ahead > 0 { "ahead of" } else { "behind" };
            say(&format!("this machine's clock is {} s {of} AWS's, whose time is used", ahead.abs()));
        }
        let system = self.system().with_clock(Clock::new(clock::now));
        let changes = system.changes();
        let work = Box::pin(system.handle(handler, event, patience()));
        let report = match interrupts {
            Some(interrupts) => interrupts.hold_off(work, || changes.load(Ordering::Relaxed)).await?,
            None => work.await,
        };
        self.changed.store(changes.load(Ordering::Relaxed), Ordering::Relaxed);
        let Answer { mut outcomes, .. } = report.into_answer().map_err(Error::Invocation)?;
        Ok(outcomes.swap_remove(0))
    }
}
