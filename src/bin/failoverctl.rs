//! The operator's command line.

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::Parser;
use failover::cli::{self, Arguments};
use failover::program::run::run;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(cli::run(arguments)).map_err(cli::Error::Terminal).flatten() {
        Ok(ended) => ended.into(),
        // The reader of the pipe has closed it: it has read enough.
        Err(cli::Error::Terminal(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("{}", cli::screen::error(&error.to_string()));
            error.ended()
        }
    }
}
