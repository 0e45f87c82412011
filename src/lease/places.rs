//! The places for the connections of one listener: at most so many, and a new caller always gets one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::select;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

/// How many connections of a listener wait for their request or for their answer. Each needs up to 19 KB.
const CONNECTIONS: u64 = 256;
/// How many streams of events a listener has in addition.
const STREAMS: u64 = 16;
/// With however few descriptors, so many connections remain, and so many streams.
const FEWEST: (u64, u64) = (8, 2);
/// How many listeners there are at most.
const LISTENERS: u64 = 2;
/// The descriptors that are left for everything else: calls to AWS, the command, files.
const OTHERS: u64 = 64;
/// How long a new caller has a place at least, so that its request can arrive.
const TURN: Duration = Duration::from_millis(50);

/// How many connections a listener has at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Most {
    connections: usize,
    streams: usize,
}

/// The places of a listener. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    taken: Mutex<Taken>,
    /// Notified when a place becomes free.
    left: Notify,
}

#[derive(Debug)]
struct Taken {
    most: Most,
    next: u64,
    /// By number, so that the oldest is the first.
    connections: BTreeMap<u64, Connection>,
    streams: BTreeMap<u64, AbortHandle>,
}

#[derive(Debug)]
struct Connection {
    task: AbortHandle,
    since: Instant,
}

/// The place of one connection. Dropped, it is free.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    places: Places,
}

// === impl Most ===

impl Most {
    /// As many as this process's limit of descriptors leaves room for.
    fn of_process() -> Self {
        Self::within(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    fn within(descriptors: u64) -> Self {
        let each = descriptors.saturating_sub(OTHERS) / LISTENERS;
        let streams = (each / 8).clamp(FEWEST.1, STREAMS);
        let connections = each.saturating_sub(streams).clamp(FEWEST.0, CONNECTIONS);
        let count = |count| usize::try_from(count).expect("it is below a maximum");
        Self { connections: count(connections), streams: count(streams) }
    }
}

// === impl Places ===

impl Places {
    pub(super) fn new() -> Self {
        Self::with(Most::of_process())
    }

    fn with(most: Most) -> Self {
        let taken = Taken { most, next: 0, connections: BTreeMap::new(), streams: BTreeMap::new() };
        Self(Arc::new(Shared { taken: Mutex::new(taken), left: Notify::new() }))
    }

    /// Waits until there is a place for a new caller: a free one, or one whose connection has had its turn.
    pub(super) async fn vacant(&self) {
        loop {
            let Some(since) = self.taken().full_since() else { return };
            select! {
                () = sleep_until(since + TURN) => return,
                () = self.0.left.notified() => {}
            }
        }
    }

    /// Gives a place to the connection that `start` serves in a task. If all places are taken, the oldest connection
    /// is ended. Returns whether one was.
    ///
    /// An answer is written at once when its request has arrived. So the oldest connection is one whose caller does
    /// not send its request, or does not read its answer.
    pub(super) fn admit(&self, start: impl FnOnce(Place) -> AbortHandle) -> bool {
        let mut taken = self.taken();
        let number = taken.next;
        taken.next += 1;
        let is_full = taken.full_since().is_some();
        let oldest = if is_full { taken.connections.pop_first() } else { None };
        // Under the lock: the connection may end at once, and then looks for its entry.
        let task = start(Place { number, places: self.clone() });
        taken.connections.insert(number, Connection { task, since: Instant::now() });
        drop(taken);
        if let Some((_, oldest)) = &oldest {
            oldest.task.abort();
        }
        oldest.is_some()
    }

    /// Ends a quarter of the connections, the oldest, and admits fewer from now on: the descriptors are used up, and
    /// calls to AWS need some as well. Returns how many were ended.
    pub(super) fn shed(&self) -> usize {
        let mut taken = self.taken();
        let fewest = Most::within(0);
        let keep = (taken.connections.len() * 3 / 4).max(fewest.connections);
        taken.most.connections = taken.most.connections.min(keep);
        let mut ended = Vec::new();
        while taken.connections.len() > taken.most.connections {
            ended.extend(taken.connections.pop_first().map(|(_, oldest)| oldest.task));
        }
        if ended.is_empty() && taken.streams.len() > fewest.streams {
            ended.extend(taken.streams.pop_first().map(|(_, oldest)| oldest));
        }
        drop(taken);
        for task in &ended {
            task.abort();
        }
        ended.len()
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().expect("nothing panics while it holds the lock")
    }
}

// === impl Taken ===

impl Taken {
    /// Since when the oldest connection has its place, if all places are taken.
    fn full_since(&self) -> Option<Instant> {
        let oldest =
            self.connections.first_key_value().filter(|_| self.connections.len() >= self.most.connections);
        oldest.map(|(_, oldest)| oldest.since)
    }
}

// === impl Place ===

impl Place {
    /// Makes the connection a stream of events. It no longer counts among the connections; of too many streams, the
    /// oldest is ended. Returns whether one was.
    pub(super) fn becomes_stream(&self) -> bool {
        let mut taken = self.places.taken();
        // A connection that was ended meanwhile has no entry.
        let Some(connection) = taken.connections.remove(&self.number) else { return false };
        let is_full = taken.streams.len() >= taken.most.streams;
        let oldest = if is_full { taken.streams.pop_first() } else { None };
        taken.streams.insert(self.number, connection.task);
        drop(taken);
        self.places.0.left.notify_one();
        if let Some((_, oldest)) = &oldest {
            oldest.abort();
        }
        oldest.is_some()
    }

    pub(super) fn is_stream(&self) -> bool {
        self.places.taken().streams.contains_key(&self.number)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.connections.remove(&self.number);
        taken.streams.remove(&self.number);
        drop(taken);
        self.places.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::{JoinHandle, spawn, yield_now};

    use super::*;

    #[test]
    fn descriptors_are_left_for_calls_to_aws() {
        for (descriptors, connections, streams) in
            [(u64::MAX, 256, 16), (1024, 256, 16), (256, 84, 12), (128, 28, 4), (64, 8, 2), (0, 8, 2)]
        {
            let most = Most { connections, streams };
            assert_eq!(Most::within(descriptors), most, "{descriptors}");
            let all = LISTENERS * (connections + streams) as u64;
            assert!(descriptors <= 64 || all + OTHERS <= descriptors, "{descriptors}");
        }
    }

    /// Admits a connection that never ends by itself, and is a stream if wanted.
    fn admit(places: &Places, is_stream: bool) -> (JoinHandle<()>, bool) {
        let mut task = None;
        let ended = places.admit(|place| {
            let running = spawn(async move {
                if is_stream {
                    place.becomes_stream();
                }
                pending::<()>().await;
                drop(place);
            });
            let handle = running.abort_handle();
            task = Some(running);
            handle
        });
        (task.expect("it was started"), ended)
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_connection_gives_way_after_its_turn_and_a_stream_only_to_a_stream() {
        let most = Most { connections: 20, streams: 4 };
        let places = Places::with(most);
        let first_stream = admit(&places, true).0;
        yield_now().await;
        let mut connections = Vec::new();
        for _ in 0..most.connections {
            places.vacant().await;
            let (task, ended) = admit(&places, false);
            assert!(!ended);
            connections.push(task);
        }
        let before = Instant::now();
        places.vacant().await;
        assert!(before.elapsed() >= TURN, "the oldest has its turn");
        assert!(admit(&places, false).1);
        let mut connections = connections.into_iter();
        assert!(connections.next().expect("it is the oldest").await.unwrap_err().is_cancelled());
        assert!(!first_stream.is_finished() && !connections.any(|task| task.is_finished()));
        for _ in 1..most.streams {
            admit(&places, true);
            yield_now().await;
        }
        assert!(!first_stream.is_finished());
        admit(&places, true);
        assert!(first_stream.await.unwrap_err().is_cancelled());
    }

    #[tokio::test]
    async fn used_up_descriptors_leave_fewer_places() {
        let places = Places::with(Most { connections: 100, streams: 4 });
        let tasks: Vec<_> = (0..100).map(|_| admit(&places, false).0).collect();
        assert_eq!(places.shed(), 25);
        for (number, task) in tasks.into_iter().enumerate().take(25) {
            assert!(task.await.unwrap_err().is_cancelled(), "{number}");
        }
        assert!(admit(&places, false).1, "the places that were given up stay so");
        while places.shed() > 0 {}
        assert_eq!(places.taken().connections.len(), Most::within(0).connections);
    }
}
