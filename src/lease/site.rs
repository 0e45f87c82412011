//! A candidate as it is shown: its side of the lease, and its command.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::claim::{Candidate, Will};
use super::clock::now;
use super::held::Lease;
use super::metrics::Metrics;
use super::status::{Running, Status};

/// A keeper that is not blocked shows so more often.
const SILENT: Duration = Duration::from_secs(1);

/// The subject of the answers.
#[derive(Clone, Debug)]
pub struct Site {
    /// The lease's name.
    pub name: String,
    /// The candidate for it.
    pub me: Candidate,
    /// The candidate's side of it.
    pub lease: Lease,
    /// The metrics.
    pub metrics: Metrics,
    /// The state of the command, if there is one.
    pub running: Option<watch::Receiver<Running>>,
}

// === impl Site ===

impl Site {
    /// The state of the command. A keeper that is blocked does not say that the guard ends it, nor whether it has ended.
    pub(super) fn command(&self, status: &Status) -> Option<Running> {
        let running = *self.running.as_ref()?.borrow();
        if self.metrics.silent_for() < SILENT {
            return Some(running);
        }
        Some(match (running, status.holding) {
            (Running::No, _) => Running::No,
            // Until when it may run is not known any more.
            (_, None) => Running::Unknown,
            (_, Some(held)) if held.ends.may_have_come(now()) => Running::Unknown,
            (Running::Since(since), Some(held)) if !held.is_active(now()) => Running::Ending(since),
            (running, Some(_)) => running,
        })
    }

    /// What changes without the claim: whether it is blocked, and what is therefore known of the command.
    pub(super) fn silence(&self) -> (bool, Option<Running>) {
        (self.metrics.blocked().is_some(), self.command(&self.lease.status()))
    }

    pub(super) fn state(&self, status: &Status) -> Value {
        // What is said of being active is as of one moment, and `time` is no later.
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok();
        let now = now();
        let (active, blocked) = (status.active_at(now), self.metrics.blocked());
        let failing = blocked.or_else(|| status.failing.clone());
        let status = &Status { failing, ..status.clone() };
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        let record = status.record.as_ref().map(|record| {
            json!({
                "owner": record.owner,
                "updatedTime": record.updated_time,
                "writer": record.writer,
                "beat": record.beat,
                "epoch": record.epoch,
                "released": record.released,
            })
        });
        json!({
            "time": seconds(time),
            "lease": self.name,
            "candidate": self.me.name,
            "writer": self.me.writer,
            "active": active.is_some(),
            "epoch": active.map(|holding| holding.epoch),
            "activeForSeconds": seconds(active.map(|holding| holding.until.soonest(now))),
            "standing": status.description(),
            "takesOverInSeconds": seconds(status.takes_over_in()),
            "leaving": status.will != Will::Take,
            "command": self.command(status).map(command),
            "unwilling": status.unwilling,
            "failing": status.failing,
            "record": record,
        })
    }
}

fn command(running: Running) -> Value {
    match running {
        Running::No => json!({ "running": false }),
        Running::Since(time) => json!({ "running": true, "since": time }),
        Running::Ending(time) => json!({ "running": true, "ending": true, "since": time }),
        Running::Leftovers(status) => json!({ "running": false, "ending": true, "status": status }),
        Running::Unknown => json!({ "running": null }),
    }
}
