//! What a program does before its first event: it reads its variables and starts its log.

pub mod logging;
pub mod text;
pub mod variables;
