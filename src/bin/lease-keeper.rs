//! The sidecar: keeps one candidate's claim to a lease, and reports over HTTP whether the lease is held.

use std::error::Error;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::{fs, io};

use clap::Parser;
use failover::lease::command::{self, CannotRun};
use failover::lease::config::Config;
use failover::lease::server::{self, Site};
use failover::lease::{Keeper, Table, dynamodb};
use failover::program::{logging, variables};
use failover::remote::https::Https;
use tokio::net::TcpListener;
use tokio::select;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

/// musl's own allocator returns pages and requests them again all the time, with a page fault for each.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// Keeps a lease in DynamoDB, so that one of several instances is active at most.
#[derive(Debug, Parser)]
#[command(
    name = "lease-keeper",
    version,
    override_usage = "lease-keeper --config <FILE> [OPTIONS] [-- <COMMAND>...]",
    after_help = "/leader answers 200 while the lease is held and 503 otherwise; /healthz, /state and /metrics report more. \
                  SIGTERM releases the lease.\n\nExit status: that of COMMAND when it ends by itself; 0 after SIGTERM; 1 an error; 2 wrong usage."
)]
struct Arguments {
    /// The configuration file, in the format of Admiral's state checker.
    #[arg(long, value_name = "FILE", required_unless_present = "guard")]
    config: Option<PathBuf>,
    /// The address on which to answer HTTP.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8095")]
    listen: SocketAddr,
    /// Every candidate's configuration names the same region, so that a global table in eventual mode is suitable.
    #[arg(long)]
    one_region: bool,
    /// The command to run while the lease is held. It receives `LEASE_NAME`, `LEASE_OWNER` and `LEASE_EPOCH`.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// Runs as the guard of the command.
    #[arg(long, hide = true, requires = "command")]
    guard: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let logging = logging::start_logging(&variables::environment, io::stderr);
    let ended = match logging {
        Err(error) => Err(error.into()),
        Ok(()) if arguments.guard => guard(&arguments.command).await,
        Ok(()) => run(arguments).await,
    };
    ended.unwrap_or_else(|error| {
        error!(error = %error, "lease-keeper ends");
        ExitCode::FAILURE
    })
}

async fn guard(command: &[OsString]) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    Ok(command::guard(command).await.map(command::code)?.into())
}

async fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let file = arguments.config.expect("clap requires it");
    let unusable = |error: &dyn Error| format!("--config {}: {error}", file.display());
    let config = fs::read_to_string(&file).map_err(|error| unusable(&error))?;
    let config = Config::parse(&config).map_err(|error| unusable(&error))?;
    command::check(&arguments.command)?;
    let listener = TcpListener::bind(arguments.listen);
    let listener = listener.await.map_err(|error| format!("--listen {}: {error}", arguments.listen))?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let aws = dynamodb::aws(&config, Https::new(&variables::environment)?.client()).await;
    info!(%config, listen = %listener.local_addr()?, writer = config.me.writer, "starting");

    let (name, me) = (config.lease, config.me);
    let table = Table::new(&aws, &config.table, &name);
    let table = if arguments.one_region { table.in_one_region() } else { table };
    let (keeper, lease) = Keeper::new(table, me.clone(), config.period, config.terms);
    let site = Site { name: name.clone(), me: me.clone(), lease: lease.clone(), metrics: keeper.metrics() };
    tokio::spawn(server::serve(listener, site));
    let mut keeping = tokio::spawn(keeper.run());
    let worked = lease.clone();
    let mut working = tokio::spawn(async move {
        if arguments.command.is_empty() {
            return std::future::pending().await;
        }
        command::run(worked, &arguments.command, &name, &me.name).await
    });
    let ended: Result<_, CannotRun> = select! {
        kept = &mut keeping => return kept?.map(|()| ExitCode::SUCCESS).map_err(Into::into),
        ended = &mut working => ended?,
        _ = terminate.recv() => Ok(None),
        _ = interrupt.recv() => Ok(None),
    };
    info!("ending");
    lease.leave();
    // First the candidate becomes passive, then the work ends, and then the lease is released.
    keeping.await??;
    ended
        .map(|status| status.map_or(ExitCode::SUCCESS, |status| command::code(status).into()))
        .map_err(Into::into)
}
