//! A look at every latch: what is seen, and the lock if one is due.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use futures_util::future::{join, join_all};
use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::FailoverLatch;
use super::config::{HOLDS, KEYS, Latch};
use super::decide::{self, Next, Plan, Put, Sets};
use super::dns::Transport;
use super::outcome::State;
use super::s3::Shown;
use super::seen::{Clock, Object, Verdict, Verdicts, shown};

/// How long after contradictory answers the name servers are asked once more.
const AGAIN: Duration = Duration::from_secs(1);
/// For how long an answer over TCP shows that a lock could be confirmed.
const OVER_TCP: Duration = Duration::from_mins(1);
/// For how many latches objects are written at a time.
const WRITES: usize = 32;

/// What a look has found out about one latch so far.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    /// For how long there had been no clear answer of the name servers before.
    split_for: Duration,
    /// When the name servers last said over TCP what they had said over UDP; `None` if they did not when last asked.
    pub(super) over_tcp: Option<Instant>,
    /// The holds, by bucket.
    holds: Vec<Object>,
    /// The objects, by bucket.
    keys: Vec<Object>,
    /// What the name servers said, over UDP and, where they were asked, over TCP.
    pub(super) said: Option<Verdicts>,
    /// Whether a lock is due, as the name servers said over UDP and did not take back over TCP.
    pub(super) is_due: bool,
    /// The state, once it is decided.
    pub(super) state: Option<State>,
    /// Whether this look set the lock.
    pub(super) sets: Sets,
    /// Whether this look wrote an object, or saw that there is one meanwhile.
    /// The buckets in which this look has seen its object after a write.
    written: Vec<usize>,
    /// What was under way last, for a look that is cut off.
    pub(super) stage: &'static str,
}

/// A look that goes on.
struct Look<'a> {
    system: &'a FailoverLatch,
    start: SystemTime,
    /// The buckets that have not answered in this look, each with the cause: they are not asked again.
    silent: Vec<OnceLock<String>>,
}

// === impl Sight ===

impl Sight {
    /// Nothing was seen yet.
    pub(super) fn new(split_for: Duration, over_tcp: Option<Instant>) -> Self {
        let (holds, keys) = (Vec::new(), Vec::new());
        Self {
            split_for,
            over_tcp,
            holds,
            keys,
            said: None,
            is_due: false,
            state: None,
            sets: Sets::No,
            written: Vec::new(),
            stage: "it began",
        }
    }

    /// Whether there is an object in any bucket; `None` if not every bucket showed it.
    pub(super) fn is_standing(&self) -> Option<bool> {
        if !self.written.is_empty() || self.keys.iter().any(|key| key.stored().is_some()) {
            return Some(true);
        }
        self.was_open().then_some(false)
    }

    /// Whether a failover would be locked, as far as UDP and the buckets that answer show it, and TCP has not shown it of late.
    fn is_untried(&self) -> bool {
        match &self.state {
            Some(State::Armed) => !self.is_proven(),
            Some(State::Failed(_)) => !self.is_proven() && self.said.is_some_and(|said| said.are_clear()),
            _ => false,
        }
    }

    /// Whether the name servers have said over TCP, within a minute, what they said over UDP.
    pub(super) fn is_proven(&self) -> bool {
        self.over_tcp.is_some_and(|at| at.elapsed() < OVER_TCP)
    }

    /// Whether there was no clear answer before, and UDP alone gives one now. A look that has failed does not go on.
    fn is_unclear_over_tcp(&self) -> bool {
        let has_failed = matches!(self.state, Some(State::Failed(_)));
        let is_clear = self.said.is_some_and(|said| said.are_clear());
        !self.split_for.is_zero() && !self.is_proven() && is_clear && !has_failed
    }

    /// Whether every bucket showed that there was no object, at the start of the look.
    fn was_open(&self) -> bool {
        !self.keys.is_empty() && self.keys.iter().all(|key| *key == Object::Absent)
    }

    /// Takes in which buckets have an object, of those that answered.
    pub(super) fn note(&self, had: &mut [bool]) {
        for (bucket, (had, key)) in had.iter_mut().zip(&self.keys).enumerate() {
            match key {
                Object::Present(_) => *had = true,
                Object::Absent => *had = self.written.contains(&bucket),
                Object::Invisible(_) | Object::Silent(_) => {}
            }
        }
    }

    /// Whether there was no object any more at the start of the look: no bucket showed one, and each that `had` one showed that
    /// it is gone.
    pub(super) fn is_gone(&self, had: &[bool]) -> bool {
        let gone = |(key, had): (&Object, &bool)| !had || *key == Object::Absent;
        // Under a hold, and where a look is cut off, they are not read.
        let were_read = self.keys.len() == had.len();
        let shown = self.keys.iter().any(|key| key.stored().is_some());
        self.was_open() || (were_read && !shown && had.contains(&true) && self.keys.iter().zip(had).all(gone))
    }

    /// Whether any bucket showed anything.
    pub(super) fn has_seen(&self) -> bool {
        let shows = |object: &Object| matches!(object, Object::Absent | Object::Present(_));
        self.keys.iter().any(shows) || self.state == Some(State::Holding)
    }

    /// The buckets that have the hold of a release that was broken off, each with the hold's age.
    pub(super) fn left_behind(&self) -> impl Iterator<Item = (usize, Duration)> {
        let holds = self.holds.iter().enumerate().filter(|(_, hold)| hold.is_stale_hold());
        holds.filter_map(|(bucket, hold)| Some((bucket, hold.stored()?.age)))
    }

    /// The state after the first answers; `None` if a lock is due.
    fn first(&self) -> Option<State> {
        match decide::first(&self.holds, &self.keys, self.said?, self.split_for) {
            Next::End(state) => Some(state),
            Next::Confirm => None,
        }
    }

    /// Takes in what the name servers say over UDP.
    fn hear(&mut self, said: Verdicts) {
        (self.said, self.is_due) = (Some(said), decide::is_due(said));
        self.state = self.first();
    }

    /// Takes in what they say over TCP, after UDP.
    fn hear_over_tcp(&mut self, over_tcp: Verdicts) -> Verdicts {
        let said = self.said.expect("it was asked over UDP").and(over_tcp);
        self.said = Some(said);
        self.over_tcp = said.are_clear().then(Instant::now);
        said
    }
}

/// Looks at every latch. `sights` has one for each latch, in their order, and is filled as the look goes on.
pub(super) async fn look(system: &FailoverLatch, sights: &mut [Sight]) {
    let silent = vec![OnceLock::new(); system.config.buckets.len()];
    Look { system, start: SystemTime::now(), silent }.run(sights).await;
}

// === impl Look ===

impl<'a> Look<'a> {
    async fn run(&self, sights: &mut [Sight]) {
        stage(sights, "the holds were read");
        let all: Vec<usize> = (0..sights.len()).collect();
        if !self.read(HOLDS, &all, sights, |sight| &mut sight.holds).await {
            return;
        }
        for sight in &mut *sights {
            sight.state = decide::held(&sight.holds);
        }
        stage(sights, "the objects were read");
        let open = undecided(sights);
        if open.is_empty() || !self.read(KEYS, &open, sights, |sight| &mut sight.keys).await {
            return;
        }
        stage(sights, "the name servers were asked over UDP");
        let due = self.ask(&open, sights).await;
        let is_split = |at: &usize| sights[*at].said.is_some_and(|said| said.is(Verdict::Split));
        let split: Vec<_> = open.iter().copied().filter(is_split).collect();
        // A lock that is due at once waits for no latch whose servers contradict each other, and for no trial.
        self.lock(due, sights).await;
        if !split.is_empty() {
            sleep(AGAIN).await;
            let due = self.ask(&split, sights).await;
            self.lock(due, sights).await;
        }
        // Only there the primary's own check decides something.
        let out: Vec<_> =
            open.into_iter().filter(|at| sights[*at].state == Some(State::StandbyUnhealthy)).collect();
        let primaries = self.system.name_servers.primaries(&self.named(&out)).await;
        for (at, primary) in out.into_iter().zip(primaries) {
            let sight = &mut sights[at];
            sight.said = sight.said.map(|said| Verdicts { primary, ..said });
            sight.state = sight.first();
        }
        // What is not armed may not have been asked over TCP, and ends no time without a clear answer.
        let untried =
            (0..sights.len()).filter(|at| sights[*at].state.is_none() || sights[*at].is_unclear_over_tcp());
        self.try_tcp(untried.collect(), sights).await;
    }

    /// Asks once more over TCP whether these locks are due, and sets those that are.
    async fn lock(&self, due: Vec<usize>, sights: &mut [Sight]) {
        if due.is_empty() {
            return;
        }
        stage(sights, "the name servers were asked over TCP, and the holds were read again");
        let latches = self.named(&due);
        let over_tcp = self.system.name_servers.deciding(&latches, Transport::Tcp);
        let holds = self.read(HOLDS, &due, sights, |sight| &mut sight.holds);
        let (over_tcp, goes_on) = join(over_tcp, holds).await;
        if !goes_on {
            return;
        }
        for (at, over_tcp) in due.iter().zip(over_tcp) {
            let sight = &mut sights[*at];
            let said = sight.hear_over_tcp(over_tcp);
            sight.is_due = !decide::takes_back(said);
        }
        stage(sights, "the objects were written");
        let mut plans = Vec::new();
        for at in due {
            let sight = &mut sights[at];
            let said = sight.said.expect("it was asked");
            match decide::confirmed(&sight.holds, &sight.keys, said, sight.split_for) {
                Plan::End(state) => sight.state = Some(state),
                Plan::Put(_) if self.system.config.dry_run => sight.state = Some(State::WouldLock),
                Plan::Put(buckets) => {
                    // Until they are answered, also if the look is cut off.
                    sight.sets = if decide::heals(&sight.keys) { Sets::No } else { Sets::Perhaps };
                    plans.push((at, buckets));
                }
            }
        }
        self.write(plans, sights).await;
    }

    /// Asks over TCP where a failover would be locked, once a minute: a lock needs these answers, and without them no latch
    /// is armed.
    async fn try_tcp(&self, untried: Vec<usize>, sights: &mut [Sight]) {
        if untried.is_empty() {
            return;
        }
        stage(sights, "the name servers were tried over TCP");
        let said = self.system.name_servers.deciding(&self.named(&untried), Transport::Tcp).await;
        for (at, said) in untried.into_iter().zip(said) {
            let sight = &mut sights[at];
            sight.hear_over_tcp(said);
            sight.state = sight.first();
        }
    }

    /// Reads one key of each of these latches from every bucket. Returns whether the look goes on: a clock that is off
    /// ends it.
    async fn read(
        &self,
        prefix: &str,
        latches: &[usize],
        sights: &mut [Sight],
        place: impl Fn(&mut Sight) -> &mut Vec<Object>,
    ) -> bool {
        let names: Vec<_> = latches.iter().map(|at| self.system.config.latches[*at].name.as_str()).collect();
        let s3 = &self.system.s3;
        let names = names.as_slice();
        let read = self.silent.iter().enumerate().map(async |(bucket, silent)| match silent.get() {
            Some(cause) => {
                Shown { objects: vec![Object::Silent(cause.clone()); names.len()], clocks: Vec::new() }
            }
            None => s3.read(bucket, prefix, names).await,
        });
        let read = join_all(read).await;
        for (silent, shown) in self.silent.iter().zip(&read) {
            for object in &shown.objects {
                if let Object::Silent(cause) = object {
                    let _ = silent.set(cause.clone());
                }
            }
        }
        for (index, at) in latches.iter().enumerate() {
            *place(&mut sights[*at]) = read.iter().map(|bucket| bucket.objects[index].clone()).collect();
        }
        let mut clocks = read.iter().flat_map(|bucket| &bucket.clocks);
        let Some(off) = clocks.find(|clock| clock.is_off()) else { return true };
        let cause = off_by(*off);
        for at in latches {
            sights[*at].state = Some(State::Failed(cause.clone()));
        }
        false
    }

    /// Asks the name servers over UDP about the two sentinels of these latches that decide. Returns those for which a lock
    /// is due.
    async fn ask(&self, latches: &[usize], sights: &mut [Sight]) -> Vec<usize> {
        let said = self.system.name_servers.deciding(&self.named(latches), Transport::Udp).await;
        let mut due = Vec::new();
        for (at, said) in latches.iter().copied().zip(said) {
            let sight = &mut sights[at];
            sight.hear(said);
            if sight.state.is_none() {
                due.push(at);
            } else if sight.is_untried() {
                // Until it is tried its state is not known.
                sight.state = None;
            }
        }
        due
    }

    fn named(&self, latches: &[usize]) -> Vec<&'a Latch> {
        latches.iter().map(|at| &self.system.config.latches[*at]).collect()
    }

    /// Writes the objects, many at a time; each latch is decided as soon as its objects are written.
    async fn write(&self, plans: Vec<(usize, Vec<usize>)>, sights: &mut [Sight]) {
        let latches = &self.system.config.latches;
        let writes = plans.into_iter().map(|(at, buckets)| {
            let names: Vec<_> =
                buckets.iter().map(|bucket| &self.system.config.buckets[*bucket].name).collect();
            info!(latch = latches[at].name, buckets = ?names, "decided: lock");
            let first = sights[at].keys.iter().position(|key| key.stored().is_some());
            async move {
                let body = self.body(&latches[at], first).await;
                let puts = buckets.into_iter().map(async |bucket| {
                    let put = match self.silent[bucket].get() {
                        Some(cause) => Err(cause.clone()),
                        None => self.system.s3.create(bucket, &latches[at].key(), &body, self.start).await,
                    };
                    let put = put.unwrap_or_else(|cause| {
                        let _ = self.silent[bucket].set(cause.clone());
                        Put::Failed(cause)
                    });
                    (bucket, put)
                });
                (at, join_all(puts).await)
            }
        });
        let writes: Vec<_> = writes.collect();
        let mut writes = stream::iter(writes).buffer_unordered(WRITES);
        while let Some((at, puts)) = writes.next().await {
            let sight = &mut sights[at];
            let (state, sets) = decide::after(&sight.holds, &sight.keys, &puts);
            let written = puts.iter().filter(|(_, put)| matches!(put, Put::Created | Put::AlreadyThere));
            sight.written = written.map(|(bucket, _)| *bucket).collect();
            (sight.state, sight.sets) = (Some(state), sets);
            for (bucket, put) in puts {
                if let Put::Failed(cause) = put {
                    let bucket = &self.system.config.buckets[bucket];
                    warn!(latch = latches[at].name, %bucket, cause, "the object was not written");
                }
            }
        }
    }

    /// The body of a latch's object: the one that bucket `first` has, with the time at which it was copied; or a new one.
    async fn body(&self, latch: &Latch, first: Option<usize>) -> String {
        let now = shown(self.start);
        if let Some(bucket) = first {
            let first = match self.system.s3.body(bucket, &latch.key()).await {
                Ok(body) => serde_json::from_str(&body).unwrap_or(json!({ "body": body })),
                Err(failure) => json!({ "unread": failure.to_string() }),
            };
            let mut body = match first {
                Value::Object(body) => Value::Object(body),
                other => json!({ "body": other }),
            };
            body["healedAt"] = json!(now);
            return body.to_string();
        }
        // S3 names an object by its content: without the id, a deletion that is meant for this one could delete another.
        json!({
            "id": format!("{:016x}", fastrand::u64(..)),
            "latch": latch.name,
            "lockedAt": now,
            "by": self.system.name,
            "reason": "Route 53 answers the standby, which is healthy",
        })
        .to_string()
    }
}

/// Keeps what comes next for the latches whose state is not decided.
fn stage(sights: &mut [Sight], stage: &'static str) {
    for sight in sights.iter_mut().filter(|sight| sight.state.is_none()) {
        sight.stage = stage;
    }
}

/// The latches whose state is not decided.
fn undecided(sights: &[Sight]) -> Vec<usize> {
    (0..sights.len()).filter(|at| sights[*at].state.is_none()).collect()
}

fn off_by(clock: Clock) -> String {
    format!(
        "the watcher's clock is off: S3 says {}, this clock said {} to {}; correct the clock, for example with chrony",
        shown(clock.date),
        shown(clock.sent),
        shown(clock.received)
    )
}
