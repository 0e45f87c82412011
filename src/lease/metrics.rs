//! A lease's metrics, for Prometheus.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::select;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::claim::{Moment, Standing, Will};
use super::clock::{now, sleep_until};
use super::status::{Running, Status};
use crate::program::{VERSION, lines};

/// A candidate's metrics. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    lease: String,
    calls: Family<Called, Counter>,
    seconds: Family<Kind, Histogram>,
    changes: Family<Change, Counter>,
    ended: Family<Listening, Counter>,
    started: Gauge,
    exits: Family<Exit, Counter>,
    /// When the keeper was last seen not to be blocked.
    beat: Arc<Mutex<Option<Moment>>>,
    period: Duration,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Called {
    call: &'static str,
    became: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    call: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Change {
    to: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Listening {
    listener: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Exit {
    by: &'static str,
}

/// From 1 ms up to 8 s.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 14))
}

/// Logs whether this candidate is active, whenever that changes, and why.
pub(super) async fn report(mut status: watch::Receiver<Status>, metrics: Metrics) {
    let (mut active, mut standing) = (None, None);
    loop {
        let seen = status.borrow_and_update().clone();
        let holding = seen.active();
        let epoch = holding.map(|holding| holding.epoch);
        if epoch != active {
            match epoch {
                Some(epoch) => info!(epoch, before = standing, "active"),
                None if seen.will != Will::Take => info!(epoch = active, reason = seen.reason(), "passive"),
                None => warn!(epoch = active, reason = seen.reason(), "passive"),
            }
            metrics.changed(epoch.is_some());
            active = epoch;
        }
        let description = seen.description();
        if epoch.is_none() && seen.will == Will::Take && standing.as_ref() != Some(&description) {
            info!(reason = description, "still passive");
        }
        standing = Some(description);
        let until = holding.map(|holding| holding.until);
        select! {
            changed = status.changed() => if changed.is_err() { return },
            () = sleep_until(until.unwrap_or_default()), if until.is_some() => {}
        }
    }
}

// === impl Metrics ===

impl Metrics {
    pub(super) fn new(lease: &str, period: Duration) -> Self {
        let beat = Arc::default();
        let (calls, changes, ended) = (Family::default(), Family::default(), Family::default());
        let seconds = Family::new_with_constructor(buckets as fn() -> Histogram);
        let (started, exits) = (Gauge::default(), Family::default());
        Self { lease: lease.to_owned(), calls, seconds, changes, ended, started, exits, beat, period }
    }

    /// Notes that nothing blocks the keeper.
    pub(super) fn beat(&self) {
        *self.beat.lock().unwrap_or_else(PoisonError::into_inner) = Some(now());
    }

    /// How long the keeper has not shown that nothing blocks it, by both clocks.
    pub(super) fn silent_for(&self) -> Duration {
        let beat = *self.beat.lock().unwrap_or_else(PoisonError::into_inner);
        beat.map_or(Duration::ZERO, |beat| now().surely_after(beat))
    }

    /// Whether the keeper has been blocked for so long, fifteen periods, that it may stay so.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.silent_for() >= self.period * 15
    }

    /// That the keeper is blocked, and how long, if that is longer than three periods.
    pub(super) fn blocked(&self) -> Option<String> {
        let silent = self.silent_for();
        (silent >= self.period * 3).then(|| {
            let seconds = silent.as_secs();
            format!("blocked for {seconds} s, perhaps by a file of credentials that cannot be read")
        })
    }

    pub(super) fn called(&self, call: &'static str, started: Instant, became: &'static str) {
        self.calls.get_or_create(&Called { call, became }).inc();
        self.seconds.get_or_create(&Kind { call }).observe(started.elapsed().as_secs_f64());
    }

    pub(super) fn changed(&self, active: bool) {
        let to = if active { "active" } else { "passive" };
        self.changes.get_or_create(&Change { to }).inc();
    }

    /// Connections of this listener were ended to make room.
    pub(super) fn ended(&self, listener: &'static str, count: u64) {
        self.ended.get_or_create(&Listening { listener }).inc_by(count);
    }

    /// The command was started, at this time in seconds since 1970.
    pub(super) fn command_started(&self, at: i64) {
        self.started.set(at);
    }

    /// The command ended, by itself or because it had to.
    pub(super) fn command_ended(&self, by_itself: bool) {
        self.exits.get_or_create(&Exit::of(by_itself)).inc();
    }

    /// Writes all metrics, the state of the claim, and that of the command if there is one, in the [OpenMetrics] text
    /// format.
    ///
    /// [OpenMetrics]: https://prometheus.io/docs/specs/om/open_metrics_spec/
    #[must_use]
    pub fn text(&self, status: &Status, command: Option<Running>) -> String {
        let labels = [("lease".into(), self.lease.clone().into())];
        let mut registry = Registry::with_prefix_and_labels("lease_keeper", labels.into_iter());
        let mut gauge = |name, help, value: f64| {
            let gauge = Gauge::<f64, AtomicU64>::default();
            gauge.set(value);
            registry.register(name, help, gauge);
        };
        let flag = |is: bool| if is { 1.0 } else { 0.0 };
        let at = now();
        let active = status.active_at(at);
        gauge("active", "Whether this candidate is active", flag(active.is_some()));
        let left = active.map_or(Duration::ZERO, |holding| holding.until.soonest(at)).as_secs_f64();
        gauge("active_for_seconds", "How long it stays active if it cannot renew the lease", left);
        let failing = status.failing.is_some() || self.blocked().is_some();
        gauge("failing", "Whether the last call failed, or the claim is blocked", flag(failing));
        let unwilling = flag(status.will != Will::Take);
        gauge(
            "unwilling",
            "Whether this candidate would not take the lease over, or is giving it up",
            unwilling,
        );
        gauge(
            "pinned",
            "Whether the lease is pinned, which keeps all candidates passive",
            flag(status.standing == Standing::Pinned),
        );
        #[expect(clippy::cast_precision_loss, reason = "an epoch is far below 2^53")]
        let epoch = status.record.as_ref().map_or(0.0, |record| record.epoch as f64);
        gauge("epoch", "The fencing token of the record that was seen last", epoch);
        if let Some(command) = command {
            for by_itself in [true, false] {
                // A counter is shown from its creation on.
                drop(self.exits.get_or_create(&Exit::of(by_itself)));
            }
            let shown = match command {
                Running::No => Some((false, false)),
                Running::Since(_) => Some((true, false)),
                Running::Ending(_) => Some((true, true)),
                Running::Leftovers(_) => Some((false, true)),
                Running::Unknown => None,
            };
            if let Some((runs, ends)) = shown {
                gauge("command_running", "Whether the command runs", flag(runs));
                let help = "Whether the command, or a process that it left behind, is ending";
                gauge("command_ending", help, flag(ends));
            }
            let help = "When the command was last started, in seconds since 1970, or 0";
            registry.register("command_start_time_seconds", help, self.started.clone());
            registry.register("command_exits", "How often the command has ended", self.exits.clone());
        }
        registry.register("calls", "Calls to the table", self.calls.clone());
        registry.register("call_seconds", "How long a call took", self.seconds.clone());
        registry.register(
            "changes",
            "How often this candidate became active or passive",
            self.changes.clone(),
        );
        registry.register(
            "connections_ended",
            "Connections that were ended to make room for newer ones",
            self.ended.clone(),
        );
        let dropped = Counter::<u64>::default();
        dropped.inc_by(lines::dropped());
        registry.register(
            "log_lines_dropped",
            "Log lines that were dropped because nothing read them",
            dropped,
        );
        registry.register("build", "The version that runs", Info::new([("version", VERSION)].to_vec()));
        let mut text = String::new();
        // Only the write can fail, and a string accepts any text.
        let _ = encode(&mut text, &registry);
        text
    }
}

// === impl Exit ===

impl Exit {
    fn of(by_itself: bool) -> Self {
        Self { by: if by_itself { "itself" } else { "lease_keeper" } }
    }
}
