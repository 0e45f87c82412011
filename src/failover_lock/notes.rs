//! What this system notes on a health check, in tags.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use thiserror::Error;

use crate::program::text::Quoted;

/// The tag that a restore leaves: alarms that changed before it are harmless.
pub const RESTORED_AT: &str = "failover-lock:restored-at";
/// The tag that says when the check was locked.
pub const LOCKED_AT: &str = "failover-lock:locked-at";
/// The tag that says when the alarm that locked it changed, or a later one that found the lock.
pub const ALARM_CHANGED_AT: &str = "failover-lock:alarm-changed-at";
/// The tag that names the alarm that locked it.
pub const ALARM: &str = "failover-lock:alarm";

/// How far the clocks of two functions may be apart.
const CLOCK_SKEW: TimeDelta = TimeDelta::minutes(1);
/// What this system has noted on a check, in tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// When it was last switched back.
    pub restored_at: Option<DateTime<Utc>>,
    /// When the newest alarm changed that a lock was set for, or that found it standing.
    pub alarm_changed_at: Option<DateTime<Utc>>,
}

/// A tag of this system that holds no time that has passed.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("the tag {key} holds {}, which is no time that has passed", Quoted(.text))]
pub struct InvalidNote {
    key: &'static str,
    text: String,
}

// === impl Notes ===

impl Notes {
    /// Reads the notes in these tags.
    ///
    /// # Errors
    /// A tag of this system holds no time that has passed.
    pub fn read(tags: &BTreeMap<String, String>) -> Result<Self, InvalidNote> {
        let time = |key| {
            let Some(text) = tags.get(key) else { return Ok(None) };
            match text.parse::<DateTime<Utc>>() {
                // A future time would outrank every alarm until then, so it cannot be a note of this system.
                Ok(time) if time <= Utc::now() + CLOCK_SKEW => Ok(Some(time)),
                _ => Err(InvalidNote { key, text: text.clone() }),
            }
        };
        Ok(Self { restored_at: time(RESTORED_AT)?, alarm_changed_at: time(ALARM_CHANGED_AT)? })
    }
}

/// CloudWatch gives milliseconds. A message may claim a time to come; it is not noted.
pub(super) fn noted(changed_at: DateTime<Utc>) -> String {
    changed_at.min(Utc::now()).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A tag's value holds at most 256 letters, digits, spaces and `_ . : / = + - @`; an alarm's name
/// may hold others, which become `_`.
pub(super) fn tag_value(text: &str) -> String {
    let fits = |c: char| c.is_alphanumeric() || " _.:/=+-@".contains(c);
    text.chars().take(256).map(|c| if fits(c) { c } else { '_' }).collect()
}
