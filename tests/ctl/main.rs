//! failoverctl: the operators' command line.

#[path = "../support/mod.rs"]
mod support;

mod accounts;
mod doctor;
mod failoverctl;
mod habits;
mod latch;
mod lease;
mod pause;
mod status;
mod switch_over;
mod versions;
