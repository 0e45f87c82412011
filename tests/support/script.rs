//! What a stand-in lets happen to its calls: faults in a row, a fault that stays, a call that is held back.

use std::borrow::Borrow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::Notify;

/// The faults `F` of the calls that `K` names: an operation, or an operation and where it is called.
#[derive(Clone, Debug)]
pub struct Script<K, F> {
    next: BTreeMap<K, VecDeque<F>>,
    always: BTreeMap<K, F>,
    held: BTreeMap<K, VecDeque<Held>>,
}

/// A call that is held back.
#[derive(Clone, Debug, Default)]
pub struct Held {
    reached: Arc<Notify>,
    released: Arc<Notify>,
}

// === impl Script ===

impl<K, F> Default for Script<K, F> {
    fn default() -> Self {
        Self { next: BTreeMap::new(), always: BTreeMap::new(), held: BTreeMap::new() }
    }
}

impl<K: Ord, F: Clone> Script<K, F> {
    /// Lets this happen to the next call that has no fault yet.
    pub fn fail(&mut self, call: K, fault: F) {
        self.next.entry(call).or_default().push_back(fault);
    }

    /// Lets this happen to every call.
    pub fn fail_always(&mut self, call: K, fault: F) {
        self.always.insert(call, fault);
    }

    /// Lets nothing more happen.
    pub fn fail_never<Q: Ord + ?Sized>(&mut self, call: &Q)
    where
        K: Borrow<Q>,
    {
        self.always.remove(call);
        self.next.remove(call);
    }

    /// Holds the next call back that is not held back yet.
    pub fn hold(&mut self, call: K) -> Held {
        let held = Held::default();
        self.held.entry(call).or_default().push_back(held.clone());
        held
    }

    /// What happens to a call that has come.
    pub fn fault<Q: Ord + ?Sized>(&mut self, call: &Q) -> Option<F>
    where
        K: Borrow<Q>,
    {
        let next = self.next.get_mut(call).and_then(VecDeque::pop_front);
        next.or_else(|| self.always.get(call).cloned())
    }

    /// What holds a call back that has come.
    pub fn held<Q: Ord + ?Sized>(&mut self, call: &Q) -> Option<Held>
    where
        K: Borrow<Q>,
    {
        self.held.get_mut(call).and_then(VecDeque::pop_front)
    }
}

// === impl Held ===

impl Held {
    /// Waits until the call has come.
    pub async fn reached(&self) {
        self.reached.notified().await;
    }

    /// Lets it go on.
    pub fn release(&self) {
        self.released.notify_one();
    }

    /// Holds the call back until it is released.
    pub async fn pass(&self) {
        self.reached.notify_one();
        self.released.notified().await;
    }
}
