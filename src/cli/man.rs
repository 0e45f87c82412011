//! `failoverctl man`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Command};

use super::error::{Ended, Error};

/// Write the manual pages, one for each command.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl man ~/.local/share/man/man1")]
pub(super) struct Arguments {
    /// The folder, which is made if it does not exist.
    folder: PathBuf,
}

pub(super) fn run(arguments: &Arguments, program: Command) -> Result<Ended, Error> {
    let folder = &arguments.folder;
    let failed = |source| Error::Folder { folder: folder.display().to_string(), source };
    write(folder, program).map_err(failed)?;
    Ok(Ended::Well)
}

fn write(folder: &Path, program: Command) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(program, folder)
}
