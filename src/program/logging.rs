//! JSON log lines.

use thiserror::Error;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use super::variables::Lookup;

/// The SDKs' sources of credentials, in the log.
pub const AWS_CONFIG: &str = "aws_config";

/// `RUST_LOG` holds no valid log directives.
#[derive(Debug, Error)]
#[error("RUST_LOG: {0:?} is invalid; set a level (error, warn, info, debug) or target=level pairs")]
pub struct InvalidLogLevel(String);

/// Starts JSON log lines on `output`, at the level that `RUST_LOG` gives (default `info`).
///
/// `lambda_runtime` is kept at `debug`: its `trace` level prints whole events. `aws_config` is kept at `error`: its warnings
/// print requests, with the token of a web identity.
///
/// # Errors
/// `RUST_LOG` is invalid. Logging at `info` is on all the same, so that the error can be logged.
pub fn start_logging(
    lookup: Lookup<'_>,
    output: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
) -> Result<(), InvalidLogLevel> {
    let (targets, error) = match lookup("RUST_LOG").map_or(Ok(Targets::default()), directives) {
        Ok(targets) => (targets, None),
        Err(error) => (Targets::default(), Some(error)),
    };
    let unset = targets == Targets::default();
    let targets = if unset { Targets::new().with_default(LevelFilter::INFO) } else { targets };
    let quiet = targets.default_level().unwrap_or(LevelFilter::OFF).min(LevelFilter::DEBUG);
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_span_list(false)
        .with_writer(output)
        .with_filter(
            targets.with_target("lambda_runtime", quiet).with_target(AWS_CONFIG, LevelFilter::ERROR),
        );
    // A second call in one process keeps the first one's subscriber.
    let _ = tracing_subscriber::registry().with(lines).try_init();
    error.map_or(Ok(()), Err)
}

/// Reads log directives. A single word has to be a level: read as a target, it would silence all other targets.
fn directives(text: String) -> Result<Targets, InvalidLogLevel> {
    let is_whole = |part: &str| part.contains('=') || part.trim().parse::<LevelFilter>().is_ok();
    match text.parse() {
        Ok(targets) if text.is_empty() || text.split(',').all(is_whole) => Ok(targets),
        _ => Err(InvalidLogLevel(text)),
    }
}
