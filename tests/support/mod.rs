//! The shared parts of the tests: stand-ins, and the system on top of them.
#![allow(dead_code, reason = "each test program uses its own part")]

#[cfg(feature = "fence")]
pub mod accelerator;
pub mod aws;
pub mod certificate;
#[cfg(feature = "lock")]
pub mod cloudwatch;
pub mod docs;
pub mod emulator;
#[cfg(feature = "fence")]
pub mod infinispan;
#[cfg(feature = "lease")]
pub mod issuer;
#[cfg(feature = "lease")]
pub mod keeper;
pub mod lambda;
#[cfg(feature = "lock")]
pub mod lock;
#[cfg(feature = "latch")]
pub mod miniature;
#[cfg(feature = "lock")]
pub mod mute_rules;
pub mod primary;
pub mod program;
#[cfg(any(feature = "fence", feature = "lease"))]
pub mod proxy;
#[cfg(any(feature = "latch", feature = "lock"))]
pub mod query;
#[cfg(any(feature = "latch", feature = "lock"))]
pub mod rest_xml;
#[cfg(feature = "lock")]
pub mod route53;
#[cfg(feature = "latch")]
pub mod s3;
#[cfg(any(feature = "latch", feature = "lock"))]
pub mod script;
#[cfg(any(feature = "latch", feature = "lock"))]
pub mod signature;
#[cfg(feature = "latch")]
pub mod site;
#[cfg(feature = "fence")]
pub mod sites;
#[cfg(any(feature = "latch", feature = "lock"))]
pub mod sts;
pub mod tls;
pub mod wire;

use std::path::{Path, PathBuf};

/// The repository's root, also for a package in one of its folders.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.ancestors().find(|folder| folder.join("tests/requirements.txt").is_file());
    root.expect("the tests are in the repository").to_owned()
}

/// A recorded event.
pub fn recorded(file: &str) -> String {
    let path = root().join("events").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
