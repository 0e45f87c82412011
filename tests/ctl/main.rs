//! failoverctl: the operators' command line.

#[path = "../support/mod.rs"]
mod support;

mod accounts;
mod approval;
mod doctor;
mod failoverctl;
mod fence;
mod habits;
mod latch;
mod lease;
mod pause;
mod report;
mod status;
mod switch_over;
mod versions;
