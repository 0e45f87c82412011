//! failover-latch: a lock behind Route 53's own failover that needs nothing in us-east-1.

#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "lock")]
mod api;
mod look;
mod miniature;
mod model;
mod name_servers;
mod program;
mod s3;
