//! Keeps a site that failed out of service until a person brings it back.
//!
//! After a failover the failed site holds stale data. If its health check turns green by itself,
//! traffic returns to it. One rule prevents that: **the machine may take a site out; only a person
//! puts it back.**
//!
//! # Layout
//! - [`failover_lock`]: a CloudWatch alarm points a Route 53 health check at a path that does not
//!   exist, and a person's request points it back.
//! - [`startup`]: logs, configuration lookup and AWS clients, for every program.
//! - [`https`]: whose certificates they trust, and their connections.
//! - [`aws`]: how a call to AWS is made, and what its failure means.
//! - [`deadline`]: how long an invocation may go on trying.
//! - `cli` (feature `cli`): what the operator's command line does.
//! - `src/bin/`: `failover-lock`, the Lambda function, and `failoverctl`, the command line, which only wire
//!   these together.

pub mod aws;
#[cfg(feature = "cli")]
pub mod cli;
pub mod deadline;
pub mod failover_lock;
pub mod https;
pub mod startup;
