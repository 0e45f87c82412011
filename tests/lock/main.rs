//! failover-lock: a CloudWatch alarm locks a Route 53 health check, a person restores it.

#[path = "../support/mod.rs"]
mod support;

mod events;
mod evidence;
mod faults;
mod function;
mod https;
mod lock;
mod model;
mod moto;
mod probe;
mod properties;
mod reconcile;
mod record;
mod restore;
