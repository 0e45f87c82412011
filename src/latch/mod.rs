//! Locks a failed primary with objects in S3, on data planes alone; only a person releases it.
//!
//! ```text
//! watch    tick ─ S3::read, NameServers::ask ─▶ objects and verdicts
//!          ─ decide::held, first, confirmed ─▶ plan ─ S3::create ─▶ decide::after ─▶ state, and whether it locked
//! release  a person's credentials ─ S3::read, NameServers::ask ─▶ release::begin, may_delete, deleted, Settling (cli::latch)
//! ```
//!
//! The zone's failover record refers to a calculated health check: the primary's own check, and a latch check for each
//! bucket, which is inverted and reads the object `latches/NAME`. An object makes it unhealthy, and so the primary is
//! out of service. A watcher asks the zone's own name servers which site Route 53 answers. If that is the standby, and
//! the standby is healthy, it creates the object in every bucket. It cannot delete it.
//!
//! A watcher calls S3 in the buckets' Regions and the zone's name servers, and nothing else: no Route 53 API, nothing
//! in us-east-1.

pub mod config;
pub mod decide;
pub mod dns;
pub mod listener;
mod look;
pub mod outcome;
pub mod release;
pub mod s3;
pub mod seen;
pub mod view;
mod watch;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;
use tokio::time::{Instant, sleep_until};

use self::config::Config;
use self::decide::Put;
use self::dns::NameServers;
use self::outcome::Report;
use self::s3::S3;
use self::watch::Memory;
use crate::program::text::Quoted;
use crate::remote::deadline::Deadline;
use crate::remote::https::Https;

/// The key of the object that the control checks must see.
const CONTROL: &str = "control";

/// The system: its configuration, the buckets, the name servers, and what it remembers.
#[derive(Clone, Debug)]
pub struct FailoverLatch {
    config: Config,
    /// The watcher's name, for the people who read an object.
    name: String,
    s3: S3,
    name_servers: NameServers,
    memory: Memory,
}

/// The function's handler name is not this binary's.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("_HANDLER: {} is not a handler of this function: set it to watch, or start the program with --watch", Quoted(.0))]
pub struct UnknownHandler(String);

/// An event that is more than a tick.
#[derive(Default, Deserialize)]
struct Event {
    /// Whether to write the `control` objects instead of looking.
    #[serde(default)]
    control: bool,
}

/// Checks the function's handler name.
///
/// # Errors
/// It is not `watch`.
pub fn is_handler(name: Option<&str>) -> Result<(), UnknownHandler> {
    match name {
        Some("watch") => Ok(()),
        other => Err(UnknownHandler(other.unwrap_or_default().to_owned())),
    }
}

impl FailoverLatch {
    /// The system as `config` sets it up, on the AWS that `aws` reaches; `name` is the watcher's.
    #[must_use]
    pub fn new(config: Config, name: String, aws: &SdkConfig, https: Https) -> Self {
        let s3 = S3::new(aws, https, &config.buckets, config.bucket_owner.clone());
        let name_servers = NameServers::new(&config.name_servers);
        let memory = Memory::new(&config);
        Self { config, name, s3, name_servers, memory }
    }

    /// Handles one invocation: a tick, whatever the event; or the deployment's request for the `control` objects.
    pub async fn handle(&self, event: &str, deadline: Deadline) -> Report {
        if serde_json::from_str::<Event>(event).unwrap_or_default().control {
            return self.control().await;
        }
        self.name_servers.look_up();
        Report { outcomes: watch::tick(self, deadline).await, control: None }
    }

    /// Looks until the process ends.
    pub async fn watch(&self) {
        loop {
            let next = Instant::now() + self.config.look_every;
            self.name_servers.look_up();
            watch::one(self, Duration::MAX).await;
            sleep_until(next).await;
        }
    }

    /// What the looks so far have seen.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Writes the object `control` to every bucket, where it is absent.
    async fn control(&self) -> Report {
        let mut control = BTreeMap::new();
        for (at, bucket) in self.config.buckets.iter().enumerate() {
            let body = json!({ "by": self.name }).to_string();
            let put = match self.s3.create(at, CONTROL, &body, SystemTime::now()).await {
                Ok(Put::Created) => Ok("created"),
                Ok(Put::AlreadyThere) => Ok("already_there"),
                Ok(Put::Conflict) => Err("another write met this one: invoke the function again".to_owned()),
                Ok(Put::Failed(cause)) | Err(cause) => Err(cause),
            };
            control.insert(bucket.name.clone(), put);
        }
        Report { outcomes: Vec::new(), control: Some(control) }
    }
}
