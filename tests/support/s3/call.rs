//! What the stand-in remembers of a call.

use std::fmt;

/// A call, as the stand-in remembers it.
#[derive(Clone, Debug)]
pub struct Call {
    /// The access key id, or [`super::ANONYMOUS`].
    pub by: String,
    /// The operation's name in the API, for example `PutObject`.
    pub operation: &'static str,
    pub bucket: String,
    /// The object's key; the prefix of a list.
    pub key: String,
    pub presigned: bool,
    /// `if-none-match=*`, or `if-match=` and an `ETag`.
    pub condition: Option<String>,
    /// The status of the answer; `None` while there is none.
    pub status: Option<u16>,
    /// The caller's rights, or the bucket's policy, refused it.
    pub denied: bool,
}

// === impl Call ===

impl fmt::Display for Call {
    /// For example `PutObject acme-latch-a/latches/app presigned if-none-match=* 200`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.operation, self.bucket, self.key)?;
        if self.presigned {
            f.write_str(" presigned")?;
        }
        if let Some(condition) = &self.condition {
            write!(f, " {condition}")?;
        }
        match self.status {
            Some(status) => write!(f, " {status}"),
            None => f.write_str(" unanswered"),
        }
    }
}
