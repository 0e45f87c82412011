//! A failover and the way back, on loopback.
//!
//! ```text
//! cargo run --example sandbox
//! cargo run --example sandbox -- --path [EVENT.json]
//! ```
//! Without an argument, failover-latch: see `latch.rs`. With `--path`, failover-lock: see `path.rs`, a program of its own, so
//! that this one compiles without the SDKs that only failover-lock needs.

use std::env;
use std::error::Error;
use std::process::{Command, ExitCode};

mod latch;
mod support;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = env::args().skip(1).peekable();
    let done = if arguments.peek().is_none() {
        latch::run().await.map(|()| ExitCode::SUCCESS)
    } else {
        path(arguments.filter(|argument| argument != "--path"))
    };
    done.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

/// Compiles and runs failover-lock's sandbox.
fn path(arguments: impl Iterator<Item = String>) -> Result<ExitCode, Box<dyn Error>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut run = Command::new(cargo);
    run.args(["run", "--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]);
    run.args(["--features", "lock", "--example", "path", "--"]).args(arguments);
    Ok(if run.status()?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
