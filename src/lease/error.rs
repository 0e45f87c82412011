//! What can go wrong, and what an operator does next.

use thiserror::Error;

use crate::program::text::Quoted;
use crate::remote::aws::Failure;

/// Why the lease could not be looked at, or written.
#[derive(Debug, Error)]
pub enum Error {
    /// The table does not keep leases: name another, or make one.
    #[error(
        "the table's key is {}, not the string leaseName alone: name another table, or make one with \
         infra/lease-table.yaml",
        Quoted(.0)
    )]
    NotALeaseTable(String),
    /// The table's replicas agree only later, so that each Region can have somebody active.
    #[error(
        "the table has replicas in other Regions that agree only later (a global table in eventual mode): two \
         Regions could each have somebody active. Use a table in strong mode; or, if the configuration of every \
         candidate names the same region, say so with --one-region"
    )]
    EventualTable,
    /// Something in the record is not what it has to be: correct the item, or delete it.
    #[error(
        "the record cannot be read: {attribute} {problem}. Correct the item, or remove the attribute where a person \
         has added it; nobody can take or renew the lease until then"
    )]
    Unreadable {
        /// The attribute's name.
        attribute: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// AWS did not do it.
    #[error(transparent)]
    Aws(#[from] Failure),
}

// === impl Error ===

impl Error {
    /// Whether a keeper ends with it, instead of trying on.
    pub(super) fn is_for_good(&self) -> bool {
        match self {
            Self::NotALeaseTable(_) | Self::EventualTable => true,
            Self::Unreadable { .. } | Self::Aws(_) => false,
        }
    }
}
