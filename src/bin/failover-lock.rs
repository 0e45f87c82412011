//! The Lambda function: `_HANDLER` says whether it locks, restores or reconciles.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use failover::failover_lock::config::Config;
use failover::failover_lock::{FailoverLock, Handler, route53};
use failover::lambda;
use failover::program::{VERSION, logging, variables};
use failover::remote::https::Https;
use failover::remote::sdk;
use tracing::info;

/// musl's own allocator returns pages and requests them again all the time, with a page fault for each.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    if lambda::says_version("failover-lock") {
        return ExitCode::SUCCESS;
    }
    lambda::end(run().await)
}

async fn run() -> Result<(), Box<dyn Error + Send + Sync>> {
    logging::start_logging(&variables::environment, io::stdout)?;
    let handler = Handler::named(variables::environment("_HANDLER").as_deref())?;
    let config = Config::read(&variables::environment)?;
    handler.accepts(&config)?;
    let https = Https::new(&variables::environment)?;
    let aws = sdk::function_aws(&variables::environment, &https, &["Route 53", "CloudWatch"])?;
    info!(version = VERSION, ?handler, %config, "starting");
    let system = FailoverLock::new(config, &aws);
    if let Some(url) = route53::endpoint(&aws).await {
        https.open(&url).await;
    }
    lambda::serve(async |event, deadline| system.handle(handler, event, deadline).await).await
}
