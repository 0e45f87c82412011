//! What sets a process, and each of its writes, apart from all others.

use thiserror::Error;

use super::claim::{ANY, Candidate, NOBODY_MAY, Stamp};
use super::clock::wall;

/// A name that a candidate must not have.
#[derive(Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a candidate's name: it must not be empty, nor {NOBODY_MAY}, which keeps all candidates passive, nor {ANY}, which stands for any of them"
)]
pub struct NoName(String);

impl Candidate {
    /// A candidate of this name. Other candidates may have the same name: each process is distinct all the same.
    ///
    /// # Errors
    /// The name is empty or reserved.
    pub fn new(name: &str) -> Result<Self, NoName> {
        if name.is_empty() || [NOBODY_MAY, ANY].contains(&name) {
            return Err(NoName(name.to_owned()));
        }
        // The host, a pod's name in Kubernetes, is for people.
        let host = rustix::system::uname();
        let writer = format!("{}/{:016x}", host.nodename().to_string_lossy(), random());
        Ok(Self { name: name.to_owned(), writer })
    }
}

/// What the next write has of its own. Its number is one that JSON's readers do not round.
pub(super) fn stamp() -> Stamp {
    Stamp { time: wall(), number: (random() >> 11).max(1) }
}

/// A random number from the system: this process's own state may have been copied.
fn random() -> u64 {
    getrandom::u64().expect("the system has random numbers")
}
