//! The graph of all states, and whether a state can always be reached once faults have ended.

use std::collections::{HashMap, VecDeque};

use stateright::Model;

use super::site::Site;
use super::world::{Action, World};

/// Every state that can be reached.
pub struct Graph {
    states: Vec<World>,
    /// The states before each one by steps that are no faults.
    before: Vec<Vec<usize>>,
    /// The first way to each state.
    way: Vec<Option<(usize, Action)>>,
}

impl Graph {
    pub fn of(site: &Site) -> Self {
        let mut states = site.init_states();
        let mut found: HashMap<World, usize> = states.iter().copied().zip(0..).collect();
        let mut graph = Self { before: vec![Vec::new()], way: vec![None], states: Vec::new() };
        let mut at = 0;
        let mut actions = Vec::new();
        while at < states.len() {
            let world = states[at];
            site.actions(&world, &mut actions);
            for action in actions.drain(..) {
                let Some(next) = site.next_state(&world, action) else { continue };
                let to = *found.entry(next).or_insert(states.len());
                if to == states.len() {
                    states.push(next);
                    graph.before.push(Vec::new());
                    graph.way.push(Some((at, action)));
                }
                if !Site::is_fault(&world, action) {
                    graph.before[to].push(at);
                }
            }
            at += 1;
        }
        graph.states = states;
        graph
    }

    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// The shortest way to a state that breaks a promise.
    pub fn broken(&self) -> Option<(&'static str, Vec<Action>)> {
        let at = self.states.iter().position(|world| world.broken.is_some())?;
        Some((self.states[at].broken?, self.way(at)))
    }

    /// The shortest way to a state of this kind from which no state with this goal can be reached without a fault.
    pub fn stuck(
        &self,
        is_one: impl Fn(&World) -> bool,
        goal: impl Fn(&World) -> bool,
    ) -> Option<Vec<Action>> {
        let mut reaches: Vec<bool> = self.states.iter().map(goal).collect();
        let mut next: VecDeque<_> = (0..reaches.len()).filter(|at| reaches[*at]).collect();
        while let Some(at) = next.pop_front() {
            for before in &self.before[at] {
                if !reaches[*before] {
                    reaches[*before] = true;
                    next.push_back(*before);
                }
            }
        }
        (0..reaches.len()).find(|at| !reaches[*at] && is_one(&self.states[*at])).map(|at| self.way(at))
    }

    fn way(&self, mut at: usize) -> Vec<Action> {
        let mut way = Vec::new();
        while let Some((before, action)) = self.way[at] {
            way.push(action);
            at = before;
        }
        way.reverse();
        way
    }
}
