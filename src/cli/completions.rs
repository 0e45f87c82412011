//! `failoverctl completions`.

use std::io::{self, Write};

use clap::{Args, Command};
use clap_complete::Shell;

use super::error::{Ended, Error};

/// Print a shell's completions.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl completions bash > /etc/bash_completion.d/failoverctl")]
pub(super) struct Arguments {
    /// The shell.
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments, program: &mut Command) -> Result<Ended, Error> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, program, "failoverctl", &mut script);
    io::stdout().write_all(&script)?;
    Ok(Ended::Well)
}
