//! What to do about a request to restore.

use chrono::{DateTime, Utc};
use thiserror::Error;

use crate::failover_lock::config::Config;
use crate::failover_lock::health_check::HealthCheck;
use crate::failover_lock::record::{Before, Intent, InvalidRecord, Record, Restore};
use crate::program::text::Quoted;

/// What to do about a request to restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Release {
    /// It stands on a path of a check in service: record that it is meant to.
    AlreadyRestored,
    /// It is locked: set this path.
    Restore(String),
}

/// Why a check is not restored.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Not one of `GUARDED_HEALTH_CHECKS`.
    #[error(
        "it is not in this function's GUARDED_HEALTH_CHECKS, and does not have the tag of GUARDED_TAG: add it there, or ask the function that guards it"
    )]
    NotGuarded,
    /// It requests no path.
    #[error("its type {} requests no path, so failover-lock never locked it", Quoted(.0))]
    NoPath(String),
    /// Someone else has changed the path.
    #[error("its path is {path}, neither the locked nor the healthy one: find out who set it and why. If it is right, name it in the request (\"path\"; failoverctl: --path), and it is recorded as the path in service. If the check was locked there, by functions with another LOCKED_PATH, name the path in service instead", path = Quoted(.0))]
    ForeignPath(String),
    /// The path from before is not known.
    #[error("its path from before is {0}: name it in the request (\"path\"; failoverctl: --path)")]
    WhichPath(&'static str),
    /// It is in service on another path than the one that the request names.
    #[error("it is not locked, and its path is {}: to change it to {}, update the health check itself", Quoted(.present), Quoted(.asked))]
    InService {
        /// The path.
        present: String,
        /// The path in the request.
        asked: String,
    },
    /// The record is from the future, by this clock.
    #[error(
        "{0}. If the clock here is behind, set it and repeat the request. If it is right, name the path and use force"
    )]
    Future(InvalidRecord),
    /// It cannot be set.
    #[error("{} cannot be a health check's path: name another one in the request (\"path\"; failoverctl: --path)", Quoted(.0))]
    InvalidPath(String),
    /// An alarm arrived after the request.
    #[error("an alarm changed at {at}, after this request began ({by}): look at the primary again, and repeat the request", at = .0.to_rfc3339(), by = Quoted(.1))]
    NewerAlarm(DateTime<Utc>, String),
    /// The check has changed since the person saw it.
    #[error(
        "it was changed since it was looked at (version {seen} then, {now} now): look at it again, and repeat the request"
    )]
    Changed {
        /// The version that the person saw.
        seen: i64,
        /// The present version.
        now: i64,
    },
    /// The primary does not answer as a healthy one does.
    #[error(
        "the primary is not healthy, as seen from where this runs: {0}. If its alarm is in ALARM already, it does not fire again, and the site would be in service unprotected. Repair the primary first. Only Route 53's own checkers decide: if they alone can reach the primary, or you mean it, repeat with \"force\": true (failoverctl: --force)"
    )]
    Unhealthy(String),
}

/// Why the path from before is not known.
const TOO_LONG: &str = "too long for the tag that records it";

/// Decides about a check that a person wants back, on `path` if the request names one.
///
/// # Errors
/// Why it stays as it is.
pub fn restore(
    check: &HealthCheck,
    record: &Record,
    path: Option<&str>,
    config: &Config,
) -> Result<Release, Refusal> {
    let present = check.path().ok_or_else(|| Refusal::NoPath(check.check_type.clone()))?;
    let healthy = config.healthy_path.as_str();
    let restored = record.restored(present, check.version);
    let before = record.lock.as_ref().map(|lock| &lock.before);
    if let Some(path) = path.filter(|path| *path == config.locked_path.as_str()) {
        return Err(Refusal::InvalidPath(path.to_owned()));
    }
    if !record.is_locked(present, check.version, config.locked_path.as_str()) {
        if let Some(path) = path.filter(|path| *path != present) {
            // It was changed since: on the locked path of a former configuration, say.
            if record.stands(present, check.version) {
                return Ok(Release::Restore(path.to_owned()));
            }
            return Err(Refusal::InService { present: present.to_owned(), asked: path.to_owned() });
        }
        let is_before = matches!(before, Some(Before::Path(before)) if before == present);
        let ours = present == healthy
            || is_before
            || restored.is_some_and(|restore| restore.has_set(present))
            || path == Some(present);
        return if ours {
            Ok(Release::AlreadyRestored)
        } else {
            Err(Refusal::ForeignPath(present.to_owned()))
        };
    }
    if let Some(path) = path {
        return Ok(Release::Restore(path.to_owned()));
    }
    // The path from before: the lock's, or where the lock is not on record that of the last restore.
    let out = record.intent(present, check.version) == Intent::Out;
    match before.filter(|_| out) {
        Some(Before::Path(before)) => Ok(Release::Restore(before.clone())),
        Some(Before::TooLong) => Err(Refusal::WhichPath(TOO_LONG)),
        Some(Before::Unknown) => Ok(Release::Restore(healthy.to_owned())),
        None => match restored.filter(|restore| !restore.to.is_empty()).map(Restore::before) {
            Some(Before::Path(path)) => Ok(Release::Restore(path)),
            Some(_) => Err(Refusal::WhichPath(TOO_LONG)),
            None => Ok(Release::Restore(healthy.to_owned())),
        },
    }
}
