//! What a tick does at its end: the records follow the checks that are locked.

use futures_util::stream::{self, StreamExt as _};
use tokio::time::sleep;

use super::FailoverLock;
use super::apply::{Cause, OTHERS, Stands, Target, write};
use super::health_check::HealthCheck;
use super::record::{OUT, Record, has_no_room};
use super::view::{self, or_warn};
use crate::remote::deadline::Deadline;

/// How many locks are recorded at once: others need Route 53's limit more.
const AT_ONCE: usize = 4;

/// A lock that is not on record as it is.
pub(super) struct Unrecorded {
    pub check: HealthCheck,
    /// What is on record instead.
    pub record: Box<Record>,
    pub cause: Cause,
}

/// Lets the records follow the checks that are locked. Every lock is set before; only the tick's report waits.
pub(super) async fn follow(system: &FailoverLock, unrecorded: Vec<Unrecorded>, deadline: Deadline) {
    // A function that has just set a lock may be about to record it: it alone knows the path from before.
    if unrecorded.iter().any(|it| view::is_unrecorded(system, &it.check, &it.record)) {
        sleep(OTHERS.min(deadline.left())).await;
    }
    let deadline = deadline.with_tries(1);
    let ids: Vec<_> = unrecorded.iter().map(|it| it.check.id.clone()).collect();
    let tags = view::tags_of(system, &ids, deadline).await;
    let records = unrecorded.iter().map(async |it| {
        let id = &it.check.id;
        system.known.forget(id);
        let read = match tags.get(id) {
            Some(tags) => Ok(tags.clone()),
            None => system.route53.tags(id, deadline).await,
        };
        let Some(tags) = or_warn(id, read, "the next tick records the lock") else { return };
        let Ok(record) = view::record(system, &tags, &it.check) else { return };
        // What was recorded meanwhile is not overwritten: the next tick decides again. Nor is a restore that is under way
        // replaced, where there is room for one tag.
        let replaces = has_no_room(&tags, OUT) && record.is_being_restored(it.check.version);
        if record != *it.record || replaces {
            return;
        }
        let version = it.check.version;
        let touched = it.cause.changed_at.map(|alarm| (alarm, system.known.touched(id, alarm)));
        let stands = match touched {
            Some((alarm, None)) => {
                // A restore that is under way has not seen this alarm: it meets a conflict.
                let path = &system.config.locked_path;
                let touched = system.route53.set_path(id, path, Some(version), deadline).await;
                let touched = or_warn(id, touched, "the next tick records the alarm");
                let Some(set) = touched.filter(|set| !set.perhaps_by_another) else { return };
                system.known.set_touched(id, alarm, set.check.version);
                Stands::Made(set.check.version)
            }
            Some((_, Some(made))) if made == version => Stands::Made(version),
            _ => Stands::Found(version),
        };
        let target = Target { id, check: Some(&it.check), record: Some(&record), tags: Some(&tags) };
        let written = write(system, &it.cause, target, stands, deadline).await;
        or_warn(id, written, "the lock could not be recorded");
    });
    stream::iter(records).buffer_unordered(AT_ONCE).collect::<()>().await;
}
