//! The checks and records of a latch named `app`, as `failover-latch` expects them; and an outage of its primary.

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

use super::check::Check;
use super::records::{Kind, Record};
use super::world::World;

/// The endpoint that the primary's check probes.
pub const PRIMARY: &str = "https://primary.example.com/lb-check";
/// The endpoint that the standby's check probes.
pub const STANDBY: &str = "https://standby.example.com/lb-check";
/// The object of the latch in each bucket: it passes its probes while it exists.
pub const OBJECTS: [&str; 2] = [
    "https://acme-latch-a.s3.eu-central-1.amazonaws.com/latches/app",
    "https://acme-latch-b.s3.eu-west-1.amazonaws.com/latches/app",
];
/// The application's name, and those of its sentinels.
pub const APP: &str = "app.example.com";
pub const SERVING_SENTINEL: &str = "_serving.app.example.com";
pub const PRIMARY_SENTINEL: &str = "_primary.app.example.com";
pub const STANDBY_SENTINEL: &str = "_standby.app.example.com";

/// A check's interval in seconds, and its threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probing {
    pub interval: u64,
    pub threshold: u32,
}

/// The ids of a latch's checks.
#[derive(Clone, Debug)]
pub struct Latch {
    pub primary: String,
    pub standby: String,
    pub latches: [String; 2],
    /// The calculated check: all of the primary's and the two latch checks.
    pub serving: String,
}

/// Whether a locked primary is answered if the standby fails as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Never: the secondary records have no check.
    Absolute,
    /// Yes: the secondary records have the standby's check.
    Yielding,
}

/// An outage to simulate.
#[derive(Clone, Debug)]
pub struct Outage {
    pub primary: Probing,
    pub latch: Probing,
    /// The times in which the primary fails its probes.
    pub failing: Vec<Range<Duration>>,
    /// When the simulation ends.
    pub until: Duration,
    pub ticks: Ticks,
}

/// The looks of a scheduled function. The default is a watcher in one Region with the documented settings.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    /// The time from one planned tick to the next.
    pub every: Duration,
    /// A tick starts up to this much late: a schedule is precise to the minute.
    pub late: Duration,
    /// How long a tick looks.
    pub lasts: Duration,
    /// The time from one look's start to the next in a tick.
    pub look_every: Duration,
    /// How many watchers there are, each with its own ticks.
    pub watchers: usize,
}

/// A look that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Look {
    pub now: Duration,
    /// Which watcher looks, from 0.
    pub watcher: usize,
    /// Which of its ticks this is; ticks overlap.
    pub tick: u32,
}

/// The outcome of an outage, in the data plane's time: a name server shows each change its lag later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// When Route 53 failed over first.
    pub failed_over: Option<Duration>,
    /// When a latch check turned unhealthy first: from then on the lock is effective.
    pub latched: Option<Duration>,
    /// How long the primary was answered after the failover and before the lock was effective.
    pub fell_back: Duration,
}

// === impl Latch ===

impl Latch {
    /// Creates the checks and records in a world. All checkers know that both sites are up and no object exists.
    pub fn attach(world: &mut World, primary: Probing, latch: Probing, mode: Mode) -> Self {
        let mut create = |check: Check| world.create_check(check).expect("the settings are allowed");
        let endpoint =
            |url, probing: Probing| Check::endpoint(url).probed(probing.interval, probing.threshold);
        let (primary, standby) = (create(endpoint(PRIMARY, primary)), create(endpoint(STANDBY, primary)));
        let latches = OBJECTS.map(|url| create(endpoint(url, latch).inverted()));
        let serving = create(Check::calculated([&primary, &latches[0], &latches[1]].map(Clone::clone), 3));
        for (id, url, passing) in [
            (&primary, PRIMARY, true),
            (&standby, STANDBY, true),
            (&latches[0], OBJECTS[0], false),
            (&latches[1], OBJECTS[1], false),
        ] {
            world.set_passing(url, passing);
            world.settle(id, passing);
        }
        let second = (mode == Mode::Yielding).then_some(standby.as_str());
        world.put([
            Record::a(APP, "192.0.2.1").primary(&serving),
            Record::a(APP, "192.0.2.2").secondary(second),
            Record::txt(SERVING_SENTINEL, "primary").primary(&serving),
            Record::txt(SERVING_SENTINEL, "standby").secondary(second),
            Record::txt(PRIMARY_SENTINEL, "healthy").primary(&primary),
            Record::txt(PRIMARY_SENTINEL, "unhealthy").secondary(None),
            Record::txt(STANDBY_SENTINEL, "healthy").primary(&standby),
            Record::txt(STANDBY_SENTINEL, "unhealthy").secondary(None),
        ]);
        Self { primary, standby, latches, serving }
    }
}

// === impl Ticks ===

impl Default for Ticks {
    fn default() -> Self {
        Self {
            every: Duration::from_mins(1),
            late: Duration::from_mins(1),
            lasts: Duration::from_secs(115),
            look_every: Duration::from_secs(5),
            watchers: 1,
        }
    }
}

impl Ticks {
    /// Every look until this time, in order.
    pub fn looks(&self, rng: &mut Rng, until: Duration) -> Vec<Look> {
        let mut looks = Vec::new();
        for watcher in 0..self.watchers {
            // The watchers' schedules are not aligned, and began long before the start.
            let phase = self.every.mul_f64(rng.f64());
            let before = self.lasts + self.late + self.every;
            for tick in 0.. {
                let start = self.every * tick + phase + self.late.mul_f64(rng.f64());
                if start >= until + before {
                    break;
                }
                let times = (0..).map(|look| self.look_every * look).take_while(|time| *time <= self.lasts);
                let times = times.filter_map(|time| (start + time).checked_sub(before));
                looks.extend(times.filter(|now| *now < until).map(|now| Look { now, watcher, tick }));
            }
        }
        looks.sort_unstable();
        looks
    }
}

// === impl Outage ===

impl Outage {
    /// Simulates the outage. `look` is called at the time of each look. It reads the sentinels with `world.text`, an
    /// object with `world.passes`, and creates an object with `world.set_passing_from(OBJECTS[n], now + …, true)`.
    pub fn simulate(&self, seed: u64, mut look: impl FnMut(&mut World, Look)) -> Outcome {
        let mut world = World::new(seed);
        let latch = Latch::attach(&mut world, self.primary, self.latch, Mode::Absolute);
        let failing = self.failing.clone();
        world.set_answering(PRIMARY, move |probe| !failing.iter().any(|times| times.contains(&probe.at)));
        // Another seed, so that the looks do not follow the checkers.
        let mut rng = Rng::with_seed(!seed);
        for due in self.ticks.looks(&mut rng, self.until) {
            world.advance(due.now);
            look(&mut world, due);
        }
        world.advance(self.until);
        let turns = latch.latches.iter().flat_map(|id| world.verdicts(id));
        let latched = turns.filter(|(_, healthy)| !healthy).map(|(at, _)| *at).min();
        outcome(&world, latched, self.until)
    }
}

fn outcome(world: &World, latched: Option<Duration>, until: Duration) -> Outcome {
    let decisions = world.decisions(SERVING_SENTINEL, Kind::Txt);
    let standby = |values: &[String]| values.iter().any(|value| value.contains("standby"));
    let turns = decisions.iter().filter_map(|(at, decision)| Some((*at, standby(&decision.as_ref()?.1))));
    let turns: Vec<_> = turns.collect();
    let failed_over = turns.iter().find(|(_, standby)| *standby).map(|(at, _)| *at);
    let end = latched.unwrap_or(until);
    let mut fell_back = Duration::ZERO;
    for (place, (at, standby)) in turns.iter().enumerate() {
        if failed_over.is_some_and(|first| *at > first) && !standby {
            let next = turns.get(place + 1).map_or(until, |(next, _)| *next);
            fell_back += next.min(end).saturating_sub(*at);
        }
    }
    Outcome { failed_over, latched, fell_back }
}
