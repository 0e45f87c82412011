//! Keeps a site that failed out of service until a person brings it back.
//!
//! After a failover the failed site holds stale data. If its health check turns green by itself,
//! traffic returns to it. One rule prevents that: **the machine may take a site out; only a person
//! puts it back.**
//!
//! # Layout
//! - [`failover_lock`]: a CloudWatch alarm points a Route 53 health check at a path that does not
//!   exist, and a person's request points it back.
//! - `site_fence` (feature `site-fence`): an alert from one of two sites takes the other one out of AWS Global
//!   Accelerator and out of Infinispan's cross-site replication, and a person's request brings it back.
//! - `lease` (feature `lease`): a record in DynamoDB says which of several candidates is active.
//! - [`startup`]: logs, configuration lookup and AWS clients, for every program.
//! - [`lambda`]: what every Lambda function does with its events.
//! - [`https`]: whose certificates they trust, and their connections.
//! - [`aws`]: how a call to AWS is made, and what its failure means.
//! - [`deadline`]: how long an invocation may go on trying.
//! - [`variables`]: how a configuration that cannot be used is told.
//! - `cli` (feature `cli`): what the operator's command line does.
//! - `src/bin/`: `failover-lock` and `site-fence`, the Lambda functions, `lease-keeper`, the sidecar, and
//!   `failoverctl`, the command line, which only wire these together.

pub mod aws;
#[cfg(feature = "cli")]
pub mod cli;
pub mod deadline;
pub mod failover_lock;
mod http;
pub mod https;
pub mod lambda;
#[cfg(feature = "lease")]
pub mod lease;
mod metrics;
#[cfg(feature = "site-fence")]
pub mod site_fence;
pub mod startup;
mod text;
pub mod variables;
