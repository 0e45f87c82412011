//! A watcher: one look after the other, and what it remembers between them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use super::FailoverLatch;
use super::config::Config;
use super::decide::{SETTLED, Sets};
use super::look::{Sight, look};
use super::outcome::{Outcome, State};
use super::release;
use crate::remote::deadline::Deadline;

/// The longest time of a look.
const LOOK: Duration = Duration::from_secs(10);
/// A tick starts no look later than this before its deadline.
const LAST: Duration = Duration::from_secs(5);
/// A look that still runs this long before the deadline is cut off.
const CUT: Duration = Duration::from_secs(1);
/// How long the name servers may give no clear answer until a watcher is unhealthy.
const BLIND: Duration = SETTLED;
/// How many looks may be missing until a watcher is unhealthy.
const MISSED: u32 = 3;
/// For how long a release holds a latch at least.
const RELEASE: Duration = Duration::from_secs(release::WAIT.as_secs() + release::SETTLED.as_secs());

/// What a watcher remembers of the looks before, for as long as its process lives. Clones share it.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Mutex<Vec<Remembered>>>);

/// What is remembered of one latch.
#[derive(Clone, Debug)]
struct Remembered {
    /// The latch as of the last look.
    last: Outcome,
    /// Whether there was an object, as of the last look that saw the keys; `None` after a hold.
    stood: Option<bool>,
    /// Which buckets had an object when they last answered.
    had: Vec<bool>,
    /// Whether the last look that could tell saw an object, and when it ended.
    standing: Option<(bool, Instant)>,
    is_dry_run: bool,
    /// Whether a look may have set a lock, and none since has seen.
    perhaps: bool,
    /// Since when the name servers have given no clear answer.
    unclear_since: Option<Instant>,
    /// When the name servers last said over TCP what they had said over UDP.
    over_tcp: Option<Instant>,
    /// When the last look started.
    started: Option<Instant>,
    /// When the last look ended to which any bucket showed something; at first, when the watcher started.
    seen: Instant,
    /// Whether the hold of a command that was broken off was there.
    left_behind: bool,
    /// How many locks the looks so far have set, and how often one was opened.
    totals: Totals,
}

/// What the looks of a process add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// How many locks they have set.
    pub locked: u64,
    /// How often an object was gone, and no hold was seen.
    pub opened: u64,
    /// In how many a lock was due, and no object was seen afterwards.
    pub missed: u64,
    /// When the last one of each was.
    pub last_opened: Option<SystemTime>,
    pub last_missed: Option<SystemTime>,
}

/// Looks until 5 s before the deadline, and at least once. Returns each latch as of the last look, with what all
/// looks add up to.
pub(super) async fn tick(system: &FailoverLatch, deadline: Deadline) -> Vec<Outcome> {
    let end = Instant::now() + deadline.left();
    let mut all: Vec<Outcome> = Vec::new();
    loop {
        let started = Instant::now();
        let outcomes = one(system, end.saturating_duration_since(started).saturating_sub(CUT)).await;
        all = if all.is_empty() {
            outcomes
        } else {
            all.into_iter().zip(outcomes).map(|(before, last)| before.then(last)).collect()
        };
        let next = Instant::now().max(started + system.config.look_every);
        if next + LAST > end {
            all.iter().for_each(Outcome::log);
            return all;
        }
        sleep_until(next).await;
    }
}

/// Looks once, for at most so long.
pub(super) async fn one(system: &FailoverLatch, longest: Duration) -> Vec<Outcome> {
    let started = Instant::now();
    let mut sights: Vec<_> = system.memory.lock().iter().map(Remembered::sight).collect();
    let longest = longest.min(LOOK);
    let _ = timeout(longest, look(system, &mut sights)).await;
    let mut memory = system.memory.lock();
    memory.iter_mut().zip(sights).map(|(latch, sight)| latch.after(sight, started, longest)).collect()
}

// === impl Memory ===

impl Memory {
    /// A watcher that has not looked yet.
    #[must_use]
    pub(super) fn new(config: &Config) -> Self {
        let latches = config.latches.iter().map(|latch| Remembered {
            last: Outcome::new(&latch.name, State::Failed("no look has ended yet".to_owned())),
            stood: None,
            had: vec![false; config.buckets.len()],
            standing: None,
            is_dry_run: config.dry_run,
            perhaps: false,
            unclear_since: None,
            over_tcp: None,
            started: None,
            seen: Instant::now(),
            left_behind: false,
            totals: Totals::default(),
        });
        Self(Arc::new(Mutex::new(latches.collect())))
    }

    /// Each latch as of the last look; without those that have not been looked at yet.
    #[must_use]
    pub fn outcomes(&self) -> Vec<(Outcome, Totals)> {
        let looked = |latch: &&Remembered| latch.started.is_some();
        self.lock().iter().filter(looked).map(|latch| (latch.last.clone(), latch.totals)).collect()
    }

    /// The latches that have been without a look that saw something for three periods, or without a clear answer of the
    /// name servers for 60 s.
    #[must_use]
    pub fn unhealthy(&self, look_every: Duration) -> Vec<String> {
        let latches = self.lock();
        let unhealthy = latches.iter().filter(|latch| latch.is_unhealthy(look_every));
        unhealthy.map(|latch| latch.last.latch.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Remembered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Remembered ===

impl Remembered {
    /// What the next look begins with.
    fn sight(&self) -> Sight {
        let split_for = self.unclear_since.map(|since| since.elapsed()).unwrap_or_default();
        Sight::new(split_for, self.over_tcp)
    }

    fn is_unhealthy(&self, look_every: Duration) -> bool {
        // A look may take longer than its period.
        self.seen.elapsed() > (look_every * MISSED).max(LOOK + look_every)
            || self.unclear_since.is_some_and(|since| since.elapsed() > BLIND)
    }

    /// Takes in what a look saw, and returns its outcome.
    fn after(&mut self, sight: Sight, started: Instant, longest: Duration) -> Outcome {
        let (standing, is_gone, has_seen) = (sight.is_standing(), sight.is_gone(&self.had), sight.has_seen());
        sight.note(&mut self.had);
        let is_due = sight.is_due;
        self.over_tcp = sight.over_tcp;
        let is_proven = sight.is_proven();
        let left: Vec<_> = sight.left_behind().collect();
        for (bucket, age) in left.iter().filter(|_| !self.left_behind) {
            let (latch, minutes) = (&self.last.latch, age.as_secs() / 60);
            warn!(
                latch,
                bucket,
                minutes,
                standing,
                "a command was broken off and has left its hold in this bucket, which is ignored: failoverctl latch doctor says what removes it"
            );
        }
        self.left_behind = !left.is_empty();
        let (time, last) = (longest.as_secs_f64(), sight.stage);
        let cut_off = || State::Failed(format!("the look was cut off after {time:.1} s, while {last}"));
        let said = sight.said;
        let state = match sight.state.unwrap_or_else(cut_off) {
            State::Armed if self.is_dry_run => State::DryRun,
            state => state,
        };
        let mut outcome = Outcome::new(&self.last.latch, state);
        outcome.locked = u32::from(sight.sets == Sets::Yes || (self.perhaps && standing == Some(true)));
        // A look that does not see the objects does not tell.
        self.perhaps = sight.sets == Sets::Perhaps || (self.perhaps && standing.is_none());
        outcome.look_gap = self.started.map(|before| started - before).unwrap_or_default();
        if outcome.look_gap > RELEASE {
            // A whole release may have gone by.
            self.stood = None;
        }
        let recent = self.standing.filter(|(_, at)| at.elapsed() < RELEASE).map(|(stood, _)| stood);
        // Also where the same look has locked it again.
        outcome.opened = self.stood == Some(true) && recent == Some(true) && is_gone;
        // Under a hold the objects are not read. Where no bucket tells, what was seen a moment ago counts.
        outcome.standing = standing.or(recent.filter(|_| !outcome.opened));
        // Under a hold none is due.
        outcome.missed =
            u32::from(is_due && outcome.standing != Some(true) && outcome.state != State::Holding);
        outcome.is_dry_run = self.is_dry_run;
        if outcome.state == State::Holding || outcome.opened && standing.is_none() {
            self.stood = None;
        } else if standing.is_some() {
            self.stood = standing;
        }
        let now = Instant::now();
        // Whether they contradict each other or do not answer, in turn as well: it is one time without a clear answer. Only an
        // answer that counts, over TCP as well, ends it.
        let is_unclear = match said {
            Some(said) if !said.are_clear() => true,
            Some(_) if is_proven => false,
            // Under a hold they are not asked.
            None if outcome.state == State::Holding => false,
            Some(_) | None => self.unclear_since.is_some(),
        };
        self.unclear_since = is_unclear.then(|| self.unclear_since.unwrap_or(now));
        match standing {
            Some(standing) => self.standing = Some((standing, now)),
            None if outcome.opened => self.standing = None,
            None => {}
        }
        let is_first = self.started.replace(started).is_none();
        if has_seen {
            self.seen = now;
        }
        self.totals.locked += u64::from(outcome.locked);
        self.totals.opened += u64::from(outcome.opened);
        self.totals.missed += u64::from(outcome.missed);
        if outcome.opened {
            self.totals.last_opened = Some(SystemTime::now());
        }
        if outcome.missed > 0 {
            self.totals.last_missed = Some(SystemTime::now());
        }
        if is_first || self.last.state.name() != outcome.state.name() {
            outcome.log();
        }
        self.last = outcome.clone();
        outcome
    }
}
