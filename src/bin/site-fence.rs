//! The Lambda function: `_HANDLER` says whether it takes sites out (`fence`) or rejoins one (`rejoin`).

use std::error::Error;
use std::io;
use std::process::ExitCode;

use failover::lambda;
use failover::program::{VERSION, logging, variables};
use failover::remote::https::Https;
use failover::remote::sdk;
use failover::site_fence::config::Config;
use failover::site_fence::{Handler, SERVICES, SiteFence};
use tracing::info;

/// musl's own allocator returns pages and requests them again all the time, with a page fault for each.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    if lambda::says_version("site-fence") {
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
    let aws = sdk::function_aws(&variables::environment, &https, &SERVICES)?;
    info!(version = VERSION, ?handler, %config, "starting");
    let system = SiteFence::new(config, &aws);
    lambda::serve(async |event, deadline| system.handle(handler, event, deadline).await).await
}
