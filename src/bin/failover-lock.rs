//! The Lambda function: `_HANDLER` says whether it locks, restores or reconciles.

use std::error::Error;
use std::process::ExitCode;
use std::time::SystemTime;

use failover_lock::deadline::Deadline;
use failover_lock::failover_lock::config::Config;
use failover_lock::failover_lock::outcome::Report;
use failover_lock::failover_lock::{FailoverLock, Handler, route53};
use failover_lock::https::Https;
use failover_lock::startup;
use lambda_runtime::{LambdaEvent, service_fn};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tracing::{error, info};

/// musl's own allocator hands pages back and fetches them anew all the time, a page fault each.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = %error, "the function cannot start");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error + Send + Sync>> {
    startup::start_logging(&startup::environment)?;
    let handler = Handler::named(startup::environment("_HANDLER").as_deref())?;
    let config = Config::read(&startup::environment)?;
    handler.accepts(&config)?;
    let https = Https::new(&startup::environment)?;
    let aws = startup::function_aws(&startup::environment, &https)?;
    info!(?handler, %config, "starting");
    let system = &FailoverLock::new(config, &aws);
    if let Some(url) = route53::endpoint(&aws).await {
        https.open(&url).await;
    }

    lambda_runtime::run(service_fn(async |event: LambdaEvent<Payload>| {
        let deadline = Deadline::before(event.context.deadline());
        let report = match event.payload.0 {
            Ok(json) => Box::pin(system.handle(handler, json.get(), deadline)).await,
            Err(cause) => Report::not_json(cause),
        };
        for line in report.metrics(SystemTime::now()) {
            println!("{line}");
        }
        report.into_answer()
    }))
    .await
}

/// A payload as it came. What is not JSON is kept as an error, so that it is told, logged and counted
/// as every other one is; the runtime would answer it by itself.
struct Payload(Result<Box<RawValue>, String>);

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Box::<RawValue>::deserialize(deserializer).map_err(|error| error.to_string())))
    }
}
