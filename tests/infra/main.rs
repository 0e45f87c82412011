//! The parts around the programs: the templates, the scripts, the documented commands and the source's layers.

#[path = "../support/mod.rs"]
mod support;

mod alarms;
mod as_code;
mod book;
mod chain;
mod company;
mod dependencies;
mod deploy;
mod docs;
mod fence;
mod gates;
mod latch;
mod latch_deploy;
mod layers;
mod people;
mod permissions;
mod policy;
mod runbook;
mod upgrade;
