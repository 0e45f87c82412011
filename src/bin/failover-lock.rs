//! The Lambda function: `_HANDLER` says whether it locks, restores or reconciles.

use std::error::Error;
use std::process::ExitCode;
use std::time::SystemTime;

use failover_lock::deadline::Deadline;
use failover_lock::failover_lock::config::Config;
use failover_lock::failover_lock::{FailoverLock, Handler};
use failover_lock::startup;
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::value::RawValue;
use tracing::{error, info};

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
    info!(?handler, %config, "starting");
    let system = &FailoverLock::new(config, &startup::aws_config().load().await);

    lambda_runtime::run(service_fn(async |event: LambdaEvent<Box<RawValue>>| {
        let deadline = Deadline::before(event.context.deadline());
        let report = Box::pin(system.handle(handler, event.payload.get(), deadline)).await;
        for line in report.metrics(SystemTime::now()) {
            println!("{line}");
        }
        report.into_answer()
    }))
    .await
}
