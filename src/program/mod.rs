//! The steps before a program's first event: it reads its variables and starts its log.

pub mod lines;
pub mod logging;
pub mod run;
pub mod text;
pub mod variables;
