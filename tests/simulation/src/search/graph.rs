//! The states that were found, and the steps between them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::moves::Step;
use super::world::World;

/// The number of a state, in the order in which they were found.
pub(super) type Node = u32;

/// All states, without what they are: only how each was found, and what follows it if nothing goes wrong.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<u64, Node>,
    /// From which state each was found, and as which of its successors.
    from: Vec<(Node, u16)>,
    settled: Vec<bool>,
    /// Where the steps of each state begin that are no faults: the last one is their number.
    begins: Vec<usize>,
    to: Vec<Node>,
}

impl Graph {
    /// The state's number, and whether it is a new one, which was found from another as its `nth`
    /// successor.
    pub(super) fn find(&mut self, world: &World, from: Node, nth: usize) -> (Node, bool) {
        let mut hasher = DefaultHasher::new();
        world.hash(&mut hasher);
        let number = self.from.len() as Node;
        match self.nodes.entry(hasher.finish()) {
            Entry::Occupied(known) => (*known.get(), false),
            Entry::Vacant(place) => {
                place.insert(number);
                self.from.push((from, nth as u16));
                self.settled.push(world.is_settled());
                (number, true)
            }
        }
    }

    /// The steps of the next state, in the order in which they were found.
    pub(super) fn leads(&mut self, to: impl Iterator<Item = Node>) {
        self.begins.push(self.to.len());
        self.to.extend(to);
    }

    pub(super) fn len(&self) -> usize {
        self.from.len()
    }

    /// The first state from which no settled one can be reached if nothing goes wrong any more.
    pub(super) fn stuck(&self) -> Option<Node> {
        let mut good = self.settled.clone();
        let mut changed = true;
        while std::mem::take(&mut changed) {
            for node in (0..good.len()).rev() {
                let end = self.begins.get(node + 1).copied().unwrap_or(self.to.len());
                let next = &self.to[self.begins[node]..end];
                if !good[node] && next.iter().any(|it| good[*it as usize]) {
                    good[node] = true;
                    changed = true;
                }
            }
        }
        good.iter().position(|it| !it).map(|it| it as Node)
    }

    /// The steps from `first`, which is state 0, to a state; and that.
    pub(super) fn way(&self, first: World, mut to: Node) -> (Vec<Step>, World) {
        let mut ways = Vec::new();
        while to != 0 {
            let (from, nth) = self.from[to as usize];
            ways.push(nth);
            to = from;
        }
        let mut world = first;
        let mut steps = Vec::new();
        for nth in ways.into_iter().rev() {
            let (step, next) = world.successors().swap_remove(usize::from(nth));
            steps.push(step);
            world = next;
        }
        (steps, world)
    }
}
