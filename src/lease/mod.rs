//! Decides which of several candidates is active, by a lease in a DynamoDB table.
//!
//! ```text
//! tick ─ Claim::next ─▶ look or write ─ Table ─▶ Claim::saw, Claim::wrote ─▶ Status ─ Lease::held ─▶ Held
//! ```
//!
//! [`claim`] decides, and explains why two are never active at once. A [`Keeper`] runs it against a [`Table`]. Code
//! that may only run while the lease is held waits for a [`Held`] of its [`Lease`], and passes on a reference to it:
//!
//! ```no_run
//! use failover::lease::{Candidate, Held, Keeper, Table, Terms};
//! use std::time::Duration;
//!
//! async fn write(held: &Held) {
//!     // Send the epoch with the data: the store can refuse an epoch lower than the last.
//!     println!("writing in epoch {}", held.epoch());
//! }
//!
//! # async fn example(aws: &aws_config::SdkConfig) -> Result<(), Box<dyn std::error::Error>> {
//! let table = Table::new(aws, "admiral-lease", "orders");
//! let period = Duration::from_secs(15);
//! // The longest term that any candidate may have: it counts when the record shows no term.
//! let longest = Duration::from_secs(60);
//! let (keeper, lease) = Keeper::new(table, Candidate::new("site-a")?, period, Terms::of(period, 3)?, longest);
//! let keeping = tokio::spawn(keeper.run());
//!
//! while let Some(held) = lease.held().await {
//!     // Work that is still running when the lease is lost is dropped.
//!     if held.during(write(&held)).await.is_some() {
//!         break;
//!     }
//! }
//! drop(lease); // Passive from here on, and released once no `Held` is left.
//! keeping.await?;
//! # Ok(())
//! # }
//! ```

pub mod candidate;
pub mod check;
pub mod claim;
mod clock;
pub mod command;
pub mod config;
pub mod credentials;
pub mod descendants;
pub mod dynamodb;
pub mod error;
mod events;
pub mod held;
pub mod keeper;
pub mod listener;
pub mod metrics;
mod names;
mod places;
pub mod server;
pub mod site;
pub mod status;
mod yaml;

pub use self::claim::{Candidate, Terms};
pub use self::dynamodb::Table;
pub use self::held::{Held, Lease};
pub use self::keeper::Keeper;
