//! Checkers and verdicts in virtual time. A world has no clock and no socket, and all its randomness comes from a seed.
//!
//! A world advances from one probe to the next: the cost of ten minutes is the cost of their probes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::IpAddr;
use std::time::Duration;

use fastrand::Rng;

use super::check::{Check, Endpoint, Monitors};
use super::records::Zone;

/// How many checkers probe an endpoint.
pub const CHECKERS: usize = 16;
/// More than this percentage of the checkers must find an endpoint healthy.
const PERCENT: usize = 18;

/// A Route 53 with one hosted zone.
pub struct World {
    pub(super) now: Duration,
    rng: Rng,
    ids: BTreeMap<String, usize>,
    /// In the order of their creation; `None` for a deleted check.
    states: Vec<Option<State>>,
    endpoints: Vec<(String, Answers)>,
    /// Whether an endpoint without answers from a test is asked over HTTP; otherwise it passes.
    asks: bool,
    probes: BinaryHeap<Reverse<Probe>>,
    asked: Vec<Asked>,
    pub(super) zone: Zone,
}

/// A probe, as an endpoint sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    /// When the checker asks.
    pub at: Duration,
    /// Which of the 16 checkers asks.
    pub checker: usize,
    check: usize,
    /// Probes of an earlier generation were planned before the check was disabled.
    generation: u32,
}

/// A probe that waits for the answer of a real endpoint.
#[derive(Clone, Debug)]
pub struct Asked {
    pub url: String,
    pub address: Option<IpAddr>,
    probe: Probe,
}

/// How an endpoint answers its probes.
enum Answers {
    /// No test has set them: the endpoint passes its probes, or is asked over HTTP.
    Unset,
    Passing(bool),
    /// Whether it passes from this time on; before, it is the other way around.
    From(Duration, bool),
    By(Box<dyn FnMut(Probe) -> bool + Send>),
}

/// A health check with its checkers.
struct State {
    check: Check,
    endpoint: Option<usize>,
    checkers: [Checker; CHECKERS],
    generation: u32,
    /// Whether the alarm of a metric check is OK.
    alarm_ok: bool,
    healthy: bool,
    /// When the verdict changed, and to what.
    verdicts: Vec<(Duration, bool)>,
}

#[derive(Clone, Copy)]
struct Checker {
    healthy: bool,
    /// How many results in a row contradicted that opinion.
    contrary: u32,
}

// === impl World ===

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            now: Duration::ZERO,
            rng: Rng::with_seed(seed),
            ids: BTreeMap::new(),
            states: Vec::new(),
            endpoints: Vec::new(),
            asks: false,
            probes: BinaryHeap::new(),
            asked: Vec::new(),
            zone: Zone::new(),
        }
    }

    /// The time since the start.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// When the next probe is due.
    pub fn next_probe(&self) -> Option<Duration> {
        self.probes.peek().map(|Reverse(probe)| probe.at)
    }

    /// Lets time pass until `to`: every probe that is due happens, in order.
    pub fn advance(&mut self, to: Duration) {
        while let Some(&Reverse(probe)) = self.probes.peek()
            && probe.at <= to
        {
            self.probes.pop();
            self.now = probe.at;
            self.happen(probe);
        }
        self.now = self.now.max(to);
    }

    /// Lets this much time pass.
    pub fn pass(&mut self, time: Duration) {
        self.advance(self.now + time);
    }

    // --- Health checks

    /// Creates a health check, and returns its id.
    ///
    /// # Errors
    /// The settings are not allowed.
    pub fn create_check(&mut self, check: Check) -> Result<String, &'static str> {
        self.validate(&check)?;
        let number = self.states.len();
        let id = format!("{:08x}-0000-4000-8000-{number:012x}", self.rng.u32(..));
        // "Route 53 considers a new health check to be healthy until there's enough data": before inversion.
        let checkers = [Checker { healthy: true, contrary: 0 }; CHECKERS];
        let healthy = !check.inverted;
        let verdicts = Vec::new();
        let state =
            State { check, endpoint: None, checkers, generation: 0, alarm_ok: true, healthy, verdicts };
        self.states.push(Some(state));
        self.ids.insert(id.clone(), number);
        self.watch(number);
        self.judge();
        Ok(id)
    }

    /// Replaces a health check's settings. The checkers keep their opinions.
    ///
    /// # Errors
    /// There is no such check, or the settings are not allowed.
    pub fn update_check(&mut self, id: &str, check: Check) -> Result<(), &'static str> {
        self.validate(&check)?;
        let number = *self.ids.get(id).ok_or("no such health check")?;
        let state = self.states[number].as_mut().ok_or("no such health check")?;
        state.check = check;
        self.watch(number);
        self.judge();
        Ok(())
    }

    /// Deletes a health check. AWS allows that even if a record or a calculated check refers to it.
    pub fn delete_check(&mut self, id: &str) {
        if let Some(number) = self.ids.remove(id) {
            self.states[number] = None;
            self.judge();
            // A record that refers to the deleted check counts as healthy now.
            self.decide();
        }
    }

    pub fn check(&self, id: &str) -> Option<&Check> {
        Some(&self.state(id)?.check)
    }

    /// Whether Route 53 considers the check healthy. "If you delete a health check and you don't update the associated
    /// records, Route 53 considers the health check healthy."
    pub fn is_healthy(&self, id: &str) -> bool {
        self.state(id).is_none_or(|state| state.healthy)
    }

    /// When the check's status changed, and to what.
    pub fn verdicts(&self, id: &str) -> &[(Duration, bool)] {
        self.state(id).map_or(&[], |state| &state.verdicts)
    }

    /// The opinions of the checkers, before inversion; none for a check without an endpoint.
    pub fn opinions(&self, id: &str) -> Vec<bool> {
        let state = self.state(id).filter(|state| state.endpoint.is_some());
        state.map_or_else(Vec::new, |state| state.checkers.iter().map(|checker| checker.healthy).collect())
    }

    /// Sets the alarm of a metric check.
    pub fn set_alarm_ok(&mut self, id: &str, ok: bool) {
        self.state_mut(id).alarm_ok = ok;
        self.judge();
    }

    /// Gives every checker of an endpoint check this opinion now, as after many probes.
    pub fn settle(&mut self, id: &str, passing: bool) {
        self.state_mut(id).checkers = [Checker { healthy: passing, contrary: 0 }; CHECKERS];
        self.judge();
    }

    // --- Endpoints

    /// Lets an endpoint pass or fail every probe from now on.
    pub fn set_passing(&mut self, url: &str, passing: bool) {
        self.set_answers(url, Answers::Passing(passing));
    }

    /// Lets an endpoint that fails its probes pass them from this time on, or the other way around. An earlier change
    /// to the same answer stays.
    pub fn set_passing_from(&mut self, url: &str, at: Duration, passing: bool) {
        if self.passes(url, at) != Some(passing) {
            self.set_answers(url, Answers::From(at, passing));
        }
    }

    /// Whether an endpoint passes its probes at this time; `None` if that is not settled in advance.
    pub fn passes(&self, url: &str, at: Duration) -> Option<bool> {
        match self.endpoints.iter().find(|(name, _)| name == url)? {
            (_, Answers::Passing(passing)) => Some(*passing),
            (_, Answers::From(from, passing)) => Some((at >= *from) == *passing),
            (_, Answers::Unset | Answers::By(_)) => None,
        }
    }

    /// Lets a closure answer an endpoint's probes.
    pub fn set_answering(&mut self, url: &str, answer: impl FnMut(Probe) -> bool + Send + 'static) {
        self.set_answers(url, Answers::By(Box::new(answer)));
    }

    /// Asks endpoints over HTTP from now on, unless a test has set their answers. A driver calls this.
    pub fn ask_over_http(&mut self) {
        self.asks = true;
    }

    /// Takes the probes that wait for a real endpoint's answer.
    pub fn take_asked(&mut self) -> Vec<Asked> {
        std::mem::take(&mut self.asked)
    }

    /// Gives a waiting probe its answer, now.
    pub fn answered(&mut self, asked: &Asked, passing: bool) {
        self.count(asked.probe, passing);
    }

    fn set_answers(&mut self, url: &str, answers: Answers) {
        let number = self.endpoint(url);
        self.endpoints[number].1 = answers;
    }

    fn endpoint(&mut self, url: &str) -> usize {
        self.endpoints.iter().position(|(name, _)| name == url).unwrap_or_else(|| {
            self.endpoints.push((url.to_owned(), Answers::Unset));
            self.endpoints.len() - 1
        })
    }

    // --- Probes

    /// Plans the probes of a check that is new or has changed.
    fn watch(&mut self, number: usize) {
        let Some(state) = self.states[number].as_ref() else { return };
        let Monitors::Endpoint(Endpoint { url, interval, .. }) = &state.check.monitors else { return };
        let (url, interval, disabled) = (url.clone(), *interval, state.check.disabled);
        let endpoint = self.endpoint(&url);
        let state = self.states[number].as_mut().expect("it was there a line before");
        let watched = state.endpoint.replace(endpoint).is_some();
        if disabled {
            state.generation += 1;
            state.endpoint = None;
        } else if !watched {
            let generation = state.generation;
            for checker in 0..CHECKERS {
                let at = self.now + Duration::from_millis(self.rng.u64(..millis(interval)));
                self.probes.push(Reverse(Probe { at, checker, check: number, generation }));
            }
        }
    }

    fn happen(&mut self, probe: Probe) {
        let Some(state) = self.states[probe.check].as_ref() else { return };
        let Some(number) = state.endpoint.filter(|_| state.generation == probe.generation) else { return };
        let passing = match &mut self.endpoints[number].1 {
            Answers::Passing(passing) => *passing,
            Answers::From(from, passing) => (probe.at >= *from) == *passing,
            Answers::By(answer) => answer(probe),
            Answers::Unset if !self.asks => true,
            Answers::Unset => {
                let Monitors::Endpoint(Endpoint { url, address, .. }) = &state.check.monitors else { return };
                self.asked.push(Asked { url: url.clone(), address: *address, probe });
                return;
            }
        };
        self.count(probe, passing);
    }

    /// Counts a result, and plans the checker's next probe.
    fn count(&mut self, probe: Probe, passing: bool) {
        let Some(state) = self.states[probe.check].as_mut() else { return };
        let Monitors::Endpoint(Endpoint { interval, threshold, .. }) = &state.check.monitors else { return };
        if state.generation != probe.generation {
            return;
        }
        let checker = &mut state.checkers[probe.checker];
        checker.contrary = if checker.healthy == passing { 0 } else { checker.contrary + 1 };
        let changed = checker.contrary >= *threshold;
        if changed {
            *checker = Checker { healthy: passing, contrary: 0 };
        }
        // "Route 53 health checkers in different data centers don't coordinate": they drift by about 2 %.
        let interval = millis(*interval);
        let next = self.rng.u64(interval * 98 / 100..=interval * 102 / 100);
        self.probes.push(Reverse(Probe { at: self.now + Duration::from_millis(next), ..probe }));
        if changed {
            self.judge();
        }
    }

    /// Computes every verdict again, children first. If one changed, decides about the records.
    fn judge(&mut self) {
        let mut changed = false;
        for parents in [false, true] {
            for number in 0..self.states.len() {
                let Some(state) = self.states[number].as_ref() else { continue };
                if matches!(state.check.monitors, Monitors::Calculated { .. }) != parents {
                    continue;
                }
                let verdict = self.verdict(state) != state.check.inverted;
                if state.healthy != verdict {
                    let now = self.now;
                    let state = self.states[number].as_mut().expect("it was there a line before");
                    state.healthy = verdict;
                    state.verdicts.push((now, verdict));
                    changed = true;
                }
            }
        }
        if changed {
            self.decide();
        }
    }

    /// A check's status before inversion.
    fn verdict(&self, state: &State) -> bool {
        match &state.check.monitors {
            // "After you disable a health check, Route 53 considers the status of the health check to always be healthy."
            _ if state.check.disabled => true,
            Monitors::Endpoint(_) => {
                let healthy = state.checkers.iter().filter(|checker| checker.healthy).count();
                healthy * 100 > PERCENT * CHECKERS
            }
            Monitors::Metric => state.alarm_ok,
            Monitors::Calculated { children, threshold } => {
                children.iter().filter(|child| self.is_healthy(child)).count() >= *threshold
            }
        }
    }

    fn validate(&self, check: &Check) -> Result<(), &'static str> {
        check.validate()?;
        let Monitors::Calculated { children, .. } = &check.monitors else { return Ok(()) };
        for child in children {
            match &self.check(child).ok_or("a child health check does not exist")?.monitors {
                Monitors::Endpoint(_) | Monitors::Metric => {}
                Monitors::Calculated { .. } => {
                    return Err("a calculated health check cannot monitor a calculated health check");
                }
            }
        }
        Ok(())
    }

    fn state(&self, id: &str) -> Option<&State> {
        self.states[*self.ids.get(id)?].as_ref()
    }

    fn state_mut(&mut self, id: &str) -> &mut State {
        let number = *self.ids.get(id).expect("the check exists");
        self.states[number].as_mut().expect("the check exists")
    }
}

fn millis(interval: Duration) -> u64 {
    u64::try_from(interval.as_millis()).expect("an interval is short")
}
