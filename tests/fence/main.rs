//! site-fence: a report takes an offline site out of AWS Global Accelerator, a person rejoins it.

#[path = "../support/mod.rs"]
mod support;

mod alerts;
mod disaster;
mod fence;
mod function;
mod half;
mod infinispan;
mod kept;
mod order;
mod pause;
mod regions;
mod rejoin;
mod secrets;
mod shown;
mod topic;
mod without_infinispan;
