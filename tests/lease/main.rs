//! lease-keeper: a lease in a DynamoDB table decides which of two instances is active.

#[path = "../support/mod.rs"]
mod support;

mod command;
mod configuration;
mod guard;
mod keeper;
mod listener;
