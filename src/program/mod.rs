//! The steps before a program's first event: it reads its variables and starts its log. And which version it is.

pub mod lines;
pub mod logging;
pub mod run;
pub mod text;
pub mod variables;

/// The package's version, and the commit if `infra/package` has built it: for example `0.1.0 (1a2b3c4d5e6f)`.
pub const VERSION: &str = match option_env!("FAILOVER_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
