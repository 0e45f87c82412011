//! The cause of a lock, as it is recorded: an alarm's name, a person's reason, or that it was found.

/// The cause of a lock that no function has set.
pub const FOUND: &str = "found on the locked path";

/// The cause of a lock that no function has recorded, while this alarm is in ALARM: it may be a person's.
#[must_use]
pub fn found_for(alarm: &str) -> String {
    format!("{FOUND}: {alarm}")
}

/// Whether no function has recorded a lock with this cause.
#[must_use]
pub fn is_found(by: &str) -> bool {
    by.starts_with(FOUND)
}

/// How the cause of a lock begins that a person has set.
pub const BY_HAND: &str = "by hand: ";

/// Whether a person is the cause of a lock.
#[must_use]
pub fn is_by_hand(by: &str) -> bool {
    by.starts_with(BY_HAND.trim_end())
}

/// The beginning of a cause that says what it is, if it is no alarm's name.
pub(super) fn beginning(by: &str) -> Option<&'static str> {
    [BY_HAND.trim_end(), FOUND].into_iter().find(|beginning| by.starts_with(beginning))
}
