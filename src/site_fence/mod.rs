//! Takes an offline site out of an accelerator and out of cross-site replication, and back when a person says so.
//!
//! ```text
//! fence   webhook ─ auth ─ webhook::concern ─▶ accusation ─ Accelerators::groups, tags, LoadBalancers::owners
//!         ─▶ what is seen ─ decide::fence ─▶ decision ─ Infinispan::state, Table::claim
//!         ─ Accelerators::note, remove ─ Infinispan::set(Offline) ─▶ outcome
//! rejoin  request ─ the same reads ─▶ what is seen ─ decide::rejoin ─▶ what is missing
//!         ─ Infinispan::set(Online), Accelerators::add, Table::clear, Accelerators::untag ─▶ outcome
//! ```
//!
//! Each step is safe to repeat, and what is unfinished is answered so that Alertmanager asks again. Only
//! [`rejoin`] ever brings a site back; whom it lets ask is for IAM to say.

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
mod rejoin;
pub mod request;
pub mod secrets;
pub mod site;
pub mod view;
pub mod webhook;

use aws_config::SdkConfig;
use thiserror::Error;

use self::config::Config;
use self::dynamodb::Table;
use self::infinispan::Infinispan;
use self::outcome::Report;
use self::secrets::{Kept, Secrets};
use self::view::View;
use crate::program::text::Quoted;
use crate::remote::aws::Failure;
use crate::remote::deadline::Deadline;

/// The AWS services that this system calls, as the SDKs name them.
pub const SERVICES: [&str; 4] =
    ["Global Accelerator", "Elastic Load Balancing v2", "Secrets Manager", "DynamoDB"];

/// The system: what it was told, and what it calls.
pub struct SiteFence {
    config: Config,
    view: View,
    secrets: Secrets,
    webhook_password: Kept,
    table: Option<Table>,
    infinispan: Infinispan,
}

/// The functions that one binary serves; the function's handler name says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// Takes Alertmanager's webhooks, takes sites out.
    Fence,
    /// Takes a person's request, brings a site back.
    Rejoin,
}

/// The function's handler name is none of this binary's.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("_HANDLER: {} is no handler of this function: set it to fence or rejoin", Quoted(.0))]
pub struct UnknownHandler(String);

/// `fence` does not know whom to let in.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("WEBHOOK_USER, WEBHOOK_USER_SECRET: fence lets nobody in without them, and they are not set")]
pub struct NobodyIsLetIn;

// === impl SiteFence ===

impl SiteFence {
    /// The system as `config` sets it up, on the AWS that `aws` reaches.
    #[must_use]
    pub fn new(config: Config, aws: &SdkConfig) -> Self {
        Self {
            view: View::new(aws),
            secrets: Secrets::new(aws, &config.secrets_region),
            webhook_password: Kept::default(),
            table: config.table.as_ref().map(|table| Table::new(aws, table)),
            infinispan: Infinispan::new(&config),
            config,
        }
    }

    /// Handles one invocation.
    pub async fn handle(&self, handler: Handler, event: &str, deadline: Deadline) -> Report {
        match handler {
            Handler::Fence => fence::fence(self, event, deadline).await,
            Handler::Rejoin => Report::to_invoker(rejoin::rejoin(self, event, deadline).await),
        }
    }

    async fn infinispan_password(&self, deadline: Deadline) -> Result<String, Failure> {
        self.secrets.read(&self.config.infinispan.secret, deadline).await
    }
}

// === impl Handler ===

impl Handler {
    /// Whether the handler can work with this configuration.
    ///
    /// # Errors
    /// `fence` needs to know who may send alerts.
    pub fn accepts(self, config: &Config) -> Result<(), NobodyIsLetIn> {
        match self {
            Self::Fence if config.webhook.is_none() => Err(NobodyIsLetIn),
            Self::Fence | Self::Rejoin => Ok(()),
        }
    }

    /// The handler by its name.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn named(name: Option<&str>) -> Result<Self, UnknownHandler> {
        match name {
            Some("fence") => Ok(Self::Fence),
            Some("rejoin") => Ok(Self::Rejoin),
            other => Err(UnknownHandler(other.unwrap_or_default().to_owned())),
        }
    }
}
