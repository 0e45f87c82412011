//! The watcher: a Lambda function whose handler is `watch`, or with `--watch` a process.

use std::env;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use aws_config::Region;
use clap::Parser;
use failover::lambda;
use failover::latch::config::Config;
use failover::latch::{FailoverLatch, is_handler, listener, s3};
use failover::program::lines::Lines;
use failover::program::{VERSION, logging, run, variables};
use failover::remote::https::Https;
use failover::remote::sdk;
use tokio::net::TcpListener;
use tokio::select;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// musl's own allocator returns pages and requests them again all the time, with a page fault for each.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// Locks a failed primary when Route 53 has failed over to a healthy standby.
///
/// Without --watch it is a Lambda function. docs/latch.md has the variables that configure it.
#[derive(Parser)]
#[command(name = "failover-latch", version = VERSION)]
struct Arguments {
    /// Looks by itself, until SIGTERM or SIGINT
    #[arg(long)]
    watch: bool,
    /// The address of /healthz and /metrics
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8096", requires = "watch")]
    listen: SocketAddr,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A log that no one reads must not stop the looks. A function's log is always read.
    let (output, _last) = if arguments.watch {
        let (lines, last) = Lines::to(io::stdout());
        (BoxMakeWriter::new(move || lines.clone()), Some(last))
    } else {
        (BoxMakeWriter::new(io::stdout), None)
    };
    lambda::end(run::run(watch(arguments, output)).unwrap_or_else(|error| Err(error.into())))
}

async fn watch(arguments: Arguments, output: BoxMakeWriter) -> Result<(), Box<dyn Error + Send + Sync>> {
    let lookup = &variables::environment;
    logging::start_logging(lookup, output)?;
    if !arguments.watch {
        is_handler(lookup("_HANDLER").as_deref())?;
    }
    let config = Config::read(lookup)?;
    let https = Https::new(lookup)?;
    let aws = if arguments.watch {
        // Credentials come from the environment, a profile, or the pod's or machine's role, in a Region of a bucket.
        sdk::no_endpoint_is_empty(env::vars_os())?;
        let region = lookup("AWS_REGION").unwrap_or_else(|| config.buckets[0].region.clone());
        sdk::load(sdk::aws_config(https.client()).region(Region::new(region))).await?
    } else {
        sdk::function_aws(lookup, &https, &[s3::SERVICE])?
    };
    let look_every = config.look_every;
    info!(version = VERSION, %config, "starting");
    let name =
        lookup("AWS_LAMBDA_FUNCTION_NAME").or(lookup("HOSTNAME")).unwrap_or("failover-latch".to_owned());
    let system = FailoverLatch::new(config, name, &aws, https);
    if !arguments.watch {
        return lambda::serve(async |event, deadline| system.handle(event, deadline).await).await;
    }
    let listener = TcpListener::bind(arguments.listen)
        .await
        .map_err(|error| format!("--listen {}: {error}", arguments.listen))?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    select! {
        () = system.watch() => {}
        _ = listener::serve(listener, system.memory().clone(), look_every) => {}
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    info!("stopped");
    Ok(())
}
