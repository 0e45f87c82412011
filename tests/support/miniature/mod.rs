//! A Route 53 in miniature: checkers that probe endpoints, records that fail over, and four name servers.
//!
//! # Layout
//! - `check`: the settings of a health check.
//! - `world`: the checkers and the verdicts, in virtual time, without sockets.
//! - `records`: the zone's records, and what the data plane decided when.
//! - `latch`: the checks and records of a latch, and an outage from its first failed probe to its end.
//! - `dns`: four name servers on loopback that answer from a world, and their faults.
//! - `drive`: the world's clock tied to the real one, and probes over real HTTP.
//! - `api`: Route 53's API over the same world.
//!
//! The rules come from AWS's guide; `tests/latch/miniature.rs` quotes a sentence for each.

pub mod api;
pub mod check;
pub mod dns;
pub mod drive;
pub mod latch;
pub mod records;
pub mod world;

use std::sync::{Arc, Mutex, MutexGuard};

use world::World;

/// A world that name servers, a driver and a test share.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no test panics while it holds the world")
    }
}
