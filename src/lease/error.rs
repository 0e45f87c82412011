//! The errors, and the operator's next step for each.

use thiserror::Error;

use crate::program::text::Quoted;
use crate::remote::aws::{Failure, Kind};

/// Why the lease could not be read, or written.
#[derive(Debug, Error)]
pub enum Error {
    /// The table does not keep leases: name another table, or create one.
    #[error(
        "the table's key is {}, not the string leaseName alone: name another table, or create one with \
         infra/lease-table.yaml",
        Quoted(.0)
    )]
    NotALeaseTable(String),
    /// The table's replicas agree only later, so that each Region can have an active candidate.
    #[error(
        "the table has replicas in other Regions that agree only later (a global table in eventual mode): two \
         Regions could each have an active candidate. Use a table in strong mode; or, if the configuration of every \
         candidate names the same region, add --one-region"
    )]
    EventualTable,
    /// The credentials lead to another table of that name by now, for example another account's: correct them.
    #[error(
        "the credentials lead to the table {} by now, not to {}: nothing is read or written there. Correct the \
         credentials, or restart lease-keeper to use that table. With the table's ARN as tableName, other credentials are refused",
        Quoted(now),
        Quoted(first)
    )]
    OtherTable {
        /// The ARN of the table that was seen first.
        first: String,
        /// The ARN of the table of that name now.
        now: String,
    },
    /// An attribute of the record is invalid: correct the item, or delete it.
    #[error(
        "the record cannot be read: {attribute} {problem}. Correct the item, or remove the attribute if a person \
         has added it; until then no candidate can take or renew the lease"
    )]
    Unreadable {
        /// The attribute's name.
        attribute: &'static str,
        /// The problem with its value.
        problem: String,
    },
    /// A call to AWS failed.
    #[error(transparent)]
    Aws(#[from] Failure),
}

// === impl Error ===

impl Error {
    /// Whether a keeper ends with this error, instead of retrying.
    pub(super) fn is_for_good(&self) -> bool {
        match self {
            Self::NotALeaseTable(_) | Self::EventualTable => true,
            // A new start would use the other table.
            Self::OtherTable { .. } | Self::Unreadable { .. } | Self::Aws(_) => false,
        }
    }

    /// Whether the table does not exist, so that it may be created again as another kind, or is another one.
    pub(super) fn shows_other_table(&self) -> bool {
        match self {
            Self::OtherTable { .. } => true,
            Self::Aws(failure) => failure.kind() == Kind::NotFound,
            Self::NotALeaseTable(_) | Self::EventualTable | Self::Unreadable { .. } => false,
        }
    }

    /// Whether the call may succeed with credentials that are read anew.
    pub(super) fn may_pass_with_other_credentials(&self) -> bool {
        match self {
            Self::Aws(failure) => failure.may_pass_with_other_credentials(),
            Self::OtherTable { .. } => true,
            Self::NotALeaseTable(_) | Self::EventualTable | Self::Unreadable { .. } => false,
        }
    }
}
