//! Keeps a site that failed out of service until a person brings it back.
//!
//! After a failover the failed site holds stale data. If its health check turns green by itself, traffic
//! returns to it: users see outdated state, and write to it. One rule prevents that:
//! **the machine may take a site out; only a person puts it back.**
//!
//! # Systems
//! | system | what arrives | what it changes | the way back | feature |
//! |---|---|---|---|---|
//! | `failover_lock` | a CloudWatch alarm | a Route 53 health check's path | `restore` | `lock` (default) |
//! | `latch` | a clock tick, the answers of the zone's own name servers | an S3 object in two Regions, which inverted health checks read | a person deletes the objects | `latch` |
//! | `site_fence` | an Alertmanager webhook | the endpoints of AWS Global Accelerator, and Infinispan's cross-site replication | `rejoin` | `fence` |
//! | `lease` | a clock tick in a sidecar | a DynamoDB item that says who is active | the release of the lease, or its expiry | `lease` |
//!
//! Each system has the same flow: **event → observation → decision (pure) → effect → outcome**. No system knows
//! another. The operators' command line, `cli` (feature `ctl`), knows them all.
//!
//! # Ground floor
//! What the systems share, none of which knows a system:
//! - [`program`]: the steps before the first event: variables, logging.
//! - [`remote`]: calls that leave the process: deadlines, AWS, HTTPS.
//! - `lambda`: the parts that make a program a Lambda function.
//!
//! `src/bin/` has a program for each system; a program connects these parts and decides nothing.

#[cfg(feature = "ctl")]
pub mod cli;
#[cfg(feature = "lock")]
pub mod failover_lock;
#[cfg(any(feature = "lock", feature = "fence", feature = "latch"))]
pub mod lambda;
#[cfg(feature = "latch")]
pub mod latch;
#[cfg(feature = "lease")]
pub mod lease;
pub mod program;
pub mod remote;
#[cfg(feature = "fence")]
pub mod site_fence;
