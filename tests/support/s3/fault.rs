//! What a script lets happen.

use std::sync::Arc;
use std::time::Duration;

use super::S3;

/// What happens to a call instead of its answer.
#[derive(Clone)]
pub enum Fault {
    /// One of S3's errors, and nothing is done: status, code and message.
    Error(u16, &'static str, &'static str),
    /// It is done, and the answer is one of S3's errors.
    ErrorAfter(u16, &'static str, &'static str),
    /// 301, and nothing is done: the bucket is in this Region.
    Redirect(&'static str),
    /// The connection is closed, and nothing is done.
    CloseBefore,
    /// It is done, and the connection is closed without an answer.
    CloseAfter,
    /// No answer ever comes, and nothing is done.
    Hang,
    /// It is done, and the answer, which has its `Date` already, comes this much later.
    Late(Duration),
    /// It is done, and the answer's body comes byte by byte, this far apart.
    SlowBody(Duration),
    /// Another caller does this just before.
    Meddle(Arc<dyn Fn(&S3) + Send + Sync>),
    /// It is done, and answered.
    Pass,
}

/// How a bucket is down, for everyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// Every connection is closed at its first request.
    Refused,
    /// No answer ever comes.
    Silent,
}

// === impl Fault ===

impl Fault {
    /// Another write to the key was under way.
    pub const CONFLICT: Self = Self::Error(
        409,
        "ConditionalRequestConflict",
        "The conditional request cannot succeed due to a conflicting operation against this resource.",
    );
    pub const FORBIDDEN: Self = Self::Error(403, "AccessDenied", "Access Denied");
    pub const INTERNAL: Self =
        Self::Error(500, "InternalError", "We encountered an internal error. Please try again.");
    /// As [`Self::INTERNAL`], but it is done.
    pub const INTERNAL_AFTER: Self =
        Self::ErrorAfter(500, "InternalError", "We encountered an internal error. Please try again.");
    pub const SLOW_DOWN: Self = Self::Error(503, "SlowDown", "Please reduce your request rate.");
}
