//! Takes an offline site out of an accelerator and out of cross-site replication; rejoins it when a person requests it.
//!
//! ```text
//! fence   webhook ─ auth, or message of a topic ─ decide::concern ─▶ accusation ─ Accelerators::groups, tags, LoadBalancers::owners
//!         ─▶ what is seen ─ decide::fence ─▶ decision ─ Infinispan::state, Table::claim ─ the same reads and decision
//!         ─ Accelerators::tag, remove, tag ─ Table::keep or release ─ Infinispan::set(Offline) ─▶ outcome
//! rejoin  request ─ the same reads ─▶ what is seen ─ decide::rejoin ─▶ what is missing
//!         ─ Infinispan::state, sees ─ Table::claim ─ the same again
//!         ─ Infinispan::set(Online) in both directions ─ Accelerators::tag, add, untag ─ Table::release ─▶ outcome
//! ```
//!
//! One execution at a time changes an accelerator: it decides on what it reads after its claim, and every claim ends.
//!
//! A person may also take a site out for maintenance: the same, without a report, and replication stays. Or pause the reports
//! for planned work, which ends by itself.
//! Each step is safe to repeat, and the answer to an unfinished alert makes Alertmanager send it again. Only
//! `rejoin` ever brings a site back; IAM decides who may invoke it.

pub mod accelerator;
mod apply;
pub mod auth;
pub mod config;
pub mod decide;
pub mod dynamodb;
pub mod error;
mod fence;
pub mod infinispan;
pub mod load_balancer;
pub mod notes;
pub mod outcome;
mod pause;
pub mod pauses;
mod rejoin;
mod removal;
pub mod request;
pub mod secrets;
pub mod site;
mod take_out;
mod topic;
mod turn;
pub mod view;
pub mod webhook;

use std::time::Duration;

use aws_config::SdkConfig;
use thiserror::Error;

use self::config::{Clusters, Config, Login};
use self::dynamodb::Table;
use self::infinispan::{Infinispan, Session};
use self::outcome::Report;
use self::secrets::{Password, Secrets};
use self::view::View;
use crate::program::text::Quoted;
use crate::remote::aws::Failure;
use crate::remote::deadline::Deadline;

/// The AWS services that this system calls, as the SDKs name them.
pub const SERVICES: [&str; 4] =
    ["Global Accelerator", "Elastic Load Balancing v2", "Secrets Manager", "DynamoDB"];

/// The system: its configuration, and the services that it calls.
pub struct SiteFence {
    config: Config,
    view: View,
    webhook_password: Option<Password>,
    table: Option<Table>,
    infinispan: Option<(Infinispan, Password)>,
}

/// The functions that one binary serves; the function's handler name says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// Receives Alertmanager's webhooks, takes sites out.
    Fence,
    /// Takes a person's request, rejoins a site.
    Rejoin,
}

/// The binary has no handler of this name.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("_HANDLER: {} is not a handler of this function: set it to fence or rejoin", Quoted(.0))]
pub struct UnknownHandler(String);

/// `fence` has neither credentials to check requests against, nor a topic.
#[derive(Debug, PartialEq, Eq, Error)]
#[error(
    "WEBHOOK_USER, WEBHOOK_USER_SECRET: fence accepts no alerts without them, and they are not set; for alerts through SNS, \
     set ALERT_TOPIC"
)]
pub struct NobodyIsLetIn;

/// The longest that one execution takes, whatever its timeout: its claim ends soon if it dies.
const LONGEST: Duration = Duration::from_mins(1);

// === impl SiteFence ===

impl SiteFence {
    /// The system with this configuration, which calls AWS with `aws`.
    #[must_use]
    pub fn new(config: Config, aws: &SdkConfig) -> Self {
        let region = config.secrets_region.as_deref().unwrap_or_default();
        let secrets = Secrets::new(aws, region);
        let password = |login: &Login| Password::new(secrets.clone(), &login.secret);
        let infinispan =
            |clusters: &Clusters| (Infinispan::new(clusters, secrets.clone()), password(&clusters.login));
        Self {
            view: View::new(aws, config.sites.clone()),
            webhook_password: config.webhook.as_ref().map(password),
            table: config.table.as_ref().map(|table| Table::new(aws, table)),
            infinispan: config.infinispan.as_ref().map(infinispan),
            config,
        }
    }

    /// Handles one invocation.
    pub async fn handle(&self, handler: Handler, event: &str, deadline: Deadline) -> Report {
        let deadline = deadline.within(LONGEST);
        let report = match handler {
            Handler::Fence => Box::pin(fence::fence(self, event, deadline)).await,
            Handler::Rejoin => Report::to_invoker(rejoin::rejoin(self, event, deadline).await),
        };
        report.with_stale_password(self.has_stale_password().await)
    }

    async fn has_stale_password(&self) -> bool {
        let infinispan = self.infinispan.as_ref().map(|(_, password)| password);
        for password in self.webhook_password.iter().chain(infinispan) {
            if password.is_stale().await {
                return true;
            }
        }
        false
    }

    /// Infinispan with its password as it is now; `None` if the sites have none.
    async fn infinispan(&self, deadline: Deadline) -> Result<Option<Session<'_>>, Failure> {
        match &self.infinispan {
            Some((infinispan, password)) => Ok(Some(infinispan.with(password.get(deadline).await?))),
            None => Ok(None),
        }
    }
}

// === impl Handler ===

impl Handler {
    /// Checks that the handler can work with this configuration.
    ///
    /// # Errors
    /// `fence` requires the user that may send alerts, or a topic.
    pub fn accepts(self, config: &Config) -> Result<(), NobodyIsLetIn> {
        match self {
            Self::Fence if config.webhook.is_none() && config.topic.is_none() => Err(NobodyIsLetIn),
            Self::Fence | Self::Rejoin => Ok(()),
        }
    }

    /// Returns the handler of this name.
    ///
    /// # Errors
    /// No handler has this name.
    pub fn named(name: Option<&str>) -> Result<Self, UnknownHandler> {
        match name {
            Some("fence") => Ok(Self::Fence),
            Some("rejoin") => Ok(Self::Rejoin),
            other => Err(UnknownHandler(other.unwrap_or_default().to_owned())),
        }
    }
}
