//! Calls that leave the process: how a call is made, how long it may take, and what its failure means.

pub mod arn;
pub mod aws;
pub mod date;
pub mod deadline;
pub mod http;
pub mod https;
pub mod resolve;
pub mod sdk;
