//! The operator's command line.

use std::process::ExitCode;

use clap::Parser;
use failover_lock::cli::{self, Arguments};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match cli::run(arguments).await {
        Ok(ended) => ended.into(),
        Err(error) => {
            anstream::eprintln!("{}", cli::screen::error(&error.to_string()));
            error.ended()
        }
    }
}
