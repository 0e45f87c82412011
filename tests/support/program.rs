//! The package's programs, as the tests run them.

use std::env;
use std::io::PipeWriter;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::Command;

use tokio::net::unix::pipe;

/// The program of this name: the one that a variable names (`FAILOVER_LATCH_BINARY`, `FAILOVER_LOCK_BINARY`, `SITE_FENCE_BINARY`,
/// `LEASE_KEEPER_BINARY`, `FAILOVERCTL_BINARY`), which `.ci/run` sets to an artifact, or this build's.
pub fn program(name: &str) -> PathBuf {
    let variable = format!("{}_BINARY", name.replace('-', "_").to_uppercase());
    env::var_os(variable).map(PathBuf::from).or_else(|| built(name)).unwrap_or_else(|| build(name))
}

/// Sees that a program that takes no arguments prints its name and version when it is asked for them.
pub fn says_its_version(name: &str) {
    let said = std::process::Command::new(program(name)).arg("--version").env_clear().output();
    let said = String::from_utf8(said.expect("it starts").stdout).expect("UTF-8");
    assert!(said.starts_with(&format!("{name} {}", env!("CARGO_PKG_VERSION"))), "{said}");
}

/// Fills a pipe that no one reads, through a file of its own: the writer's flags remain as they are.
pub async fn fill(pipe: &PipeWriter) {
    let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
    let file = pipe::OpenOptions::new().open_sender(path).expect("it is a pipe");
    file.writable().await.expect("it is open");
    while file.try_write(b"\n").is_ok() {}
}

/// The program as cargo has built it for the tests of its own package.
fn built(name: &str) -> Option<PathBuf> {
    let path = match name {
        "failover-latch" => option_env!("CARGO_BIN_EXE_failover-latch"),
        "failover-lock" => option_env!("CARGO_BIN_EXE_failover-lock"),
        "failoverctl" => option_env!("CARGO_BIN_EXE_failoverctl"),
        "lease-keeper" => option_env!("CARGO_BIN_EXE_lease-keeper"),
        "site-fence" => option_env!("CARGO_BIN_EXE_site-fence"),
        other => panic!("{other} is not a program of this package"),
    };
    path.map(PathBuf::from)
}

/// The same for the tests of another package, for which cargo does not build it.
fn build(name: &str) -> PathBuf {
    let root = super::root();
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // These describe the package whose tests run.
    for (variable, _) in env::vars_os() {
        let name = variable.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(variable);
        }
    }
    let target = root.join("target");
    let built = cargo
        .args(["build", "--quiet", "--locked", "--all-features", "--bin", name, "--target-dir"])
        .arg(&target)
        .current_dir(&root)
        .status();
    assert!(built.expect("cargo runs").success(), "cargo cannot build {name}");
    target.join("debug").join(name)
}
