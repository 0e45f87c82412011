//! The Lambda function: `_HANDLER` says whether it takes sites out (`fence`) or brings one back (`rejoin`).

use std::error::Error;
use std::io;
use std::process::ExitCode;

use failover_lock::https::Https;
use failover_lock::site_fence::config::Config;
use failover_lock::site_fence::{Handler, SERVICES, SiteFence};
use failover_lock::{lambda, startup};
use tracing::info;

/// musl's own allocator hands pages back and fetches them anew all the time, a page fault each.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    lambda::end(run().await)
}

async fn run() -> Result<(), Box<dyn Error + Send + Sync>> {
    startup::start_logging(&startup::environment, io::stdout)?;
    let handler = Handler::named(startup::environment("_HANDLER").as_deref())?;
    let config = Config::read(&startup::environment)?;
    handler.accepts(&config)?;
    let https = Https::new(&startup::environment)?;
    let aws = startup::function_aws(&startup::environment, &https, &SERVICES)?;
    info!(?handler, %config, "starting");
    let system = SiteFence::new(config, &aws);
    lambda::serve(async |event, deadline| system.handle(handler, event, deadline).await).await
}
